"""How the demo shows things: a few colours where there is a terminal, and columns that stand under each other."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import Final

_CODES: Final = {"red": 31, "green": 32, "yellow": 33, "bold": 1, "dim": 2}


def paint(text: str, colour: str) -> str:
    """`text` in a colour, if anybody can see it (https://no-color.org)."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"


def one_line(text: str, width: int) -> str:
    """Printable, on one line, at most `width` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= width else f"{line[: max(1, width - 2)].rstrip()} …"


def width() -> int:
    """Of the terminal; wide where there is none, because a file can be scrolled."""
    return shutil.get_terminal_size((150, 50)).columns if sys.stdout.isatty() else 150


def grid(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Aligned columns; those of numbers stand to the right, what is unknown is a dash."""
    cells = [["-" if value is None else one_line(str(value), 60) for value in row] for row in rows]
    right = [all(isinstance(row[at], (int, float)) or row[at] is None for row in rows) for at in range(len(headings))]
    widths = [max(len(line[at]) for line in [list(headings), *cells]) for at in range(len(headings))]
    for number, line in enumerate([list(headings), *cells]):
        text = "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right, strict=True)).rstrip()
        print(f"  {paint(text, 'bold') if number == 0 else text}")

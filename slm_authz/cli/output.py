"""How the command line shows things: aligned tables for people, stable JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

_BOLD, _RESET = "\x1b[1m", "\x1b[0m"
_CODES = {"red": "\x1b[31m", "green": "\x1b[32m", "yellow": "\x1b[33m", "dim": "\x1b[2m", "bold": _BOLD}


def is_terminal(stream: TextIO | None) -> bool:
    """Whether colour and progress make sense there; None is a closed stream. https://no-color.org: NO_COLOR counts where it is not empty."""
    import os

    return stream is not None and stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """`text` in a colour where `stream` (default: stdout) is a terminal; else as it is."""
    if not is_terminal(stream or sys.stdout):
        return text
    return f"{_CODES[colour]}{text}{_RESET}"


def cell(value: object) -> str:
    """One value as people read it; control characters are escaped, so that no value can move the cursor."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        text = ",".join(f"{key}={item}" for key, item in value.items()) or "-"
    elif isinstance(value, (list, tuple)):
        text = ",".join(map(str, value)) or "-"
    else:
        text = str(value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], stream: TextIO | None = None) -> None:
    """Print aligned columns; numbers stand to the right."""
    out = stream or sys.stdout
    cells = [[cell(value) for value in row] for row in rows]
    right = [bool(rows) and all(isinstance(row[i], int) or row[i] is None for row in rows) for i in range(len(headings))]
    widths = [max(len(line[i]) for line in [list(headings), *cells]) for i in range(len(headings))]

    def lay(line: Sequence[str]) -> str:
        parts = (text.rjust(w) if r else text.ljust(w) for text, w, r in zip(line, widths, right, strict=True))
        return "  ".join(parts).rstrip()

    print(paint(lay([h.upper() for h in headings]), "bold", out), file=out)
    for line in cells:
        print(lay(line), file=out)


def json_line(value: object, stream: TextIO | None = None) -> None:
    """Print one JSON document on one line."""
    import msgspec

    print(msgspec.json.encode(value).decode(), file=stream or sys.stdout)

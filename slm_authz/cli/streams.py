"""The standard streams of a command, and what goes wrong with them. Enters: sys.stdout and sys.stderr. Leaves: the same, guarded.

Standard output: a failure to write is `Unwritten`, so that it is told from the failures of files and sockets. Standard error: no API key
passes, whoever repeats it (argparse does, and so may a log line), and nobody fails because nobody listens. Forbidden: heavy imports.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, Final, TextIO, cast

_KEY: Final = re.compile(r"slm_(?:live|test)_[0-9A-Za-z]{12}_\w+")
"""A key, or as much of one as is no longer only its id."""


class Unwritten(Exception):
    """Standard output does not take what a command prints. reader_gone: it is a pipe that nobody reads any more (`| head`)."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"standard output cannot be written: {(cause.strerror or str(cause)).lower()}")
        self.reader_gone = isinstance(cause, BrokenPipeError)


class _Guard:
    """What both streams have in common: anything but writing is the stream's own."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _silence(self) -> None:
        """What is still buffered goes nowhere: Python flushes at exit, and must not complain then."""
        with suppress(OSError, ValueError, AttributeError):  # a stream of a test has no descriptor
            descriptor = self.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


class _Out(_Guard):
    def write(self, text: str) -> int:
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        self._try("flush")

    def _try(self, what: str, *words: str) -> None:
        try:
            getattr(self._stream, what)(*words)
        except OSError as error:
            self._silence()
            raise Unwritten(error) from error


class _Err(_Guard):
    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def write(self, text: str) -> int:
        self._try("write", masked(text))
        return len(text)

    def flush(self) -> None:
        self._try("flush")

    def _try(self, what: str, *words: str) -> None:
        if self._stream is not None:  # closed by whoever started us; `print` would take standard output instead
            try:
                getattr(self._stream, what)(*words)
            except OSError:
                self._silence()


def masked(text: str) -> str:
    """Without any API key: a secret is printed once, at its creation, and never again."""
    return _KEY.sub("slm_…", text)


@contextmanager
def guarded() -> Iterator[None]:
    """Standard output raises Unwritten (None, where it is closed, stays None); standard error says no key and never fails."""
    out = cast("TextIO", _Out(sys.stdout)) if sys.stdout is not None else None
    with redirect_stdout(out), redirect_stderr(cast("TextIO", _Err(sys.stderr))):
        yield

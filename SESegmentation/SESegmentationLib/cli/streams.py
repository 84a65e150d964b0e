"""The output streams of the command: whatever they are, printing to them never ends a run."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

from ..text import printable


class _Stream(io.FileIO):
    """A stream that keeps its first failure to itself and drops what comes after it."""

    failure: OSError | None = None

    def write(self, data: bytes) -> int | None:
        if self.failure is None:
            try:
                return super().write(data)
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes


def own_streams(quiet: bool = True) -> None:
    """Make standard output and standard error fit for any text, and for a reader that goes away.

    What an encoding does not have is written as an escape. For the whole process, once, before anything is opened.

    Args:
        quiet: keep what libraries in C and C++ print to the error stream off it: exceptions say it better.
    """
    for number in (0, 1, 2):  # one that is closed would be taken by the next file that is opened
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    errors = os.dup(2)
    if quiet:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
    sys.stdout = _text(1, sys.stdout)
    sys.stderr = _text(errors, sys.stderr)


def say(text: str) -> None:
    """Print one line on stdout at once."""
    print(printable(text), flush=True)


def warn(text: str) -> None:
    """Print one line on stderr."""
    print(printable(" ".join(text.split())), file=sys.stderr, flush=True)


def printing_failure() -> OSError | None:
    """Why what was printed on standard output was lost; None where it was not, or nobody wanted to read on."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        return error if isinstance(error, OSError) and not isinstance(error, BrokenPipeError) else None
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    failure = getattr(raw, "failure", None)
    return None if isinstance(failure, BrokenPipeError) else failure


def _text(number: int, given: TextIO | None) -> TextIO:
    encoding = getattr(given, "encoding", None) or "utf-8"
    if os.name == "nt" and os.isatty(number):  # a console of Windows takes no bytes
        given.reconfigure(errors="backslashreplace")
        return given
    line_buffering = os.isatty(number) or number != 1
    raw = io.BufferedWriter(_Stream(number, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding, "backslashreplace", line_buffering=line_buffering)

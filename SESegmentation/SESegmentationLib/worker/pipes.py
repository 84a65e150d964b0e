"""The pipes of a process that talks to its parent in frames."""

from __future__ import annotations

import contextlib
import os
import sys
from io import FileIO


def take_pipes() -> tuple[FileIO, FileIO]:
    """Standard input and output, unbuffered; nothing else reads from the one or prints to the other any more.

    Whatever libraries print to standard output goes to standard error instead.
    """
    incoming, outgoing = os.dup(0), os.dup(1)
    if sys.platform == "win32":
        import msvcrt

        for descriptor in (incoming, outgoing):
            msvcrt.setmode(descriptor, os.O_BINARY)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    with contextlib.suppress(ValueError):
        sys.stdout.flush()
    sys.stdout = sys.stderr
    return open(incoming, "rb", buffering=0), open(outgoing, "wb", buffering=0)

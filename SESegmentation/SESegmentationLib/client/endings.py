"""Why a worker ended that should not have, in words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import OutOfMemoryError, SegmentationError, WorkerError
from ..worker.failures import MEMORY_REMEDY, import_failure
from ..worker.messages import EXIT_MEMORY

AGAIN = "Segment again; if it fails again, report it with the log."
_IMPORT_ERROR = re.compile(r"\b(?:ModuleNotFoundError|ImportError): (.+)")
#: what Python, C++ and Windows say
_MEMORY = re.compile(r"bad_alloc|out of memory|\bMemoryError\b|0xc0000017", re.IGNORECASE)
#: how faulthandler begins its report of a crash, and of a process that did nothing for too long
_CRASH = re.compile(r"^(?:Fatal Python error|Windows fatal exception): (.+)", re.MULTILINE)
_STANDSTILL = re.compile(r"^Timeout \(", re.MULTILINE)
#: how the launcher reports any end that is not orderly; it says nothing of the cause
_LAUNCHER = "exit abnormally"


@dataclass(frozen=True)
class Ending:
    """A worker's end.

    Attributes:
        code: exit code; None if the process was never started. A launcher between says 1 instead of a signal.
        error: what is known beforehand, for example what it sent that could not be read.
        greeted: whether it had introduced itself.
        lines: the last that it printed.
        words: its own last words, see :mod:`SESegmentationLib.worker.ending`; empty where it had no time for any.
        short_of_memory: whether the system has meanwhile ended processes for lack of memory.
    """

    code: int | None
    error: SegmentationError | None = None
    greeted: bool = True
    lines: tuple[str, ...] = ()
    words: str = ""
    short_of_memory: bool = False

    def explain(self) -> SegmentationError:
        """What to tell the user whose job this was."""
        if self.error:
            return self.error
        lines = [line.strip() for line in self.lines if line.strip() and _LAUNCHER not in line][-30:]
        last = f" ({lines[-1][:200].rstrip('.')})" if lines else ""
        if self._is_memory(lines):
            return OutOfMemoryError("The system ended the worker because memory ran out.", MEMORY_REMEDY)
        crash = _CRASH.search(self.words)
        if crash:
            return WorkerError(f"The worker crashed ({_without_end(crash.group(1))}).", AGAIN)
        if _STANDSTILL.search(self.words):
            return WorkerError("The worker stood still and ended itself.", AGAIN)
        if not self.greeted:
            failed = [found for line in lines if (found := _IMPORT_ERROR.search(line))]
            if failed:
                return import_failure(failed[-1].group(1))
            return WorkerError(
                f"The worker could not be started{last}.", "Look at the log; install SESegmentation anew."
            )
        if not self.words and self.code is not None and (self.code < 0 or self.code == 1):
            return WorkerError(
                "The worker was ended by another program or by the system.",
                "Segment again; if it happens again, memory is probably short: choose low memory, or close programs.",
            )
        return WorkerError(f"The worker ended unexpectedly with exit code {self.code}{last}.", AGAIN)

    def _is_memory(self, lines: list[str]) -> bool:
        if self.short_of_memory or self.code == EXIT_MEMORY:
            return True
        return any(_MEMORY.search(line) for line in (*lines, *self.words.splitlines()[:1]))


def _without_end(words: str) -> str:
    return words.strip().rstrip(".")


def count_memory_kills() -> int:
    """How many processes Linux has ended for lack of memory since it started; 0 where that is not known."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)

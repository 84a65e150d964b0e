"""Why a worker ended that should not have, in words."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path

from ..errors import OutOfMemoryError, SegmentationError, WorkerError
from ..worker.failures import MEMORY_REMEDY, import_failure
from ..worker.messages import EXIT_MEMORY

AGAIN = "Segment again; if it fails again, report it with the log."
_IMPORT_ERROR = re.compile(r"\b(?:ModuleNotFoundError|ImportError): (.+)")
#: what C++ and Windows say; and Windows' own exit code for it
_MEMORY_PHRASES = ("bad_alloc", "out of memory", "MemoryError")
_WINDOWS_NO_MEMORY = 0xC0000017
_WINDOWS_CRASHES = {0xC0000005: "access violation", 0xC00000FD: "stack overflow", 0xC0000409: "fatal error"}


@dataclass(frozen=True)
class Ending:
    """A worker's end.

    Attributes:
        code: exit code, negative for a signal; None if the process was never started.
        error: what is known beforehand, for example what it sent that could not be read.
        greeted: whether it had introduced itself.
        lines: the last that it printed.
        short_of_memory: whether the system has meanwhile ended processes for lack of memory.
    """

    code: int | None
    error: SegmentationError | None = None
    greeted: bool = True
    lines: tuple[str, ...] = ()
    short_of_memory: bool = False

    def explain(self) -> SegmentationError:
        """What to tell the user whose job this was."""
        if self.error:
            return self.error
        lines = [line.strip() for line in self.lines if line.strip()][-30:]
        last = f" ({lines[-1][:200].rstrip('.')})" if lines else ""
        if self._is_memory(lines):
            return OutOfMemoryError("The system ended the worker because memory ran out.", MEMORY_REMEDY)
        if not self.greeted:
            failed = [found for line in lines if (found := _IMPORT_ERROR.search(line))]
            if failed:
                return import_failure(failed[-1].group(1))
            return WorkerError(
                f"The worker could not be started{last}.", "Look at the log; install SESegmentation anew."
            )
        if self.code == -getattr(signal, "SIGKILL", 9):
            return WorkerError(
                "The worker was ended by another program or by the system.",
                "Segment again; if it happens again, memory is probably short: choose low memory, or close programs.",
            )
        crash = self._crash()
        if crash:
            return WorkerError(f"The worker crashed ({crash}).", AGAIN)
        return WorkerError(f"The worker ended unexpectedly with exit code {self.code}{last}.", AGAIN)

    def _is_memory(self, lines: list[str]) -> bool:
        if self.short_of_memory or self.code in (EXIT_MEMORY, _WINDOWS_NO_MEMORY):
            return True
        return any(phrase in line for line in lines for phrase in _MEMORY_PHRASES)

    def _crash(self) -> str | None:
        if self.code is not None and self.code < 0:
            try:
                return signal.Signals(-self.code).name
            except ValueError:
                return f"signal {-self.code}"
        return _WINDOWS_CRASHES.get(self.code)


def count_memory_kills() -> int:
    """How many processes Linux has ended for lack of memory since it started; 0 where that is not known."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)

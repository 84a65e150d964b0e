"""The worker process: how it is started, ended with all that it started, and why it ended when it should not have."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO, Any

from ..errors import OutOfMemoryError, SegmentationError, WorkerError
from ..worker.ending import CLIENT
from ..worker.messages import EXIT_MEMORY, MEMORY_REMEDY, import_failure

#: options of ``subprocess.Popen``: out of reach of Ctrl-C in the terminal, and without a window of its own
OWN_GROUP: dict[str, Any] = {"start_new_session": True}
if sys.platform == "win32":
    OWN_GROUP = {"creationflags": subprocess.CREATE_NO_WINDOW}


def pipe(stream: IO[bytes] | None) -> FileIO:
    """A stream of a process that was started with unbuffered pipes."""
    if not isinstance(stream, FileIO):
        raise ValueError("the process was started without this pipe, or with a buffer")
    return stream


def end_group(process: subprocess.Popen, gently: bool = False) -> None:
    """End a process that was started with ``OWN_GROUP``, and all that it has started.

    Args:
        gently: only ask, as Ctrl-C does; Windows has no such way to ask.
    """
    if sys.platform == "win32":
        if not gently:
            command = ["taskkill", "/PID", str(process.pid), "/T", "/F"]
            subprocess.run(command, capture_output=True, **OWN_GROUP)
        return
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGINT if gently else signal.SIGKILL)


#: the folder from which SESegmentationLib is imported
LIBRARY_FOLDER = Path(__file__).resolve().parents[2]


def find_python() -> str:
    """The Python that runs the worker: PythonSlicer inside Slicer, this program elsewhere.

    Inside Slicer ``sys.executable`` need not be a Python; PythonSlicer sets up the libraries that its Python needs.

    Raises:
        WorkerError: there is none.
    """
    beside = shutil.which("PythonSlicer", path=os.path.dirname(sys.executable or ""))
    if beside:
        return beside
    if hasattr(sys.modules.get("slicer"), "app") and (on_path := shutil.which("PythonSlicer")):
        return on_path
    if not Path(sys.executable or "").stem.lower().startswith("python"):  # it would be a second Slicer
        raise WorkerError("Slicer's program PythonSlicer was not found.", "Install Slicer anew.")
    return sys.executable


def worker_command() -> list[str]:
    """The command that starts the worker; WorkerError where there is no Python."""
    return [find_python(), "-m", "SESegmentationLib.worker"]


def worker_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """``environment``, with SESegmentationLib first among what Python imports from, and nothing from where it runs."""
    others = environment.get("PYTHONPATH", "").split(os.pathsep)
    paths = [str(LIBRARY_FOLDER), *(path for path in others if os.path.isabs(path))]  # "" is the current folder
    return {
        **environment,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONSAFEPATH": "1",  # a torch.py in the current folder is not torch
        "PYTHONIOENCODING": "utf-8",
        CLIENT: str(os.getpid()),
    }


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
        said_hello: whether it had introduced itself.
        lines: the last that it printed.
        words: its own last words, see :mod:`SESegmentationLib.worker.ending`; empty where it had no time for any.
        short_of_memory: whether the system has meanwhile ended processes for lack of memory.
    """

    code: int | None
    error: SegmentationError | None = None
    said_hello: bool = True
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
        if not self.said_hello:
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

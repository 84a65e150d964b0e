"""One worker process: how it is started and ended, and the threads that carry frames to and from it."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import OutOfMemoryError, SegmentationError, WorkerError
from ..memory import MEMORY_REMEDY
from ..worker import CLIENT, LAST_WORDS
from ..worker.messages import (
    EXIT_MEMORY,
    HELLO,
    SHUTDOWN,
    Frame,
    FrameError,
    import_failure,
    read_frame,
    write_frame,
)

#: options of ``subprocess.Popen``: out of reach of Ctrl-C in the terminal, and without a window of its own
OWN_GROUP: dict[str, Any] = {"start_new_session": True}
if sys.platform == "win32":
    OWN_GROUP = {"creationflags": subprocess.CREATE_NO_WINDOW}

#: the folder from which SESegmentationLib is imported
LIBRARY_FOLDER = Path(__file__).resolve().parents[2]
WORKER_REMEDY = "Segment again; if it fails again, report it with the log."
_IMPORT_ERROR = re.compile(r"\b(?:ModuleNotFoundError|ImportError): (.+)")
#: how Python, C++ and Windows report that memory ran out
_MEMORY = re.compile(r"bad_alloc|out of memory|\bMemoryError\b|0xc0000017", re.IGNORECASE)
#: how faulthandler begins its report of a crash, and of a process that did nothing for too long
_CRASH = re.compile(r"^(?:Fatal Python error|Windows fatal exception): (.+)", re.MULTILINE)
_STANDSTILL = re.compile(r"^Timeout \(", re.MULTILINE)
#: how the launcher reports any end that is not orderly; it says nothing of the cause
_LAUNCHER = "exit abnormally"
#: lines that are kept of the worker's output
LOG_LINES = 300
LINE_BYTES = 4096  # of a line that does not end
#: time that the worker has to end after its output has ended, in s
ENDING_SECONDS = 2.0


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
            # by its place: of a bare name, Windows takes a program in the working folder
            taskkill = os.path.join(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "taskkill.exe")
            command = [taskkill, "/PID", str(process.pid), "/T", "/F"]
            subprocess.run(command, capture_output=True, **OWN_GROUP)
        return
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGINT if gently else signal.SIGKILL)


def find_python() -> str:
    """The Python that runs the worker: PythonSlicer inside Slicer, this program elsewhere.

    Inside Slicer ``sys.executable`` need not be a Python; PythonSlicer sets up the libraries that its Python needs.

    Raises:
        WorkerError: there is none.
    """
    beside = _python_slicer(os.path.dirname(sys.executable or ""))
    if beside:
        return beside
    if hasattr(sys.modules.get("slicer"), "app") and (on_path := _python_slicer(os.environ.get("PATH", ""))):
        return on_path
    if not Path(sys.executable or "").stem.lower().startswith("python"):  # it would be a second Slicer
        raise WorkerError("Slicer's program PythonSlicer was not found.", "Reinstall Slicer.")
    return sys.executable


def _python_slicer(folders: str) -> str | None:
    """PythonSlicer in one of the folders of a search path; not one in the working folder, where Windows looks first."""
    name = "PythonSlicer.exe" if sys.platform == "win32" else "PythonSlicer"
    programs = (os.path.join(folder, name) for folder in folders.split(os.pathsep) if os.path.isabs(folder))
    return next((path for path in programs if os.path.isfile(path) and os.access(path, os.X_OK)), None)


def worker_command() -> list[str]:
    """The command that starts the worker; WorkerError where there is no Python."""
    return [find_python(), "-m", "SESegmentationLib.worker"]


def worker_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """``environment``, with SESegmentationLib first on the import path, and without the current folder."""
    others = environment.get("PYTHONPATH", "").split(os.pathsep)
    paths = [str(LIBRARY_FOLDER), *(path for path in others if os.path.isabs(path))]  # "" is the current folder
    return {
        **environment,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONSAFEPATH": "1",  # a torch.py in the current folder is not torch
        "PYTHONIOENCODING": "utf-8",
        CLIENT: str(os.getpid()),
    }


@dataclass(frozen=True)
class Ending:
    """A worker's end.

    Attributes:
        code: exit code; None if the process was never started. A launcher in between reports 1 instead of a signal.
        error: the error, if already known, for example that its output could not be read.
        said_hello: whether it had introduced itself.
        lines: the last that it printed.
        words: its own last words, see :mod:`SESegmentationLib.worker`; empty where it had no time for any.
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
            return OutOfMemoryError("The system ended the segmentation process because memory ran out.", MEMORY_REMEDY)
        crash = _CRASH.search(self.words)
        if crash:
            return WorkerError(f"The segmentation process crashed ({_without_end(crash.group(1))}).", WORKER_REMEDY)
        if _STANDSTILL.search(self.words):
            return WorkerError("The segmentation process hung and ended itself.", WORKER_REMEDY)
        if not self.said_hello:
            failed = [found for line in lines if (found := _IMPORT_ERROR.search(line))]
            if failed:
                return import_failure(failed[-1].group(1))
            return WorkerError(
                f"The segmentation process could not be started{last}.",
                "Reinstall SESegmentation; if that does not help, report it with the log.",
            )
        if not self.words and self.code is not None and (self.code < 0 or self.code == 1):
            return WorkerError(
                "The segmentation process was ended by another program or by the system.",
                "Segment again; if it happens again, memory is probably short: choose low memory, or close programs.",
            )
        return WorkerError(
            f"The segmentation process ended unexpectedly with exit code {self.code}{last}.", WORKER_REMEDY
        )

    def _is_memory(self, lines: list[str]) -> bool:
        if self.short_of_memory or self.code == EXIT_MEMORY:
            return True
        return any(_MEMORY.search(line) for line in (*lines, *self.words.splitlines()[:1]))


def _file_for_words() -> IO[str]:
    """An empty file for a worker's last words, to be read once the worker is gone; OSError where it cannot be made."""
    prefix, suffix = "sesegmentation-worker-", ".txt"
    if os.name == "nt":  # open files cannot be removed there: those that can are left by clients that are gone
        for left in Path(tempfile.gettempdir()).glob(f"{prefix}*{suffix}"):
            with contextlib.suppress(OSError):
                left.unlink()
    return tempfile.NamedTemporaryFile(  # noqa: SIM115
        "r", encoding="utf-8", errors="replace", prefix=prefix, suffix=suffix, delete=False
    )


def _without_end(words: str) -> str:
    return words.strip().rstrip(".")


def count_memory_kills() -> int:
    """How many processes Linux has ended for lack of memory since it started; 0 where that is not known."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


class WorkerProcess:
    """Starts a worker and talks to it.

    Everything received is passed to ``deliver`` from one thread: frames, and last of all one :class:`.Ending`.

    Args:
        command: gives the command and the environment of the worker; may raise SegmentationError.
        deliver: takes frames and the ending; must not block.

    Attributes:
        lines: the last lines that the worker printed; they stay when it has ended.
    """

    def __init__(
        self,
        command: Callable[[], tuple[Sequence[str], dict[str, str]]],
        deliver: Callable[[WorkerProcess, Frame | Ending], None],
    ) -> None:
        self._command = command
        self._deliver = deliver
        self.lines: deque[str] = deque(maxlen=LOG_LINES)
        self._outbox: queue.SimpleQueue[tuple[dict[str, Any], list[np.ndarray]] | None] = queue.SimpleQueue()
        self._process: subprocess.Popen | None = None
        self._worker_pid: int | None = None
        self._killed = False
        self._ended = False
        self._lock = threading.Lock()
        self._error: SegmentationError | None = None
        self._words_file: IO[str] | None = None
        threading.Thread(target=self._run, name="to and from the worker", daemon=True).start()

    @property
    def pid(self) -> int | None:
        """The process that runs jobs, once it has introduced itself."""
        return self._worker_pid

    def send(self, header: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
        """Send a frame as soon as those before it are sent."""
        self._outbox.put((header, list(arrays)))

    def shut_down(self) -> None:
        """End the worker when it is idle; by force if that takes longer than ``ENDING_SECONDS``."""
        self.send({"type": SHUTDOWN})
        self._outbox.put(None)
        timer = threading.Timer(ENDING_SECONDS, self.kill)
        timer.daemon = True
        timer.start()

    def kill(self) -> None:
        """End the worker at once."""
        with self._lock:
            self._killed = True
            if self._process is None or self._ended:
                return
            if sys.platform == "win32":
                # PythonSlicer only starts the Python that does the work, and does not take it along when it ends
                if self._worker_pid not in (None, self._process.pid):
                    with contextlib.suppress(OSError):
                        os.kill(self._worker_pid, signal.SIGTERM)  # ends a process at once there
                self._process.kill()
            else:
                end_group(self._process)

    def _run(self) -> None:
        """Start the worker, hand on what it sends, and see it end."""
        kills = count_memory_kills()
        try:
            process = self._start()
        except SegmentationError as error:
            self._last_words()
            self._deliver(self, Ending(None, error, said_hello=False))
            return
        listener = threading.Thread(target=self._collect_log, args=(process,), name="worker log", daemon=True)
        writer = threading.Thread(target=self._write, args=(process,), name="worker input", daemon=True)
        listener.start()
        writer.start()
        self._read(process)
        try:
            code = process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            code = process.wait()
        with self._lock:
            self._ended = True
        pipe(process.stdout).close()
        self._outbox.put(None)
        listener.join(ENDING_SECONDS)
        short = code != 0 and not self._killed and count_memory_kills() > kills
        printed, words = tuple(self.lines), self._last_words()
        self.lines.extend(words.splitlines())
        self._deliver(self, Ending(code, self._error, self._worker_pid is not None, printed, words, short))

    def _last_words(self) -> str:
        """What a worker that has ended printed last."""
        file, self._words_file = self._words_file, None
        if file is None:
            return ""
        words = ""
        with contextlib.suppress(OSError), file:
            words = file.read()
        with contextlib.suppress(OSError):
            os.unlink(file.name)
        return words

    def _start(self) -> subprocess.Popen:
        command, environment = self._command()
        with contextlib.suppress(OSError):
            self._words_file = _file_for_words()
            environment = {**environment, LAST_WORDS: self._words_file.name}
        try:
            process = subprocess.Popen(
                list(command),
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                **OWN_GROUP,
            )
        except OSError as error:
            raise WorkerError(
                f"The segmentation process cannot be started: {command[0]}: {error.strerror or error}.",
                "Restart Slicer; if that does not help, reinstall it.",
            ) from error
        with self._lock:
            self._process = process
            killed = self._killed
        if killed:
            self.kill()
        return process

    def _read(self, process: subprocess.Popen) -> None:
        """Deliver frames until there are no more; what cannot be read ends the worker."""
        noise: bytearray | None = bytearray()  # a launcher may print something before Python starts
        try:
            while frame := read_frame(pipe(process.stdout), noise):
                noise = None
                if frame.header.get("type") == HELLO:
                    self._worker_pid = int(frame.header["pid"])
                    if self._words_file and os.name != "nt":  # both have it open: however they end, nothing is left
                        with contextlib.suppress(OSError):
                            os.unlink(self._words_file.name)
                self._deliver(self, frame)
                del frame
        except MemoryError:
            self._error = OutOfMemoryError("There is not enough memory for the result.", MEMORY_REMEDY)
        except (FrameError, KeyError, TypeError, ValueError) as error:
            self._error = WorkerError("The segmentation process sent something that cannot be read.", WORKER_REMEDY)
            self.lines.append(str(error))
        except OSError:
            pass  # as if it had ended
        if self._error:
            self.kill()
        if noise:
            self.lines.extend(noise.decode(errors="replace").splitlines())

    def _write(self, process: subprocess.Popen) -> None:
        """Send what is in the outbox."""
        if hasattr(signal, "pthread_sigmask"):  # a worker that is gone must not end a client that is no Python program
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
        with contextlib.suppress(OSError), pipe(process.stdin) as stream:
            while message := self._outbox.get():
                write_frame(stream, *message)
                del message

    def _collect_log(self, process: subprocess.Popen) -> None:
        """Keep the end of what the worker prints."""
        rest = b""
        with contextlib.suppress(OSError), pipe(process.stderr) as stream:
            while block := stream.read(1 << 16):
                *lines, rest = (rest + block).split(b"\n")
                self.lines.extend(line.decode(errors="replace").rstrip("\r") for line in lines)
                rest = rest[-LINE_BYTES:]
        if rest:
            self.lines.append(rest.decode(errors="replace"))

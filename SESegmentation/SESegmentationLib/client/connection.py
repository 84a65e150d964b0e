"""One worker process, and the threads that carry frames to and from it so that nobody else has to wait."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OutOfMemoryError, SegmentationError, WorkerError
from ..worker.ending import LAST_WORDS
from ..worker.frames import Frame, FrameError, read_frame, write_frame
from ..worker.messages import HELLO, MEMORY_REMEDY, SHUTDOWN
from .processes import AGAIN, OWN_GROUP, Ending, count_memory_kills, end_group, pipe

#: what is kept of what the worker prints
LOG_LINES = 300
LINE_BYTES = 4096  # of a line that does not end
#: time between the end of what the worker sends and its own end, in s
ENDING_SECONDS = 2.0


class Connection:
    """Starts a worker and talks to it.

    Everything that comes is handed to ``deliver`` in one thread: frames, and last of all one :class:`.Ending`.

    Args:
        command: gives the command and the environment of the worker; may raise SegmentationError.
        deliver: takes frames and the ending; must not block.

    Attributes:
        lines: the last lines that the worker printed; they stay when it has ended.
    """

    def __init__(
        self,
        command: Callable[[], tuple[Sequence[str], dict[str, str]]],
        deliver: Callable[[Connection, Frame | Ending], None],
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
        self._words_file = ""
        threading.Thread(target=self._run, name="worker connection", daemon=True).start()

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
            self._take_words()
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
        printed, words = tuple(self.lines), self._take_words()
        self.lines.extend(words.splitlines())
        self._deliver(self, Ending(code, self._error, self._worker_pid is not None, printed, words, short))

    def _take_words(self) -> str:
        """The last words of a worker that is gone."""
        path, self._words_file = self._words_file, ""
        if not path:
            return ""
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _start(self) -> subprocess.Popen:
        command, environment = self._command()
        with contextlib.suppress(OSError):
            handle, self._words_file = tempfile.mkstemp(prefix="sesegmentation-worker-", suffix=".txt")
            os.close(handle)
            environment = {**environment, LAST_WORDS: self._words_file}
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
                f"The worker cannot be started: {command[0]}: {error.strerror or error}.",
                "Restart Slicer; if that does not help, install it anew.",
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
                self._deliver(self, frame)
                del frame
        except MemoryError:
            self._error = OutOfMemoryError("There is not enough memory for the result.", MEMORY_REMEDY)
        except (FrameError, KeyError, TypeError, ValueError) as error:
            self._error = WorkerError("The worker sent something that cannot be read.", AGAIN)
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

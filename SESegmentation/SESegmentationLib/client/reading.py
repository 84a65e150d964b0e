"""Opening files in a process of its own, so that a file that crashes it, or makes it hang, is only a failure."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from ..errors import InputError, OutOfMemoryError, SegmentationError, WorkerError
from ..io.reading import files_opened_by
from ..worker.jobs import unpack_image
from ..worker.messages import Frame, FrameError, error_of, read_frame, write_frame
from .worker_process import OWN_GROUP, count_memory_kills, pipe, worker_command, worker_environment

#: seconds that a file may take, and bytes for which another second is allowed
_SECONDS = 60.0
_BYTES_A_SECOND = 1e6
#: seconds in which the process is ready, on a computer that is very busy
_START_SECONDS = 120.0
_REMEDY = "Copy or download it again, or save it again from a program that shows it correctly."


class ReadingProcess:
    """Opens files in another process, one at a time; it is started when needed, and again when it has died.

    Args:
        seconds: that a file may take, besides what its size explains.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._said_hello = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the process, so that it is ready when it is needed; WorkerError where it cannot be."""
        with self._lock:
            self._running()

    def __call__(
        self, path: Path, pixel_mm: Sequence[float] | None = None, labels: bool = False, series: str | None = None
    ) -> sitk.Image:
        """Open a file or folder, see :func:`SESegmentationLib.io.formats.open_file`.

        Raises:
            InputError: as there; or the process crashed on the file, or did not finish in time.
        """
        limit = self._seconds + _size(path) / _BYTES_A_SECOND
        request = {
            "path": os.fspath(path),
            "folder": _folder(),
            "pixel_mm": None if pixel_mm is None else [float(length) for length in pixel_mm],
            "labels": labels,
            "series": series,
        }
        with self._lock:
            answer = self._ask(request, path, limit)
        if error := answer.header.get("error"):
            raise error_of(error)
        return unpack_image(answer.header["image"], answer.arrays[0])

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError):
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe(stream).close()

    def _ask(self, request: dict[str, Any], path: Path, limit: float) -> Frame:
        process, kills = self._running(), count_memory_kills()
        try:
            if not self._said_hello:
                with _ending_after(process, _START_SECONDS):
                    self._said_hello = read_frame(pipe(process.stdout), bytearray()) is not None
                if not self._said_hello:
                    raise _not_started(f"exit code {_code_of(process)}")
            with _ending_after(process, limit) as late, contextlib.suppress(OSError, FrameError):
                write_frame(pipe(process.stdin), request)
                if (answer := read_frame(pipe(process.stdout))) is not None:
                    return answer
        except BaseException:  # Ctrl-C; or no memory for the voxels, of which the rest would be read as an answer
            self.close()
            raise
        code = _code_of(process)
        self.close()
        raise _explain(path, code, late.is_set(), count_memory_kills() > kills)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            try:
                self._process = subprocess.Popen(
                    [*worker_command(), "read"],
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=worker_environment(),
                    **OWN_GROUP,
                )
            except OSError as error:
                raise _not_started(error.strerror or str(error)) from error
            self._said_hello = False
        return self._process


@contextlib.contextmanager
def reading_apart() -> Iterator[None]:
    """Inside the block, let volumes be read by :func:`reading_process`."""
    with files_opened_by(reading_process()):
        yield


@functools.cache
def reading_process() -> ReadingProcess:
    """The one of this program; it ends with it."""
    process = ReadingProcess()
    atexit.register(process.close)
    return process


@contextlib.contextmanager
def _ending_after(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """End ``process`` where the block takes longer; the event is set then."""
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _not_started(why: str) -> WorkerError:
    return WorkerError(
        f"The process that reads files cannot be started: {why}.", "Run: sesegment doctor. It says what is missing."
    )


def _code_of(process: subprocess.Popen[bytes]) -> int | None:
    """Its exit code; None where it still runs, having sent something unreadable."""
    try:
        return process.wait(2.0)
    except subprocess.TimeoutExpired:
        return None


def _explain(path: Path, code: int | None, late: bool, short_of_memory: bool) -> SegmentationError:
    """The error for a file on which the process died."""
    if short_of_memory:
        return OutOfMemoryError(f"There is not enough memory to read {path}.", "Close other programs.")
    if late:
        return InputError(f"{path} cannot be read: reading it does not finish.", _REMEDY)
    try:
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    except ValueError:
        how = f"signal {-(code or 0)}"
    return InputError(f"{path} cannot be read: it is damaged, and crashes the library that reads it ({how}).", _REMEDY)


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return os.path.sep


def _size(path: Path) -> int:
    """Bytes of a file, or of those in a folder and its subfolders; 0 where there is none."""
    try:
        if not path.is_dir():
            return path.stat().st_size
        return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names)
    except (OSError, ValueError):
        return 0

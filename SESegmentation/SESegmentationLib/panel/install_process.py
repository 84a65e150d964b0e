"""Programs of Slicer's Python, run one after the other while the window goes on; here, those that install packages."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Sequence

from ..client.processes import OWN_GROUP, end_group, find_python, worker_environment

#: after being asked to end, pip puts back what it had taken out; so long it may take, in s
GRACE_SECONDS = 5.0


class InstallProcess:
    """Runs ``python -m`` with each of some lists of arguments, until one fails.

    It is looked after from a timer and needs no thread: Slicer lets other threads of Python hardly run.

    Args:
        commands: for example ``[["pip", "install", "safetensors"]]``.

    Raises:
        SegmentationError: there is no Python to run them.
        OSError: it cannot be started.
    """

    def __init__(self, commands: Sequence[Sequence[str]]) -> None:
        self._python = find_python()
        self._commands = [list(command) for command in commands]
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 (close() closes it)
        self._process: subprocess.Popen | None = None
        self._force_at: float | None = None
        self._start_next()

    def poll(self) -> int | None:
        """The exit code of the command that failed, 0 if all have succeeded, None while there is something to do."""
        code = self._process.poll()
        if code is None:
            if self._force_at is not None and time.monotonic() > self._force_at:
                end_group(self._process)
            return None
        if code != 0 or self._force_at is not None or not self._commands:
            return code
        self._start_next()
        return None

    @property
    def printed(self) -> str:
        """All that was printed so far."""
        self._printed.seek(0)
        return self._printed.read().decode(errors="replace")

    def cancel(self) -> None:
        """Ask it to stop; it is ended by force if that takes long."""
        self._force_at = time.monotonic() + GRACE_SECONDS
        end_group(self._process, gently=True)

    def close(self) -> None:
        """End it at once."""
        if self._process.poll() is None:
            end_group(self._process)
            self._process.wait()
        self._printed.close()

    def _start_next(self) -> None:
        self._process = subprocess.Popen(
            [self._python, "-m", *self._commands.pop(0)],
            stdin=subprocess.DEVNULL,
            stdout=self._printed,
            stderr=subprocess.STDOUT,
            env={**worker_environment(), "PYTHONUNBUFFERED": "1"},
            **OWN_GROUP,
        )

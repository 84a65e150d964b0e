"""Processes that end together with what they have started: PythonSlicer only starts the Python that does the work."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import Any

#: options of ``subprocess.Popen``: out of reach of Ctrl-C in the terminal, and without a window of its own
OWN_GROUP: dict[str, Any] = (
    {"creationflags": subprocess.CREATE_NO_WINDOW} if sys.platform == "win32" else {"start_new_session": True}
)


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

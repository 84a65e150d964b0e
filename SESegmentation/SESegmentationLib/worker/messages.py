"""The messages between a client and the worker, each a frame whose header has a "type".

To the worker: ``job`` (job, kind, value; arrays), ``cancel`` (job), ``shutdown``. From the worker: ``hello`` (protocol,
version, pid) before all else, ``heartbeat`` (stalled: seconds without progress of the job at hand), and of a job
``accepted``, ``progress`` (phase, fraction, seconds_left), then either ``result`` (kind, value; arrays) or ``failure``
(code, cause, remedy, ends: whether the worker ends after it). "job" is the number that the client gave it.
"""

from __future__ import annotations

import os
from typing import Any

from .. import __version__
from ..errors import ERRORS_BY_CODE, SegmentationError, WorkerError

#: counts up when messages change their meaning
PROTOCOL = 2

JOB, CANCEL, SHUTDOWN = "job", "cancel", "shutdown"
HELLO, HEARTBEAT = "hello", "heartbeat"
ACCEPTED, PROGRESS, RESULT, FAILURE = "accepted", "progress", "result", "failure"

# exit codes of the worker beyond those of the command line
EXIT_PROTOCOL = 70
EXIT_MEMORY = 71


def hello() -> dict[str, Any]:
    """How a worker introduces itself."""
    return {"type": HELLO, "protocol": PROTOCOL, "version": __version__, "pid": os.getpid()}


def check_hello(header: dict[str, Any]) -> None:
    """Check a worker's introduction.

    Raises:
        WorkerError: it is none, or that of another version.
    """
    theirs = (header.get("type"), header.get("protocol"), header.get("version"))
    if theirs != (HELLO, PROTOCOL, __version__):
        raise WorkerError(
            f"The worker has version {theirs[2]} (protocol {theirs[1]}) instead of {__version__} ({PROTOCOL}).",
            "Restart Slicer, so that all of SESegmentation is of one version; if that does not help, install it anew.",
        )


def failure(job: int, error: SegmentationError, ends: bool) -> dict[str, Any]:
    """A failure to be sent."""
    return {
        "type": FAILURE,
        "job": job,
        "code": error.code,
        "cause": error.cause,
        "remedy": error.remedy,
        "ends": ends,
    }


def error_of(header: dict[str, Any]) -> SegmentationError:
    """The error of a failure that was received."""
    return ERRORS_BY_CODE.get(header["code"], SegmentationError)(header["cause"], header["remedy"])

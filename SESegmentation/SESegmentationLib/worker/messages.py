"""The messages between a client and the worker, each a frame whose header has a "type"; failures among them.

To the worker: ``job`` (job, kind, value; arrays), ``cancel`` (job), ``shutdown``. From the worker: ``hello`` (protocol,
version, pid) before all else, ``heartbeat`` (stalled: seconds without progress of the job at hand), and of a job
``accepted``, ``progress`` (phase, fraction, seconds_left), then either ``result`` (kind, value; arrays) or ``failure``
(code, cause, remedy, ends: whether the worker ends after it). "job" is the number that the client gave it.
"""

from __future__ import annotations

import os
import re
from typing import Any

from .. import __version__
from ..errors import (
    ERRORS_BY_CODE,
    CancelledError,
    DependencyError,
    DeviceError,
    InputError,
    ModelError,
    OutOfMemoryError,
    SegmentationError,
    UsageError,
    WorkerError,
    install_advice,
    is_out_of_memory,
    no_memory_to_load,
)

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


#: after any other failure nobody knows what state the libraries are in: the worker ends and is started anew
HARMLESS = (UsageError, InputError, ModelError, DeviceError, CancelledError)
_MISSING = re.compile(r"No module named '?([^'.]+)")
MEMORY_REMEDY = "Segment a region of interest only, choose low memory, or close other programs."


def as_segmentation_error(error: BaseException) -> SegmentationError:
    """``error`` with a cause and a remedy."""
    if isinstance(error, SegmentationError):
        return error
    if is_out_of_memory(error):
        return OutOfMemoryError("There is not enough memory for this volume and model.", MEMORY_REMEDY)
    if isinstance(error, ImportError):
        return import_failure(str(error))
    message = f"{type(error).__name__}: {error}".rstrip(": ")
    if "Numpy is not available" in message:
        return DependencyError(
            "This PyTorch is too old for the NumPy that is installed.", install_advice('"numpy<2"') + ". Then restart."
        )
    if "CUDA" in message or "MPS" in message:
        return DeviceError(
            f"The GPU failed: {_first_line(message)}.", "Segment again; if it fails again, choose the device cpu."
        )
    return SegmentationError(
        f"Unexpected failure: {_first_line(message)}.", "Segment again; if it fails again, report it with the log."
    )


def import_failure(message: str) -> SegmentationError:
    """What to tell the user of an ImportError that says ``message``."""
    if known := no_memory_to_load(message):
        return known
    missing = _MISSING.search(message)
    name = missing.group(1) if missing else ""
    if name == "torch":
        return DependencyError(
            "PyTorch is not installed.",
            "In Slicer, install it through the extension PyTorch; elsewhere, run: pip install torch",
        )
    if name and name != "SESegmentationLib":
        return DependencyError(f"The Python package {name} is not installed.", install_advice(name))
    return DependencyError(
        f"A Python package cannot be loaded: {_first_line(message)}.",
        "Look at This computer in the panel, or run: sesegment doctor. It says what to install anew.",
    )


def _first_line(message: str) -> str:
    lines = message.strip().splitlines() or ["no message"]
    return lines[0].rstrip(".")

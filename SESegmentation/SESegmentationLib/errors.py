"""Errors a user can meet, each with its cause in one line and its remedy in another, as plain text.

The exit codes are those of the ``sesegment`` command; the codes are what the worker sends to Slicer.
"""

from __future__ import annotations

import os
import shutil
import sys

from .plain_text import first_line

#: where a folder holds several DICOM series
SERIES_REMEDY = "Give the folder of one series."


class SegmentationError(Exception):
    """Base of every expected failure.

    Attributes:
        cause: one sentence, what is wrong.
        remedy: one sentence, what the user can do about it.
        code: stable name for programs (sent between processes).
        exit_code: exit status of the command line.
    """

    code = "error"
    exit_code = 1

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy

    def __reduce__(self):  # exceptions with two arguments do not survive copying by default
        return type(self), (self.cause, self.remedy)


class UsageError(SegmentationError):
    """Options that contradict each other or name something that is not there."""

    code = "usage"
    exit_code = 2


class InputError(SegmentationError):
    """A volume, label file or folder that cannot be used."""

    code = "input"
    exit_code = 2


class ModelError(SegmentationError):
    """No such model, or one that is damaged or too new."""

    code = "model"
    exit_code = 3


class OutOfMemoryError(SegmentationError):
    """Not enough main or device memory."""

    code = "memory"
    exit_code = 4


class DeviceError(SegmentationError):
    """A compute device that is absent or fails."""

    code = "device"
    exit_code = 5


class NothingFoundError(SegmentationError):
    """A volume that was segmented, and in which there is none of the model's structures."""

    code = "nothing"
    exit_code = 6


class DependencyError(SegmentationError):
    """A Python package that is needed and not installed."""

    code = "dependency"
    exit_code = 1


class CancelledError(SegmentationError):
    """The user cancelled the run."""

    code = "cancelled"
    exit_code = 1


class WorkerError(SegmentationError):
    """The worker process ended, hung, or speaks another version."""

    code = "worker"
    exit_code = 1


class ServerError(SegmentationError):
    """A server that cannot be reached or trusted, refuses, or speaks another version."""

    code = "server"
    exit_code = 1


def install_advice(packages: str) -> str:
    """How the user installs Python packages for the Python that runs this.

    In Slicer that is done by PythonSlicer: python-real, which it starts, does not find its libraries without it.

    Args:
        packages: in pip's syntax.
    """
    if shutil.which("PythonSlicer", path=os.path.dirname(sys.executable or "")):
        return f"Click Segment in Slicer to install what is missing, or run: PythonSlicer -m pip install {packages}"
    return f"Install it: {os.path.basename(sys.executable or 'python')} -m pip install {packages}"


#: every class by its code, to rebuild an error that came from another process
ERRORS_BY_CODE = {
    error.code: error
    for error in (
        SegmentationError,
        UsageError,
        InputError,
        ModelError,
        OutOfMemoryError,
        DeviceError,
        NothingFoundError,
        DependencyError,
        CancelledError,
        WorkerError,
        ServerError,
    )
}


def reason_of(error: Exception) -> str:
    """Why something failed, to be put into a sentence; of what the system says the words alone, without a number."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    return first_line(str(error), f"{type(error).__name__} without a message")

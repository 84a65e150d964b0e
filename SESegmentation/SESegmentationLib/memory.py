"""Running out of memory: noticed beforehand where the system tells, and named in one error wherever it happens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from .errors import OutOfMemoryError

REMEDY = "Segment a region of interest only, choose low memory (or the CPU instead of a GPU), or close other programs."
#: how the allocators of PyTorch (which raises a RuntimeError, on a GPU too) and ITK say it
_PHRASES = ("can't allocate memory", "not enough memory", "failed to allocate memory", "bad_alloc", "out of memory")
#: what oneDNN says where it has no memory for a convolution; longer messages that begin so mean something else
_ONEDNN_MESSAGE = "could not create a primitive"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` means that main or device memory is exhausted."""
    if isinstance(error, MemoryError):
        return True
    message = str(error).strip().lower()
    return isinstance(error, RuntimeError) and (
        message == _ONEDNN_MESSAGE or any(phrase in message for phrase in _PHRASES)
    )


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Turn every way of running out of memory into :class:`~SESegmentationLib.errors.OutOfMemoryError`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError("There is not enough memory for this volume and model.", REMEDY) from error


def require(gigabytes: float) -> None:
    """Raise OutOfMemoryError if less than ``gigabytes`` of main memory is available; nothing where that is unknown.

    Without this Linux would let the allocation succeed and end the process later.
    """
    available = available_gigabytes()
    if available is not None and available < gigabytes:
        raise OutOfMemoryError(
            f"This volume and model need {gigabytes:.1f} GB of memory; {available:.1f} GB are available.", REMEDY
        )


def require_for_grid(voxels: float, on_grid: float) -> None:
    """Raise OutOfMemoryError unless an image can be brought to a model's grid, before memory is taken for that.

    Args:
        voxels: of the image: in single precision it is turned, and perhaps smoothed.
        on_grid: of the grid: in single precision it is resampled and normalised.
    """
    require(8 * (voxels + on_grid) / 1e9)


def available_gigabytes() -> float | None:
    """Main memory that can be had without swapping, in GB (10^9 bytes); None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    return kilobytes * 1024 / 1e9

"""Exceptions of a job as what the user can be told."""

from __future__ import annotations

import re
import sys

from ..errors import (
    CancelledError,
    DependencyError,
    DeviceError,
    InputError,
    ModelError,
    OutOfMemoryError,
    SegmentationError,
    UsageError,
    install_advice,
    no_memory_to_load,
)

#: after any other failure nobody knows what state the libraries are in: the worker ends and is started anew
HARMLESS = (UsageError, InputError, ModelError, DeviceError, CancelledError)
_MISSING = re.compile(r"No module named '?([^'.]+)")
MEMORY_REMEDY = "Segment a region of interest only, choose low memory, or close other programs."


def as_segmentation_error(error: BaseException) -> SegmentationError:
    """``error`` with a cause and a remedy."""
    if isinstance(error, SegmentationError):
        return error
    if isinstance(error, MemoryError) or _is_torch_out_of_memory(error):
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


def _is_torch_out_of_memory(error: BaseException) -> bool:
    if sys.modules.get("torch") is None:
        return False
    from ..inference.memory import is_out_of_memory

    return is_out_of_memory(error)


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

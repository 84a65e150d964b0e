"""Main and device memory: what is available, refusing what would not fit, and telling when it ran out."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

from .errors import OutOfMemoryError

MEMORY_REMEDY = (
    "Segment a region of interest only, choose low memory (or the CPU instead of a GPU), or close other programs."
)
#: where this process may take fewer addresses than there is memory
RAISE_LIMIT = "Raise the limit that ulimit -v shows. "
#: messages of the allocators of PyTorch (in a RuntimeError, on a GPU too) and ITK when memory runs out, and of Python
#: and of C++ where there is none for another thread or for what it promised
_PHRASES = (
    *("can't allocate memory", "not enough memory", "failed to allocate memory", "bad_alloc", "out of memory"),
    *("can't start new thread", "std::future_error: broken promise"),
)
#: messages of Python (in a SystemError) where a library gave up without a reason, which is what they do without memory
_WITHOUT_REASON = ("without exception set", "without setting an exception")
#: parts of loaders' messages where they had no memory
_TO_LOAD = ("Cannot allocate memory", "WinError 1455", "paging file is too small")
#: message of oneDNN when it has no memory for a convolution; longer messages that begin so mean something else
_ONEDNN_MESSAGE = "could not create a primitive"
#: Linux's control groups of this process, and where they are described
_OWN_GROUPS, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
#: where Linux tells how many addresses this process has taken, and bytes of them that libraries take as they work, for
#: buffers and stacks of threads: without them some end the process, or crash
_OWN_STATUS, _OF_LIBRARIES = Path("/proc/self/status"), 1 << 26
#: files with the limit and the use of a group, and entries of memory.stat that count files in the cache, by version
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
_VERSION_2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))


def no_memory_to_load(message: str) -> OutOfMemoryError | None:
    """The error for an ImportError or OSError with this message, if it means that memory ran out for a library.

    None otherwise. The messages are those of the loaders of Linux (followed by a reason, the first means that the file
    may not be loaded from there) and Windows, which tells the number in any language.
    """
    if message.endswith("failed to map segment from shared object") or any(text in message for text in _TO_LOAD):
        return OutOfMemoryError("There is not enough memory to load a library that is needed.", "Close other programs.")
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` means that main or device memory is exhausted."""
    if isinstance(error, MemoryError):
        return True
    message = str(error).strip().lower()
    if isinstance(error, SystemError):
        return any(phrase in message for phrase in _WITHOUT_REASON)
    return isinstance(error, RuntimeError) and (
        message == _ONEDNN_MESSAGE or any(phrase in message for phrase in _PHRASES)
    )


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Turn every way of running out of memory into :class:`~SESegmentationLib.errors.OutOfMemoryError`."""
    try:
        yield
    except (MemoryError, RuntimeError, SystemError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError("There is not enough memory for this volume and model.", MEMORY_REMEDY) from error


def require_memory(gigabytes: float) -> None:
    """Raise OutOfMemoryError if less than ``gigabytes`` of main memory is available; nothing if that is unknown.

    Without this Linux would let the allocation succeed and end the process later.
    """
    available = available_gigabytes()
    if available is not None and available < gigabytes:
        raise OutOfMemoryError(
            f"This volume and model need {_amount(gigabytes)} of memory; {_amount(available)} are available.",
            f"{RAISE_LIMIT if _left_of_addresses() < gigabytes * 1e9 else ''}{MEMORY_REMEDY}",
        )


def _amount(gigabytes: float) -> str:
    return f"{gigabytes:.1f} GB" if gigabytes >= 1 else f"{gigabytes * 1000:.0f} MB"


def require_for_grid(voxels: float, on_grid: float) -> None:
    """Raise OutOfMemoryError unless an image can be brought to a model's grid, before memory is taken for that.

    Args:
        voxels: of the image, which is reoriented, and perhaps smoothed, in single precision.
        on_grid: voxels of the grid, on which it is resampled and normalised in single precision.
    """
    require_memory(8 * (voxels + on_grid) / 1e9)


def available_gigabytes() -> float | None:
    """Main memory that can be had without swapping, in GB (10^9 bytes); None where the system does not tell.

    A container, or a job of SLURM, may be allowed less than the computer has; Linux ends a process that takes more.
    Where the address space is limited (ulimit -v), libraries end it.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    return min(kilobytes * 1024, _left_by_limits(), _left_of_addresses()) / 1e9


def _left_of_addresses() -> float:
    """Bytes that the limit of this process's address space leaves; infinity where there is none."""
    try:
        import resource  # not on Windows

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        if most == resource.RLIM_INFINITY:
            return math.inf
        lines = _OWN_STATUS.read_text(encoding="ascii").splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmSize:"))
    except (ImportError, OSError, StopIteration, ValueError):
        return math.inf
    return max(most - kilobytes * 1024 - _OF_LIBRARIES, 0)


def _left_by_limits() -> float:
    """Bytes that the limits of this process's control groups leave; infinity where there is none."""
    try:
        lines = _OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    left = math.inf
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, files = (_GROUPS / "memory", _VERSION_1) if controllers else (_GROUPS, _VERSION_2)
        folder = root / group.lstrip("/")
        # in a container the path may be that of the computer outside, where only the root can be read
        for place in (folder, *folder.parents):
            if place.is_relative_to(root):
                left = min(left, _left_in(place, *files))
    return left


def _left_in(folder: Path, limit: str, usage: str, cached: tuple[str, ...]) -> float:
    """Bytes that the limit of one control group leaves, cached files not counted; infinity where it has none."""
    try:
        most, used = (int((folder / name).read_text(encoding="ascii")) for name in (limit, usage))
        entries = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        return max(most - used + sum(int(entries.get(name, 0)) for name in cached), 0)
    except (OSError, ValueError):  # "max": no limit
        return math.inf

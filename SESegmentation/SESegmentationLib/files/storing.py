"""Content on the disk: written, made durable, read again; and what kept it from that, in words."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from ..errors import SegmentationError

#: a file system that has no such operation keeps nothing back
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM)
#: what is written at once to see why a file is incomplete, bytes
_PROBE = 1 << 20


class OutputError(SegmentationError):
    """A file that cannot be written."""

    code = "output"


def store(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, and see that it is there.

    Raises:
        OutputError: it is not, for want of space for example.
    """
    try:
        path.write_bytes(content)
        sync(path)
        if path.read_bytes() == content:
            return
    except OSError as error:
        raise cannot_write(path, error) from error
    raise incomplete(path)


def sync(path: Path) -> None:
    """Have the disk keep a file, or the entries of a folder; OSError where it cannot."""
    try:
        # Windows makes only files durable that are open for writing, and no folders
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def incomplete(path: Path, size: int = 0) -> OutputError:
    """What to tell of a file that is not what was written, without a reason given.

    What keeps more from being written is found by trying.

    Args:
        path: the file, which is of no use any more.
        size: bytes that it would have had at most.
    """
    try:
        with path.open("ab", buffering=0) as file:
            for _ in range(max(size // _PROBE, 1)):
                if file.write(bytes(_PROBE)) < _PROBE:  # all that was left
                    file.write(bytes(_PROBE))
            os.fsync(file.fileno())
    except OSError as error:
        return cannot_write(path, error)
    return OutputError(
        f"{path.name} reads differently from what was written to the disk {disk_of(path)}.",
        "Check that disk, or write to another.",
    )


def cannot_write(path: Path, error: OSError) -> OutputError:
    """The failure to write ``path``, with the disk and what can be done."""
    disk = disk_of(path)
    reasons = {
        errno.ENOSPC: (f"the disk {disk} is full", "Free some space there, or write to another disk."),
        errno.EDQUOT: (f"your quota of the disk {disk} is used up", "Free some space there, or write to another disk."),
        errno.EFBIG: (
            f"files may not become that large on the disk {disk}",
            "Write to another disk, or raise the limit (ulimit -f).",
        ),
        errno.EROFS: (f"the disk {disk} is read-only", "Choose an output on another disk."),
        errno.EIO: (f"the disk {disk} reports a failure of the device", "Check that disk, or write to another."),
        errno.ENAMETOOLONG: ("the name is longer than the disk allows", "Choose a shorter name for the output."),
        errno.ENOENT: ("its folder is no longer there", "Choose another output with -o, or make its folder again."),
    }
    cause, remedy = reasons.get(
        error.errno,
        (f"{error.strerror or error} (disk {disk})", "Choose another output with -o, or make its folder writable."),
    )
    return OutputError(f"{path.name} cannot be written: {cause}.", remedy)


def disk_of(path: Path) -> Path:
    """Where the disk of ``path`` is mounted."""
    place = Path(os.path.realpath(path)).parent
    while not os.path.ismount(place) and place != place.parent:
        place = place.parent
    return place

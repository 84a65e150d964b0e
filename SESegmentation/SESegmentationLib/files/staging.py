"""Staging folders: hidden folders beside the files to come, removed with all that is in them.

The process that owns a staging folder holds a lock in it, which the system releases however the process ends. This
tells leftovers of killed processes from folders in use, on every computer that shares the disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = ".sesegment-"
_LOCK = ".lock"
#: how long a file may be held by another program on Windows, in s, and between two tries
PATIENCE_S, _PAUSE_S = 3.0, 0.05

#: held while folders are made or files moved into place, so that neither is interrupted midway
placing = threading.RLock()
_open: dict[Path, int] = {}


@contextlib.contextmanager
def staging_folder(beside: Path, private: bool = False) -> Iterator[Path]:
    """A hidden folder in the folder ``beside``, removed at the end with its content.

    Args:
        beside: exists.
        private: what is made in it is for this user alone, also where it is moved to.

    Raises:
        OSError: it cannot be made.
    """
    folder = open_staging(beside, private)
    try:
        yield folder
    finally:
        close_staging(folder)


def open_staging(beside: Path, private: bool = False) -> Path:
    """Make a folder as :func:`staging_folder` gives it; OSError where that fails."""
    with placing:
        folder, descriptor = _make(beside, private)
        _open[folder] = descriptor
    return folder


def _make(beside: Path, private: bool, tries: int = 10) -> tuple[Path, int]:
    """A new folder and its lock, which is held; tried again if another process removed it as a leftover before that."""
    folder, descriptor = _new_folder(beside, private), None
    lock = folder / _LOCK
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT)
        try:
            _lock(descriptor)
        except BlockingIOError:
            raise
        except OSError:  # a disk without locks: others then leave the folder alone
            return folder, descriptor
        lock.stat()
        return folder, descriptor
    except OSError as error:
        if descriptor is not None:
            os.close(descriptor)
        with contextlib.suppress(OSError):
            folder.rmdir()
        if tries == 1 or not isinstance(error, (FileNotFoundError, BlockingIOError)):
            raise
    return _make(beside, private, tries - 1)


def _new_folder(beside: Path, private: bool) -> Path:
    if sys.platform != "win32" or private:
        return Path(tempfile.mkdtemp(prefix=PREFIX, dir=beside))
    # mkdtemp shuts others out of the folder there, and files keep the access of the folder in which they were made
    folder = Path(os.path.abspath(beside), f"{PREFIX}{secrets.token_hex(4)}")
    try:
        folder.mkdir()
    except FileExistsError:
        return _new_folder(beside, private)
    return folder


def put(source: Path, target: Path) -> None:
    """Move a file or folder to ``target``, on the same disk, in place of any file there.

    Raises:
        OSError: it cannot be moved. On Windows that is tried for some seconds: programs that look at new files, such as
            virus scanners, hold them open for a moment, and what is open cannot be moved or replaced there.
    """
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if sys.platform != "win32" or time.monotonic() > until:
                raise
        time.sleep(_PAUSE_S)


def close_staging(folder: Path) -> None:
    """Remove a folder of :func:`open_staging`."""
    with placing:
        descriptor = _open.pop(folder, None)
        if descriptor is None:
            return
        if os.name == "nt":  # where an open file cannot be removed
            os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)
        if os.name != "nt":
            os.close(descriptor)


def close_all_staging(seconds: float = 1.0) -> None:
    """Remove every folder of this process, even if threads still write there: for its end."""
    until = time.monotonic() + seconds
    for folder in list(_open):
        close_staging(folder)
        while folder.exists() and time.monotonic() < until:
            time.sleep(0.01)
            shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove from ``folder`` what processes left that were killed; what cannot be removed stays."""
    try:
        with os.scandir(folder) as entries:
            found = [Path(entry.path) for entry in entries if entry.name.startswith(PREFIX)]
    except OSError:
        return
    for leftover in found:
        if leftover not in _open and not leftover.is_symlink():
            with contextlib.suppress(OSError):
                _remove_if_left(leftover)


def _remove_if_left(folder: Path) -> None:
    """Remove a folder that no process has; OSError where one has it, or where it cannot be removed."""
    try:
        folder.rmdir()  # empty: a process that has just made it makes another one
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    lock = folder / _LOCK
    if os.name == "nt":
        lock.unlink(missing_ok=True)  # fails while it is open
        shutil.rmtree(folder)
        return
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except FileNotFoundError:  # it is made before everything else: the folder was being removed
        shutil.rmtree(folder)
        return
    try:
        _lock(descriptor)  # fails while it is held, and on a disk without locks
        shutil.rmtree(folder)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock a file for as long as it is open here; OSError where another process did."""
    if os.name != "nt":
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _own_nothing_after_fork() -> None:
    """A process forked from this one owns none of its folders."""
    for descriptor in _open.values():
        os.close(descriptor)
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=placing.acquire, after_in_parent=placing.release, after_in_child=_own_nothing_after_fork)

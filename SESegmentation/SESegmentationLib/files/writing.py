"""Output files: written in a staging folder, synced, read back, and moved into place whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from ..errors import SegmentationError, UsageError
from .overwriting import same_name
from .staging import PREFIX, close_staging, open_staging, placing, put, remove_leftovers, staging_folder

#: errors of file systems that do not support syncing; they are ignored
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM)
#: bytes written at a time to find out why a file is incomplete
_PROBE = 1 << 20
_REMEDY = "Choose another output with -o, or make its folder writable."
#: errors of the disk, whoever wrote
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
#: Windows' numbers for a file that a program has open: access denied, sharing violation, lock violation
_HELD = (5, 32, 33)
#: Windows allows 259 characters, unless an administrator has changed that; staging folders take some of them
_LONGEST_PATH = 259 - len("\\" + PREFIX) - 8
#: where this process has put files
_placed: set[Path] = set()


class OutputError(SegmentationError):
    """A file that cannot be written."""

    code = "output"


def store(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, and verify it.

    Raises:
        OutputError: it cannot be written, for lack of space for example.
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
    """Sync a file, or the entries of a folder, to the disk; OSError if that fails."""
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
    """The error for a file that differs from what was written, though no error was reported.

    The cause is found by trying to write more.

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
        f"{path.name} was written to the disk {mount_point_of(path)}, but reads differently.",
        "Check that disk, or write to another.",
    )


def cannot_write(path: Path, error: OSError) -> OutputError:
    """The failure to write ``path``, with the disk and what can be done."""
    disk = mount_point_of(path)
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
    if getattr(error, "winerror", None) in _HELD and path.exists():
        reasons[errno.EACCES] = (
            "it is open in another program, or may not be replaced",
            "Close it there, or choose another output with -o.",
        )
    if sys.platform == "win32" and len(os.path.abspath(path)) > _LONGEST_PATH:
        reasons[errno.ENOENT] = (
            "its path is longer than Windows allows",
            "Choose a folder nearer to the root of the disk, or shorter names.",
        )
    cause, remedy = reasons.get(
        error.errno or 0,
        (f"{error.strerror or error} (disk {disk})", "Choose another output with -o, or make its folder writable."),
    )
    return OutputError(f"{path.name} cannot be written: {cause}.", remedy)


def mount_point_of(path: Path) -> Path:
    """Where the disk of ``path`` is mounted."""
    place = Path(os.path.realpath(path)).parent
    while not os.path.ismount(place) and place != place.parent:
        place = place.parent
    return place


class OutputFiles:
    """Files written together: under temporary names first, under their own once all are complete and on the disk.

    Leaving the ``with`` block by any exception removes what was begun; so does the end of the process by Ctrl-C (see
    :mod:`..progress`), and what a killed process leaves is removed by the next (:func:`check_writable`).

    Example::

        with OutputFiles() as files:
            files.write(Path("report.json"), "{}")
            write_image(files.begin(Path("labels.nii.gz")), labels)

    Raises:
        UsageError: a folder cannot be made or written to.
        OutputError: a file cannot be written or put in place; it names the disk.
    """

    def __init__(self) -> None:
        self._begun: list[tuple[Path, Path]] = []

    def __enter__(self) -> OutputFiles:
        return self

    @property
    def begun(self) -> Sequence[tuple[Path, Path]]:
        """The files so far: each under its temporary name, and under its own; they are put in place in this order."""
        return self._begun

    def begin(self, path: Path, private: bool = False) -> Path:
        """A temporary file for ``path``, with the same name and on the same disk.

        For writers that verify by themselves what they wrote, as :func:`..io.writing.write_image` does;
        everything else is for :meth:`write`. What is ``private`` can be read by this user alone.
        """
        _refuse_folder(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            folder = open_staging(path.parent, private)
        except OSError as error:
            raise _cannot_write_to(path.parent, error) from error
        self._begun.append((folder / path.name, path))
        return folder / path.name

    def write(self, path: Path, content: str | bytes) -> None:
        """Write ``content``, a text as UTF-8, and verify it."""
        # names of files can hold bytes that are no text
        store(self.begin(path), content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._place()
            elif isinstance(error, OSError) and error.errno in OF_THE_DISK and self._begun:
                raise cannot_write(self._begun[-1][1], error) from error
        finally:
            for temporary, _ in self._begun:
                close_staging(temporary.parent)

    def _place(self) -> None:
        for temporary, path in self._begun:
            with _as_output_error(path):
                sync(temporary)
        with placing:
            for temporary, path in self._begun:
                with _as_output_error(path):
                    put(temporary, path)
                _placed.add(path)
        for folder in {path.parent for _, path in self._begun}:
            with _as_output_error(folder):
                sync(folder)


@contextlib.contextmanager
def _as_output_error(path: Path) -> Iterator[None]:
    """Turn an OSError into the OutputError that names the file."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def any_file_written() -> bool:
    """Whether this process has written any file for the user."""
    return bool(_placed)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write one file, a text as UTF-8, whole or not at all; errors as of :class:`OutputFiles`."""
    with OutputFiles() as files:
        files.write(path, content)


def write_private(path: Path, text: str) -> None:
    """Write one file that only this user can read, whole or not at all; errors as of :class:`OutputFiles`."""
    with contextlib.suppress(OSError):  # reported below
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with OutputFiles() as files:
        temporary = files.begin(path, private=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(0o600)


def check_writable(path: Path) -> None:
    """Make the folder of ``path`` if absent, and check that a file of that name can be written there.

    Leftovers of killed processes in the folder are removed.

    Raises:
        UsageError: it cannot be.
    """
    _refuse_folder(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        with staging_folder(path.parent) as folder:
            _try_name(folder, path)
    except OSError as error:
        raise _cannot_write_to(path.parent, error) from error


def _try_name(folder: Path, path: Path) -> None:
    """Make an empty file in ``folder`` with the name of ``path``; UsageError where the disk does not take it."""
    try:
        (folder / path.name).touch()
        made = {same_name(name) for name in os.listdir(folder)}
    except OSError as error:
        failure = cannot_write(path, error)
        raise UsageError(failure.cause, failure.remedy) from error
    if same_name(path.name) not in made:  # Windows makes something else of "a:b", "a." and "NUL"
        raise UsageError(
            f"{path.name} cannot be the name of a file on the disk {mount_point_of(path)}.",
            "Choose another name, of letters, digits, '-' and '_'.",
        )


def _refuse_folder(path: Path) -> None:
    """Refuse a folder, and a name that the disk does not take."""
    try:
        is_folder = path.is_dir()
        if not is_folder:
            path.lstat()  # is_dir is silent about names that are too long
    except FileNotFoundError:
        return
    except NotADirectoryError:  # above it; reported where the folder is made
        return
    except OSError as error:
        failure = cannot_write(path, error)
        raise UsageError(failure.cause, failure.remedy) from error
    if is_folder:
        raise UsageError(f"{path} is a folder, not a file.", "Name a file.")


def _cannot_write_to(folder: Path, error: OSError) -> UsageError:
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
        return UsageError(f"{there} is not a folder.", "Name a folder, or a file in one.")
    return UsageError(f"The folder {folder} cannot be written to: {error.strerror}.", _REMEDY)

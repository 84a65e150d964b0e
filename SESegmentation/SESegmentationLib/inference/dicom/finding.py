"""Which DICOM files a path leads to, and which of them cannot be read or are missing."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pydicom

from .headers import Header, UnreadableError

#: names that end so are meant as DICOM files
_ENDINGS = (".dcm", ".dicom", ".dic", ".ima")


@dataclass(frozen=True)
class Fault:
    """A file that cannot be used.

    Attributes:
        path: the file.
        what: what is wrong with it, to go on after its name.
        series: UID of its series, as far as it is known.
    """

    path: Path
    what: str
    series: str = ""


@dataclass
class Found:
    """DICOM files.

    Attributes:
        headers: those that are whole.
        faults: those that are not.
    """

    headers: list[Header] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @classmethod
    def at(cls, path: Path) -> Found:
        """Look at the file ``path``, or at all files of the folder ``path`` and of the folders in it.

        A DICOMDIR stands for the folder in which it is. Other kinds of files are passed over, those whose name begins
        with a dot too.
        """
        found, doubtful, directories = cls(), [], []
        for file in _files(path, found.faults):
            try:
                header = Header.read(file)
            except UnreadableError as error:
                doubtful.append(Fault(file, str(error)))
                continue
            if header is None:
                doubtful.append(Fault(file, "is no DICOM file"))
            elif header.is_directory:
                if path.is_file():
                    return cls.at(path.parent)
                directories.append(file)
            elif header.damage:
                found.faults.append(Fault(file, header.damage, header.text("SeriesInstanceUID")))
            else:
                found.headers.append(header)
        images = {(header.path.parent, _pattern(header.path.name)) for header in found.headers if header.is_image}
        for fault in doubtful:  # by its name an image, or one more of those beside it
            if fault.path.suffix.lower() in _ENDINGS or (fault.path.parent, _pattern(fault.path.name)) in images:
                found.faults.append(fault)
        for directory in directories:
            found.faults += _missing(directory)
        return found


def _files(path: Path, faults: list[Fault]) -> Iterator[Path]:
    """Files in the order of their names; folders that cannot be looked into are added to ``faults``."""
    if not path.is_dir():
        yield path
        return

    def refused(error: OSError) -> None:
        faults.append(Fault(Path(error.filename), f"cannot be opened: {error.strerror}"))

    for folder, folders, names in os.walk(path, onerror=refused):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and _may_be_read(Path(folder, name)):
                yield Path(folder, name)


def _may_be_read(file: Path) -> bool:
    """False for pipes, devices and the like, which may never end."""
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except OSError:  # a link that leads nowhere, for instance: reading it will tell
        return True


def _pattern(name: str) -> str:
    """A name without what numbers the files of a series."""
    return re.sub(r"[0-9A-F]*[0-9][0-9A-F]*", "#", name, flags=re.IGNORECASE)


def _missing(directory: Path) -> Iterator[Fault]:
    """The files that a DICOMDIR lists and that are not there."""
    try:
        listed = list(_listed(directory))
    except Exception:  # whatever a damaged DICOMDIR makes the parser raise; the files are found without it
        return
    there = {file.relative_to(directory.parent).as_posix().upper() for file in _files(directory.parent, [])}
    for series, parts in listed:
        if "/".join(parts).upper() not in there:
            yield Fault(directory.parent.joinpath(*parts), f"is missing ({directory.name} lists it)", series)


def _listed(directory: Path) -> Iterator[tuple[str, list[str]]]:
    """UID of the series, and the path in parts, of every file that a DICOMDIR lists in a series."""
    records = {record.seq_item_tell: record for record in pydicom.dcmread(directory).DirectoryRecordSequence}
    for series in records.values():
        if series.DirectoryRecordType != "SERIES":
            continue
        record, seen = records.get(series.OffsetOfReferencedLowerLevelDirectoryEntity), set()
        while record is not None and id(record) not in seen:
            seen.add(id(record))
            if parts := record.get("ReferencedFileID"):
                yield str(series.SeriesInstanceUID), [parts] if isinstance(parts, str) else [*parts]
            record = records.get(record.OffsetOfTheNextDirectoryRecord)

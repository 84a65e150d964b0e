"""The DICOM files that a path leads to, the series among them, and choosing one."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pydicom

from ...errors import SERIES_REMEDY, InputError
from ...plain_text import some_of
from . import DICOM_ENDINGS
from .headers import DicomHeader, UnreadableError, opened_dicom, text_of

#: what holds pixels, or is laid over them, and is no scan
_NO_SCANS = {"SEG": "a segmentation", "RTDOSE": "a dose", "RTSTRUCT": "contours", "RTPLAN": "a treatment plan"}
_MOST_LISTED = 20


@dataclass(frozen=True)
class Fault:
    """A file that cannot be used.

    Attributes:
        path: the file.
        what: what is wrong with it, worded to follow its name.
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

    headers: list[DicomHeader] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @classmethod
    def at(cls, path: Path) -> Found:
        """Look at the file ``path``, or at all files of the folder ``path`` and of the folders in it.

        A DICOMDIR stands for the folder in which it is. Other kinds of files are ignored, as are those whose name
        begins with a dot.
        """
        found, doubtful, directories = cls(), [], []
        for file in _files(path, found.faults):
            try:
                header = DicomHeader.read(file)
            except UnreadableError as error:
                doubtful.append(Fault(file, str(error)))
                continue
            if header is None:
                doubtful.append(Fault(file, "is not a DICOM file"))
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
            if fault.path.suffix.lower() in DICOM_ENDINGS or (fault.path.parent, _pattern(fault.path.name)) in images:
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
    with opened_dicom(directory) as content:
        records = {record.seq_item_tell: record for record in pydicom.dcmread(content).DirectoryRecordSequence}
    for series in records.values():
        if series.DirectoryRecordType != "SERIES":
            continue
        record, seen = records.get(series.OffsetOfReferencedLowerLevelDirectoryEntity), set()
        while record is not None and id(record) not in seen:
            seen.add(id(record))
            if parts := record.get("ReferencedFileID"):
                yield str(series.SeriesInstanceUID), [parts] if isinstance(parts, str) else [*parts]
            record = records.get(record.OffsetOfTheNextDirectoryRecord)


@dataclass(frozen=True)
class Series:
    """Files of one series and of one kind.

    Attributes:
        uid: its UID; empty where the files have none.
        headers: the files, at least one.
    """

    uid: str
    headers: Sequence[DicomHeader]

    @cached_property
    def no_scan(self) -> str:
        """What it is, where it is no scan; else empty."""
        return _no_scan(self.headers[0])

    @property
    def number(self) -> str:
        """Its number as text; empty where it has none."""
        return self.headers[0].text("SeriesNumber")

    @property
    def description(self) -> str:
        """How it is called; empty where it has no name."""
        return self.headers[0].text("SeriesDescription")

    def __str__(self) -> str:
        """One entry of a list of series."""
        images = sum(header.number("NumberOfFrames") or 1 for header in self.headers)
        name = f' "{self.description}"' if self.description else ""
        modality = self.headers[0].text("Modality")
        count = f"{images} image{'s' if images != 1 else ''}"
        return f"{self.number or 'without number'}{name} ({f'{modality}, ' if modality else ''}{count}, UID {self.uid})"

    def is_meant(self, fault: Fault) -> bool:
        """Whether a file that cannot be used may be one of this series: its UID may be cut off, or not be known."""
        if fault.series:
            return self.uid.startswith(fault.series)
        return any(header.path.parent == fault.path.parent for header in self.headers)


def choose_series(found: Found, wanted: str | None, path: Path) -> Series:
    """The one series of images that is meant.

    Args:
        found: the files.
        wanted: number, description or part of it, or UID; None where there is only one.
        path: where they were found, for messages.

    Raises:
        InputError: there is none, several, or a file of it cannot be used.
    """
    every = grouped(found.headers)
    scans = [series for series in every if not series.no_scan]
    chosen = scans if wanted is None else _matching(scans, wanted) or _matching(every, wanted)
    if not chosen and not every:
        refuse_faults(found.faults)
        raise InputError(
            f"{path} holds no DICOM images.", "Give the folder with the files of a series, or a volume's file."
        )
    if not chosen and wanted is not None:
        raise InputError(f"{path} holds no series {wanted}. It holds {_list(scans or every)}.", "Choose one of them.")
    if not chosen or (len(chosen) == 1 and chosen[0].no_scan):
        refuse_faults(found.faults)
        kinds = sorted({series.no_scan for series in chosen or every})
        raise InputError(
            f"{path} is not a scan: it holds {', '.join(kinds)}.",
            "Give the images that it was made from; label maps are read from NIfTI and .seg.nrrd files.",
        )
    if len(chosen) > 1:
        raise InputError(
            f"{path} holds {len(chosen)} DICOM series{f' that are called {wanted}' if wanted else ''}: "
            f"{_list(chosen)}.",
            SERIES_REMEDY,
        )
    refuse_faults([fault for fault in found.faults if chosen[0].is_meant(fault)])
    _refuse_mixture(chosen[0], path)
    return chosen[0]


def grouped(headers: Sequence[DicomHeader]) -> list[Series]:
    """The series of files, in their order; files of another kind within a series form one of their own."""
    groups: dict[tuple[str, str], list[DicomHeader]] = {}
    for header in headers:
        groups.setdefault((header.text("SeriesInstanceUID"), _no_scan(header)), []).append(header)
    return [Series(uid, members) for (uid, _), members in groups.items()]


def _no_scan(header: DicomHeader) -> str:
    modality, kind = header.text("Modality").upper(), header.class_name
    for name, words in _NO_SCANS.items():
        if modality == name:
            return f"{words} ({name})"
    if "Segmentation" in kind:
        return f"a segmentation ({kind.removesuffix(' Storage')})"
    if "RT Dose" in kind or "DoseGridScaling" in header.dataset:
        return "a dose (RTDOSE)"
    if "Parametric Map" in kind:
        return "a parametric map"
    return "" if header.is_image else f"no image ({kind.removesuffix(' Storage') or modality or 'of no known kind'})"


def _matching(every: Sequence[Series], wanted: str) -> list[Series]:
    sought = wanted.strip().casefold()
    exact = [series for series in every if sought in (series.uid, series.number, series.description.casefold())]
    return exact or [series for series in every if sought and sought in series.description.casefold()]


def _list(every: Sequence[Series]) -> str:
    ordered = sorted(every, key=lambda s: (not s.number, len(s.number), s.number, s.uid))
    more = f"; and {len(ordered) - _MOST_LISTED} more" if len(ordered) > _MOST_LISTED else ""
    return "; ".join(str(series) for series in ordered[:_MOST_LISTED]) + more


def refuse_faults(faults: Sequence[Fault]) -> None:
    """Raise InputError where there are files that cannot be used."""
    if not faults:
        return
    first, *others = faults
    also = f" The same holds for {some_of(fault.path.name for fault in others)}." if others else ""
    raise InputError(
        f"{first.path} {first.what}, so the series is incomplete.{also}",
        "Copy or export it again; if it does not belong to the series, move it into another folder.",
    )


def _refuse_mixture(series: Series, path: Path) -> None:
    """Raise InputError where files of one series say that they belong to several patients, studies or places.

    Some programs that remove names give the series of all patients one UID.
    """
    kinds = {"PatientID": "patients", "StudyInstanceUID": "studies", "FrameOfReferenceUID": "frames of reference"}
    for keyword, words in kinds.items():
        values = {text_of(header.dataset, keyword): header.path.name for header in reversed(series.headers)}
        values.pop("", None)
        if len(values) > 1:
            raise InputError(
                f"The files of the series in {path} are of {len(values)} {words} ({keyword}): "
                f"{some_of(sorted(values.values()), 2)} for two.",
                "Put the files of one scan into a folder of their own.",
            )

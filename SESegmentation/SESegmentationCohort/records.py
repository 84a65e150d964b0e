"""Records: one file per scan with its outcome, written by one process only; the table is made from them.

They are in the folder ``records`` of the results. A record is written after all files that it lists.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePath
from typing import Any

from SESegmentationLib.errors import SegmentationError
from SESegmentationLib.files import OutputFiles, write_whole
from SESegmentationLib.files.json_files import read_json, to_json
from SESegmentationLib.models import sha256_of

FOLDER = "records"
#: folder for results that somebody has changed, or that are of another scan, moved there before others replace them
CHANGED_FOLDER = "changed"
_ENDING = ".json"
FORMAT = "SESegmentation cohort 1"
SEGMENTED, NOTHING, FAILED = "segmented", "nothing found", "failed"


@dataclass(frozen=True)
class Record:
    """What became of one scan.

    Attributes:
        name: of the case.
        input: the scan as messages name it.
        model: name of the model.
        state: ``SEGMENTED``, ``NOTHING`` or ``FAILED``.
        key: SHA-256 of all that the result depends on.
        content: SHA-256 of the input; None where that could not be read.
        outputs: SHA-256 of each file by its place below the results.
        seconds: from reading to writing, in s.
        report: of :func:`SESegmentationLib.report.build_report`; None where it failed.
        error: code, cause and remedy of a failure; of a scan that has a result, of a later attempt.
        picture: of :func:`SESegmentationExport.sheet.thumbnail`, in base 64.
        settings: :attr:`.CohortSettings.recorded` of the run that segmented it.
    """

    name: str
    input: str
    model: str
    state: str
    key: str
    content: str | None
    outputs: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    report: dict[str, Any] | None = None
    error: dict[str, str] | None = None
    picture: str | None = None
    settings: dict[str, Any] | None = None

    def to_json(self) -> str:
        """The content of its file."""
        return to_json({"format": FORMAT, **asdict(self)}) + "\n"

    @classmethod
    def from_dict(cls, entry: Any) -> Record:
        """What :meth:`to_json` wrote; ValueError where it is something else."""
        if not isinstance(entry, Mapping) or entry.get("format") != FORMAT:
            raise ValueError("it is not a record")
        kinds: dict[str, Any] = {"outputs": dict, "seconds": int | float, "report": dict}
        kinds |= {"error": dict, "settings": dict}
        may_lack = ("content", "report", "error", "picture", "settings")
        values: dict[str, Any] = {name: entry.get(name) for name in (each.name for each in fields(cls))}
        for name, value in values.items():
            if not (isinstance(value, kinds.get(name, str)) or (value is None and name in may_lack)):
                raise ValueError(f"{name} is not valid")
        record = cls(**values)
        expected = record.error if record.state == FAILED else record.report
        if record.state not in (SEGMENTED, NOTHING, FAILED) or expected is None:
            raise ValueError("its state is not as it should be")
        if not all(isinstance(digest, str) and _is_below(place) for place, digest in record.outputs.items()):
            raise ValueError("outputs is not as it should be")
        return record


def _is_below(place: str) -> bool:
    path = PurePath(place)  # as this system understands it: Windows knows backslashes, and drives
    return bool(path.parts) and ".." not in path.parts and not path.anchor


class Records:
    """The records in a folder of results.

    Args:
        out: the folder.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.folder = out, out / FOLDER

    def path(self, name: str) -> Path:
        """The file of a case's record."""
        return self.folder / f"{name}{_ENDING}"

    def exist(self) -> bool:
        """Whether there is any."""
        return next(self.files(), None) is not None

    def files(self) -> Iterator[Path]:
        """All of them, in no order."""
        for place, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            yield from (Path(place, name) for name in names if name.endswith(_ENDING))

    def stamps(self) -> dict[Path, tuple[int, int]]:
        """Modification time in ns and inode by file, to notice changed and new records."""
        stamps = {}
        for path in self.files():
            with contextlib.suppress(OSError):
                status = path.stat()
                stamps[path] = status.st_mtime_ns, status.st_ino
        return stamps

    def read(self, name: str) -> Record | None:
        """The record of a case; None where there is none, or a damaged one, which is as good as none."""
        return _read(self.path(name))

    def all(self) -> Iterator[Record]:
        """All that can be read, by name."""
        for path in sorted(self.files()):
            if record := _read(path):
                yield record

    def count_others(self, names: Iterable[str]) -> int:
        """How many there are of other cases: of scans that were removed, or had other names."""
        return len({*self.files()} - {self.path(name) for name in names})

    def is_done(self, record: Record) -> bool:
        """Whether a case was segmented, and all of its outputs are there as they were written."""
        try:
            return record.state != FAILED and all(
                sha256_of(self.out / place) == digest for place, digest in record.outputs.items()
            )
        except OSError:
            return False

    def set_changed_aside(self, record: Record, others: bool = False) -> None:
        """Move outputs that are no longer as they were written, such as corrected ones, into ``CHANGED_FOLDER``.

        Args:
            record: lists them.
            others: move those that are as they were written, too.
        """
        for place, digest in record.outputs.items():
            path = self.out / place
            if not path.is_file() or (not others and sha256_of(path) == digest):
                continue
            for number in itertools.count():
                aside = self.out / CHANGED_FOLDER / (str(number) if number else "") / place
                if not aside.exists():
                    break
            aside.parent.mkdir(parents=True, exist_ok=True)
            path.rename(aside)

    def place_of(self, path: Path) -> str:
        """An output as records list it."""
        return path.relative_to(self.out).as_posix()

    def remove_outputs(self, record: Record | None, but: Mapping[str, str] | None = None) -> None:
        """Remove the files of an earlier record, except for ``but``: they are of another input, model or option."""
        for place in record.outputs if record else ():
            if place not in (but or {}):
                (self.out / place).unlink(missing_ok=True)

    def fail(
        self,
        name: str,
        source: str,
        model: str,
        key: str,
        content: str | None,
        error: SegmentationError,
        seconds: float,
    ) -> Record:
        """Write that a case failed; OutputError where even that cannot be written.

        A result that it has already stays, unless it is known to be of another content: a scan that cannot be read now,
        on a disk that is not connected, has not changed. One of another scan with the same name is set aside.
        """
        about = {"code": error.code, "cause": error.cause, "remedy": error.remedy}
        known = self.read(name)
        same = known and (source == known.input if content is None else content == known.content)
        if known and known.state != FAILED and same:
            record = replace(known, error=about)
        else:
            record = Record(name, source, model, FAILED, key, content, seconds=round(seconds, 3), error=about)
            if known:
                self.set_changed_aside(known, others=content is None)
            self.remove_outputs(known)
        write_whole(self.path(name), record.to_json())
        return record

    def keep(self, record: Record) -> None:
        """Leave a record that still holds as it is, without the failure of a later attempt."""
        if record.error:
            write_whole(self.path(record.name), replace(record, error=None).to_json())

    def add(self, files: OutputFiles, record: Record) -> None:
        """Write a record with, and after, the files that it lists."""
        files.write(self.path(record.name), record.to_json())


def _read(path: Path) -> Record | None:
    try:
        return Record.from_dict(read_json(path))
    except (OSError, ValueError):
        return None

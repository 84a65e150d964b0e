"""Two scans of one patient compared: how each structure's volume changed, and whether the change exceeds the noise.

The noise is in the model's card (:func:`SESegmentationLib.models.sections.least_change`), measured by
``sesegment measure repeatability``. Volumes are compared, not places; only the picture shows both scans in one place,
see :mod:`.registration`.
"""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SESegmentationLib.errors import InputError, ModelError, UsageError
from SESegmentationLib.files import same_content
from SESegmentationLib.files.json_files import Fields, read_json
from SESegmentationLib.models import Label, ModelPackage
from SESegmentationLib.models.sections import least_change
from SESegmentationLib.plain_text import printable
from SESegmentationLib.result import Finding

if TYPE_CHECKING:
    import SimpleITK as sitk
    from PIL.Image import Image
    from pydicom.dataset import Dataset

DAYS_A_YEAR = 365.25
#: over a shorter time, changes are not given per year: noise would be multiplied
LEAST_DAYS = 90
NO_CHANGE = "no detectable change"
#: of the sentence that comes with changes of a model that was not measured
NOT_MEASURED = "The noise was not measured for {model}: any change may be noise."
#: the last one says whether the change exceeds the noise
COLUMNS = (
    *("value", "name", "earlier_ml", "later_ml", "change_ml", "percent", "percent_a_year", "noise_percent"),
    "exceeds_noise",
)
#: tags that all scans of a patient have in common
_OF_A_PATIENT = ("PatientID", "PatientBirthDate", "PatientSex")
#: options in a report on which volumes depend
_OPTIONS = {"fast": "with fewer views", "region": "in a region of interest only"}
_SIDE, _LINE, _GAP = 300, 20, 10
_BACKGROUND, _TEXT, _DIM = (18, 20, 24), (225, 228, 232), (140, 145, 152)


@dataclass(frozen=True)
class Change:
    """A structure at two times.

    Attributes:
        value: of its label.
        name: of the structure.
        earlier_ml, later_ml: its volumes in ml; 0 where it was not found.
        noise: below this share of the mean volume a change may be noise; None where that was not measured.
        days: between the scans; None where unknown.
    """

    value: int
    name: str
    earlier_ml: float
    later_ml: float
    noise: float | None = None
    days: float | None = None

    @property
    def ml(self) -> float:
        """The change of the volume (later minus earlier), in ml."""
        return self.later_ml - self.earlier_ml

    @property
    def percent(self) -> float | None:
        """The change in per cent of the earlier volume; None where there was none."""
        return 100 * self.ml / self.earlier_ml if self.earlier_ml else None

    @property
    def percent_a_year(self) -> float | None:
        """The change per year; None if the time between the scans is unknown or shorter than ``LEAST_DAYS``."""
        if self.percent is None or self.days is None or self.days < LEAST_DAYS:
            return None
        return self.percent * DAYS_A_YEAR / self.days

    @property
    def noise_percent(self) -> float | None:
        """The noise in per cent of the mean volume."""
        return None if self.noise is None else 100 * self.noise

    @property
    def exceeds_noise(self) -> bool | None:
        """Whether the change is larger than the noise; None where that was not measured."""
        if self.noise is None:
            return None
        return abs(self.ml) > self.noise * (self.earlier_ml + self.later_ml) / 2

    def to_dict(self) -> dict[str, Any]:
        """As JSON, by :data:`COLUMNS`."""
        return {
            "value": self.value,
            "name": self.name,
            **{key: round(getattr(self, key), 4) for key in ("earlier_ml", "later_ml")},
            "change_ml": round(self.ml, 4),
            **{key: _rounded(getattr(self, key)) for key in ("percent", "percent_a_year", "noise_percent")},
            "exceeds_noise": self.exceeds_noise,
        }

    def words(self) -> str:
        """The change in words: "+3.1 %, +1.2 % a year", or that it is within the noise."""
        if self.exceeds_noise is False or self.ml == 0:
            return NO_CHANGE
        if self.percent is None:
            return "appeared"
        if not self.later_ml:
            return "no longer found"
        yearly = "" if self.percent_a_year is None else f", {self.percent_a_year:+.1f} % a year"
        return f"{self.percent:+.1f} %{yearly}"


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 2)


class _ReportFields(Fields):
    """The fields of a report; messages say which file it is."""

    damaged = ""


def read_report(path: Path) -> dict[str, Any]:
    """The report of one scan (``--report``), as far as a comparison needs it.

    Raises:
        InputError: it is not such a report, or one of several scans.
    """
    try:
        content = read_json(path)
        fields = _ReportFields(content, "report")
        model = fields.section("model")
        known = fields.section("intracranial") if fields.has("intracranial") else None
        entries = [_ReportFields(entry, "structure") for entry in fields.sequence("structures", most=65535)]
        findings = fields.sequence("findings", most=65535) if fields.has("findings") else ()
        options = fields.section("options", {})
        return {
            "input": fields.text("input"),
            "intracranial": {"volume_ml": known.number("volume_ml", low=0)} if known else None,
            "model": {key: model.text(key) for key in ("name", "version", "weights_sha256")},
            "structures": [
                {
                    "value": entry.integer("value", low=1, high=65535),
                    "name": entry.text("name"),
                    "volume_ml": entry.number("volume_ml", low=0),
                }
                for entry in entries
            ],
            "options": {key: options.flag(key, False) for key in _OPTIONS},
            "findings": [Finding.from_dict(finding).to_dict() for finding in findings],
        }
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.", "Check its name.") from error
    except (ModelError, ValueError) as error:
        cause = error.cause if isinstance(error, ModelError) else str(error)
        raise InputError(
            f"{path} is not a report of one scan: {cause.rstrip('.')}.",
            "Give a volume, or what sesegment run --report wrote of one volume.",
        ) from error


def noise_of(package: ModelPackage | None, *reports: Mapping[str, Any]) -> dict[str, float]:
    """The share of a structure's volume that may be noise, by the name of each structure that a model can return.

    Those that were not measured are missing: all of them where a report is of fewer views. In a pipeline, one value of
    the card stands for structures of both sides.

    Args:
        package: of the model; None where it is not known.
        reports: of the scans that are compared.
    """
    from SESegmentationLib.inference.cascade import possible_structures  # numpy is not needed for the help

    if package is None or any(report["options"]["fast"] for report in reports):
        return {}
    possible = possible_structures(package.card, package.path.parent)
    shares = {label.name: least_change(package.card.repeatability, own) for own, label in possible}
    return {name: share for name, share in shares.items() if share is not None}


def compare_reports(
    earlier: Mapping[str, Any], later: Mapping[str, Any], noise: Mapping[str, float], days: float | None
) -> list[Change]:
    """The change of every structure between two reports.

    Args:
        earlier, later: reports of the same model.
        noise: of the model, see :func:`noise_of`.
        days: between the scans; None where unknown.

    Raises:
        UsageError: the reports are of different models, or of different versions of one, or have no structure in
            common.
    """
    models = [report["model"] for report in (earlier, later)]
    if models[0]["weights_sha256"] != models[1]["weights_sha256"]:
        names = " and ".join(f"{model['name']} {model['version']}" for model in models)
        if models[0]["name"] == models[1]["name"] and models[0]["version"] == models[1]["version"]:
            names += " with other weights"
        raise UsageError(
            f"The two results are of different models: {names}.", "Segment both scans with the same model."
        )
    before = {entry["name"]: entry for entry in earlier["structures"]}
    changes = [
        Change(
            value=entry["value"],
            name=entry["name"],
            earlier_ml=before[entry["name"]]["volume_ml"],
            later_ml=entry["volume_ml"],
            noise=noise.get(entry["name"]),
            days=days,
        )
        for entry in later["structures"]
        if entry["name"] in before
    ]
    if not changes:
        raise UsageError(
            "The two results have no structure in common.", "Compare two whole volumes, or two crops of one structure."
        )
    return changes


def scan_tags(path: Path, series: str | None = None) -> Dataset | None:
    """All tags of an image of a DICOM series; None of other files.

    Args:
        path: as :func:`SESegmentationLib.io.dicom.read_dicom` takes it.
        series: which of several, as there.
    """
    from SESegmentationLib.io.dicom import is_dicom

    if not path.is_dir() and not (path.is_file() and is_dicom(path)):
        return None
    from SESegmentationLib.io.dicom.headers import all_tags
    from SESegmentationLib.io.dicom.series import Found, choose_series

    return all_tags(choose_series(Found.at(path), series, path).headers[0].path)


def acquisition_date(tags: Dataset) -> datetime.date | None:
    """When a series was acquired; None where its tags do not say."""
    from SESegmentationLib.io.dicom.headers import text_of

    for keyword in ("AcquisitionDate", "SeriesDate", "StudyDate"):
        text = text_of(tags, keyword)
        if len(text) == 8 and text.isdecimal():
            try:
                return datetime.datetime.strptime(text, "%Y%m%d").date()
            except ValueError:
                continue
    return None


def same_scan(earlier: Path, later: Path) -> list[Finding]:
    """A finding where two scans, or their reports, are one or the same byte for byte."""
    if not same_content(earlier, later):
        return []
    return [Finding("same-scan", "The earlier and the later scan are the same.", "They cannot show any change.")]


def other_patient(earlier: Dataset, later: Dataset) -> list[Finding]:
    """A finding where the tags of two scans are of different patients; what only one of them tells does not count."""
    from SESegmentationLib.io.dicom.headers import text_of

    values = {keyword: [text_of(tags, keyword).casefold() for tags in (earlier, later)] for keyword in _OF_A_PATIENT}
    differing = [keyword for keyword, (first, second) in values.items() if first and second and first != second]
    if not differing:
        return []
    return [
        Finding(
            "other-patient",
            f"By their DICOM tags ({', '.join(differing)}), the scans are of different patients.",
            "Unless both are of one patient, the differences are not changes over time.",
        )
    ]


def other_options(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> list[Finding]:
    """A finding where two reports are of segmentations with different options."""
    differing = [
        f"the {when} scan {words}"
        for key, words in _OPTIONS.items()
        if earlier["options"][key] != later["options"][key]
        for when, report in (("earlier", earlier), ("later", later))
        if report["options"][key]
    ]
    if not differing:
        return []
    return [
        Finding(
            "other-options",
            f"The scans were segmented in different ways: {', '.join(differing)}.",
            "Volumes may differ for that reason alone.",
        )
    ]


def as_csv(changes: Sequence[Change]) -> str:
    """A row for each structure; a byte order mark tells spreadsheets that it is UTF-8."""
    from SESegmentationLib.report import in_spreadsheet

    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    rows = (change.to_dict() for change in changes)
    writer.writerows({key: in_spreadsheet(value) for key, value in row.items()} for row in rows)
    return "\ufeff" + text.getvalue()


def remarks(earlier: Mapping[str, Any], later: Mapping[str, Any], changes: Sequence[Change]) -> list[str]:
    """Notes on how to read the changes, a line each."""
    measured = sum(change.noise is not None for change in changes)
    if not measured:
        return []
    lines = [
        "noise: two scans of an unchanged patient differ by less in 95 of 100 cases; by chance alone, about "
        f"{0.05 * measured:.1f} of {measured} structures exceed it"
    ]
    before, after = ((report.get("intracranial") or {}).get("volume_ml") for report in (earlier, later))
    if before and after:
        change = f"{before:.0f} and {after:.0f} ml ({100 * (after / before - 1):+.1f} %)"
        lines.append(f"intracranial volume, which should not change: {change}")
    return lines


def draw_comparison(
    scans: Sequence[tuple[str, sitk.Image, sitk.Image]], labels: Sequence[Label], changes: Sequence[Change]
) -> Image:
    """Both scans with outlines, one above the other; beside them the changes, those that exceed the noise first.

    Both are shown at the same anatomy; if they cannot be aligned, each at its largest section, with a note.

    Args:
        scans: caption, volume and label map of the earlier and the later one.
        labels: of the structures.
        changes: of :func:`compare_reports`.
    """
    from PIL import Image, ImageDraw, ImageFont

    from SESegmentationLib.io.drawing import draw_slices

    from .registration import align

    (_, first, first_labels), (caption, second, second_labels) = scans
    try:
        second, second_labels = align(first, first_labels, second, second_labels)
        shown = first_labels
    except InputError:
        scans, shown = [scans[0], (f"{caption} (not aligned with the earlier scan)", second, second_labels)], None
    else:
        scans = [scans[0], (caption, second, second_labels)]

    order = sorted(changes, key=lambda change: (not change.exceeds_noise, -abs(change.percent or 0)))
    noise = ["" if change.noise_percent is None else f" (noise {change.noise_percent:.1f} %)" for change in order]
    rows = [
        (printable(change.name), change.words() + limit, change.exceeds_noise is not False)
        for change, limit in zip(order, noise, strict=True)
    ]
    height = max(2 * (_SIDE + _LINE + _GAP), (len(rows) + 1) * _LINE) + _GAP
    picture = Image.new("RGB", (3 * _SIDE + 580, height), _BACKGROUND)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    for number, (caption, image, label_map) in enumerate(scans):
        top = _GAP + number * (_SIDE + _LINE + _GAP)
        draw.text((_GAP, top), printable(caption), _TEXT, font)
        picture.paste(draw_slices(image, label_map, labels, _SIDE, shown), (_GAP, top + _LINE))
    left = 3 * _SIDE + 3 * _GAP
    for number, (name, words, stands_out) in enumerate(rows):
        colour, top = _TEXT if stands_out else _DIM, _GAP + number * _LINE
        draw.text((left, top), name, colour, font)
        draw.text((left + 260, top), words, colour, font)
    return picture

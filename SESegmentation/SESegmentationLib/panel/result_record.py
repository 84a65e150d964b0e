"""The record of a result, all but its voxels, stored with its segmentation node; and the order of its review."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan, nan
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from ..errors import SegmentationError
from ..files.json_files import Fields, parse_json
from ..io.segmentations import structure_key
from ..io.volume_image import voxels_of
from ..models import Label
from ..mrml import VolumeRegion
from ..plain_text import plain
from ..result import Finding, IntracranialVolume, SegmentationResult, StructureResult

RECORD_ATTRIBUTE = "SESegmentation.Result"
#: bounds on what is read: bytes, structures, findings, seconds or ml, positions in mm
_LARGEST_RECORD, _MOST_STRUCTURES, _MOST_FINDINGS, _LARGEST, _FARTHEST_MM = 2**21, 1024, 64, 1e7, 1e6
#: fields of a recorded structure beyond those of a result's structure
_OF_RECORD = ("doubtful_lps", "corrected")
_MODEL = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True)
class RecordedStructure(StructureResult):
    """One structure that was looked for: its result, and what the clinician corrected.

    Voxels and volume are those in the segmentation. Results of networks adapted to a patient have no expected Dice.

    Attributes:
        doubtful_lps: where its most doubtful slices cross, LPS in mm, in the segmentation's own coordinates; None where
            they are not known.
        corrected: how many voxels the clinician had added or removed before this result was written.
    """

    doubtful_lps: tuple[float, float, float] | None = None
    corrected: int = 0

    @classmethod
    def of_result(cls, structure: StructureResult, labels: sitk.Image, adapted: bool) -> RecordedStructure:
        """The record of one structure of a result with these labels."""
        slices = structure.doubtful
        return cls(
            **vars(structure)
            | {
                "confidence": min(max(structure.confidence, 0.0), 1.0),
                "centre_lps": (nan, nan, nan) if isnan(structure.centre_lps[0]) else structure.centre_lps,
                "expected_dice": None if adapted else structure.expected_dice,
            },
            doubtful_lps=None if slices is None else labels.TransformIndexToPhysicalPoint(list(slices)),
        )

    @property
    def found(self) -> bool:
        """Whether the networks found it."""
        return not isnan(self.centre_lps[0])

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return super().to_dict() | {"doubtful_lps": self.doubtful_lps, "corrected": self.corrected}

    @classmethod
    def from_dict(cls, entry: Any) -> RecordedStructure:
        """Read what :meth:`to_dict` returned, also in earlier versions; ModelError if invalid or out of bounds."""
        fields = Fields(entry, "structure")
        fields.only(*cls.__dataclass_fields__)
        fields.number("volume_ml", low=0, high=_LARGEST)
        fields.number("confidence", low=0, high=1)
        _point(fields, "centre_lps")
        earlier = {"voxels": 0, "doubtful": None, "expected_dice": None, "centre_lps": None}
        result = StructureResult.from_dict(earlier | {key: entry[key] for key in entry if key not in _OF_RECORD})
        corrected = fields.integer("corrected", 0, low=0, high=2**40)
        return cls(**vars(result), doubtful_lps=_point(fields, "doubtful_lps"), corrected=corrected)


@dataclass(frozen=True)
class ResultRecord:
    """What a result measures, and where it comes from.

    Attributes:
        volume: name of the volume.
        model: name of the model.
        model_version: its version.
        weights_sha256: SHA-256 of its weights.
        device: where the networks ran.
        seconds: how long it took, in s.
        date: when it was written, ISO 8601, UTC.
        licence: SPDX name of the weights' terms.
        attribution: the credit to give for the weights.
        adapted: how many parameters were adapted to this patient; 0: the model as it is.
        structures: every structure that was looked for.
        findings: what the user should know.
        intracranial: volume inside the skull and its error, in ml; None if unknown.
        region: to which the search was limited; None for the whole volume.
        fast: whether fewer views were taken.
    """

    volume: str
    model: str
    model_version: str
    weights_sha256: str
    device: str
    seconds: float
    date: str
    licence: str
    attribution: str
    adapted: int
    structures: tuple[RecordedStructure, ...]
    findings: tuple[Finding, ...]
    intracranial: IntracranialVolume | None = None
    region: VolumeRegion | None = None
    fast: bool = False

    @classmethod
    def of_result(
        cls,
        result: SegmentationResult,
        volume: str,
        adapted: int = 0,
        region: VolumeRegion | None = None,
        fast: bool = False,
    ) -> ResultRecord:
        """The record of a result of the volume with this name; ``adapted``, ``region`` and ``fast`` as above."""
        return cls(
            volume=cls.volume_name(volume),
            model=result.model.name,
            model_version=result.model.version,
            weights_sha256=result.model.weights_sha256,
            device=result.device,
            seconds=sum(result.timings.values()),
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            licence=result.model.licence.spdx,
            attribution=result.model.licence.attribution,
            adapted=adapted,
            structures=tuple(RecordedStructure.of_result(s, result.labels, adapted > 0) for s in result.structures),
            findings=tuple(Finding(f.code, plain(f.message), plain(f.consequence)) for f in result.findings),
            intracranial=result.intracranial,
            region=region,
            fast=fast,
        )

    @staticmethod
    def volume_name(name: str) -> str:
        """The name of a volume as records hold it."""
        return plain(name)[:200]

    @property
    def labels(self) -> list[Label]:
        """What the values of the label map mean."""
        return [structure.label for structure in self.structures]

    def with_corrections(self, before: ResultRecord | None, edited: Mapping[int, int]) -> ResultRecord:
        """The record with the corrections of a result that it replaces added up.

        Args:
            before: record of the replaced result; None where it had none.
            edited: how many voxels of it the clinician has changed, by value of the structure.
        """
        earlier = {structure_key(s.label): s.corrected for s in before.structures} if before else {}  # by any model
        structures = [
            replace(s, corrected=earlier.get(structure_key(s.label), 0) + edited.get(s.label.value, 0))
            for s in self.structures
        ]
        return replace(self, structures=tuple(structures))

    def with_volumes(self, labels: sitk.Image) -> ResultRecord:
        """The record with the volumes of a label map: that of the segmentation, after edits."""
        voxel_ml = float(np.prod(labels.GetSpacing())) / 1000
        counts = np.bincount(voxels_of(labels).ravel(), minlength=max(s.value for s in self.labels) + 1)
        structures = [
            replace(s, voxels=int(counts[s.label.value]), volume_ml=float(counts[s.label.value]) * voxel_ml)
            for s in self.structures
        ]
        return replace(self, structures=tuple(structures))

    @staticmethod
    def exists(node: slicer.vtkMRMLSegmentationNode) -> bool:
        """Whether a segmentation carries a record, readable or not."""
        return bool(node.GetAttribute(RECORD_ATTRIBUTE))

    @staticmethod
    def has_region_entry(node: slicer.vtkMRMLSegmentationNode) -> bool:
        """Whether a segmentation's record says where the search was; those of earlier versions do not."""
        try:
            return "region" in parse_json((node.GetAttribute(RECORD_ATTRIBUTE) or "{}").encode(), _LARGEST_RECORD)
        except (ValueError, TypeError):
            return False

    @classmethod
    def read(cls, node: slicer.vtkMRMLSegmentationNode | None) -> ResultRecord | None:
        """The record that a segmentation carries; None where it carries none that can be read."""
        text = node.GetAttribute(RECORD_ATTRIBUTE) if node is not None else None
        if not text:
            return None
        try:
            return cls._from_dict(parse_json(text.encode(), _LARGEST_RECORD))
        except (ValueError, SegmentationError):  # written by another version, by hand, or to do harm
            return None

    def write(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Keep the record with a segmentation."""
        entry = vars(self) | {
            "structures": [structure.to_dict() for structure in self.structures],
            "findings": [finding.to_dict() for finding in self.findings],
            "intracranial": None if self.intracranial is None else self.intracranial.to_dict(),
            "region": None if self.region is None else self.region.to_dict(),
        }
        node.SetAttribute(RECORD_ATTRIBUTE, json.dumps(entry))

    @classmethod
    def _from_dict(cls, entry: Any) -> ResultRecord:
        """The record; ModelError or ValueError if it is incomplete or out of bounds."""
        fields = Fields(entry, "record")
        fields.only(*cls.__dataclass_fields__)
        structures = tuple(map(RecordedStructure.from_dict, fields.sequence("structures", most=_MOST_STRUCTURES)))
        if not structures or len({structure.label.value for structure in structures}) < len(structures):
            raise ValueError("no structures, or two of one value")
        model = fields.text("model")
        if not _MODEL.fullmatch(model):  # a path would be looked up
            raise ValueError("no name of a model")
        date = fields.text("date", longest=64)
        datetime.datetime.fromisoformat(date)
        return cls(
            **{key: fields.text(key, "") for key in ("volume", "model_version", "weights_sha256", "device")},
            model=model,
            seconds=fields.number("seconds", low=0, high=_LARGEST),
            date=date,
            licence=fields.text("licence", ""),
            attribution=fields.text("attribution", ""),
            adapted=fields.integer("adapted", low=0),
            structures=structures,
            findings=tuple(map(Finding.from_dict, fields.sequence("findings", most=_MOST_FINDINGS))),
            intracranial=IntracranialVolume.from_dict(fields.mapping("intracranial"))
            if fields.has("intracranial")  # records of earlier versions have none, nor a region
            else None,
            region=VolumeRegion.from_dict(fields.mapping("region")) if fields.has("region") else None,
            fast=fields.flag("fast", False),
        )


def _point(fields: Fields, key: str) -> tuple[float, float, float] | None:
    return fields.numbers(key, 3, low=-_FARTHEST_MM, high=_FARTHEST_MM) if fields.has(key) else None


@dataclass(frozen=True)
class RegionTitle:
    """A row that is the title of the rows below it."""

    region: str


def review_order(structures: Sequence[RecordedStructure], calibrated: bool) -> list[int]:
    """Indices of structures: what was not found, what was not measured, then the least certain first."""
    return sorted(range(len(structures)), key=lambda index: _rank(structures[index], calibrated))


def shown_confidence(structure: RecordedStructure, calibrated: bool) -> float | None:
    """Expected Dice, or confidence, 0 to 1; None where the structure was not found or the number is not known."""
    if not structure.found:
        return None
    return structure.expected_dice if calibrated else structure.confidence


def _rank(structure: RecordedStructure, calibrated: bool) -> tuple[int, float]:
    if not structure.found:
        return 0, 0.0
    number = shown_confidence(structure, calibrated)
    return (1, structure.confidence) if number is None else (2, number)


def sides_text(texts: list[str], usual: str) -> str:
    """One text for a structure, or one line per side of a pair if its texts differ; ``usual`` ones are left out."""
    if len(set(texts)) == 1:
        return texts[0]
    sides = zip((_("L"), _("R")), texts, strict=True)
    return "\n".join(f"{side} {text}" for side, text in sides if text != usual)


def why_no_dice(structure: RecordedStructure) -> str:
    """Why there is no expected Dice, and the confidence instead; empty where there is one."""
    if not structure.found:
        return _("Not found: no expected Dice")
    if structure.expected_dice is not None:
        return ""
    text = _("Expected Dice: not measured for this structure and model. Confidence: {number} %")
    return text.format(number=round(100 * structure.confidence))

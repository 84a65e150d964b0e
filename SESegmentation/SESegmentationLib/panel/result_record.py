"""What is known of a result besides its voxels, kept with its segmentation node and so saved with the scene."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import isnan
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer

from ..errors import SegmentationError
from ..inference.result import Finding, SegmentationResult
from ..inference.voxels import voxels_of
from ..models import Label

RECORD_ATTRIBUTE = "SESegmentation.Result"


@dataclass(frozen=True)
class RecordedStructure:
    """One structure that was looked for.

    Attributes:
        label: what it is.
        volume_ml: in ml, of what is in the segmentation; 0 where it was not found.
        confidence: 0 to 1.
        expected_dice: 0 to 1; None where the model's card does not tell, as for networks adapted to a patient.
        centre_lps: LPS in mm, in the segmentation's own coordinates; None where it was not found.
        doubtful_lps: where its most doubtful slices cross, likewise; None where they are not known.
        corrected: how many voxels the clinician had added or removed before this result was written.
    """

    label: Label
    volume_ml: float
    confidence: float
    expected_dice: float | None
    centre_lps: tuple[float, float, float] | None
    doubtful_lps: tuple[float, float, float] | None
    corrected: int = 0


@dataclass(frozen=True)
class ResultRecord:
    """What a result measures, and where it comes from.

    Attributes:
        volume: name of the volume.
        model: name of the model.
        model_version: its version.
        weights_sha256: SHA-256 of its weights.
        device: where the networks ran.
        seconds: how long it took.
        date: when it was written, ISO 8601, UTC.
        licence: SPDX name of the weights' terms.
        attribution: whom to name.
        adapted: how many parameters were adapted to this patient; 0: the model as it is.
        structures: every structure that was looked for.
        findings: what the user should know.
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

    @classmethod
    def of_result(cls, result: SegmentationResult, volume: str, adapted: int = 0) -> ResultRecord:
        """The record of a result of the volume with this name; ``adapted`` as above."""
        return cls(
            volume=volume,
            model=result.model.name,
            model_version=result.model.version,
            weights_sha256=result.model.weights_sha256,
            device=result.device,
            seconds=sum(result.timings.values()),
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            licence=result.model.licence.spdx,
            attribution=result.model.licence.attribution,
            adapted=adapted,
            structures=tuple(
                RecordedStructure(
                    label=structure.label,
                    volume_ml=structure.volume_ml,
                    confidence=structure.confidence,
                    expected_dice=None if adapted else structure.expected_dice,
                    centre_lps=None if isnan(structure.centre_lps[0]) else tuple(structure.centre_lps),
                    doubtful_lps=structure.doubtful
                    and result.labels.TransformIndexToPhysicalPoint(list(structure.doubtful)),
                )
                for structure in result.structures
            ),
            findings=tuple(result.findings),
        )

    @property
    def labels(self) -> list[Label]:
        """What the values of the label map mean."""
        return [structure.label for structure in self.structures]

    def continued(self, before: ResultRecord | None, edited: Mapping[int, int]) -> ResultRecord:
        """The record as that of a result that takes the place of another.

        Args:
            before: record of the other one.
            edited: how many voxels of it the clinician has changed, by value of the structure.
        """
        earlier = {structure.label: structure.corrected for structure in before.structures} if before else {}
        structures = [
            replace(s, corrected=earlier.get(s.label, 0) + edited.get(s.label.value, 0)) for s in self.structures
        ]
        return replace(self, structures=tuple(structures))

    def measured(self, labels: sitk.Image) -> ResultRecord:
        """The record with the volumes of a label map: that of the segmentation, after edits."""
        voxel_ml = float(np.prod(labels.GetSpacing())) / 1000
        counts = np.bincount(voxels_of(labels).ravel(), minlength=max(s.value for s in self.labels) + 1)
        structures = [replace(s, volume_ml=float(counts[s.label.value]) * voxel_ml) for s in self.structures]
        return replace(self, structures=tuple(structures))

    @staticmethod
    def is_kept(node: slicer.vtkMRMLSegmentationNode) -> bool:
        """Whether a segmentation carries a record, readable or not."""
        return bool(node.GetAttribute(RECORD_ATTRIBUTE))

    @classmethod
    def read(cls, node: slicer.vtkMRMLSegmentationNode | None) -> ResultRecord | None:
        """The record that a segmentation carries; None where it carries none that can be read."""
        text = node.GetAttribute(RECORD_ATTRIBUTE) if node is not None else None
        if not text:
            return None
        try:
            return cls._from_dict(json.loads(text))
        except (ValueError, TypeError, KeyError, SegmentationError):  # written by another version, or by hand
            return None

    def write(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Keep the record with a segmentation."""
        entry = asdict(self)
        for structure, recorded in zip(entry["structures"], self.structures, strict=True):
            structure["label"] = recorded.label.to_dict()
        node.SetAttribute(RECORD_ATTRIBUTE, json.dumps(entry))

    @classmethod
    def _from_dict(cls, entry: dict[str, Any]) -> ResultRecord:
        structures = tuple(
            RecordedStructure(
                **{
                    **structure,
                    "label": Label.from_dict(structure["label"]),
                    "centre_lps": tuple(structure["centre_lps"]) if structure["centre_lps"] else None,
                    "doubtful_lps": tuple(structure["doubtful_lps"]) if structure["doubtful_lps"] else None,
                }
            )
            for structure in entry["structures"]
        )
        findings = tuple(Finding(**finding) for finding in entry["findings"])
        return cls(**{**entry, "structures": structures, "findings": findings})

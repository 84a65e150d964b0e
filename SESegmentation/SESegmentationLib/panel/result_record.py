"""What is known of a result besides its voxels, kept with its segmentation node and so saved with the scene."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import isnan
from typing import Any

import slicer

from ..inference.result import Finding, SegmentationResult

_ATTRIBUTE = "SESegmentation.Result"


@dataclass(frozen=True)
class RecordedStructure:
    """One structure that was looked for.

    Attributes:
        name: what it is.
        color: red, green, blue, 0 to 255.
        volume_ml: in ml; 0 where it was not found.
        confidence: 0 to 1.
        centre_lps: LPS in mm, in the segmentation's own coordinates; None where it was not found.
    """

    name: str
    color: tuple[int, int, int]
    volume_ml: float
    confidence: float
    centre_lps: tuple[float, float, float] | None


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
        structures: every structure that was looked for.
        findings: what the user should know.
    """

    volume: str
    model: str
    model_version: str
    weights_sha256: str
    device: str
    seconds: float
    structures: tuple[RecordedStructure, ...]
    findings: tuple[Finding, ...]

    @classmethod
    def of_result(cls, result: SegmentationResult, volume: str) -> ResultRecord:
        """The record of a result of the volume with this name."""
        return cls(
            volume=volume,
            model=result.model.name,
            model_version=result.model.version,
            weights_sha256=result.model.weights_sha256,
            device=result.device,
            seconds=sum(result.timings.values()),
            structures=tuple(
                RecordedStructure(
                    name=structure.label.name,
                    color=tuple(structure.label.color),
                    volume_ml=structure.volume_ml,
                    confidence=structure.confidence,
                    centre_lps=None if isnan(structure.centre_lps[0]) else tuple(structure.centre_lps),
                )
                for structure in result.structures
            ),
            findings=tuple(result.findings),
        )

    @staticmethod
    def is_kept(node: slicer.vtkMRMLSegmentationNode) -> bool:
        """Whether a segmentation carries a record, readable or not."""
        return bool(node.GetAttribute(_ATTRIBUTE))

    @classmethod
    def read(cls, node: slicer.vtkMRMLSegmentationNode | None) -> ResultRecord | None:
        """The record that a segmentation carries; None where it carries none that can be read."""
        text = node.GetAttribute(_ATTRIBUTE) if node is not None else None
        if not text:
            return None
        try:
            return cls._from_dict(json.loads(text))
        except (ValueError, TypeError, KeyError):  # written by another version, or by hand
            return None

    def write(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Keep the record with a segmentation."""
        node.SetAttribute(_ATTRIBUTE, json.dumps(asdict(self)))

    @staticmethod
    def clear(node: slicer.vtkMRMLSegmentationNode) -> None:
        """Take the record away from a segmentation."""
        node.RemoveAttribute(_ATTRIBUTE)

    @classmethod
    def _from_dict(cls, entry: dict[str, Any]) -> ResultRecord:
        structures = tuple(
            RecordedStructure(
                **{
                    **structure,
                    "color": tuple(structure["color"]),
                    "centre_lps": tuple(structure["centre_lps"]) if structure["centre_lps"] else None,
                }
            )
            for structure in entry["structures"]
        )
        findings = tuple(Finding(**finding) for finding in entry["findings"])
        return cls(**{**entry, "structures": structures, "findings": findings})

"""The result of a segmentation as a description for a header and an array for a frame, and back."""

from __future__ import annotations

from math import isnan
from typing import Any

import numpy as np

from ..inference.result import Finding, SegmentationResult, StructureResult
from ..models import Label, ModelCard
from .images import pack_image, unpack_image


def pack_result(result: SegmentationResult) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Description (JSON) of a result, and its labels as the only array."""
    description, voxels = pack_image(result.labels)
    structures = [
        {
            "label": structure.label.to_dict(),
            "voxels": int(structure.voxels),
            "volume_ml": float(structure.volume_ml),
            "confidence": float(structure.confidence),
            # JSON has no NaN
            "centre_lps": None if isnan(structure.centre_lps[0]) else structure.centre_lps,
        }
        for structure in result.structures
    ]
    value = {
        "labels": description,
        "structures": structures,
        "timings": result.timings,
        "findings": [vars(finding) for finding in result.findings],
        "model": result.model.to_dict(),
        "device": result.device,
    }
    return value, [voxels]


def unpack_result(value: dict[str, Any], arrays: list[np.ndarray]) -> SegmentationResult:
    """The result that :func:`pack_result` described."""
    structures = [
        StructureResult(
            label=Label.from_dict(structure["label"]),
            voxels=structure["voxels"],
            volume_ml=structure["volume_ml"],
            confidence=structure["confidence"],
            centre_lps=tuple(structure["centre_lps"] or (float("nan"),) * 3),
        )
        for structure in value["structures"]
    ]
    return SegmentationResult(
        labels=unpack_image(value["labels"], arrays[0]),
        structures=structures,
        timings=value["timings"],
        findings=[Finding(**finding) for finding in value["findings"]],
        model=ModelCard.from_dict(value["model"]),
        device=value["device"],
    )

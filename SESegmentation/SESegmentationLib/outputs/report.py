"""The report of a segmentation: volumes, confidence, timings and where all that came from, as one JSON object."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..models import ModelCard

if TYPE_CHECKING:
    import SimpleITK as sitk

    from ..inference.engine import SegmentationResult

_LIBRARIES = ("torch", "numpy", "SimpleITK", "safetensors")


def build_report(
    result: SegmentationResult,
    image: sitk.Image,
    source: Path,
    output: Path | None = None,
    timings: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The report of one volume.

    Args:
        result: what the engine found.
        image: the volume, for its geometry.
        source: where the volume was read from.
        output: where the segmentation is written.
        timings: seconds spent around the engine (reading, writing), in s.
    """
    seconds = dict(result.timings) | dict(timings or {})
    return {
        "input": str(source),
        "output": str(output) if output else None,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "volume": {"size": list(image.GetSize()), "spacing_mm": [round(size, 6) for size in image.GetSpacing()]},
        "model": model_entry(result.model),
        "device": result.device,
        "structures": [
            {
                "value": structure.label.value,
                "name": structure.label.name,
                "code": structure.label.type.to_dict(),
                "voxels": structure.voxels,
                "volume_ml": round(structure.volume_ml, 4),
                "confidence": round(structure.confidence, 4),
                "centre_lps_mm": [round(value, 2) for value in structure.centre_lps] if structure.voxels else None,
            }
            for structure in result.structures
        ],
        "findings": [
            {"code": finding.code, "message": finding.message, "consequence": finding.consequence}
            for finding in result.findings
        ],
        "timings_s": {phase: round(spent, 3) for phase, spent in seconds.items()},
        "versions": versions(),
    }


def model_entry(card: ModelCard) -> dict[str, Any]:
    """Which model it was, by name, version and hash, and its terms of use."""
    return {
        "name": card.name,
        "version": card.version,
        "weights_sha256": card.weights_sha256,
        "licence": card.licence.spdx,
        "attribution": card.licence.attribution,
    }


def versions() -> dict[str, str | None]:
    """Versions of this program, Python and the libraries that compute; None for what is not installed."""
    found: dict[str, str | None] = {"SESegmentation": __version__, "Python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = None
    return found | {"system": platform.platform()}

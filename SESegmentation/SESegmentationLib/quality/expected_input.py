"""What a model expects of a volume's size, resolution and units: known from its header, before it is read or sent.

Needs no torch, so that a panel can ask at every choice. What takes a look at the anatomy is in :mod:`.guard`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..models import ModelCard
from ..result import Finding

#: a voxel edge this many times as long as the model's is coarse
COARSE = 1.5
#: air in Hounsfield units is -1000; nothing in MRI is near that
HOUNSFIELD_AIR = -500


def expected_extent(card: ModelCard) -> np.ndarray | None:
    """Smallest and largest extent (3, 2) in mm, along right-left, posterior-anterior, inferior-superior, or None."""
    extent = card.input.get("extent_mm")
    return None if extent is None else np.broadcast_to(np.array(extent, dtype=float), (3, 2))


def is_hounsfield(lowest: float) -> bool:
    """Whether a volume with this lowest value is CT in Hounsfield units."""
    return lowest < HOUNSFIELD_AIR


def unmet_expectations(
    extent_mm: Sequence[float], spacing_mm: Sequence[float], lowest: float, card: ModelCard
) -> Iterator[Finding]:
    """Findings about a volume as an input for the model of ``card``.

    Args:
        extent_mm: of the volume along right-left, posterior-anterior, inferior-superior, outer voxels in full.
        spacing_mm: its voxel size along the same directions.
        lowest: its lowest value.
        card: the model.
    """
    yield from _extent(np.asarray(extent_mm), card)
    yield from _resolution(np.asarray(spacing_mm), card)
    yield from _modality(is_hounsfield(lowest), card)


def _extent(extent: np.ndarray, card: ModelCard) -> Iterator[Finding]:
    expected = expected_extent(card)
    if expected is None:
        return
    size = " x ".join(f"{length:.0f}" for length in extent)
    if (extent < expected[:, 0]).any():
        least = " x ".join(f"{length:.0f}" for length in expected[:, 0])
        yield Finding(
            "small-field",
            f"The field of view ({size} mm) is smaller than this model expects ({least} mm).",
            "Structures at its edges may be cut off or missed.",
        )
    if (extent > expected[:, 1]).any():
        most = " x ".join(f"{length:.0f}" for length in expected[:, 1])
        yield Finding(
            "large-field",
            f"The field of view ({size} mm) is larger than this model expects ({most} mm).",
            "Structures may be found where there are none; a region of interest helps.",
        )


def _resolution(spacing: np.ndarray, card: ModelCard) -> Iterator[Finding]:
    if (spacing > COARSE * np.array(card.spacing)).any():
        size = " x ".join(f"{length:.2g}" for length in spacing)
        model = " x ".join(f"{length:.2g}" for length in card.spacing)
        yield Finding(
            "coarse",
            f"The voxels ({size} mm) are coarser than the model's ({model} mm).",
            "Volumes of small and thin structures are inaccurate.",
        )


def _modality(hounsfield: bool, card: ModelCard) -> Iterator[Finding]:
    if hounsfield and card.modality == "MR":
        yield Finding(
            "modality",
            "This looks like CT (Hounsfield units); the model is for MRI.",
            "The result is very likely wrong.",
        )
    if not hounsfield and card.modality == "CT":
        yield Finding(
            "modality",
            "There is no air in Hounsfield units in this volume; the model is for CT.",
            "The result is very likely wrong, unless the volume lies wholly inside the body.",
        )

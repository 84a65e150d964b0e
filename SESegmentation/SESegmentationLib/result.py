"""What a segmentation gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import SimpleITK as sitk

from .models import Label, ModelCard


@dataclass(frozen=True)
class Finding:
    """Something about the input or the result that the user should know; never a reason to stop.

    Attributes:
        code: stable name for programs, for example "contrast".
        message: what was found, one sentence.
        consequence: what that means for the result, one sentence.
    """

    code: str
    message: str
    consequence: str


class Confidence(NamedTuple):
    """How sure of a structure the networks are.

    Attributes:
        value: 0 to 1, see :mod:`SESegmentationLib.quality.confidence`.
        expected_dice: the Dice with the truth that is to be expected; None where the card does not tell.
    """

    value: float
    expected_dice: float | None


@dataclass(frozen=True)
class StructureResult:
    """One structure of the result.

    Attributes:
        label: what it is.
        voxels: on the input's grid.
        volume_ml: in ml.
        confidence: 0 to 1, see :mod:`SESegmentationLib.quality.confidence`; 0 where the structure was not found.
        centre_lps: mean position of its voxels, LPS in mm; NaN where it was not found.
        expected_dice: the Dice with the truth that is to be expected, from the card's calibration; None where that
            does not tell.
        doubtful: indices (i, j, k) of the slices, one along each of the input's own axes, in which
            most wrong voxels of it are to be expected; None where the doubt is not known, or it was not found.
    """

    label: Label
    voxels: int
    volume_ml: float
    confidence: float
    centre_lps: tuple[float, float, float]
    expected_dice: float | None = None
    doubtful: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class IntracranialVolume:
    """Volume inside the skull, see :mod:`SESegmentationLib.postprocess.intracranial`.

    Attributes:
        ml: in ml.
        error_ml: root mean square error to be expected, in ml, from the card.
    """

    ml: float
    error_ml: float


@dataclass(frozen=True)
class SegmentationResult:
    """Labels, what they measure, and how they came about.

    Attributes:
        labels: label map with exactly the input's geometry, uint8 or uint16.
        structures: every structure that was looked for, found or not.
        timings: seconds by phase.
        findings: what the user should know.
        model: the card of the model.
        device: where the networks ran, for example "cpu" or "cuda".
        doubt: where asked for, the probability that a voxel's label is wrong, float32 on the input's grid, 0 where
            the networks did not look; see :mod:`SESegmentationLib.quality.confidence`. From a worker uint8, in steps of
            1/255.
        intracranial: of models of the whole head whose card tells its error, where there is a skull.
    """

    labels: sitk.Image
    structures: list[StructureResult]
    timings: dict[str, float]
    findings: list[Finding]
    model: ModelCard
    device: str
    doubt: sitk.Image | None = None
    intracranial: IntracranialVolume | None = None

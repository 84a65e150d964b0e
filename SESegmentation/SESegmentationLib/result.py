"""What a segmentation gives, and its one form as JSON: for the worker's pipes, the panel's records and reports."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan, nan
from typing import Any, NamedTuple

import SimpleITK as sitk

from .files.json_files import Fields
from .geometry import triple
from .models import Label, ModelCard

#: bounds of what is read
_LARGEST_ML, _MOST_VOXELS = 1e7, 2**40


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

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"code": self.code, "message": self.message, "consequence": self.consequence}

    @classmethod
    def from_dict(cls, entry: Any) -> Finding:
        """What :meth:`to_dict` gave; ModelError where it is something else."""
        fields = Fields(entry, "finding")
        fields.only("code", "message", "consequence")
        return cls(fields.text("code", ""), fields.text("message", ""), fields.text("consequence", ""))


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

    def to_dict(self) -> dict[str, Any]:
        """As JSON, which has no NaN."""
        return {
            "label": self.label.to_dict(),
            "voxels": int(self.voxels),
            "volume_ml": float(self.volume_ml),
            "confidence": float(self.confidence),
            "centre_lps": None if isnan(self.centre_lps[0]) else list(self.centre_lps),
            "expected_dice": None if self.expected_dice is None else float(self.expected_dice),
            "doubtful": None if self.doubtful is None else list(self.doubtful),
        }

    @classmethod
    def from_dict(cls, entry: Any) -> StructureResult:
        """What :meth:`to_dict` gave; ModelError where it is something else."""
        fields = Fields(entry, "structure")
        fields.only(*cls.__dataclass_fields__)
        centre = fields.numbers("centre_lps", 3) if fields.has("centre_lps") else None
        slices = fields.numbers("doubtful", 3, whole=True, low=0) if fields.has("doubtful") else None
        return cls(
            label=Label.from_dict(fields.mapping("label")),
            voxels=fields.integer("voxels", low=0, high=_MOST_VOXELS),
            volume_ml=fields.number("volume_ml", low=0),
            confidence=fields.number("confidence", low=0, high=2),  # sums in half precision exceed 1 by little
            centre_lps=(nan, nan, nan) if centre is None else triple(centre),
            expected_dice=fields.number("expected_dice", low=0, high=1) if fields.has("expected_dice") else None,
            doubtful=None if slices is None else triple(int(number) for number in slices),
        )


@dataclass(frozen=True)
class IntracranialVolume:
    """Volume inside the skull, see :mod:`SESegmentationLib.postprocess.intracranial`.

    Attributes:
        ml: in ml.
        error_ml: root mean square error to be expected, in ml, from the card.
    """

    ml: float
    error_ml: float

    def to_dict(self) -> dict[str, float]:
        """As JSON."""
        return {"ml": self.ml, "error_ml": self.error_ml}

    @classmethod
    def from_dict(cls, entry: Any) -> IntracranialVolume:
        """What :meth:`to_dict` gave; ModelError where it is something else, or beyond any bounds."""
        fields = Fields(entry, "intracranial")
        fields.only("ml", "error_ml")
        ml = fields.number("ml", low=1, high=_LARGEST_ML)  # shares of it are told
        return cls(ml, fields.number("error_ml", low=0, high=_LARGEST_ML))


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

    def to_dict(self) -> dict[str, Any]:
        """All but the images, as JSON."""
        return {
            "structures": [structure.to_dict() for structure in self.structures],
            "timings": self.timings,
            "findings": [finding.to_dict() for finding in self.findings],
            "model": self.model.to_dict(),
            "device": self.device,
            "intracranial": None if self.intracranial is None else self.intracranial.to_dict(),
        }

    @classmethod
    def from_dict(cls, entry: Any, labels: sitk.Image, doubt: sitk.Image | None = None) -> SegmentationResult:
        """What :meth:`to_dict` gave, with its images; ModelError where it is something else."""
        return cls(
            labels=labels,
            structures=[StructureResult.from_dict(structure) for structure in entry["structures"]],
            timings=entry["timings"],
            findings=[Finding(**finding) for finding in entry["findings"]],  # whatever file names they hold
            model=ModelCard.from_dict(entry["model"]),
            device=entry["device"],
            doubt=doubt,
            intracranial=entry["intracranial"] and IntracranialVolume.from_dict(entry["intracranial"]),
        )

"""Options and results of segmentation and refinement, and their form as JSON for pipes, records and reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan, nan
from typing import Any, Literal, NamedTuple

import SimpleITK as sitk

from .files.json_files import Fields
from .geometry import triple
from .models import Label, ModelCard

#: which grid a result lies on
Grid = Literal["auto", "input", "model"]
#: largest values that are accepted when reading
_LARGEST_ML, _MOST_VOXELS = 1e7, 2**40
#: why nothing was learnt from corrections
NOTHING_CORRECTED = "the slices hold no correction where the model looks"
NO_GAIN = "no gain is expected on the other slices"
NOTHING_SAID = "the corrections say nothing about the other slices"


@dataclass(frozen=True)
class SegmentOptions:
    """Options of a segmentation.

    Attributes:
        roi: look only inside the box round this image's voxels above 0, along its own axes; None: everywhere.
        fast: use only the view with the largest weight.
        low_memory: smaller batches; slower.
        doubt: also return the map of doubt.
        grid: of the result: that of "input" or "model", or "auto" for the model's where slices are thick.
    """

    roi: sitk.Image | None = None
    fast: bool = False
    low_memory: bool = False
    doubt: bool = False
    grid: Grid = "input"


class _ResultFields(Fields):
    """The fields of a result, or of the record or report of one."""

    damaged = "The result is damaged: "
    remedy = "Segment the volume again."


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
        """Read the output of :meth:`to_dict`; ModelError if it is something else."""
        fields = _ResultFields(entry, "finding")
        fields.only("code", "message", "consequence")
        return cls(fields.text("code", ""), fields.text("message", ""), fields.text("consequence", ""))


def _any_finding(entry: Any) -> Finding:
    """A finding whose texts may hold anything, such as names of files; ModelError if it is something else."""
    names = ("code", "message", "consequence")
    if not isinstance(entry, Mapping) or not all(isinstance(entry.get(name), str) for name in names):
        _ResultFields({}, "result").fail("findings", "code, message and consequence of each")
    return Finding(*(entry[name] for name in names))


class Confidence(NamedTuple):
    """Confidence of the networks in a structure.

    Attributes:
        value: 0 to 1, see :mod:`SESegmentationLib.inference.confidence`.
        expected_dice: the expected Dice with the truth; None if the card has no calibration for it.
    """

    value: float
    expected_dice: float | None


@dataclass(frozen=True)
class StructureResult:
    """One structure of the result.

    Attributes:
        label: what it is.
        voxels: their number, on the grid of the result's labels.
        volume_ml: in ml.
        confidence: 0 to 1, see :mod:`SESegmentationLib.inference.confidence`; 0 where the structure was not found.
        centre_lps: mean position of its voxels, LPS in mm; NaN where it was not found.
        expected_dice: the expected Dice with the truth, from the card's calibration; None if it has none.
        doubtful: indices (i, j, k) of the slices, one along each axis of the result's labels, in which most wrong
            voxels are expected; None if the doubt is unknown or the structure was not found.
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
        """Read the output of :meth:`to_dict`; ModelError if it is something else."""
        fields = _ResultFields(entry, "structure")
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
    """Volume inside the skull, see :mod:`SESegmentationLib.inference.intracranial`.

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
        """Read the output of :meth:`to_dict`; ModelError if it is something else, or out of bounds."""
        fields = _ResultFields(entry, "intracranial")
        fields.only("ml", "error_ml")
        ml = fields.number("ml", low=1, high=_LARGEST_ML)  # volumes are divided by it
        return cls(ml, fields.number("error_ml", low=0, high=_LARGEST_ML))


@dataclass(frozen=True)
class SegmentationResult:
    """Labels, their measurements, and how they were made.

    Attributes:
        labels: label map, uint8 or uint16, with exactly the input's geometry, or on the model's grid, see
            :class:`SegmentOptions`.
        structures: every structure that was looked for, found or not.
        timings: seconds by phase.
        findings: what the user should know.
        model: the card of the model.
        device: where the networks ran, for example "cpu" or "cuda".
        doubt: where asked for, the probability that a voxel's label is wrong, float32 on the grid of ``labels``, 0
            where the networks did not look; see :mod:`SESegmentationLib.inference.confidence`. From a worker uint8,
            in steps of 1/255.
        intracranial: only of whole heads with the skull, by models of whole heads whose card gives its error.
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
        """Read the output of :meth:`to_dict`, with its images; ModelError if it is something else."""
        fields = _ResultFields(entry, "result")
        timings = fields.section("timings")
        return cls(
            labels=labels,
            structures=[StructureResult.from_dict(structure) for structure in fields.sequence("structures")],
            timings={phase: timings.number(phase, low=0) for phase in fields.mapping("timings")},
            findings=[_any_finding(finding) for finding in fields.sequence("findings")],
            model=ModelCard.from_dict(fields.mapping("model")),
            device=fields.text("device"),
            doubt=doubt,
            intracranial=(
                IntracranialVolume.from_dict(fields.mapping("intracranial")) if fields.has("intracranial") else None
            ),
        )


@dataclass(frozen=True)
class StructureChange:
    """The changes of one structure by refinement.

    Attributes:
        label: which.
        gained, lost: voxels in the new result but not in the network's own one, and the reverse.
        corrected: how many of these lie where the clinician corrected; the others are the network's.
    """

    label: Label
    gained: int
    lost: int
    corrected: int

    @property
    def elsewhere(self) -> int:
        """Voxels that change outside of the corrected slices."""
        return self.gained + self.lost - self.corrected

"""The learnt correction: propagates a few corrected slices to all others, structure by structure.

A network that was trained on mistakes of other networks and on corrections of them (``networks/correction.py``)
predicts how the probabilities of each corrected structure change, and how much better that will be. A model may have a
network of its own; one serves all others. Where it expects no gain the structure stays as it is. A structure that was
not corrected changes only where a corrected one gives way.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import ModelError, reason_of
from ..files.json_files import read_json
from ..geometry import Box, grown, mask_box, placed, triple, union, whole_box, within
from ..inference.dividing_plane import divide
from ..memory import memory_errors
from ..models import ModelCard
from ..networks.correction import Corrected, CorrectionNetwork
from ..networks.quantisation import from_eight_bits
from ..progress import ReportFraction, part_of

_PACKAGE = Path(__file__).resolve().parents[1]
#: in an installed Python package; elsewhere beside the module of Slicer, as its icons are
_INSTALLED = _PACKAGE / "Correction"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "Resources" / "Correction"
#: weights of the network for models that have none of their own; a card in JSON lies beside them
ANY_MODEL = FOLDER / "any-model.safetensors"
#: voxels round a structure that the network sees too
MARGIN = 8
#: a structure of more voxels than this, margin included, is corrected in parts near the corrected slices, whose
#: intensities do not hold across a whole head, as the sensitivity of coils varies
LARGEST = 250_000
#: in voxels: the edge of these parts, their reach from a corrected slice, and the margin seen around them
PART, REACH, OVERLAP = 64, 8, 4
#: a structure of fewer voxels is corrected with its mirror image too, and both are averaged
MIRRORED = 64_000


@dataclass(frozen=True)
class CropPrediction:
    """A model's output for a crop, (k, j, i) on its grid.

    Attributes:
        image: float32, as its networks see it.
        probabilities: (C, k, j, i), background first.
        own: output channels of its result, uint8.
    """

    image: np.ndarray
    probabilities: Tensor
    own: np.ndarray


@dataclass(frozen=True)
class CropCorrections:
    """The corrections of the same crop.

    Attributes:
        channels: (k, j, i) output channels; valid where ``known`` is above 0.
        known: (k, j, i) float32: 1 where they are right, 0.5 where they were looked at, 0 elsewhere.
    """

    channels: np.ndarray
    known: np.ndarray

    def edited(self, own: np.ndarray) -> np.ndarray:
        """Where the result was changed, bool."""
        return (self.known > 0) & (self.channels != own)


@dataclass(frozen=True)
class ExpectedGain:
    """What correcting a structure is expected to gain.

    Attributes:
        dice: gain in Dice on the other slices, by the first pass.
        accepted: whether the structure is corrected, by either pass.
        divided: whether it shares slices with another by the card's plane, which follows the corrected slices.
    """

    dice: float
    accepted: bool
    divided: bool = False


@dataclass(frozen=True)
class Outcome:
    """The result of correcting a crop.

    Attributes:
        expected_gains: by output channel, of the structures that were corrected.
        box: outside of it nothing changes.
        probabilities: (C, k, j, i) in the box, with the division that the card asks for; None where nothing changes.
    """

    expected_gains: dict[int, ExpectedGain]
    box: Box | None = None
    probabilities: Tensor | None = None

    @property
    def expected(self) -> float:
        """The largest gain that is expected of a structure; minus infinity where nothing was corrected."""
        return max((gain.dice for gain in self.expected_gains.values()), default=-math.inf)

    def after_correction(self, prediction: CropPrediction, corrections: CropCorrections) -> CropPrediction:
        """The crop after the correction; corrected slices keep the model's output, which shows what was wrong."""
        if self.box is None or self.probabilities is None:
            return prediction
        probabilities, own = prediction.probabilities.clone(), prediction.own.copy()
        probabilities[(slice(None), *self.box)] = self.probabilities.to(probabilities.dtype)
        own[self.box] = self.probabilities.argmax(0).numpy()
        return replace(
            prediction, probabilities=probabilities, own=np.where(corrections.known > 0, prediction.own, own)
        )


@dataclass(frozen=True)
class LearntCorrection:
    """The network and its card.

    Attributes:
        network: set to evaluation.
        card: how it was trained, and what to expect of it.
    """

    network: CorrectionNetwork
    card: dict[str, Any]

    @classmethod
    def load(cls, weights: Path) -> LearntCorrection:
        """Read weights and the card beside them; ModelError or OutOfMemoryError where they cannot be used."""
        return _load(weights)

    @classmethod
    def of_model(cls, card: ModelCard) -> LearntCorrection:
        """The network for a model; ModelError where it cannot be used."""
        return cls.load(weights_for(card.name))

    @property
    def least_gain(self) -> float:
        """Gain in Dice; structures with a smaller expected one stay as they are."""
        return float(self.card["least_gain"])

    @property
    def second_pass_from(self) -> float:
        """Least expected gain in Dice at which a second pass corrects the output of the first; infinity by default."""
        least = self.card.get("second_pass_from")
        return math.inf if least is None else float(least)

    @property
    def adapts_from(self) -> float:
        """Divergence of a scan's statistics, in nats, from which batch norms are adapted to it; infinity by default."""
        least = self.card.get("adapts_from")
        return math.inf if least is None else float(least)

    def correct(
        self,
        prediction: CropPrediction,
        corrections: CropCorrections,
        card: ModelCard,
        report: ReportFraction = lambda fraction: None,
    ) -> Outcome:
        """Propagate corrections to the slices that nobody corrected.

        Args:
            prediction: the model's output.
            corrections: of the same crop.
            card: of the model.
            report: called with the fraction that is done; may raise to stop.
        """
        first = self._pass(prediction, corrections, card, report)
        if first.box is None or first.expected < self.second_pass_from:
            return first
        between = first.after_correction(prediction, corrections)
        second = self._pass(between, corrections, card, lambda fraction: report(1.0))
        if second.box is None:
            return first
        box = union([first.box, second.box])
        after = second.after_correction(between, corrections).probabilities[(slice(None), *box)]
        accepted = {channel for channel, gain in second.expected_gains.items() if gain.accepted}
        expected_gains = {
            channel: replace(gain, accepted=gain.accepted or channel in accepted)
            for channel, gain in first.expected_gains.items()
        }
        return Outcome(expected_gains, box, after)

    def _pass(
        self, prediction: CropPrediction, corrections: CropCorrections, card: ModelCard, report: ReportFraction
    ) -> Outcome:
        """The outcome of one pass of the correction over a crop."""
        edited = corrections.edited(prediction.own)
        channels = sorted(
            {*np.unique(prediction.own[edited]).tolist(), *np.unique(corrections.channels[edited]).tolist()} - {0}
        )
        expected_gains: dict[int, ExpectedGain] = {}
        after: dict[int, tuple[Box, Tensor]] = {}
        for number, channel in enumerate(channels):
            seen = _Structure.of(prediction, corrections, channel)
            probability, expected = self._propagate(seen.corrected, part_of(report, number, len(channels)))
            divided = card.dividing_plane is not None and card.labels[channel - 1].value in card.dividing_plane.values
            expected_gains[channel] = ExpectedGain(expected, probability is not None, divided)
            if probability is not None:
                after[channel] = (seen.box, probability)
            elif divided:  # the dividing plane is determined again all the same
                after[channel] = (seen.box, seen.corrected.probability)
        if not after:
            return Outcome(expected_gains)
        box = whole_box(prediction.own.shape) if card.dividing_plane else union([there for there, _ in after.values()])
        return Outcome(expected_gains, box, divide(_composed(prediction, after, corrections, box), card))

    def _propagate(self, corrected: Corrected, report: ReportFraction) -> tuple[Tensor | None, float]:
        """Probability of the structure after the correction, and the gain that is expected.

        Parts of the structure in which no gain is expected keep their probability; None where that holds for all.
        """
        parts = _parts(corrected)
        voxels = torch.maximum(corrected.own, corrected.labels)
        probability, gains, gain = corrected.probability.clone(), [], 0.0
        for number, (core, seen) in enumerate(parts):
            logits, expected = self._apply(corrected.within(seen))
            gains.append(expected)
            if expected >= self.least_gain:
                probability[core] = torch.sigmoid(logits)[within(core, seen)]
                gain += expected * float(voxels[core].sum() / voxels.sum())
            report((number + 1) / len(parts))
        return (probability, gain) if max(gains) >= self.least_gain else (None, max(gains))

    @torch.inference_mode()
    def _apply(self, corrected: Corrected) -> tuple[Tensor, float]:
        """Log-odds of the structure after the correction, and the gain that is expected.

        For small structures both are means over the image and its mirror image.
        """
        inputs, base = corrected.inputs()[None], corrected.base()[None]
        if base.numel() > MIRRORED:
            logits, expected = self.network(inputs, base)
            return logits[0], float(expected)
        both = (torch.cat([seen, seen.flip(-1)]) for seen in (inputs, base))
        logits, expected = self.network(*both)
        return (logits[0] + logits[1].flip(-1)) / 2, float(expected.mean())


@dataclass(frozen=True)
class _Structure:
    """One structure in the box round it.

    Attributes:
        box: in the crop.
        corrected: what the network is shown.
    """

    box: Box
    corrected: Corrected

    @classmethod
    def of(cls, prediction: CropPrediction, corrections: CropCorrections, channel: int) -> _Structure:
        """The structure of an output channel, in the result or in the corrections, with ``MARGIN`` voxels around it."""
        there = (prediction.own == channel) | ((corrections.channels == channel) & (corrections.known > 0))
        box = mask_box(there, MARGIN) or whole_box(there.shape)

        def part(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array[box], dtype=np.float32))

        probability = prediction.probabilities[channel][box].float()
        others = (1 - prediction.probabilities[0][box].float() - probability).clamp(min=0)
        is_it, is_other = (
            corrections.channels == channel,
            (corrections.channels > 0) & (corrections.channels != channel),
        )
        corrected = Corrected(
            part(prediction.image),
            part(prediction.own == channel),
            probability,
            others,
            part(corrections.known),
            part(is_it),
            part(is_other),
        )
        return cls(box, corrected)


def _composed(
    prediction: CropPrediction, after: dict[int, tuple[Box, Tensor]], corrections: CropCorrections, box: Box
) -> Tensor:
    """Probabilities in a box in which some structures are corrected; 0 or 1 where these are known.

    The other structures, and the background, share the rest. Nothing is known about these structures: where the result
    has one of them, it stays; where a corrected structure recedes, none becomes more probable than the model said.
    """
    composed = prediction.probabilities[(slice(None), *box)].float().clone()
    known = torch.from_numpy(corrections.known[box] == 1)
    channels = torch.from_numpy(corrections.channels[box].astype(np.int64))
    stays = torch.from_numpy(~np.isin(prediction.own[box], [0, *after])) & ~known
    certain = known.nonzero(as_tuple=True)
    left = torch.ones_like(composed[0])
    for channel, (there, chance) in after.items():
        inside = within(there, box)
        composed[channel][inside] = torch.where(stays[inside], composed[channel][inside], chance)
        composed[channel][certain] = (channels[certain] == channel).float()
        left -= composed[channel]
    rest = [channel for channel in range(len(composed)) if channel not in after]
    share = torch.where(stays, 1.0, left.clamp(min=0) / composed[rest].sum(0).clamp(min=1e-6))
    composed[0] *= share
    composed[rest[1:]] *= share.clamp(max=1)
    return composed / composed.sum(0)


def _parts(corrected: Corrected) -> list[tuple[Box, Box]]:
    """Where a structure is corrected, each box with what the network sees round it.

    The whole, where it is not too large; of a larger one parts that hold errors, as far as the corrected slices reach.
    """
    shape = corrected.own.shape
    if math.prod(shape) <= LARGEST:
        return [(whole_box(shape), whole_box(shape))]
    errors, known = corrected.errors().numpy(), corrected.known.numpy() > 0
    ends = [np.linspace(0, n, max(round(n / PART), 1) + 1).round().astype(int).tolist() for n in shape]
    found = []
    for sides in itertools.product(*(itertools.pairwise(side) for side in ends)):
        part = triple(slice(start, stop) for start, stop in sides)
        near = mask_box(known[part], REACH)
        if near is not None and errors[part].any():
            core = placed(near, part)
            found.append((core, grown(core, OVERLAP, shape)))
    return found


def weights_for(model: str, folder: Path = FOLDER) -> Path:
    """Weights of the network for a model: its own where there is one, otherwise those for any model."""
    own = folder / f"{model}.safetensors"
    return own if own.exists() else folder / ANY_MODEL.name


@cache
def _load(path: Path) -> LearntCorrection:
    try:
        with memory_errors():
            card = read_json(path.with_suffix(".json"))
            network = CorrectionNetwork(tuple(card["channels"]))
            weights = from_eight_bits(load_file(path))
            network.load_state_dict(
                {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}
            )
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"The network that learnt to correct cannot be loaded from {path}: {reason_of(error)}.",
            "Install the extension again; meanwhile corrections can be propagated by recalibration.",
        ) from error
    return LearntCorrection(network.eval().requires_grad_(False), card)

"""Cross-validated recalibration: no larger step than helps on corrected slices that the networks did not see.

Each part of the corrected slices is held out in turn, the networks learn from the others, and are tested on what was
held out. The largest step towards the learnt parameters that improves on the original networks is taken; none if none
does, or if nothing can be held out.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..geometry import Slices
from ..inference.crops import Crop
from ..inference.engine import Engine
from ..models import ModelCard
from ..networks.losses import mean_dice
from ..networks.weights import load_networks
from ..progress import ReportFraction, part_of
from ..result import SegmentOptions
from .adapted import AdaptedParameters, parameters_to_adapt
from .corrections import Corrections, known_channels
from .recalibration import RecalibrationSettings, recalibrate
from .training_slices import TrainingSlices, prepare_training_slices

#: steps that are tried, as shares of the way to the learnt parameters
STEPS = (1.0, 0.5, 0.25)
#: least gain in Dice on held-out slices for which a step is taken
LEAST_GAIN = 0.005
#: parts into which the corrected slices are split
PARTS = 2

Networks = dict[str, nn.Module]
ByNetwork = dict[str, list[TrainingSlices]]


def recalibrate_cross_validated(
    engine: Engine,
    image: sitk.Image,
    corrections: Corrections,
    slices: Sequence[Slices],
    settings: RecalibrationSettings,
    options: SegmentOptions,
    located: sitk.Image | None,
    report: ReportFraction,
    cross_validated: bool = True,
) -> AdaptedParameters | None:
    """The parameters that the networks of ``engine`` learn from corrected slices; None if none improve.

    Args:
        engine: with the model as it is; not modified.
        image: the volume.
        corrections: what is known of it.
        slices: the corrected ones.
        settings: how to learn.
        options, located: as of :meth:`.Engine.crops`.
        report: called with the fraction that is done; may raise to stop.
        cross_validated: if false, the whole step is taken, for comparison.

    Raises:
        InputError: the corrected slices lie where the model does not look.
        UsageError: the networks do not have the parameters that are to be trained.
    """
    networks = {name: net.to(engine.device) for name, net in load_networks(engine.package).items()}
    crops = engine.crops(image, options, located=located)
    parts = split_slices(_seen(slices, crops, corrections, engine.card), PARTS) if cross_validated else []
    if cross_validated and len(parts) < 2:
        _training_slices(engine, networks, crops, corrections)  # raises the error for them, if they are unusable
        return None
    gains = np.zeros(len(STEPS))
    for number, held_out in enumerate(parts):
        others = [entry for part in parts if part is not held_out for entry in part]
        training, test = (
            _training_slices(engine, networks, crops, Corrections.in_slices(corrections.labels, chosen))
            for chosen in (others, held_out)
        )
        adapted = recalibrate(networks, training, settings, engine.device, part_of(report, number, len(parts) + 1))
        before = _dice(networks, test)
        gains += [_dice(_between(networks, adapted, step), test) - before for step in STEPS]
    least = LEAST_GAIN * len(parts)
    good = [step for step, gain in zip(STEPS, gains, strict=True) if gain >= least]
    if not good:
        return None
    training = _training_slices(engine, networks, crops, corrections)
    whole = recalibrate(networks, training, settings, engine.device, part_of(report, len(parts), len(parts) + 1))
    return _parameters(engine, _between(networks, whole, max(good)), training, settings, max(good))


def _seen(slices: Sequence[Slices], crops: Sequence[Crop], corrections: Corrections, card: ModelCard) -> list[Slices]:
    """The corrected slices without those that lie in no crop."""

    def is_seen(axis: str, number: int) -> bool:
        one = Corrections.in_slices(corrections.labels, [Slices(axis, (number,))])
        return any(known_channels(crop, one, card)[1].any() for crop in crops)

    kept = [(entry.axis, tuple(n for n in entry.numbers if is_seen(entry.axis, n))) for entry in slices]
    return [Slices(axis, numbers) for axis, numbers in kept if numbers]


def split_slices(slices: Sequence[Slices], parts: int) -> list[list[Slices]]:
    """Corrected slices in at most ``parts`` parts, neighbours together, as they hold the same information."""
    groups: list[Slices] = []
    for entry in slices:
        numbers = np.array(entry.numbers)
        for group in np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1):
            groups.append(Slices(entry.axis, tuple(group.tolist())))
    return [groups[n::parts] for n in range(min(parts, len(groups)))]


def _training_slices(engine: Engine, networks: Networks, crops: Sequence[Crop], corrections: Corrections) -> ByNetwork:
    """The training slices of each network."""
    training: ByNetwork = {name: [] for name in networks}
    for crop in crops:
        for view in engine.card.views:
            examples = prepare_training_slices(
                networks[view.network], view, crop, corrections, engine.card, engine.device
            )
            if examples is not None:
                training[view.network].append(examples)
    if not any(training.values()):
        raise InputError(
            "The corrected slices lie where the model does not look.", "Correct slices that cross its structures."
        )
    return training


@torch.inference_mode()
def _dice(networks: Networks, test: ByNetwork) -> float:
    """Mean Dice of the structures on the known voxels, over all views."""
    found: list[tuple[Tensor, Tensor]] = []
    for name, of_network in test.items():
        for examples in of_network:
            if examples.view.volumetric:
                batches = [slice(None)]
            else:  # slice by slice, to need little memory
                numbers = examples.known.flatten(1).any(1).nonzero().flatten().tolist()
                batches = [slice(number, number + 1) for number in numbers]
            for batch in batches:
                known = examples.known[batch]
                labels = examples.logits(networks[name], batch).argmax(1)
                found.append((labels[known].cpu(), examples.target[batch][known].cpu()))
    ours, truth = (torch.cat(parts).long() for parts in zip(*found, strict=True))
    return mean_dice(ours, truth)


def _between(old: Networks, new: Networks, step: float) -> Networks:
    """Networks a part of the way from the old to the new ones."""
    if step == 1:
        return new
    moved = {name: copy.deepcopy(network) for name, network in old.items()}
    with torch.no_grad():
        for name, network in moved.items():
            for parameter, other in zip(network.parameters(), new[name].parameters(), strict=True):
                parameter.lerp_(other, step)
    return moved


def _parameters(
    engine: Engine, adapted: Networks, training: ByNetwork, settings: RecalibrationSettings, step: float
) -> AdaptedParameters:
    tensors = {
        f"{name}.{key}": parameter.detach().cpu().clone()
        for name, network in adapted.items()
        if training[name]
        for key, parameter in parameters_to_adapt(network, settings.parameters).items()
    }
    card = engine.card
    notes = {"model": card.name, "version": card.version, "parameters": settings.parameters, "step": f"{step:g}"}
    return AdaptedParameters(tensors, card.weights_sha256, notes)

"""Recalibration: a few seconds of training on the corrected slices, kept close to the old weights.

A corrected slice is known as a whole in its own view, and as a line of pixels in the slices of the other views that
cross it. Where nothing is known and the network was sure, its own probabilities serve as an anchor.

Networks with squeeze & excitation blocks recalibrate their feature maps by few parameters (Roy et al., IEEE TMI 2019);
that these adapt segmentation to a new subject from few examples is the idea of Roy et al., "Squeeze & Excite guided
few-shot segmentation of volumetric images", Medical Image Analysis 59, 2020. The settings were chosen on validation
cases; how they do on test cases is shown by ``Testing/benchmarks/refine.py``.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..inference.crops import Crop
from ..inference.device import fast_precision
from ..inference.views import PLANE_AXIS, along, logits_of, other_sides, slab, stack
from ..models import ModelCard, View
from ..networks.losses import merge_pairs, merge_target, segmentation_loss
from ..progress import part_of
from . import Corrections
from .adapted import parameters_to_adapt

#: the network was sure where it gave a class at least this probability
SURE = 0.9
#: at most this many slices of a view and crop take part
POOL = 64
#: relative frequency with which slices without a known voxel of a structure are drawn
EMPTY_SHARE = 0.2


@dataclass(frozen=True)
class TrainingSlices:
    """Slices of one view of one crop.

    Attributes:
        view: whose network learns.
        slabs: (N, T, H, W) inputs of the network; of a volumetric view (1, 1, N, H, W).
        target: (N, H, W) int64, channels; arbitrary where not known.
        known: (N, H, W) bool.
        own: (N, C, H, W) the network's probabilities before it learns, half precision.
        corrected: (N,) bool, slices most of which is known.
        pairs: channels (left, right) that are merged in this view; empty if it tells them apart.
        other_side: of every channel that of the same structure on the other side.
    """

    view: View
    slabs: Tensor
    target: Tensor
    known: Tensor
    own: Tensor
    corrected: Tensor
    pairs: list[tuple[int, int]]
    other_side: list[int]

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Indices of ``count`` slices at most; half of them corrected ones, if there are enough.

        A volumetric view's network looks at all slices anyway, so it learns from all of them.
        """
        if self.view.volumetric:
            return torch.arange(len(self.target))
        corrected = self.corrected.nonzero().flatten()
        first = corrected[torch.randperm(len(corrected), generator=generator)[: (count + 1) // 2]]
        share = torch.where((self.known & (self.target > 0)).flatten(1).any(1).cpu(), 1.0, EMPTY_SHARE)
        share[corrected] = 0
        rest = min(count - len(first), int((share > 0).sum()))
        return torch.cat([first, torch.multinomial(share, rest, generator=generator)]) if rest > 0 else first

    def logits(self, network: nn.Module, chosen: Tensor | slice, mirror: bool = False) -> Tensor:
        """The logits of ``network`` for the slices ``chosen``, or for their mirror images: (N, C, H, W), sides merged.

        As in inference, slices are padded to the view's size, and the logits of a mirror image are mirrored back.
        """
        if self.view.volumetric:
            logits = logits_of(network, self.view, self.slabs, self.other_side, mirror)[chosen].float()
        else:
            logits = logits_of(network, self.view, self.slabs[chosen], self.other_side, mirror).float()
        return merge_pairs(logits, self.pairs, torch.ones(len(logits), dtype=torch.bool, device=logits.device))

    def loss(self, network: nn.Module, chosen: Tensor, anchor: float, mirror: bool = False) -> Tensor:
        """Cross-entropy and Dice on the known voxels of the slices ``chosen``, and the anchor on the others.

        The anchor is the cross-entropy with the network's own former probabilities, where it was sure, times
        ``anchor``. With ``mirror`` the network sees mirror images.
        """
        logits = self.logits(network, chosen, mirror)
        known, target, own = self.known[chosen], self.target[chosen], self.own[chosen].float()
        by_voxel = logits.movedim(1, -1)
        loss = 0 * logits.sum()  # in case that nothing is known or sure
        if known.any():  # as one image of a single row
            loss = segmentation_loss(by_voxel[known].T[None, :, None], target[known][None, None])
        sure = (own.amax(1) >= SURE) & ~known
        if anchor and sure.any():
            entropy = -(own * F.log_softmax(logits, dim=1)).sum(1)
            loss = loss + anchor * entropy[sure].mean()
        return loss


def prepare_training_slices(
    network: nn.Module, view: View, crop: Crop, corrections: Corrections, card: ModelCard, device: torch.device
) -> TrainingSlices | None:
    """What ``network`` can learn in one view of one crop; None where nothing is known there.

    Args:
        network: before it learns, on ``device``, set to evaluation.
    """
    volumes = [torch.from_numpy(array) for array in known_channels(crop, corrections, card)]
    if not bool(volumes[1].any()):
        return None
    everything = slice(0, crop.volume.shape[PLANE_AXIS[view.plane]])
    target, known = (along(volume, view.plane, everything) for volume in volumes)
    corrected = known.float().flatten(1).mean(1) > 0.5
    image = torch.from_numpy(np.ascontiguousarray(crop.volume))
    if view.volumetric:
        kept, slabs = torch.arange(len(known)), stack(image, view.plane).to(device)
    else:
        kept = _most_known(corrected, (known & (target > 0)).flatten(1).sum(1))
        slabs = slab(image, view.plane, everything, view.thickness)[kept].to(device)
    both = card.channel_pairs
    pairs = both if view.merged else []
    target = merge_target(target[kept].to(device), pairs, torch.ones(len(kept), dtype=torch.bool, device=device))
    sides = other_sides(both, len(card.labels) + 1)
    training = TrainingSlices(view, slabs, target, known[kept].to(device), slabs[:0], corrected[kept], pairs, sides)
    with torch.no_grad():
        most = len(kept) if view.volumetric else 8
        parts = [training.logits(network, slice(n, n + most)) for n in range(0, len(kept), most)]
    return replace(training, own=torch.cat([torch.softmax(part, dim=1).half() for part in parts]))


def known_channels(crop: Crop, corrections: Corrections, card: ModelCard) -> tuple[np.ndarray, np.ndarray]:
    """Output channels, see :func:`channels_of`, and known voxels (bool) of a crop, (k, j, i)."""
    labels, known = corrections.on_grid(crop.grid)
    return _channels(crop, labels, card), _as_seen(crop, known)


def channels_of(crop: Crop, labels: sitk.Image, card: ModelCard) -> np.ndarray:
    """Output channels (int64) of a label map in a crop, (k, j, i), as its networks see it.

    Structures for which the model has no channel in this crop, such as those of the other side, are background.
    """
    return _channels(crop, crop.grid.labels_to_grid(labels), card)


def _channels(crop: Crop, labels: np.ndarray, card: ModelCard) -> np.ndarray:
    channels = np.zeros(labels.shape, dtype=np.int64)
    for channel, label in enumerate(card.labels, start=1):
        if label.value in crop.values:
            channels[labels == crop.values[label.value]] = channel
    return _as_seen(crop, channels)


def _as_seen(crop: Crop, array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array[..., ::-1] if crop.mirrored else array)


def _most_known(corrected: Tensor, structure: Tensor) -> Tensor:
    """Indices of ``POOL`` slices: the corrected ones, then those with the most known voxels of structures."""
    rank = structure.double() + corrected.double() * (structure.max() + 1)
    return rank.argsort(descending=True, stable=True)[:POOL].sort().values


@dataclass(frozen=True)
class RecalibrationSettings:
    """How to learn.

    Attributes:
        parameters: which, see :func:`.parameters_to_adapt`.
        steps: of the optimiser, for each network.
        volumetric_steps: the same for networks that see all slices at once: each step learns from all that is known.
            10 take half the time, and regain a quarter less.
        rate: initial learning rate; cosine decay to 0.
        stay: weight of half the sum of squared differences from the old values.
        anchor: weight of the cross-entropy with the network's former probabilities, where it was sure.
        batch: slices per step, over all views of all networks: three networks of one view each take as long as one
            network of three.
        pixels: approximate maximum per step; of large slices a step takes fewer, and the views in turn.
        seed: of the order of slices.
    """

    parameters: str = "se"
    steps: int = 60
    volumetric_steps: int = 20
    rate: float = 2e-2
    stay: float = 1e-3
    anchor: float = 0.1
    batch: int = 12
    pixels: int = 120_000
    seed: int = 0


def recalibrate(
    networks: Mapping[str, nn.Module],
    training: Mapping[str, Sequence[TrainingSlices]],
    settings: RecalibrationSettings,
    device: torch.device,
    report: Callable[[float], None] = lambda fraction: None,
) -> dict[str, nn.Module]:
    """Adapted copies of networks, set to evaluation.

    Args:
        networks: by name, float32, on ``device``, set to evaluation; they stay as they are. So do the statistics of
            batch norms.
        training: by network; those without any are copied only.
        report: told the fraction that is done, after every step; may raise to stop.

    Raises:
        UsageError: from :func:`.parameters_to_adapt`.
    """
    adapted = {name: copy.deepcopy(network) for name, network in networks.items()}
    learning = [name for name in adapted if training.get(name)]
    views = sum(len(training[name]) for name in learning)
    for number, name in enumerate(learning):
        share = len(training[name]) / views
        _learn(adapted[name], training[name], settings, share, device, part_of(report, number, len(learning)))
    return adapted


def _learn(
    network: nn.Module,
    training: Sequence[TrainingSlices],
    settings: RecalibrationSettings,
    share: float,
    device: torch.device,
    report: Callable[[float], None],
) -> None:
    """Train some parameters of ``network`` in place; ``share`` is the share of its slices in all."""
    network.requires_grad_(False)
    parameters = list(parameters_to_adapt(network, settings.parameters).values())
    for parameter in parameters:
        parameter.requires_grad_(True)
    old = [parameter.detach().clone() for parameter in parameters]
    optimiser = torch.optim.Adam(parameters, lr=settings.rate)
    generator = torch.Generator().manual_seed(settings.seed)
    precision = fast_precision(device)
    steps = settings.volumetric_steps if training[0].view.volumetric else settings.steps
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * (1 + math.cos(math.pi * step / steps)) / 2
        optimiser.zero_grad()
        for examples, count in _step_batches(training, settings, share, step):
            with _autocast(precision, device):
                mirror = examples.view.mirrored and step % 2 == 1
                loss = examples.loss(network, examples.draw(count, generator), settings.anchor, mirror)
            loss.backward()
        for parameter, before in zip(parameters, old, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - before, alpha=settings.stay)
        optimiser.step()
        report((step + 1) / steps)
    network.requires_grad_(False)


def _autocast(precision: torch.dtype, device: torch.device) -> contextlib.AbstractContextManager:
    if precision == torch.float32:  # even an autocast that does nothing is refused by old versions of torch, on MPS
        return contextlib.nullcontext()
    return torch.autocast(device.type, precision)


def _step_batches(
    training: Sequence[TrainingSlices], settings: RecalibrationSettings, share: float, step: int
) -> list[tuple[TrainingSlices, int]]:
    """What one step sees: a number of slices of each view, view by view since their slices differ in size."""
    area = max(examples.slabs.shape[-2] * examples.slabs.shape[-1] for examples in training)
    # a corrected slice and one that crosses it at least
    count = max(round(min(settings.batch, settings.pixels // area) * share), 2)
    views = min(len(training), count // 2)
    return [(training[(step * views + n) % len(training)], count // views) for n in range(views)]

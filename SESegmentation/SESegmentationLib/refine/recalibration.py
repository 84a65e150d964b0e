"""Recalibration: a few seconds of training on the corrected slices, kept close to the old weights.

Networks with squeeze & excitation blocks recalibrate their feature maps by few parameters (Roy et al., IEEE TMI 2019);
that these adapt segmentation to a new subject from few examples is the idea of Roy et al., "Squeeze & Excite guided
few-shot segmentation of volumetric images", Medical Image Analysis 59, 2020. The settings were chosen on validation
cases; how they do on test cases is shown by ``Testing/benchmarks/refine.py``.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..inference.device import fast_precision
from ..progress import ReportFraction, part_of
from .adapted import parameters_to_adapt
from .training_slices import TrainingSlices


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
    report: ReportFraction = lambda fraction: None,
) -> dict[str, nn.Module]:
    """Adapted copies of networks, set to evaluation.

    Args:
        networks: by name, float32, on ``device``, set to evaluation; they stay as they are. So do the statistics of
            batch norms.
        training: by network; those without any are copied only.
        report: called with the fraction that is done, after every step; may raise to stop.

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
    report: ReportFraction,
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

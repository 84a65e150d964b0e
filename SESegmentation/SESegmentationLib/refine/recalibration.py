"""Recalibration: some seconds of training on what was corrected, held near the old weights.

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

import torch
from torch import nn

from ..inference.device import fast_precision
from .lessons import Lessons
from .parameters import adapted_parameters


@dataclass(frozen=True)
class Settings:
    """How to learn.

    Attributes:
        parameters: which, see :mod:`.parameters`.
        steps: of the optimiser, for each network.
        volumetric_steps: the same for networks that see all slices at once: each step learns from all that is known.
            10 do it in half the time, and regain a quarter less (``Testing/benchmarks/refine.py --choose``).
        rate: of learning at first; it falls to 0 as a cosine.
        stay: strength of the pull towards the old values, on half the sum of squared differences.
        anchor: weight of the network's own former probabilities where it was sure.
        batch: slices a step, over all views of all networks: three networks of one view each take as long as one
            network of three.
        pixels: a step sees about so many at most; of large slices it takes fewer, and the views in turn.
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

    @classmethod
    def of(cls, parameters: str = "se", slices: int = 2) -> Settings:
        """The settings that did best for a set of parameters, and that many corrected slices."""
        anchor = _LONE_ANCHOR if slices == 1 else cls.anchor
        return replace(cls(), parameters=parameters, rate=_RATES.get(parameters, cls.rate), anchor=anchor)


#: a single slice tells little of the others: there the network is held nearer to what it was
_LONE_ANCHOR = 1.0
_RATES = {"se": 2e-2, "classifier": 5e-2, "all": 1e-3}


def recalibrate(
    networks: Mapping[str, nn.Module],
    lessons: Mapping[str, Sequence[Lessons]],
    settings: Settings,
    device: torch.device,
    report: Callable[[float], None] = lambda fraction: None,
) -> dict[str, nn.Module]:
    """Adapted copies of networks, set to evaluation.

    Args:
        networks: by name, float32, on ``device``, set to evaluation; they stay as they are. So do the statistics of
            batch norms.
        lessons: by network; those without any are copied only.
        report: told the fraction that is done, after every step; may raise to stop.

    Raises:
        UsageError: from :func:`.adapted_parameters`.
    """
    adapted = {name: copy.deepcopy(network) for name, network in networks.items()}
    learning = [name for name in adapted if lessons.get(name)]
    views = sum(len(lessons[name]) for name in learning)
    for number, name in enumerate(learning):
        share = len(lessons[name]) / views

        def told(fraction: float, number: int = number) -> None:
            report((number + fraction) / len(learning))

        _learn(adapted[name], lessons[name], settings, share, device, told)
    return adapted


def _learn(
    network: nn.Module,
    lessons: Sequence[Lessons],
    settings: Settings,
    share: float,
    device: torch.device,
    report: Callable[[float], None],
) -> None:
    """Train some parameters of ``network``, whose slices are that share of all, in place."""
    network.requires_grad_(False)
    parameters = list(adapted_parameters(network, settings.parameters).values())
    for parameter in parameters:
        parameter.requires_grad_(True)
    old = [parameter.detach().clone() for parameter in parameters]
    optimiser = torch.optim.Adam(parameters, lr=settings.rate)
    generator = torch.Generator().manual_seed(settings.seed)
    precision = fast_precision(device)
    steps = settings.volumetric_steps if lessons[0].view.volumetric else settings.steps
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * (1 + math.cos(math.pi * step / steps)) / 2
        optimiser.zero_grad()
        for lesson, count in _shares(lessons, settings, share, step):
            with _computing_in(precision, device):
                mirror = lesson.view.mirrored and step % 2 == 1
                loss = lesson.loss(network, lesson.draw(count, generator), settings.anchor, mirror)
            loss.backward()
        for parameter, before in zip(parameters, old, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - before, alpha=settings.stay)
        optimiser.step()
        report((step + 1) / steps)
    network.requires_grad_(False)


def _computing_in(precision: torch.dtype, device: torch.device) -> contextlib.AbstractContextManager:
    if precision == torch.float32:  # even an autocast that does nothing is refused by old versions of torch, on MPS
        return contextlib.nullcontext()
    return torch.autocast(device.type, precision)


def _shares(lessons: Sequence[Lessons], settings: Settings, share: float, step: int) -> list[tuple[Lessons, int]]:
    """What one step sees: a number of slices of each view, view by view since their slices differ in size."""
    area = max(lesson.slabs.shape[-2] * lesson.slabs.shape[-1] for lesson in lessons)
    # a corrected slice and one that crosses it at least
    count = max(round(min(settings.batch, settings.pixels // area) * share), 2)
    views = min(len(lessons), count // 2)
    return [(lessons[(step * views + n) % len(lessons)], count // views) for n in range(views)]

"""Fit one network to a source: schedule, moving average, validation, checkpoints, several processes.

Tensors go to safetensors and the rest to JSON inside its header: nothing is pickled.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from SESegmentationLib.errors import InputError, OutOfMemoryError, SegmentationError, UsageError
from SESegmentationLib.files import write_whole
from SESegmentationLib.inference.device import fast_precision
from SESegmentationLib.inference.views import fastest_order
from SESegmentationLib.memory import is_out_of_memory
from SESegmentationLib.models.card import View
from SESegmentationLib.networks.losses import (
    boundary_weights,
    distillation_loss,
    median_frequency_weights,
    merge_pairs,
    overlap_and_size,
    segmentation_loss,
)
from SESegmentationLib.progress import Progress, no_progress

from .processes import Log, as_first_process, rank_and_count
from .recipe import Phase, Recipe
from .sources import Batch, Source

#: steps between entries of the log
LOG_STEPS = 50


def save_checkpoint(
    path: Path, parts: dict[str, nn.Module], optimizer: torch.optim.Optimizer, state: dict[str, object]
) -> None:
    """Write modules, optimiser and plain ``state`` to ``path``, whole or not at all.

    Args:
        parts: modules by name.
        state: JSON-able values.
    """
    tensors = {f"{name}|{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer|{index}|{key}": torch.as_tensor(value) for key, value in slots.items()}
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    write_whole(path, save(tensors, metadata={"state": json.dumps(state)}))


def load_checkpoint(path: Path, parts: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore what :func:`save_checkpoint` wrote and return its ``state``.

    Raises:
        InputError: the file is damaged or belongs to another network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        for name, part in parts.items():
            part.load_state_dict(_below(tensors, name))
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in _below(tensors, "optimizer").items():
            index, slot = key.split("|")
            slots.setdefault(int(index), {})[slot] = value
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    except Exception as error:  # safetensors and torch raise many kinds for a damaged or foreign file
        raise InputError(
            f"The checkpoint {path} cannot be resumed: {error}.", "Delete it to start the training again."
        ) from error
    return state


def _below(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}|"): value for key, value in tensors.items() if key.startswith(f"{name}|")}


@dataclass
class FitState:
    """How far a fit has come.

    Attributes:
        step: steps done.
        seconds: time spent, all resumed runs together.
        left_out: steps, among those done, that were skipped for lack of time.
        history: "step" and "mean" Dice of every validation.
    """

    step: int = 0
    seconds: float = 0.0
    left_out: int = 0
    history: list[dict] = field(default_factory=list)


@dataclass(frozen=True)
class Schedule:
    """Phases one after another, under one learning rate: linear warm-up, then decay by cosine or in steps.

    Attributes:
        phases: at least one.
        peak: learning rate after the warm-up.
        warmup: steps.
        step_decays: how often the rate is divided by ten, at equal distances; 0 for cosine decay to a hundredth.
        seconds: time limit for all steps; a fit that falls behind skips steps.
    """

    phases: Sequence[Phase]
    peak: float
    warmup: int
    step_decays: int = 0
    seconds: float = math.inf

    @property
    def steps(self) -> int:
        """Optimiser steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def learning_rate(self, step: int) -> float:
        """The rate at ``step``, counted from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        part = (step - self.warmup) / max(self.steps - self.warmup, 1)
        if self.step_decays:
            return self.peak * 0.1 ** min(int((self.step_decays + 1) * part), self.step_decays)
        return self.peak * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * part)))

    def phase(self, step: int) -> Phase:
        """The phase that ``step``, counted from 0, falls into."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]

    def due(self, seconds: float) -> int:
        """Number of steps to have done or skipped after ``seconds``."""
        pixels, steps = self.work(self.steps) * min(seconds / self.seconds, 1.0), 0
        for phase in self.phases:
            each = phase.batch * phase.depth * phase.size[0] * phase.size[1]
            done = min(int(pixels / each), phase.steps)
            steps, pixels = steps + done, pixels - done * each
        return steps

    def work(self, steps: int) -> int:
        """Pixels seen in the first ``steps``, to which the time they take is proportional."""
        pixels = 0
        for phase in self.phases:
            part = min(steps, phase.steps)
            pixels += part * phase.batch * phase.depth * phase.size[0] * phase.size[1]
            steps -= part
        return pixels


def fit_network(
    network: nn.Module,
    source: Source,
    views: Sequence[View],
    pairs: Sequence[tuple[int, int]],
    recipe: Recipe,
    schedule: Schedule,
    folder: Path,
    name: str,
    device: torch.device,
    progress: Progress = no_progress,
) -> tuple[dict[str, Tensor], FitState]:
    """Train ``network`` for ``views`` and return the averaged weights and the course.

    A checkpoint ``<name>.checkpoint.safetensors`` in ``folder`` is resumed if present, and written as often as the
    recipe says. Under ``torchrun`` every process draws batches of its own and gradients are averaged; the first one
    validates, writes and reports.

    Args:
        pairs: output channels (left, right) that merged views sum.
        schedule: phases and learning rate.
        folder: for checkpoint, ``<name>.log.jsonl`` and TensorBoard events.

    Raises:
        InputError: the checkpoint is damaged or belongs to another network.
        UsageError: the recipe freezes all parameters, or none that there is.
        SegmentationError: the loss is not finite any more.
        OutOfMemoryError: a step needs more memory than there is; the last checkpoint stays.
        CancelledError: from ``progress``.
    """
    rank, world = rank_and_count()
    _freeze(network, recipe.fit.frozen)
    order = fastest_order(views[0].volumetric, device)
    network = network.to(device, memory_format=order)  # type: ignore[call-overload]  # torch's stubs lack it
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.fit.average), use_buffers=True)
    optimizer = _optimizer(network, recipe)
    parts: dict[str, nn.Module] = {"network": network, "average": average}
    checkpoint = folder / f"{name}.checkpoint.safetensors"
    state = _resumed(checkpoint, parts, optimizer)
    trained = nn.parallel.DistributedDataParallel(network) if world > 1 else network
    class_weights = None
    if recipe.fit.class_balance:
        class_weights = median_frequency_weights(source.class_counts()).to(device) ** recipe.fit.class_balance
    started = saved = time.monotonic()
    earlier, first = state.seconds, schedule.work(state.step)
    total, work = schedule.steps, schedule.work(schedule.steps)

    with Log(folder, name, state.step) if rank == 0 else nullcontext() as log:
        while state.step < total:
            rate = schedule.learning_rate(state.step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            phase = schedule.phase(state.step)
            # seeded by the step, so that a resumed run goes on exactly as an uninterrupted one
            generator = torch.Generator().manual_seed((recipe.fit.seed * 1_000_003 + state.step) * 64 + rank)
            torch.manual_seed(generator.initial_seed())
            with _memory_for(phase):
                batch = source.batch(views, phase, generator)
                network.train()
                loss = _loss(trained, batch, pairs, class_weights, recipe, device)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), 5.0)
                optimizer.step()
                average.update_parameters(network)
            before, state.step = state.step, state.step + 1

            now = time.monotonic()
            state.seconds = earlier + now - started
            # clocks differ: all processes leave out the same steps, or one would wait for gradients for ever
            late = as_first_process(max(schedule.due(state.seconds) - state.step, 0), device)
            state.step, state.left_out = state.step + late, state.left_out + late
            if log:
                if recipe.data.validation and _passed(recipe.fit.validate_every, before, state.step):
                    dice = validate(average.module, source, views, pairs, recipe, phase, device)
                    known = [value for value in dice if value is not None]
                    mean = round(sum(known) / max(len(known), 1), 4)
                    state.history.append({"step": state.step, "mean": mean})
                    log.write({"step": state.step, "validation": mean, "dice": dice})
                due = now - saved >= recipe.fit.checkpoint_seconds or state.step == total
                if due or _passed(LOG_STEPS, before, state.step):
                    entry = {"step": state.step, "loss": _finite(loss, state.step), "rate": rate}
                    log.write({**entry, "seconds": round(state.seconds, 1)})
                if due:
                    save_checkpoint(checkpoint, parts, optimizer, vars(state))
                    saved = now
                done = schedule.work(state.step)
                progress(f"train {name}", done / work, (now - started) / (done - first) * (work - done))
    return {key: value.cpu() for key, value in average.module.state_dict().items()}, state


@contextmanager
def _memory_for(phase: Phase) -> Iterator[None]:
    """Turn every way of running out of memory in a step of ``phase`` into an OutOfMemoryError that names it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"There is not enough memory to train on batches of {phase.batch} of size {list(phase.size)}.",
            "Close other programs and start again to go on; or lower batch or size in the recipe's phases, and train "
            "into another folder.",
        ) from error


def _passed(every: int, before: int, step: int) -> bool:
    """Whether a multiple of ``every`` lies after ``before``, up to ``step``; never for 0."""
    return every > 0 and step // every > before // every


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser of the parameters that are trained; the schedule sets its learning rate."""
    decay, trained = recipe.fit.weight_decay, [value for value in network.parameters() if value.requires_grad]
    if recipe.fit.optimizer == "sgd":
        return torch.optim.SGD(trained, lr=0.0, momentum=recipe.fit.momentum, weight_decay=decay)
    return torch.optim.AdamW(trained, weight_decay=decay)


def _freeze(network: nn.Module, beginnings: Sequence[str]) -> None:
    """Let parameters whose names begin so keep their values.

    Raises:
        UsageError: no parameter's name begins so, or all are frozen.
    """
    names = [name for name, _ in network.named_parameters()]
    for beginning in beginnings:
        if not any(name.startswith(beginning) for name in names):
            raise UsageError(f"No parameter of the network begins with {beginning!r}.", "Correct frozen in [fit].")
    for name, value in network.named_parameters():
        value.requires_grad_(not name.startswith(tuple(beginnings)))
    if not any(value.requires_grad for value in network.parameters()):
        raise UsageError("All parameters of the network are frozen.", "Take some out of frozen in [fit].")


def _resumed(checkpoint: Path, parts: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> FitState:
    """The state in ``checkpoint``, with its parts restored; a new one where there is no checkpoint."""
    if not checkpoint.exists():
        return FitState()
    entries = load_checkpoint(checkpoint, parts, optimizer)
    try:
        return FitState(**entries)
    except TypeError as error:
        raise InputError(
            f"The checkpoint {checkpoint} comes from another version: {error}.", "Delete it to start again."
        ) from error


def _loss(
    network: nn.Module,
    batch: Batch,
    pairs: Sequence[tuple[int, int]],
    class_weights: Tensor | None,
    recipe: Recipe,
    device: torch.device,
) -> Tensor:
    logits = _logits(network, batch, pairs, recipe, device)
    if batch.soft_target is not None:
        return distillation_loss(logits, batch.soft_target)
    pixel_weights = boundary_weights(batch.target, recipe.fit.boundary) if recipe.fit.boundary else None
    return segmentation_loss(logits, batch.target, class_weights, pixel_weights, recipe.fit.dice)


def _logits(
    network: nn.Module, batch: Batch, pairs: Sequence[tuple[int, int]], recipe: Recipe, device: torch.device
) -> Tensor:
    """Logits (N, C, H, W), left and right merged where the view asks for it."""
    # where the hardware lacks bfloat16, emulating it takes ten times as long as single precision
    fast = recipe.fit.bf16 and fast_precision(device) == torch.bfloat16
    with torch.autocast(device.type, torch.bfloat16, enabled=fast):
        logits = network(batch.images.contiguous(memory_format=fastest_order(batch.images.dim() == 5, device)))
    return merge_pairs(logits.float(), pairs, batch.merged)


def _finite(loss: Tensor, step: int) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise SegmentationError(
            f"The training diverged: at step {step} the loss is {value}.", "Lower learning_rate in the recipe's [fit]."
        )
    return value


@torch.no_grad()
def validate(
    network: nn.Module,
    source: Source,
    views: Sequence[View],
    pairs: Sequence[tuple[int, int]],
    recipe: Recipe,
    phase: Phase,
    device: torch.device,
) -> list[float | None]:
    """Dice of every class after background over a fixed set of validation slabs; None for a class not among them."""
    network.eval()
    classes = len(source.card.labels) + 1
    overlap, size = (torch.zeros(classes, dtype=torch.long, device=device) for _ in range(2))
    for index in range(recipe.fit.validation_batches):
        generator = torch.Generator().manual_seed(10_000_019 + index)
        batch = source.validation_batch(views, phase, generator)
        logits = _logits(network, batch, pairs, recipe, device)
        predicted = logits.argmax(1)
        here = overlap_and_size(predicted, batch.target, classes)
        overlap, size = overlap + here[0], size + here[1]
    return [2 * int(o) / int(s) if s else None for o, s in zip(overlap[1:], size[1:], strict=True)]

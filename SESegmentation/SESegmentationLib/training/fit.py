"""Fit one network to a source: schedule, moving average, validation, checkpoints, logs, several processes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..progress import Progress, no_progress
from .checkpoint import load_checkpoint, save_checkpoint
from .losses import merge_pairs, segmentation_loss
from .recipe import Phase, Recipe
from .sources import Source

#: seconds between checkpoints
CHECKPOINT_SECONDS = 60.0


@dataclass
class FitState:
    """How far a fit has come.

    Attributes:
        step: steps done.
        seconds: time spent, all resumed runs together.
        best_dice, best_step: best validation so far.
        stale: validations since then.
        stopped: whether it ended early.
    """

    step: int = 0
    seconds: float = 0.0
    best_dice: float = -1.0
    best_step: int = 0
    stale: int = 0
    stopped: bool = False
    history: list[dict] = field(default_factory=list)


@dataclass(frozen=True)
class Schedule:
    """Phases one after another, under one learning rate: linear warm-up, then cosine decay to a hundredth.

    Attributes:
        phases: at least one.
        peak: learning rate after the warm-up.
        warmup: steps.
    """

    phases: Sequence[Phase]
    peak: float
    warmup: int

    @property
    def steps(self) -> int:
        """Optimiser steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def learning_rate(self, step: int) -> float:
        """The rate at ``step``, counted from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        part = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.peak * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * part)))

    def phase(self, step: int) -> Phase:
        """The phase that ``step`` falls into."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]


def fit_network(
    network: nn.Module,
    source: Source,
    views: Sequence,
    pairs: Sequence[tuple[int, int]],
    recipe: Recipe,
    schedule: Schedule,
    folder: Path,
    name: str,
    device: torch.device,
    progress: Progress = no_progress,
) -> tuple[dict[str, Tensor], FitState]:
    """Train ``network`` for ``views`` and return the averaged weights and the course.

    A checkpoint ``<name>.checkpoint.safetensors`` in ``folder`` is resumed if present and written every minute. Under
    ``torchrun`` every process draws batches of its own and gradients are averaged.

    Args:
        pairs: output channels (left, right) that merged views sum.
        schedule: phases and learning rate.
        folder: for checkpoint, ``<name>.log.jsonl`` and TensorBoard events.
    """
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
    network = network.to(device, memory_format=torch.channels_last)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.fit.average), use_buffers=True)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=recipe.fit.weight_decay)
    parts: dict[str, nn.Module] = {"network": network, "average": average}
    checkpoint = folder / f"{name}.checkpoint.safetensors"
    state = FitState()
    if checkpoint.exists():
        state = FitState(**load_checkpoint(checkpoint, parts, optimizer))
    trained = nn.parallel.DistributedDataParallel(network) if world > 1 else network
    log = Log(folder, name) if rank == 0 else None
    started = saved = time.monotonic()
    earlier, first_step = state.seconds, state.step
    total = schedule.steps

    while state.step < total and not state.stopped:
        rate = schedule.learning_rate(state.step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        # seeded by the step, so that a resumed run goes on exactly as an uninterrupted one
        generator = torch.Generator().manual_seed((recipe.fit.seed * 1_000_003 + state.step) * 64 + rank)
        torch.manual_seed(generator.initial_seed())
        batch = source.batch(views, schedule.phase(state.step), generator)
        network.train()
        loss = _loss(trained, batch, pairs, recipe, device)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        average.update_parameters(network)
        state.step += 1

        now = time.monotonic()
        state.seconds = earlier + now - started
        if log and state.step % 50 == 0:
            log.write(
                {"step": state.step, "loss": float(loss.detach()), "rate": rate, "seconds": round(state.seconds, 1)}
            )
        if recipe.fit.validate_every and state.step % recipe.fit.validate_every == 0:
            phase = schedule.phase(state.step - 1)
            dice = validate(average.module, source, views, pairs, recipe, phase, device)
            _note_validation(state, dice, recipe.fit.patience)
            if log:
                log.write({"step": state.step, "validation": state.history[-1]["mean"], "dice": dice})
        if rank == 0 and (now - saved > CHECKPOINT_SECONDS or state.step == total or state.stopped):
            save_checkpoint(checkpoint, parts, optimizer, vars(state))
            saved = now
        pace = (now - started) / (state.step - first_step)
        progress(f"train {name}", state.step / total, pace * (total - state.step))
    return {key: value.cpu() for key, value in average.module.state_dict().items()}, state


def _loss(network: nn.Module, batch, pairs: Sequence[tuple[int, int]], recipe: Recipe, device: torch.device) -> Tensor:
    images = batch.images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.fit.bf16):
        logits = network(images)
    return segmentation_loss(merge_pairs(logits.float(), pairs, batch.merged), batch.target)


@torch.no_grad()
def validate(
    network: nn.Module,
    source: Source,
    views: Sequence,
    pairs: Sequence[tuple[int, int]],
    recipe: Recipe,
    phase: Phase,
    device: torch.device,
) -> list[float | None]:
    """Dice of every class after background over a fixed set of validation slabs; None for a class not among them."""
    network.eval()
    overlap = size = 0
    for index in range(recipe.fit.validation_batches):
        generator = torch.Generator().manual_seed(10_000_019 + index)
        batch = source.validation_batch(views, phase, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.fit.bf16):
            logits = network(batch.images.contiguous(memory_format=torch.channels_last))
        predicted = merge_pairs(logits.float(), pairs, batch.merged).argmax(1)
        classes = logits.shape[1]
        overlap += torch.bincount(batch.target[predicted == batch.target], minlength=classes)
        size += torch.bincount(batch.target.flatten(), minlength=classes)
        size += torch.bincount(predicted.flatten(), minlength=classes)
    return [2 * int(o) / int(s) if s else None for o, s in zip(overlap[1:], size[1:], strict=True)]


def _note_validation(state: FitState, dice: list[float | None], patience: int) -> None:
    known = [d for d in dice if d is not None]
    mean = sum(known) / max(len(known), 1)
    state.history.append({"step": state.step, "mean": round(mean, 4)})
    if mean > state.best_dice:
        state.best_dice, state.best_step, state.stale = mean, state.step, 0
    else:
        state.stale += 1
    state.stopped = bool(patience) and state.stale >= patience


class Log:
    """The course of a fit as JSON lines, and as TensorBoard events where TensorBoard is installed."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name}.log.jsonl"
        self._board: Callable | None = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._board = SummaryWriter(str(folder / "tensorboard" / name)).add_scalar

    def write(self, entry: dict) -> None:
        """Append one line; numbers go to TensorBoard under their keys."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if self._board:
            for key, value in entry.items():
                if key != "step" and isinstance(value, int | float):
                    self._board(key, value, entry["step"])

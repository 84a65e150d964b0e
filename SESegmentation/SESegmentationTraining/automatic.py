"""The automatic recipe: chosen from a look at the data, sized for the time there is, written to a file.

It is an ordinary recipe. The file is kept beside the model, with the reasons for its entries, to be edited and used
again.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import tomli_w
import torch

from SESegmentationLib.errors import UsageError
from SESegmentationLib.files import write_whole
from SESegmentationLib.files.json_files import without_nulls
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.models import ModelPackage
from SESegmentationLib.models.card import ModelCard
from SESegmentationLib.networks import build_network
from SESegmentationLib.networks.losses import merge_pairs, segmentation_loss
from SESegmentationLib.progress import Progress, no_progress

from . import begun
from .choices import Machine
from .dataset import Case, find_cases, load_case, split_by_recipe
from .fingerprint import DESCRIPTION_NAME, Description
from .recipe import Phase, Recipe
from .recipe_draft import RecipeDraft, draft_recipe
from .slabs import VolumeBank
from .sources import as_batch, draw_slabs, mirror_table
from .training_plan import draft_card
from .transforms import augment_intensity

#: the name that stands for the automatic recipe
AUTOMATIC = "auto"
RECIPE_NAME = "recipe.toml"
#: default duration of a training
DEFAULT_MINUTES = 60.0
#: share of the time for optimiser steps; the rest is for reading, validation and measurement
SHARE_OF_STEPS = 0.85
#: fewest steps, whatever the time: fewer learn nothing
FEWEST_STEPS = 200
#: least time for steps, however long reading and measuring take: a share of the whole, and seconds
LEAST_SHARE = 0.25
LEAST_SECONDS = 20.0
#: cases that a step is timed on
TIMED_CASES = 2


def automatic_recipe(
    dataset: Path,
    output: Path,
    device: str = "auto",
    minutes: float | None = None,
    progress: Progress = no_progress,
) -> Recipe:
    """The automatic recipe for ``dataset``: the one in ``output`` where a training was begun with one, else a new one.

    A new one is written to ``training/recipe.toml`` in ``output``. One that is there without a training, because the
    dataset was refused, is made anew: the dataset may have been corrected since.

    Args:
        dataset: folder in nnU-Net's layout, with ``dataset.json``.
        output: folder of the model, which gets its name.
        device: "auto", "cpu" or "cuda"; a training step is timed there.
        minutes: that the training may take; DEFAULT_MINUTES if None.

    Raises:
        InputError: the dataset cannot be used.
        UsageError: a training for another time or for other labels was begun in ``output``, or several processes ask
            for a new recipe.
    """
    path = output / "training" / RECIPE_NAME
    if path.exists() and (path.parent / begun.RECIPE_NAME).exists():
        recipe = Recipe.load(path)
        _refuse_other_labels(recipe, dataset, output)
        planned = recipe.card.get("training", {}).get("minutes_planned")
        if minutes is not None and planned != minutes:
            raise UsageError(
                f"{output} holds a training that was begun with another recipe ({planned} minutes).",
                "Train into another folder, or leave out --minutes to go on.",
            )
        return recipe
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "Several processes cannot make an automatic recipe.",
            f"Make it with one process, stop that, and give torchrun the file {RECIPE_NAME} with --recipe.",
        )
    began = time.monotonic()
    machine = Machine.of(device)
    plan = draft_recipe(dataset, _model_name(output), machine, progress)
    progress("time a step", 0.0, None)
    entries = with_steps(plan, dataset, machine, minutes or DEFAULT_MINUTES, began)
    recipe = Recipe.from_dict(entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    steps = " + ".join(str(phase.steps) for phase in recipe.phases)
    limit = f"{recipe.fit.minutes:.2g} of the {minutes or DEFAULT_MINUTES:g} minutes"
    reasons = [*plan.reasons, f"{steps} steps on this machine, in at most {limit}; the rest is reading and measuring"]
    write_recipe(path, entries, reasons)
    return Recipe.load(path)  # as it is when the training goes on: the file has no entries that are None


def _refuse_other_labels(recipe: Recipe, dataset: Path, output: Path) -> None:
    """Refuse to go on where ``dataset.json`` has been changed: the model would have the values and names of before."""
    named = {label["value"]: label["name"] for label in recipe.card["labels"]}
    if named != {label.value: label.name for label in Description.read(dataset).structures}:
        raise UsageError(
            f"{output} holds a training that was begun with other labels than {dataset / DESCRIPTION_NAME} names now.",
            f"Train into another folder, or give {output / 'training' / RECIPE_NAME} with --recipe to go on.",
        )


def with_steps(
    plan: RecipeDraft, dataset: Path, machine: Machine, minutes: float, began: float | None = None
) -> dict[str, Any]:
    """Entries of ``plan`` with as many steps as ``minutes`` allow: one of each phase is timed on cases of ``dataset``.

    There are no more than the number of slices justifies, and at least FEWEST_STEPS, of smaller batches where they
    would take too long. Reading all cases and measuring those for test is timed on a few, too.

    Args:
        began: when the time began to count, by ``time.monotonic``; now if None.
    """
    began = time.monotonic() if began is None else began
    entries = deepcopy(plan.entries)
    recipe = Recipe.from_dict(entries)
    card = draft_card(recipe)
    cases = {case.name: case for case in find_cases(dataset)}
    split = split_by_recipe(list(cases), recipe)
    chosen = split.training[:TIMED_CASES]
    reading = time.monotonic()
    images, labels = zip(*(load_case(cases[case], card) for case in chosen), strict=True)
    reading = (time.monotonic() - reading) / len(chosen)
    bank = VolumeBank(labels, images, card.spacing[::-1], mirror_table(card, recipe), device=machine.device)
    seconds = [seconds_per_step(recipe, card, bank, phase, machine.device) for phase in recipe.phases]
    # cases are read to be checked, to be learnt from, and to be measured
    tested = len(split.test or (find_cases(dataset, "Ts") if (dataset / "labelsTs").is_dir() else ()))
    after = reading * (len(cases) + len(split.training) + len(split.validation) + 3 * tested)
    if tested:
        after += tested * seconds_per_case(card, cases[chosen[0]])
    left = 60 * minutes - (time.monotonic() - began) - after
    left = max(left, 60 * minutes * LEAST_SHARE, LEAST_SECONDS)
    affordable = [
        min(left, 60 * minutes * SHARE_OF_STEPS) * share / each
        for share, each in zip(plan.shares, seconds, strict=True)
    ]
    less = min(1.0, plan.most_steps / sum(affordable))
    more = max(1.0, FEWEST_STEPS / (less * sum(affordable)))
    for phase, steps in zip(entries["phases"], affordable, strict=True):
        phase["steps"] = max(round(steps * less * more), 1)
    needed = sum(phase["steps"] * each for phase, each in zip(entries["phases"], seconds, strict=True))
    for phase in entries["phases"] if needed > left else ():
        phase["batch"] = max(int(phase["batch"] * left / needed), 2)
    total = sum(phase["steps"] for phase in entries["phases"])
    entries["fit"] |= {
        "warmup": max(min(total // 20, 200), 1),
        # as many steps are averaged as make a tenth of the training, 500 at most
        "average": round(1 - max(10 / total, 0.002), 4),
        "validate_every": max(total // 10, 1) if recipe.data.validation else 0,
        "minutes": round(left / 60, 4),
    }
    entries["card"]["training"]["minutes_planned"] = minutes
    return entries


def seconds_per_case(card: ModelCard, case: Case) -> float:
    """Time of segmenting a case, in s, measured with untrained networks."""
    networks = {name: build_network(description).eval() for name, description in card.networks.items()}
    image = read_volume(case.image, card.pixel_mm)
    engine = Engine(ModelPackage(Path(), card), "cpu", networks)
    started = time.monotonic()
    engine.segment(image)
    return time.monotonic() - started


def seconds_per_step(
    recipe: Recipe, card: ModelCard, bank: VolumeBank, phase: Phase, device: torch.device, most: int = 4
) -> float:
    """Seconds that one training step of ``phase`` takes, the median of ``most`` after a first one."""
    description = next(iter(card.networks.values()))
    network = build_network(description).train()
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    optimizer = torch.optim.AdamW(network.parameters())
    generator = torch.Generator().manual_seed(0)
    taken = []
    for _ in range(most + 1):
        started = time.perf_counter()
        slabs = draw_slabs(bank, card.views, phase, recipe.deformation, recipe.fit.rare_share, generator)
        images = augment_intensity(slabs.intensities, recipe.augmentation, generator)
        batch = as_batch(images, slabs.labels, slabs.planes, card.views, card)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.fit.bf16):
            logits = network(batch.images.contiguous(memory_format=torch.channels_last))
        loss = segmentation_loss(merge_pairs(logits.float(), card.channel_pairs, batch.merged), batch.target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        float(loss.detach())  # waits for a GPU
        taken.append(time.perf_counter() - started)
    return sorted(taken[1:])[most // 2]


def write_recipe(path: Path, entries: Mapping[str, Any], reasons: Sequence[str]) -> None:
    """Write the entries of a recipe as TOML, ``reasons`` on top as comments; whole or not at all.

    Args:
        entries: strings, numbers, booleans, lists and tables; what is None is left out.
    """
    head = [f"# Made by sesegment train --recipe {AUTOMATIC}. Edit it, and train with --recipe FILE.", "#"]
    lines = [*head, *(f"# {' '.join(reason.split())}" for reason in reasons), ""]
    write_whole(path, "\n".join(lines) + "\n" + tomli_w.dumps(without_nulls(entries)))


def read_reasons(path: Path) -> list[str]:
    """The reasons that :func:`write_recipe` put on top of a recipe."""
    lines = path.read_text(encoding="utf-8").splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return [line.removeprefix("# ") for line in lines[2:end]]


def _model_name(output: Path) -> str:
    """The folder's name as a model's: lower case, no spaces."""
    return re.sub(r"[^a-z0-9._-]+", "-", output.absolute().name.lower()).strip("-._") or "model"

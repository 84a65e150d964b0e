"""From a dataset and a recipe to a model package."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from .. import __version__
from ..errors import SegmentationError, UsageError
from ..files import staging_folder, store, write_whole
from ..inference.pictures import pixel_size
from ..inference.segmentations import read_segmentation
from ..inference.weights import load_weights
from ..models.card import ModelCard
from ..models.store import CARD_NAME, ModelPackage, damaged_models, find_model, list_models
from ..models.writing import WEIGHTS_NAME, write_package
from ..networks import build_network
from ..networks.eight_bits import to_eight_bits
from ..progress import Progress, no_progress
from .case_check import check_cases
from .dataset import find_cases, find_label_maps
from .fit import FitState, fit_network
from .losses import median_frequency_weights
from .odds import CLASSIFIER_BIASES
from .plan import draft_card, plan_fits
from .processes import ProcessGroup, as_first_process, machine_words
from .recipe import Recipe
from .sources import channel_pairs, open_source
from .splits import Split, split_by_recipe
from .teacher import Teacher

#: told what is worth knowing before the training begins, a sentence each
Tell = Callable[[str], None]


def _to_stderr(text: str) -> None:
    print(f"Warning: {text}", file=sys.stderr, flush=True)


def train_model(
    dataset: Path,
    recipe: Recipe,
    output: Path,
    device: str = "auto",
    progress: Progress = no_progress,
    tell: Tell = _to_stderr,
) -> ModelPackage | None:
    """Train all networks of ``recipe`` on ``dataset`` and write a model package to ``output``.

    All cases are read and checked before anything else. What was trained before in ``output`` is resumed. A recipe's
    teacher that is not installed is trained first, in ``training/teacher``. Under ``torchrun`` the processes share the
    work.

    Args:
        dataset: folder, see :mod:`.dataset`.
        output: folder of the package; its ``training`` folder keeps checkpoints, logs and the split.
        device: "auto", "cpu" or "cuda".
        tell: told of labels that no case has.

    Returns:
        The package; None in processes other than the first.

    Raises:
        InputError, UsageError, DeviceError: dataset, recipe or device cannot be used.
        ModelError: there is no such teacher, or it is damaged.
    """
    with ProcessGroup(device) as (chosen, rank):
        return _train(dataset, recipe, output, chosen, rank, progress, tell)


def _train(
    dataset: Path,
    recipe: Recipe,
    output: Path,
    device: torch.device,
    rank: int,
    progress: Progress,
    tell: Tell = _to_stderr,
) -> ModelPackage | None:
    card = draft_card(recipe)
    if rank == 0:
        _check_dataset(dataset, recipe, card, tell)
    source = open_source(dataset, recipe, card, device)
    folder = output / "training"
    _note_split(folder, asdict(source.split), rank)
    if rank == 0:
        _write_json(folder / "recipe.json", recipe.to_dict())
    plan = plan_fits(card, recipe)
    total, done = sum(fit.work for fit in plan), 0.0
    teacher = None
    if recipe.teacher.model:
        package, progress = _find_teacher(dataset, recipe, folder / "teacher", total, device, rank, progress)
        teacher = Teacher(package, card, source.split, device)
        source.instruct(teacher, _part_of(progress, 0, 0))  # seconds, of hours
    start = load_weights(find_model(recipe.start)) if recipe.start else {}
    weights: dict[str, torch.Tensor] = {}
    states: dict[str, FitState] = {}
    shared: dict[str, torch.Tensor] = {}
    for fit in plan:
        seeded = replace(recipe, fit=replace(recipe.fit, seed=fit.seed))
        torch.manual_seed(fit.seed)
        network = build_network(fit.description)
        if shared and not fit.volumetric:
            network.load_state_dict(shared)
        elif start:
            counts = source.class_counts()
            freed = without_class_weights(start[fit.name], counts, recipe.start_class_balance)
            network.load_state_dict(freed, strict=False)
        report = _part_of(progress, done / total, fit.work / total)
        limit = 60 * recipe.fit.minutes * fit.work / total or math.inf
        schedule = replace(fit.schedule, seconds=limit)
        trained, states[fit.name] = fit_network(
            network, source, fit.views, channel_pairs(card), seeded, schedule, folder, fit.name, device, report
        )
        done += fit.work
        if fit.name in card.networks:
            weights |= {f"{fit.name}.{key}": value for key, value in trained.items()}
        else:
            shared = trained
    if rank != 0:
        return None
    return _write(output, card, recipe, source.split, weights, states, device, teacher)


def _check_dataset(dataset: Path, recipe: Recipe, card: ModelCard, tell: Tell) -> None:
    """Read every case, those for test too, which are needed hours later; tell of labels that cannot be learnt."""
    if recipe.data.source != "folder":
        for path in find_label_maps(dataset).values():
            read_segmentation(path)
        return
    cases = find_cases(dataset)
    split = split_by_recipe([case.name for case in cases], recipe)
    if not split.test and (dataset / "labelsTs").is_dir():
        cases += find_cases(dataset, "Ts")
    holders = check_cases(cases, card.labels, pixel_size(card.input, card.spacing))
    if absent := [label.name for label in card.labels if not set(holders[label.value]) & set(split.training)]:
        tell(f"No case for training has {', '.join(absent)}: the model will not find that.")


def without_class_weights(
    weights: dict[str, torch.Tensor], counts: torch.Tensor, exponent: float
) -> dict[str, torch.Tensor]:
    """A network's weights, its classifier freed of the class weights of the cross-entropy that trained it.

    Weighted by w_c, cross-entropy is least where the network says w_c p_c for probabilities p_c, up to a factor: where
    it is unsure, rare structures are drawn too large. The logarithm of w_c is taken from the bias of class c (logit
    adjustment: Menon et al., ICLR 2021).

    Args:
        counts: (C,) voxels of each class in the training.
        exponent: of the median frequency weights, see :attr:`.recipe.Fit.class_balance`; with 0 nothing is changed.
    """
    logs = exponent * median_frequency_weights(counts).clamp(min=1e-6).log()
    biases = {key: weights[key].float() - logs for key in CLASSIFIER_BIASES if key in weights}
    return weights | biases


def _find_teacher(
    dataset: Path, recipe: Recipe, folder: Path, work: float, device: torch.device, rank: int, progress: Progress
) -> tuple[ModelPackage, Progress]:
    """The recipe's teacher, and the progress of what is left: ``work``.

    One that is not installed is trained in ``folder``, if the recipe says how, on the same cases.
    """
    known = {package.card.name for package in list_models()} | {found.path.name for found in damaged_models()}
    if not recipe.teacher.recipe or recipe.teacher.model in known or Path(recipe.teacher.model).is_dir():
        return find_model(recipe.teacher.model), progress
    own = replace(Recipe.load(recipe.teacher.recipe), data=recipe.data)
    before = sum(fit.work for fit in plan_fits(draft_card(own), own))
    share = before / (before + work)
    if not as_first_process((folder / CARD_NAME).is_file(), device):
        _train(dataset, own, folder, device, rank, _part_of(progress, 0, share))
        as_first_process(True, device)  # the others wait until the first has written it
    return ModelPackage.from_folder(folder), _part_of(progress, share, 1 - share)


def _note_split(folder: Path, split: dict[str, list[str]], rank: int) -> None:
    """Record which cases are for what, and refuse to go on where it was otherwise: test cases must stay unseen."""
    path = folder / "split.json"
    if any(folder.glob("*.checkpoint.safetensors")) and path.exists() and _read_json(path) != split:
        raise UsageError(
            f"{folder} holds a training that was begun with other cases.",
            "Train into another folder, or delete that one to start again.",
        )
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(path, split)


def _part_of(progress: Progress, before: float, share: float) -> Progress:
    """Progress of a fit that is ``share`` of the whole and has ``before`` of it behind."""

    def report(phase: str, fraction: float, seconds_left: float | None) -> None:
        overall = min(before + share * fraction, 1.0)
        known = seconds_left is not None and fraction < 1
        progress(phase, overall, seconds_left * (1 - overall) / (share * (1 - fraction)) if known else None)

    return report


def _write(
    output: Path,
    card: ModelCard,
    recipe: Recipe,
    split: Split,
    weights: dict[str, torch.Tensor],
    states: dict[str, FitState],
    device: torch.device,
    teacher: Teacher | None,
) -> ModelPackage:
    # half precision halves the package; the loss of accuracy is below what can be measured
    halves = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    if not all(bool(torch.isfinite(value).all()) for value in halves.values()):
        raise SegmentationError(
            "The training diverged: there are weights that are not finite.",
            "Lower learning_rate in [fit], and delete the checkpoints.",
        )
    if recipe.bits == 8:
        halves = to_eight_bits(halves)
    training = {
        **card.training,
        "recipe": recipe.name,
        "seed": recipe.fit.seed,
        **({"teacher": {**teacher.record, "share": recipe.teacher.share}} if teacher else {}),
        "split_seed": recipe.data.split_seed,
        "cases": {group: len(names) for group, names in asdict(split).items()},
        "test_cases": split.test,
        "steps": {name: state.step - state.left_out for name, state in states.items()},
        "hours": round(sum(state.seconds for state in states.values()) / 3600, 2),
        "machine": machine_words(device),
        "date": time.strftime("%Y-%m-%d"),
        "version": __version__,
    }
    with staging_folder(output / "training") as folder:
        store(folder / WEIGHTS_NAME, save({key: value.contiguous() for key, value in halves.items()}))
        return write_package(output, {**card.to_dict(), "training": training}, folder / WEIGHTS_NAME)


def _read_json(path: Path) -> Any:
    """The content of a JSON file, or None where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _write_json(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, indent=1))

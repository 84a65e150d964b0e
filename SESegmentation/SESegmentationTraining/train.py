"""Training of a recipe's model on a dataset, to a package."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from SESegmentationLib import __version__
from SESegmentationLib.errors import ModelError, SegmentationError, UsageError
from SESegmentationLib.files import staging_folder, store
from SESegmentationLib.io.segmentations import read_segmentation
from SESegmentationLib.models.card import ModelCard
from SESegmentationLib.models.packages import WEIGHTS_NAME, write_package
from SESegmentationLib.models.store import CARD_NAME, ModelPackage, damaged_models, find_model, list_models
from SESegmentationLib.networks import build_network
from SESegmentationLib.networks.losses import median_frequency_weights
from SESegmentationLib.networks.quantisation import to_eight_bits
from SESegmentationLib.networks.weights import load_weights
from SESegmentationLib.progress import Progress, no_progress

from .begun import begin, contents_of, learn_from, refuse_other_training
from .dataset import (
    MOST_NAMED,
    Split,
    check_cases,
    find_cases,
    find_label_maps,
    further_channels,
    same_images,
    split_by_recipe,
    unlabelled,
)
from .distillation import Teacher
from .fit import FitState, fit_network
from .processes import ProcessGroup, as_first_process, machine_words
from .recipe import Recipe
from .sources import FolderSource, open_source
from .training_plan import PlannedFit, draft_card, plan_fits

#: the bias of a network's last layer, by what its type calls it
CLASSIFIER_BIASES = ("classifier.bias", "classifier.convolution.bias")
#: called with a sentence that the user should know before the training begins
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

    All cases are read and checked before anything else. What was trained before in ``output`` is resumed, with the same
    recipe, cases and files only. A recipe's teacher that is not installed is trained first, in ``training/teacher``.
    Under ``torchrun`` the processes share the work.

    Args:
        dataset: folder, see :mod:`.dataset`.
        output: folder of the package; its ``training`` folder keeps checkpoints, logs and the split.
        device: "auto", "cpu" or "cuda".
        tell: called with images that have no labels, with channels that are not learnt from, with images that are
            the same, and with labels that no case has.

    Returns:
        The package; None in processes other than the first.

    Raises:
        InputError, UsageError, DeviceError: dataset, recipe or device cannot be used.
        ModelError: there is no such teacher, or no such model to start from, or it is damaged.
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
    plan = plan_fits(card, recipe)
    started_from = _model_to_start_from(recipe)
    start = _weights_to_start_from(started_from, plan) if started_from else {}
    if rank == 0:
        _check_dataset(dataset, recipe, card, tell)
    source = open_source(dataset, recipe, card, device)
    folder = output / "training"
    split, contents = asdict(source.split), None
    if rank == 0:
        contents = contents_of(dataset, recipe, {*source.split.training, *source.split.validation})
        begin(folder, recipe, split, contents)
    else:
        refuse_other_training(folder, recipe, split)
    total, done = sum(fit.work for fit in plan), 0.0
    teacher, models = None, installed_models(recipe)
    if recipe.teacher.model:
        package, progress = _find_teacher(dataset, recipe, folder / "teacher", total, device, rank, progress)
        if package.path == folder / "teacher":  # made here, perhaps long ago
            refuse_other_training(package.path / "training", _teachers_recipe(recipe), split, contents)
        models[recipe.teacher.model] = package.weights_path
    learn_from(folder, models, write=rank == 0)
    if recipe.teacher.model:
        teacher = Teacher(package, card, source.split, device)
        assert isinstance(source, FolderSource)  # as the recipe's checks see to
        source.distil(teacher, _part_of(progress, 0, 0))  # seconds, of hours
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
            network, source, fit.views, card.channel_pairs, seeded, schedule, folder, fit.name, device, report
        )
        done += fit.work
        if fit.name in card.networks:
            weights |= {f"{fit.name}.{key}": value for key, value in trained.items()}
        else:
            shared = trained
    if rank != 0:
        return None
    learnt_from = {
        **({"start": started_from.record} if started_from else {}),
        **({"teacher": {**teacher.record, "share": recipe.teacher.share}} if teacher else {}),
    }
    return _write(output, card, recipe, source.split, weights, states, device, learnt_from)


def _model_to_start_from(recipe: Recipe) -> ModelPackage | None:
    """The model whose weights a recipe starts from; None where it starts from none.

    Raises:
        ModelError: it is not installed, or damaged.
    """
    try:
        return find_model(recipe.start) if recipe.start else None
    except ModelError as error:
        raise ModelError(
            f"The recipe {recipe.name} starts from the weights of {recipe.start}, which cannot be used: {error.cause}",
            "Train and install that model first (sesegment models add), or leave start out of the recipe.",
        ) from error


def _weights_to_start_from(package: ModelPackage, plan: Sequence[PlannedFit]) -> dict[str, dict[str, torch.Tensor]]:
    """The weights of the model that the training starts from, by network.

    Raises:
        ModelError: it is damaged.
        UsageError: its networks are not those of ``plan``.
    """
    weights = load_weights(package)
    for fit in plan:
        with torch.device("meta"):
            own = build_network(fit.description).state_dict()
        there = {key: value.shape for key, value in weights.get(fit.name, {}).items()}
        if any(there.get(key) != value.shape for key, value in own.items() if not key.endswith("num_batches_tracked")):
            raise UsageError(
                f"The network {fit.name!r} cannot start from {package.card.name}, which has none like it.",
                "Give it the name and the description it has there, or leave start out of the recipe.",
            )
    return weights


def _check_dataset(dataset: Path, recipe: Recipe, card: ModelCard, tell: Tell) -> None:
    """Read every case, those for test too, which are needed hours later; tell of labels that cannot be learnt."""
    if recipe.data.source != "folder":
        for path in find_label_maps(dataset).values():
            read_segmentation(path)
        return
    cases = find_cases(dataset)
    if lacking := unlabelled(dataset, cases):
        tell(f"{len(lacking)} of the images have no labels and are left out: {', '.join(lacking[:MOST_NAMED])}.")
    if several := further_channels(dataset, cases):
        tell(f"{len(several)} of the cases have several channels, of which only _0000 is learnt from: {several[0]}.")
    split = split_by_recipe([case.name for case in cases], recipe)
    if not split.test and (dataset / "labelsTs").is_dir():
        cases += find_cases(dataset, "Ts")
    holders = check_cases(cases, card.labels, card.pixel_mm)
    for names in same_images(cases):
        tell(
            f"The images of {', '.join(names[:MOST_NAMED])} are the same: where some are for training and others for "
            "test, the results will look better than they are."
        )
    if absent := [label.name for label in card.labels if not set(holders[label.value]) & set(split.training)]:
        tell(f"No case for training has {', '.join(absent)}: the model will not find that.")


def without_class_weights(
    weights: dict[str, torch.Tensor], counts: torch.Tensor, exponent: float
) -> dict[str, torch.Tensor]:
    """A network's weights, its classifier freed of the class weights of the cross-entropy that trained it.

    Weighted by w_c, cross-entropy is least where the network says w_c p_c for probabilities p_c, up to a factor: where
    it is unsure, rare structures are drawn too large. The logarithm of w_c is taken from the bias of class c (logit
    adjustment: Menon et al., ICLR 2021). The bias of a class without voxels stays.

    Args:
        counts: (C,) voxels of each class in the training.
        exponent: of the median frequency weights, see :attr:`.fit_settings.Fit.class_balance`; 0 changes nothing.
    """
    frequency_weights = median_frequency_weights(counts)
    logs = exponent * torch.where(frequency_weights > 0, frequency_weights, 1.0).log()
    biases = {key: weights[key].float() - logs for key in CLASSIFIER_BIASES if key in weights}
    return weights | biases


def _find_teacher(
    dataset: Path, recipe: Recipe, folder: Path, work: float, device: torch.device, rank: int, progress: Progress
) -> tuple[ModelPackage, Progress]:
    """The recipe's teacher, and the progress of what is left: ``work``.

    One that is not installed is trained in ``folder``, if the recipe says how, on the same cases.
    """
    if _teacher_is_installed(recipe):
        return find_model(recipe.teacher.model), progress
    own = _teachers_recipe(recipe)
    before = sum(fit.work for fit in plan_fits(draft_card(own), own))
    share = before / (before + work)
    if not as_first_process((folder / CARD_NAME).is_file(), device):
        _train(dataset, own, folder, device, rank, _part_of(progress, 0, share))
        as_first_process(True, device)  # the others wait until the first has written it
    return ModelPackage.from_folder(folder), _part_of(progress, share, 1 - share)


def installed_models(recipe: Recipe) -> dict[str, Path]:
    """The weights of the models that a recipe starts from and learns from, by name; those not made beside its own.

    Raises:
        ModelError: there is no such model, or it is damaged.
    """
    names = [recipe.start] if recipe.start else []
    if recipe.teacher.model and _teacher_is_installed(recipe):
        names.append(recipe.teacher.model)
    return {name: find_model(name).weights_path for name in names}


def _teacher_is_installed(recipe: Recipe) -> bool:
    """Whether the teacher is not trained first."""
    known = {package.card.name for package in list_models()} | {found.path.name for found in damaged_models()}
    name = recipe.teacher.model
    return not recipe.teacher.recipe or name in known or Path(name).is_dir()


def _teachers_recipe(recipe: Recipe) -> Recipe:
    """The recipe by which the teacher of ``recipe`` is trained, on the same cases."""
    return replace(Recipe.load(recipe.teacher.recipe), data=recipe.data)


def _part_of(progress: Progress, before: float, share: float) -> Progress:
    """Progress of a fit that is ``share`` of the whole and has ``before`` of it behind."""

    def report(phase: str, fraction: float, seconds_left: float | None) -> None:
        overall = min(before + share * fraction, 1.0)
        if seconds_left is not None:
            seconds_left = seconds_left * (1 - overall) / (share * (1 - fraction)) if fraction < 1 else None
        progress(phase, overall, seconds_left)

    return report


def _write(
    output: Path,
    card: ModelCard,
    recipe: Recipe,
    split: Split,
    weights: dict[str, torch.Tensor],
    states: dict[str, FitState],
    device: torch.device,
    learnt_from: dict[str, Any],
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
        **learnt_from,
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

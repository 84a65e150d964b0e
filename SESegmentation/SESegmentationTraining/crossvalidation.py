"""Cross-validation: every case is measured once by weights that never saw it; then one model learns from all of them.

``DIR/fold-K`` holds the model of each fold, ``DIR/NAME`` the final one, whose card states the figures of the folds, and
what Dice to expect at what confidence as they showed it. What was done before in DIR is not done again; it has to be of
the same recipe, folds, cases and files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from SESegmentationLib.errors import UsageError
from SESegmentationLib.models import update_card, verify_package
from SESegmentationLib.models.sections import expected_dice
from SESegmentationLib.progress import Progress, no_progress, note_if_interrupted

from .accuracy import card_accuracy, expectation, measure, test_cases
from .begun import GO_ON, contents_of, learn_from, read_back, refuse_other_training, same_recipe, write_json
from .calibration import Observation, card_calibration, fit, held_out_volumes, observe
from .dataset import find_cases, split_by_recipe
from .evaluation import summarise
from .processes import percent_printer
from .recipe import Recipe
from .train import installed_models, train_model

#: measures of a fold's cases, beside its model
MEASURED_NAME = "measured.json"
#: what its cases show of confidence and Dice, beside them
OBSERVED_NAME = "observed.json"
_REMEDY = "Delete it, and cross-validate again: the fold is measured again, not trained again."


def cross_validate(
    dataset: Path,
    recipe: Recipe,
    output: Path,
    folds: int,
    only: Sequence[int] = (),
    device: str = "auto",
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Train and measure a model for each fold.

    Args:
        dataset: folder in nnU-Net's layout.
        recipe: of the model; its cases for test are those of the fold.
        output: gets a folder ``fold-K`` for each.
        folds: at least 2.
        only: folds to do, counted from 0; all if empty.

    Returns:
        "cases": measures by case and label value; "labels": mean, standard deviation and number by label value.

    Raises:
        InputError, UsageError, DeviceError: dataset, recipe, folds or device cannot be used, or a fold in ``output`` is
            damaged, or of another recipe, other folds, other cases, other images or labels, or learnt from other
            weights.
        CancelledError: from ``progress``.
    """
    chosen = list(only) or list(range(folds))
    names = [case.name for case in find_cases(dataset)]
    contents = contents_of(dataset, recipe, names)
    for fold in chosen:  # before hours of training
        _refuse_other_fold(output / f"fold-{fold}", names, recipe_of_fold(recipe, folds, fold), contents)
    by_case: dict[str, Any] = {}
    for number, fold in enumerate(chosen):
        folder = output / f"fold-{fold}"
        of_fold = recipe_of_fold(recipe, folds, fold)
        if not (folder / MEASURED_NAME).exists():
            report = _from_to(progress, f"fold {fold}", number / len(chosen), (number + 1) / len(chosen))
            package = train_model(dataset, of_fold, folder, device, report)
            if package is None:  # of several processes, the first measures
                continue
            measured = measure(package, test_cases(package, dataset))
            split = asdict(split_by_recipe(names, of_fold))
            begun = {"recipe": of_fold.to_dict(), "split": split, "contents": contents}
            write_json(folder / MEASURED_NAME, {"sha256": package.card.weights_sha256, **begun, **measured})
        by_case |= _measured(folder)
    return {"cases": by_case, "labels": summarise(by_case)}


def _measured(folder: Path) -> dict[str, Any]:
    """The measures of a fold's cases, by case and label value; InputError where their file is damaged."""
    return read_back(folder / MEASURED_NAME, lambda content: dict(content["cases"]), _REMEDY)


def _refuse_other_fold(folder: Path, names: Sequence[str], of_fold: Recipe, contents: dict[str, str]) -> None:
    """Refuse a fold that is there already, of another recipe (folds included), other cases, files or weights.

    Its figures say so themselves, where the checkpoints have been deleted.
    """
    split = asdict(split_by_recipe(names, of_fold))
    refuse_other_training(folder / "training", of_fold, split, contents)
    learn_from(folder / "training", installed_models(of_fold), write=False)
    if not (folder / MEASURED_NAME).exists():
        return

    def same(measured: dict[str, Any]) -> bool:
        dict(measured["cases"])  # raises the error if they are damaged
        if "recipe" not in measured:  # of an earlier version, as one without contents
            return True
        same_cases = measured["split"] == split and measured.get("contents", contents) == contents
        return same_cases and same_recipe(measured["recipe"], of_fold)

    if not read_back(folder / MEASURED_NAME, same, _REMEDY):
        raise UsageError(
            f"{folder} was measured with another recipe, other folds, other cases, or other images or labels.",
            "Cross-validate into another folder, or delete that one to start again.",
        )


def recipe_of_fold(recipe: Recipe, folds: int, fold: int) -> Recipe:
    """The recipe that keeps out the cases of ``fold``, counted from 0; UsageError for folds that make no sense."""
    changed = replace(recipe, data=replace(recipe.data, test=0, folds=folds, fold=fold))
    Recipe.from_dict(changed.to_dict(), recipe.name)
    return changed


def observe_folds(dataset: Path, recipe: Recipe, output: Path, folds: int) -> list[list[Observation]]:
    """What the cases of each fold show of confidence and Dice, as they are and under shifts, by the fold's own model.

    Args and errors: as of :func:`cross_validate`, which has been there before.
    """
    found = []
    for fold in range(folds):
        folder = output / f"fold-{fold}"
        if not (folder / OBSERVED_NAME).exists():
            package = verify_package(folder)
            cases = held_out_volumes(package, dataset, recipe_of_fold(recipe, folds, fold), "test")
            write_json(folder / OBSERVED_NAME, [asdict(seen) for those in observe(package, cases) for seen in those])
        entries = read_back(folder / OBSERVED_NAME, lambda content: [Observation(**seen) for seen in content], _REMEDY)
        found.append(entries)
    return found


def expected_of_folds(observed: Sequence[Sequence[Observation]]) -> dict[str, float]:
    """How well the expected Dice fits cases as they are, with all views; each fold's is learnt from the other folds."""
    cases: dict[str, Any] = {}
    for fold, own in enumerate(observed):
        curves = fit([seen for number, those in enumerate(observed) if number != fold for seen in those])
        most = max((seen.views for seen in own), default=0)
        for seen in own:
            if seen.shift is None and seen.views == most:
                expected = expected_dice(curves, seen.value, seen.confidence, seen.views)
                cases.setdefault(seen.case, {})[str(seen.value)] = {"expected_dice": expected, "dice": seen.dice}
    return expectation({"cases": cases})


def _from_to(progress: Progress, name: str, low: float, high: float) -> Progress:
    """Progress of one fold as part of all; the time left is that of the fold."""

    def report(phase: str, fraction: float, seconds_left: float | None) -> None:
        progress(f"{name}, {phase}", low + (high - low) * fraction, seconds_left)

    return report


@note_if_interrupted(GO_ON)
def measure_crossvalidation(
    name: str,
    recipe: str,
    dataset: Path,
    output: Path,
    folds: int = 5,
    only: Sequence[int] = (),
    device: str = "auto",
    data: str = "",
    write: Path | None = None,
) -> None:
    """Cross-validate, train the final model, and print the figures as JSON.

    Args:
        name: of the model, for its folder.
        recipe: name or file.
        dataset, output, folds, device: see :func:`cross_validate`.
        only: trains these folds and stops there, so that several processes can share the work.
        data: description of the data, for the card.
        write: a package that was trained before, into which the figures are written instead of training one.

    Raises:
        SegmentationError: as of :func:`cross_validate`.
    """
    loaded = Recipe.load(recipe)
    if folds < 2 or not set(only) <= set(range(folds)):
        raise UsageError(
            "There are at least 2 folds, and those of --only are counted from 0.", "Correct --folds or --only."
        )
    if name in ("", ".", "..") or Path(name).name != name or name.startswith("fold-"):
        raise UsageError(
            f"{name!r} cannot be the name of the model's folder beside its folds.",
            "Give one without / that does not begin with fold-.",
        )
    progress = percent_printer(" in this fold")
    measured = cross_validate(dataset, loaded, output, folds, only, device, progress)
    if only:
        print(json.dumps(measured["labels"], indent=1))
        return
    if write:
        package = verify_package(write)
    else:
        every = replace(loaded, data=replace(loaded.data, test=0))
        trained = train_model(dataset, every, output / name, device, percent_printer(" in this fold"))
        if trained is None:  # of several processes, the first writes
            return
        package = trained
    about = data or f"{folds}-fold cross-validation: every case by weights that never saw it"
    command = (
        f"sesegment measure crossvalidation {name} --recipe {loaded.name} --dataset DATASET -o DIR --folds {folds}"
    )
    accuracy = card_accuracy(package, measured, about, command)
    observed = observe_folds(dataset, loaded, output, folds)
    everything = [seen for those in observed for seen in those]
    calibration = card_calibration(everything, "case", " by weights that never saw them", command)
    figures = {"accuracy": {**accuracy, "folds": folds}, "calibration": calibration}
    update_card(package, figures)
    print(json.dumps({**accuracy, "expected_dice": expected_of_folds(observed)}, indent=1))

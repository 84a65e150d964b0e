"""``sesegment train``, ``sesegment evaluate`` and ``sesegment experiment``: what they do and print."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from SESegmentationLib.cli import report_failure, say, warn
from SESegmentationLib.cli.show import ProgressBar, console, duration, print_json
from SESegmentationLib.client.reading import reading_apart
from SESegmentationLib.errors import ERRORS_BY_CODE, UsageError
from SESegmentationLib.files import check_writable, refuse_overwriting
from SESegmentationLib.inference.cascade import possible_structures
from SESegmentationLib.models import ModelPackage, find_model
from SESegmentationLib.models.card import CARD_NAME, README_NAME
from SESegmentationLib.models.packages import WEIGHTS_NAME
from SESegmentationLib.plain_text import counted, printable, some_of
from SESegmentationLib.progress import Progress, no_progress, note_if_interrupted

from .begun import GO_ON
from .dataset import MOST_NAMED, dataset_paths
from .evaluation import evaluate_folders
from .recipe import Recipe

if TYPE_CHECKING:
    from .experiments.plan import Run

#: below this Dice a structure is named as weak
WEAK_DICE = 0.7
#: fewer test cases tell little
FEW_CASES = 5


def measure_kept_out(package: ModelPackage, dataset: Path, progress: Progress = no_progress) -> ModelPackage:
    """Measure a finished model on the cases kept out for test, and write the result into its card and README.

    These are the test cases of the split, or else those of the dataset's ``imagesTs`` and ``labelsTs``. Without any the
    package stays as it is.

    Raises:
        InputError: ``dataset`` lacks them.
    """
    from .accuracy import card_accuracy, measure, test_cases, write_accuracy

    if not package.card.training.get("test_cases") and not (dataset / "labelsTs").is_dir():
        return package
    measured = measure(package, test_cases(package, dataset), progress=progress)
    if not measured["labels"]:  # cases for test without any structure, and none was found
        return package
    command = f"sesegment measure accuracy {package.path.name} --dataset DATASET"
    about = "Test cases of the dataset that it was trained on"
    return write_accuracy(package, card_accuracy(package, measured, about, command))


def training_report(package: ModelPackage) -> str:
    """The report as text; all of its content is in the card."""
    card, training = package.card, package.card.training
    cases = training["cases"]
    kept = training.get("test_cases", [])
    tested = cases["test"] or card.accuracy.get("cases", 0)
    listed = f" ({', '.join(kept[:8])}{', …' if len(kept) > 8 else ''})" if kept else ""
    steps = sum(training["steps"].values())
    lines = [
        f"{package.path}: {card.name} {card.version}",
        f"{counted(cases['training'] + cases['validation'] + tested, 'case')}: {cases['training']} for training, "
        f"{cases['validation']} for validation, {tested} for test{listed}.",
        f"Trained in {_minutes(training['hours'])} on {training['machine']}: {counted(steps, 'step')}.",
        "",
        *_accuracy(package),
        "",
        "Next:",
        *_next_steps(package),
    ]
    return "\n".join(lines)


def _accuracy(package: ModelPackage) -> list[str]:
    accuracy = package.card.accuracy
    if not accuracy:
        return ["No labelled cases were kept out: nothing was measured. Add cases to know how good the model is."]
    width = max(len(label.name) for label in package.card.labels)
    lines = [f"Dice on {counted(accuracy['cases'], 'test case')}, which the training never saw:"]
    for label in package.card.labels:
        dice = _dice(accuracy, label.value)
        if dice:
            spread = f" ± {dice['std']:.3f}" if dice["n"] > 1 else ""
            lines.append(f"  {label.name:<{width}}  {dice['mean']:.3f}{spread}")
    return [*lines, f"  {'mean':<{width}}  {accuracy['mean_dice']:.3f}"]


def _next_steps(package: ModelPackage) -> list[str]:
    card = package.card
    recipe = package.path / "training" / "recipe.toml"
    lines = [
        f"  sesegment models add {shlex.quote(str(package.path))}    installs it for this user, in Slicer too",
        f"  sesegment run VOLUME --model {card.name} -o result.seg.nrrd    segments with it, once installed",
    ]
    if recipe.exists():
        lines.append(f"  To change something, edit {recipe} and train with --recipe FILE into another folder.")
    if card.accuracy:
        weak = [label.name for label in card.labels if _dice(card.accuracy, label.value).get("mean", 1) < WEAK_DICE]
        if weak:
            longer = "a longer training (--minutes)" if recipe.exists() else "more steps in the recipe"
            lines.append(f"  Weak: {', '.join(weak)}. More cases, or {longer}, may help; look at some.")
        if card.accuracy["cases"] < FEW_CASES:
            count = counted(card.accuracy["cases"], "case")
            lines.append(f"  Measured on {count} only: results in other patients can be much worse.")
    if not card.licence.free:
        lines.append(f"  Before you pass it on, state its licence in {package.path / 'model.json'}.")
    return lines


def _dice(accuracy: Mapping[str, Any], value: int) -> dict[str, Any]:
    return accuracy["labels"].get(str(value), {}).get("dice", {})


def _minutes(hours: float) -> str:
    minutes = round(60 * hours)
    if minutes < 1:
        return "less than a minute"
    return f"{minutes} min" if minutes < 120 else f"{hours:.1f} h"


@note_if_interrupted(GO_ON)
@reading_apart()
def train_package(dataset: Path, recipe: str, output: Path, device: str, minutes: float | None = None) -> None:
    """Train the model of ``recipe`` on ``dataset``, write its package to ``output`` and report what came of it.

    Args:
        dataset: folder.
        recipe: name, file, or "auto".
        output: folder of the model.
        device: "auto", "cpu" or "cuda".
        minutes: for the recipe "auto".

    Raises:
        SegmentationError: recipe, dataset, output or device cannot be used.
    """
    from .automatic import AUTOMATIC, RECIPE_NAME, automatic_recipe, read_reasons
    from .train import train_model

    if minutes is not None and recipe != AUTOMATIC:
        raise UsageError("--minutes is for --recipe auto only.", "Set the duration by the phases in the recipe's file.")
    _check_output(output, dataset, recipe)
    first = os.environ.get("RANK", "0") == "0"
    with ProgressBar(output.name) as progress:
        if recipe == AUTOMATIC:
            chosen = automatic_recipe(dataset, output, device, minutes, progress)
            path = output / "training" / RECIPE_NAME
            if first:
                with progress.paused():
                    print(
                        "\n".join([f"Recipe {path}:", *(f"  {reason}" for reason in read_reasons(path)), ""]),
                        flush=True,
                    )
        else:
            chosen = Recipe.load(recipe)

        def tell(text: str) -> None:
            with progress.paused():
                warn(f"Warning: {text}")

        progress("check all cases", 0.0, None)
        package = train_model(dataset, chosen, output, device, progress, tell)
        if package is not None and first and chosen.data.source == "folder":
            package = measure_kept_out(package, dataset, progress)
    if package is not None and first:
        print(printable(training_report(package), lines=True))


def _check_output(output: Path, dataset: Path, recipe: str) -> None:
    """Refuse to train into the dataset, over what is read, or over the README of something that is no model."""

    written = [output / name for name in (CARD_NAME, WEIGHTS_NAME, README_NAME)]
    kept = output / "training" / "split.json"
    if output.is_dir() and dataset.is_dir() and output.samefile(dataset):
        raise UsageError(f"{output} is the dataset itself.", "Name another folder for the model with -o.")
    refuse_overwriting([*dataset_paths(dataset), Path(recipe)], [*written, kept])
    if (output / README_NAME).exists() and not (output / CARD_NAME).exists():
        raise UsageError(
            f"{output} holds no model, but a {README_NAME}, which would be overwritten.",
            "Name another folder for the model with -o.",
        )
    for path in (*written, kept):
        check_writable(path)


@reading_apart()
def evaluate_predictions(
    predictions: Path, references: Path, model: str | None, as_json: bool, resample: bool = False
) -> int:
    """Compare segmentations and show the measures.

    Returns:
        0, or the exit code of the first pair that could not be compared.

    Raises:
        SegmentationError: a folder or file cannot be used, or there is nothing to compare.
    """
    package = find_model(model) if model else None
    possible = possible_structures(package.card, package.path.parent) if package else []
    labels = package.card.labels if package else ()
    whole = [label for _, label in possible if label not in labels]
    measures = evaluate_folders(predictions, references, labels, resample, whole)
    failed = measures["failed"]
    if failed and not measures["cases"] and not measures["missing"] and len(failed) == 1:
        raise ERRORS_BY_CODE[failed[0]["code"]](failed[0]["cause"], failed[0]["remedy"])
    if as_json:
        print_json(measures)
    else:
        _print_measures(measures)
    for text in _remarks(measures):
        warn(f"Warning: {text}")
    for failure in failed:
        report_failure(ERRORS_BY_CODE[failure["code"]](failure["cause"], failure["remedy"]), subject=failure["case"])
    return failed[0]["exit_code"] if failed else 0


def _remarks(measures: Mapping[str, Any]) -> Iterator[str]:
    """What the user should know about the files that were compared, and those that were not."""
    if missing := measures["missing"]:
        yield f"Without a segmentation: {counted(len(missing), 'reference')} ({some_of(missing, MOST_NAMED)})."
    if unmatched := measures["unmatched"]:
        yield f"Without a reference: {counted(len(unmatched), 'segmentation')} ({some_of(unmatched, MOST_NAMED)})."
    if same := measures["same"]:
        count, named = counted(len(measures["cases"]), "case"), some_of(same, MOST_NAMED)
        yield (
            f"Segmentation and reference are the same file, byte for byte, in {len(same)} of {count} ({named}). "
            "If one was copied from the other, their agreement says nothing."
        )


def _print_measures(measures: Mapping[str, Any]) -> None:
    """A row for each label: mean and standard deviation over the cases."""
    spread = ", mean ± standard deviation" if len(measures["cases"]) > 1 else ""
    table = Table(title=counted(len(measures["cases"]), "case") + spread, title_justify="left")
    table.add_column("label")
    for column in ("Dice", "95 % HD (mm)", "surface (mm)"):
        table.add_column(column, justify="right")
    for value, label in measures["labels"].items():
        cells = [_mean(label.get("dice"), 3), _mean(label.get("hausdorff95_mm"), 2), _mean(label.get("surface_mm"), 2)]
        table.add_row(f"{value} {label['name']}".strip(), *cells)
    console().print(table)
    if measures["mean_dice"] is not None:
        console().print(f"mean Dice over the labels: {measures['mean_dice']:.3f}")


def _mean(measure: Mapping[str, float] | None, digits: int) -> str:
    if not measure:
        return "-"
    return f"{measure['mean']:.{digits}f}" + (f" ± {measure['std']:.{digits}f}" if measure["n"] > 1 else "")


def run_experiments(
    plans: Sequence[str], output: Path, data: Path, device: str, workers: int | None, report_only: bool
) -> None:
    """Do the missing runs of ``plans``, then write tables and plots of all results to ``output``.

    Args:
        plans: names or files.
        output: folder of results; what is there is not done again, and has to be of the same data.
        data: folder that holds the datasets.
        device: "auto", "cpu" or "cuda".
        workers: processes.
        report_only: do nothing but tables and plots.

    Raises:
        SegmentationError: plan, data, output or device cannot be used, or runs failed.
    """
    from .experiments.plan import Plan
    from .experiments.report import summary, write_plan_report
    from .experiments.results import RESULTS_NAME, gather_results, read_results, refuse_other_data, result_path
    from .experiments.schedule import do_runs

    loaded = [Plan.load(plan) for plan in plans]
    written = [output / RESULTS_NAME, *(output / f"{plan.name}.md" for plan in loaded)]
    datasets = [path for plan in loaded for path in dataset_paths(data / plan.dataset)]
    refuse_overwriting([*map(Path, plans), *datasets], written)
    for path in (*written, result_path(output, "run")):
        check_writable(path)
    results = read_results(output) if report_only else gather_results(output)
    runs = {run.key: run for plan in loaded for run in plan.runs()}
    if not report_only:
        refuse_other_data(output, results, runs.values(), data)
    missing = [run for key, run in runs.items() if key not in results]

    def finished(run: Run, result: Mapping[str, Any]) -> None:
        dice, seconds = np.mean(list(result["dice"].values())), 3600 * result["hours"]
        with progress.paused():
            say(f"{run.title}: Dice {dice:.3f} ({duration(seconds)})")

    try:
        if missing and not report_only:
            with note_if_interrupted(GO_ON), ProgressBar() as progress:
                do_runs(missing, data, output, device, workers, progress, finished)
    finally:  # report finished runs even after a failure
        results = read_results(output) if report_only else gather_results(output)
        reported = loaded if results or report_only else []
        lines = [line for plan in reported for line in summary(plan, write_plan_report(plan, results, output))]
    for line in [*lines, f"Tables and plots are in {output}."]:
        console().print(line, soft_wrap=True)

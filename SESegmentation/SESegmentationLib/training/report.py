"""What came of a training, in plain words: cases, accuracy on those kept out, time, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..models import ModelPackage
from ..progress import Progress, no_progress
from .accuracy import card_accuracy, measure, test_cases, write_accuracy

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
    if not package.card.training.get("test_cases") and not (dataset / "labelsTs").is_dir():
        return package
    measured = measure(package, test_cases(package, dataset), progress=progress)
    command = f"python -m SESegmentationLib.training.accuracy {package.path.name} --dataset DATASET"
    about = "Test cases of the dataset that it was trained on"
    return write_accuracy(package, card_accuracy(package, measured, about, command))


def training_report(package: ModelPackage) -> str:
    """The report, as text for people; everything in it stands in the card."""
    card, training = package.card, package.card.training
    cases = training["cases"]
    kept = training.get("test_cases", [])
    tested = cases["test"] or card.accuracy.get("cases", 0)
    listed = f" ({', '.join(kept[:8])}{', …' if len(kept) > 8 else ''})" if kept else ""
    steps = sum(training["steps"].values())
    lines = [
        f"{package.path}: {card.name} {card.version}",
        f"{cases['training'] + cases['validation'] + tested} cases: {cases['training']} for training, "
        f"{cases['validation']} for validation, {tested} for test{listed}.",
        f"Trained in {_minutes(training['hours'])} on {training['machine']}: {steps} steps.",
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
        return ["No cases were kept out: nothing was measured. Add cases to know how good the model is."]
    width = max(len(label.name) for label in package.card.labels)
    lines = [f"Dice on {accuracy['cases']} test case{'s' * (accuracy['cases'] > 1)}, which the training never saw:"]
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
            lines.append(
                f"  Weak: {', '.join(weak)}. More cases, or a longer training (--minutes), may help; look at some."
            )
        if card.accuracy["cases"] < FEW_CASES:
            lines.append(f"  {card.accuracy['cases']} test cases tell little: other patients can come out much worse.")
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

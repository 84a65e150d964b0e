"""What a recipe's networks learn from, as a picture, and what came of a training, in plain words.

``python -m SESegmentationTraining.report DATASET --recipe NAME -o FILE.png`` draws it, the same for the same seed.
"""

from __future__ import annotations

import argparse
import io
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from SESegmentationLib.errors import UsageError
from SESegmentationLib.files import check_writable, refuse_overwriting, write_whole
from SESegmentationLib.models import ModelPackage
from SESegmentationLib.models.card import ModelCard
from SESegmentationLib.progress import Progress, no_progress

from .accuracy import card_accuracy, measure, test_cases, write_accuracy
from .dataset import dataset_paths
from .processes import as_command
from .recipe import Phase, Recipe
from .sources import Batch, open_source
from .train import draft_card

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
    command = f"python -m SESegmentationTraining.accuracy {package.path.name} --dataset DATASET"
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


#: slices in the picture, and of them in a row
COUNT, IN_A_ROW = 16, 4
OPACITY = 0.6


def draw_gallery(dataset: Path, recipe: Recipe, seed: int = 0) -> Image.Image:
    """Draw random training slices of ``recipe`` on ``dataset``, in the size and resolution of its last phase.

    Every slice stands twice: as the networks see it, and with the target in the labels' colours. Where a view merges
    left and right, both have the colour of the left.

    Raises:
        InputError, UsageError: dataset or recipe cannot be used.
    """
    card = draft_card(recipe)
    source = open_source(dataset, recipe, card, torch.device("cpu"))
    last = recipe.phases[-1]
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    return _compose(source.batch(card.views, Phase(1, COUNT, last.size, last.spacing), generator), card)


def _compose(batch: Batch, card: ModelCard) -> Image.Image:
    palette = np.array([(0, 0, 0), *(label.color for label in card.labels)], np.float32)
    middle = batch.images[:, batch.images.shape[1] // 2].clamp(0, 1).numpy()
    grey = np.repeat(255 * middle[..., None], 3, axis=-1)
    target = batch.target.numpy()
    opacity = np.where(target > 0, OPACITY, 0.0)[..., None]
    pairs = np.concatenate([grey, (1 - opacity) * grey + opacity * palette[target]], axis=2)
    pairs = pairs[:, ::-1]  # rows run to the front or to the head; a picture from top to bottom
    rows = [np.concatenate(list(pairs[start : start + IN_A_ROW]), axis=1) for start in range(0, len(pairs), IN_A_ROW)]
    return Image.fromarray(np.concatenate(rows).astype(np.uint8))


@as_command
def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of ``python -m SESegmentationTraining.report``; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--recipe", required=True, help="name or file")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the picture, .png or .jpg")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    formats = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
    kind = formats.get(chosen.output.suffix.lower())
    if kind is None:
        raise UsageError(f"{chosen.output} ends neither in .png nor in .jpg.", "Choose another name for -o.")
    refuse_overwriting([*dataset_paths(chosen.dataset), Path(chosen.recipe)], [chosen.output])
    check_writable(chosen.output)
    content = io.BytesIO()
    draw_gallery(chosen.dataset, Recipe.load(chosen.recipe), chosen.seed).save(content, format=kind)
    write_whole(chosen.output, content.getvalue())


if __name__ == "__main__":
    sys.exit(main())

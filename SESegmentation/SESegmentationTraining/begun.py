"""What a training was begun with: recipe, cases and their files, models it learns from. It goes on with the same only.

Files are compared by SHA-256: size and date of a file change when a dataset is copied, and need not when a label is
corrected. All of them are read and unpacked anyway, which takes longer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from SESegmentationLib.errors import InputError, UsageError, reason_of
from SESegmentationLib.files import write_whole
from SESegmentationLib.models import ModelPackage, sha256_of
from SESegmentationLib.plain_text import some_of

from .dataset import MOST_NAMED, Split, find_cases, find_label_maps
from .recipe import RECIPES_FOLDER, Recipe

RECIPE_NAME, SPLIT_NAME, CONTENTS_NAME = "recipe.json", "split.json", "contents.json"
MODELS_NAME, CORRECTION_NAME = "models.json", "correction.json"
#: there is one at least in a folder of a training that may be gone on with
CHECKPOINTS = "*checkpoint.safetensors"
#: of a folder that holds another training
REMEDY = "Train into another folder, or delete that one to start again."
#: said where a training ends early
GO_ON = "Run the same command again to go on from the last checkpoint."
Read = TypeVar("Read")


def begin(folder: Path, recipe: Recipe | None, split: dict[str, list[str]], contents: Mapping[str, str]) -> None:
    """Record what a training is begun with; args and errors as of :func:`refuse_other_training`."""
    refuse_other_training(folder, recipe, split, contents)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONTENTS_NAME, contents)
    write_json(folder / SPLIT_NAME, split)
    if recipe:
        write_json(folder / RECIPE_NAME, recipe.to_dict())


def contents_of(dataset: Path, recipe: Recipe, names: Collection[str]) -> dict[str, str]:
    """SHA-256 of the files that cases of these names are read from, by their paths in ``dataset``.

    With label maps those of the priors, and of the scans shown beside them, are among them.

    Raises:
        InputError: there are no cases, or a file cannot be read.
    """
    data = recipe.data
    if data.source == "folder":
        files = [file for case in find_cases(dataset) if case.name in names for file in (case.image, case.label)]
    else:
        scans = find_cases(dataset / data.scans) if data.scans else []
        files = [
            *(path for name, path in find_label_maps(dataset).items() if name in names),
            *(path for path in (dataset / data.priors).rglob("*") if path.is_file()),
            *(file for case in scans for file in (case.image, case.label)),
        ]
    return digests(files, dataset)


def digests(files: Iterable[Path], folder: Path) -> dict[str, str]:
    """SHA-256 of files by their paths in ``folder``; InputError where one cannot be read."""
    try:
        return {os.path.relpath(path, folder): sha256_of(path) for path in sorted(files)}
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}.", "Check the file.") from error


def changed_since(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Which of the files that were there before have another content now, in words; empty for none."""
    changed = [path for path, digest in before.items() if now.get(path) != digest]
    return f"{some_of(changed, MOST_NAMED)} changed since" if changed else ""


def learn_from(folder: Path, models: Mapping[str, Path], write: bool = True) -> None:
    """Record the weights that a training learns from or starts from, by the names of their models.

    A model may be replaced by another one of its name while a training rests.

    Args:
        folder: of the checkpoints.
        models: files of weights by name.
        write: record them, where they are not refused.

    Raises:
        UsageError: the training was begun with other weights.
        InputError: a file of weights cannot be read, or the record is damaged.
    """
    try:
        now = {name: sha256_of(path) for name, path in models.items()}
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}.", "Check the file.") from error
    record = folder / MODELS_NAME
    if is_begun(folder) and record.exists():  # earlier versions have not recorded it
        before = _digests_in(record)
        if others := [name for name, digest in now.items() if before.get(name, digest) != digest]:
            raise UsageError(
                f"{folder} holds a training that was begun with other weights of {', '.join(others)}.",
                f"Put the former weights back, or {REMEDY[0].lower()}{REMEDY[1:]}",
            )
    if write:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(record, now)


def begin_correction(folder: Path, settings: Mapping[str, Any], mistakes: Mapping[str, str]) -> None:
    """Record what a training of the correction network is begun with.

    Args:
        folder: of the checkpoint.
        settings: that it must go on with, as JSON gives them back: recipe, whose mistakes, and their shares.
        mistakes: SHA-256 of their files, by name.

    Raises:
        UsageError: it was begun with others.
        InputError: what it was begun with is recorded in a file that is damaged.
    """
    if is_begun(folder) and (folder / CORRECTION_NAME).exists():  # earlier versions have not recorded it
        before = _digests_in(folder / CONTENTS_NAME)
        changed = changed_since(before, mistakes) or changed_since(mistakes, before)
        if changed or read_back(folder / CORRECTION_NAME, dict, REMEDY) != settings:
            more = f": {changed}" if changed else ""
            raise UsageError(
                f"{folder} holds a training that was begun with another recipe or on other mistakes{more}.", REMEDY
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONTENTS_NAME, mistakes)
    write_json(folder / CORRECTION_NAME, settings)


def is_begun(folder: Path) -> bool:
    """Whether there is a checkpoint in ``folder``."""
    return any(folder.glob(CHECKPOINTS))


def _digests_in(record: Path) -> dict[str, str]:
    return read_back(record, lambda read: dict(read.items()), REMEDY)


def refuse_other_training(
    folder: Path, recipe: Recipe | None, split: dict[str, list[str]], contents: Mapping[str, str] | None = None
) -> None:
    """Refuse to go on where a training was begun otherwise.

    Test cases must stay unseen, the card, which is made of the recipe, must describe the weights, and weights that were
    learnt from other images or labels must not be taken for new ones.

    Args:
        folder: of the checkpoints.
        recipe: of the training; None: it is neither compared nor recorded.
        split: cases by what they are for.
        contents: of :func:`contents_of`, of the cases that are learnt from at least; None: they are not compared.

    Raises:
        UsageError: it was begun with other cases, with another recipe, or with other images or labels.
        InputError: what it was begun with is recorded in a file that is damaged.
    """
    if not is_begun(folder):
        return
    if (folder / SPLIT_NAME).exists() and read_back(folder / SPLIT_NAME, dict, REMEDY) != split:
        raise UsageError(f"{folder} holds a training that was begun with other cases.", REMEDY)
    record = folder / RECIPE_NAME
    if recipe and record.exists() and not same_recipe(read_back(record, dict, REMEDY), recipe):
        raise UsageError(f"{folder} holds a training that was begun with another recipe.", REMEDY)
    if contents is None or not (folder / CONTENTS_NAME).exists():  # earlier versions have not recorded it
        return
    if changed := changed_since(_digests_in(folder / CONTENTS_NAME), contents):
        raise UsageError(f"{folder} holds a training that was begun with other images or labels: {changed}.", REMEDY)


def refuse_other_split(package: ModelPackage, split: Split) -> None:
    """Refuse cases of which some for validation or test may be among those that a model has learnt from.

    Args:
        package: a trained model. Beside it lies the split of its training; where it does not, since the model was
            installed, the card has the cases for test and the number of those for training and validation.
        split: of the cases that there are now, by its recipe.

    Raises:
        InputError: it is another split than that of the training, or the record of that is damaged.
    """
    record, training = package.path / "training" / SPLIT_NAME, package.card.training
    now = asdict(split)
    same = set(split.test) == set(training.get("test_cases", split.test))
    same &= training.get("cases") in (None, {group: len(names) for group, names in now.items()})
    if record.exists():
        same &= read_back(record, dict, "Train the model again.") == now
    if not same:
        raise InputError(
            f"These cases do not split as in the training of {package.card.name}: it may have learnt from some that "
            "would be measured.",
            "Give the dataset, the recipe and the fold that it was trained with.",
        )


def same_recipe(recorded: Any, recipe: Recipe) -> bool:
    """Whether what was recorded as JSON is ``recipe``; entries that came later have their defaults."""
    try:
        return Recipe.from_dict(recorded) == Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    except UsageError:  # of another version
        return False


def recipe_of(package: ModelPackage, name: str | None = None) -> Recipe:
    """The recipe of that name or file; where there is none, that which a model was trained by.

    That is recorded beside a model where it was trained. Elsewhere its card names it, if it is one that is shipped.

    Raises:
        UsageError: no such recipe, or it is not known by which one the model was trained.
        InputError: the record beside the model is damaged.
    """
    if name:
        return Recipe.load(name)
    record = package.path / "training" / RECIPE_NAME
    if record.exists():
        return read_back(record, lambda read: Recipe.from_dict(read, str(record)), "Give the recipe with --recipe.")
    named = str(package.card.training.get("recipe", package.card.name))
    if not (RECIPES_FOLDER / f"{named}.toml").exists():
        raise UsageError(
            f"{package.card.name} was trained by a recipe of your own, {named}, which is not beside it.",
            "Give its file with --recipe, or the folder that the model was trained in.",
        )
    return Recipe.load(named)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file; errors as of :func:`~SESegmentationLib.files.write_whole`."""
    write_whole(path, json.dumps(content, indent=1))


def read_back(path: Path, use: Callable[[Any], Read], remedy: str) -> Read:
    """What ``use`` makes of the content of a file that :func:`write_json` wrote.

    Raises:
        InputError: the file cannot be read, or ``use`` finds something else in it; with ``remedy``.
    """
    try:
        return use(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else f"it is damaged ({reason_of(error)})"
        raise InputError(f"{path} cannot be read: {why}.", remedy) from error

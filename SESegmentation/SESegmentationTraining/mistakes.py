"""A model's results on its own cases, beside the truth: the mistakes that the correction network learns from.

Each case is segmented as it is and under shifts, with all views and with one. Segmenting is the slow part, so every
volume is kept in a file, and done once. Of heads every structure is cut out with what lies round it: their volumes are
too large to be kept whole, and which other structure lies beside it need not be known.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from SESegmentationLib.errors import InputError, UsageError, reason_of
from SESegmentationLib.files import write_whole
from SESegmentationLib.files.json_files import read_json
from SESegmentationLib.geometry import mask_box, triple, whole_box
from SESegmentationLib.inference.dividing_plane import divide
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.inference.intensity import normalise
from SESegmentationLib.inference.predictor import Prediction
from SESegmentationLib.models import ModelCard, ModelPackage
from SESegmentationLib.progress import Progress, no_progress

from .begun import recipe_of, refuse_other_split
from .calibration import SHIFTS, shift_array, shift_volume
from .crossvalidation import recipe_of_fold
from .dataset import FEWEST_VOXELS, Split
from .sources import open_source

#: volumes under one shift, and under two at once, per volume without a shift; the same for heads, which take longer
ONE, TWO = 4, 4
ONE_HEAD, TWO_HEAD = 1, 1
#: a volume of more voxels than this is kept structure by structure
LARGEST_WHOLE = 2_000_000
#: most voxels of a structure kept along each axis, and the margin around it in voxels
LARGEST_PART, MARGIN = 72, 8
#: of cases
GROUPS = tuple(field.name for field in fields(Split))
#: of the synthesised images
SEED = 77
#: what a file holds of each
ARRAYS = ("image", "probabilities", "own", "truth")
#: tells of which model and which cases the mistakes of a folder are
RECORD_NAME = "mistakes.json"


@dataclass(frozen=True)
class SegmentedCase:
    """A volume, or a structure of it with its surroundings, with what a model makes of it, and the truth.

    All on the model's grid, (k, j, i).

    Attributes:
        image: float16, as the networks see it.
        probabilities: (C, k, j, i) uint8, in steps of 1/255.
        own: output channels of the model's result, uint8.
        truth: true output channels, uint8.
        shifts: under which the volume was segmented.
        case: name of the volume.
        single: channel 1 is the structure that was cut out, channel 2 all others.
    """

    image: np.ndarray
    probabilities: np.ndarray
    own: np.ndarray
    truth: np.ndarray
    shifts: tuple[str, ...]
    case: str
    single: bool = False

    def structures(self) -> Iterator[SegmentedCase]:
        """Every structure with its surroundings; of large ones a part."""
        random = np.random.default_rng(zlib.crc32("+".join([self.case, *self.shifts]).encode()))
        for channel in range(1, len(self.probabilities)):
            box = mask_box((self.own == channel) | (self.truth == channel), MARGIN) or whole_box(self.own.shape)
            box = triple(_part(side, random) for side in box)
            if (self.truth[box] == channel).sum() < FEWEST_VOXELS:
                continue
            own, truth = (
                np.where(labels[box] == channel, 1, np.where(labels[box] > 0, 2, 0)).astype(np.uint8)
                for labels in (self.own, self.truth)
            )
            background, structure = self.probabilities[0][box], self.probabilities[channel][box]
            others = (255 - background.astype(np.int16) - structure).clip(0).astype(np.uint8)
            chances = np.stack([background, structure, others])
            yield SegmentedCase(self.image[box], chances, own, truth, self.shifts, self.case, single=True)


def _part(side: slice, random: np.random.Generator) -> slice:
    """A side that is not too long."""
    if side.stop - side.start <= LARGEST_PART:
        return side
    start = int(random.integers(side.start, side.stop - LARGEST_PART + 1))
    return slice(start, start + LARGEST_PART)


def save_cases(cases: Sequence[SegmentedCase], path: Path) -> None:
    """Write a file of cases of one volume, at least one; whole or not at all."""
    arrays = {f"{number}-{name}": getattr(case, name) for number, case in enumerate(cases) for name in ARRAYS}
    first, content = cases[0], io.BytesIO()
    np.savez(content, **arrays, shifts=np.array(first.shifts, np.str_), case=first.case, single=first.single)
    write_whole(path, content.getvalue())


def load_cases(path: Path) -> list[SegmentedCase]:
    """Read what :func:`save_cases` wrote; InputError where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as content:
            shifts, case, single = tuple(content["shifts"].tolist()), str(content["case"]), bool(content["single"])
            cases = []
            for number in range(sum(name.endswith("-image") for name in content)):
                image, chances, own, truth = (content[f"{number}-{name}"] for name in ARRAYS)
                cases.append(SegmentedCase(image, chances, own, truth, shifts, case, single))
    except (OSError, EOFError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} holds no mistakes of a model: {reason_of(error)}.", "Delete it, and make them again."
        ) from error
    return cases


@dataclass(frozen=True)
class MistakesRecord:
    """Whose mistakes a folder holds.

    Attributes:
        model, version: that made them.
        data: that it learnt from.
        licence: of what is made of them, see :meth:`.Licence.to_dict`.
        split: cases by what they are for; the mistakes are those of ``group``.
        group: "training", "validation" or "test".
    """

    model: str
    version: str
    data: str
    licence: dict[str, Any]
    split: Split
    group: str

    @classmethod
    def load(cls, folder: Path) -> MistakesRecord:
        """Of a folder; InputError where there are no mistakes in it."""
        try:
            content = read_json(folder / RECORD_NAME)
            return cls(**content | {"split": Split(**content["split"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"There are no mistakes of a model in {folder}: {reason_of(error)}.",
                "Make them: sesegment prepare mistakes.",
            ) from error


def with_share(entry: str) -> tuple[Path, float]:
    """A folder of mistakes and its share, of "DIR=SHARE" or "DIR"; UsageError where that is no number above 0."""
    folder, equals, share = entry.rpartition("=")
    if not equals:
        return Path(entry), 1.0
    try:
        number = float(share)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise UsageError(f"--mistakes {entry}: the share {share!r} is not a number above 0.", "Give DIR=SHARE.")
    return Path(folder), number


def shifts_of(case: str, one: int = ONE, two: int = TWO) -> list[tuple[str, ...]]:
    """The shifts under which a case is segmented: none, ``one`` singly, ``two`` pairs; always the same for a case."""
    random = np.random.default_rng(zlib.crc32(case.encode()))
    names = list(SHIFTS)
    single = [(names[n],) for n in random.permutation(len(names))[:one]]
    pairs = [tuple(names[n] for n in random.permutation(len(names))[:2]) for _ in range(two)]
    return [(), *single, *pairs]


def shifted(image: sitk.Image, shifts: Sequence[str], seed: int) -> sitk.Image:
    """A volume under several shifts, one after the other."""
    for number, name in enumerate(shifts):
        image = shift_volume(image, name, seed + number)
    return image


def segment_case(
    engine: Engine, image: np.ndarray, truth: np.ndarray, shifts: tuple[str, ...], case: str, fast: bool = False
) -> SegmentedCase:
    """What the model of ``engine`` makes of a case.

    Args:
        image: (k, j, i) on the model's grid, normalised.
        truth: its output channels.
        shifts: under which it is put before.
        case: its name.
        fast: with one view.
    """
    for number, name in enumerate(shifts):
        shaken = shift_array(image, name, zlib.crc32(case.encode()) + number)
        image = normalise(shaken, engine.card.intensity)
    predictor = engine.predictor
    views = [predictor.best_view()] if fast else predictor.views
    prediction = predictor.predict(image.astype(np.float32), views, keep_unsmoothed=True)
    assert prediction.unsmoothed is not None  # it was asked for
    own, chances = own_channels(prediction, engine.card), in_steps(prediction.unsmoothed)
    return SegmentedCase(image.astype(np.float16), chances, own, truth.astype(np.uint8), shifts, case)


def own_channels(prediction: Prediction, card: ModelCard) -> np.ndarray:
    """The output channel of every voxel, uint8 (k, j, i), as a result has it."""
    return divide(prediction.probabilities, card).float().argmax(0).to(torch.uint8).cpu().numpy()


def in_steps(probabilities: torch.Tensor) -> np.ndarray:
    """Probabilities as uint8, in steps of 1/255."""
    return (probabilities.float() * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def _write_record(folder: Path, card: ModelCard, split: Split, group: str) -> None:
    """Write what the mistakes in a folder are; UsageError where it holds others."""
    data = str(card.training.get("data", card.title))
    record = MistakesRecord(card.name, card.version, data, card.licence.to_dict(), split, group)
    if (folder / RECORD_NAME).exists() and MistakesRecord.load(folder) != record:
        raise UsageError(f"{folder} holds the mistakes of another model, or on other cases.", "Choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / RECORD_NAME, json.dumps(asdict(record), indent=1) + "\n")


def collect_mistakes(
    package: ModelPackage,
    dataset: Path,
    folder: Path,
    group: str = "training",
    fold: tuple[int, int] | None = None,
    recipe: str | None = None,
    progress: Progress = no_progress,
) -> list[Path]:
    """Write what a model makes of its cases; what is there already is not made again.

    Args:
        package: the model.
        dataset: that it was trained on.
        folder: for the files, and a record of what they are.
        group: of its cases.
        fold: number of the fold that the model left out, and how many folds there were, in a cross-validation.
        recipe: it was trained by, name or file; that which its card names if None.

    Returns:
        The files.

    Raises:
        InputError: the dataset cannot be used, or has no cases of that group.
        UsageError: there is no such group or recipe, or the folder holds other mistakes.
    """
    if group not in GROUPS:
        raise UsageError(f"There is no group {group!r} of cases.", f"Choose {', '.join(GROUPS)}.")
    engine, trained_by = Engine(package, "cpu"), recipe_of(package, recipe)
    if fold is not None:
        trained_by = recipe_of_fold(trained_by, fold[1], fold[0])
    source = open_source(dataset, trained_by, package.card, torch.device("cpu"))
    names = getattr(source.split, group)
    refuse_other_split(package, source.split)
    if not names:
        raise InputError(f"There are no cases for {group}.", "Choose another --group, or keep some out in [data].")
    _write_record(folder, package.card, source.split, group)
    files: list[Path] = []
    for number, (name, image, truth) in enumerate(source.whole_volumes(torch.Generator().manual_seed(SEED), group)):
        box = mask_box(truth > 0, 2 * MARGIN) or whole_box(truth.shape)
        large = truth[box].size > LARGEST_WHOLE
        if large:
            image, truth = image[box], truth[box]
        for shifts in shifts_of(name, ONE_HEAD, TWO_HEAD) if large else shifts_of(name, ONE, TWO):
            progress("segmenting", number / len(names), None)
            path = folder / f"{'+'.join([name, *shifts]).replace(' ', '-')}.npz"
            if not path.exists():
                segmented = segment_case(engine, image, truth, shifts, name, fast=large and bool(shifts))
                cases = list(segmented.structures()) if large else [segmented]
                if not cases:  # a rest cut off by the field of view
                    continue
                save_cases(cases, path)
            files.append(path)
    return files

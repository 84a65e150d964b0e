"""Mistakes of real networks: what a model makes of labelled volumes, as they are and under one or two shifts.

They are what a network that learns to correct learns from. Segmenting is the slow part of that, so each volume is kept
in a file, and done once.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from ..inference.division import divide
from ..inference.engine import Engine, Field
from ..inference.geometry import RAS
from ..inference.predictor import Prediction
from ..models import ModelCard
from ..progress import Progress, no_progress
from .dataset import Case, box_round, read_case
from .shifts import SHIFTS, shift_volume

#: volumes under one shift, and under two at once, for each volume as it is
ONE, TWO = 4, 4
#: structures of fewer voxels are not learnt from
LEAST_VOXELS = 200
#: voxels round a structure that is cut out
CROP_MARGIN = 12
#: what is cut out and has more voxels is halved along every axis
LARGEST_CROP = 250_000


@dataclass(frozen=True)
class Mistaken:
    """A volume with what a model makes of it, and the truth; all on the model's grid, (k, j, i).

    Attributes:
        image: float16, as the networks see it.
        probabilities: (C, k, j, i) uint8, in steps of 1/255.
        own: output channels that the model gives, uint8.
        truth: output channels that are right, uint8.
        shifts: under which the volume was segmented.
        case: name of the volume.
        whole: whether all its structures are there; otherwise channel 1 is one of them, 2 is all others.
    """

    image: np.ndarray
    probabilities: np.ndarray
    own: np.ndarray
    truth: np.ndarray
    shifts: tuple[str, ...]
    case: str
    whole: bool = True

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        temporary = path.with_suffix(".part.npz")
        arrays = {name: getattr(self, name) for name in ("image", "probabilities", "own", "truth")}
        np.savez(
            temporary, **arrays, shifts=np.array(self.shifts, dtype=np.str_), case=np.array(self.case), whole=self.whole
        )
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Mistaken:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as content:
            arrays = [content[name] for name in ("image", "probabilities", "own", "truth")]
            whole = bool(content["whole"]) if "whole" in content else True
            return cls(*arrays, tuple(content["shifts"].tolist()), str(content["case"]), whole)


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


def find_mistakes(engine: Engine, image: sitk.Image, truth: sitk.Image, shifts: tuple[str, ...], case: str) -> Mistaken:
    """What the model of ``engine``, one of crops, makes of ``image``."""
    (field,) = engine.fields(image)
    prediction = engine.predictor.predict(field.volume, engine.predictor.views, False, lambda view, fraction: None)
    own = own_channels(prediction, engine.card)
    channels = np.zeros_like(own)
    values = field.grid.labels_to_grid(truth)
    for channel, label in enumerate(engine.card.labels, start=1):
        channels[values == label.value] = channel
    return Mistaken(field.volume.astype(np.float16), in_steps(prediction.probabilities), own, channels, shifts, case)


def own_channels(prediction: Prediction, card: ModelCard) -> np.ndarray:
    """The output channel of every voxel, uint8 (k, j, i), as a result has it."""
    return divide(prediction.probabilities, card).float().argmax(0).to(torch.uint8).cpu().numpy()


def in_steps(probabilities: torch.Tensor) -> np.ndarray:
    """Probabilities as uint8, in steps of 1/255."""
    return (probabilities.float() * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def collect_mistakes(
    engine: Engine, cases: Sequence[Case], folder: Path, progress: Progress = no_progress
) -> Iterator[Path]:
    """Files of what the model makes of ``cases``; those that are there already are not made again.

    Raises:
        InputError: a case cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(cases):
        progress("segmenting", number / len(cases), None)
        images = None
        for shifts in shifts_of(case.name):
            path = folder / f"{'+'.join([case.name, *shifts]).replace(' ', '-')}.npz"
            if not path.exists():
                images = images or read_case(case, engine.card.labels, None)
                seed = zlib.crc32(path.name.encode())
                find_mistakes(engine, shifted(images[0], shifts, seed), images[1], shifts, case.name).save(path)
            yield path


def collect_head_mistakes(
    engine: Engine, heads: Iterable[tuple[str, np.ndarray, np.ndarray]], folder: Path, progress: Progress = no_progress
) -> Iterator[Path]:
    """Files of what a model of heads makes of their structures, each cut out of its head.

    Args:
        engine: of the model.
        heads: name, intensities and output channels (k, j, i) on the model's grid.
        folder: where the files go; heads that are there already are not segmented again.
        progress: told how many heads are done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, intensities, channels) in enumerate(heads):
        progress("segmenting", 0.0, None)
        shifts = ((), *shifts_of(name)[1:])[(0, 1, 5)[number % 3]]
        done = folder / f"{name}.done"
        if not done.exists():
            image, truth = (_on_grid(array, engine.card) for array in (intensities, channels))
            shift = shifted(image, shifts, zlib.crc32(name.encode()))
            for part, mistaken in enumerate(_structures(engine, shift, truth, shifts, name)):
                mistaken.save(folder / f"{name}-{part:02}.npz")
            done.touch()
        yield from sorted(folder.glob(f"{name}-*.npz"))


def _structures(
    engine: Engine, image: sitk.Image, truth: sitk.Image, shifts: tuple[str, ...], name: str
) -> Iterator[Mistaken]:
    """Every structure that is large enough, in a box round it."""
    seen: list[tuple[Field, torch.Tensor]] = []
    engine.segment(image, observe=lambda field, probabilities: seen.append((field, probabilities)))
    ((field, probabilities),) = seen
    own = probabilities.argmax(0).numpy()
    right = field.grid.labels_to_grid(truth)
    for channel in range(1, len(probabilities)):
        if (right == channel).sum() < LEAST_VOXELS:
            continue
        low, high = box_round((own == channel) | (right == channel), [CROP_MARGIN] * 3)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        step = 1 if np.prod(high - low) < LARGEST_CROP else 2
        chance = probabilities[(channel, *box)].float()
        three = torch.stack([probabilities[(0, *box)].float(), chance, torch.zeros_like(chance)])
        three[2] = (1 - three.sum(0)).clamp(min=0)
        maps = torch.cat([torch.from_numpy(field.volume[box].astype(np.float32))[None], three])
        maps = F.avg_pool3d(maps[None], step)[0]
        labels = [
            _three(array[box], channel)[tuple(slice(0, n * step, step) for n in maps.shape[1:])]
            for array in (own, right)
        ]
        yield Mistaken(maps[0].numpy().astype(np.float16), in_steps(maps[1:]), *labels, shifts, name, whole=False)


def _three(labels: np.ndarray, channel: int) -> np.ndarray:
    """0 the background, 1 a structure, 2 any other one."""
    return np.where(labels == channel, 1, np.where(labels > 0, 2, 0)).astype(np.uint8)


def _on_grid(array: np.ndarray, card: ModelCard) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(card.spacing)
    image.SetDirection(RAS)
    return image

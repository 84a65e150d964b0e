"""Examples for the network that learns to correct: mistakes of real networks, corrected in a few slices.

They are what a network that learns to correct learns from. Segmenting is the slow part of that, so each volume is kept
in a file, and done once.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.inference.postprocess import divide
from SESegmentationLib.inference.predictor import Prediction
from SESegmentationLib.models import ModelCard
from SESegmentationLib.networks.correction import Corrected
from SESegmentationLib.progress import Progress, no_progress

from .calibration import SHIFTS, shift_volume
from .dataset import Case, read_case
from .simulated_corrections import MANNERS, POLICIES, choose_slices, simulate_correction

#: volumes under one shift, and under two at once, for each volume as it is
ONE, TWO = 4, 4
#: share of the examples for any model in which borders lie too far outside or inside
BIASED = 0.4
#: how often so many slices are corrected
COUNTS, COUNT_SHARES = (1, 2, 4, 8), (0.25, 0.35, 0.25, 0.15)
#: how often slices are corrected in which manner
MANNER_SHARES = (0.4, 0.15, 0.15, 0.3)


@dataclass(frozen=True)
class SegmentedCase:
    """A volume with what a model makes of it, and the truth; all on the model's grid, (k, j, i).

    Attributes:
        image: float16, as the networks see it.
        probabilities: (C, k, j, i) uint8, in steps of 1/255.
        own: output channels that the model gives, uint8.
        truth: output channels that are right, uint8.
        shifts: under which the volume was segmented.
        case: name of the volume.
    """

    image: np.ndarray
    probabilities: np.ndarray
    own: np.ndarray
    truth: np.ndarray
    shifts: tuple[str, ...]
    case: str

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        temporary = path.with_suffix(".part.npz")
        arrays = {name: getattr(self, name) for name in ("image", "probabilities", "own", "truth")}
        np.savez(temporary, **arrays, shifts=np.array(self.shifts, dtype=np.str_), case=np.array(self.case))
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> SegmentedCase:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as content:
            image, probabilities, own, truth = (content[name] for name in ("image", "probabilities", "own", "truth"))
            shifts = tuple(content["shifts"].tolist())
            return cls(image, probabilities, own, truth, shifts, str(content["case"]))


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
    engine: Engine, image: sitk.Image, truth: sitk.Image, shifts: tuple[str, ...], case: str
) -> SegmentedCase:
    """What the model of ``engine``, one of crops, makes of ``image``."""
    (crop,) = engine.crops(image)
    prediction = engine.predictor.predict(crop.volume, engine.predictor.views, False, lambda view, fraction: None)
    own = own_channels(prediction, engine.card)
    channels = np.zeros_like(own)
    values = crop.grid.labels_to_grid(truth)
    for channel, label in enumerate(engine.card.labels, start=1):
        channels[values == label.value] = channel
    return SegmentedCase(
        crop.volume.astype(np.float16), in_steps(prediction.probabilities), own, channels, shifts, case
    )


def own_channels(prediction: Prediction, card: ModelCard) -> np.ndarray:
    """The output channel of every voxel, uint8 (k, j, i), as a result has it."""
    return divide(prediction.probabilities, card).float().argmax(0).to(torch.uint8).cpu().numpy()


def in_steps(probabilities: torch.Tensor) -> np.ndarray:
    """Probabilities as uint8, in steps of 1/255."""
    return (probabilities.float() * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def segment_cases(
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
                segment_case(engine, shifted(images[0], shifts, seed), images[1], shifts, case.name).save(path)
            yield path


@dataclass(frozen=True)
class Example:
    """What one step learns from, (N, ...) each.

    Attributes:
        inputs: (N, channels, D, H, W), see :meth:`.Corrected.inputs`.
        base: (N, D, H, W), see :meth:`.Corrected.base`.
        truth: (N, D, H, W), 1 where the structure is.
        counts: (N, D, H, W), 1 where nobody looked: there it counts.
    """

    inputs: Tensor
    base: Tensor
    truth: Tensor
    counts: Tensor


class CorrectionExamples:
    """Draws examples at random.

    Args:
        files: of :class:`.SegmentedCase` volumes.
        size: edge of the cube that is cut out round a structure, in voxels.
        plain_share: of examples of volumes as they are.
        seed: of all randomness.
        any_model: turn and mirror them in all ways, and change sizes of voxels and intensities often.
    """

    def __init__(self, files: Sequence[Path], size: int, plain_share: float, seed: int, any_model: bool = True) -> None:
        self.size = size
        self.plain_share = plain_share
        self.random = np.random.default_rng(seed)
        self.any_model = any_model
        loaded = [SegmentedCase.load(path) for path in files]
        self._plain = [each for each in loaded if not each.shifts]
        self._shifted = [each for each in loaded if each.shifts]

    def draw(self, count: int) -> Example:
        """``count`` examples, of which some slices are corrected."""
        drawn: list[tuple[Tensor, ...]] = []
        while len(drawn) < count:
            one = self._one()
            if one is not None:
                drawn.append(one)
        return Example(*(torch.stack(parts) for parts in zip(*drawn, strict=True)))

    def _one(self) -> tuple[Tensor, ...] | None:
        random = self.random
        plain = random.random() < self.plain_share or not self._shifted
        group = self._plain if plain and self._plain else self._shifted
        segmented = group[random.integers(len(group))]
        image, probabilities, own, truth = self._zoomed(segmented)
        if self.any_model and random.random() < BIASED:
            probabilities = self._biased(probabilities)
            own = probabilities.argmax(0).astype(np.uint8)
        doubt = 1 - probabilities.max(0)
        # 0: all structures as one
        channel = int(random.integers(0, len(probabilities)))
        policy = POLICIES[random.integers(len(POLICIES))]
        manner = random.choice(MANNERS, p=MANNER_SHARES)
        only = None
        if channel == 0:
            own, truth = (own > 0).astype(np.uint8), (truth > 0).astype(np.uint8)
            probabilities = np.stack([probabilities[0], 1 - probabilities[0]])
            channel = 1
        elif manner == "one structure":  # the slices that are worst for this structure
            only = np.where(own == channel, own, 0), np.where(truth == channel, truth, 0)
        if not (truth == channel).any():
            return None
        chosen_from = only or (own, truth)
        slices = choose_slices(
            policy, *chosen_from, doubt, int(random.choice(COUNTS, p=COUNT_SHARES)), int(random.integers(3))
        )
        made = simulate_correction(own, truth, slices, str(manner), channel)
        if not made.edited.any() or not ((own == channel) | (made.labels == channel)).any():
            return None
        stated = manner != "stroke" and random.random() < 0.5
        known = np.where(made.edited, 1.0, np.where(made.seen, 1.0 if stated else 0.5, 0.0))
        others = 1 - probabilities[0] - probabilities[channel]
        arrays = [
            image,
            own == channel,
            probabilities[channel],
            others,
            known,
            made.labels == channel,
            (made.labels > 0) & (made.labels != channel),
            truth == channel,
            ~made.seen,
        ]
        parts = self._turned(self._cut([np.asarray(array, np.float32) for array in arrays], own, made.labels, channel))
        corrected = Corrected(self._augment_intensity(parts[0]), *parts[1:7])
        return corrected.inputs(), corrected.base(), parts[7], parts[8]

    def _zoomed(self, segmented: SegmentedCase) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Image, probabilities, own labels and truth; some with larger or smaller voxels, or thicker slices."""
        image = segmented.image.astype(np.float32)
        probabilities = segmented.probabilities.astype(np.float32) / 255
        if self.random.random() > (0.4 if self.any_model else 0.15):
            return image, probabilities, segmented.own, segmented.truth
        factors = np.exp(self.random.uniform(np.log(0.8), np.log(1.4), 3))
        if self.random.random() < 0.4:
            factors[self.random.integers(3)] /= self.random.uniform(1.5, 4)
        size = [max(round(n * f), 8) for n, f in zip(image.shape, factors, strict=True)]
        both = torch.from_numpy(np.concatenate([image[None], probabilities]))[None]
        soft = F.interpolate(both, size, mode="trilinear", align_corners=False)[0].numpy()
        hard = torch.from_numpy(np.stack([segmented.own, segmented.truth]).astype(np.float32))[None]
        own, truth = F.interpolate(hard, size, mode="nearest-exact")[0].numpy().astype(np.uint8)
        return soft[0], soft[1:], own, truth

    def _biased(self, probabilities: np.ndarray) -> np.ndarray:
        """Structures too large or too small everywhere, as by a model that learnt other borders."""
        softened = np.stack([gaussian_filter(each, self.random.uniform(0, 1.2)) for each in probabilities])
        odds = softened.clip(1e-3) * np.exp(self.random.normal(0, 1.2, (len(probabilities), 1, 1, 1)))
        return (odds / odds.sum(0)).astype(np.float32)

    def _cut(self, arrays: list[np.ndarray], own: np.ndarray, labels: np.ndarray, channel: int) -> list[Tensor]:
        """A cube round the structure, about its middle, or somewhere in it where it is larger."""
        where = np.argwhere((own == channel) | (labels == channel))
        low, high = where.min(0), where.max(0) + 1
        start = []
        for a, b, n in zip(low, high, own.shape, strict=True):
            middle = (a + b - self.size) / 2
            room = max((b - a + 8 - self.size) / 2, 3)
            start.append(
                int(
                    np.clip(
                        round(middle + self.random.uniform(-room, room)), min(0, n - self.size), max(0, n - self.size)
                    )
                )
            )
        parts = []
        for array in arrays:
            sides = [slice(max(s, 0), s + self.size) for s in start]
            part = torch.from_numpy(np.ascontiguousarray(array[tuple(sides)]))
            missing = [self.size - n for n in part.shape]
            if any(missing):
                pads = [side for m in reversed(missing) for side in (m // 2, m - m // 2)]
                part = F.pad(part[None, None], pads, mode="replicate")[0, 0]
            parts.append(part)
        # what lies beyond the volume was padded, and does not count
        inside = torch.zeros_like(parts[-1])
        missing = [max(self.size - n, 0) for n in own.shape]
        inside[tuple(slice(m // 2, self.size - (m - m // 2)) for m in missing)] = 1
        parts[-1] = parts[-1] * inside
        return parts

    def _turned(self, parts: list[Tensor]) -> list[Tensor]:
        """Axes exchanged and mirrored, so that what is learnt holds in every plane; or left and right only."""
        if not self.any_model:
            return [part.flip(2) for part in parts] if self.random.random() < 0.5 else parts
        axes = self.random.permutation(3).tolist()
        flips = [axis for axis in range(3) if self.random.random() < 0.5]
        return [part.permute(axes).flip(flips).contiguous() for part in parts]

    def _augment_intensity(self, image: Tensor) -> Tensor:
        """Another brightness, contrast, sharpness or noise, or the negative."""
        image = (image - image.mean()) / image.std().clamp(min=1e-6)
        if self.any_model and self.random.random() < 0.2:
            image = -image
        often = 0.3 if self.any_model else 0.15
        if self.random.random() < often:
            remapped = torch.sigmoid(image * float(self.random.uniform(0.5, 1.5)) + float(self.random.normal()))
            image = (remapped - remapped.mean()) / remapped.std().clamp(min=1e-6)
        if self.random.random() < often:
            generator = torch.Generator().manual_seed(int(self.random.integers(2**31)))
            image = image + float(self.random.uniform(0, 0.4)) * torch.randn(image.shape, generator=generator)
        return image

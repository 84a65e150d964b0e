"""Training examples for the correction network: mistakes of real networks, corrected in a few slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from SESegmentationLib.errors import InputError
from SESegmentationLib.networks.correction import Corrected
from SESegmentationLib.refine.learnt_correction import MARGIN

from .mistakes import SegmentedCase
from .simulated_corrections import MANNERS, POLICIES, Slice, choose_slices, simulate_correction

#: share of the examples for any model in which borders lie too far outside or inside
BIASED = 0.4
#: numbers of corrected slices, and how often each is drawn
COUNTS, COUNT_SHARES = (1, 2, 4, 8), (0.25, 0.35, 0.25, 0.15)
#: how often each manner of correction is drawn, in the order of ``MANNERS``
MANNER_SHARES = (0.4, 0.15, 0.15, 0.3)
#: slices that are chosen for a whole head meet its structures anywhere: so often, at most so many, so often neighbours
ANYWHERE, MOST_ANYWHERE, TOGETHER = 0.6, 4, 0.3

#: cases in a row of which nothing can be learnt before that is said
MOST_WITHOUT_EXAMPLE = 1000


@dataclass(frozen=True)
class Example:
    """What one step learns from, (N, ...) each.

    Attributes:
        inputs: (N, channels, D, H, W), see :meth:`.Corrected.inputs`.
        base: (N, D, H, W), see :meth:`.Corrected.base`.
        truth: (N, D, H, W), 1 where the structure is.
        counts: (N, D, H, W), 1 outside the corrected slices: only there the loss counts.
    """

    inputs: Tensor
    base: Tensor
    truth: Tensor
    counts: Tensor


class CorrectionExamples:
    """Draws examples at random.

    Args:
        groups: cases of which examples are drawn, by share of the examples.
        size: edge of the cube that is cut out round a structure, in voxels.
        plain_share: of examples of volumes as they are.
        seed: of all randomness.
        any_model: turn and mirror them in all ways, and change sizes of voxels and intensities often.
    """

    def __init__(
        self,
        groups: Sequence[tuple[float, Sequence[SegmentedCase]]],
        size: int,
        plain_share: float,
        seed: int,
        any_model: bool = True,
    ) -> None:
        self.size = size
        self.plain_share = plain_share
        self.random = np.random.default_rng(seed)
        self.any_model = any_model
        shares = np.array([share for share, _ in groups])
        self._shares = shares / shares.sum()
        self._groups = [
            ([case for case in cases if not case.shifts], [case for case in cases if case.shifts])
            for _, cases in groups
        ]

    def draw(self, count: int) -> Example:
        """``count`` examples, of which some slices are corrected; InputError where there are none to be found."""
        drawn: list[tuple[Tensor, ...]] = []
        without_example = 0
        while len(drawn) < count:
            one = self._one()
            if one is not None:
                drawn.append(one)
            without_example = 0 if one is not None else without_example + 1
            if without_example == MOST_WITHOUT_EXAMPLE:
                raise InputError(
                    "The mistakes leave nothing to correct: there is hardly any structure, or no error in them.",
                    "Collect mistakes of other cases, or of another model.",
                )
        return Example(*(torch.stack(parts) for parts in zip(*drawn, strict=True)))

    def _one(self) -> tuple[Tensor, ...] | None:
        random = self.random
        plain, shifted = self._groups[random.choice(len(self._groups), p=self._shares)]
        cases = plain if plain and (random.random() < self.plain_share or not shifted) else shifted
        segmented = cases[random.integers(len(cases))]
        image, probabilities, own, truth = self._zoomed(segmented)
        if self.any_model and random.random() < BIASED:
            probabilities = self._biased(probabilities)
            own = probabilities.argmax(0).astype(np.uint8)
        # 0: all structures as one
        channel = 1 if segmented.single else int(random.integers(0, len(probabilities)))
        if channel == 0:
            own, truth = (own > 0).astype(np.uint8), (truth > 0).astype(np.uint8)
            probabilities = np.stack([probabilities[0], 1 - probabilities[0]])
            channel = 1
        if not (truth == channel).any():
            return None
        manner = str(random.choice(MANNERS, p=MANNER_SHARES))
        made = simulate_correction(
            own,
            truth,
            self._slices(own, truth, 1 - probabilities.max(0), channel, manner, segmented.single),
            manner,
            channel,
        )
        edited = made.edited & ((own == channel) | (made.labels == channel)) if segmented.single else made.edited
        if not edited.any() or not ((own == channel) | (made.labels == channel)).any():
            return None
        stated = manner != "stroke" and random.random() < 0.5
        known = np.where(made.edited, 1.0, np.where(made.seen, 1.0 if stated else 0.5, 0.0))
        arrays = [
            image,
            own == channel,
            probabilities[channel],
            1 - probabilities[0] - probabilities[channel],
            known,
            made.labels == channel,
            (made.labels > 0) & (made.labels != channel),
            truth == channel,
            ~made.seen,
        ]
        parts = self._cut([np.asarray(array, np.float32) for array in arrays], (own == channel) | arrays[5])
        *parts, truth_part, counts = self._turned(parts)
        corrected = Corrected(self._augment_intensity(parts[0]), *parts[1:])
        return corrected.inputs(), corrected.base(), truth_part, counts

    def _slices(
        self, own: np.ndarray, truth: np.ndarray, doubt: np.ndarray, channel: int, manner: str, single: bool
    ) -> list[Slice]:
        """Slices to be corrected."""
        random = self.random
        count, axis = int(random.choice(COUNTS, p=COUNT_SHARES)), int(random.integers(3))
        if single and random.random() < ANYWHERE:
            across = tuple(other for other in range(3) if other != axis)
            there = np.flatnonzero(((own == channel) | (truth == channel)).any(across))
            count = min(count, MOST_ANYWHERE, len(there))
            if random.random() < TOGETHER:
                first = int(random.integers(len(there) - count + 1))
                return [(axis, int(number)) for number in there[first : first + count]]
            return [(axis, int(number)) for number in random.choice(there, count, replace=False)]
        if manner == "one structure":  # the slices that are worst for this structure
            own, truth = np.where(own == channel, own, 0), np.where(truth == channel, truth, 0)
        return choose_slices(POLICIES[random.integers(len(POLICIES))], own, truth, doubt, count, axis)

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

    def _cut(self, arrays: list[np.ndarray], structure: np.ndarray) -> list[Tensor]:
        """A cube round the structure, about its middle, or somewhere in a large one."""
        where, size = np.argwhere(structure), self.size
        start = []
        for low, high, n in zip(where.min(0), where.max(0) + 1, structure.shape, strict=True):
            middle, room = (low + high - size) / 2, max((high - low + MARGIN - size) / 2, 3)
            first = round(middle + self.random.uniform(-room, room))
            start.append(int(np.clip(first, min(0, n - size), max(0, n - size))))
        parts = []
        missing = [max(size - n, 0) for n in structure.shape]
        for array in arrays:
            sides = tuple(slice(max(s, 0), s + size) for s in start)
            part = torch.from_numpy(np.ascontiguousarray(array[sides]))
            if any(missing):
                pads = [side for m in reversed(missing) for side in (m // 2, m - m // 2)]
                part = F.pad(part[None, None], pads, mode="replicate")[0, 0]
            parts.append(part)
        # what lies beyond the volume was padded, and does not count
        inside = torch.zeros_like(parts[-1])
        inside[tuple(slice(m // 2, size - (m - m // 2)) for m in missing)] = 1
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

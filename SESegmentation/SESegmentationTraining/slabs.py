"""Thick slices drawn from a bank of volumes under random spatial deformation.

A slab is a slice with its neighbours, in an axial, coronal or sagittal plane that is rotated, scaled and deformed at
random. Labels are read at the nearest voxel, so that no label is ever interpolated; images trilinearly. Everything is
batched tensor arithmetic, on CPU or GPU alike; planes may be mixed within a batch.

Arrays are (k, j, i) = (superior, anterior, right) of a volume in RAS orientation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

#: array axes of (slice, row, column), by plane
PLANE_AXES = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1)}


@dataclass(frozen=True)
class Deformation:
    """How far slabs are deformed at random; the defaults suit heads.

    Attributes:
        rotation_degrees: largest rotation round each axis.
        scale: largest relative change of size, per axis.
        elastic_mm: standard deviation of the smooth displacement (a coarse and a fine field).
        shift_mm: largest shift in the slice's plane.
        mirror: whether left and right may be exchanged (with their labels).
        share: of the slabs that are rotated, scaled and deformed; the others keep the sharpness of the voxels, as what
            is segmented later has it.
        in_plane: only within the slice, and coarser pixels leave the slices' distance as it is: for slices that are
            much thicker than their pixels, or single.
    """

    rotation_degrees: float = 15.0
    scale: float = 0.15
    elastic_mm: tuple[float, float] = (3.0, 1.0)
    shift_mm: float = 12.0
    mirror: bool = True
    share: float = 1.0
    in_plane: bool = False


@dataclass(frozen=True)
class Slabs:
    """A batch drawn from a bank: B slabs of T slices, H x W.

    Attributes:
        labels: (B, T, H, W) uint8.
        images: (B, T, H, W) float32, or None if the bank has none.
        planes: (B,) index into the planes that were asked for.
        points_mm: (B, 3, T, H, W) position from the centre of the volume's focus, along (k, j, i).
        soft_targets: (B, C - 1, 1, H, W) float32, of a teacher, background left out, in the middle slice; of stacks in
            all T slices. None if the bank has none.
    """

    labels: Tensor
    images: Tensor | None
    planes: Tensor
    points_mm: Tensor
    soft_targets: Tensor | None = None

    @property
    def intensities(self) -> Tensor:
        """The images, of a bank that has some."""
        assert self.images is not None, "label maps have no images"
        return self.images


class VolumeBank:
    """Label volumes, with or without images, flat in one tensor each, ready to be sampled.

    Args:
        labels: arrays (k, j, i) of values below 256.
        images: arrays of the same shapes, intensities normalised; or None.
        voxel_mm: voxel size along (k, j, i), in mm, the same for all volumes.
        mirrored: table of the label that each label becomes in a mirror, (256,) uint8.
        focus: per volume the box ((low k, j, i), (high k, j, i)) in voxels, high excluded, that slabs are centred on
            and that slices not chosen by label are drawn from; the whole volume if None.
        device: where the bank lives and slabs are made.
    """

    def __init__(
        self,
        labels: Sequence[np.ndarray],
        images: Sequence[np.ndarray] | None,
        voxel_mm: Sequence[float],
        mirrored: np.ndarray,
        focus: Sequence[tuple[Sequence[int] | np.ndarray, Sequence[int] | np.ndarray]] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.voxel_mm = torch.tensor(voxel_mm, dtype=torch.float32, device=self.device)
        self.shapes = torch.tensor([a.shape for a in labels], device=self.device)
        self.focus = torch.tensor(np.array(focus or [((0, 0, 0), a.shape) for a in labels]))
        sizes = torch.tensor([a.size for a in labels], device=self.device)
        self.offsets = torch.cumsum(sizes, 0) - sizes
        self.labels = _flat(labels, torch.uint8).to(self.device)
        self.images = None if images is None else _flat(images, torch.float16).to(self.device)
        self.soft_targets: list[Tensor] = []
        self.mirrored = torch.as_tensor(mirrored, device=self.device)
        self._slices = [_slices_by_label(labels, axis) for axis in range(3)]

    def __len__(self) -> int:
        return len(self.shapes)

    def set_soft_targets(self, soft_targets: Sequence[np.ndarray]) -> None:
        """Hand out a teacher's probabilities too.

        Args:
            soft_targets: of each volume the probability of every label above 0, (C - 1, k, j, i).
        """
        self.soft_targets = [
            _flat(channel, torch.float16).to(self.device) for channel in zip(*soft_targets, strict=True)
        ]

    def draw(
        self,
        planes: Sequence[str],
        plane_weights: Sequence[float],
        batch: int,
        thickness: int,
        size: tuple[int, int],
        spacing_mm: float,
        deformation: Deformation,
        generator: torch.Generator,
        rare_share: float = 0.5,
        stacks: bool = False,
    ) -> Slabs:
        """Draw ``batch`` deformed slabs.

        Args:
            planes: names of planes; ``plane_weights`` how often each is drawn.
            thickness: slices per slab; their distance is the voxel size times the zoom of ``spacing_mm``, or the voxel
                size if the deformation stays in the plane.
            size: (H, W) in pixels.
            spacing_mm: pixel size relative to 1 for the bank's own voxel size (2 halves the resolution).
            deformation: how far to deform.
            generator: source of all randomness, on the CPU.
            rare_share: share of slabs centred on a slice that holds a label chosen uniformly among labels; the others
                are uniform over slices.
            stacks: slabs are whole volumes: their middle is that of the volume's focus, shifted, whatever the labels,
                and beyond the volume's ends there is nothing.
        """
        weights = torch.tensor(plane_weights, dtype=torch.float32)
        plane = torch.multinomial(weights, batch, replacement=True, generator=generator)
        volume, centre = self._centres(planes, plane, deformation.shift_mm, rare_share, stacks, generator)
        axes = torch.tensor([PLANE_AXES[name] for name in planes])[plane].to(self.device)
        deformed = torch.rand(batch, generator=generator) < deformation.share
        matrix, mirrored = _random_matrices(deformed, axes[:, 0].cpu(), deformation, generator)
        # along slices, rows and columns, relative to the voxel
        zoom = torch.tensor([1.0 if deformation.in_plane else spacing_mm, spacing_mm, spacing_mm], device=self.device)
        matrix = matrix.to(self.device) * self.voxel_mm[None, None]  # steps of one voxel, in mm
        steps = torch.gather(matrix, 2, axes[:, None, :].expand(-1, 3, -1)) * zoom  # columns: slice, row, column
        centre = _on_voxels(centre, axes, (thickness, *size), zoom)
        across = _centred(thickness, self.device).expand(batch, -1)
        if not stacks:
            across = self._at_ends(across, volume, centre, axes, steps, float(zoom[0]))
        in_plane = torch.stack(torch.meshgrid(*[_centred(n, self.device) for n in size], indexing="ij"))
        displacement = _smooth_field(deformed, size, deformation.elastic_mm, generator).to(self.device)
        if deformation.in_plane:
            displacement.scatter_(1, axes[:, :1, None, None].expand(-1, -1, *size), 0)
        displacement += torch.einsum("bxs,shw->bxhw", steps[:, :, 1:], in_plane)
        points = displacement[:, :, None] + (steps[:, :, :1] * across[:, None])[..., None, None]
        points += (centre * self.voxel_mm)[:, :, None, None, None]
        voxels = points / self.voxel_mm[None, :, None, None, None]
        labels = self._nearest(volume, voxels)
        labels = torch.where(mirrored.to(self.device)[:, None, None, None], self.mirrored[labels.long()], labels)
        images = None if self.images is None else self._trilinear(self.images, volume, voxels)
        soft_targets = (
            self._soft_targets_at(volume, voxels if stacks else _middle(voxels), mirrored)
            if self.soft_targets
            else None
        )
        middle = (self.focus.to(self.device)[volume].sum(1) - 1) / 2 * self.voxel_mm
        return Slabs(labels, images, plane.to(self.device), points - middle[:, :, None, None, None], soft_targets)

    def whole(self, index: int) -> Slabs:
        """One volume as it is: a single axial slab of all its slices."""
        shape = self.shapes[index].tolist()
        size = int(np.prod(shape))
        part = slice(int(self.offsets[index]), int(self.offsets[index]) + size)
        labels = self.labels[part].reshape(1, *shape)
        images = None if self.images is None else self.images[part].reshape(1, *shape).float()
        middle = ((self.focus[index].sum(0) - 1) / 2).to(self.device)
        sides = zip(shape, middle, self.voxel_mm, strict=True)
        axes = [(torch.arange(n, device=self.device) - centre) * mm for n, centre, mm in sides]
        points = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
        return Slabs(labels, images, torch.zeros(1, dtype=torch.long, device=self.device), points)

    def _centres(
        self,
        planes: Sequence[str],
        plane: Tensor,
        shift_mm: float,
        rare_share: float,
        stacks: bool,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Volume and centre voxel (B, 3) of each slab."""
        volumes, centres = [], []
        for index in plane.tolist():
            axis = PLANE_AXES[planes[index]][0]
            by_label = self._slices[axis]
            if torch.rand((), generator=generator) < rare_share and by_label:
                candidates = by_label[int(torch.randint(len(by_label), (), generator=generator))]
                volume, position = candidates[int(torch.randint(len(candidates), (), generator=generator))]
            else:
                volume = int(torch.randint(len(self), (), generator=generator))
                low, high = self.focus[volume, :, axis].tolist()
                position = int(torch.randint(low, high, (), generator=generator))
            shift = (2 * torch.rand(3, generator=generator) - 1) * shift_mm / self.voxel_mm.cpu()
            centre = (self.focus[volume].sum(0) - 1) / 2 + shift
            if not stacks:
                centre[axis] = position
            volumes.append(volume)
            centres.append(centre)
        return torch.tensor(volumes, device=self.device), torch.stack(centres).to(self.device)

    def _at_ends(
        self, across: Tensor, volume: Tensor, centre: Tensor, axes: Tensor, steps: Tensor, zoom: float
    ) -> Tensor:
        """Positions (B, T) of a slab's slices, in steps of ``zoom`` voxels from its middle.

        Beyond the volume's ends the outermost slice is repeated, as inference does.
        """
        position = centre.gather(1, axes[:, :1])
        last = self.shapes[volume].gather(1, axes[:, :1]) - 1
        direction = torch.sign(steps[:, :, 0].gather(1, axes[:, :1]))  # a mirror turns sagittal slabs round
        return direction * (direction * across).clamp(-position / zoom, (last - position) / zoom)

    def _nearest(self, volume: Tensor, voxels: Tensor) -> Tensor:
        """Labels at the voxels nearest to ``voxels`` (B, 3, T, H, W); 0 outside."""
        flat, inside = self._flat_index(volume, torch.round(voxels).long())
        return torch.where(inside, self.labels[flat], 0)

    def _soft_targets_at(self, volume: Tensor, voxels: Tensor, mirrored: Tensor) -> Tensor:
        """The teacher's probabilities (B, C - 1, T, H, W) at ``voxels`` (B, 3, T, H, W)."""
        soft_targets = torch.stack([self._trilinear(one, volume, voxels) for one in self.soft_targets], 1)
        others = self.mirrored[1 : len(self.soft_targets) + 1].long() - 1
        return torch.where(mirrored.to(self.device)[:, None, None, None, None], soft_targets[:, others], soft_targets)

    def _trilinear(self, values: Tensor, volume: Tensor, voxels: Tensor) -> Tensor:
        """``values``, one a voxel, at ``voxels`` (B, 3, T, H, W), each corner outside counting as 0."""
        low = torch.floor(voxels)
        part = voxels - low
        low = low.long()
        total = torch.zeros(voxels[:, 0].shape, device=self.device)
        for corner in range(8):
            step = torch.tensor([corner >> 2 & 1, corner >> 1 & 1, corner & 1], device=self.device)
            flat, inside = self._flat_index(volume, low + step[None, :, None, None, None])
            weight = torch.where(step[None, :, None, None, None].bool(), part, 1 - part).prod(dim=1)
            total += torch.where(inside, values[flat].float(), 0) * weight
        return total

    def _flat_index(self, volume: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        shape = self.shapes[volume][:, :, None, None, None]
        inside = ((index >= 0) & (index < shape)).all(dim=1)
        k, j, i = index.clamp(min=0).minimum(shape - 1).unbind(1)
        flat = self.offsets[volume][:, None, None, None] + (k * shape[:, 1] + j) * shape[:, 2] + i
        return flat, inside


def _flat(arrays: Sequence[np.ndarray], dtype: torch.dtype) -> Tensor:
    return torch.cat([torch.from_numpy(np.ascontiguousarray(a)).to(dtype).flatten() for a in arrays])


def _slices_by_label(labels: Sequence[np.ndarray], axis: int) -> list[list[tuple[int, int]]]:
    """For each label present, background left out, the (volume, slice) pairs that hold it."""
    found: dict[int, list[tuple[int, int]]] = {}
    for volume, array in enumerate(labels):
        for position, plane in enumerate(np.moveaxis(array, axis, 0)):
            for value in np.flatnonzero(np.bincount(plane.ravel(), minlength=2)[1:]) + 1:
                found.setdefault(int(value), []).append((volume, position))
    return [found[value] for value in sorted(found)]


def _middle(voxels: Tensor) -> Tensor:
    """Of ``voxels`` (B, 3, T, H, W) those of the slabs' middle slices."""
    half = voxels.shape[2] // 2
    return voxels[:, :, half : half + 1]


def _centred(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, dtype=torch.float32, device=device) - (count - 1) / 2


def _on_voxels(centre: Tensor, axes: Tensor, counts: Sequence[int], zoom: Tensor) -> Tensor:
    """Move centres (B, 3) by half a voxel at most, so that the pixels of a slab that is not deformed are voxels."""
    reach = zoom * (torch.tensor(counts, device=centre.device) - 1) / 2
    reach = torch.zeros_like(centre).scatter(1, axes, reach.expand(len(axes), -1))
    return torch.floor(centre - reach + 0.5) + reach


def _random_matrices(
    deformed: Tensor, across: Tensor, deformation: Deformation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rotation times scale (B, 3, 3) on (k, j, i) where ``deformed`` (B,), and which of them mirror left and right.

    Args:
        across: (B,) axis of the slices.
    """
    batch = len(deformed)
    angles = (2 * torch.rand(batch, 3, generator=generator) - 1) * np.deg2rad(deformation.rotation_degrees)
    angles *= deformed[:, None]
    zoom = 1 + (2 * torch.rand(batch, 3, generator=generator) - 1) * deformation.scale * deformed[:, None]
    if deformation.in_plane:  # the rotation by angle 0 turns axes k and j, by 1 k and i, by 2 j and i
        angles = angles * (torch.arange(3) == 2 - across[:, None])
        zoom = torch.where(torch.arange(3) == across[:, None], 1.0, zoom)
    skew = torch.zeros(batch, 3, 3)
    skew[:, 0, 1], skew[:, 0, 2], skew[:, 1, 2] = angles.unbind(1)
    matrix = torch.linalg.matrix_exp(skew - skew.transpose(1, 2)) * zoom[:, None]
    mirrored = (torch.rand(batch, generator=generator) < 0.5) & deformation.mirror
    matrix[:, :, 2] *= torch.where(mirrored, -1.0, 1.0)[:, None]
    return matrix, mirrored


def _smooth_field(
    deformed: Tensor, size: tuple[int, int], elastic_mm: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Displacements (B, 3, H, W) in mm where ``deformed`` (B,): a coarse and a fine random field of random strength."""
    batch = len(deformed)
    field = torch.zeros(batch, 3, *size)
    for knots, strength in zip((5, 11), elastic_mm, strict=True):
        noise = torch.randn(batch, 3, knots, knots, generator=generator)
        noise *= strength * deformed[:, None, None, None] * torch.rand(batch, 1, 1, 1, generator=generator)
        field += F.interpolate(noise, size, mode="bicubic", align_corners=True)
    return field

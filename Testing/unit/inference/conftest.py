"""A model whose result can be predicted, and a phantom whose truth is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import save_file
from torch import nn

from SESegmentationLib.inference import predictor
from SESegmentationLib.models import ModelPackage, write_package
from SESegmentationLib.models.labels import LEFT, RIGHT, structure_label
from SESegmentationLib.networks import architectures as factory

#: centre (LPS) and radii in mm of the phantom's ellipsoids, by class; the left one is the larger. They are so large
#: because a surface interpolated between probabilities 1 mm apart lies about 0.07 mm off on average, without any shift
#: (the true probabilities on the model's grid give the same). A sphere of radius r then has a Dice with the truth of
#: 1 - 1.5 * 0.07 / r, which must stay clear of 0.99.
ELLIPSOIDS = {1: ((20.0, 3.0, -2.0), (14.0, 17.0, 20.0)), 2: ((-19.0, -4.0, 3.0), (13.0, 16.0, 14.5))}
BRIGHT = 200.0


class SidedThreshold(nn.Module):
    """Bright voxels of the middle slice are the left structure in the first half of the columns, else the right one.

    On a model grid columns run to the right in axial and coronal slices. Not ``sided``, it calls everything left, as
    the network of a sagittal view does.
    """

    def __init__(self, in_channels: int, classes: int = 3, sided: bool = True) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.classes = classes
        self.sided = sided
        self.conv = nn.Conv2d(in_channels, 2, 1)

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        background, bright = self.conv(slices).split(1, dim=1)
        columns = torch.arange(slices.shape[-1], device=slices.device)
        is_left = (columns < slices.shape[-1] / 2) | (not self.sided)
        left = torch.where(is_left, bright, -30.0)
        right = torch.where(is_left, -30.0, bright)
        return torch.cat([background, left.to(bright.dtype), right.to(bright.dtype)], dim=1)


def threshold_weights(thickness: int, threshold: float = 0.4, sharpness: float = 12.0) -> dict[str, torch.Tensor]:
    """Weights of :class:`SidedThreshold` with the class boundary at ``threshold`` (of normalised intensities)."""
    weight = torch.zeros(2, thickness, 1, 1)
    weight[1, thickness // 2] = sharpness
    return {"conv.weight": weight, "conv.bias": torch.tensor([0.0, -sharpness * threshold])}


@pytest.fixture(scope="session", autouse=True)
def sided_threshold_network() -> Iterator[None]:
    """Model cards may name the network for as long as these tests run."""
    factory.NETWORKS["SidedThreshold"] = SidedThreshold
    yield
    del factory.NETWORKS["SidedThreshold"]


def package_entries(thickness: int = 1, **changes: Any) -> dict[str, Any]:
    """Card of a model that finds the phantom's ellipsoids."""
    labels = [structure_label(17, "hippocampus", LEFT), structure_label(53, "hippocampus", RIGHT)]
    entries = {
        "name": "phantom",
        "title": "Phantom",
        "version": "1.0.0",
        "summary": "Finds what is bright, left and right of the middle.",
        "modality": "MR",
        "contrast": "T1",
        "spacing": [1.0, 1.0, 1.0],
        "orientation": "RAS",
        "intensity": {"type": "window", "lower": 0, "upper": 250},
        "networks": {
            name: {"type": "SidedThreshold", "in_channels": thickness, "sided": name == "sided"}
            for name in ("sided", "merged")
        },
        "views": [
            {"plane": "axial", "weight": 1.0, "network": "sided", "thickness": thickness},
            {"plane": "sagittal", "weight": 0.5, "network": "merged", "thickness": thickness, "merged": True},
            {"plane": "coronal", "weight": 1.0, "network": "sided", "thickness": thickness},
        ],
        "labels": [label.to_dict() for label in labels],
        "merged_pairs": [[17, 53]],
        "input": {"kind": "crop"},
        "licence": {"spdx": "Apache-2.0", "name": "Apache License 2.0", "free": True},
    }
    return entries | changes


@pytest.fixture(scope="session")
def make_package(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ModelPackage]:
    """Function that writes a package: its folder, slices per slab, weights, and changes of the card."""

    def make(
        folder: Path | None = None,
        thickness: int = 1,
        weights: dict[str, torch.Tensor] | None = None,
        **changes: Any,
    ) -> ModelPackage:
        entries = package_entries(thickness, **changes)
        folder = folder or tmp_path_factory.mktemp("models") / entries["name"]
        if weights is None:
            weights = {
                f"{name}.{key}": value
                for name in entries["networks"]
                for key, value in threshold_weights(thickness).items()
            }
        file = tmp_path_factory.mktemp("weights") / "model.safetensors"
        save_file(weights, file)
        return write_package(folder, entries, file)

    return make


@pytest.fixture(scope="session")
def phantom_package(make_package: Callable[..., ModelPackage]) -> ModelPackage:
    """The phantom's model."""
    return make_package()


@pytest.fixture(scope="session")
def make_phantom() -> Callable[..., tuple[sitk.Image, np.ndarray]]:
    """Function that draws the phantom on any grid: image and true classes (k, j, i)."""

    def make(
        spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
        direction: np.ndarray | None = None,
        extent_mm: tuple[float, float, float] = (74.0, 48.0, 50.0),
        rotate_anatomy: bool = False,
    ) -> tuple[sitk.Image, np.ndarray]:
        axes = np.diag([-1.0, -1.0, 1.0]) if direction is None else np.asarray(direction)
        size = [max(round(e / s), 2) for e, s in zip(extent_mm, spacing, strict=True)]
        indices = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in size], indexing="ij"), -1) * spacing
        points = indices @ (np.diag([-1.0, -1.0, 1.0]) if rotate_anatomy else axes).T
        array, truth = np.zeros(size, np.float32), np.zeros(size, np.uint8)
        for value, (centre, radii) in ELLIPSOIDS.items():
            radius = np.sqrt((((points - centre) / radii) ** 2).sum(-1))
            depth_mm = (1 - radius) * np.mean(radii)
            array += BRIGHT / (1 + np.exp(-4 * depth_mm))  # an edge about 1 mm wide
            truth[depth_mm > 0] = value
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
        image.SetSpacing(spacing)
        image.SetDirection(axes.ravel().tolist())
        image.SetOrigin((-(axes @ ((np.array(size) - 1) / 2 * spacing))).tolist())
        return image, np.ascontiguousarray(truth.T)

    return make


@pytest.fixture
def single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """What networks compute does not depend on the processor's abilities."""
    monkeypatch.setattr(predictor, "fast_precision", lambda device: torch.float32)


@pytest.fixture(scope="session")
def dice() -> Callable[[np.ndarray, np.ndarray], float]:
    """Dice of two masks."""

    def overlap(a: np.ndarray, b: np.ndarray) -> float:
        return 2 * float((a & b).sum()) / max(int(a.sum()) + int(b.sum()), 1)

    return overlap

"""Small datasets and recipes to train on."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.random import default_rng

from SESegmentationLib.models.labels import LEFT, RIGHT, structure_label
from SESegmentationTraining.recipe import Recipe

#: direction of a RAS image in LPS coordinates
RAS = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)

LICENCE = {"spdx": "Apache-2.0", "name": "Apache License 2.0", "free": True}

BLOBS: dict[str, Any] = {
    "name": "blobs",
    "network": {"type": "PyramidUNet", "channels": [4, 8], "se": "scSE"},
    "data": {"validation": 1, "test": 1, "mirrored_pairs": [[17, 53]]},
    "fit": {"learning_rate": 0.01, "warmup": 1, "average": 0.9, "validate_every": 4, "validation_batches": 2},
    "deformation": {"rotation_degrees": 5, "scale": 0.05, "elastic_mm": [0.5, 0.2], "shift_mm": 2},
    "phases": [
        {"steps": 4, "batch": 4, "size": [12, 12], "spacing": 2.0},
        {"steps": 6, "batch": 4, "size": [24, 24]},
    ],
    "card": {
        "title": "Blobs",
        "version": "1.0.0",
        "summary": "Two bright blobs, for tests.",
        "modality": "MR",
        "contrast": "T1",
        "spacing": [1.0, 1.0, 1.0],
        "intensity": {"type": "percentile", "lower": 0, "upper": 99.5},
        "views": [
            {"plane": plane, "weight": 1.0, "network": "planes", "thickness": 3} for plane in ("axial", "coronal")
        ],
        "labels": [
            structure_label(17, "hippocampus", LEFT).to_dict(),
            structure_label(53, "hippocampus", RIGHT).to_dict(),
        ],
        "merged_pairs": [[17, 53]],
        "input": {"kind": "crop"},
        "licence": LICENCE,
    },
}


def draw_blobs(seed: int, shape: tuple[int, int, int] = (22, 24, 26)) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels (k, j, i): bright balls, 17 in the left half and 53 in the right one, on noise."""
    random = default_rng(seed)
    k, j, i = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij")
    labels = np.zeros(shape, np.uint8)
    for value, side in ((17, -6.0), (53, 6.0)):
        centre = np.array([0, 0, side]) + random.uniform(-1.5, 1.5, 3)
        labels[(k - centre[0]) ** 2 + (j - centre[1]) ** 2 + (i - centre[2]) ** 2 < random.uniform(3.5, 5) ** 2] = value
    image = random.normal(100, 10, shape) + 150 * (labels > 0)
    return image.astype(np.float32), labels


def as_image(array: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> sitk.Image:
    """An array (k, j, i) as a RAS image."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetDirection(RAS)
    return image


@pytest.fixture(scope="session")
def to_image() -> Callable[..., sitk.Image]:
    """See :func:`as_image`."""
    return as_image


def write_case(dataset: Path, name: str, image: np.ndarray, labels: np.ndarray) -> None:
    """Add a case to a folder in nnU-Net's layout."""
    for folder, file, array in (("imagesTr", f"{name}_0000.nii.gz", image), ("labelsTr", f"{name}.nii.gz", labels)):
        (dataset / folder).mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(as_image(array), str(dataset / folder / file))


@pytest.fixture(scope="session")
def blobs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of four cases in nnU-Net's layout, see :func:`draw_blobs`; not to be changed."""
    folder = tmp_path_factory.mktemp("blobs")
    for seed in range(4):
        write_case(folder, f"blob_{seed}", *draw_blobs(seed, shape=(22, 24 + seed, 26)))
    return folder


@pytest.fixture
def own_blobs_folder(tmp_path: Path) -> Path:
    """As ``blobs_folder``, to be damaged."""
    for seed in range(4):
        write_case(tmp_path / "blobs", f"blob_{seed}", *draw_blobs(seed))
    return tmp_path / "blobs"


def changed(entries: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of ``entries`` with changes: tables are merged, everything else replaced."""
    both = deepcopy(entries)
    for key, value in changes.items():
        both[key] = changed(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both


@pytest.fixture(scope="session")
def blobs_entries() -> Callable[..., dict[str, Any]]:
    """Function that gives the entries of a tiny recipe for ``blobs_folder``, with changes."""
    return lambda **changes: changed(BLOBS, changes)


@pytest.fixture(scope="session")
def blobs_recipe(blobs_entries: Callable[..., dict[str, Any]]) -> Callable[..., Recipe]:
    """Function that gives a tiny recipe for ``blobs_folder``, with changes."""
    return lambda **changes: Recipe.from_dict(blobs_entries(**changes))

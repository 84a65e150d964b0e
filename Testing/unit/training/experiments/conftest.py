"""A small plan on made-up data, and results made up without training."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationTraining.experiments.plan import Plan
from SESegmentationTraining.experiments.results import write_results

#: a plan on the dataset of ``blobs_folder``, a run of which takes a moment
TEXT = """
title = "Blobs"
dataset = "DATASET"
seeds = [1, 2]

[recipe]
network = { channels = 4, blocks = 2, kernel = 3 }
phases = [{ steps = 6, batch = 4, size = [24, 24] }]
data = { validation = 1, test = 2, mirrored_pairs = [[17, 53]] }

[recipe.card]
title = "Blobs"
version = "1.0.0"
summary = "Two bright blobs, for tests."
modality = "MR"
contrast = "T1"
spacing = [1.0, 1.0, 1.0]
intensity = { type = "percentile", lower = 0, upper = 99.5 }
views = [{ plane = "coronal", network = "coronal", weight = 1.0, thickness = 1 }]
input = { kind = "crop" }
licence = { spdx = "Apache-2.0", name = "Apache License 2.0", free = true }

[[recipe.card.labels]]
value = 17
name = "left blob"
category = { value = "123037004", scheme = "SCT", meaning = "Anatomical Structure" }
type = { value = "5366008", scheme = "SCT", meaning = "Hippocampus" }
color = [220, 216, 20]

[[recipe.card.labels]]
value = 53
name = "right blob"
category = { value = "123037004", scheme = "SCT", meaning = "Anatomical Structure" }
type = { value = "5366008", scheme = "SCT", meaning = "Hippocampus" }
color = [20, 216, 220]

[protocols.modern]
fit = { learning_rate = 0.01, warmup = 2, average = 0.5, bf16 = false, validate_every = 3, validation_batches = 1 }
deformation = { rotation_degrees = 5, scale = 0.05, elastic_mm = [0.5, 0.2], shift_mm = 2, mirror = false }

[protocols.paper]
fit = {optimizer = "sgd", step_decays = 1, average = 0, class_balance = 1, boundary = 2, warmup = 0, validate_every = 3}

[[comparisons]]
name = "networks"
title = "Kinds of recalibration"
protocol = "modern"
networks = ["UNet"]

[comparisons.variants]
none = { se = "none" }
scSE = { se = "scSE" }

[[comparisons]]
name = "aggregation"
title = "How branches are joined"
protocol = "modern"

[comparisons.variants]
none = { se = "none" }
max = { aggregation = "max" }
add = { aggregation = "add" }
"""


@pytest.fixture(scope="session")
def blobs_folder(blobs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up dataset, its right blobs darker: small networks that see one slice can tell them from left ones."""
    folder = tmp_path_factory.mktemp("data") / "blobs"
    shutil.copytree(blobs_folder, folder)
    for path in (folder / "labelsTr").iterdir():
        image_path = folder / "imagesTr" / path.name.replace(".nii.gz", "_0000.nii.gz")
        image, labels = sitk.ReadImage(str(image_path)), sitk.ReadImage(str(path))
        sitk.WriteImage(image - 80 * sitk.Cast(labels == 53, image.GetPixelID()), str(image_path))
    return folder


@pytest.fixture
def plan_file(tmp_path: Path, blobs_folder: Path) -> Callable[..., Path]:
    """Function that writes the small plan, with texts replaced in it."""

    def write(*changes: tuple[str, str], name: str = "blobs") -> Path:
        text = TEXT.replace("DATASET", blobs_folder.name)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def plan(plan_file: Callable[..., Path]) -> Callable[..., Plan]:
    """Function that gives the small plan, with texts replaced in it."""
    return lambda *changes, **named: Plan.load(plan_file(*changes, **named))


@pytest.fixture
def made_up() -> Callable[..., dict]:
    """Function that gives results of a plan's runs that were never done: Dice at random, higher for larger seeds."""

    def results(plan: Plan, cases: int = 12) -> dict:
        found = {}
        for run in plan.runs():
            random = np.random.default_rng(int(run.key, 16))
            names = [f"case_{index:02d}" for index in range(cases)][
                run.fold or 0 :: plan.recipe["data"].get("folds", 1)
            ]
            found[run.key] = {
                "key": run.key,
                "description": run.description,
                "labels": ["left blob", "right blob"],
                "dice": {name: np.round(random.uniform(0.1, 0.9, 2) + run.seed / 100, 4).tolist() for name in names},
                "curve": [[3, 0.4], [6, 0.5 + run.seed / 100]],
                "parameters": 1000 + len(run.variant),
                "se_parameters": len(run.variant),
                "multiply_adds": 2_000_000,
                "size": [24, 24],
                "milliseconds_per_slice": 1.5,
                "milliseconds_per_step": 20.0 + run.seed,
                "hours": 0.01,
                "split": {"training": ["a"], "validation": [], "test": names},
                "contents": {f"labelsTr/{name}.nii.gz": "0" * 64 for name in names},
                "machine": "abacus",
                "versions": {"python": "3.11"},
                "date": "2020-01-02",
            }
        return found

    return results


@pytest.fixture
def results_folder(tmp_path: Path, made_up: Callable[..., dict], plan: Callable[..., Plan]) -> Path:
    """A folder that holds made-up results of the small plan."""
    folder = tmp_path / "results"
    folder.mkdir()
    write_results(folder, made_up(plan()).values())
    return folder

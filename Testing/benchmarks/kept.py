"""Measurements that are kept: an interrupted run goes on where it stopped, and a finished one is only printed.

Single measurements are lines of a file in ``runs/``, which is no part of the project. What comes of all of them is a
JSON file in ``Resources``, beside the plot of it.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from SESegmentationLib.geometry import RAS
from SESegmentationLib.models import ModelPackage, find_model
from SESegmentationTraining.accuracy import test_cases
from SESegmentationTraining.begun import recipe_of
from SESegmentationTraining.dataset import Case
from SESegmentationTraining.processes import machine_words
from SESegmentationTraining.sources import open_source

ROOT = Path(__file__).resolve().parents[2]
DATASET = ROOT.parent / "shared" / "data" / "hippocampus"
RESOURCES = ROOT / "Resources"
#: of synthesised images
SEED = 6
#: the model that is measured unless another is named
HIPPOCAMPUS = "hippocampus-t1"


class Kept:
    """Measurements by key, each made once.

    Args:
        name: of the benchmark.
        package: the model that is measured; other weights, or views, have a file of their own.
    """

    def __init__(self, name: str, package: ModelPackage) -> None:
        card = package.card.to_dict()
        decisive = json.dumps(
            [card[entry] for entry in ("weights", "views", "intensity", "dividing_plane", "cleanup")], sort_keys=True
        )
        self.path = ROOT / "runs" / f"{name}-{hashlib.sha256(decisive.encode()).hexdigest()[:12]}.jsonl"
        self.path.parent.mkdir(exist_ok=True)
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self._known = {entry["key"]: entry["value"] for entry in map(json.loads, lines)}

    def get(self, key: str, measure: Callable[[], Any]) -> Any:
        """What was measured under ``key``; ``measure()`` where nothing was yet."""
        if key not in self._known:
            value = measure()
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "value": value}) + "\n")
            self._known[key] = value
        return self._known[key]


def arguments(text: str | None, cases: int) -> argparse.ArgumentParser:
    """Options that both benchmarks have."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=HIPPOCAMPUS, help="name or folder")
    parser.add_argument("--dataset", type=Path, default=DATASET, help="that the model was trained on")
    parser.add_argument("--cases", type=int, default=cases, help="test cases that are measured")
    parser.add_argument("--measure", action="store_true", help="measure, even where there are figures in Resources")
    parser.add_argument("--output", type=Path, default=RESOURCES, help="folder of figures and plot")
    return parser


def opened(chosen: argparse.Namespace) -> tuple[ModelPackage, list[Case]]:
    """The model, and its test cases, kept out of training and of every choice.

    Of a model that learns from label maps these are images synthesised from its validation cases.
    """
    if not chosen.dataset.is_dir():
        raise SystemExit(f"There are no volumes in {chosen.dataset}: nothing can be measured.")
    package = find_model(chosen.model)
    if (chosen.dataset / "imagesTr").is_dir():
        return package, test_cases(package, chosen.dataset)[: chosen.cases]
    cases = synthesised(package, chosen.dataset, ROOT / "runs" / f"synthesised-{package.card.name}")
    return package, cases[: chosen.cases]


def synthesised(package: ModelPackage, dataset: Path, folder: Path) -> list[Case]:
    """Images synthesised from the label maps that a training kept out for validation, written with their labels."""
    folder.mkdir(parents=True, exist_ok=True)
    source = open_source(dataset, recipe_of(package), package.card, torch.device("cpu"))
    values = np.array([0, *(label.value for label in package.card.labels)], np.int16)
    cases = []
    for name, image, channels in source.whole_volumes(torch.Generator().manual_seed(SEED)):
        case = Case(name, folder / f"{name}_0000.nii.gz", folder / f"{name}.nii.gz")
        for array, path in ((image.astype(np.float32), case.image), (values[channels], case.label)):
            volume = sitk.GetImageFromArray(array)
            volume.SetSpacing(package.card.spacing)
            volume.SetDirection(RAS)
            sitk.WriteImage(volume, str(path))
        cases.append(case)
    return cases


def write_figures(path: Path, package: ModelPackage, cases: Sequence[Case], figures: dict[str, Any]) -> dict[str, Any]:
    """Write figures, and what they are of; both."""
    content = {
        "model": {"name": package.card.name, "weights_sha256": package.card.weights_sha256},
        "cases": [case.name for case in cases],
        "machine": machine_words(torch.device("cpu")),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **figures,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return content


def read_figures(path: Path, model: str, target: str) -> dict[str, Any] | None:
    """The figures that were written, said to be so; None where there are none."""
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    print(f"{path.name} of {content['date']}, {len(content['cases'])} cases. Measure again: make {target} MEASURE=1")
    try:
        now = find_model(model).card.weights_sha256
    except Exception as error:  # printing needs no model
        print(f"The model is not there to compare with: {error}")
    else:
        if now != content["model"]["weights_sha256"]:
            print("They are of other weights than the model has now.")
    return content

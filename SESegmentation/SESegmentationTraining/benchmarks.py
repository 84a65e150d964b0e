"""Two of the paper's benchmarks, laid out as the recipes ``malc`` and ``visceral`` want them.

    python -m SESegmentationTraining.benchmarks malc SOURCE DATASET
    python -m SESegmentationTraining.benchmarks visceral SOURCE DATASET [--test]

Neither can be passed on: ask their owners (Neuromorphometrics, Inc.; the VISCERAL project). The paper's third, retinal
OCT, comes as MATLAB files, which are not read here; the recipe ``duke-oct`` says what to make of them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SESegmentationLib.errors import InputError
from SESegmentationLib.files import OutputFiles, refuse_overwriting, write_whole
from SESegmentationLib.geometry import same_grid
from SESegmentationLib.io.reading import read_label_volume, read_volume
from SESegmentationLib.io.volume_image import voxels_of
from SESegmentationLib.io.writing import write_image
from SESegmentationLib.models import Label

from .dataset import volumes_in
from .processes import as_command
from .recipe import Recipe

#: FreeSurfer's value by the value in the challenge's labels (Neuromorphometrics' numbers), as QuickNAT remaps them
FREESURFER_VALUES = {
    45: 2, 52: 4, 41: 7, 39: 8, 60: 10, 37: 11, 58: 12, 56: 13, 4: 14, 11: 15, 35: 16, 48: 17, 32: 18, 62: 28,
    44: 41, 51: 43, 40: 46, 38: 47, 59: 49, 36: 50, 57: 51, 55: 52, 47: 53, 31: 54, 61: 60,
}  # fmt: skip
#: the challenge's first parcel of the cortex; odd numbers are left, even ones right
FIRST_PARCEL = 100
LEFT_CORTEX, RIGHT_CORTEX = 3, 42
#: value in the recipe ``visceral`` by RadLex number, of which each structure's file carries one
RADLEX_VALUES = {
    58: 1, 86: 2, 29662: 3, 29663: 4, 1302: 5, 1326: 6, 32248: 7, 32249: 8, 237: 9, 480: 10,
}  # fmt: skip
_STRUCTURE = re.compile(r"(?P<case>.+)_(?P<radlex>\d+)_(?P<annotator>\d+)\.nii(\.gz)?")


def lay_out_malc(source: Path, dataset: Path) -> dict[str, int]:
    """The MICCAI 2012 Multi-Atlas Labelling Challenge.

    Its folders are ``training-images`` (``1000_3.nii``), ``training-labels`` (``1000_3_glm.nii``) and two of testing.
    Training cases go to ``imagesTr`` and ``labelsTr``, those of ``testing-images`` to ``imagesTs`` and ``labelsTs``.

    Returns:
        Number of cases by "Tr" and "Ts".

    Raises:
        InputError: folders or labels are missing, or a file cannot be read.
    """
    counts = {}
    for part, kind in (("Tr", "training"), ("Ts", "testing")):
        images, labels = source / f"{kind}-images", source / f"{kind}-labels"
        for folder in (images, labels):
            if not folder.is_dir():
                raise InputError(f"There is no folder {folder}.", "Give the folder that the challenge's archive makes.")
        by_name = {_stem(path): path for path in volumes_in(labels)}
        for path in volumes_in(images):
            name = _stem(path)
            if f"{name}_glm" not in by_name:
                raise InputError(f"There is no {name}_glm in {labels}.", "Unpack the archive again.")
            parcels = read_label_volume(by_name[f"{name}_glm"])
            _write_case(dataset, part, name, read_volume(path), _recoded(parcels, _malc_table(parcels)))
        counts[part] = len(volumes_in(images))
    _describe(dataset, "malc", "T1", counts["Tr"])
    return counts


def lay_out_visceral(source: Path, dataset: Path, part: str = "Tr") -> tuple[int, list[str]]:
    """VISCERAL: volumes ``CASE.nii.gz`` and a file a structure, ``CASE_RADLEX_ANNOTATOR.nii.gz``, in any subfolders.

    Args:
        source: folder of the volumes and segmentations.
        dataset: folder to write.
        part: "Tr" or "Ts".

    Returns:
        Number of cases, and the names of those left out because a structure is missing: it would be learnt as
        background.

    Raises:
        InputError: there is no case, or a file cannot be read.
    """
    files = sorted(path for path in source.rglob("*.nii*") if not path.name.startswith("."))
    masks: dict[str, dict[int, Path]] = {}
    for path in files:
        match = _STRUCTURE.fullmatch(path.name)
        if match and int(match["radlex"]) in RADLEX_VALUES:
            masks.setdefault(match["case"], {}).setdefault(int(match["radlex"]), path)
    volumes = {_stem(path): path for path in files if _stem(path) in masks}
    if not volumes:
        raise InputError(
            f"{source} holds no volume with files of its structures.",
            "Give the folder that holds the volumes and the segmentations, called as VISCERAL calls them.",
        )
    left_out = [case for case in masks if set(masks[case]) != set(RADLEX_VALUES) or case not in volumes]
    for case, path in volumes.items():
        if case in left_out:
            continue
        image = read_volume(path)
        values = np.zeros(image.GetSize()[::-1], np.uint8)
        for radlex, value in RADLEX_VALUES.items():
            mask = read_label_volume(masks[case][radlex])
            if not same_grid(image, mask):
                raise InputError(f"{masks[case][radlex]} does not lie on the grid of {path}.", "Get the file again.")
            values[voxels_of(mask) > 0] = value
        labels = sitk.GetImageFromArray(values)
        labels.CopyInformation(image)
        _write_case(dataset, part, case, image, labels)
    count = len(set(volumes) - set(left_out))
    _describe(dataset, "visceral", "CT", count)
    return count, sorted(left_out)


def _malc_table(labels: sitk.Image) -> np.ndarray:
    """FreeSurfer's value for every value in ``labels``; 0 for what the recipe does not learn."""
    table = np.zeros(max(int(voxels_of(labels).max()), 255) + 1, np.uint8)
    table[FIRST_PARCEL:] = np.where(np.arange(FIRST_PARCEL, len(table)) % 2, LEFT_CORTEX, RIGHT_CORTEX)
    for theirs, value in FREESURFER_VALUES.items():
        table[theirs] = value
    return table


def _recoded(labels: sitk.Image, table: np.ndarray) -> sitk.Image:
    recoded = sitk.GetImageFromArray(table[voxels_of(labels)])
    recoded.CopyInformation(labels)
    return recoded


def _write_case(dataset: Path, part: str, name: str, image: sitk.Image, labels: sitk.Image) -> None:
    for folder, file, content in ((f"images{part}", f"{name}_0000", image), (f"labels{part}", name, labels)):
        with OutputFiles() as files:
            write_image(files.begin(dataset / folder / f"{file}.nii.gz"), content)


def _describe(dataset: Path, recipe: str, channel: str, cases: int) -> None:
    """``dataset.json`` as nnU-Net reads it, with the labels of ``recipe``."""
    labels = [Label.from_dict(entry) for entry in Recipe.load(recipe).card["labels"]]
    values: Mapping[str, int] = {"background": 0} | {label.name: label.value for label in labels}
    content = {
        "name": recipe,
        "channel_names": {"0": channel},
        "labels": values,
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    write_whole(dataset / "dataset.json", json.dumps(content, indent=1) + "\n")


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


@as_command
def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of ``python -m SESegmentationTraining.benchmarks``; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=("malc", "visceral"))
    parser.add_argument("source", type=Path, help="folder of the originals")
    parser.add_argument("dataset", type=Path, help="folder to write")
    parser.add_argument("--test", action="store_true", help="visceral: these cases are for test only")
    chosen = parser.parse_args(arguments)
    refuse_overwriting([chosen.source], [chosen.dataset])
    if chosen.benchmark == "malc":
        counts = lay_out_malc(chosen.source, chosen.dataset)
        print(f"{counts['Tr']} cases for training, {counts['Ts']} for test")
    else:
        count, left_out = lay_out_visceral(chosen.source, chosen.dataset, "Ts" if chosen.test else "Tr")
        print(f"{count} cases" + (f"; without all structures: {', '.join(left_out)}" if left_out else ""))


if __name__ == "__main__":
    sys.exit(main())

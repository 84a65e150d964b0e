"""Training data across contrasts: what a model finds on one scan is the label of the patient's other scans.

    python -m SESegmentationTraining.cross_contrast MODEL T1.nii.gz --same T2.nii.gz --same FLAIR.nii.gz -o FOLDER

All scans must be registered and lie on one grid. FOLDER gets nnU-Net's layout, one case for each scan, the first one
included; several calls may fill one folder.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import SimpleITK as sitk

from SESegmentationLib.errors import InputError
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.models import find_model

from .dataset import same_grid
from .processes import as_command


def label_scans(model: str, reference: Path, others: Sequence[Path], output: Path) -> list[str]:
    """Segment ``reference`` and write it and ``others`` with that segmentation as their labels.

    Args:
        model: name or folder.
        reference: the scan that the model knows best.
        others: scans of the same patient on the same grid, ``.nii.gz``.
        output: folder that gets ``imagesTr`` and ``labelsTr``.

    Returns:
        The names of the cases.

    Raises:
        InputError: a scan cannot be read, is no ``.nii.gz``, or lies on another grid.
        ModelError: there is no such model.
    """
    image = read_volume(reference, None)
    scans = [reference, *others]
    for path in scans:
        if not path.name.endswith(".nii.gz"):
            raise InputError(f"{path} is no .nii.gz file.", "Convert it first.")
        if not same_grid(read_volume(path, None), image):
            raise InputError(f"{path} does not lie on the grid of {reference}.", "Register and resample it first.")
    labels = Engine(find_model(model)).segment(image).labels
    names = [path.name.removesuffix(".nii.gz").removesuffix("_0000") for path in scans]
    for part in ("imagesTr", "labelsTr"):
        (output / part).mkdir(parents=True, exist_ok=True)
    for name, path in zip(names, scans, strict=True):
        shutil.copyfile(path, output / "imagesTr" / f"{name}_0000.nii.gz")
        sitk.WriteImage(labels, str(output / "labelsTr" / f"{name}.nii.gz"), useCompression=True)
    return names


@as_command
def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of ``python -m SESegmentationTraining.cross_contrast``; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name of the model, or its folder")
    parser.add_argument("reference", type=Path, help="scan that is segmented")
    parser.add_argument("--same", type=Path, action="append", default=[], metavar="SCAN", help="repeatable")
    parser.add_argument("-o", "--output", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    for name in label_scans(chosen.model, chosen.reference, chosen.same, chosen.output):
        print(name)


if __name__ == "__main__":
    sys.exit(main())

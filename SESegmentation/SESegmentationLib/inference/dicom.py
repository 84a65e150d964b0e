"""Reading one DICOM series from a folder, and refusing one that would come out with a wrong shape.

ITK stacks slices at equal distances along the slices' normal, whatever the files say: a missing slice, a tilted gantry
or two images at the same place would bend the anatomy silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from .nifti import SHEAR_DEGREES, sheared

#: relative difference between slice distances that rounding in the files explains
UNEVEN = 0.05


def read_dicom_folder(folder: Path) -> sitk.Image:
    """Read the series in ``folder`` (its subfolders are not searched).

    Raises:
        InputError: no series or several, a damaged file, a missing slice, a tilted gantry, two images in one place.
    """
    try:
        series = {
            name: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), name)
            for name in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        }
    except RuntimeError:
        series = {}
    if not series:
        raise InputError(
            f"The folder {folder} holds no DICOM images.", "Give the folder in which the files of one series are."
        )
    if len(series) > 1:
        counts = ", ".join(f"{len(files)} images" for files in series.values())
        raise InputError(
            f"The folder {folder} holds {len(series)} DICOM series ({counts}).",
            "Put the files of one series into a folder of their own and give that.",
        )
    (files,) = series.values()
    try:
        if len(files) == 1:  # perhaps an enhanced one, with all slices in it
            return sitk.ReadImage(files[0])
        return sitk.ReadImage(_in_order(folder, files))
    except RuntimeError as error:
        raise InputError(
            f"The DICOM series in {folder} cannot be read: a file is damaged or compressed in an unknown way.",
            "Export it again, uncompressed.",
        ) from error


def _in_order(folder: Path, files: Sequence[str]) -> list[str]:
    """The files along the slices' normal; InputError unless they lie at equal distances, straight above each other."""
    reader = sitk.ImageFileReader()
    positions, normals = [], []
    for file in files:
        reader.SetFileName(file)
        reader.ReadImageInformation()
        positions.append(reader.GetOrigin())
        normals.append(np.reshape(reader.GetDirection(), (3, 3))[:, 2])
    normal = np.mean(normals, axis=0)
    normal /= np.linalg.norm(normal)
    if np.abs(np.array(normals) - normal).max() > 1e-2:
        raise InputError(f"The slices in {folder} are not parallel.", "Give the files of one stack only.")
    order = np.argsort(np.array(positions) @ normal, kind="stable")
    steps = np.diff(np.array(positions)[order], axis=0)
    distances = steps @ normal
    usual = float(np.median(distances))
    if (distances < UNEVEN * distances.max()).any():
        raise InputError(
            f"The series in {folder} has several images in the same place (time points or contrasts).",
            "Put the files of one time point or contrast into a folder of their own.",
        )
    if (np.abs(distances - usual) > UNEVEN * usual).any():
        raise InputError(
            f"The slices in {folder} are not at equal distances: one is missing, or they were planned so.",
            "Export the whole series again, or resample it to equal distances.",
        )
    across = np.linalg.norm((steps - np.outer(distances, normal)).mean(axis=0))
    tilt = float(np.degrees(np.arctan2(across, usual)))
    if tilt > SHEAR_DEGREES:
        raise InputError(*sheared(str(folder), tilt))
    return [files[number] for number in order]

"""A folder stands for all volumes in it, of whatever format: none that can be read by its name is passed over."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from SESegmentationCohort.cases import find_cohort
from SESegmentationLib.cli.file_jobs import case_name, expand
from SESegmentationLib.models import find_model
from SESegmentationTraining.dataset import volumes_in
from SESegmentationTraining.evaluation import evaluate_folders


@pytest.fixture
def folder(tmp_path) -> Path:
    """A volume in each of several formats, and files that are none."""
    array = np.zeros((6, 7, 8), np.uint8)
    array[2:4, 2:5, 2:6] = 1
    there = tmp_path / "in"
    there.mkdir()
    nibabel.Nifti1Image(array, np.eye(4)).to_filename(there / "nifti.nii.gz")
    nibabel.Nifti1Pair(array, np.eye(4)).to_filename(there / "pair.img")
    nibabel.Nifti1Pair(array, np.eye(4)).to_filename(there / "packed.img.gz")
    nibabel.AnalyzeImage(array, np.eye(4)).to_filename(there / "ANALYZE.HDR")
    nibabel.MGHImage(array, np.eye(4)).to_filename(there / "freesurfer.mgz")
    for other in ("of_something_else.hdr", "without_header.img", "notes.txt", ".hidden.nii"):
        (there / other).write_bytes(b"0" * 400)
    return there


FOUND = ["ANALYZE.HDR", "freesurfer.mgz", "nifti.nii.gz", "packed.hdr.gz", "pair.hdr"]
NAMES = ["ANALYZE", "freesurfer", "nifti", "packed", "pair"]


def test_all_are_found(folder, tmp_path, tiny_model):
    for found in (expand(folder), volumes_in(folder)):
        assert sorted(path.name for path in found) == FOUND
    cases = find_cohort(folder, find_model(tiny_model), tmp_path / "out").cases
    assert [(case.name, case.source.name) for case in cases] == list(zip(NAMES, FOUND, strict=True))


def test_either_half_names_the_result():
    assert {case_name(Path(name)) for name in ("a.hdr", "a.img", "a.hdr.gz", "a_0000.img.gz", "a.mnc")} == {"a"}


def test_all_are_compared(folder):
    measured = evaluate_folders(folder, folder)
    assert sorted(measured["cases"]) == NAMES
    assert not measured["failed"] and measured["mean_dice"] == 1.0

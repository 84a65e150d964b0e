"""Labels of one contrast for the others of a patient."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.cli import main
from SESegmentationTraining import preparation
from SESegmentationTraining.dataset import find_cases


@pytest.fixture
def scans(tmp_path):
    """Two scans of one grid, and one of another."""
    paths = []
    for name, size in (("p1-T1", 12), ("p1-T2", 12), ("p2-T2", 10)):
        image = sitk.GetImageFromArray(np.random.default_rng(size).random((size, 12, 12), dtype=np.float32))
        paths.append(tmp_path / f"{name}_0000.nii.gz")
        sitk.WriteImage(image, str(paths[-1]))
    return paths


class BrightHalf:
    """A model that finds what is brighter than one half."""

    def __init__(self, *_) -> None:
        pass

    def segment(self, image):
        self.labels = sitk.Cast(image > 0.5, sitk.sitkUInt8)
        return self


@pytest.fixture(autouse=True)
def bright_half(monkeypatch):
    monkeypatch.setattr(preparation, "Engine", BrightHalf)
    monkeypatch.setattr(preparation, "find_model", str)


def command(scans, output):
    return ["prepare", "cross-contrast", "any", str(scans[0]), "--same", str(scans[1]), "-o", str(output)]


def test_every_scan_gets_what_was_found_on_the_first(scans, tmp_path):
    assert main(command(scans[:2], tmp_path / "out")) == 0
    cases = find_cases(tmp_path / "out")
    assert [case.name for case in cases] == ["p1-T1", "p1-T2"]
    first, second = (sitk.GetArrayFromImage(sitk.ReadImage(str(case.label))) for case in cases)
    assert (first == (sitk.GetArrayFromImage(sitk.ReadImage(str(scans[0]))) > 0.5)).all()
    assert (first == second).all()


def test_scans_of_another_grid_are_refused(scans, tmp_path, capsys):
    assert main(command(scans[::2], tmp_path / "out")) == 2
    assert "p2-T2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

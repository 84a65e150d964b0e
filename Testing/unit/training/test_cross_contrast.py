"""Labels of one contrast for the others of a patient."""

from __future__ import annotations

import errno

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.cli import main
from SESegmentationLib.files import OutputError
from SESegmentationLib.io import writing
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


def test_a_scan_that_is_named_twice_is_told(scans, tmp_path, capsys):
    (tmp_path / "link_0000.nii.gz").symlink_to(scans[0])
    for again in (scans[0], tmp_path / "link_0000.nii.gz"):
        assert main(command([scans[0], again], tmp_path / "out")) == 2
        assert f"The scan {again} is named twice." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_no_case_is_replaced_by_another_of_its_name(scans, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(command(scans[:2], out)) == 0
    before = contents(out)
    assert main(command(scans[:2], out)) == 0, "the same again"
    assert contents(out) == before
    other = tmp_path / "p2"
    other.mkdir()
    for path in scans[:2]:
        image = sitk.ReadImage(str(path))
        sitk.WriteImage(1 - image, str(other / path.name))
    two_of_a_name = [scans[0], other / scans[0].name]
    in_the_dataset = [scans[0], out / "imagesTr" / scans[1].name]
    told = {"is another scan than": [other / path.name for path in scans[:2]]}
    told |= {"are one file": two_of_a_name, "is read, and would be overwritten": in_the_dataset}
    for cause, wrong in told.items():
        assert main(command(wrong, out)) == 2
        err = capsys.readouterr().err
        assert cause in err and len(err.splitlines()) == 2, err
        assert contents(out) == before
    label = out / "labelsTr" / "p1-T2.nii.gz"  # somebody corrects it
    sitk.WriteImage(sitk.ReadImage(str(label)) * 0, str(label))
    before = contents(out)
    assert main(command(scans[:2], out)) == 2
    assert "other labels" in capsys.readouterr().err
    assert contents(out) == before


def test_on_a_full_disk_nothing_is_left_and_the_disk_is_named(scans, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "_try_to_write", full)
    assert main(command(scans[:2], tmp_path / "out")) == OutputError.exit_code
    assert "is full" in capsys.readouterr().err
    assert not contents(tmp_path / "out")

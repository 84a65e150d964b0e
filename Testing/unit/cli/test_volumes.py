"""``sesegment run`` on real volumes of every kind: a result or a clear refusal, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import SimpleITK as sitk

from SESegmentationLib.cli import main

NAMES = (
    "ct-head-rotated",
    "ct-head-sheared-affine",
    "ct-trunk-3mm",
    "ct-trunk-3mm-totalsegmentator",
    "t1-brain-stripped",
    "t1-brain-stripped-aparc2009s+aseg",
    "t1-gd-stripped",
    "t1-head-0p88mm",
    "t1-head-1p75mm",
    "t1-head-lia-256",
    "t2-head",
)
REFUSED = {"ct-head-sheared-affine": "sheared"}


def run(capfd: pytest.CaptureFixture[str], volume: Path, model: Path, folder: Path) -> tuple[int, str]:
    """Exit code and stderr of a quick run that writes ``folder``/a.nii.gz and r.json."""
    capfd.readouterr()
    code = main(
        ["run", str(volume), "-m", str(model), "-o", str(folder / "a.nii.gz"), "--report", str(folder / "r.json"),
         "--device", "cpu", "--fast", "--grid", "input"],
    )  # fmt: skip
    return code, capfd.readouterr().err


def assert_refused(code: int, err: str, folder: Path) -> None:
    assert code == 2, err
    assert len(err.splitlines()) == 2, err
    assert "Traceback" not in err
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def coarse_model(make_random_model) -> Path:
    """A tiny model on a grid of 2 mm, which takes an eighth of the time on volumes as large as these."""
    return make_random_model(spacing=[2.0, 2.0, 2.0])


@pytest.mark.parametrize("name", NAMES)
def test_a_real_volume(capfd, shared_data, coarse_model, tmp_path, name):
    volume = shared_data / "volumes" / f"{name}.nii.gz"
    code, err = run(capfd, volume, coarse_model, tmp_path)
    if name in REFUSED:
        assert_refused(code, err, tmp_path)
        assert REFUSED[name] in err
        return
    assert code == 0, err
    assert "Traceback" not in err
    original, labels = sitk.ReadImage(str(volume)), sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    assert labels.GetSize() == original.GetSize()
    for one, other in (
        (labels.GetSpacing(), original.GetSpacing()),
        (labels.GetOrigin(), original.GetOrigin()),
        (labels.GetDirection(), original.GetDirection()),
    ):
        assert one == pytest.approx(other, abs=1e-3)
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    counts = sitk.LabelShapeStatisticsImageFilter()
    counts.Execute(sitk.Cast(labels, sitk.sitkUInt8))
    found = {value: counts.GetNumberOfPixels(value) for value in counts.GetLabels()}
    assert {s["value"]: s["voxels"] for s in report["structures"] if s["voxels"]} == found
    expected = {"modality"} if name == "ct-trunk-3mm" else set()
    assert {finding["code"] for finding in report["findings"]} & {"modality"} == expected


def test_every_real_volume_is_run(shared_data):
    assert {path.name.removesuffix(".nii.gz") for path in (shared_data / "volumes").glob("*.nii.gz")} == set(NAMES)


def test_a_text_file_by_another_name(capfd, tiny_model, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "letter.nii.gz").write_text("Dear colleague, " * 99, encoding="utf-8")
    code, err = run(capfd, tmp_path / "letter.nii.gz", tiny_model, tmp_path / "out")
    assert_refused(code, err, tmp_path / "out")
    assert "letter.nii.gz" in err

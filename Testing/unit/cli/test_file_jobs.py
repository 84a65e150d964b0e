"""Which volumes are segmented, and where the results go."""

from __future__ import annotations

from pathlib import Path

import pytest

from SESegmentationLib.cli.file_jobs import case_name, plan_jobs
from SESegmentationLib.errors import UsageError


@pytest.mark.parametrize(
    ("volume", "name"),
    [
        ("hippocampus_001_0000.nii.gz", "hippocampus_001"),
        ("a.nii", "a"),
        ("a.b_0000.NRRD", "a.b"),
        ("head.mha", "head"),
        ("series_0000", "series"),
        ("slice.dcm", "slice"),
        ("_0000.nii.gz", "_0000"),
        ("case_0001.nii.gz", "case_0001"),
    ],
)
def test_a_result_is_called_like_its_volume(volume, name):
    assert case_name(Path("folder") / volume) == name


def test_a_folder_gets_one_file_a_volume(tmp_path):
    jobs = plan_jobs([Path("a_0000.nii.gz"), Path("b.mha")], tmp_path)
    assert [job.output for job in jobs] == [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"]
    jobs = plan_jobs([Path("a_0000.nii.gz")], tmp_path / "new", "seg.nrrd")
    assert [job.output for job in jobs] == [tmp_path / "new" / "a.seg.nrrd"]


@pytest.mark.parametrize("name", ["x.seg.nrrd", "x.nii.gz", "x.nii"])
def test_one_volume_may_go_into_a_file(tmp_path, name):
    assert [job.output for job in plan_jobs([Path("a.nii")], tmp_path / name)] == [tmp_path / name]


def test_a_folder_of_volumes_stands_for_them(tmp_path):
    for name in ("b_0000.nii.gz", "a.mha", ".hidden.nii", "readme.txt"):
        (tmp_path / name).touch()
    jobs = plan_jobs([tmp_path], tmp_path / "out")
    assert [job.source.name for job in jobs] == ["a.mha", "b_0000.nii.gz"]


def test_another_folder_stands_for_a_dicom_series(tmp_path):
    series = tmp_path / "series"
    series.mkdir()
    (series / "IM0001").touch()
    jobs = plan_jobs([series], tmp_path / "out")
    assert [(job.source, job.output.name) for job in jobs] == [(series, "series.nii.gz")]


def test_segmentations_of_earlier_runs_are_no_volumes(tmp_path):
    for name in ("a.nii.gz", "a.seg.nrrd", "B.SEG.NRRD", "b.nrrd"):
        (tmp_path / name).touch()
    assert [job.source.name for job in plan_jobs([tmp_path], tmp_path, "seg.nrrd")] == ["a.nii.gz", "b.nrrd"]
    assert [job.source.name for job in plan_jobs([tmp_path / "a.seg.nrrd"], tmp_path / "out")] == ["a.seg.nrrd"]


@pytest.mark.parametrize("place", ["IM0001.dcm", "IM0001", "series/IM0001"])
def test_volumes_and_dicom_in_one_folder_are_not_chosen_from(tmp_path, place):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_bytes(bytes(128) + b"DICM")
    for name in ("notes.txt", ".hidden.dcm"):
        (tmp_path / name).touch()
    assert [job.source for job in plan_jobs([tmp_path], tmp_path / "out")] == [tmp_path]
    (tmp_path / "seg.nii.gz").touch()
    with pytest.raises(UsageError, match=r"holds volumes, such as seg\.nii\.gz, and DICOM files") as caught:
        plan_jobs([tmp_path], tmp_path / "out")
    assert str(Path(place)) in caught.value.cause
    assert "--series" in caught.value.remedy
    assert [job.source for job in plan_jobs([tmp_path], tmp_path / "out", series="3")] == [tmp_path]
    (tmp_path / place).unlink()
    for series in (None, "3"):
        jobs = plan_jobs([tmp_path], tmp_path / "out", series=series)
        assert [job.source.name for job in jobs] == ["seg.nii.gz"]


def test_volumes_in_subfolders_are_not_taken_for_a_dicom_series(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "t1.nii.gz").touch()
    with pytest.raises(UsageError, match=r"in its subfolders only, such as one.t1\.nii\.gz") as caught:
        plan_jobs([tmp_path], tmp_path / "out")
    assert "sesegment cohort" in caught.value.remedy
    (tmp_path / "two" / "x.dcm").touch()
    assert [job.source for job in plan_jobs([tmp_path], tmp_path / "out")] == [tmp_path]


@pytest.mark.parametrize(
    ("volumes", "output", "file_format", "message"),
    [
        (["a.nii", "b.nii"], "out.nii.gz", None, "one file"),
        (["a.nii"], "out.nrrd", None, "neither"),
        (["a.nii"], "out.png", None, "neither"),
        (["a.nii"], "out.nii.gz", "seg.nrrd", "does not end"),
        (["x/a.nii", "y/a.nii", "z/x_a.nii"], "out", None, "both"),
        (["x/a.nii", "x/A.NII"], "out", None, "both"),
    ],
)
def test_outputs_that_do_not_suit_are_refused(volumes, output, file_format, message):
    with pytest.raises(UsageError, match=message) as caught:
        plan_jobs([Path(volume) for volume in volumes], Path(output), file_format)
    assert caught.value.remedy

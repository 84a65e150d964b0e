"""Nothing that is read is ever written over, and no two outputs are one file: every path of every command."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from SESegmentationLib.cli import main
from SESegmentationLib.errors import UsageError
from SESegmentationLib.files import refuse_overwriting
from SESegmentationLib.models import add_model


def contents(folder: Path) -> dict[str, str]:
    """Every file below ``folder`` with the hash of what is in it; links with where they lead."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def refused(capfd: pytest.CaptureFixture[str], folder: Path, *arguments: object) -> str:
    """Assert that a command is refused as wrong use, in two lines, and changes nothing; what it says."""
    before = contents(folder)
    capfd.readouterr()
    code = main([str(argument) for argument in arguments])
    said = capfd.readouterr().err
    assert code == 2, said
    assert len(said.splitlines()) == 2, said
    assert contents(folder) == before
    return said


@pytest.fixture
def case(tmp_path: Path, sample_file: Path, tiny_model: Path) -> Path:
    """A folder with a volume, a region, corrected labels and a model."""
    image = sitk.ReadImage(str(sample_file))
    labels = sitk.Cast(image > 60, sitk.sitkUInt8)
    sitk.WriteImage(image, str(tmp_path / "scan.nii.gz"))
    for name in ("roi.nii.gz", "corrected.nii.gz", "roi.nrrd"):
        sitk.WriteImage(labels, str(tmp_path / name))
    shutil.copytree(tiny_model, tmp_path / "model")
    return tmp_path


@pytest.mark.parametrize("paths", [("out/a.json", "out"), ("out", "out/a.json"), ("OUT", "out/in/a.json")])
def test_no_file_is_a_folder_of_another_in_whatever_order(tmp_path, paths):
    with pytest.raises(UsageError, match="cannot both be written"):
        refuse_overwriting([], [tmp_path / path for path in paths])
    refuse_overwriting([], [tmp_path / "out" / name for name in ("a.json", "b.json")])


@pytest.mark.parametrize(
    ("options", "path"),
    [
        (["-o", "out.nii.gz", "--report"], "scan.nii.gz"),
        (["-o", "out.nii.gz", "--doubt"], "scan.nii.gz"),
        (["-o", "out.nii.gz", "--attention"], "scan.nii.gz"),
        (["-o", "out.nii.gz", "--roi", "roi.nii.gz", "--report"], "roi.nii.gz"),
        (["--roi", "roi.nii.gz", "-o"], "roi.nii.gz"),
        (["-o", "out.nii.gz", "--report"], "model/model.json"),
        (["-o"], "scan.nii.gz"),
        (["-o"], "."),  # whose scan.nii.gz it would be
        (["-o", "out.nii.gz", "--doubt"], "out.nii.gz"),
        (["-o", "out.nii.gz", "--doubt", "d.nrrd", "--attention"], "D.nrrd"),
        (["-o", "out.nii.gz", "--report"], "OUT.nii.gz"),
        (["-o", "new.nii.gz", "--report"], "new.nii.gz/report.json"),
    ],
)
def test_run_writes_over_nothing(capfd, case, monkeypatch, options, path):
    monkeypatch.chdir(case)
    said = refused(capfd, case, "run", "scan.nii.gz", "-m", "model", *options, path)
    assert "would be overwritten" in said or "cannot both be written" in said


def test_a_batch_writes_over_nothing(capfd, case):
    shutil.copy(case / "scan.nii.gz", case / "other.nii.gz")
    both = [case / "scan.nii.gz", case / "other.nii.gz"]
    for report in (*both, case / "out" / "other.nii.gz"):
        refused(capfd, case, "run", *both, "-m", case / "model", "-o", case / "out", "--report", report)


def test_a_cohort_writes_not_over_its_list(capfd, case):
    (case / "study").mkdir()
    for name in ("cohort.tsv", "failures.tsv"):
        (case / "study" / name).write_text("path\tname\n../scan.nii.gz\tfirst\n", encoding="utf-8")
        call = ["cohort", case / "study" / name, "-o", case / "study", "-m", case / "model", "--device", "cpu"]
        assert "would be overwritten" in refused(capfd, case, *call)


@pytest.mark.parametrize("option", ["-o", "--report", "--adapted"])
@pytest.mark.parametrize("read", ["scan.nii.gz", "corrected.nii.gz", "roi.nii.gz", "model/model.safetensors"])
def test_refine_writes_over_nothing(capfd, case, monkeypatch, option, read):
    monkeypatch.chdir(case)
    call = ["refine", "scan.nii.gz", "-m", "model", "--corrected", "corrected.nii.gz", "--roi", "roi.nii.gz"]
    refused(capfd, case, *call, *([] if option == "-o" else ["-o", "out.nii.gz"]), "--recalibrate", option, read)


@pytest.mark.parametrize("kind", ["symbolic", "of a folder", "hard", "dots", "absolute"])
def test_links_lead_to_the_same_file(capfd, case, monkeypatch, kind):
    monkeypatch.chdir(case)
    path = Path("link.nii.gz")
    if kind == "symbolic":
        path.symlink_to("scan.nii.gz")
    elif kind == "of a folder":
        Path("again").symlink_to(case, target_is_directory=True)
        path = Path("again/scan.nii.gz")
    elif kind == "hard":
        os.link("scan.nii.gz", path)
    elif kind == "dots":
        path = Path("model/../scan.nii.gz")
    else:
        path = case / "scan.nii.gz"
    refused(capfd, case, "run", "scan.nii.gz", "-m", "model", "-o", "out.nii.gz", "--doubt", path)
    refused(capfd, case, "run", path, "-m", "model", "-o", "out.nii.gz", "--doubt", "scan.nii.gz")


def test_the_voxels_beside_a_header_are_read_too(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5), np.uint8))
    sitk.WriteImage(image, str(tmp_path / "a.mhd"))
    sitk.WriteImage(image, str(tmp_path / "b.nhdr"))
    sitk.WriteImage(image, str(tmp_path / "c.img"))
    (tmp_path / "d.nhdr").write_text("NRRD0004\ndata file: slice%03d.raw 1 3 1\n", encoding="utf-8")
    (tmp_path / "e.nhdr").write_text("NRRD0004\ndata file: LIST\nfirst.raw\nsecond.raw\n", encoding="utf-8")
    for name in ("slice001.raw", "second.raw", "unrelated.raw"):
        (tmp_path / name).touch()
    voxels = {"a.mhd": "a.raw", "b.nhdr": "b.raw", "c.img": "c.hdr", "d.nhdr": "slice001.raw", "e.nhdr": "second.raw"}
    for header, part in {**voxels, "c.hdr": "c.img"}.items():
        assert (tmp_path / part).exists(), part
        with pytest.raises(UsageError, match="would be overwritten"):
            refuse_overwriting([tmp_path / header], [tmp_path / part])
        refuse_overwriting([tmp_path / header], [tmp_path / "unrelated.raw", tmp_path / "new.nii.gz"])


def test_the_files_of_a_dicom_folder_are_read(tmp_path):
    (tmp_path / "series" / "below").mkdir(parents=True)
    for file in (tmp_path / "series" / "IM0001", tmp_path / "series" / "below" / "IM0002.dcm"):
        file.touch()
        with pytest.raises(UsageError, match="would be overwritten"):
            refuse_overwriting([tmp_path / "series"], [file])
    refuse_overwriting([tmp_path / "series"], [tmp_path / "series" / "segmentation.nii.gz"])


def test_a_training_writes_over_nothing(capfd, blobs_folder, tmp_path):
    dataset = tmp_path / "data"
    shutil.copytree(blobs_folder, dataset)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("not about a model", encoding="utf-8")
    for output, cause in ((dataset, "is the dataset itself"), (tmp_path / "project", "would be overwritten")):
        assert cause in refused(capfd, tmp_path, "train", dataset, "--recipe", "auto", "-o", output)


def test_an_experiment_writes_over_no_plan(capfd, tmp_path):
    shutil.copytree(Path(__file__).parents[2] / "SESegmentation/SESegmentationTraining/plans", tmp_path / "plans")
    plan = tmp_path / "results.json"  # what the experiment calls its results
    plan.symlink_to(tmp_path / "plans" / "hippocampus.toml")
    link = tmp_path / "plan.toml"
    link.symlink_to(plan)
    assert "would be overwritten" in refused(capfd, tmp_path, "experiment", link, "--data", tmp_path, "-o", tmp_path)


def test_a_model_is_not_replaced_by_itself(tiny_model, tmp_path):
    added = add_model(tiny_model, tmp_path).path
    (added / "notes.txt").write_text("mine", encoding="utf-8")
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="would be replaced"):
        add_model(added, tmp_path, replace=True)
    shutil.copytree(tiny_model, added / "inner")
    with pytest.raises(UsageError, match="would be replaced"):
        add_model(added / "inner", tmp_path, replace=True)
    shutil.rmtree(added / "inner")
    assert contents(tmp_path) == before


NAMES = st.sampled_from(["a.nii", "A.nii", "b.nii", "link", "hard", "é.nii", "e\u0301.nii", "deep", "new.nii"])
PATHS = st.lists(st.sampled_from(["", ".", "x", "x/..", "to-x", "x/to-top", "absent/.."]), max_size=2)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.tuples(PATHS, PATHS), names=st.tuples(NAMES, NAMES))
def test_what_is_accepted_leaves_what_is_read_as_it_was(tmp_path_factory, parts, names):
    """By any two paths through links: either they are refused, or writing to one does not change the other."""
    top = tmp_path_factory.mktemp("paths")
    (top / "x").mkdir()
    for name in ("a.nii", "b.nii", "é.nii"):
        (top / name).write_text(name, encoding="utf-8")
        (top / "x" / name).write_text(f"x {name}", encoding="utf-8")
    (top / "link").symlink_to("a.nii")
    (top / "x" / "link").symlink_to("../b.nii")
    os.link(top / "a.nii", top / "hard")
    (top / "to-x").symlink_to("x")
    (top / "x" / "to-top").symlink_to("..")
    read, written = (top.joinpath(*folders, name) for folders, name in zip(parts, names, strict=True))
    try:
        refuse_overwriting([read], [written])
    except UsageError:
        return
    same = os.path.exists(read) and os.path.exists(written) and os.path.samefile(read, written)
    assert not same
    assert os.path.realpath(read) != os.path.realpath(written)
    given = read.read_bytes() if read.exists() else None
    if written.parent.is_dir():
        written.with_name("temporary").write_text("result", encoding="utf-8")
        os.replace(written.with_name("temporary"), written)
        assert (read.read_bytes() if read.exists() and given is not None else None) == given

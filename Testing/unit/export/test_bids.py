"""BIDS datasets in, derivatives out, checked by the validator where that is installed."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationExport.bids import derivative_paths, find_scans
from SESegmentationLib.cli import main
from SESegmentationLib.errors import InputError, UsageError
from SESegmentationLib.models import ModelCard, find_model

SCANS = """sub-01/anat/sub-01_T1w sub-01/anat/sub-01_FLAIR sub-01/anat/sub-01_T2w sub-01/anat/sub-01_part-phase_T1w
sub-02/ses-a/anat/sub-02_ses-a_acq-fast_run-1_T1w sub-02/ses-b/anat/sub-02_ses-b_FLAIR"""


@pytest.fixture(scope="module")
def card(tiny_model) -> ModelCard:
    return find_model(str(tiny_model)).card


@pytest.fixture
def dataset(sample_file, tmp_path) -> Path:
    """A raw dataset with sessions, several contrasts, and what is no scan to be segmented."""
    folder = tmp_path / "Anna Doe" / "study"
    for scan in SCANS.split():
        path = folder / f"{scan}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sample_file, path)
    for other in ("sub-01/anat/sub-01_T1w.json", "derivatives/x/sub-01/anat/sub-01_desc-x_dseg.nii.gz", "README"):
        path = folder / other
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}", encoding="utf-8")
    description = {"Name": "Study", "BIDSVersion": "1.10.0", "DatasetType": "raw", "Authors": ["A", "B"]}
    (folder / "dataset_description.json").write_text(json.dumps(description), encoding="utf-8")
    return folder


def names(scans: list[Path] | None) -> list[str]:
    return [path.name.removesuffix(".nii.gz") for path in scans or []]


def test_scans_are_found_by_their_names(dataset, card):
    assert names(find_scans(dataset, card)) == ["sub-01_T1w", "sub-02_ses-a_acq-fast_run-1_T1w"]
    any_contrast = replace(card, contrast="any")
    assert sorted(names(find_scans(dataset, any_contrast))) == sorted(
        scan.split("/")[-1] for scan in SCANS.split() if "phase" not in scan
    )
    assert names(find_scans(dataset / "sub-02", any_contrast)) == [
        "sub-02_ses-a_acq-fast_run-1_T1w",
        "sub-02_ses-b_FLAIR",
    ]
    assert names(find_scans(dataset / "sub-02" / "ses-b", any_contrast)) == ["sub-02_ses-b_FLAIR"]
    (dataset / "dataset_description.json").unlink()
    assert len(find_scans(dataset, card)) == 2, "also without a description"
    with pytest.raises(InputError, match="without FLAIR images"):
        find_scans(dataset / "sub-02" / "ses-a", replace(card, contrast="FLAIR"))
    with pytest.raises(InputError, match="without CT images"):
        find_scans(dataset, replace(card, modality="CT"))


def test_other_folders_are_no_datasets(tmp_path, card):
    for name in ("volumes", "sub-01/anat"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "IM0001").touch()
    assert find_scans(tmp_path / "volumes", card) is None
    assert find_scans(tmp_path / "sub-01", card) is None, "a folder of DICOM series"
    assert find_scans(tmp_path / "volumes" / "IM0001", card) is None


def test_names_of_derivatives(dataset, card, tmp_path):
    scans = {path: path.name for path in find_scans(dataset, replace(card, contrast="any"))}
    scans |= {Path("/data/Case 7_0000.nii.gz"): "Case 7"}
    scans |= {Path("x/sub-9_space-MNI_desc-preproc_T2w.nii"): "9", Path("x/sub-8_res-2_T2w.nii"): "8"}
    paths = derivative_paths(tmp_path, scans)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in paths.values()) == [
        "sub-01/anat/sub-01_desc-sesegment_dseg.nii.gz",
        "sub-01/anat/sub-01_space-FLAIR_desc-sesegment_dseg.nii.gz",
        "sub-01/anat/sub-01_space-T2w_desc-sesegment_dseg.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_acq-fast_run-1_desc-sesegment_dseg.nii.gz",
        "sub-02/ses-b/anat/sub-02_ses-b_space-FLAIR_desc-sesegment_dseg.nii.gz",
        "sub-8/anat/sub-8_space-T2w_res-2_desc-sesegment_dseg.nii.gz",
        "sub-9/anat/sub-9_space-MNI_desc-sesegment_dseg.nii.gz",
        "sub-Case7/anat/sub-Case7_desc-sesegment_dseg.nii.gz",
    ]
    flair = dataset / "sub-01" / "anat" / "sub-01_FLAIR.nii.gz"
    for alone in (flair, Path("elsewhere") / flair.name):
        assert derivative_paths(tmp_path, {alone: "x"})[alone] == paths[flair], "the same whatever lies beside it"
    with pytest.raises(UsageError, match="would both be written"):
        derivative_paths(tmp_path, {Path("a/x.1.nii"): "x.1", Path("a/x1.nii"): "x1"})


@pytest.fixture
def run(tiny_model, capfd):
    def called(*arguments: object) -> tuple[int, str]:
        capfd.readouterr()
        return main(["run", *map(str, arguments), "-m", str(tiny_model), "--device", "cpu"]), capfd.readouterr().err

    return called


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", strict=True))


def errors_of(folder: Path) -> list[str] | None:
    """What the validator of derivatives calls errors; None where it is not installed."""
    validator = shutil.which("bids-validator-deno")
    if validator is None:
        return None
    command = [validator, "--format", "json", str(folder)]
    issues = json.loads(subprocess.run(command, capture_output=True, text=True, check=False, timeout=120).stdout)
    return [f"{one['code']} {one['location']}" for one in issues["issues"]["issues"] if one["severity"] == "error"]


def errors_of_raw(folder: Path) -> list[str] | None:
    """The same by the validator of npm, which knows raw datasets only."""
    validator = shutil.which("bids-validator")
    if validator is None:
        return None
    command = [validator, "--json", "--ignoreNiftiHeaders", str(folder)]
    issues = json.loads(subprocess.run(command, capture_output=True, text=True, check=False, timeout=120).stdout)
    return [f"{one['key']} {one['files'][0]['file']['relativePath']}" for one in issues["issues"]["errors"]]


def test_a_dataset_becomes_derivatives(dataset, run, tmp_path):
    target = dataset / "derivatives" / "sesegment"
    code, err = run(dataset, "--bids", target)
    assert code == 0, err
    files = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    scans = ("sub-01/anat/sub-01", "sub-02/ses-a/anat/sub-02_ses-a_acq-fast_run-1")
    kinds = ("dseg.json", "dseg.nii.gz", "dseg.tsv", "volumes.tsv")
    about = [".bidsignore", "README.md", "dataset_description.json", "volumes.json"]
    assert files == sorted([*about, *(f"{scan}_desc-sesegment_{kind}" for scan in scans for kind in kinds)])
    about_scan = json.loads((target / f"{scans[1]}_desc-sesegment_dseg.json").read_text(encoding="utf-8"))
    assert about_scan["Model"]["name"] == "tiny-t1" and "At the edge of the volume" in about_scan["Warnings"][0]
    labels = rows_of(target / f"{scans[1]}_desc-sesegment_dseg.tsv")
    assert [(row["index"], row["name"]) for row in labels] == [
        ("1", "anterior hippocampus"),
        ("2", "posterior hippocampus"),
    ]
    assert all(re.fullmatch("#[0-9A-F]{6}", row["color"]) for row in labels)
    image = sitk.ReadImage(str(target / f"{scans[1]}_desc-sesegment_dseg.nii.gz"))
    counts = np.bincount(sitk.GetArrayFromImage(image).ravel(), minlength=3)
    volumes = rows_of(target / f"{scans[1]}_desc-sesegment_volumes.tsv")
    assert [int(row["voxels"]) for row in volumes] == list(counts[1:])
    ml = np.prod(image.GetSpacing()) / 1000
    np.testing.assert_allclose([float(row["volume_ml"]) for row in volumes], counts[1:] * ml, atol=1e-3)
    assert set(json.loads((target / "volumes.json").read_text(encoding="utf-8"))) == set(volumes[0])
    for file in files:
        if not file.endswith(".gz"):
            assert not re.search("Anna|/tmp", (target / file).read_text(encoding="utf-8")), file
    assert run(dataset / "sub-01", "--bids", target)[0] == 0, "the same dataset is continued"


def test_derivatives_are_valid(dataset, make_random_model):
    target, model = dataset / "derivatives" / "sesegment", make_random_model(contrast="any")
    assert main(["run", str(dataset), "-m", str(model), "--device", "cpu", "--bids", str(target)]) == 0
    assert len(list(target.rglob("*_space-*_desc-sesegment_dseg.nii.gz"))) == 3, "of T2w and FLAIR images, too"
    derivatives, raw = errors_of(target), errors_of_raw(dataset)
    if derivatives is None and raw is None:
        pytest.skip("needs a BIDS validator: pip install bids-validator-deno, or npm install --global bids-validator")
    if derivatives is not None:
        assert derivatives == []
        shutil.copy(next(target.rglob("*_dseg.nii.gz")), target / "sub-01" / "anat" / "sub-01_segmented.nii.gz")
        assert errors_of(target) == ["NOT_INCLUDED /sub-01/anat/sub-01_segmented.nii.gz"], "it does look"
    if raw is not None:
        assert raw == [], "the dataset is as valid as before"


def test_files_become_subjects_and_failures_leave_nothing(run, sample_file, tmp_path):
    shutil.copy(sample_file, tmp_path / "Case 7_0000.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes(b"no volume")
    code, err = run(tmp_path / "broken.nii.gz", tmp_path / "Case 7_0000.nii.gz", "--bids", tmp_path / "d")
    assert code == 2, err
    assert [path.name for path in (tmp_path / "d").rglob("*_dseg.nii.gz")] == ["sub-Case7_desc-sesegment_dseg.nii.gz"]
    assert not list((tmp_path / "d").rglob("*broken*")), "no folder either"
    assert (tmp_path / "d" / "dataset_description.json").is_file()


def test_segmentations_by_another_model_are_not_written_over(dataset, run, make_random_model, tmp_path, capfd):
    target = tmp_path / "d"
    assert run(dataset / "sub-01", "--bids", target)[0] == 0
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    other = make_random_model(name="other-t1")
    capfd.readouterr()
    assert main(["run", str(dataset), "-m", str(other), "--device", "cpu", "--bids", str(target)]) == 2
    assert "holds segmentations by another model than other-t1" in capfd.readouterr().err
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--bids", "{study}"], "is another dataset"),
        (["--bids", "{new}", "-o", "{new}"], "both --output and --bids"),
        ([], "There is no --output."),
        (["--bids", "{new}", "--format", "seg.nrrd"], "BIDS derivatives are NIfTI files."),
    ],
)
def test_what_does_not_suit_is_told_before_any_work(dataset, run, tmp_path, options, told):
    before = sorted(dataset.rglob("*"))
    options = [option.format(study=dataset, new=tmp_path / "new") for option in options]
    code, err = run(dataset, *options)
    assert (code, len(err.splitlines())) == (2, 2), err
    assert told in err
    assert sorted(dataset.rglob("*")) == before and not (tmp_path / "new").exists()


def subject(name: str) -> str:
    """The label of a scan of this name, in a call of its own."""
    (path,) = derivative_paths(Path("d"), {Path("scan.nii.gz"): name}).values()
    return path.name.removesuffix("_desc-sesegment_dseg.nii.gz")


def test_patients_of_other_names_are_other_subjects_in_every_call():
    names = ["M\u00fcller", "M\u00f6ller", "Mller", "Case-1_1", "Case-11", "\u738b", "\u674e", "a\udcff", "a", "--"]
    labels = [subject(name) for name in names]
    assert len(set(labels)) == len(names)
    assert all(re.fullmatch("sub-[A-Za-z0-9]+", label) for label in labels)
    assert subject("Mu\u0308ller") == subject("M\u00fcller"), "another spelling in Unicode is the same name"
    assert [subject(name) for name in ("Case 7", "Case-11")] == ["sub-Case7", "sub-Case11"]
    assert labels[0].startswith("sub-Muller"), "it can be read"


def test_a_later_run_leaves_the_results_of_the_earlier_patient(run, sample_file, tmp_path):
    for number, name in enumerate(("M\u00fcller", "M\u00f6ller"), start=1):
        shutil.copy(sample_file, tmp_path / f"{name}.nii.gz")
        code, err = run(tmp_path / f"{name}.nii.gz", "--bids", tmp_path / "d")
        assert code == 0, err
        assert len(list((tmp_path / "d").rglob("*_dseg.nii.gz"))) == number


def test_another_patients_scan_of_the_same_name_is_refused(run, sample_file, tmp_path):
    """In a call of its own, where nothing tells them apart but what is in the files."""
    for patient, end in (("p1", b""), ("p2", bytes(8))):
        (tmp_path / patient).mkdir()
        (tmp_path / patient / "T1.nii.gz").write_bytes(sample_file.read_bytes() + end)
    assert run(tmp_path / "p1" / "T1.nii.gz", "--bids", tmp_path / "d")[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "d").rglob("*") if path.is_file()}
    code, err = run(tmp_path / "p2" / "T1.nii.gz", "--bids", tmp_path / "d")
    assert (code, len(err.splitlines())) == (2, 2)
    assert "another scan of this name" in err and str(tmp_path / "p2" / "T1.nii.gz") in err
    assert {path: path.read_bytes() for path in (tmp_path / "d").rglob("*") if path.is_file()} == before
    (tmp_path / "p1").rename(tmp_path / "elsewhere")
    code, err = run(tmp_path / "elsewhere" / "T1.nii.gz", "--bids", tmp_path / "d")
    assert code == 0, "the same scan at another place is segmented again: " + err

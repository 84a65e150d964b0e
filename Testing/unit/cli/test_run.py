"""``sesegment run``: what it writes and prints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from SESegmentationLib.models import sha256_of

LIBRARY = Path(__file__).parents[3] / "SESegmentation"
SERIES = "1.2.826.0.1.3680043.8.498.1"


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_one_volume_with_everything(run, tiny_model, sample_file, tmp_path):
    code, out, err = run(
        sample_file, "--model", tiny_model, "-o", tmp_path / "a.seg.nrrd", "--report", tmp_path / "r.json",
        "--picture", tmp_path / "p.png", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, err
    assert files_in(tmp_path) == ["a.seg.nrrd", "p.png", "r.json"]
    assert "anterior hippocampus" in out
    assert "expected Dice" not in out, "the model has no calibration to expect anything from"
    assert "a.seg.nrrd" in out.replace("\n", "")
    volume, labels = sitk.ReadImage(str(sample_file)), sitk.ReadImage(str(tmp_path / "a.seg.nrrd"))
    assert labels.GetSize() == volume.GetSize()
    assert np.allclose(labels.GetDirection(), volume.GetDirection())
    assert labels.GetMetaData("Segment1_Name") == "posterior hippocampus"
    assert Image.open(tmp_path / "p.png").format == "PNG"
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    values = sitk.GetArrayFromImage(labels)
    for structure in report["structures"]:
        assert structure["voxels"] == (values == structure["value"]).sum()
        assert structure["volume_ml"] == pytest.approx(structure["voxels"] / 1000, abs=1e-3)
        assert 0 <= structure["confidence"] <= 1
    assert report["model"]["weights_sha256"] == sha256_of(tiny_model / "model.safetensors")
    assert report["device"] == "cpu"
    assert report["versions"]["torch"]
    assert report["input"] == str(sample_file)
    assert report["timings_s"]["reading"] >= 0
    assert min(report["timings_s"].values()) >= 0


def test_doubt_attention_and_samples_on_request(run, tiny_model, sample_file, tmp_path):
    arguments = [sample_file, "-m", tiny_model, "-o", tmp_path / "a.nii.gz", "--device", "cpu"]
    maps = ["--doubt", tmp_path / "d.nii.gz", "--attention", tmp_path / "l.nii.gz"]
    code, out, err = run(*arguments, *maps, "--samples", 2, "--json")
    assert code == 0, err
    assert files_in(tmp_path) == ["a.nii.gz", "d.nii.gz", "l.nii.gz"]
    volume = sitk.ReadImage(str(sample_file))
    for path in maps[1::2]:
        image = sitk.ReadImage(str(path))
        assert image.GetSize() == volume.GetSize()
        assert np.allclose(image.GetDirection(), volume.GetDirection())
        array = sitk.GetArrayFromImage(image)
        assert 0 <= array.min() < array.max() <= 1
    report = json.loads(out)
    assert report["samples"] == {"kind": "augmentation", "count": 2}
    assert report["timings_s"]["sampling"] > 0
    for structure in report["structures"]:
        assert 0 < structure["sample_overlap"] < 1
        assert structure["sample_variation"] >= 0
    code, out, err = run(*arguments, "--samples", 2, "--report", tmp_path / "r.csv")
    assert code == 0, err
    shown = [line.split("│")[-2].strip() for line in out.splitlines() if line.startswith("│") and line[3:8].strip()]
    assert shown == [f"{structure['sample_overlap']:.2f}" for structure in report["structures"]]
    header, *rows = (tmp_path / "r.csv").read_text(encoding="utf-8-sig").splitlines()
    column = header.split(",").index("sample_overlap")
    assert [float(row.split(",")[column]) for row in rows] == [s["sample_overlap"] for s in report["structures"]]


def test_terms_that_are_not_free_must_be_accepted(run, refused, tiny_model, sample_file, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "paid")
    card = json.loads((model / "model.json").read_text(encoding="utf-8"))
    card["licence"] |= {"spdx": "CC-BY-NC-SA-4.0", "name": "CC for non-profits", "free": False, "url": "https://x.org"}
    (model / "model.json").write_text(json.dumps(card), encoding="utf-8")
    arguments = [sample_file, "-m", model, "-o", tmp_path / "out" / "a.nii.gz", "--device", "cpu"]
    err = refused(2, *arguments)
    assert "CC for non-profits (CC-BY-NC-SA-4.0)" in err
    assert "https://x.org" in err
    assert "--accept-licence" in err
    assert not (tmp_path / "out").exists()
    code, _, err = run(*arguments, "--accept-licence")
    assert code == 0, err
    assert files_in(tmp_path / "out") == ["a.nii.gz"]


def test_a_folder_gets_nifti_files_called_like_the_volumes(run, tiny_model, sample_file, tmp_path):
    volumes = tmp_path / "in"
    volumes.mkdir()
    for name in ("a_0000.nii.gz", "b_0000.nii.gz"):
        shutil.copy(sample_file, volumes / name)
    code, out, err = run(
        volumes / "a_0000.nii.gz", volumes / "b_0000.nii.gz", "-m", tiny_model, "-o", tmp_path / "out",
        "--report", tmp_path / "r.json",
    )  # fmt: skip
    assert code == 0, err
    assert files_in(tmp_path / "out") == ["a.nii.gz", "b.nii.gz"]
    assert len(out.splitlines()) == 2
    reports = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert [Path(report["output"]).name for report in reports] == ["a.nii.gz", "b.nii.gz"]
    assert set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "a.nii.gz"))))) <= {0, 1, 2}


def test_format_chooses_segmentations(run, tiny_model, sample_file, tmp_path):
    code, _, err = run(sample_file, "-m", tiny_model, "-o", tmp_path / "out", "--format", "seg.nrrd")
    assert code == 0, err
    assert files_in(tmp_path / "out") == ["sample.seg.nrrd"]


def test_json_is_all_there_is_on_stdout(run, tiny_model, sample_file, tmp_path):
    code, out, _ = run(sample_file, "-m", tiny_model, "-o", tmp_path / "a.nii.gz", "--json")
    assert code == 0
    assert json.loads(out)["structures"][0]["name"] == "anterior hippocampus"


def test_a_dicom_folder_is_one_volume(run, tiny_model, sample_file, tmp_path):
    series = tmp_path / "series"
    write_dicom(sitk.ReadImage(str(sample_file)), series)
    code, _, err = run(series, "-m", tiny_model, "-o", tmp_path / "out")
    assert code == 0, err
    assert files_in(tmp_path / "out") == ["series.nii.gz"]
    assert sitk.ReadImage(str(tmp_path / "out" / "series.nii.gz")).GetSize() == (36, 50, 36)


def test_a_volume_beside_a_dicom_series_is_not_segmented_in_its_place(run, refused, tiny_model, sample_file, tmp_path):
    series = tmp_path / "series"
    write_dicom(sitk.ReadImage(str(sample_file)), series)
    sitk.WriteImage(sitk.Image(20, 20, 20, sitk.sitkInt16), str(series / "earlier.nii.gz"))
    assert "holds volumes, such as earlier.nii.gz" in refused(2, series, "-m", tiny_model, "-o", tmp_path / "a.nii.gz")
    code, _, err = run(series, "-m", tiny_model, "-o", tmp_path / "a.nii.gz", "--series", SERIES)
    assert code == 0, err
    assert sitk.ReadImage(str(tmp_path / "a.nii.gz")).GetSize() == (36, 50, 36)


def write_dicom(image: sitk.Image, folder: Path) -> None:
    """Write a volume as a DICOM series, an axial slice a file."""
    folder.mkdir()
    image = sitk.Cast(sitk.DICOMOrient(image, "LPS"), sitk.sitkInt16)
    direction = image.GetDirection()
    common = {
        "0008|0060": "MR",
        "0020|000d": "1.2.826.0.1.3680043.8.498.2",
        "0020|000e": SERIES,
        "0020|0052": "1.2.826.0.1.3680043.8.498.3",
        "0020|0037": "\\".join(str(direction[i]) for i in (0, 3, 6, 1, 4, 7)),
    }
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(image.GetDepth()):
        piece = image[:, :, k]
        position = image.TransformIndexToPhysicalPoint((0, 0, k))
        fields = {"0020|0032": "\\".join(map(str, position)), "0020|0013": str(k + 1), "0008|0018": f"1.2.3.{k + 1}"}
        for key, value in (common | fields).items():
            piece.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{k:03}.dcm"))
        writer.Execute(piece)


@pytest.mark.parametrize("kind", ["labels", "box"])
def test_a_region_limits_the_segmentation(run, tiny_model, sample_file, tmp_path, kind):
    volume = sitk.ReadImage(str(sample_file))
    inside = np.zeros(volume.GetSize()[::-1], np.uint8)
    inside[10:20, 10:30, 8:20] = 1
    if kind == "labels":
        path = tmp_path / "roi.nii.gz"
        region = sitk.GetImageFromArray(inside)
        region.CopyInformation(volume)
        sitk.WriteImage(region, str(path))
    else:
        path = tmp_path / "roi.mrk.json"
        write_box(path, volume, low=(8, 10, 10), high=(20, 30, 20))
    code, _, err = run(sample_file, "-m", tiny_model, "-o", tmp_path / "a.nii.gz", "--roi", path)
    assert code == 0, err
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")))
    assert labels.any()
    assert not labels[inside == 0].any()


def write_box(path: Path, volume: sitk.Image, low: tuple[int, ...], high: tuple[int, ...]) -> None:
    """Let Slicer's core write a markups ROI over the voxels from ``low`` to, excluded, ``high``."""
    slicer = pytest.importorskip("slicer", reason="needs slicer-core")
    corners = [
        np.array(volume.TransformContinuousIndexToPhysicalPoint([index - 0.5 for index in corner]))
        for corner in (low, high)
    ]
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    node.SetCenter(*(sum(corners) / 2 * (-1, -1, 1)))  # RAS
    node.SetSize(*np.abs(corners[1] - corners[0]))
    storage = slicer.vtkMRMLMarkupsROIJsonStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.WriteData(node)


def test_fast_and_low_memory_are_accepted(run, tiny_model, sample_file, tmp_path):
    code, _, err = run(sample_file, "-m", tiny_model, "-o", tmp_path / "a.nii.gz", "--fast", "--low-memory")
    assert code == 0, err


def test_a_cold_start_is_quick_and_small(tiny_model, sample_file, tmp_path):
    """One crop, start of Python included: at most 8 s and 1.2 GB on two cores (more where others use them too)."""
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "SESegmentationLib.cli", "run", sample_file, "-m", tiny_model]
    subprocess.run([*command, "-o", tmp_path / "a.nii.gz"], env={**os.environ, "PYTHONPATH": str(LIBRARY)}, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert processor_seconds < 10

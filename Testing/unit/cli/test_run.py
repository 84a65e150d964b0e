"""``sesegment run``: what it writes and prints, and how it fails."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from SESegmentationLib.cli import main
from SESegmentationLib.models import sha256_of

LIBRARY = Path(__file__).parents[3] / "SESegmentation"


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``sesegment run`` in this process."""
    capfd.readouterr()
    code = main(["run", *map(str, arguments)])
    return code, *capfd.readouterr()


def refused(capfd: pytest.CaptureFixture[str], code: int, *arguments: object) -> str:
    """Assert that the call ends with ``code``, one line of cause and one of remedy; the two lines."""
    found, out, err = run(capfd, *arguments)
    lines = err.splitlines()
    assert (found, out) == (code, ""), err
    assert len(lines) == 2, err
    assert "Traceback" not in err
    return err


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_one_volume_with_everything(capfd, tiny_model, sample_file, tmp_path):
    code, out, err = run(
        capfd, sample_file, "--model", tiny_model, "-o", tmp_path / "a.seg.nrrd", "--report", tmp_path / "r.json",
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
    report = json.loads((tmp_path / "r.json").read_text())
    values = sitk.GetArrayViewFromImage(labels)
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


def test_doubt_attention_and_samples_on_request(capfd, tiny_model, sample_file, tmp_path):
    arguments = [sample_file, "-m", tiny_model, "-o", tmp_path / "a.nii.gz", "--device", "cpu"]
    maps = ["--doubt", tmp_path / "d.nii.gz", "--attention", tmp_path / "l.nii.gz"]
    code, out, err = run(capfd, *arguments, *maps, "--samples", 2, "--json")
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
    code, _, err = run(capfd, *arguments, "--samples", 2, "--report", tmp_path / "r.csv")
    assert code == 0, err
    header, *rows = (tmp_path / "r.csv").read_text(encoding="utf-8-sig").splitlines()
    column = header.split(",").index("sample_overlap")
    assert [float(row.split(",")[column]) for row in rows] == [s["sample_overlap"] for s in report["structures"]]


def test_doubt_and_samples_that_cannot_be_had_are_refused(capfd, tiny_model, sample_file, tmp_path):
    arguments = [sample_file, "-m", tiny_model, "-o", tmp_path / "out" / "a.nii.gz"]
    assert "without dropout" in refused(capfd, 2, *arguments, "--samples", 3, "--sampling", "dropout")
    assert "single sample" in refused(capfd, 2, *arguments, "--samples", 1)
    for option in ("--doubt", "--attention"):
        assert ".nii.gz or" in refused(capfd, 2, *arguments, option, tmp_path / "d.png")
    shutil.copy(sample_file, tmp_path / "b.nii.gz")
    both = [sample_file, tmp_path / "b.nii.gz", "-m", tiny_model, "-o", tmp_path / "out"]
    for option in ("--doubt", "--attention"):
        assert f"{option} is for one volume" in refused(capfd, 2, *both, option, tmp_path / "d.nii.gz")
    assert files_in(tmp_path) == ["b.nii.gz", "out"]


def test_attention_of_networks_without_a_gate_is_refused_before_anything_is_done(
    capfd, sample_file, card_dict, tmp_path
):
    from safetensors.torch import save_file

    from SESegmentationLib.models import write_package
    from SESegmentationLib.networks import build_network

    networks = {name: entry | {"se": "cSE"} for name, entry in card_dict["networks"].items()}
    tensors = {
        f"{name}.{key}": value.contiguous()
        for name, entry in networks.items()
        for key, value in build_network(entry).state_dict().items()
    }
    save_file(tensors, tmp_path / "tensors")
    model = write_package(tmp_path / "channels", card_dict | {"networks": networks}, tmp_path / "tensors").path
    out = tmp_path / "out"
    arguments = [sample_file, "-m", model, "-o", out / "a.nii.gz", "--attention", out / "l.nii.gz", "--device", "cpu"]
    assert "no spatial gate" in refused(capfd, 2, *arguments)
    assert files_in(out) == []


def test_terms_that_are_not_free_must_be_accepted(capfd, tiny_model, sample_file, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "paid")
    card = json.loads((model / "model.json").read_text())
    card["licence"] |= {"spdx": "CC-BY-NC-SA-4.0", "name": "CC for non-profits", "free": False, "url": "https://x.org"}
    (model / "model.json").write_text(json.dumps(card))
    arguments = [sample_file, "-m", model, "-o", tmp_path / "out" / "a.nii.gz", "--device", "cpu"]
    err = refused(capfd, 2, *arguments)
    assert "CC for non-profits (CC-BY-NC-SA-4.0)" in err
    assert "https://x.org" in err
    assert "--accept-licence" in err
    assert not (tmp_path / "out").exists()
    code, _, err = run(capfd, *arguments, "--accept-licence")
    assert code == 0, err
    assert files_in(tmp_path / "out") == ["a.nii.gz"]


def test_a_folder_gets_nifti_files_called_like_the_volumes(capfd, tiny_model, sample_file, tmp_path):
    volumes = tmp_path / "in"
    volumes.mkdir()
    for name in ("a_0000.nii.gz", "b_0000.nii.gz"):
        shutil.copy(sample_file, volumes / name)
    code, out, err = run(
        capfd, volumes / "a_0000.nii.gz", volumes / "b_0000.nii.gz", "-m", tiny_model, "-o", tmp_path / "out",
        "--report", tmp_path / "r.json",
    )  # fmt: skip
    assert code == 0, err
    assert files_in(tmp_path / "out") == ["a.nii.gz", "b.nii.gz"]
    assert len(out.splitlines()) == 2
    reports = json.loads((tmp_path / "r.json").read_text())
    assert [Path(report["output"]).name for report in reports] == ["a.nii.gz", "b.nii.gz"]
    assert set(np.unique(sitk.GetArrayViewFromImage(sitk.ReadImage(str(tmp_path / "out" / "a.nii.gz"))))) <= {0, 1, 2}


def test_format_chooses_segmentations(capfd, tiny_model, sample_file, tmp_path):
    code, _, err = run(capfd, sample_file, "-m", tiny_model, "-o", tmp_path / "out", "--format", "seg.nrrd")
    assert code == 0, err
    assert files_in(tmp_path / "out") == ["sample.seg.nrrd"]


def test_json_is_all_there_is_on_stdout(capfd, tiny_model, sample_file, tmp_path):
    code, out, _ = run(capfd, sample_file, "-m", tiny_model, "-o", tmp_path / "a.nii.gz", "--json")
    assert code == 0
    assert json.loads(out)["structures"][0]["name"] == "anterior hippocampus"


def test_a_dicom_folder_is_one_volume(capfd, tiny_model, sample_file, tmp_path):
    series = tmp_path / "series"
    write_dicom(sitk.ReadImage(str(sample_file)), series)
    code, _, err = run(capfd, series, "-m", tiny_model, "-o", tmp_path / "out")
    assert code == 0, err
    assert files_in(tmp_path / "out") == ["series.nii.gz"]
    assert sitk.ReadImage(str(tmp_path / "out" / "series.nii.gz")).GetSize() == (36, 50, 36)


def write_dicom(image: sitk.Image, folder: Path) -> None:
    """Write a volume as a DICOM series, an axial slice a file."""
    folder.mkdir()
    image = sitk.Cast(sitk.DICOMOrient(image, "LPS"), sitk.sitkInt16)
    direction = image.GetDirection()
    common = {
        "0008|0060": "MR",
        "0020|000e": "1.2.826.0.1.3680043.8.498.1",
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


def test_one_bad_volume_does_not_keep_the_others_from_being_done(capfd, tiny_model, sample_file, tmp_path):
    bad = tmp_path / "bad_0000.nii.gz"
    bad.write_text("this is text")
    good = tmp_path / "good_0000.nii.gz"
    shutil.copy(sample_file, good)
    code, out, err = run(
        capfd, bad, tmp_path / "absent.nii.gz", good, "-m", tiny_model, "-o", tmp_path / "out", "--report",
        tmp_path / "r.json", "--json",
    )  # fmt: skip
    assert code == 2
    assert files_in(tmp_path / "out") == ["good.nii.gz"]
    assert "bad_0000" in err
    assert "absent" in err
    assert "Traceback" not in err
    reports = json.loads((tmp_path / "r.json").read_text())
    assert json.loads(out) == reports
    assert [report.get("error", {}).get("code") for report in reports] == ["input", "input", None]


@pytest.mark.parametrize("kind", ["absent", "text", "truncated", "empty", "folder", "two-dimensional", "nan"])
def test_unusable_input_is_refused(capfd, tiny_model, sample_file, tmp_path, kind):
    path = tmp_path / "v.nii.gz"
    if kind == "text":
        path.write_text("this is text")
    elif kind == "truncated":
        path.write_bytes(sample_file.read_bytes()[:9000])
    elif kind == "empty":
        path.write_bytes(gzip.compress(b""))
    elif kind == "folder":
        path.mkdir()
    elif kind == "two-dimensional":
        sitk.WriteImage(sitk.Image(9, 9, sitk.sitkUInt8), str(path))
    elif kind == "nan":
        sitk.WriteImage(sitk.Image(9, 9, 9, sitk.sitkFloat32) + float("nan"), str(path))
    message = refused(capfd, 2, path, "-m", tiny_model, "-o", tmp_path / "out" / "a.nii.gz")
    assert str(path) in message
    assert files_in(tmp_path / "out") == []


def test_wrong_use_is_exit_code_2(capfd, tiny_model, sample_file, tmp_path):
    out = tmp_path / "out"
    assert "--model" in refused(capfd, 2, sample_file, "-o", out)
    assert "--output" in refused(capfd, 2, sample_file, "-m", tiny_model)
    assert "--wrong" in refused(capfd, 2, sample_file, "-m", tiny_model, "-o", out, "--wrong")
    assert "VOLUME" in refused(capfd, 2, "-m", tiny_model, "-o", out)
    assert "one file" in refused(capfd, 2, sample_file, sample_file, "-m", tiny_model, "-o", tmp_path / "a.nii.gz")
    assert "nrrd" in refused(capfd, 2, sample_file, "-m", tiny_model, "-o", out, "--format", "stl")
    assert "png" in refused(capfd, 2, sample_file, "-m", tiny_model, "-o", out, "--picture", tmp_path / "p.jpg")
    assert files_in(tmp_path) == []


def test_an_output_that_cannot_be_written_is_refused_at_once(capfd, tiny_model, sample_file, tmp_path):
    (tmp_path / "file").touch()
    for option in ("-o", "--report"):
        extra = [] if option == "-o" else ["-o", tmp_path / "a.nii.gz"]
        err = refused(capfd, 2, sample_file, "-m", tiny_model, option, tmp_path / "file" / "x.nii.gz", *extra)
        assert "cannot be written to" in err
    assert files_in(tmp_path) == ["file"]


def test_no_such_model_is_exit_code_3(capfd, sample_file, tmp_path):
    assert "'nothing'" in refused(capfd, 3, sample_file, "-m", "nothing", "-o", tmp_path / "a.nii.gz")


def test_a_damaged_model_is_exit_code_3(capfd, tiny_model, sample_file, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    assert "damaged" in refused(capfd, 3, sample_file, "-m", model, "-o", tmp_path / "a.nii.gz")
    weights.unlink()
    assert "missing" in refused(capfd, 3, sample_file, "-m", model, "-o", tmp_path / "a.nii.gz")
    (model / "model.json").write_text("{")
    assert "JSON" in refused(capfd, 3, sample_file, "-m", model, "-o", tmp_path / "a.nii.gz")
    assert not (tmp_path / "a.nii.gz").exists()


def test_an_absent_device_is_exit_code_5(capfd, tiny_model, sample_file, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert "cuda" in refused(capfd, 5, sample_file, "-m", tiny_model, "-o", tmp_path / "a.nii.gz", "--device", "cuda")
    assert "abacus" in refused(
        capfd, 5, sample_file, "-m", tiny_model, "-o", tmp_path / "a.nii.gz", "--device", "abacus"
    )


def test_no_memory_is_exit_code_4(capfd, tiny_model, sample_file, tmp_path, monkeypatch):
    from SESegmentationLib.inference import engine

    def fail(*_arguments: object, **_options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(engine.Engine, "segment", fail)
    assert "memory" in refused(capfd, 4, sample_file, "-m", tiny_model, "-o", tmp_path / "out" / "a.nii.gz")
    assert files_in(tmp_path / "out") == []


def test_anything_else_is_exit_code_1_and_a_traceback_only_with_debug(
    capfd, tiny_model, sample_file, tmp_path, monkeypatch
):
    from SESegmentationLib.inference import engine

    def fail(*_arguments: object, **_options: object) -> None:
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr(engine.Engine, "segment", fail)
    arguments = [sample_file, "-m", tiny_model, "-o", tmp_path / "a.nii.gz"]
    message = refused(capfd, 1, *arguments)
    assert "ZeroDivisionError" in message
    assert "--debug" in message
    code, _, err = run(capfd, *arguments, "--debug")
    assert code == 1
    assert "Traceback" in err


@pytest.mark.parametrize("kind", ["labels", "box"])
def test_a_region_limits_the_segmentation(capfd, tiny_model, sample_file, tmp_path, kind):
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
    code, _, err = run(capfd, sample_file, "-m", tiny_model, "-o", tmp_path / "a.nii.gz", "--roi", path)
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


def test_a_region_that_cannot_be_read_is_refused(capfd, tiny_model, sample_file, tmp_path):
    (tmp_path / "roi.mrk.json").write_text("{}")
    arguments = [sample_file, "-m", tiny_model, "-o", tmp_path / "a.nii.gz", "--roi", tmp_path / "roi.mrk.json"]
    assert "roi.mrk.json" in refused(capfd, 2, *arguments)


def test_fast_and_low_memory_are_accepted(capfd, tiny_model, sample_file, tmp_path):
    code, _, err = run(capfd, sample_file, "-m", tiny_model, "-o", tmp_path / "a.nii.gz", "--fast", "--low-memory")
    assert code == 0, err


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(tiny_model, tmp_path, number):
    """A large volume keeps the engine busy while the signal comes."""
    rng = np.random.default_rng(0)
    volume = sitk.GetImageFromArray(rng.normal(100, 20, (200, 220, 200)).astype(np.float32))
    sitk.WriteImage(volume, str(tmp_path / "v.nii"))
    command = [sys.executable, "-m", "SESegmentationLib.cli", "run", str(tmp_path / "v.nii")]
    process = subprocess.Popen(
        [*command, "-m", str(tiny_model), "-o", str(tmp_path / "out"), "--report", str(tmp_path / "out" / "r.json")],
        env={**os.environ, "PYTHONPATH": str(LIBRARY)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "out").exists():  # made before the model is loaded
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(2)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.splitlines()[0] == "Cancelled."
    assert files_in(tmp_path / "out") == []


def test_a_cold_start_is_quick_and_small(tiny_model, sample_file, tmp_path):
    """One crop, start of Python included: at most 8 s and 1.2 GB on two cores (more where others use them too)."""
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "SESegmentationLib.cli", "run", sample_file, "-m", tiny_model]
    subprocess.run([*command, "-o", tmp_path / "a.nii.gz"], env={**os.environ, "PYTHONPATH": str(LIBRARY)}, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert processor_seconds < 10

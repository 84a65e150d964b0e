"""``sesegment run`` when something is wrong: one line of cause, one of remedy, an exit code, and nothing half done."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.io import reading

LIBRARY = Path(__file__).parents[3] / "SESegmentation"


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_doubt_and_samples_that_cannot_be_had_are_refused(refused, tiny_model, sample_file, tmp_path):
    arguments = [sample_file, "-m", tiny_model, "-o", tmp_path / "out" / "a.nii.gz"]
    assert "without dropout" in refused(2, *arguments, "--samples", 3, "--sampling", "dropout")
    assert "single sample" in refused(2, *arguments, "--samples", 1)
    for option in ("--doubt", "--attention"):
        assert ".nii.gz or" in refused(2, *arguments, option, tmp_path / "d.png")
    shutil.copy(sample_file, tmp_path / "b.nii.gz")
    both = [sample_file, tmp_path / "b.nii.gz", "-m", tiny_model, "-o", tmp_path / "out"]
    for option in ("--doubt", "--attention"):
        assert f"{option} is for one volume" in refused(2, *both, option, tmp_path / "d.nii.gz")
    assert files_in(tmp_path) == ["b.nii.gz", "out"]


def test_attention_of_networks_without_a_gate_is_refused_before_anything_is_done(
    refused, sample_file, card_dict, tmp_path
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
    assert "no spatial gate" in refused(2, *arguments)
    assert files_in(out) == []


def test_one_bad_volume_does_not_keep_the_others_from_being_done(run, tiny_model, sample_file, tmp_path):
    bad = tmp_path / "bad_0000.nii.gz"
    bad.write_text("this is text", encoding="utf-8")
    good = tmp_path / "good_0000.nii.gz"
    shutil.copy(sample_file, good)
    code, out, err = run(
        bad, tmp_path / "absent.nii.gz", good, "-m", tiny_model, "-o", tmp_path / "out", "--report",
        tmp_path / "r.json", "--json",
    )  # fmt: skip
    assert code == 2
    assert files_in(tmp_path / "out") == ["good.nii.gz"]
    assert "bad_0000" in err
    assert "absent" in err
    assert "Traceback" not in err
    reports = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert json.loads(out) == reports
    assert [report.get("error", {}).get("code") for report in reports] == ["input", "input", None]


def test_every_failure_among_many_small_volumes_is_told(run, tiny_model, sample_file, tmp_path, monkeypatch):
    """Reading silences the error stream for all threads: it must not go on while others read, or while we write."""
    read, readers, volumes = reading.read_volume, set(), []
    monkeypatch.setattr(reading, "read_volume", lambda *given: readers.add(threading.current_thread()) or read(*given))
    for number in range(12):
        volumes.append(tmp_path / f"case{number:02}_0000.nii.gz")
        if number % 3:
            volumes[-1].write_text("this is text", encoding="utf-8")
        else:
            shutil.copy(sample_file, volumes[-1])
    code, out, err = run(*volumes, "-m", tiny_model, "-o", tmp_path / "out", "--device", "cpu")
    assert code == 2
    assert readers == {threading.main_thread()}
    assert [line.split(" -> ")[0] for line in out.splitlines()] == [str(volume) for volume in volumes[::3]]
    *failures, last = [line for line in err.splitlines() if ": Warning: " not in line]
    assert len(failures) == 2 * 8
    assert all("is not a medical volume" in line for line in failures[::2])
    assert last == "4 of 12 volumes segmented."


@pytest.mark.parametrize("kind", ["absent", "text", "truncated", "empty", "folder", "two-dimensional", "nan"])
def test_unusable_input_is_refused(refused, tiny_model, sample_file, tmp_path, kind):
    path = tmp_path / "v.nii.gz"
    if kind == "text":
        path.write_text("this is text", encoding="utf-8")
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
    message = refused(2, path, "-m", tiny_model, "-o", tmp_path / "out" / "a.nii.gz")
    assert str(path) in message
    assert files_in(tmp_path / "out") == []


def test_wrong_use_is_exit_code_2(refused, tiny_model, sample_file, tmp_path):
    out = tmp_path / "out"
    assert "--model" in refused(2, sample_file, "-o", out)
    assert "--output" in refused(2, sample_file, "-m", tiny_model)
    assert "--wrong" in refused(2, sample_file, "-m", tiny_model, "-o", out, "--wrong")
    assert "VOLUME" in refused(2, "-m", tiny_model, "-o", out)
    assert "one file" in refused(2, sample_file, sample_file, "-m", tiny_model, "-o", tmp_path / "a.nii.gz")
    assert "nrrd" in refused(2, sample_file, "-m", tiny_model, "-o", out, "--format", "stl")
    assert "png" in refused(2, sample_file, "-m", tiny_model, "-o", out, "--picture", tmp_path / "p.jpg")
    assert files_in(tmp_path) == []


def test_an_output_that_cannot_be_written_is_refused_at_once(refused, tiny_model, sample_file, tmp_path):
    (tmp_path / "file").touch()
    for option in ("-o", "--report"):
        extra = [] if option == "-o" else ["-o", tmp_path / "a.nii.gz"]
        err = refused(2, sample_file, "-m", tiny_model, option, tmp_path / "file" / "x.nii.gz", *extra)
        assert f"{tmp_path / 'file'} is not a folder." in err
    assert files_in(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["n" * 300, "n" * 300 + ".nii.gz", "n" * 300 + "/a.nii.gz"])
def test_a_name_that_is_too_long_is_exit_code_2(refused, tiny_model, sample_file, tmp_path, name):
    written = ["-m", tiny_model, "-o"]
    for arguments in ([sample_file, *written, tmp_path / name], [tmp_path / name, *written, tmp_path / "a.nii.gz"]):
        assert "longer than the disk allows" in refused(2, *arguments)


def test_no_such_model_is_exit_code_3(refused, sample_file, tmp_path):
    assert "'nothing'" in refused(3, sample_file, "-m", "nothing", "-o", tmp_path / "a.nii.gz")


def test_a_damaged_model_is_exit_code_3(refused, tiny_model, sample_file, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    assert "damaged" in refused(3, sample_file, "-m", model, "-o", tmp_path / "a.nii.gz")
    weights.unlink()
    assert "missing" in refused(3, sample_file, "-m", model, "-o", tmp_path / "a.nii.gz")
    (model / "model.json").write_text("{", encoding="utf-8")
    assert "JSON" in refused(3, sample_file, "-m", model, "-o", tmp_path / "a.nii.gz")
    assert not (tmp_path / "a.nii.gz").exists()


def test_an_absent_device_is_exit_code_5(refused, tiny_model, sample_file, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert "cuda" in refused(5, sample_file, "-m", tiny_model, "-o", tmp_path / "a.nii.gz", "--device", "cuda")
    assert "abacus" in refused(5, sample_file, "-m", tiny_model, "-o", tmp_path / "a.nii.gz", "--device", "abacus")


def test_no_memory_is_exit_code_4(refused, tiny_model, sample_file, tmp_path, monkeypatch):
    from SESegmentationLib.inference import engine

    def fail(*_arguments: object, **_options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(engine.Engine, "segment", fail)
    assert "memory" in refused(4, sample_file, "-m", tiny_model, "-o", tmp_path / "out" / "a.nii.gz")
    assert files_in(tmp_path / "out") == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit the memory of a process so")
def test_no_memory_even_for_the_libraries_is_exit_code_4(sample_file, tmp_path):
    # PyTorch's own library is larger than what is left
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20));"
        "from SESegmentationLib.cli import main; sys.exit(main())"
    )
    call = [sys.executable, "-c", program, "run", sample_file, "-m", "hippocampus-t1", "-o", tmp_path / "a.nii.gz"]
    done = subprocess.run(list(map(str, call)), capture_output=True, encoding="utf-8", timeout=120, cwd=LIBRARY)
    assert done.returncode == 4, done.stderr
    assert done.stderr.splitlines() == [
        "There is not enough memory to load a library that is needed.",
        "Close other programs.",
    ]
    assert files_in(tmp_path) == []


def test_anything_else_is_exit_code_1_and_a_traceback_only_with_debug(
    run, refused, tiny_model, sample_file, tmp_path, monkeypatch
):
    from SESegmentationLib.inference import engine

    def fail(*_arguments: object, **_options: object) -> None:
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr(engine.Engine, "segment", fail)
    arguments = [sample_file, "-m", tiny_model, "-o", tmp_path / "a.nii.gz"]
    message = refused(1, *arguments)
    assert "ZeroDivisionError" in message
    assert "--debug" in message
    code, _, err = run(*arguments, "--debug")
    assert code == 1
    assert "Traceback" in err


def test_a_region_that_cannot_be_read_is_refused(refused, tiny_model, sample_file, tmp_path):
    (tmp_path / "roi.mrk.json").write_text("{}", encoding="utf-8")
    arguments = [sample_file, "-m", tiny_model, "-o", tmp_path / "a.nii.gz", "--roi", tmp_path / "roi.mrk.json"]
    assert "roi.mrk.json" in refused(2, *arguments)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGINT, 2), (signal.SIGTERM, 2), (signal.SIGINT, 0.8)])
def test_an_interrupted_run_leaves_nothing(tiny_model, tmp_path, number, seconds):
    """A large volume keeps the engine busy while the signal comes, or libraries are still being imported."""
    rng = np.random.default_rng(0)
    volume = sitk.GetImageFromArray(rng.normal(100, 20, (200, 220, 200)).astype(np.float32))
    sitk.WriteImage(volume, str(tmp_path / "v.nii"))
    command = [sys.executable, "-m", "SESegmentationLib.cli", "run", str(tmp_path / "v.nii")]
    process = subprocess.Popen(
        [*command, "-m", str(tiny_model), "-o", str(tmp_path / "out"), "--report", str(tmp_path / "out" / "r.json")],
        env={**os.environ, "PYTHONPATH": str(LIBRARY)},
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    while not (tmp_path / "out").exists():  # made before the model is loaded
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(seconds)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.splitlines()[0] == "Cancelled."
    assert files_in(tmp_path / "out") == []


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_who_interrupts_again_and_again_is_told_no_other(sample_file, tmp_path):
    """Several crops are being looked at when the command ends."""
    crops = [shutil.copy(sample_file, tmp_path / f"crop_{n}.nii.gz") for n in range(40)]
    command = [sys.executable, "-m", "SESegmentationLib.cli", "run", *map(str, crops)]
    process = subprocess.Popen(
        [*command, "-m", "hippocampus-t1", "-o", str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(LIBRARY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    while not files_in(tmp_path / "out"):
        assert process.poll() is None
        time.sleep(0.05)
    for _ in range(20):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert err.splitlines()[-2:] == ["Cancelled.", "Finished files are complete; nothing else was written."]
    for name in files_in(tmp_path / "out"):
        sitk.ReadImage(str(tmp_path / "out" / name))

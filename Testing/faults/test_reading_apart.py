"""One bad file takes nothing with it: files are read in a process that may die, hang or run out of memory."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib import memory
from SESegmentationLib.cli import main
from SESegmentationLib.client.reading import ReadingProcess
from SESegmentationLib.errors import InputError, OutOfMemoryError, WorkerError
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.models import find_model

#: read by the worker's Python at its start: opening a file called so ends or stops the process
TRAP = """
import os, signal, time
from SESegmentationLib.io import formats
whole = formats.open_file
def open_file(path, *others):
    if "segv" in path.name: os.kill(os.getpid(), signal.SIGSEGV)
    if "hang" in path.name: time.sleep(600)
    if "exit" in path.name: os._exit(7)
    return whole(path, *others)
formats.open_file = open_file
"""


@pytest.fixture
def traps(tmp_path, monkeypatch):
    """Makes the names of files do what damaged ones do to libraries."""
    folder = tmp_path / "traps"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(TRAP, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    process = ReadingProcess(seconds=3.0)
    yield process
    process.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_a_file_that_ends_or_stops_the_process_is_a_failure_and_the_next_is_read(traps, sample_file, tmp_path):
    for name, words in (("segv", "SIGSEGV"), ("hang", "does not finish"), ("exit", "exit code 7")):
        bad = shutil.copy(sample_file, tmp_path / f"{name}.nii.gz")
        with pytest.raises(InputError) as raised:
            traps(Path(bad))
        assert words in raised.value.cause and str(bad) in raised.value.cause
        assert traps(sample_file).GetSize() == read_volume(sample_file).GetSize()


def test_a_process_that_does_not_start_is_no_fault_of_the_file(tmp_path, sample_file, monkeypatch):
    (tmp_path / "SimpleITK.py").write_text("raise ImportError('no such library')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = ReadingProcess()
    with pytest.raises(WorkerError, match="cannot be started"):
        process(sample_file)
    process.close()


def test_what_is_read_apart_is_what_is_read_here(sample_file, tmp_path):
    process = ReadingProcess()
    here, there = read_volume(sample_file), process(sample_file)
    assert there.GetDirection() == here.GetDirection() and there.GetOrigin() == here.GetOrigin()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(there), sitk.GetArrayFromImage(here))
    layers = sitk.GetImageFromArray(np.zeros((4, 5, 6, 2), np.uint8), isVector=True)
    layers.SetMetaData("Segment0_ID", "é")
    sitk.WriteImage(layers, tmp_path / "a.seg.nrrd")
    there = process(tmp_path / "a.seg.nrrd")
    assert there.GetNumberOfComponentsPerPixel() == 2 and there.GetMetaData("Segment0_ID") == "é"
    with pytest.raises(InputError, match="There is no file"):
        process(tmp_path / "absent.nii")
    process.close()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other names")
def test_names_that_are_no_utf8_are_read(sample_file, tmp_path):
    process = ReadingProcess()
    image = read_volume(sample_file)
    for ending in (".nii.gz", ".nrrd", ".mha"):
        sitk.WriteImage(image, tmp_path / f"a{ending}")
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/h\xe4" + ending.encode()))
        os.rename(tmp_path / f"a{ending}", path)
        assert process(path).GetSize() == image.GetSize()
    process.close()


def test_an_interrupt_leaves_no_process_behind(sample_file, traps, tmp_path):
    if sys.platform == "win32":
        pytest.skip("there are no such signals")
    bad = shutil.copy(sample_file, tmp_path / "hang.nii.gz")
    traps.start()
    pid = traps._process.pid
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.7)
    with pytest.raises(KeyboardInterrupt):
        traps(Path(bad))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    assert not Path(f"/proc/{pid}").exists()


def test_bad_files_among_good_ones_are_a_true_list_of_failures(tiny_model, sample_file, tmp_path, capfd):
    volumes = tmp_path / "in"
    volumes.mkdir()
    for number in range(3):
        shutil.copy(sample_file, volumes / f"good{number}_0000.nii.gz")
    header = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 9 9 9\nencoding: raw\nendian: little\n"
    (volumes / "long.nrrd").write_bytes(header + b"space directions: " + b"1" * 1000 + b"\n\n" + bytes(1458))
    (volumes / "dims.mha").write_bytes(b"ObjectType = Image\nNDims = 3 3 3\nDimSize = 9 9 9\nElementDataFile = LOCAL\n")
    (volumes / "cut.mgz").write_bytes(b"\x1f\x8b\x08\0")
    os.mkfifo(volumes / "pipe.nii")
    code = main(["run", str(volumes), "-m", str(tiny_model), "-o", str(tmp_path / "out"), "--device", "cpu"])
    err = capfd.readouterr().err
    assert code == 2
    assert "3 of 7 volumes segmented" in err
    for name, words in (
        ("long.nrrd", "space directions"),
        ("dims.mha", "NDims"),
        ("cut.mgz", "cut off"),
        ("pipe", "pipe"),
    ):
        assert any(name in line and words in line for line in err.splitlines()), err
    assert "Unexpected" not in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"good{n}.nii.gz" for n in range(3)]


def test_memory_is_asked_for_before_it_is_taken(tiny_model, tmp_path, monkeypatch):
    """A small file of a large volume is refused by its header."""
    head = b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 1100 1100 1100\nencoding: gzip\n"
    (tmp_path / "a.nrrd").write_bytes(head + b"\n" + bytes(1_300_000))
    monkeypatch.setattr(memory, "available_gigabytes", lambda: 3.0)
    begin = time.perf_counter()
    with pytest.raises(OutOfMemoryError, match=r"need 4\.0 GB"):
        read_volume(tmp_path / "a.nrrd")
    (tmp_path / "b.nrrd").write_bytes(head + b"\n" + bytes(1000))
    with pytest.raises(InputError, match="cannot hold"):
        read_volume(tmp_path / "b.nrrd")
    engine = Engine(find_model(str(tiny_model)), "cpu")
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 9, (40, 40, 40)).astype(np.uint8))
    image.SetSpacing((25.0, 25.0, 25.0))  # 1000^3 voxels of the model
    with pytest.raises(OutOfMemoryError, match=r"need 8\.0 GB"):
        engine.segment(image)
    assert time.perf_counter() - begin < 60


def test_nothing_found_has_an_exit_code_and_a_sentence(tiny_model, sample_file, tmp_path, capfd, monkeypatch):
    from SESegmentationLib.inference import engine

    monkeypatch.setattr(engine, "clean", lambda labels, *others: labels * 0)
    code = main(["run", str(sample_file), "-m", str(tiny_model), "-o", str(tmp_path / "a.nii.gz"), "--device", "cpu"])
    out, err = capfd.readouterr()
    assert code == 6
    assert "Nothing was found in" in err
    assert (tmp_path / "a.nii.gz").is_file()

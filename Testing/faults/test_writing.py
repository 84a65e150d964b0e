"""What is written is whole and known to be, or there is an error that names the disk and what was there stays."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from SESegmentationLib.errors import SegmentationError, UsageError
from SESegmentationLib.files import OutputError, OutputFiles, check_writable, staging_folder, write_whole
from SESegmentationLib.files import writing as storing
from SESegmentationLib.io.drawing import write_picture
from SESegmentationLib.io.writing import write_image, write_segmentation
from SESegmentationLib.report import write_report

LIBRARY = Path(__file__).parents[2] / "SESegmentation"
posix = pytest.mark.skipif(os.name == "nt", reason="there are no such limits")
RANDOM = np.random.default_rng(0)
LABELS = sitk.GetImageFromArray(RANDOM.integers(0, 255, (48, 48, 48), np.uint8))
SLICE = sitk.GetImageFromArray(RANDOM.integers(0, 255, (1, 300, 300), np.uint8))
DOUBT = sitk.GetImageFromArray(RANDOM.random((36, 36, 36), np.float32))
REPORTS = [{"input": "x" * 400_000, "error": {"cause": "", "remedy": ""}}]
#: as large as a file may get where the tests limit it, bytes: less than any of the files above
LIMIT = 30_000


def write(path: Path) -> None:
    """Write something incompressible in the format of the name, larger than ``LIMIT``."""
    name = path.name.lower()
    if name.endswith(".safetensors"):
        write_whole(path, bytes(2 * LIMIT))
        return
    with OutputFiles() as files:
        temporary = files.begin(path)
        if name.startswith("doubt"):
            write_image(temporary, DOUBT)
        elif name.startswith("picture"):
            noise = sitk.GetImageFromArray(RANDOM.random((40, 40, 40), np.float32))
            write_picture(temporary, noise, LABELS[:40, :40, :40] * 0, [], [], "noise")
        elif name.endswith((".json", ".csv")):
            write_report(temporary, REPORTS)
        else:
            write_segmentation(temporary, SLICE if name.endswith(".png") else LABELS, [])


FORMATS = [
    *("a.nii", "a.nii.gz", "a.seg.nrrd", "a.mha", "slice.png", "A.NII.GZ", "A.SEG.NRRD"),
    *("doubt.nrrd", "doubt.nii.gz", "doubt.nii", "picture.png", "r.json", "r.csv", "model.safetensors"),
]


@contextlib.contextmanager
def limited(size: int):
    """Files cannot become larger than ``size`` bytes meanwhile."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@posix
@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_does_not_fit_is_told_and_the_old_one_stays(tmp_path, name):
    (tmp_path / name).write_text("old", encoding="utf-8")
    with limited(LIMIT), pytest.raises(OutputError, match="may not become that large on the disk") as caught:
        write(tmp_path / name)
    assert str(storing.mount_point_of(tmp_path)) in caught.value.cause
    assert caught.value.remedy
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == {name: "old"}
    write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", [name for name in FORMATS if name.endswith((".nii", ".gz", "nrrd", ".mha", ".GZ"))])
def test_a_file_that_was_damaged_on_its_way_is_not_taken_for_good(tmp_path, monkeypatch, name):
    """A disk that loses a block, or a library that does not notice: here a byte is turned after the writing."""
    write_it = sitk.WriteImage

    def turned(image: sitk.Image, path: str, **options: object) -> None:
        write_it(image, path, **options)
        content = bytearray(Path(path).read_bytes())
        content[-2000] ^= 0x10
        Path(path).write_bytes(content)

    monkeypatch.setattr(sitk, "WriteImage", turned)
    with pytest.raises(OutputError, match="was written to the disk .*, but reads differently"):
        write(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("ending", "missing"), [(".nii", 1), (".nii", 400), (".nii.gz", 400), (".nrrd", 400), (".mha", 400)]
)
@pytest.mark.parametrize("components", [1, 3])
def test_a_file_that_is_cut_off_where_nothing_but_zeros_follow_is_not_taken_for_good(
    tmp_path, monkeypatch, ending, missing, components
):
    """ITK fills up what is missing in NIfTI with zeros: the file reads as if it were whole."""
    write_it = sitk.WriteImage

    def cut_off(image: sitk.Image, path: str, **options: object) -> None:
        write_it(image, path, **options)
        os.truncate(path, os.path.getsize(path) - missing)

    monkeypatch.setattr(sitk, "WriteImage", cut_off)
    labels = np.zeros((20, 50, 40, components), np.uint8)
    labels[:3] = np.random.default_rng(1).integers(0, 200, (3, 50, 40, components))
    image = sitk.GetImageFromArray(labels.squeeze(), isVector=components > 1)
    with pytest.raises(OutputError, match="reads differently"):
        write_image(tmp_path / f"labels{ending}", image)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A disk of 200 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_named(small_disk):
    (small_disk / "taken").write_bytes(bytes(150_000))
    for name in FORMATS:
        with pytest.raises(OutputError, match=f"the disk {small_disk} is full") as caught:
            write(small_disk / name)
        assert "Free some space" in caught.value.remedy
    assert [path.name for path in small_disk.iterdir()] == ["taken"]


@posix
def test_packages_checkpoints_and_recipes_are_whole_or_absent(tmp_path, card_dict, tiny_model):
    from SESegmentationLib.models import add_model, find_model, verify_package, write_package
    from SESegmentationLib.refine.adapted import AdaptedParameters
    from SESegmentationTraining.fit import save_checkpoint

    layer = torch.nn.Linear(100, 200)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    weights = find_model(tiny_model).weights_path
    size = weights.stat().st_size - 10
    big = AdaptedParameters({"a.b": torch.zeros(20_000)}, "0" * 64)
    add_model(tiny_model, tmp_path / "models")
    for attempt in (
        lambda: save_checkpoint(tmp_path / "checkpoint", {"layer": layer}, optimizer, {}),
        lambda: write_package(tmp_path / "package", card_dict, weights),
        lambda: add_model(tiny_model, tmp_path / "models", replace=True),
        lambda: add_model(tiny_model, tmp_path / "none"),
        lambda: big.save(tmp_path / "adapted.safetensors"),
    ):
        with limited(size), pytest.raises(OutputError, match="on the disk"):
            attempt()
    verify_package(tmp_path / "models" / "tiny-t1")
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.parents[1] != tmp_path / "models"]
    assert left == []


@posix
def test_the_command_tells_of_a_full_disk_and_leaves_the_old_result(tiny_model, sample_file, tmp_path):
    (tmp_path / "a.nii").write_text("old", encoding="utf-8")
    program = f"""
        import resource, sys
        resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT}, {LIMIT}))
        from SESegmentationLib.cli import main
        sys.exit(main())
    """
    call = ["run", sample_file, "-m", tiny_model, "-o", tmp_path / "a.nii", "--report", tmp_path / "r.json"]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, call)],
        env={**os.environ, "PYTHONPATH": str(LIBRARY)},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    told = [line for line in done.stderr.splitlines() if not line.startswith("Warning: ")]
    assert len(told) == 2, done.stderr
    assert "a.nii cannot be written: files may not become that large on the disk" in told[0]
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == {"a.nii": "old"}


def test_names_and_folders_that_cannot_be_are_refused_before_the_work(tmp_path):
    with pytest.raises(UsageError, match="the name is longer than the disk allows"):
        check_writable(tmp_path / f"{'ä' * 130}.nii.gz")
    with pytest.raises(UsageError, match="longer"):
        check_writable(tmp_path / ("x" * 300) / "a.nii.gz")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for inside in ("file/a.json", "file/b/a.json"):
        with pytest.raises(UsageError, match="file is not a folder"):
            check_writable(tmp_path / inside)
        with pytest.raises(UsageError, match="file is not a folder"):
            write_whole(tmp_path / inside, "{}")


def test_a_folder_that_is_gone_is_made_again_or_named(tmp_path):
    check_writable(tmp_path / "out" / "a.json")
    shutil.rmtree(tmp_path / "out")
    write_whole(tmp_path / "out" / "a.json", "{}")
    with pytest.raises(OutputError, match="its folder is no longer there"), OutputFiles() as files:
        files.write(tmp_path / "out" / "b.json", "{}")
        shutil.rmtree(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "is read-only"),
        (errno.EIO, "failure of the device"),
        (errno.EACCES, "Permission denied"),
    ],
)
def test_what_the_disk_says_when_a_file_is_made_durable_is_told(tmp_path, monkeypatch, number, says):
    """Disks of a network take every write and tell at the end."""

    def fail(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(storing.os, "fsync", fail)
    if number == errno.EACCES:
        write_whole(tmp_path / "a", "content")  # a disk that cannot be asked
        return
    with pytest.raises(SegmentationError, match=says):
        write_whole(tmp_path / "a", "content")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_another_works_with_is_not(tmp_path):
    program = f"""
        import sys, time
        from pathlib import Path
        from SESegmentationLib.files import staging_folder
        with staging_folder(Path({str(tmp_path)!r})) as folder:
            (folder / "half.nii.gz").write_text("half")
            print("ready", flush=True)
            time.sleep(120)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": str(LIBRARY)},
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        assert process.stdout.readline() == "ready\n"
        with staging_folder(tmp_path) as mine:
            check_writable(tmp_path / "a.json")
            assert mine.is_dir()
            assert len(list(tmp_path.iterdir())) == 2  # of two living processes
    finally:
        process.kill()
        process.communicate()
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / ".sesegment-empty").mkdir()  # killed before it had its lock
    (tmp_path / ".sesegment-cut").mkdir()  # killed while it was being removed
    (tmp_path / ".sesegment-cut" / "half.nii.gz").touch()
    check_writable(tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_by_a_kill_at_any_moment_and_nothing_is_taken_from_the_living(tmp_path):
    """Some make, fill and place without a pause, and remove what they find; one after another is killed."""
    program = f"""
        import itertools, os
        from pathlib import Path
        from SESegmentationLib.files import OutputFiles, check_writable
        print("ready", flush=True)
        for number in itertools.count():
            path = Path({str(tmp_path)!r}, f"{{os.getpid()}}-{{number % 3}}")
            check_writable(path)
            with OutputFiles() as files:
                files.write(path, "whole")
    """
    chance = random.Random(0)

    def begin():
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)],
            env={**os.environ, "PYTHONPATH": str(LIBRARY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        return process

    processes = [begin() for _ in range(3)]
    try:
        for _ in range(20):
            time.sleep(chance.random() * 0.05)
            process = processes.pop(0)
            assert process.poll() is None, process.communicate()[1]
            process.kill()
            process.communicate()
            processes.append(begin())
    finally:
        for process in processes:
            assert process.poll() is None, process.communicate()[1]
            process.kill()
            process.communicate()
    check_writable(tmp_path / "a")
    names = [path.name for path in tmp_path.iterdir()]
    assert names and not [name for name in names if name.startswith(".")]
    assert {path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == {"whole"}

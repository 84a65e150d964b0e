"""Several small volumes at once: which are small, in which order results come, and that they are the same."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from SESegmentationLib.cli import main
from SESegmentationLib.cli import segmenting as module
from SESegmentationLib.cli.file_jobs import SMALL, all_small, side_by_side
from SESegmentationLib.errors import ModelError

ONE_MM = (1.0, 1.0, 1.0)


def write(path, size, spacing=1.0):
    image = sitk.Image(size, sitk.sitkUInt8)
    image.SetSpacing([spacing] * image.GetDimension())
    sitk.WriteImage(image, str(path))
    return path


def test_small_is_what_a_model_sees_of_a_volume(tmp_path):
    crop = write(tmp_path / "crop.nii.gz", (40, 50, 40))
    head = write(tmp_path / "head.nii.gz", (60, 60, 60), spacing=3.0)
    assert 60**3 < SMALL < 180**3
    assert all_small([crop], ONE_MM)
    assert not all_small([crop, head], ONE_MM)
    assert all_small([crop, head], (3.0, 3.0, 3.0))
    assert not all_small([tmp_path], ONE_MM), "a DICOM series can be large"
    assert all_small([write(tmp_path / "slice.png", (64, 64))], ONE_MM)
    (tmp_path / "text.nii.gz").write_text("no image", encoding="utf-8")
    assert all_small([crop, tmp_path / "text.nii.gz", tmp_path / "absent.nii.gz"], ONE_MM)


def test_results_come_in_the_order_of_the_tasks_each_from_one_core():
    threads = torch.get_num_threads()

    def work(seconds):
        time.sleep(seconds)
        return seconds, torch.get_num_threads(), threading.current_thread() is threading.main_thread()

    tasks = [0.2, 0.0, 0.1, 0.0]
    assert list(side_by_side(work, tasks)) == [(seconds, 1, False) for seconds in tasks]
    assert torch.get_num_threads() == threads


def test_tasks_are_drawn_where_results_are_asked_for_and_only_a_few_ahead():
    drawn, ahead = [], 2 * (os.cpu_count() or 1)

    def tasks():
        for number in range(100):
            drawn.append(threading.current_thread())
            yield number

    for done, _ in enumerate(side_by_side(str, tasks()), start=1):
        assert len(drawn) <= done + ahead
    assert done == len(drawn) == 100
    assert set(drawn) == {threading.main_thread()}


def test_what_concerns_all_ends_the_rest():
    done = []

    def work(number):
        if number == 1:
            raise ModelError("The weights are damaged.", "Take them again.")
        time.sleep(0.05)
        done.append(number)

    with pytest.raises(ModelError, match="damaged"):
        list(side_by_side(work, range(200)))
    assert len(done) < 100


def test_several_give_what_one_after_the_other_gives(tiny_model, sample_file, tmp_path, monkeypatch, capsys):
    image = sitk.ReadImage(str(sample_file))
    volumes = []
    for number in range(5):
        volumes.append(tmp_path / f"case{number}_0000.nii.gz")
        sitk.WriteImage(sitk.ShiftScale(image, 10 * number, 1 + number / 10), str(volumes[-1]))
    call = ["run", *map(str, volumes), "--model", str(tiny_model), "--device", "cpu", "-o"]
    at_once = []
    monkeypatch.setattr(module, "side_by_side", lambda *given: at_once.append(True) or side_by_side(*given))
    assert main([*call, str(tmp_path / "together")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" -> ")[0] for line in lines] == [str(volume) for volume in volumes]
    assert at_once
    monkeypatch.setattr(module, "all_small", lambda *given: False)
    assert main([*call, str(tmp_path / "apart")]) == 0
    assert len(at_once) == 1
    for number in range(5):
        one, other = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / folder / f"case{number}.nii.gz")))
            for folder in ("together", "apart")
        )
        assert one.any()
        assert np.mean(one != other) < 1e-3  # threads add in another order

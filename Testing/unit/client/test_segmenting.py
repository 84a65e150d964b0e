"""The real worker with a real model: results, reuse, progress, cancelling, being killed, bad input."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import SimpleITK as sitk

from SESegmentationLib.client import AcceptedEvent, FailureEvent, ProgressEvent, ResultEvent, SegmentJob, worker_process
from SESegmentationLib.errors import CancelledError, InputError, ModelError, OutOfMemoryError, WorkerError
from SESegmentationLib.models import ModelPackage
from SESegmentationLib.models.card import CARD_NAME
from SESegmentationLib.result import SegmentationResult, SegmentOptions

IDLE_BYTES = 700e6


@pytest.fixture(scope="module")
def image(sample_file) -> sitk.Image:
    """A small volume of a file that says nothing of its axes."""
    image = sitk.ReadImage(str(sample_file))
    image.SetMetaData("qform_code", "0")
    image.SetMetaData("sform_code", "0")
    image.SetMetaData("descrip", "stays at home")
    return image


@pytest.fixture(scope="module")
def region(image) -> sitk.Image:
    """The middle of the volume, as a labelmap on a grid of its own."""
    region = sitk.Image([8, 8, 8], sitk.sitkUInt8) + 1
    region.SetSpacing([2.0, 2.0, 2.0])
    region.SetOrigin(image.TransformContinuousIndexToPhysicalPoint([n / 4 for n in image.GetSize()]))
    region.SetDirection(image.GetDirection())
    return region


def in_the_middle(event: object) -> bool:
    """Whether a job is inside its first view."""
    return isinstance(event, ProgressEvent) and event.phase == "axial" and event.fraction > 0.1


def assert_equal(one: SegmentationResult, other: SegmentationResult) -> None:
    np.testing.assert_array_equal(sitk.GetArrayFromImage(one.labels), sitk.GetArrayFromImage(other.labels))
    assert one.labels.GetPixelID() == other.labels.GetPixelID()
    for ask in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(one.labels, ask)() == getattr(other.labels, ask)()
    assert one.structures == other.structures
    assert one.findings == other.findings
    assert one.timings.keys() == other.timings.keys()
    assert one.model.to_dict() == other.model.to_dict()
    assert one.device == other.device


@pytest.mark.parametrize("options", [{}, {"fast": True, "low_memory": True}, {"roi": True}], ids=str)
def test_the_result_is_that_of_the_engine(warm, tiny_model, image, region, options):
    from SESegmentationLib.inference.engine import Engine

    if "roi" in options:
        options = {"roi": region}
    expected = Engine(ModelPackage.from_folder(tiny_model), "cpu").segment(image, SegmentOptions(**options))
    assert expected.structures[0].voxels + expected.structures[1].voxels > 0
    assert "no-orientation" in [finding.code for finding in expected.findings]
    result = warm.finish(warm.segmenter.submit(SegmentJob(image, tiny_model, SegmentOptions(**options), device="cpu")))
    assert isinstance(result, ResultEvent), result
    assert_equal(result.segmentation(), expected)


def test_progress_of_a_long_job_and_memory_after_it(warm, tiny_model, large_image):
    handle = warm.segmenter.submit(SegmentJob(large_image, tiny_model, device="cpu"))
    assert not handle.finished
    assert isinstance(warm.finish(handle), ResultEvent)
    assert handle.finished
    first, *told, last = warm.of(handle)
    assert isinstance(first, AcceptedEvent)
    assert isinstance(last, ResultEvent)
    phases = list(dict.fromkeys(event.phase for event in told))
    assert phases == ["load", "prepare", "axial", "coronal", "sagittal", "restore", "measure"]
    fractions = [event.fraction for event in told]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, pytest.approx(1.0))
    assert len(set(fractions)) > 20
    left = [event.seconds_left for event in told if event.seconds_left is not None]
    assert len(left) > 3
    assert min(left) >= 0
    assert left[-1] < max(left) / 2
    assert all(event.seconds_left is None or event.fraction > 0 for event in told)
    worker = psutil.Process(warm.segmenter.worker_pid)
    for _ in range(50):  # what is left is freed when the worker has been idle for a while
        time.sleep(0.2)
        if worker.memory_info().rss < IDLE_BYTES:
            break
    assert worker.memory_info().rss < IDLE_BYTES


def test_the_worker_is_used_again(warm, tiny_model, image):
    pid = warm.segmenter.worker_pid
    for _ in range(2):
        handle = warm.segmenter.submit(SegmentJob(image, tiny_model, device="cpu"))
        assert isinstance(warm.finish(handle), ResultEvent)
        assert warm.segmenter.worker_pid == pid


def test_jobs_wait_for_each_other(warm, tiny_model, image, region):
    first = warm.segmenter.submit(SegmentJob(image, tiny_model, device="cpu"))
    second = warm.segmenter.submit(SegmentJob(image, tiny_model, SegmentOptions(roi=region), device="cpu"))
    third = warm.segmenter.submit(SegmentJob(image, tiny_model, device="cpu"))
    second.cancel()
    second.cancel()  # once more does no harm
    assert isinstance(warm.finish(second).error, CancelledError)
    assert isinstance(warm.finish(third), ResultEvent)
    assert isinstance(warm.finish(first), ResultEvent)
    others = [event.job for event in warm.events if event.job != second.number]
    assert others == sorted(others)
    assert len(warm.of(second)) == 1
    first.cancel()  # too late, and no harm
    assert warm.poll() == []


def test_cancelling_is_answered_within_a_second(warm, tiny_model, large_image, image):
    seconds = []
    for _ in range(3):  # the computer may have been busy with something else
        handle = warm.segmenter.submit(SegmentJob(large_image, tiny_model, device="cpu"))
        warm.until(in_the_middle)
        begin = time.monotonic()
        handle.cancel()
        failure = warm.finish(handle)
        seconds.append(time.monotonic() - begin)
        assert isinstance(failure, FailureEvent)
        assert isinstance(failure.error, CancelledError)
        assert failure.error.remedy
        if seconds[-1] < 1:
            break
    assert min(seconds) < 1
    assert isinstance(warm.finish(warm.segmenter.submit(SegmentJob(image, tiny_model, device="cpu"))), ResultEvent)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals")
def test_a_worker_that_is_killed_costs_one_job(warm, tiny_model, large_image, image):
    pid = warm.segmenter.worker_pid
    job = warm.segmenter.submit(SegmentJob(large_image, tiny_model, device="cpu"))
    waiting = warm.segmenter.submit(SegmentJob(image, tiny_model, device="cpu"))
    warm.until(in_the_middle)
    os.kill(pid, signal.SIGKILL)
    failure = warm.finish(job)
    assert isinstance(failure.error, WorkerError)
    assert failure.error.cause == "The segmentation process was ended by another program or by the system."
    assert "memory" in failure.error.remedy
    assert isinstance(warm.finish(waiting), ResultEvent)
    assert warm.segmenter.worker_pid not in (None, pid)


def test_bad_input_leaves_the_worker_as_it_is(warm, tiny_model, image, tmp_path):
    pid = warm.segmenter.worker_pid
    (tmp_path / "incomplete").mkdir()
    shutil.copy(tiny_model / CARD_NAME, tmp_path / "incomplete")
    damaged = ModelPackage.from_folder(shutil.copytree(tiny_model, tmp_path / "damaged"))
    weights = bytearray(damaged.weights_path.read_bytes())
    weights[-1] ^= 1
    damaged.weights_path.write_bytes(weights)
    outside = sitk.Image([4, 4, 4], sitk.sitkUInt8) + 1
    outside.SetOrigin([1000.0, 0.0, 0.0])
    cases = [
        (SegmentJob(image, "no-such-model"), ModelError, "There is no model 'no-such-model'."),
        (SegmentJob(image, tmp_path / "incomplete"), ModelError, "are missing"),
        (SegmentJob(image, damaged.path), ModelError, "are damaged"),
        (SegmentJob(sitk.Image([4, 4, 4], sitk.sitkVectorUInt8, 3), tiny_model, device="cpu"), InputError, ""),
        (SegmentJob(sitk.Image([4, 4, 4, 2], sitk.sitkUInt8), tiny_model, device="cpu"), InputError, ""),
        (SegmentJob(sitk.Image([4, 4, 4], sitk.sitkComplexFloat32), tiny_model), InputError, "cannot be segmented"),
        (SegmentJob(image, tiny_model, SegmentOptions(roi=outside), device="cpu"), InputError, "outside the volume"),
    ]
    for job, kind, cause in cases:
        failure = warm.finish(warm.segmenter.submit(job))
        assert isinstance(failure, FailureEvent), failure
        assert type(failure.error) is kind
        assert cause in failure.error.cause
        assert failure.error.remedy
        assert "\n" not in failure.error.cause + failure.error.remedy
    assert isinstance(warm.finish(warm.segmenter.submit(SegmentJob(image, tiny_model, device="cpu"))), ResultEvent)
    assert warm.segmenter.worker_pid == pid
    assert warm.segmenter.log == ""


def test_a_model_that_is_damaged_while_it_is_loaded(warm, tiny_model, image, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    assert isinstance(warm.finish(warm.segmenter.submit(SegmentJob(image, model, device="cpu"))), ResultEvent)
    weights = ModelPackage.from_folder(model).weights_path
    weights.write_bytes(weights.read_bytes()[:-10])
    failure = warm.finish(warm.segmenter.submit(SegmentJob(image, model, device="cpu")))
    assert isinstance(failure.error, ModelError)


def test_folders_may_have_any_names(watch, engine, tiny_model, small_image, tmp_path, monkeypatch):
    """The worker script, the model and the library all lie in folders with spaces and letters of other alphabets."""
    library = tmp_path / "Erweiterungen für Ärzte 医学"
    library.symlink_to(worker_process.LIBRARY_FOLDER, target_is_directory=True)
    monkeypatch.setattr(worker_process, "LIBRARY_FOLDER", library)
    model = shutil.copytree(tiny_model, tmp_path / "Modèle n° 1 (脳)")
    watched = watch(engine("import SESegmentationLib as module; print(module.__file__)"))
    result = watched.finish(watched.segmenter.submit(SegmentJob(small_image, model)))
    assert isinstance(result, ResultEvent), result
    assert Path(watched.printed()) == library / "SESegmentationLib" / "__init__.py"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory")
def test_a_job_for_which_there_is_no_memory(warm, tiny_model, large_image, has_ended):
    """The last test: its worker ends."""
    worker = psutil.Process(warm.segmenter.worker_pid)
    worker.rlimit(psutil.RLIMIT_AS, 2 * (worker.memory_info().vms + (10 << 20),))
    failure = warm.finish(warm.segmenter.submit(SegmentJob(large_image, tiny_model, device="cpu")))
    assert isinstance(failure, FailureEvent)
    # where the memory ends inside a library's own thread, the process crashes instead; that is told as well
    assert type(failure.error) in (OutOfMemoryError, WorkerError), failure.error
    assert failure.error.remedy
    if type(failure.error) is OutOfMemoryError:
        assert "region of interest" in failure.error.remedy
    assert warm.segmenter.worker_pid is None
    assert has_ended(worker.pid)

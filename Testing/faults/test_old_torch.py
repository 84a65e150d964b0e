"""The whole path of the worker with torch 2.2 and NumPy 1.26, which is what macOS on x86_64 gets.

By a shim that takes new names away (:mod:`old_torch`), and with the real ones where ``SESEGMENTATION_OLD_PYTHON`` names
a Python that has them: PyPI has torch 2.2 for Linux with CUDA alone, which is too much to download for a test.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from drawn_hippocampus import draw_sample
from SESegmentationLib.client import FailureEvent, RefineJob, ResultEvent, SegmentJob
from SESegmentationLib.client.local import LocalSegmenter
from SESegmentationLib.client.worker_process import worker_environment
from SESegmentationLib.result import SegmentOptions

SHIM = Path(__file__).with_name("old_torch.py")
MODEL = Path(__file__).parents[2] / "weights" / "hippocampus-t1"


def finish(segmenter: LocalSegmenter, job) -> ResultEvent:
    """What comes of a job."""
    handle = segmenter.submit(job)
    end = time.monotonic() + 240
    while time.monotonic() < end:
        for event in segmenter.poll():
            if event.job == handle.number and isinstance(event, (ResultEvent, FailureEvent)):
                assert isinstance(event, ResultEvent), f"{event.error.cause}\n{segmenter.log}"
                return event
        time.sleep(0.02)
    raise AssertionError(segmenter.log)


def segment_and_refine(command: list[str]) -> None:
    """The path from a volume to a refined result, in the worker that the command starts."""
    sample = draw_sample()
    image = sitk.Cast(sample.image, sitk.sitkUInt16)  # the whole numbers that scanners write
    with LocalSegmenter(command) as segmenter:
        job = SegmentJob(image, str(MODEL), SegmentOptions(doubt=True), device="cpu")
        result = finish(segmenter, job).segmentation()
        assert all(structure.voxels > 100 for structure in result.structures)
        refined = finish(
            segmenter,
            RefineJob(
                image,
                sample.labels,
                ("k:13,16",),
                str(MODEL),
                options=SegmentOptions(doubt=True),
                device="cpu",
                recalibrate=True,
            ),
        ).refinement()
        labels, truth = (sitk.GetArrayFromImage(image) for image in (refined.result.labels, sample.labels))
        assert np.array_equal(labels[[13, 16]], truth[[13, 16]])


@pytest.mark.skipif(not (MODEL / "model.safetensors").is_file(), reason="needs the weights of hippocampus-t1")
def test_old_signatures():
    segment_and_refine([sys.executable, str(SHIM)])


def test_the_networks_of_every_kind_run_with_old_signatures():
    code = f"""
import sys; sys.path.insert(0, {str(SHIM.parent)!r})
import old_torch; old_torch.take_back()
import torch
from SESegmentationLib.inference.device import fast_precision
from SESegmentationLib.memory import is_out_of_memory
from SESegmentationLib.networks import build_network
assert fast_precision(torch.device("cpu")) == fast_precision(torch.device("mps")) == torch.float32
for capability, precision in (((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)):
    torch.cuda.get_device_capability = lambda device: capability
    assert fast_precision(torch.device("cuda")) == precision
assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory")) and not is_out_of_memory(ValueError())
common = {{"in_channels": 3, "classes": 3, "channels": [4, 8], "se": "scSE"}}
for kind in ("PyramidUNet", "UNet", "SDNet", "DenseFCN"):
    description = {{"type": kind, "in_channels": 3, "classes": 3, "se": "scSE"}}
    description |= {{"channels": [4, 8]}} if kind == "PyramidUNet" else {{}}
    network = build_network(description).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=worker_environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(
    "SESEGMENTATION_OLD_PYTHON" not in os.environ,
    reason="set SESEGMENTATION_OLD_PYTHON to a Python with torch 2.2, numpy<2, SimpleITK and safetensors",
)
def test_real_torch_2_2():
    python = os.environ["SESEGMENTATION_OLD_PYTHON"]
    versions = subprocess.check_output([python, "-c", "import torch; print(torch.__version__)"], encoding="utf-8")
    assert versions.startswith("2.2."), versions
    segment_and_refine([python, "-m", "SESegmentationLib.worker"])

"""Series of CT and MR made from real scans, oblique too, and what DICOM's validator says of files."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.errors import DeviceError
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.models import find_model
from SESegmentationLib.result import SegmentationResult


@pytest.fixture(scope="session")
def oblique() -> Callable[[sitk.Image, float], sitk.Image]:
    """Function that turns the axes of a volume about a slanted axis by degrees, as of an oblique scan."""

    def turned(image: sitk.Image, degrees: float) -> sitk.Image:
        turn = np.reshape(sitk.VersorTransform((1, 2, 3), np.radians(degrees)).GetMatrix(), (3, 3))
        image = sitk.DICOMOrient(image, "LPS")
        image.SetDirection((turn @ np.reshape(image.GetDirection(), (3, 3))).ravel())
        return image

    return turned


@pytest.fixture(scope="session")
def dicom_errors() -> Callable[[Path], list[str]]:
    """Function that gives the errors that dciodvfy finds in a file; the test is skipped where that is absent."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy (Debian's package dicom3tools)")

    def errors(path: Path) -> list[str]:
        told = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, errors="replace", timeout=60)
        return [line for line in (told.stderr + told.stdout).splitlines() if line.startswith("Error")]

    return errors


@pytest.fixture
def lost_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second volume that is segmented ends the batch."""
    segment, calls = Engine.segment, []

    def fails_at_the_second(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise DeviceError("The device was lost.", "Start again.")
        return segment(*arguments, **options)

    monkeypatch.setattr(Engine, "segment", fails_at_the_second)


@pytest.fixture(scope="session")
def head_result(shared_data, shipped_weights) -> tuple[Path, SegmentationResult]:
    """A whole head, and both hippocampi that hippocampus-t1 finds in it, which takes a while."""
    head = shared_data / "volumes" / "t1-head-1p75mm.nii.gz"
    return head, Engine(find_model(shipped_weights / "hippocampus-t1"), "cpu").segment(read_volume(head))


@pytest.fixture
def segmented_head(head_result, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole head; whatever is segmented, its result comes out at once."""
    head, result = head_result
    monkeypatch.setattr(Engine, "segment", lambda *_, **__: result)
    return head

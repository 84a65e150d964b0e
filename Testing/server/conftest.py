"""One server for all tests of this folder, with TLS and two users, and volumes to send to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from serving import Server, served
from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.result import SegmentOptions
from SESegmentationLib.worker.jobs import SegmentJob

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """With TLS, the users alice, bob and carol, and small limits."""
    options = ["--keep", "2", "--upload-megabytes", "24", "--jobs-per-user", "4"]
    with served(("alice", "bob", "carol"), tls=True, options=options) as running:
        yield running


@pytest.fixture(scope="session")
def crop(tmp_path_factory: pytest.TempPathFactory) -> sitk.Image:
    """A small volume."""
    from drawn_hippocampus import write_sample

    path = tmp_path_factory.mktemp("volumes") / "crop.nii.gz"
    write_sample(path)
    return read_volume(path)


@pytest.fixture
def small_job(crop: sitk.Image) -> SegmentJob:
    """It takes less than a second."""
    return SegmentJob(crop, "hippocampus-t1", SegmentOptions(doubt=True))


@pytest.fixture(scope="session")
def long_job() -> SegmentJob:
    """It takes some seconds, with all three networks of a brain model."""
    noise = np.random.default_rng(1).normal(100, 20, (102, 102, 102)).astype(np.float32)
    return SegmentJob(sitk.GetImageFromArray(noise), "brain-mr", SegmentOptions())


@pytest.fixture(scope="session")
def crops(shared_data: Path) -> list[sitk.Image]:
    """Eight real volumes, no two alike."""
    return [read_volume(path) for path in sorted((shared_data / "hippocampus" / "imagesTr").glob("*.nii.gz"))[:8]]

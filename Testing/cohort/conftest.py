"""Cohorts of real crops and of drawn ones."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the command
from cohort_command import Command

from SESegmentationCohort import runner
from SESegmentationLib.client.local import LocalSegmenter

_specification = importlib.util.spec_from_file_location("fixtures", Path(__file__).parents[1] / "unit" / "conftest.py")
_fixtures = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(_fixtures)
make_random_model, tiny_model, sample_file = _fixtures.make_random_model, _fixtures.tiny_model, _fixtures.sample_file


@pytest.fixture(scope="session")
def real_crops(shared_data: Path) -> list[Path]:
    """24 crops of the hippocampus."""
    return sorted((shared_data / "hippocampus" / "imagesTr").glob("*_0000.nii.gz"))[:24]


@pytest.fixture
def make_command(tmp_path: Path) -> Callable[..., Command]:
    """Function that makes a folder with links to volumes and gives the command on it."""

    def made(volumes: list[Path], model: str | Path) -> Command:
        source = tmp_path / "scans"
        source.mkdir()
        for volume in volumes:
            (source / volume.name).symlink_to(volume)
        return Command(source, tmp_path / "out", model)

    return made


@pytest.fixture
def threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cohorts of this process use :mod:`threshold_worker`, which starts in a moment."""
    command = [sys.executable, str(Path(__file__).with_name("threshold_worker.py"))]

    def made(environment: Mapping[str, str]) -> LocalSegmenter:
        return LocalSegmenter(command, environment=environment)

    monkeypatch.setattr(runner, "LocalSegmenter", made)

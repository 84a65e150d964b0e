"""What ``pip install .`` installs: the packages with all that they need, as setuptools builds them."""

from __future__ import annotations

import subprocess
import sys
from email import message_from_string
from pathlib import Path

import pytest

from SESegmentationLib.models import find_model

pytest.importorskip("setuptools", "77", reason="needs the setuptools of pyproject.toml")

ROOT = Path(__file__).resolve().parents[3]
SHOWN = """
from SESegmentationLib.models import list_models
from SESegmentationLib.refine.learnt_correction import ANY_MODEL, weights_for
print(*(package.path for package in list_models()), ANY_MODEL, weights_for("hippocampus-t1"), sep="\\n")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder like ``site-packages``."""
    folder = tmp_path_factory.mktemp("installed")
    steps = ["egg_info", "--egg-base", str(folder), "build_py", "--build-lib", str(folder / "packages")]
    done = subprocess.run([sys.executable, "setup.py", "-q", *steps], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return folder / "packages"


def test_models_and_networks_for_corrections_are_installed(installed, tmp_path):
    """A server that was installed as its guide says had no model, and refine no network."""
    shown = subprocess.run(
        [sys.executable, "-c", SHOWN],
        env={"PYTHONPATH": str(installed), "HOME": str(tmp_path), "SystemRoot": "C:\\Windows"},
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
    )
    assert shown.returncode == 0, shown.stderr
    found = [Path(line) for line in shown.stdout.splitlines()]
    assert all(path.exists() and path.is_relative_to(installed) for path in found)
    models = sorted(path.name for path in (ROOT / "weights").iterdir())
    assert [path.name for path in found] == [*models, "any-model.safetensors", "hippocampus-t1.safetensors"]


def test_every_package_and_its_data_are_installed(installed):
    there = [
        path.relative_to(ROOT / "SESegmentation") for path in (ROOT / "SESegmentation").glob("SESegmentation*/**/*")
    ]
    made = {"__pycache__", "SESegmentation.egg-info"}  # by Python, and by an editable installation
    wanted = {path for path in there if (ROOT / "SESegmentation" / path).is_file() and made.isdisjoint(path.parts)}
    assert sorted(path.as_posix() for path in wanted if not (installed / path).is_file()) == []


def test_the_licences_of_the_weights_are_declared(installed):
    """A package that only says Apache would be used commercially with weights that must not be."""
    (metadata,) = installed.parent.glob("*.egg-info/PKG-INFO")
    declared = message_from_string(metadata.read_text(encoding="utf-8"))
    expression = set(declared["License-Expression"].split(" AND "))
    packages = [find_model(str(path)) for path in (ROOT / "weights").iterdir()]
    assert expression == {"Apache-2.0", *(package.card.licence.spdx for package in packages)}
    assert {f"weights/{package.path.name}/LICENSE" for package in packages} <= set(declared.get_all("License-File"))

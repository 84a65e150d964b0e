"""Slicer 5.10 and newer: an older one is told so in one line, and no advice names the Python behind the launcher."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import qt
import slicer
from panel_fakes import MODULE

from harness import application
from harness.launcher import write_launcher
from SESegmentationLib import doctor
from SESegmentationLib.worker.messages import as_segmentation_error

needs_launcher = pytest.mark.skipif(sys.platform == "win32", reason="the launcher is no Windows program")


@pytest.fixture
def old_slicer(monkeypatch):
    """Slicer 5.8, whose Python cannot read the library."""
    slicer.app._p_minorVersion = 8
    for name in [name for name in sys.modules if name.partition(".")[0] == "SESegmentationLib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "SESegmentationLib", None)  # importing it raises
    yield
    slicer.app._p_minorVersion = 12


def test_an_older_slicer_is_told_in_one_line(old_slicer):
    ast.parse(MODULE.read_text(encoding="utf-8"), feature_version=(3, 9))
    application.load_module(MODULE)
    widget = application.open_module("SESegmentation")
    line = "SE Segmentation needs Slicer 5.10 or newer; this is Slicer 5.8."
    labels = [label.text for label in widget.parent.findChildren(qt.QLabel)]
    assert labels == [line] and widget.panel is None
    slicer.mrmlScene.Clear(False)
    widget.enter()
    with pytest.raises(RuntimeError, match=line):
        sys.modules["SESegmentation"].SESegmentationLogic().segment(None, "brain-t1")


@needs_launcher
def test_no_advice_names_the_python_behind_the_launcher(tmp_path, monkeypatch):
    write_launcher(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python-real"))
    monkeypatch.setattr(doctor, "_importable", lambda package: False)
    monkeypatch.setattr(doctor, "REQUIRED", ("no-such-package",))
    remedies = [check.remedy for check in (*doctor.check_packages(), *doctor.check_torch(sys.executable))]
    remedies.append(as_segmentation_error(ModuleNotFoundError("No module named 'safetensors'")).remedy)
    assert len(remedies) == 3 and not any("python-real" in remedy for remedy in remedies)
    assert all("Click Segment" in remedy and "PythonSlicer -m pip install" in remedy for remedy in remedies)


def torch_says(**changes):
    """What the doctor makes of a torch that answers so."""
    answer = {"version": "2.2.2", "cuda": None, "devices": [], "mps": False, "threads": 4, "unfit_numpy": ""} | changes
    printed = subprocess.CompletedProcess([], 0, json.dumps(answer), "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "run", lambda *arguments, **options: printed)
        return doctor.check_torch()[0]


@pytest.mark.parametrize(
    ("said", "status", "finding", "remedy"),
    [
        ({}, "ok", "torch 2.2.2", ""),
        ({"version": "2.10.0+cu128"}, "ok", "torch 2.10.0", ""),
        ({"version": "2.1.2"}, "error", "torch 2.1.2 is too old.", '"torch>=2.2"'),
        ({"version": "1.13.1"}, "error", "too old", '"torch>=2.2"'),
        ({"unfit_numpy": "2.0.2"}, "error", "torch 2.2.2 cannot work with NumPy 2.0.2.", '"numpy<2"'),
    ],
)
def test_versions_of_torch(said, status, finding, remedy):
    check = torch_says(**said)
    assert check.status == status and finding in check.finding and remedy in check.remedy


def test_a_torch_that_cannot_work_with_this_numpy_is_a_missing_package():
    error = as_segmentation_error(RuntimeError("Numpy is not available"))
    assert error.code == "dependency" and "NumPy" in error.cause and '"numpy<2"' in error.remedy


def test_the_readme_names_the_versions():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert "Slicer 5.10 or newer" in readme

"""Which Python runs the worker, and from where it imports."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from SESegmentationLib.client import worker_process
from SESegmentationLib.errors import WorkerError

NAME = "PythonSlicer.exe" if sys.platform == "win32" else "PythonSlicer"


@pytest.fixture
def slicer_folder(tmp_path):
    """A folder with a program called PythonSlicer."""
    program = tmp_path / "bin" / NAME
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    return program.parent


def test_this_python_outside_slicer():
    assert worker_process.worker_command() == [sys.executable, "-m", "SESegmentationLib.worker"]


def test_pythonslicer_beside_this_program(slicer_folder, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(slicer_folder / "SlicerApp-real"))
    assert worker_process.find_python() == str(slicer_folder / NAME)


def test_pythonslicer_on_the_path_inside_slicer(slicer_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(slicer_folder), prepend=os.pathsep)
    monkeypatch.delitem(sys.modules, "slicer", raising=False)  # other tests may have imported its core
    assert (
        worker_process.find_python() == sys.executable
    )  # that program may belong to a Slicer that has nothing to do with us
    monkeypatch.setitem(sys.modules, "slicer", SimpleNamespace(app=object()))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "MacOS" / "Slicer"))
    assert worker_process.find_python() == str(slicer_folder / NAME)


def test_windows_runs_no_program_from_the_working_folder(slicer_folder, tmp_path, monkeypatch):
    """Where a user opens a scene by a double click, that is the folder of the scene, which may hold anything."""
    monkeypatch.setattr(sys, "platform", "win32")
    working, wanted = tmp_path / "scenes", slicer_folder / "PythonSlicer.exe"
    working.mkdir()
    for path in (wanted, working / "PythonSlicer.exe", working / "PythonSlicer.bat", working / "taskkill.exe"):
        path.write_text("#!/bin/sh\n", encoding="utf-8")
        path.chmod(0o755)
    monkeypatch.chdir(working)
    monkeypatch.setenv("PATHEXT", os.pathsep.join((".exe", ".bat")))
    monkeypatch.setattr(sys, "executable", str(slicer_folder / "SlicerApp-real.exe"))
    assert worker_process.find_python() == str(wanted)
    monkeypatch.setenv("PATH", f".{os.pathsep}{slicer_folder}")
    monkeypatch.setitem(sys.modules, "slicer", SimpleNamespace(app=object()))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "SlicerApp-real.exe"))
    assert worker_process.find_python() == str(wanted)
    started = []
    monkeypatch.setattr(subprocess, "run", lambda command, **options: started.append(command))
    worker_process.end_group(SimpleNamespace(pid=7))
    ((program, *arguments),) = started
    assert os.path.dirname(program)
    assert arguments == ["/PID", "7", "/T", "/F"]


@pytest.mark.parametrize("executable", ["/opt/Slicer/bin/SlicerApp-real", "", None])
def test_no_second_slicer_is_started(executable, monkeypatch):
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(WorkerError, match="PythonSlicer was not found") as caught:
        worker_process.worker_command()
    assert caught.value.remedy


def test_the_library_comes_first_and_the_current_folder_not_at_all(tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')\n", encoding="utf-8")
    environment = worker_process.worker_environment({**os.environ, "PYTHONPATH": str(tmp_path / "other")})
    assert environment["PYTHONPATH"] == f"{worker_process.LIBRARY_FOLDER}{os.pathsep}{tmp_path / 'other'}"
    assert worker_process.worker_environment({})["PYTHONPATH"] == str(worker_process.LIBRARY_FOLDER)
    code = "import sys; print(sys.path[0])"
    command = [sys.executable, "-c", code]
    first = subprocess.check_output(command, env=environment, encoding="utf-8").strip()
    assert first == str(worker_process.LIBRARY_FOLDER)
    ended = subprocess.run(
        [sys.executable, "-m", "SESegmentationLib.worker"],
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_only_what_slicer_has_is_imported():
    code = """
import pkgutil, sys, importlib
import SESegmentationLib.client, SESegmentationLib.worker
for package in (SESegmentationLib.client, SESegmentationLib.worker):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
requests = {"requests", "backports", "certifi", "charset_normalizer", "cython_runtime", "idna", "urllib3"}
allowed = {"SESegmentationLib", "numpy", "SimpleITK", "swig_runtime_data5", *requests}
tops = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names
print(sorted(name for name in tops if not name.startswith("_") and name not in allowed))
"""
    command = [sys.executable, "-c", code]
    printed = subprocess.check_output(command, env=worker_process.worker_environment(), encoding="utf-8")
    assert printed == "[]\n"

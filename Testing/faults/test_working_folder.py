"""Nothing in the folder that a program runs in is executed: neither modules nor programs that are called as ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from SESegmentationLib import doctor
from SESegmentationLib.client.worker_process import LIBRARY_FOLDER, worker_environment

NAMES = ("torch", "numpy", "json", "ctypes", "subprocess", "SimpleITK", "safetensors", "multiprocessing")


@pytest.fixture
def trap(tmp_path, monkeypatch) -> Path:
    """A working folder of modules and a program that leave a trace when they run."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(
            f"open({str(tmp_path / name)!r} + '.ran', 'w').close()\n", encoding="utf-8"
        )
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/nvidia-smi.ran\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{os.pathsep}.{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}{LIBRARY_FOLDER}{os.pathsep}.")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return tmp_path


def ran(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.ran"))


def test_the_doctor_runs_nothing_from_where_it_is_called(trap):
    (torch, *_) = doctor.check_torch()
    assert torch.status == "ok", torch
    assert "NVIDIA driver" in doctor.check_driver().finding
    command = [sys.executable, "-m", "SESegmentationLib.doctor", "--json"]
    checks = json.loads(subprocess.run(command, capture_output=True, encoding="utf-8").stdout)
    assert {"name": "torch", "status": "ok"}.items() <= next(c for c in checks if c["name"] == "torch").items()
    assert ran(trap) == []


def test_the_worker_and_what_the_command_starts_do_not_either(trap):
    environment = worker_environment()
    assert set(environment["PYTHONPATH"].split(os.pathsep)) == {str(LIBRARY_FOLDER)}
    command = [sys.executable, "-m", "SESegmentationLib.worker"]
    ended = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True)
    assert (ended.returncode, ended.stderr) == (0, b"")
    code = """
import sys
sys.path[:] = [folder for folder in sys.path if folder not in ("", ".", sys.argv[1])]
from SESegmentationLib.cli import main
main(["--version"])
import multiprocessing, time
context = multiprocessing.get_context("spawn")
process = context.Process(target=time.sleep, args=(0,))
process.start()
process.join()
sys.exit(process.exitcode)
"""
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY_FOLDER)}
    assert subprocess.run([sys.executable, "-c", code, str(trap)], env=environment).returncode == 0
    assert ran(trap) == []

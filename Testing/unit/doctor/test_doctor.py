"""The checks of this computer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from SESegmentationLib import doctor
from SESegmentationLib.models import write_package

LIBRARY = Path(__file__).parents[3] / "SESegmentation"


@pytest.fixture
def models_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SESEGMENTATION_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "models"


def test_what_is_wrong_has_a_remedy():
    checks = doctor.examine()
    assert {check.status for check in checks} <= {"ok", "warning", "error"}
    for check in checks:
        assert check.finding
        assert "\n" not in check.finding + check.remedy
        assert check.status == "ok" or check.remedy, check
    names = [check.name for check in checks]
    for name in ("Python", "torch", "GPU", "driver", "memory", "disk", "data folder"):
        assert name in names


def test_torch_is_asked_in_another_process():
    import torch

    (found, *_) = doctor.check_torch()
    assert found.status == "ok"
    assert torch.__version__ in found.finding
    threads = int(found.finding.split()[-2])
    assert found.finding.endswith("1 thread." if threads == 1 else " threads.")


def test_what_the_terminal_has_no_letters_for_is_escaped(tmp_path):
    """Code pages of Windows lack letters of paths."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(LIBRARY)}
    environment |= dict.fromkeys(("XDG_DATA_HOME", "LOCALAPPDATA"), str(tmp_path / "Jörg"))
    program = "from SESegmentationLib import doctor; doctor.examine = doctor.check_paths; doctor.main()"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, encoding="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "J\\xf6rg" in done.stdout


@pytest.mark.parametrize(
    ("program", "finding"),
    [
        ("import sys; sys.exit('libcudart.so.13: cannot open shared object file')", "libcudart.so.13"),
        ("import os; os.abort()", "exit code"),
    ],
)
def test_a_torch_that_cannot_be_imported_is_a_finding(tmp_path, monkeypatch, program, finding):
    (tmp_path / "torch.py").write_text(program, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (check,) = doctor.check_torch()
    assert check.status == "error"
    assert finding in check.finding
    assert "install" in check.remedy


def test_a_torch_that_hangs_is_a_finding(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("import time; time.sleep(60)", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "TORCH_SECONDS", 0.5)
    (check,) = doctor.check_torch()
    assert (check.status, "did not answer" in check.finding) == ("error", True)


def test_a_driver_that_torch_does_not_use_is_told(tmp_path, monkeypatch):
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch uses the GPU here")
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '570.10, Some GPU'\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert doctor.check_driver().finding == "NVIDIA driver 570.10 for Some GPU."
    gpu = next(check for check in doctor.check_torch() if check.name == "GPU")
    assert gpu.status == "warning"
    assert "CUDA" in gpu.remedy


def test_a_driver_that_does_not_answer_is_told(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nexit 9\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert doctor.check_driver().status == "warning"


def test_it_needs_only_the_standard_library():
    """As on a computer where nothing is installed yet: -S and -I leave out every other package."""
    program = f"import sys; sys.path.insert(0, {str(LIBRARY)!r}); from SESegmentationLib import doctor; doctor.main()"
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "utf8", "-c", program], capture_output=True, encoding="utf-8"
    )
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    for package in ("numpy", "SimpleITK", "safetensors", "torch"):
        (line,) = (line for line in lines if f" {package}: " in line)
        assert line.startswith("error")
        assert "pip install" in line


def test_as_json():
    result = subprocess.run(
        [sys.executable, "-m", "SESegmentationLib.doctor", "--json"],
        cwd=LIBRARY,
        capture_output=True,
        encoding="utf-8",
    )
    checks = json.loads(result.stdout)
    assert {"name", "status", "finding", "remedy"} == set(checks[0])
    assert (result.returncode == 1) == any(check["status"] == "error" for check in checks)


def test_memory_is_plausible():
    total, free = doctor.memory_gb()
    assert 0.5 < total < 10_000
    assert 0 < free <= total


@pytest.mark.parametrize(
    ("name", "status"),
    [("plain", "ok"), ("Bücher", "warning"), ("x" * 210, "warning")],
    ids=["plain", "umlaut", "long"],
)
def test_folders_that_make_trouble(name, status):
    assert doctor.check_path("folder", Path("/tmp") / name, writable=True).status == status


def test_a_folder_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    check = doctor.check_path("folder", tmp_path / "file" / "models", writable=True)
    assert check.status == "warning"
    assert "cannot be written" in check.finding


def test_models_are_found_and_their_hashes_checked(models_folder, tmp_path, card_dict):
    (tmp_path / "tensors").write_bytes(b"weights")
    package = write_package(models_folder / "tiny", card_dict, tmp_path / "tensors")
    (models_folder / "broken").mkdir()
    (models_folder / "broken" / "model.json").write_text("{", encoding="utf-8")
    by_name = {check.name: check for check in doctor.check_models()}
    assert by_name["model tiny-t1"].status == "ok"
    assert package.card.weights_sha256[:12] in by_name["model tiny-t1"].finding
    assert by_name["model broken"].status == "error"
    package.weights_path.write_bytes(b"wEights")
    by_name = {check.name: check for check in doctor.check_models()}
    assert by_name["model tiny-t1"].status == "error"
    assert "SHA-256" in by_name["model tiny-t1"].finding

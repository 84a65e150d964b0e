"""``sesegment run`` and ``refine`` with ``--server``, and the doctor of a server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from contract_server import ContractServer
from drawn_hippocampus import draw_sample
from SESegmentationLib.cli import main
from SESegmentationLib.client import servers
from SESegmentationLib.worker.messages import ACCEPTED

LIBRARY = Path(__file__).parents[3] / "SESegmentation"


@pytest.fixture(autouse=True)
def own_settings(tmp_path, monkeypatch):
    """Nothing of this computer's user."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(servers, "_keyring", lambda: None)
    monkeypatch.delenv(servers.TOKEN_VARIABLE, raising=False)


@pytest.fixture
def server(tiny_model):
    server = ContractServer({"tiny-t1": tiny_model}, token="right")
    yield server
    server.stop()


@pytest.fixture
def token(monkeypatch):
    monkeypatch.setenv(servers.TOKEN_VARIABLE, "right")


def without_circumstances(path: Path) -> list | dict:
    """A report without what tells of time and place."""
    reports = json.loads(path.read_text(encoding="utf-8"))
    for report in reports if isinstance(reports, list) else [reports]:
        for key in ("date", "timings_s", "output"):
            report.pop(key)
    return reports


def test_the_same_bytes_as_the_local_run(run, server, token, tiny_model, sample_file, tmp_path):
    """Of one volume, with all that can be written of it, and of several."""
    shutil.copy(sample_file, tmp_path / "other.nii.gz")
    for number, volumes in enumerate(([sample_file], [sample_file, tmp_path / "other.nii.gz"])):
        folders = [tmp_path / f"{place} {number}" for place in ("here", "there")]
        for folder, where in zip(folders, (["--device", "cpu"], ["--server", server.url]), strict=True):
            folder.mkdir()
            arguments = [*volumes, "-m", tiny_model, *where, "--report", folder / "r.json", "--grid", "input"]
            if number == 0:
                arguments += ["-o", folder / "a.seg.nrrd", "--picture", folder / "p.png"]
                arguments += ["--doubt", folder / "d.nii.gz", "--attention", folder / "l.nii.gz"]
            else:
                arguments += ["-o", folder / "results"]
            code, _, err = run(*arguments)
            assert code == 0, err
        here, there = folders
        files = sorted(path.relative_to(here) for path in here.rglob("*") if path.is_file())
        assert files == sorted(path.relative_to(there) for path in there.rglob("*") if path.is_file())
        for file in files:
            if file.suffix == ".json":
                assert without_circumstances(here / file) == without_circumstances(there / file)
            elif file.name == "d.nii.gz":  # comes in steps of 1/255
                maps = [sitk.ReadImage(str(folder / file)) for folder in folders]
                assert maps[0].GetPixelID() == maps[1].GetPixelID()
                values = [sitk.GetArrayFromImage(image) for image in maps]
                assert np.abs(values[0] - values[1]).max() <= 0.5 / 255 + 1e-6
            else:
                assert (here / file).read_bytes() == (there / file).read_bytes(), file
    assert len(server.uploads) == 4 and server.jobs == {}


@pytest.fixture
def corrected(tiny_model, sample_file, tmp_path) -> Path:
    """What the model finds in the sample, with the truth in two slices."""
    path = tmp_path / "corrected.nii.gz"
    assert main(["run", str(sample_file), "-m", str(tiny_model), "-o", str(path)]) == 0
    labels, truth = sitk.ReadImage(str(path)), draw_sample().labels
    array, right = sitk.GetArrayFromImage(labels), sitk.GetArrayFromImage(truth)
    array[[14, 20]] = right[[14, 20]]
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(labels)
    sitk.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("slices", [["--slices", "k:14,20"], []], ids=["named", "found"])
def test_corrections_are_carried_on_a_server_as_here(
    server, token, tiny_model, sample_file, corrected, slices, tmp_path, capfd
):
    printed = []
    for place, where in (("here", ["--device", "cpu"]), ("there", ["--server", server.url])):
        (tmp_path / place).mkdir()
        arguments = ["refine", sample_file, "-m", tiny_model, "--corrected", corrected, *slices, *where]
        arguments += ["-o", tmp_path / place / "a.seg.nrrd", "--report", tmp_path / place / "r.json"]
        capfd.readouterr()
        assert main([str(argument) for argument in arguments]) == 0
        printed.append([line for line in capfd.readouterr().out.splitlines() if "voxels gained" in line])
    here, there = (tmp_path / place for place in ("here", "there"))
    assert (here / "a.seg.nrrd").read_bytes() == (there / "a.seg.nrrd").read_bytes()
    assert without_circumstances(here / "r.json") == without_circumstances(there / "r.json")
    assert without_circumstances(there / "r.json")["refinement"]["slices"] == ["k:14,20"]
    assert printed[0] == printed[1] != []
    assert len(server.uploads) == 1 and server.jobs == {}


@pytest.mark.parametrize("command", ["run", "refine"])
def test_a_computer_without_torch_can_use_a_server(
    command, server, token, tiny_model, sample_file, corrected, tmp_path
):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')\n", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(LIBRARY)])}
    arguments = [sys.executable, "-m", "SESegmentationLib.cli", command, sample_file, "-m", tiny_model]
    arguments += ["-o", tmp_path / "a.nii.gz", "--server", server.url]
    arguments += ["--corrected", corrected] if command == "refine" else []
    done = subprocess.run(arguments, env=environment, capture_output=True, encoding="utf-8", timeout=100)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.nii.gz").is_file() and "anterior hippocampus" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="has no such way to interrupt a process")
def test_the_server_hears_of_ctrl_c(server, token, tiny_model, sample_file, tmp_path):
    """It went on computing, for nobody, until it noticed that the client was gone."""
    begun = threading.Event()

    def work(frame, publish):
        publish({"type": ACCEPTED})
        begun.set()

    server.work = work
    environment = os.environ | {"PYTHONPATH": str(LIBRARY)}
    command = [sys.executable, "-m", "SESegmentationLib.cli", "run", sample_file, "-m", tiny_model]
    options = ["-o", tmp_path / "a.nii.gz", "--server", server.url]
    with subprocess.Popen([*command, *options], env=environment, stderr=subprocess.PIPE, encoding="utf-8") as process:
        assert begun.wait(60)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 1
        assert process.stderr.read().splitlines()[0] == "Cancelled."
    assert "DELETE" in [method for method, _path in server.asked]
    assert server.jobs == {} and not (tmp_path / "a.nii.gz").exists()


def test_what_cannot_be_done_on_a_server_is_refused(refused, server, token, tiny_model, sample_file, tmp_path, capfd):
    arguments = [sample_file, "-m", tiny_model, "-o", tmp_path / "out" / "a.nii.gz", "--server"]
    assert "--samples is not available on a server" in refused(2, *arguments, server.url, "--samples", 2)
    assert "--device is not available on a server" in refused(2, *arguments, server.url, "--device", "cpu")
    refine = ["refine", sample_file, "-m", tiny_model, "--corrected", sample_file, "-o", tmp_path / "out" / "a.nii.gz"]
    capfd.readouterr()
    assert main([*map(str, refine), "--server", server.url, "--device", "cpu"]) == 2
    assert "--device is not available on a server" in capfd.readouterr().err
    assert "not encrypted" in refused(2, *arguments, "http://gpu.hospital.org")
    assert "There is no certificate" in refused(2, *arguments, server.url, "--server-certificate", tmp_path / "a.pem")
    assert "cannot be reached" in refused(1, *arguments, "http://127.0.0.1:9")
    os.environ.pop(servers.TOKEN_VARIABLE)
    assert "asks for a token" in refused(1, *arguments, server.url)
    assert server.uploads == [] and list(tmp_path.glob("out/*")) == []


def test_a_server_that_fails_one_volume_of_several_is_a_line_among_them(run, server, token, tiny_model, tmp_path):
    noise = sitk.GetImageFromArray(np.random.default_rng(0).normal(100, 20, (20, 21, 22)).astype(np.float32))
    volumes = [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", tmp_path / "c.nii.gz"]
    for volume, image in zip(volumes, (noise, noise[:, :, :1], noise), strict=True):
        sitk.WriteImage(image, str(volume))
    code, _, err = run(*volumes, "-m", tiny_model, "-o", tmp_path / "out", "--server", server.url)
    assert code == 2 and "2 of 3 volumes segmented" in err and "b.nii.gz" in err


def checks_of(capfd, *arguments: str) -> tuple[int, dict[str, str], list[dict]]:
    capfd.readouterr()
    code = main(["doctor", "--json", "--server", *arguments])
    found = json.loads(capfd.readouterr().out)["checks"]
    assert all(check["status"] == "ok" or check["remedy"] for check in found), found
    return code, {check["name"]: check["status"] for check in found}, found


def test_the_doctor_of_a_server(server, tiny_model, capfd, monkeypatch):
    monkeypatch.setenv("SESEGMENTATION_MODELS", str(tiny_model.parent))
    assert checks_of(capfd, "http://127.0.0.1:9")[:2] == (1, {"server": "error"})
    code, _, found = checks_of(capfd, server.url)
    assert code == 1 and [check["status"] for check in found] == ["ok", "error"]
    assert "asks for a token" in found[1]["finding"]

    servers.AddressBook().set_token(server.url, "right")
    code, states, _ = checks_of(capfd, server.url)
    shown = [states[name] for name in ("server", "version", "token", "model tiny-t1", "queue")]
    assert (code, shown) == (0, ["ok", "ok", "warning", "ok", "ok"])  # the token lies in a file
    monkeypatch.setenv(servers.TOKEN_VARIABLE, "right")
    assert checks_of(capfd, server.url)[1]["token"] == "ok"
    assert states["model brain-mr"] == "warning" if "model brain-mr" in states else True

    server.introduction = {"models": [{"name": "tiny-t1", "version": "2"}], "queue": {"waiting": 3}}
    assert checks_of(capfd, server.url)[:2] == (1, {"server": "error", "version": "ok", "token": "ok"})
    server.introduction = {"version": "77.0"}
    code, states, found = checks_of(capfd, server.url)
    assert code == 1 and "newer than this program" in found[-1]["finding"]
    assert server.uploads == []


def test_a_server_that_is_lost_ends_the_run(run, server, token, tiny_model, sample_file, tmp_path):
    """It would be in vain, and take a minute, for each of the others."""
    shutil.copy(sample_file, tmp_path / "other.nii.gz")
    server.introduction = {"version": "77.0"}
    arguments = ["-m", tiny_model, "-o", tmp_path / "out", "--server", server.url]
    code, _, err = run(sample_file, tmp_path / "other.nii.gz", *arguments)
    assert code == 1 and len(err.splitlines()) == 2 and "newer than this program" in err

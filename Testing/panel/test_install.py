"""The first run: the Python packages of the worker are asked for at the first click on Segment, and it goes on then."""

from __future__ import annotations

import subprocess
import sys

import pytest
import slicer
from panel_clicks import click

from harness.packages import environment

PIP_FAILED = subprocess.CalledProcessError(1, ["pip", "install"])


@pytest.fixture
def missing():
    """Nothing is installed yet."""
    environment.missing |= {"torch", "safetensors"}
    return environment.missing


@pytest.fixture
def start(widget, make_volume, dialogs):
    """Function that clicks Segment; the question, if one comes, is answered so."""
    make_volume()

    def run(*answers):
        dialogs.answer(*answers)
        click(widget.ui.segmentButton)
        return widget.panel.messages.shown

    return run


def installing(monkeypatch, happens):
    """While packages are installed, something happens: Slicer handles events meanwhile."""
    install = type(environment).install

    def install_meanwhile(self, *arguments):
        happens()
        install(self, *arguments)

    monkeypatch.setattr(type(environment), "install", install_meanwhile)


def test_nothing_is_asked_where_all_is_there(start, segmenter, dialogs):
    assert start() == [] and dialogs.shown == [] and len(segmenter.jobs) == 1


def test_asked_once_with_sizes_then_installed_and_segmented(start, missing, segmenter, dialogs):
    assert start(True) == []
    (question,) = dialogs.shown
    assert "torch>=2.2: about " in question.text and "safetensors>=0.4: about 1 MB" in question.text
    assert "your images stay on this computer" in question.text
    assert environment.commands == ["torch>=2.2", "safetensors>=0.4"]
    assert len(segmenter.jobs) == 1 and not missing


def test_refusal_says_how_to_go_on_and_the_next_click_asks_again(start, missing, segmenter, dialogs):
    (message,) = start(False)
    assert message.text == "torch and safetensors are needed and were not installed, as you chose."
    assert environment.commands == [] and segmenter.jobs == []
    assert start(True) == [] and len(segmenter.jobs) == 1


def test_what_is_wrong_with_the_input_is_said_before_anything_is_installed(widget, missing, dialogs):
    click(widget.ui.segmentButton)
    assert widget.panel.messages.shown[0].text == "No volume is chosen." and dialogs.shown == []


@pytest.mark.parametrize(
    ("printed", "cause", "remedy"),
    [
        ("ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: 407'))", "proxy", "HTTPS_PROXY"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))", "not trusted", "PIP_CERT"),
        ("NewConnectionError: [Errno -3] Temporary failure in name resolution", "internet", "pip download"),
        ("ConnectTimeoutError(<HTTPSConnection>, 'Connection timed out.')", "internet", "pip download"),
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "disk is full", "6 GB"),
        ("ERROR: [Errno 13] Permission denied: '/opt/Slicer/lib'", "cannot be written", "may write"),
        ("ERROR: the wheel is broken\n", "the wheel is broken.", "Python console"),
    ],
)
def test_failures_are_told_by_what_pip_printed(start, missing, segmenter, monkeypatch, printed, cause, remedy):
    installing(monkeypatch, lambda: print(printed))
    environment.failure = PIP_FAILED if "wheel" not in printed else RuntimeError("")
    (message,) = start(True)
    assert message.text.startswith("torch and safetensors could not be installed") and cause in message.text
    assert remedy in message.remedy and segmenter.jobs == []
    assert "PythonSlicer -m pip download" in message.remedy or cause not in ("proxy", "not trusted", "internet")
    environment.failure = None
    assert start(True) == [] and len(segmenter.jobs) == 1


def test_an_installation_that_installs_nothing(start, missing, monkeypatch):
    monkeypatch.setattr(type(environment), "install", lambda self, *arguments: None)
    (message,) = start(True)
    assert message.text.startswith("torch and safetensors could not be installed: the installation ended without them.")


def test_without_the_pytorch_extension(start, missing, monkeypatch):
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    (message,) = start(True)
    assert "extension PyTorch is missing" in message.text and "Extensions Manager" in message.remedy


def test_an_older_pytorch_extension(start, missing, segmenter, monkeypatch):
    class Older:
        def installTorch(self, askConfirmation=False):
            environment.install("torch")
            return object()

    monkeypatch.setattr(sys.modules["PyTorchUtils"], "PyTorchUtilsLogic", Older)
    assert start(True) == [] and environment.commands == ["torch", "safetensors>=0.4"] and len(segmenter.jobs) == 1


def test_a_slicer_without_its_packaging_module(start, segmenter, monkeypatch):
    import importlib.metadata

    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.delattr(slicer, "packaging")
    version, installed = importlib.metadata.version, []

    def find(name):
        if name == "safetensors" and not installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", find)
    monkeypatch.setattr(slicer.util, "pip_install", installed.append)
    assert start(True) == [] and installed == [["safetensors>=0.4"]] and len(segmenter.jobs) == 1


def test_a_folder_of_wheels_replaces_the_internet(widget, start, missing, segmenter, dialogs, tmp_path):
    (tmp_path / "torch-2.13.0-cp312-none-any.whl").touch()
    widget.ui.wheelsFolderEdit.currentPath = str(tmp_path)
    assert start(True) == [] and "nothing is downloaded" in dialogs.shown[0].text
    assert environment.commands == [f"--no-index --find-links {tmp_path} torch>=2.2 safetensors>=0.4"]
    assert len(segmenter.jobs) == 1


def test_a_folder_without_wheels_or_without_the_right_ones(widget, start, missing, segmenter, monkeypatch, tmp_path):
    widget.ui.wheelsFolderEdit.currentPath = str(tmp_path)
    (message,) = start()
    assert message.text == f"There are no wheels in {tmp_path}."
    (tmp_path / "torch-2.13.0-cp39-none-any.whl").touch()
    installing(monkeypatch, lambda: print("ERROR: No matching distribution found for torch>=2.2"))
    environment.failure = PIP_FAILED
    (message,) = start(True)
    assert message.text == f"The folder {tmp_path} lacks a wheel that fits this Slicer."
    assert '"torch>=2.2" "safetensors>=0.4"' in message.remedy and segmenter.jobs == []


def test_clicks_during_the_installation_do_nothing(widget, start, missing, segmenter, monkeypatch):
    installing(monkeypatch, lambda: (widget.ui.segmentButton.enabled, widget.panel._on_segment()))
    assert start(True) == [] and len(segmenter.jobs) == 1 and widget.ui.segmentButton.enabled


def test_the_scene_is_closed_during_the_installation(widget, start, missing, segmenter, monkeypatch):
    installing(monkeypatch, lambda: slicer.mrmlScene.Clear(False))
    (message,) = start(True)
    assert message.text == "No volume is chosen." and segmenter.jobs == []


def test_the_module_is_unloaded_during_the_installation(widget, start, missing, segmenter, monkeypatch):
    installing(monkeypatch, lambda: widget.cleanup())
    assert "closed" in start(True)[0].text and segmenter.jobs == []


def test_the_volume_is_replaced_during_the_installation(widget, start, missing, segmenter, make_volume, monkeypatch):
    other = make_volume((6, 7, 8), "other")

    def replace():
        if widget.ui.volumeSelector.currentNode() is not other:
            slicer.mrmlScene.RemoveNode(widget.ui.volumeSelector.currentNode())
            widget.ui.volumeSelector.setCurrentNode(other)

    installing(monkeypatch, replace)
    assert start(True) == [] and segmenter.jobs[0].image.GetSize() == (6, 7, 8)

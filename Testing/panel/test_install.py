"""The first run: the Python packages of the worker are asked for at the first click on Segment, and it goes on then.

The installation is a program of its own behind PythonSlicer's stand-in; the window goes on and can cancel it.
"""

from __future__ import annotations

import sys
import time

import pytest
import qt
import slicer
from panel_clicks import click, texts, wait, wait_a_moment

from harness.packages import environment
from SESegmentationLib.client import worker_process
from SESegmentationLib.errors import CancelledError

SLOW = "print('Collecting torch', flush=True); time.sleep(60)"


def wait_for_installation(widget):
    wait(lambda: not widget.panel.installation.running)
    wait_a_moment()  # what follows it is begun then


@pytest.fixture
def missing():
    """Nothing is installed yet."""
    environment.missing |= {"torch", "safetensors"}
    return environment.missing


@pytest.fixture
def pip(monkeypatch):
    """Function that says what pip does from now on."""
    from SESegmentationLib.panel import installation

    def does(program: str = "") -> None:
        path = environment.python_slicer(program)
        monkeypatch.setattr(installation, "find_python", lambda: path)

    does()
    return does


@pytest.fixture
def begin(widget, make_volume, dialogs, pip):
    """Function that clicks Segment; the question, if one comes, is answered so."""
    make_volume()

    def run(*answers):
        dialogs.answer(*answers)
        click(widget.ui.segmentButton)
        return widget.panel.messages.shown

    return run


@pytest.fixture
def start(begin, widget):
    """The same, and waits until what was to be installed is."""

    def run(*answers):
        begin(*answers)
        wait_for_installation(widget)
        return widget.panel.messages.shown

    return run


def test_nothing_is_asked_where_all_is_there(start, segmenter, dialogs):
    assert start() == [] and dialogs.shown == [] and len(segmenter.jobs) == 1


def test_asked_once_with_sizes_then_installed_and_segmented(start, missing, segmenter, dialogs):
    assert start(True) == []
    (question,) = dialogs.shown
    assert "torch>=2.2: about " in question.text and "safetensors>=0.4: about 1 MB" in question.text
    assert "your images stay on this computer" in question.text
    assert environment.commands == [
        "pip install light-the-torch>=0.5",
        "light_the_torch install torch>=2.2",
        "pip install safetensors>=0.4",
    ]
    assert len(segmenter.jobs) == 1


def test_it_goes_on_when_a_dialog_that_was_open_at_its_end_is_closed(
    widget, begin, segment, missing, segmenter, monkeypatch
):
    from SESegmentationLib.panel.installation import InstallProcess

    missing.clear()
    segment()
    missing.add("safetensors")
    dialog_is_open, codes, poll = [], [], InstallProcess.poll

    def polled(self):
        codes.append(poll(self) if dialog_is_open else None)
        return codes[-1]

    def choose_file(*arguments):  # the event loop runs while the user looks for a folder
        dialog_is_open.append(True)
        wait(lambda: 0 in codes)
        return ""

    monkeypatch.setattr(InstallProcess, "poll", polled)
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", choose_file)
    begin(True)
    click(widget.ui.saveReportButton)
    wait_for_installation(widget)
    assert widget.panel.messages.shown == [] and len(segmenter.jobs) == 2


def test_refusal_says_how_to_go_on_and_the_next_click_asks_again(start, missing, segmenter, dialogs):
    (message,) = start(False)
    assert message.text == "PyTorch and safetensors are needed, but you chose not to install them."
    assert environment.commands == [] and segmenter.jobs == []
    assert start(True) == [] and len(segmenter.jobs) == 1


def test_what_is_wrong_with_the_input_is_said_before_anything_is_installed(widget, missing, dialogs):
    click(widget.ui.segmentButton)
    assert widget.panel.messages.shown[0].text == "No volume is chosen." and dialogs.shown == []


def test_the_window_goes_on_and_shows_how_far_it_is(widget, begin, missing, pip, segmenter):
    pip("print('Collecting torch', flush=True); time.sleep(1)")
    ticks, timer = [], qt.QTimer()
    timer.connect("timeout()", lambda: ticks.append(time.monotonic()))
    timer.start(10)
    assert begin(True) == []
    ui = widget.ui
    wait(lambda: ui.progressLabel.text == "Installing: Collecting torch")
    assert ui.segmentButton.text == "Cancel" and ui.progressBar.visible and ui.progressBar.maximum == 0
    wait_for_installation(widget)
    timer.stop()
    pauses = [later - earlier for earlier, later in zip(ticks, ticks[1:], strict=False)]
    assert len(ticks) > 50 and max(pauses) < 0.8
    assert len(segmenter.jobs) == 1 and ui.progressBar.maximum == 100


def test_it_goes_on_where_no_other_thread_runs(widget, begin, missing, pip, segmenter, locked_events):
    """As in Slicer, whose event loop keeps Python's lock: what runs behind it must need no thread."""
    pip("print('Collecting torch', flush=True); time.sleep(0.3)")
    begin(True)
    end = time.monotonic() + 30
    while widget.panel.installation.running and time.monotonic() < end:
        locked_events()
    wait_a_moment()
    assert len(segmenter.jobs) == 1 and widget.panel.messages.shown == []


def test_cancel_ends_all_that_was_started(widget, begin, missing, pip, segmenter):
    import psutil

    pip(SLOW)
    begin(True)
    wait(lambda: "Collecting" in widget.ui.progressLabel.text)
    started = psutil.Process().children(recursive=True)
    time.sleep(0.5)  # a double click does not cancel
    click(widget.ui.segmentButton)
    wait(lambda: not widget.panel.installation.running, 10)
    (message,) = widget.panel.messages.shown
    assert (message.level, message.text) == ("information", "The installation was cancelled.")
    psutil.wait_procs(started, 5)
    assert not any("PythonSlicer" in " ".join(process.cmdline()) for process in started if process.is_running())
    assert segmenter.jobs == [] and widget.ui.segmentButton.text == "Segment" and widget.ui.segmentButton.enabled


def test_the_module_is_unloaded_during_the_installation(widget, begin, missing, pip, segmenter):
    import psutil

    pip(SLOW)
    begin(True)
    wait(lambda: "Collecting" in widget.ui.progressLabel.text)
    widget.cleanup()
    assert not widget.panel.installation.running and segmenter.jobs == []
    left = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    assert not any("PythonSlicer" in line for line in left)


@pytest.mark.parametrize(
    ("printed", "cause", "remedy"),
    [
        ("ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: 407'))", "proxy", "HTTPS_PROXY"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))", "not trusted", "PIP_CERT"),
        ("NewConnectionError: [Errno -3] Temporary failure in name resolution", "internet", "pip download"),
        ("ConnectTimeoutError(<HTTPSConnection>, 'Connection timed out.')", "internet", "pip download"),
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "disk is full", "6 GB"),
        ("ERROR: [Errno 13] Permission denied: '/opt/Slicer/lib'", "cannot be written", "may write"),
        ("ERROR: No matching distribution found for torch>=2.2", "no version of it", "Slicer 5.10 or newer"),
        ("ERROR: the wheel is broken\n", "the wheel is broken.", "log below"),
    ],
)
def test_a_failure_is_told_once_by_what_pip_printed(
    widget, start, missing, pip, segmenter, dialogs, printed, cause, remedy
):
    pip(f"print({printed!r}); sys.exit(1)")
    (message,) = start(True)
    assert message.text.startswith("PyTorch and safetensors could not be installed") and cause in message.text
    assert remedy in message.remedy and segmenter.jobs == [] and len(dialogs.shown) == 1  # the question alone
    assert "PythonSlicer -m pip download" in message.remedy or cause not in ("proxy", "not trusted", "internet")
    click(widget.ui.logButton)
    assert printed.strip() in widget.ui.logText.toPlainText()
    pip()
    assert start(True) == [] and len(segmenter.jobs) == 1


def test_an_installation_that_installs_nothing(start, missing, pip):
    pip("sys.exit(0)")
    (message,) = start(True)
    assert message.text.startswith(
        "PyTorch and safetensors could not be installed: the installation ended without them."
    )


def test_a_slicer_without_its_python(start, missing, segmenter, monkeypatch):
    from SESegmentationLib.panel import installation

    monkeypatch.setattr(installation, "find_python", worker_process.find_python)
    monkeypatch.setattr("sys.executable", "/opt/Slicer/bin/SlicerApp-real")
    monkeypatch.setenv("PATH", "")
    (message,) = start(True)
    assert message.text == "Slicer's program PythonSlicer was not found." and segmenter.jobs == []


@pytest.mark.parametrize("version", ["2.10.0a0+git123", "2.9.0rc1", "2.2", "10.0.0"])
def test_a_torch_that_will_do_is_not_asked_for_again(start, dialogs, segmenter, version):
    environment.versions["torch"] = version  # slicer.packaging.pip_check refuses pre-releases
    if version == "2.2":
        environment.versions["numpy"] = "1.26.4"
    assert start() == [] and dialogs.shown == [] and len(segmenter.jobs) == 1


def test_a_torch_that_is_too_old_is_replaced(start, pip, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)  # the program itself has not imported it
    environment.versions["torch"] = "2.1.2"
    environment.versions["numpy"] = "1.26.4"
    environment.replaced["torch"] = "2.2.2"
    assert start(True) == [] and environment.commands[-1] == "light_the_torch install torch>=2.2"


@pytest.fixture
def macos(monkeypatch):
    """Slicer on macOS: torch 2.2.2 is the last, and it needs NumPy 1."""
    import platform

    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    environment.versions["numpy"] = "2.0.2"
    environment.replaced.update(torch="2.2.2", numpy="1.26.4")


def test_numpy_is_replaced_on_macos_and_slicer_must_be_restarted(start, missing, macos, segmenter, dialogs):
    (message,) = start(True)
    assert '"numpy<2"' not in dialogs.shown[0].text and "numpy<2: about 20 MB" in dialogs.shown[0].text
    assert "Slicer must be restarted afterwards" in dialogs.shown[0].text
    assert environment.commands[-1] == "pip install safetensors>=0.4 numpy<2"
    assert message.level == "warning" and "Slicer must be restarted" in message.text
    assert "numpy 2.0.2 → 1.26.4" in message.text
    assert len(segmenter.jobs) == 1


def test_an_old_torch_beside_a_new_numpy_is_mended(start, segmenter, dialogs):
    """As an older PyTorch extension leaves it; a worker that runs already would not see the new one, so it ends."""
    assert start() == []
    segmenter.fail(CancelledError("", ""))
    wait_a_moment()
    wait(lambda: not segmenter._events)
    environment.versions.update(torch="2.2.2", numpy="2.0.2")
    environment.replaced.update(numpy="1.26.4")
    (message,) = start(True)
    assert environment.commands == ["pip install numpy<2"] and "restarted" in message.text
    assert len(segmenter.jobs) == 2 and segmenter.released == 1


def test_a_folder_of_wheels_replaces_the_internet(widget, start, missing, segmenter, dialogs, tmp_path):
    (tmp_path / "torch-2.13.0-cp312-none-any.whl").touch()
    widget.ui.wheelsFolderEdit.currentPath = str(tmp_path)
    assert start(True) == [] and "nothing is downloaded" in dialogs.shown[0].text
    assert environment.commands == [f"pip install --no-index --find-links {tmp_path} torch>=2.2 safetensors>=0.4"]
    assert len(segmenter.jobs) == 1


def test_a_folder_without_wheels_or_without_the_right_ones(widget, start, missing, segmenter, pip, tmp_path):
    widget.ui.wheelsFolderEdit.currentPath = str(tmp_path)
    (message,) = start()
    assert message.text == f"There are no wheels in {tmp_path}."
    (tmp_path / "torch-2.13.0-cp39-none-any.whl").touch()
    pip("print('ERROR: No matching distribution found for torch>=2.2'); sys.exit(1)")
    (message,) = start(True)
    assert message.text == f"The folder {tmp_path} lacks a wheel that fits this Slicer."
    assert '"torch>=2.2" "safetensors>=0.4"' in message.remedy and segmenter.jobs == []


def test_the_scene_is_closed_during_the_installation(widget, begin, missing, pip, segmenter):
    pip("print('Collecting torch', flush=True); time.sleep(0.3)")
    begin(True)
    slicer.mrmlScene.Clear(False)
    wait_for_installation(widget)
    assert texts(widget.panel.messages.shown) == [("error", "No volume is chosen.")] and segmenter.jobs == []


def test_the_volume_is_replaced_during_the_installation(widget, begin, missing, pip, segmenter, make_volume):
    pip("print('Collecting torch', flush=True); time.sleep(0.3)")
    other = make_volume((6, 7, 8), "other")
    begin(True)
    slicer.mrmlScene.RemoveNode(widget.ui.volumeSelector.currentNode())
    widget.ui.volumeSelector.setCurrentNode(other)
    wait_for_installation(widget)
    assert widget.panel.messages.shown == [] and segmenter.jobs[0].image.GetSize() == (6, 7, 8)

"""The packages by which a page about a result is made: asked for and installed at the click that needs them."""

from __future__ import annotations

import os

import pytest
import slicer
from panel_clicks import click, texts, type_text, wait
from panel_fakes import make_result

from harness.packages import environment


@pytest.fixture
def pip(monkeypatch):
    """Pip succeeds and takes a moment."""
    from SESegmentationLib.panel import installation

    path = environment.python_slicer("time.sleep(0.5)")
    monkeypatch.setattr(installation, "find_python", lambda: path)


def test_its_packages_are_installed_once_the_user_agrees(widget, segment, dialogs, tmp_path, pip):
    segment()
    environment.missing |= {"jinja2"}
    dialogs.answer(str(tmp_path / "page.html"), False)
    click(widget.ui.savePageButton)
    assert dialogs.shown[-1].text.startswith("These Python packages are needed:\n\n- jinja2>=3.1: about 1 MB")
    assert widget.panel.messages.shown[0].text == "jinja2 is needed, but you chose not to install it."
    assert os.listdir(tmp_path).count("page.html") == 0 and environment.commands == []
    dialogs.answer(str(tmp_path / "page.html"), True)
    click(widget.ui.savePageButton)
    wait(lambda: not widget.panel.installation.running)
    wait(lambda: (tmp_path / "page.html").exists())
    assert environment.commands == ["pip install jinja2>=3.1"], "torch is not asked for"


def test_the_scene_is_closed_while_its_packages_are_installed(widget, segment, dialogs, tmp_path, pip):
    segment()
    environment.missing |= {"jinja2"}
    dialogs.answer(str(tmp_path / "page.html"), True)
    click(widget.ui.savePageButton)
    slicer.mrmlScene.Clear(False)
    wait(lambda: not widget.panel.installation.running)
    wait(lambda: widget.panel.messages.shown != [])
    assert not (tmp_path / "page.html").exists()


def test_nothing_is_installed_during_a_segmentation(widget, segment, segmenter, dialogs, tmp_path, pip):
    segment()
    ui = widget.ui
    click(ui.segmentButton)
    environment.missing |= {"jinja2"}
    dialogs.answer(str(tmp_path / "page.html"))
    click(ui.savePageButton)
    (message,) = widget.panel.messages.shown
    assert message.text == "Python packages are needed, and nothing can be installed during a segmentation."
    assert message.remedy == "Wait until it is done, or cancel it; then try again."
    assert widget.panel.run.running and not widget.panel.installation.running and environment.commands == []
    assert ui.segmentButton.text == "Cancel" and ui.progressBar.visible
    segmenter.succeed(make_result(segmenter.jobs[-1].image, widget.panel.models.card))
    wait(lambda: not widget.panel.run.running)
    assert ui.segmentButton.text == "Segment" and not ui.progressBar.visible
    dialogs.answer(str(tmp_path / "page.html"), True)
    click(ui.savePageButton)
    wait(lambda: (tmp_path / "page.html").exists())
    assert ui.segmentButton.text == "Segment" and not ui.progressBar.visible


@pytest.mark.usefixtures("no_own_servers")
@pytest.mark.parametrize("at_server", [False, True])
def test_no_run_begins_during_an_installation(widget, segment, segmenter, dialogs, tmp_path, pip, at_server):
    segment()
    ui = widget.ui
    jobs = len(segmenter.jobs)
    environment.missing |= {"jinja2"}
    dialogs.answer(str(tmp_path / "page.html"), True)
    click(ui.savePageButton)
    if at_server:
        click(ui.serverSection)
        ui.placeSelector.currentIndex = 1
        type_text(ui.serverEdit, "http://127.0.0.1:9")
    click(ui.attentionCheckBox)
    assert widget.panel.installation.running and not widget.panel.run.running
    assert texts(widget.panel.messages.shown) == [("error", "Python packages are being installed.")]
    assert ui.segmentButton.text == "Cancel" and not ui.attentionCheckBox.checked
    wait(lambda: (tmp_path / "page.html").exists())
    assert ui.segmentButton.text == "Segment" and len(segmenter.jobs) == jobs

"""The packages by which a page about a result is made: asked for and installed at the click that needs them."""

from __future__ import annotations

import os

import pytest
import slicer
from panel_clicks import click, wait

from harness.packages import environment


@pytest.fixture
def pip(monkeypatch):
    """Pip succeeds and takes a moment."""
    from SESegmentationLib.panel import installation

    path = environment.python_slicer("time.sleep(0.2)")
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

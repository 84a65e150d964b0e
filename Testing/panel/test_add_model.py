"""A model that somebody passed on is added by a click: from a folder or a ZIP, whole or not at all."""

from __future__ import annotations

import os
import shutil

import pytest
from panel_clicks import click, texts, type_text, wait
from panel_fakes import make_package

from SESegmentationLib.models import find_model, installing


@pytest.fixture(autouse=True)
def users_models(models, monkeypatch):
    """The folder of the user's models is the one that the panel sees."""
    monkeypatch.setattr(installing, "user_models_folder", lambda: models)
    return models


@pytest.fixture
def passed_on(tmp_path):
    """Function that makes a package outside of where models are looked for; its folder."""

    def make(name="given", **changes):
        folder = tmp_path / "passed on"
        folder.mkdir(exist_ok=True)
        shutil.rmtree(folder / name, ignore_errors=True)
        return make_package(folder, name, **changes).path

    return make


@pytest.fixture
def add(widget, dialogs):
    """Function that clicks Add model… and gives the answers to the dialogs."""

    def run(path, *answers):
        dialogs.answer(str(path), *answers)
        click(widget.ui.addModelButton)
        wait(lambda: widget.ui.addModelButton.text == "Add model…")

    return run


def names(widget):
    return [widget.ui.modelList.item(row).text() for row in range(widget.ui.modelList.count)]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_is_added_is_listed_chosen_and_used(
    widget, choices, segmenter, make_volume, passed_on, add, dialogs, tmp_path, users_models, kind
):
    folder = passed_on(title="Given")
    path = folder / "model.json"
    if kind == "zip":
        path = shutil.make_archive(str(tmp_path / "given"), "zip", folder)
    make_volume()
    type_text(widget.ui.modelSearchBox, "nothing like it")
    add(path)
    assert dialogs.shown[-1].kind == "QFileDialog"
    assert texts(widget.panel.messages.shown) == [("information", "Given 1.0.0 was added.")]
    assert names(widget) == ["Given", "Tiny"] and widget.ui.modelSearchBox.text == ""
    assert choices.model == "given" and widget.ui.modelList.currentItem().text() == "Given"
    assert not widget.ui.modelList.currentItem().isHidden()
    assert "<b>Given</b> 1.0.0" in widget.ui.modelCardLabel.text
    click(widget.ui.segmentButton)
    assert segmenter.jobs[-1].model == users_models / "given" and widget.ui.addModelButton.enabled


def test_the_window_stays_alive_meanwhile(widget, dialogs, passed_on, monkeypatch):
    import threading

    from SESegmentationLib.panel import model_chooser

    go_on, real = threading.Event(), model_chooser.add_model
    monkeypatch.setattr(model_chooser, "add_model", lambda *a, **k: go_on.wait(30) and real(*a, **k))
    dialogs.answer(str(passed_on() / "model.json"))
    click(widget.ui.addModelButton)
    assert widget.ui.addModelButton.text == "Adding…" and not widget.ui.addModelButton.enabled
    click(widget.ui.advancedSection)
    assert widget.ui.deviceSelector.isVisible() and names(widget) == ["Tiny"]
    go_on.set()
    wait(lambda: widget.ui.addModelButton.enabled)
    assert "given" in os.listdir(find_model("given").path.parent)


def test_a_change_of_mind_adds_nothing(widget, add, choices):
    add("")
    assert names(widget) == ["Tiny"] and widget.panel.messages.shown == [] and choices.model == ""


def test_what_cannot_be_added_says_why_in_place(widget, add, passed_on, tmp_path, users_models):
    folder = passed_on()
    weights = folder / "model.safetensors"
    weights.write_bytes(b"other weights")
    add(folder / "model.json")
    (message,) = widget.panel.messages.shown
    assert message.level == "error" and "are damaged" in message.text and "again from its source" in message.remedy
    (folder / "model.json").write_text("{", encoding="utf-8")
    add(folder / "model.json")
    (message,) = widget.panel.messages.shown
    assert "is not JSON" in message.text and message.remedy
    (tmp_path / "no.zip").write_bytes(b"not a ZIP at all")
    add(tmp_path / "no.zip")
    (message,) = widget.panel.messages.shown
    assert "is not a ZIP" in message.text and "Give a folder with model.json" in message.remedy
    assert os.listdir(users_models) == ["tiny-t1"] and names(widget) == ["Tiny"]
    assert widget.ui.messageFrame.isVisible() and widget.ui.addModelButton.enabled


def test_a_fault_of_the_program_is_reported_too(widget, add, passed_on, monkeypatch):
    from SESegmentationLib.panel import model_chooser

    monkeypatch.setattr(model_chooser, "add_model", lambda *arguments, **options: 1 / 0)
    add(passed_on() / "model.json")
    assert "ZeroDivisionError" in widget.panel.messages.shown[0].text and widget.ui.addModelButton.enabled


def test_a_model_that_is_there_is_replaced_only_if_the_user_says_so(widget, add, passed_on, dialogs):
    add(passed_on(title="Given") / "model.json")
    newer = passed_on(title="Given", version="2.0.0") / "model.json"
    add(newer, False)
    assert "There is a model given in" in dialogs.shown[-1].text and "Replace it?" in dialogs.shown[-1].text
    assert find_model("given").card.version == "1.0.0" and widget.panel.messages.shown == []
    add(newer, True)
    assert find_model("given").card.version == "2.0.0" and "<b>Given</b> 2.0.0" in widget.ui.modelCardLabel.text


def test_terms_that_are_not_free_are_asked_for_after_it_was_added(
    widget, add, passed_on, segmenter, make_volume, choices
):
    make_volume()
    add(passed_on(licence={"spdx": "CC-BY-NC-SA-4.0", "name": "CC", "free": False}) / "model.json")
    assert widget.ui.licenceCheckBox.isVisible() and not widget.ui.licenceCheckBox.checked
    click(widget.ui.segmentButton)
    assert "not accepted" in widget.panel.messages.shown[0].text and not segmenter.jobs
    click(widget.ui.licenceCheckBox)
    click(widget.ui.segmentButton)
    assert len(segmenter.jobs) == 1


def test_the_panel_is_closed_meanwhile(widget, dialogs, passed_on, users_models):
    dialogs.answer(str(passed_on() / "model.json"))
    click(widget.ui.addModelButton)
    widget.cleanup()
    wait(lambda: sorted(os.listdir(users_models)) == ["given", "tiny-t1"])


def test_the_scene_is_closed_meanwhile(widget, dialogs, passed_on, choices):
    import slicer

    dialogs.answer(str(passed_on(title="Given") / "model.json"))
    click(widget.ui.addModelButton)
    slicer.mrmlScene.Clear(False)
    wait(lambda: widget.ui.addModelButton.enabled)
    assert names(widget) == ["Given", "Tiny"]

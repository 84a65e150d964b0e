"""Choosing a model by clicks: list, search, card, consent to its terms."""

from __future__ import annotations

import pytest
from panel_clicks import click, click_item, type_text
from panel_fakes import MODULE, make_package

from harness import application


@pytest.fixture
def three_models(widget, models):
    make_package(models, "brain-t1", title="Brain", summary="Sections of a head.")
    (models / "broken").mkdir()
    (models / "broken" / "model.json").write_text("{", encoding="utf-8")
    widget.enter()
    return [widget.ui.modelList.item(row) for row in range(3)]


def test_models_are_listed_searched_and_chosen(widget, choices, three_models):
    brain, tiny, broken = three_models
    assert [item.text() for item in three_models] == ["Brain", "Tiny", "broken (damaged)"]
    click_item(widget.ui.modelList, tiny)
    assert choices.model == "tiny-t1" and "<b>Tiny</b> 1.0.0" in widget.ui.modelCardLabel.text
    type_text(widget.ui.modelSearchBox, "head sections")
    assert [item.isHidden() for item in three_models] == [False, True, True]
    type_text(widget.ui.modelSearchBox, "posterior hippo")
    assert [item.isHidden() for item in three_models] == [False, False, True]
    type_text(widget.ui.modelSearchBox, "")
    assert not any(item.isHidden() for item in three_models)
    assert choices.model == "tiny-t1"


def test_card_says_what_how_well_and_on_what_terms(widget, models):
    licence = {"spdx": "CC-BY-4.0", "name": "CC <BY>", "free": True, "attribution": "A & B", "url": "https://x.org/a"}
    make_package(
        models,
        "tiny-t1",
        accuracy={"mean_dice": 0.9051, "cases": 40, "data": "hippocampus crops"},
        input={"kind": "crop", "limits": ["Adults only."]},
        licence=licence,
    )
    widget.enter()
    card = widget.ui.modelCardLabel.text
    for text in (
        "<b>Finds:</b> anterior hippocampus, posterior hippocampus",
        "mean Dice 0.91 over 40 cases that it had not seen (hippocampus crops)",
        "Adults only.",
        '<a href="https://x.org/a">CC &lt;BY&gt;</a>. A &amp; B',
    ):
        assert text in card
    make_package(models, "tiny-t1", accuracy={"mean_dice": 0.9051, "cases": 1})
    widget.enter()
    assert "mean Dice 0.91 on one case that it had not seen" in widget.ui.modelCardLabel.text
    ui, summary = widget.ui, widget.ui.modelSummaryLabel.text
    assert "anterior hippocampus, posterior hippocampus" in summary and summary.count("<br>") == 1
    assert "mean Dice 0.91; time known after the first segmentation" in summary
    assert not ui.modelCardLabel.isVisible()
    click(ui.aboutModelSection)
    assert ui.modelCardLabel.isVisible()


def test_card_tells_the_expected_time_once_it_is_known(widget, segment, choices, make_volume):
    segment(make_volume((20, 18, 16)))
    assert "about 2 s here" in widget.ui.modelSummaryLabel.text
    choices.inputVolume = make_volume((40, 36, 32), "larger")
    assert "about 16 s here" in widget.ui.modelSummaryLabel.text
    choices.fast = True
    assert "known after the first" in widget.ui.modelSummaryLabel.text


def test_a_damaged_model_says_so_in_its_card_and_at_segment(widget, three_models, make_volume, segmenter):
    make_volume()
    click_item(widget.ui.modelList, three_models[2])
    assert "is not JSON" in widget.ui.modelSummaryLabel.text and not widget.ui.aboutModelSection.isVisible()
    click(widget.ui.segmentButton)
    assert "is not JSON" in widget.panel.messages.shown[0].text and not segmenter.jobs


def test_a_model_that_a_scene_asks_for_and_is_not_there(widget, choices, make_volume, segmenter):
    make_volume()
    choices.model = "elsewhere"
    assert "elsewhere" in widget.ui.modelSummaryLabel.text and widget.ui.modelList.currentRow == -1
    click(widget.ui.segmentButton)
    assert "not installed" in widget.panel.messages.shown[0].text and not segmenter.jobs


def test_no_model_at_all(widget, models, make_volume, segmenter):
    for file in (models / "tiny-t1").iterdir():
        file.unlink()
    make_volume()
    widget.enter()
    assert widget.ui.modelSummaryLabel.text == "No model is installed."
    click(widget.ui.segmentButton)
    assert widget.panel.messages.shown[0].text == "No model is installed."


def test_terms_that_are_not_free_ask_for_consent_once(widget, choices, models, make_volume, segmenter):
    make_package(models, "paid", licence={"spdx": "CC-BY-NC-4.0", "name": "CC", "free": False})
    make_volume()
    assert not widget.ui.licenceCheckBox.isVisible()
    widget.enter()
    choices.model = "paid"
    assert widget.ui.licenceCheckBox.text == "I accept the terms of CC-BY-NC-4.0"
    click(widget.ui.segmentButton)
    assert "not accepted" in widget.panel.messages.shown[0].text and not segmenter.jobs
    click(widget.ui.licenceCheckBox)
    click(widget.ui.segmentButton)
    assert len(segmenter.jobs) == 1 and widget.panel.messages.shown == []
    click(widget.ui.segmentButton)
    application.unload_module("SESegmentation")  # as at the end of Slicer
    application.load_module(MODULE)
    again = application.open_module("SESegmentation")
    assert again.ui.licenceCheckBox.checked
    click(again.ui.licenceCheckBox)
    click(again.ui.segmentButton)
    assert "not accepted" in again.panel.messages.shown[0].text

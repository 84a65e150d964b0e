"""The network that was recalibrated to a patient is offered again for the same volume and model, and only there."""

from __future__ import annotations

import hashlib
import json
import sys

import pytest
import slicer
from panel_clicks import click, draw
from panel_fakes import adapted_file, make_package, make_result

from harness import application
from SESegmentationLib.mrml import adapted_parameters
from SESegmentationLib.panel.result_record import ResultRecord


@pytest.fixture
def recalibrated(widget, segment, recalibrate):
    """A result that was recalibrated."""
    node = segment()
    draw(node)
    recalibrate()
    assert not widget.ui.adaptedCheckBox.isVisible()
    click(widget.ui.acceptChangesButton)
    return node


def test_it_is_offered_used_and_kept_with_the_new_result(widget, recalibrated, segment, segmenter, choices):
    box, adapted = widget.ui.adaptedCheckBox, adapted_file(widget.panel.models.card)
    assert box.isVisible() and not box.checked and recalibrated.GetName() in box.toolTip
    plain = segment(expected_dice=0.9)
    assert segmenter.jobs[-1].adapted is None and adapted_parameters(plain) is None
    click(box)
    assert choices.adaptedFrom is recalibrated
    node = segment(expected_dice=0.9)
    assert segmenter.jobs[-1].adapted == adapted == adapted_parameters(node)
    record = ResultRecord.read(node)
    # what Dice to expect was measured for the model as it is
    assert record.adapted == 7 and record.structures[0].expected_dice is None
    assert "recalibrated" in widget.ui.resultLabel.text and box.checked
    click(box)
    segment()
    assert segmenter.jobs[-1].adapted is None and "recalibrated" not in widget.ui.resultLabel.text


def test_it_is_offered_after_the_scene_was_loaded_again(widget, recalibrated, segment, segmenter, tmp_path):
    click(widget.ui.adaptedCheckBox)
    for chosen in (True, False):
        path = str(tmp_path / f"{chosen}.mrb")
        assert slicer.util.saveScene(path)
        slicer.mrmlScene.Clear(False)
        assert not widget.ui.adaptedCheckBox.isVisible()
        slicer.util.loadScene(path)
        application.process_events()
        assert widget.ui.adaptedCheckBox.isVisible() and widget.ui.adaptedCheckBox.checked is chosen
        segment()
        assert (segmenter.jobs[-1].adapted is not None) is chosen
        if chosen:
            click(widget.ui.adaptedCheckBox)


def test_it_is_for_its_own_volume_and_model_only(
    widget, recalibrated, segment, segmenter, choices, make_volume, models
):
    make_package(models, "another", title="Another", version="2.0.0")
    weights = models / "another" / "model.safetensors"
    weights.write_bytes(b"other weights")
    card = json.loads((models / "another" / "model.json").read_text(encoding="utf-8"))
    card["weights"]["sha256"] = hashlib.sha256(b"other weights").hexdigest()
    (models / "another" / "model.json").write_text(json.dumps(card), encoding="utf-8")
    widget.enter()
    box, volume, model = widget.ui.adaptedCheckBox, choices.inputVolume, choices.model
    click(box)
    choices.model = "another"
    assert not box.isVisible()
    segment()
    assert segmenter.jobs[-1].adapted is None
    choices.model = model
    segment(make_volume(name="another patient"))
    assert segmenter.jobs[-1].adapted is None and not box.isVisible()
    choices.inputVolume = volume
    assert box.isVisible() and box.checked


def test_it_goes_with_the_recalibration(widget, recalibrated, choices):
    click(widget.ui.adaptedCheckBox)
    click(widget.ui.undoButton)
    assert not widget.ui.adaptedCheckBox.isVisible()
    click(widget.ui.redoButton)
    assert widget.ui.adaptedCheckBox.isVisible()
    slicer.mrmlScene.RemoveNode(recalibrated)
    assert not widget.ui.adaptedCheckBox.isVisible() and choices.adaptedFrom is None


def test_a_rerun_without_it_keeps_it_at_hand(widget, recalibrated, segment, segmenter, choices):
    choices.outputSegmentation = recalibrated
    segment(corner=6)
    assert "recalibrated" not in widget.ui.resultLabel.text and widget.ui.adaptedCheckBox.isVisible()
    click(widget.ui.attentionCheckBox)
    assert segmenter.jobs[-1].adapted is None  # the result on show was made by the model as it is


def test_parameters_that_cannot_be_read_are_not_offered(widget, recalibrated):
    (text,) = slicer.util.getNodesByClass("vtkMRMLTextNode")
    text.SetText("changed by hand!")
    widget.enter()
    assert not widget.ui.adaptedCheckBox.isVisible()


def test_a_script_uses_it(widget, recalibrated, segmenter, choices):
    logic = sys.modules["SESegmentation"].SESegmentationLogic()
    card, submit = widget.panel.models.card, segmenter.submit

    def submit_and_answer(job):
        handle = submit(job)
        segmenter.succeed(make_result(job.image, card))
        return handle

    segmenter.submit = submit_and_answer
    node = logic.segment(choices.inputVolume, "tiny-t1", adaptedFrom=recalibrated)
    assert segmenter.jobs[-1].adapted == adapted_parameters(node) == adapted_file(card)

"""The module as Slicer sees it: loading, scenes, saving, reloading, scripts, sample data; with a fake behind it."""

from __future__ import annotations

import hashlib
import os
import sys

import numpy as np
import pytest
import qt
import SimpleITK as sitk
import slicer
from panel_clicks import click, wait
from panel_fakes import ROOT, make_package, make_result

from harness import application
from SESegmentationLib.errors import CancelledError, InputError, ModelError, UsageError, WorkerError

SAMPLE_NAME = "SESegmentationHippocampus"
SAMPLE = ROOT / "SESegmentation" / "Resources" / "SampleData" / f"{SAMPLE_NAME}.nii.gz"
CHOICES = ("model", "device", "fast", "lowMemory", "keepWarm", "opacity", "everyFrame")


def finish(widget, segmenter, corner=2):
    """Let the segmentation under way succeed."""
    segmenter.succeed(make_result(segmenter.jobs[-1].image, widget.panel.models.card, corner=corner))
    wait(lambda: not widget.panel.run.running)


def segmentations():
    return slicer.util.getNodesByClass("vtkMRMLSegmentationNode")


# --- loading ----------------------------------------------------------------------------------------------------------


def test_the_module_describes_itself(widget):
    module = slicer.modules.sesegmentation
    assert module.title == "SE Segmentation" and module.categories == ("Segmentation",)
    assert "not a medical device" in module.helpText and "10.1109/TMI.2018.2867261" in module.acknowledgementText


def test_reload_ends_the_worker_and_keeps_the_choices(widget, choices, segmenter, make_volume):
    volume = make_volume()
    choices.fast = True
    click(widget.ui.segmentButton)
    slicer.util.reloadScriptedModule("SESegmentation")
    application.process_events()
    again = slicer.util.getModuleWidget("SESegmentation")
    assert segmenter.closed and again is not widget and not again.panel.run.running
    assert again.ui.fastCheckBox.checked and again.ui.volumeSelector.currentNode() is volume
    assert segmentations() == []


def test_unloading_ends_the_worker(widget, segmenter, make_volume):
    make_volume()
    click(widget.ui.segmentButton)
    application.unload_module("SESegmentation")
    assert segmenter.closed
    make_volume(name="another")  # nobody listens any more


# --- scenes -----------------------------------------------------------------------------------------------------------


def test_choices_and_results_are_saved_with_the_scene(widget, choices, segmenter, make_volume, models, tmp_path):
    make_package(models, "brain-t1")
    widget.enter()
    make_volume(name="first")
    choices.inputVolume = make_volume(name="second")
    choices.region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    slicer.util.updateMarkupsControlPointsFromArray(choices.region, np.array([[8.0, 8, 8]]))
    choices.region.SetSize(12, 12, 12)
    choices.model, choices.device, choices.fast, choices.lowMemory = "brain-t1", "cpu", True, True
    choices.keepWarm, choices.opacity, choices.everyFrame = False, 0.25, True
    click(widget.ui.segmentButton)
    finish(widget, segmenter)
    choices.outputSegmentation = choices.resultSegmentation
    saved = {name: getattr(choices, name) for name in CHOICES}
    rows = widget.ui.structureTable.rowCount
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)

    slicer.mrmlScene.Clear(False)
    assert widget.logic.getParameterNode().model in ("", "brain-t1") and not widget.ui.fastCheckBox.checked
    assert widget.ui.volumeSelector.currentNode() is None and not widget.ui.resultSection.isVisible()
    slicer.util.loadScene(path)
    application.process_events()
    restored = widget.logic.getParameterNode()
    assert {name: getattr(restored, name) for name in CHOICES} == saved
    names = [getattr(restored, name).GetName() for name in ("inputVolume", "region", "resultSegmentation")]
    assert names == ["second", "box", "second brain-t1"]
    assert restored.outputSegmentation is restored.resultSegmentation
    ui = widget.ui
    assert ui.volumeSelector.currentNode().GetName() == "second" and ui.regionSelector.currentNode().GetName() == "box"
    assert ui.fastCheckBox.checked and ui.deviceSelector.currentText == "CPU" and ui.opacitySlider.value == 0.25
    assert ui.structureTable.rowCount == rows and ui.resultLabel.text.startswith("second: brain-t1")
    assert ui.resultSection.isVisible()


def test_closing_the_scene_ends_the_run_and_the_next_one_works(widget, segmenter, make_volume):
    make_volume()
    click(widget.ui.segmentButton)
    slicer.mrmlScene.Clear(False)
    assert not widget.panel.run.running and widget.ui.segmentButton.text == "Segment"
    make_volume(name="next")
    click(widget.ui.segmentButton)
    finish(widget, segmenter)
    (node,) = segmentations()
    assert node.GetName() == "next tiny-t1" and widget.panel.messages.shown == []


def test_a_result_that_comes_after_the_scene_was_closed_goes_nowhere(widget, segmenter, make_volume):
    make_volume()
    click(widget.ui.segmentButton)
    late = make_result(segmenter.jobs[0].image, widget.panel.models.card)
    segmenter.succeed(late)
    slicer.mrmlScene.Clear(False)
    make_volume(name="next")
    application.wait_until(lambda: False, 0.2)
    assert segmentations() == [] and widget.panel.messages.shown == []


def test_removing_the_volume_ends_the_run_and_says_so(widget, choices, segmenter, make_volume):
    other, volume = make_volume(name="other"), make_volume()
    choices.inputVolume = volume
    click(widget.ui.segmentButton)
    slicer.mrmlScene.RemoveNode(other)
    assert widget.panel.run.running
    slicer.mrmlScene.RemoveNode(volume)
    assert not widget.panel.run.running
    assert widget.panel.messages.shown[0].text == "head was removed while the computation needed it."
    make_volume(name="next")
    click(widget.ui.segmentButton)
    finish(widget, segmenter)
    assert choices.resultSegmentation.GetName() == "next tiny-t1"


def test_nodes_that_come_and_go_in_one_batch(widget, choices, segmenter, make_volume):
    scene = slicer.mrmlScene
    volume = make_volume()
    click(widget.ui.segmentButton)
    scene.StartState(scene.BatchProcessState)
    scene.RemoveNode(volume)
    other = slicer.util.addVolumeFromArray(np.zeros((9, 9, 9), np.int16), name="other")
    scene.EndState(scene.BatchProcessState)
    application.process_events()
    assert not widget.panel.run.running and "was removed" in widget.panel.messages.shown[0].text
    assert choices.inputVolume is other


def test_an_output_that_was_removed_meanwhile_is_replaced(widget, choices, segmenter, make_volume):
    make_volume()
    click(widget.ui.segmentButton)
    finish(widget, segmenter)
    choices.outputSegmentation = choices.resultSegmentation
    click(widget.ui.segmentButton)
    slicer.mrmlScene.RemoveNode(choices.outputSegmentation)
    finish(widget, segmenter)
    (node,) = segmentations()
    assert choices.resultSegmentation is node and choices.outputSegmentation is None


def test_the_panel_works_on_while_another_module_is_shown(widget, choices, segmenter, make_volume):
    make_volume()
    click(widget.ui.segmentButton)
    holder = widget.parent
    holder.exit()
    finish(widget, segmenter)
    holder.enter()
    assert choices.resultSegmentation is not None and widget.ui.structureTable.rowCount == 2


def test_choices_are_shown_again_when_they_are_changed_by_a_script(widget, choices, make_volume):
    volume = make_volume()
    other = widget.logic.getParameterNode()
    other.lowMemory, other.opacity, other.inputVolume = True, 0.5, None
    assert widget.ui.lowMemoryCheckBox.checked and widget.ui.opacitySlider.value == 0.5
    assert widget.ui.volumeSelector.currentNode() is None
    other.inputVolume = volume
    assert widget.ui.volumeSelector.currentNode() is volume
    with pytest.raises(ValueError, match="opacity|within|range"):
        other.opacity = 2.0


# --- scripts ----------------------------------------------------------------------------------------------------------


class Immediate:
    """Makes a fake segmenter answer at its next poll."""

    def __init__(self, segmenter, answer):
        self._submit = segmenter.submit
        self._answer = answer
        segmenter.submit = self

    def __call__(self, job):
        handle = self._submit(job)
        self._answer(job)
        return handle


@pytest.fixture
def logic(widget):
    logic = sys.modules["SESegmentation"].SESegmentationLogic()
    yield logic
    logic.close()


def test_a_script_segments_without_the_panel(widget, logic, segmenter, make_volume, models):
    card = widget.panel.models.card
    volume, reported = make_volume(), []

    def answer(job):
        segmenter.progress("axial", 0.5, 1.0)
        segmenter.succeed(make_result(job.image, card))

    Immediate(segmenter, answer)
    node = logic.segment(volume, "tiny-t1", device="cpu", progress=lambda *progress: reported.append(progress))
    assert node.GetName() == "head tiny-t1" and reported == [("axial", 0.5, 1.0)]
    assert segmenter.jobs[0].device == "cpu" and segmenter.jobs[0].options.roi is None
    region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    region.SetCenter(8, 8, 8)
    region.SetSize(6, 6, 6)
    again = logic.segment(volume, models / "tiny-t1", region=region, output=node, fast=True, lowMemory=True)
    job = segmenter.jobs[1]
    assert again is node and job.options.roi is not None and (job.options.fast, job.options.low_memory) == (True, True)
    assert not segmenter.closed
    logic.close()
    assert segmenter.closed


def test_what_a_script_asks_in_vain_is_raised(widget, logic, segmenter, make_volume):
    with pytest.raises(ModelError, match="no model 'nothing'"):
        logic.segment(make_volume(), "nothing")
    with pytest.raises(InputError, match="No volume"):
        logic.segment(None, "tiny-t1")
    assert segmenter.jobs == []
    Immediate(segmenter, lambda job: segmenter.fail(WorkerError("It broke.", "Again.")))
    with pytest.raises(WorkerError, match="It broke"):
        logic.segment(make_volume(), "tiny-t1")
    assert segmentations() == []


def test_a_script_needs_consent_to_terms_that_are_not_free(widget, logic, segmenter, make_volume, models):
    make_package(models, "paid", licence={"spdx": "CC-BY-NC-4.0", "name": "CC", "free": False})
    volume = make_volume()
    with pytest.raises(UsageError, match="CC-BY-NC-4.0"):
        logic.segment(volume, "paid")
    assert not segmenter.jobs

    def refuse(phase, fraction, seconds_left):
        raise CancelledError("enough", "")

    for given in ({"acceptLicence": True}, {}):  # by the script, then once and for all in the panel
        if not given:
            widget.panel._settings.accept(widget.panel.models._source.usable()[0].card, True)
        count = len(segmenter.jobs)
        submit = segmenter.submit

        def submit_and_report(job, submit=submit):
            handle = submit(job)
            segmenter.progress("axial", 0.5)
            return handle

        segmenter.submit = submit_and_report
        with pytest.raises(CancelledError):
            logic.segment(volume, "paid", progress=refuse, **given)
        segmenter.submit = submit
        assert len(segmenter.jobs) == count + 1


def test_a_script_is_cancelled_by_its_progress(widget, logic, segmenter, make_volume):
    Immediate(segmenter, lambda job: segmenter.progress("axial", 0.5))

    def stop(phase, fraction, seconds_left):
        raise CancelledError("Enough.", "")

    with pytest.raises(CancelledError, match="Enough"):
        logic.segment(make_volume(), "tiny-t1", progress=stop)
    assert segmenter._handle.finished and segmentations() == []


# --- sample data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size"), [("SESegmentationHead", (165, 198, 193)), (SAMPLE_NAME, (36, 50, 36))], ids=["head", "crop"]
)
def test_samples_are_offered_and_load_without_internet(widget, choices, name, size):
    import SampleData

    sources = SampleData.SampleDataLogic.sampleDataSourcesByCategory("SESegmentation")
    source = next(source for source in sources if source.sampleName == name)
    assert sources[0].sampleName == "SESegmentationHead" and not qt.QPixmap(source.thumbnailFileName).isNull()
    node = SampleData.SampleDataLogic().downloadSample(name)
    application.process_events()
    array = slicer.util.arrayFromVolume(node)
    assert choices.inputVolume is node and sorted(array.shape) == sorted(size)


def test_the_drawn_sample_is_the_one_that_the_generator_draws(widget):
    from drawn_hippocampus import draw_sample

    shipped, drawn = sitk.ReadImage(str(SAMPLE)), draw_sample().image
    assert shipped.GetDirection() == drawn.GetDirection() and shipped.GetSpacing() == drawn.GetSpacing()
    difference = sitk.GetArrayFromImage(shipped) - sitk.GetArrayFromImage(drawn)
    assert np.abs(difference).max() <= 0.51
    assert os.path.getsize(SAMPLE) < 100_000


def test_sample_files_are_those_whose_checksums_are_given():
    for name, _, sha256 in sys.modules["SESegmentation"].SAMPLES:
        assert hashlib.sha256((SAMPLE.parent / f"{name}.nii.gz").read_bytes()).hexdigest() == sha256


def test_requirements_are_few():
    lines = (ROOT / "SESegmentation" / "Resources" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(">")[0] for line in lines if line and not line.startswith("#")] == [
        "safetensors",
        "pydicom",
        "nibabel",
    ]

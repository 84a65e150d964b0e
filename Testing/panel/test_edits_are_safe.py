"""Whatever is done in whatever order: what the clinician accepted or corrected stays as it was left."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import slicer
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from panel_clicks import click, wait
from panel_fakes import card_dict, make_package, make_refined, make_result

from harness import application
from harness.segment_editor import paint
from SESegmentationLib.errors import WorkerError
from SESegmentationLib.geometry import slices_mask
from SESegmentationLib.models import ModelPackage
from SESegmentationLib.models.labels import structure_label
from SESegmentationLib.mrml import adapted_parameters, find_corrected_slices

SIZE = (16, 14, 12)  # i, j, k
LOGIC = slicer.vtkSlicerSegmentationsModuleLogic
#: the other model has a structure in common with the first, and means something else by a value of the first
OTHER_LABELS = [
    structure_label(7, "anterior hippocampus"),
    structure_label(2, "amygdala"),
    structure_label(3, "thalamus"),
]


class Clinic(RuleBasedStateMachine):
    """A clinician with one volume and one segmentation. Class attributes are set by the test."""

    widget = segmenter = folder = None
    numbers = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        slicer.mrmlScene.Clear(False)
        slicer.util.addVolumeFromArray(np.full(SIZE[::-1], 7, np.int16), name="head")
        application.process_events()
        #: by segment, its voxels after the last result was written
        self.written: dict[str, np.ndarray] = {}
        #: voxels that had been edited before that
        self.fixed = np.zeros(SIZE[::-1], bool)
        #: what Undo must bring back, while nothing else was done since
        self.undoable: tuple | None = None
        #: what Redo must bring back, likewise
        self.redoable: tuple | None = None

    # --- what is there ------------------------------------------------------------------------------------------------

    @property
    def choices(self):
        return self.widget._parameterNode  # getParameterNode() would add a wrapper, and its observers, each time

    @property
    def node(self):
        return self.choices.resultSegmentation

    def state(self) -> dict[str, np.ndarray]:
        if self.node is None:
            return {}
        volume = self.choices.inputVolume
        return {
            identifier: slicer.util.arrayFromSegmentBinaryLabelmap(self.node, identifier, volume) > 0
            for identifier in self.node.GetSegmentation().GetSegmentIDs()
        }

    def completed(self) -> list[str]:
        segmentation = self.node.GetSegmentation() if self.node else slicer.vtkSegmentation()
        ids = segmentation.GetSegmentIDs()
        return [i for i in ids if LOGIC.GetSegmentStatus(segmentation.GetSegment(i)) == LOGIC.Completed]

    def protected(self, state: dict[str, np.ndarray]) -> np.ndarray:
        """Voxels that were edited, and those of the slices that count as corrected."""
        mask = self.fixed.copy()
        for identifier, voxels in state.items():
            mask |= voxels != self.written.get(identifier, voxels)
        return mask if self.node is None else mask | slices_mask(find_corrected_slices(self.node), mask.shape)

    def written_now(self, before: dict[str, np.ndarray], mask: np.ndarray, completed: list[str]) -> None:
        """Check a result that was written, and remember it."""
        after = self.state()
        for identifier, had in before.items():  # a new one has nothing there that could be kept
            voxels = after[identifier]
            assert (voxels == had)[mask].all(), f"{identifier} changed where it was corrected"
            if identifier in completed:
                assert (voxels == had).all(), f"{identifier} was completed and changed"
        self.undoable, self.redoable = (before, self.written, self.fixed), None
        self.written, self.fixed = after, mask

    def unchanged(self, before: dict[str, np.ndarray]) -> None:
        after = self.state()
        assert before.keys() == after.keys() and all((after[key] == before[key]).all() for key in before)

    def start(self, model: str) -> None:
        self.choices.model, self.choices.outputSegmentation = model, self.node
        click(self.widget.ui.segmentButton)
        assert self.widget.panel.run.running, self.widget.panel.messages.shown

    def finish(self) -> None:
        wait(lambda: not self.widget.panel.run.running, 5)

    def edited(self) -> None:
        """The clinician has changed something: it must not be lost by putting a result back."""
        self.undoable = self.redoable = None
        application.process_events()
        assert not self.widget.ui.redoButton.enabled

    # --- what is done -------------------------------------------------------------------------------------------------

    @rule(model=st.sampled_from(["tiny-t1", "other-t1"]), corner=st.integers(0, 6))
    def segment(self, model, corner):
        before, completed = self.state(), self.completed()
        mask = self.protected(before)
        self.start(model)
        job = self.segmenter.jobs[-1]
        self.segmenter.succeed(make_result(job.image, ModelPackage.from_folder(job.model).card, corner=corner))
        self.finish()
        self.written_now(before, mask, completed)

    @rule(model=st.sampled_from(["tiny-t1", "other-t1"]))
    def crash(self, model):
        before = self.state()
        self.start(model)
        self.segmenter.fail(WorkerError("It broke.", "Again."))
        self.finish()
        self.unchanged(before)

    @precondition(lambda self: self.node)
    @rule(
        pick=st.integers(0, 9), k=st.integers(0, 11), low=st.integers(0, 6), size=st.integers(1, 7), erase=st.booleans()
    )
    def draw(self, pick, k, low, size, erase):
        ids = self.node.GetSegmentation().GetSegmentIDs()
        inside = np.zeros(SIZE[::-1], bool)
        inside[k, low : low + size, low : low + size] = True
        paint(self.node, ids[pick % len(ids)], inside, self.choices.inputVolume, erase)
        self.edited()

    @precondition(lambda self: self.node)
    @rule(pick=st.integers(0, 9), done=st.booleans())
    def mark(self, pick, done):
        segmentation = self.node.GetSegmentation()
        segment = segmentation.GetNthSegment(pick % segmentation.GetNumberOfSegments())
        status, could_redo = LOGIC.Completed if done else LOGIC.NotStarted, self.widget.ui.redoButton.enabled
        changed = LOGIC.GetSegmentStatus(segment) != status
        LOGIC.SetSegmentStatus(segment, status)
        if changed:
            self.edited()
        else:  # nothing that putting a result back could lose
            application.process_events()
            assert self.widget.ui.redoButton.enabled == could_redo

    @precondition(lambda self: self.node and find_corrected_slices(self.node))
    @rule(end=st.sampled_from(["accept", "reject", "crash"]), grow=st.integers(0, 3), k=st.none() | st.integers(0, 11))
    def recalibrate(self, end, grow, k):
        ui = self.widget.ui
        click(ui.recalibrateButton)
        assert self.widget.panel.run.running, self.widget.panel.messages.shown
        job = self.segmenter.jobs[-1]
        if k is not None:  # the clinician goes on drawing while the network learns
            self.draw(0, k, 3, 3, False)
        before, completed = self.state(), self.completed()
        mask = self.protected(before)
        if end == "crash":
            self.segmenter.fail(WorkerError("It broke.", "Again."))
        else:
            self.segmenter.succeed_refinement(make_refined(job, ModelPackage.from_folder(job.model).card, grow))
        self.finish()
        self.unchanged(before)
        if end in ("reject", "accept") and not ui.previewFrame.isVisible():  # there is nothing to change
            assert "already agree with what would be proposed" in self.widget.panel.messages.shown[-1].text
            return
        if end == "reject":
            click(ui.rejectChangesButton)
        if end == "accept":
            click(ui.acceptChangesButton)
            self.written_now(before, mask, completed)
        else:
            self.unchanged(before)

    @precondition(lambda self: self.undoable and self.widget.ui.undoButton.enabled)
    @rule()
    def undo(self):
        after = (self.state(), self.written, self.fixed)
        click(self.widget.ui.undoButton)
        before, self.written, self.fixed = self.undoable
        self.unchanged(before)
        self.undoable, self.redoable = None, after

    @precondition(lambda self: self.redoable and self.widget.ui.redoButton.enabled)
    @rule()
    def redo(self):
        before = (self.state(), self.written, self.fixed)
        click(self.widget.ui.redoButton)
        after, self.written, self.fixed = self.redoable
        self.unchanged(after)
        self.undoable, self.redoable = before, None

    @rule()
    def save_and_reload(self):
        before, corrections = self.state(), self.node and find_corrected_slices(self.node)
        adapted = self.node and adapted_parameters(self.node)
        path = str(self.folder / f"{next(self.numbers)}.mrb")
        assert slicer.util.saveScene(path)
        slicer.mrmlScene.Clear(False)
        slicer.util.loadScene(path)
        application.process_events()
        self.unchanged(before)
        assert (self.node and find_corrected_slices(self.node)) == corrections
        assert (self.node and adapted_parameters(self.node)) == adapted
        self.undoable = self.redoable = None


@pytest.fixture
def clinic(widget, segmenter, models, tmp_path):
    """The machine, with the panel that it uses."""
    labels = [label.to_dict() for label in OTHER_LABELS]
    networks = card_dict()["networks"]
    networks["axial"]["classes"] = 4
    make_package(models, "other-t1", labels=labels, networks=networks)
    widget.enter()
    Clinic.widget, Clinic.segmenter, Clinic.folder = widget, segmenter, tmp_path
    yield Clinic
    Clinic.widget = Clinic.segmenter = None


def test_no_sequence_of_actions_changes_what_was_accepted_or_corrected(clinic):
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    options = settings(max_examples=12, stateful_step_count=12, deadline=None, suppress_health_check=checks)
    run_state_machine_as_test(clinic, settings=options)

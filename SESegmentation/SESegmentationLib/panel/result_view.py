"""The result in the panel: its structures, reviewed worst first, maps over the slice views, and undo."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from ..errors import InputError
from ..geometry import triple
from ..models import Label
from ..mrml import (
    ACCEPTED,
    CORRECTED,
    TO_CHECK,
    check_voxels,
    edited_voxels,
    find_segment,
    label_map,
    mark_edited_semiautomatic,
    mark_semiautomatic,
    movement,
    point_now,
    result_grid,
    review_state,
    set_review_state,
    source_volume,
)
from ..structure_rows import NONE
from .messages import Message, MessageList, rough_duration, state_name
from .overlays import Overlays
from .result_record import RecordedStructure, ResultRecord
from .scene_results import SceneResults
from .structure_table import StructureTable

_STATUS = slicer.vtkSlicerSegmentationsModuleLogic


def jump_to(node: slicer.vtkMRMLTransformableNode, point_lps: Sequence[float]) -> None:
    """Centre all slice views on a point.

    Args:
        node: the node in whose coordinates the point is given; its parent transforms are applied.
        point_lps: LPS in mm.
    """
    _jump(node, point_lps, slicer.vtkMRMLSliceNode.CenteredJumpSlice)


def jump_to_slices(node: slicer.vtkMRMLTransformableNode, point_lps: Sequence[float]) -> None:
    """Show in all slice views the slice through a point, as :func:`jump_to`, but leave them centred where they are."""
    _jump(node, point_lps, slicer.vtkMRMLSliceNode.OffsetJumpSlice)


def _jump(node: slicer.vtkMRMLTransformableNode, point_lps: Sequence[float], mode: int) -> None:
    left, posterior, superior = point_lps
    world = [0.0, 0.0, 0.0]
    node.TransformPointToWorld((-left, -posterior, superior), world)
    slicer.vtkMRMLSliceNode.JumpAllSlices(node.GetScene(), *world, mode)


class ReviewList:
    """Lists the structures of one result. A click, or a key, shows one where it is most doubtful.

    Args:
        ui: holds structureTable, structureSearchBox, shareCheckBox, previousButton, nextButton and acceptButton.
        on_current: called when another structure is chosen.
    """

    def __init__(self, ui: Any, on_current: Callable[[], None]) -> None:
        self._ui = ui
        self._on_current = on_current
        self._node: slicer.vtkMRMLSegmentationNode | None = None
        self._record: ResultRecord | None = None
        self._changes: Mapping[int, tuple[int, int]] | None = None
        self._table = StructureTable(ui.structureTable, ui.structureSearchBox, ui.shareCheckBox, self._on_chosen)
        ui.nextButton.connect("clicked(bool)", lambda: self._move(1))
        ui.previousButton.connect("clicked(bool)", lambda: self._move(-1))
        ui.acceptButton.connect("clicked(bool)", self._on_accept)
        self.show(None, None)

    @property
    def current(self) -> RecordedStructure | None:
        """The structure that is chosen."""
        index = self._table.current
        return None if index is None or self._record is None else self._record.structures[index]

    def show(self, node: slicer.vtkMRMLSegmentationNode | None, record: ResultRecord | None) -> None:
        """List the structures of a result."""
        chosen = self.current.label.value if self.current and node is self._node else None
        self._node, self._record = node, record
        self._ui.structureTable.visible = record is not None
        values = [structure.label.value for structure in record.structures] if record else []
        self._table.fill(record, values.index(chosen) if chosen in values else None)
        self._show_present()
        self.refresh()

    def show_changes(self, changes: Mapping[int, tuple[int, int]] | None) -> None:
        """Show, instead of states, how many voxels each structure (by value) would gain and lose; None: states."""
        self._changes = changes
        self.refresh()

    def refresh(self) -> None:
        """Show the states, or changes, as they are now."""
        structures = self._record.structures if self._record else ()
        texts = {index: self._state_text(structure.label) for index, structure in enumerate(structures)}
        if self._changes is None:
            self._table.set_last_column(_("State"), texts, state_name(TO_CHECK))
        else:
            self._table.set_last_column(_("Change\n(voxels)"), texts, NONE)
        self._show_buttons()

    def mark_corrected(self) -> None:
        """Mark the structures as corrected that were edited since they were written.

        A status set by the user is kept: accepted, or flagged in another module.
        """
        if self._node is None or self._record is None:
            return
        for value, count in edited_voxels(self._node, self._record.labels).items():
            segment = self._segment(value)
            if not count or segment is None:
                continue
            mark_semiautomatic(segment)
            if _STATUS.GetSegmentStatus(segment) == _STATUS.NotStarted:
                set_review_state(segment, CORRECTED)
        self._show_present()
        self.refresh()

    def jump(self) -> None:
        """Move the slice views to where the structure that is chosen is most doubtful."""
        structure = self.current
        if structure is None or not structure.found:
            return
        jump_to(self._node, point_now(self._node, structure.centre_lps))
        if structure.doubtful_lps is not None:
            jump_to_slices(self._node, point_now(self._node, structure.doubtful_lps))

    def _show_present(self) -> None:
        """List the volumes and colours of the segments as they are now.

        Measuring takes time, and is left out where nobody has edited them.
        """
        if self._node is None or self._record is None:
            return
        segments = [self._segment(label.value) for label in self._record.labels]
        is_edited = any(segment is None or review_state(segment) != TO_CHECK for segment in segments)
        record = with_present_volumes(self._node, self._record) if is_edited else self._record
        pairs = zip(record.structures, segments, strict=True)
        self._table.set_structures(tuple(_with_color_of(structure, segment) for structure, segment in pairs))

    def _segment(self, value: int) -> slicer.vtkSegment | None:
        if self._node is None or self._record is None:
            return None
        label = next((label for label in self._record.labels if label.value == value), None)
        return find_segment(self._node.GetSegmentation(), label) if label is not None else None

    def _state_text(self, label: Label) -> str:
        if self._changes is not None:
            gained, lost = self._changes.get(label.value, (0, 0))
            return f"+{gained} \u2212{lost}" if gained or lost else NONE
        segment = self._segment(label.value)
        return state_name(review_state(segment)) if segment is not None else _("deleted")

    def _show_buttons(self) -> None:
        ui, structure = self._ui, self.current
        ui.nextButton.enabled = ui.previousButton.enabled = self._record is not None
        segment = self._segment(structure.label.value) if structure else None
        ui.acceptButton.enabled = segment is not None and self._changes is None
        accepted = segment is not None and review_state(segment) == ACCEPTED
        shortcut = ui.acceptButton.shortcut
        ui.acceptButton.text = _("Reopen (A)") if accepted else _("Accept (A)")
        ui.acceptButton.shortcut = shortcut  # setting the text clears it

    def _on_chosen(self) -> None:
        self.jump()
        self._show_buttons()
        self._on_current()

    def _move(self, step: int) -> None:
        """Go to another structure in the order of review, the least certain first, among those that are listed."""
        listed, index = self._table.listed, self._table.current
        if listed:
            self._table.choose(listed[(listed.index(index) + step) % len(listed) if index in listed else 0])

    def _on_accept(self) -> None:
        """Accept the structure and go to the next; reopen one that is accepted already."""
        segment = self._segment(self.current.label.value) if self.current is not None else None
        if segment is None:
            return
        if review_state(segment) == ACCEPTED:
            set_review_state(segment, TO_CHECK)
            self.mark_corrected()
            return
        set_review_state(segment, ACCEPTED)
        self.refresh()
        self._move(1)


class ResultView(VTKObservationMixin):
    """Shows one segmentation at a time.

    Attributes:
        review: the list of its structures.
        overlays: maps over the slice views.

    Args:
        ui: holds resultSection, resultLabel, findingFrame, show3DButton, undoButton, redoButton, and what the review
            list and the overlays need.
        results: undoes and redoes changes.
        on_changed: called when another structure is chosen, or the segmentation is replaced or edited.
        on_attention_requested: see :class:`Overlays`.
    """

    def __init__(
        self,
        ui: Any,
        results: SceneResults,
        on_changed: Callable[[], None],
        on_attention_requested: Callable[[], None],
    ) -> None:
        super().__init__()
        self._ui = ui
        self._results = results
        self._on_changed = on_changed
        self._node: slicer.vtkMRMLSegmentationNode | None = None
        self._segmentation: slicer.vtkSegmentation | None = None  # each frame of a sequence has its own
        self._record: ResultRecord | None = None
        self._closed = False
        self._opacity: tuple[str, float] | None = None  # ID of the display node, and what was set last
        self._undo_tip = ui.undoButton.toolTip
        self._findings = MessageList(ui.findingFrame)
        self.review = ReviewList(ui, on_changed)
        self.overlays = Overlays(ui, results, on_attention_requested)
        ui.undoButton.connect("clicked(bool)", self._on_undo)
        ui.redoButton.connect("clicked(bool)", self._on_redo)
        self._update(None)

    @property
    def node(self) -> slicer.vtkMRMLSegmentationNode | None:
        """The segmentation on show."""
        return self._node

    @property
    def record(self) -> ResultRecord | None:
        """Its record; None where it is no result of this module."""
        return self._record

    @property
    def findings(self) -> list[Message]:
        """The warnings on show."""
        return self._findings.shown

    def show(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Show this segmentation; the section is hidden where there is no result at all."""
        self._update(node)
        self._on_changed()

    def _update(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        record = ResultRecord.read(node)
        segmentations = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        self._ui.resultSection.visible = node is not None or any(map(ResultRecord.exists, segmentations))
        self._ui.show3DButton.setSegmentationNode(node)
        another = self._observe(node)
        if record != self._record or another:
            self._node, self._record = node, record
            self._findings.show([Message.of_finding(finding) for finding in record.findings] if record else [])
            self._ui.resultLabel.text = _summary(record) if record else _("No result of this module.")
            self.review.show(node, record)
        self._show_undo()
        self.overlays.show(node)

    def _observe(self, node: slicer.vtkMRMLSegmentationNode | None) -> bool:
        """Observe a node and its segments; whether it is another one, or shows another frame of a sequence now."""
        segmentation = node.GetSegmentation() if node is not None else None
        if node is self._node and segmentation is self._segmentation:
            return False
        self.removeObservers()
        self._segmentation = segmentation
        if node is not None and segmentation is not None:
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._on_modified)
            for event in (segmentation.SegmentAdded, segmentation.SegmentRemoved, segmentation.SegmentModified):
                self.addObserver(segmentation, event, self._on_segment)
        return True

    def set_opacity(self, opacity: float) -> None:
        """Set the opacity of the segmentation on show in all views, 0 to 1; later changes by other modules are kept."""
        display = self._node.GetDisplayNode() if self._node is not None else None
        if display is not None and self._opacity != (display.GetID(), opacity):
            display.SetOpacity(opacity)
            self._opacity = (display.GetID(), opacity)

    def close(self) -> None:
        """Stop observing."""
        self.removeObservers()
        self.overlays.close()
        self._node = self._segmentation = None
        self._closed = True

    def _on_modified(self, caller: slicer.vtkMRMLNode, event: str) -> None:
        self.show(self._node)

    def _on_segment(self, caller: slicer.vtkSegmentation, event: str) -> None:
        mark_edited_semiautomatic(caller)
        self.review.refresh()
        qt.QTimer.singleShot(0, self._show_undo)  # the undo history observes the same event, perhaps later

    def _show_undo(self) -> None:
        """Enable undo and redo where there is something to undo or redo."""
        if self._closed:
            return
        self._ui.undoButton.enabled = self._results.can_undo(self._node)
        self._ui.redoButton.enabled = self._results.can_redo(self._node)
        moved = self._node is not None and movement(self._node) is not None
        self._ui.undoButton.toolTip = _was_moved() if moved else self._undo_tip

    def _on_undo(self) -> None:
        self._results.undo(self._node)
        self.show(self._node)

    def _on_redo(self) -> None:
        self._results.redo(self._node)
        self.show(self._node)


def with_present_volumes(node: slicer.vtkMRMLSegmentationNode, record: ResultRecord) -> ResultRecord:
    """The record of a segmentation with the volumes that it has now; unchanged where they cannot be measured."""
    try:
        check_voxels(node)
        grid = result_grid(node, source_volume(node))
    except InputError:
        return record
    return record.with_volumes(label_map(node, record.labels, grid))


def _with_color_of(structure: RecordedStructure, segment: slicer.vtkSegment | None) -> RecordedStructure:
    """The structure in the colour of its segment, which the user may have changed."""
    if segment is None:
        return structure
    color = triple(round(255 * channel) for channel in segment.GetColor())
    return replace(structure, label=replace(structure.label, color=color))


def _was_moved() -> str:
    return _(
        "Not possible: this segmentation was moved by a hardened transform, or given another geometry, since its "
        "result was written."
    )


def _summary(record: ResultRecord) -> str:
    summary = _("{volume}: {model} {version}, {seconds} on {device}").format(
        volume=record.volume,
        model=record.model,
        version=record.model_version,
        seconds=rough_duration(record.seconds),
        device=record.device,
    )
    if record.adapted:
        summary = _("{summary}; recalibrated on corrected slices").format(summary=summary)
    volume = record.intracranial
    if volume is None:
        return summary
    intracranial = _("Intracranial volume {ml:.0f} \u00b1 {error:.0f} ml").format(ml=volume.ml, error=volume.error_ml)
    return f"{summary}\n{intracranial}"

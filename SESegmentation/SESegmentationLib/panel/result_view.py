"""The result on show: findings, the list for review, maps over the slice views, 3-D, opacity, undo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from ..mrml import ATTENTION, DOUBT, mark_edited_semiautomatic
from .messages import Message, MessageList, duration
from .result_record import ResultRecord
from .review import ReviewList
from .scene_results import SceneResults


class Overlays:
    """Shows one map at a time, of the segmentation on show.

    Args:
        ui: holds doubtCheckBox and attentionCheckBox.
        results: knows the doubt about results that were not reloaded.
        on_attention_requested: called to have the map of attention made, which takes time.
    """

    def __init__(self, ui: Any, results: SceneResults, on_attention_requested: Callable[[], None]) -> None:
        self._ui = ui
        self._results = results
        self._on_attention_requested = on_attention_requested
        self._node: slicer.vtkMRMLSegmentationNode | None = None
        self._doubt_tip = ui.doubtCheckBox.toolTip
        self._attention_available = False
        ui.doubtCheckBox.connect("clicked(bool)", self._on_doubt)
        ui.attentionCheckBox.connect("clicked(bool)", self._on_attention)

    def show(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Offer the maps of this segmentation."""
        self._node = node
        self.refresh()

    def set_attention_available(self, possible: bool) -> None:
        """Set whether the map of attention can be made now."""
        self._attention_available = possible
        self.refresh()

    def refresh(self) -> None:
        """Show which maps there are, and which one lies over the views: another module may have changed that."""
        node, ui = self._node, self._ui
        has_doubt = node is not None and (DOUBT.volume(node) is not None or self._results.doubt(node) is not None)
        ui.doubtCheckBox.enabled = has_doubt
        ui.doubtCheckBox.checked = node is not None and DOUBT.is_shown(node)
        ui.doubtCheckBox.toolTip = self._doubt_tip if has_doubt or node is None else _no_doubt()
        has_attention = node is not None and ATTENTION.volume(node) is not None
        ui.attentionCheckBox.enabled = has_attention or self._attention_available
        ui.attentionCheckBox.checked = has_attention and ATTENTION.is_shown(node)

    def _on_doubt(self, shown: bool) -> None:
        if shown:
            doubt = self._results.doubt(self._node)
            if DOUBT.volume(self._node) is None and doubt is not None:
                DOUBT.make(self._node, doubt)
            DOUBT.show(self._node)
        else:
            DOUBT.hide(self._node)
        self.refresh()

    def _on_attention(self, shown: bool) -> None:
        if not shown:
            ATTENTION.hide(self._node)
        elif ATTENTION.volume(self._node) is not None:
            ATTENTION.show(self._node)
        else:
            self._on_attention_requested()
        self.refresh()


def _no_doubt() -> str:
    return _("The map of doubt is kept with the scene only if it was shown. Segment again to have it.")


class ResultView(VTKObservationMixin):
    """Shows one segmentation at a time.

    Attributes:
        review: the list of its structures.
        overlays: maps over the slice views.

    Args:
        ui: holds resultSection, resultLabel, findingFrame, show3DButton, undoButton, redoButton, and what the review
            list and the overlays need.
        results: takes changes back, and makes them again.
        on_changed: called when another structure is chosen, or the segmentation is another or has changed.
        on_attention_requested: see :class:`.overlays.Overlays`.
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
        self._record: ResultRecord | None = None
        self._closed = False
        self._opacity: tuple[str, float] | None = None  # of which display node it was set last
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
        if node is not self._node:
            self.removeObservers()
            if node is not None:  # when another frame of a sequence is selected, the node shows the result of that one
                self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._on_modified)
                self.addObserver(node.GetSegmentation(), slicer.vtkSegmentation.SegmentModified, self._on_segment)
        if record != self._record or node is not self._node:
            self._node, self._record = node, record
            self._findings.show([Message.of_finding(finding) for finding in record.findings] if record else [])
            self._ui.resultLabel.text = _summary(record) if record else _("No result of this module.")
            self.review.show(node, record)
        self._show_undo()
        self.overlays.show(node)

    def set_opacity(self, opacity: float) -> None:
        """How opaque the segmentation on show is in all views, 0 to 1; what other modules make of it later counts."""
        display = self._node.GetDisplayNode() if self._node is not None else None
        if display is not None and self._opacity != (display.GetID(), opacity):
            display.SetOpacity(opacity)
            self._opacity = (display.GetID(), opacity)

    def close(self) -> None:
        """Stop observing."""
        self.removeObservers()
        self._node = None
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

    def _on_undo(self) -> None:
        self._results.undo(self._node)
        self.show(self._node)

    def _on_redo(self) -> None:
        self._results.redo(self._node)
        self.show(self._node)


def _summary(record: ResultRecord) -> str:
    summary = _("{volume}: {model} {version}, {seconds} on {device}").format(
        volume=record.volume,
        model=record.model,
        version=record.model_version,
        seconds=duration(record.seconds),
        device=record.device,
    )
    if record.adapted:
        summary = _("{summary}; recalibrated on corrected slices").format(summary=summary)
    volume = record.intracranial
    if volume is None:
        return summary
    intracranial = _("Intracranial volume {ml:.0f} \u00b1 {error:.0f} ml").format(ml=volume.ml, error=volume.error_ml)
    return f"{summary}\n{intracranial}"

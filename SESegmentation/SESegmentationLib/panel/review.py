"""The review: structures with volume, confidence and review state, the least certain first; views jump to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import slicer
from slicer.i18n import tr as _

from ..errors import InputError
from ..models import Label
from ..mrml import (
    ACCEPTED,
    CORRECTED,
    TO_CHECK,
    edited_voxels,
    find_segment,
    mark_semiautomatic,
    review_state,
    set_review_state,
    source_volume,
)
from .messages import state_name
from .result_record import RecordedStructure, ResultRecord
from .structure_rows import NONE
from .structure_table import StructureTable


def jump_to(node: slicer.vtkMRMLTransformableNode, point_lps: Sequence[float]) -> None:
    """Centre all slice views on a point.

    Args:
        node: the node in whose coordinates the point is given; where its parent transforms put it is where we go.
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


def open_segment_editor(node: slicer.vtkMRMLSegmentationNode, label: Label) -> None:
    """Go to the Segment Editor, with a structure of a segmentation selected, over the volume that it was made of.

    Raises:
        InputError: the volume or the structure's segment was removed.
    """
    volume = source_volume(node)
    segment = find_segment(node.GetSegmentation(), label)
    if segment is None:
        raise InputError(
            _("The segment {label} was deleted.").format(label=label.name), _("Undo that, or segment again.")
        )
    slicer.util.selectModule("SegmentEditor")
    editor = slicer.modules.SegmentEditorWidget.editor
    editor.setSegmentationNode(node)
    editor.setSourceVolumeNode(volume)
    editor.setCurrentSegmentID(node.GetSegmentation().GetSegmentIdBySegment(segment))


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
        """Mark the structures as corrected that were edited since they were written; what is accepted stays so."""
        if self._node is None or self._record is None:
            return
        for value, count in edited_voxels(self._node, self._record.labels).items():
            segment = self._segment(value)
            if not count or segment is None:
                continue
            mark_semiautomatic(segment)
            if review_state(segment) == TO_CHECK:
                set_review_state(segment, CORRECTED)
        self.refresh()

    def jump(self) -> None:
        """Move the slice views to where the structure that is chosen is most doubtful."""
        structure = self.current
        if structure is None or not structure.found:
            return
        jump_to(self._node, structure.centre_lps)
        if structure.doubtful_lps is not None:
            jump_to_slices(self._node, structure.doubtful_lps)

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
        ui.acceptButton.shortcut = shortcut  # a new text takes it away

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
        """Accept the structure and go to the next; one that is accepted is to be checked again."""
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

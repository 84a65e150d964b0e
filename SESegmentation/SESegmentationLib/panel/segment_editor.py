"""Slicer's Segment Editor: going there to correct a structure, and its own undo."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from ..errors import InputError
from ..models import Label
from ..mrml import find_segment, source_volume


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


def forget_editor_undo(node: slicer.vtkMRMLSegmentationNode) -> None:
    """Let the Segment Editor take back nothing that was done in a segmentation until now.

    It restores segments as they were before a stroke, not what is stored with them: a result that it took back would
    count as the clinician's correction of every slice. The panel's own undo takes back both.
    """
    module = getattr(slicer.modules, "SegmentEditorWidget", None)
    if module is None:  # it was not opened yet
        return
    edited = module.editor.segmentationNode()
    if edited is not None and edited.GetSegmentation() is node.GetSegmentation():
        editor = module.editor
        editor.setUndoEnabled(False)  # Slicer forgets all states where this changes
        editor.setUndoEnabled(True)

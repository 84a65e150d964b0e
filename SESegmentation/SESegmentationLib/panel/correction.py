"""Correcting a structure by hand, in Slicer's own Segment Editor."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from ..errors import InputError
from ..models import Label
from ..mrml import find_segment, referenced_node


def result_volume(node: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLScalarVolumeNode:
    """The volume that a segmentation was made of.

    Raises:
        InputError: it is no longer in the scene.
    """
    volume = referenced_node(node, node.GetReferenceImageGeometryReferenceRole(), "vtkMRMLScalarVolumeNode")
    if volume is None:
        raise InputError(
            _("The volume of {node} is no longer in the scene.").format(node=node.GetName()),
            _("Load it again and click Segment."),
        )
    return volume


def open_segment_editor(node: slicer.vtkMRMLSegmentationNode, label: Label) -> None:
    """Go to the Segment Editor, with a structure of a segmentation selected, over the volume that it was made of.

    Raises:
        InputError: the volume or the structure's segment is no longer there.
    """
    volume = result_volume(node)
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

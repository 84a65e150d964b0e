"""Volumes and segmentations laid over the slice views for a while: the map of doubt, and what a proposal changes."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import slicer

from .layers import BINARY_LABELMAP, oriented_image
from .segmentation import place_beside
from .volume import RAS_TO_LPS

_DOUBT_ROLE = "SESegmentation.Doubt"
_OPACITY = 0.5
_GAINED, _LOST = ("gained", (0.2, 0.9, 0.3)), ("lost", (0.95, 0.2, 0.2))


def doubt_volume(node: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The volume that shows the doubt about a segmentation; None where there is none yet."""
    return node.GetNodeReference(_DOUBT_ROLE)


def make_doubt_volume(node: slicer.vtkMRMLSegmentationNode, doubt: sitk.Image) -> None:
    """Put the doubt about a segmentation into the scene, as a volume beside it; one that is there shows it anew.

    Args:
        node: the segmentation.
        doubt: 0 to 1 on the segmented volume's grid.
    """
    volume, scene = doubt_volume(node), node.GetScene()
    if volume is None:
        name = scene.GenerateUniqueName(f"{node.GetName()} doubt")
        volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        node.SetNodeReferenceID(_DOUBT_ROLE, volume.GetID())
        place_beside(volume, node)
        volume.CreateDefaultDisplayNodes()
        _colour(volume.GetDisplayNode())
    steps = np.rint(255 * sitk.GetArrayViewFromImage(doubt)).astype(np.uint8)
    slicer.util.updateVolumeFromArray(volume, steps)
    volume.SetSpacing(doubt.GetSpacing())
    volume.SetOrigin(RAS_TO_LPS @ doubt.GetOrigin())
    volume.SetIJKToRASDirections(*(RAS_TO_LPS @ np.reshape(doubt.GetDirection(), (3, 3))).ravel())
    volume.SetAndObserveTransformNodeID(node.GetTransformNodeID())


def show_doubt(node: slicer.vtkMRMLSegmentationNode) -> None:
    """Lay the doubt about a segmentation over the slice views."""
    slicer.util.setSliceViewerLayers(foreground=doubt_volume(node), foregroundOpacity=_OPACITY)


def is_doubt_shown(node: slicer.vtkMRMLSegmentationNode) -> bool:
    """Whether the doubt about a segmentation lies over a slice view."""
    return bool(_views_with(doubt_volume(node)))


def hide_doubt(node: slicer.vtkMRMLSegmentationNode) -> None:
    """Take the doubt off the slice views; another foreground stays."""
    for view in _views_with(doubt_volume(node)):
        view.SetForegroundVolumeID(None)


def forget_doubt(node: slicer.vtkMRMLSegmentationNode) -> None:
    """The doubt is no longer that of the segmentation: remove its volume."""
    volume = doubt_volume(node)
    if volume is not None:
        hide_doubt(node)
        node.GetScene().RemoveNode(volume)


def _views_with(volume: slicer.vtkMRMLScalarVolumeNode | None) -> list[slicer.vtkMRMLSliceCompositeNode]:
    if volume is None:
        return []
    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode", volume.GetScene())
    return [view for view in views if view.GetForegroundVolumeID() == volume.GetID()]


def show_difference(
    node: slicer.vtkMRMLSegmentationNode, before: sitk.Image, after: sitk.Image
) -> slicer.vtkMRMLSegmentationNode:
    """Show what would change in a segmentation: voxels that structures gain and lose, in two colours.

    Returns:
        A node that selectors do not list and scenes do not save; remove it when it has served.
    """
    scene = node.GetScene()
    difference = scene.CreateNodeByClass("vtkMRMLSegmentationNode")
    difference.UnRegister(None)
    difference.SetName(f"{node.GetName()} proposal")
    difference.SetHideFromEditors(True)
    difference.SetSaveWithScene(False)
    scene.AddNode(difference)
    difference.CreateDefaultDisplayNodes()
    difference.SetAndObserveTransformNodeID(node.GetTransformNodeID())
    had, has = (sitk.GetArrayViewFromImage(image) for image in (before, after))
    changed = had != has
    for (name, color), inside in ((_GAINED, changed & (has > 0)), (_LOST, changed & (has == 0))):
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.SetColor(*color)
        segment.SetLabelValue(1)
        segment.AddRepresentation(BINARY_LABELMAP, oriented_image(inside.astype(np.uint8), before))
        difference.GetSegmentation().AddSegment(segment, name)
    display = difference.GetDisplayNode()
    display.SetOpacity2DFill(0.8)
    display.SetVisibility3D(False)
    return difference


def _colour(display: slicer.vtkMRMLScalarVolumeDisplayNode) -> None:
    """Red to white; what is hardly in doubt is not shown at all."""
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeIron")
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(0, 160)
    display.ApplyThresholdOn()
    display.SetThreshold(13, 255)

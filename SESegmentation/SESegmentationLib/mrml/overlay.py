"""Maps shown over the slice views: of doubt, of what networks looked at, and of what a proposal changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import slicer
import vtk

from ..geometry import Geometry
from ..io.volume_image import voxels_of
from .layers import BINARY_LABELMAP, oriented_image
from .place import REFERENCE_GEOMETRY, movement
from .references import add_companion_node, companion_node
from .volume import ijk_to_ras

_GAINED, _LOST = ("gained", (0.2, 0.9, 0.3)), ("lost", (0.95, 0.2, 0.2))
_OPACITY = 0.5
#: gates are clipped to this range, beyond which single precision is 0 or 1; a number below the log-odds of all gates
_CERTAIN, _UNSEEN = (1e-7, 1 - 1e-7), -20.0


@dataclass(frozen=True)
class Overlay:
    """A map over a segmented volume: a volume node beside the segmentation, created when the map is first shown.

    Attributes:
        role: of the volume among the segmentation's references.
        name: added to the segmentation's name.
        voxels: converts the map's values, 0 to 1, to those of the volume node.
        colour: sets up how the volume with these voxels is displayed.
    """

    role: str
    name: str
    voxels: Callable[[np.ndarray], np.ndarray]
    colour: Callable[[slicer.vtkMRMLScalarVolumeDisplayNode, np.ndarray], None]

    def volume(self, node: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLScalarVolumeNode | None:
        """The volume that shows the map of a segmentation; None where there is none yet."""
        return companion_node(node, self.role, "vtkMRMLScalarVolumeNode")

    def make(self, node: slicer.vtkMRMLSegmentationNode, image: sitk.Image) -> None:
        """Put the map of a segmentation into the scene, as a volume beside it, or into that volume if it exists.

        Args:
            node: the segmentation.
            image: 0 to 1 on the segmented volume's grid, where that was when the result was written.
        """
        volume = self.volume(node)
        voxels = self.voxels(voxels_of(image))
        if volume is None:
            name = f"{node.GetName()} {self.name}"
            volume = add_companion_node(node, self.role, "vtkMRMLScalarVolumeNode", name)
            volume.CreateDefaultDisplayNodes()
            self.colour(volume.GetDisplayNode(), voxels)
        slicer.util.updateVolumeFromArray(volume, voxels)
        to_ras, moved = slicer.util.arrayFromVTKMatrix(ijk_to_ras(Geometry.of(image))), movement(node)
        volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(to_ras if moved is None else moved @ to_ras))
        volume.SetAndObserveTransformNodeID(node.GetTransformNodeID())

    def follow(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Put the map of a segmentation, if there is one, where its segments are: under the same transform."""
        volume = self.volume(node)
        if volume is None or volume.GetTransformNodeID() == node.GetTransformNodeID():
            return
        if _was_hardened(node, volume):
            volume.HardenTransform()
        volume.SetAndObserveTransformNodeID(node.GetTransformNodeID())

    def show(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Lay the map of a segmentation over the slice views, in place of another foreground."""
        self.follow(node)  # it may have been moved while another segmentation was on show
        slicer.util.setSliceViewerLayers(foreground=self.volume(node), foregroundOpacity=_OPACITY)

    def is_shown(self, node: slicer.vtkMRMLSegmentationNode) -> bool:
        """Whether the map of a segmentation lies over a slice view."""
        return bool(_views_with(self.volume(node)))

    def hide(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Take the map off the slice views; another foreground stays."""
        for view in _views_with(self.volume(node)):
            view.SetForegroundVolumeID(None)

    def remove(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Remove the volume with the map: the segmentation holds another result."""
        volume = self.volume(node)
        if volume is not None:
            self.hide(node)
            node.GetScene().RemoveNode(volume)


def _was_hardened(node: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode) -> bool:
    """Whether the transform over a map was applied to the segments for good: then their grid lies where the map does.

    Otherwise the segments were taken out of it, and are back where they were.
    """
    parent = volume.GetParentTransformNode()
    if parent is None or not parent.IsTransformToWorldLinear():
        return False
    grid, place = slicer.vtkOrientedImageData(), node.GetSegmentation().GetConversionParameter(REFERENCE_GEOMETRY)
    if not slicer.vtkSegmentationConverter.DeserializeImageGeometry(place, grid, False):
        return False
    to_ras, to_world, grid_to_ras = (vtk.vtkMatrix4x4() for _ in range(3))
    volume.GetIJKToRASMatrix(to_ras)
    parent.GetMatrixTransformToWorld(to_world)
    grid.GetImageToWorldMatrix(grid_to_ras)
    here = slicer.util.arrayFromVTKMatrix(to_world) @ slicer.util.arrayFromVTKMatrix(to_ras)
    return np.allclose(here, slicer.util.arrayFromVTKMatrix(grid_to_ras), atol=1e-3)


def remove_maps_without_owner(volumes: Sequence[slicer.vtkMRMLScalarVolumeNode]) -> None:
    """Remove maps from the scene whose segmentation was removed; not those to which a copy of it refers."""
    for volume in volumes:
        scene = volume.GetScene()
        if scene is None:
            continue
        nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode", scene)
        if not any(overlay.volume(node) is volume for overlay in (DOUBT, ATTENTION) for node in nodes):
            scene.RemoveNode(volume)


def _views_with(volume: slicer.vtkMRMLScalarVolumeNode | None) -> list[slicer.vtkMRMLSliceCompositeNode]:
    if volume is None:
        return []
    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode", volume.GetScene())
    return [view for view in views if view.GetForegroundVolumeID() == volume.GetID()]


def _quantized(doubt: np.ndarray) -> np.ndarray:
    """Doubt in steps of 1/255, a quarter of the memory of single precision."""
    return doubt if doubt.dtype == np.uint8 else np.rint(255 * doubt).astype(np.uint8)


def _colour_doubt(display: slicer.vtkMRMLScalarVolumeDisplayNode, voxels: np.ndarray) -> None:
    """Red to white; what is hardly in doubt is not shown at all."""
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeIron")
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(0, 160)
    display.ApplyThresholdOn()
    display.SetThreshold(13, 255)


def _log_odds(gates: np.ndarray) -> np.ndarray:
    """Gates as log-odds, which tell apart those close to 1; voxels that the networks did not see lie below all."""
    inside = np.clip(gates, *_CERTAIN)
    return np.where(gates > 0, np.log(inside / (1 - inside)), _UNSEEN).astype(np.float32)


def _colour_attention(display: slicer.vtkMRMLScalarVolumeDisplayNode, voxels: np.ndarray) -> None:
    """Blue to white over the range of the values."""
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeOcean")
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(*value_range(voxels, _UNSEEN))
    display.ApplyThresholdOn()
    display.SetThreshold(_UNSEEN + 1, -_UNSEEN)


def value_range(values: np.ndarray, above: float = 0.0) -> tuple[float, float]:
    """The 1st and 99th percentile of the values greater than ``above``."""
    part = values[::2, ::2, ::2]  # a part of many is enough
    part = part[part > above]
    if not part.size:
        return above, above + 1
    low, high = np.percentile(part, (1, 99)).tolist()
    return low, max(high, low + 1e-6)


#: where the label may be wrong, and where the networks looked
DOUBT = Overlay("SESegmentation.Doubt", "doubt", _quantized, _colour_doubt)
ATTENTION = Overlay("SESegmentation.Attention", "attention", _log_odds, _colour_attention)


def show_difference(
    node: slicer.vtkMRMLSegmentationNode, before: sitk.Image, after: sitk.Image
) -> slicer.vtkMRMLSegmentationNode:
    """Show what would change in a segmentation: voxels that structures gain and lose, in two colours.

    Returns:
        A node that selectors do not list and scenes do not save; for :func:`remove_difference`.
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
    had, has = (voxels_of(image) for image in (before, after))
    changed = had != has
    for (name, color), inside in ((_GAINED, changed & (has > 0)), (_LOST, changed & (has == 0))):
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.SetColor(*color)
        segment.SetLabelValue(1)
        segment.AddRepresentation(BINARY_LABELMAP, oriented_image(inside.astype(np.uint8), before))
        difference.GetSegmentation().AddSegment(segment, name)
    display = difference.GetDisplayNode()
    display.SetSaveWithScene(False)
    display.SetOpacity2DFill(0.8)
    display.SetVisibility3D(False)
    return difference


def remove_difference(difference: slicer.vtkMRMLSegmentationNode) -> None:
    """Remove what :func:`show_difference` has put into the scene, also its display node, which would stay."""
    scene = difference.GetScene()
    if scene is not None:
        for node in (difference.GetDisplayNode(), difference):
            scene.RemoveNode(node)

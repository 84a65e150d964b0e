"""The check boxes that show a map over the slice views: of doubt, or of what the networks looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from ..mrml import ATTENTION, DOUBT, remove_maps_without_owner
from .scene_results import SceneResults

_MAPS = (DOUBT, ATTENTION)


class Overlays(VTKObservationMixin):
    """Shows one map at a time, of the segmentation on show.

    Args:
        ui: holds doubtCheckBox and attentionCheckBox.
        results: holds the maps of doubt of the results that it has written.
        on_attention_requested: called to compute the map of attention, which takes time.
    """

    def __init__(self, ui: Any, results: SceneResults, on_attention_requested: Callable[[], None]) -> None:
        super().__init__()
        self._ui = ui
        self._results = results
        self._on_attention_requested = on_attention_requested
        self._node: slicer.vtkMRMLSegmentationNode | None = None
        self._doubt_tip = ui.doubtCheckBox.toolTip
        self._attention_available = False
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.NodeAboutToBeRemovedEvent, self._on_node_removed)
        ui.doubtCheckBox.connect("clicked(bool)", self._on_doubt)
        ui.attentionCheckBox.connect("clicked(bool)", self._on_attention)

    def show(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Offer the maps of this segmentation; those of the one before are taken off the views."""
        if node is not self._node:
            if self._node is not None:
                self.removeObserver(self._node, self._node.TransformModifiedEvent, self._on_moved)
                for overlay in _MAPS:
                    overlay.hide(self._node)
            if node is not None:
                self.addObserver(node, node.TransformModifiedEvent, self._on_moved)
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

    def close(self) -> None:
        """Stop observing."""
        self.removeObservers()

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

    def _on_moved(self, caller: slicer.vtkMRMLSegmentationNode, event: str) -> None:
        for overlay in _MAPS:
            overlay.follow(caller)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_node_removed(self, caller: slicer.vtkMRMLScene, event: str, node: slicer.vtkMRMLNode) -> None:
        """A segmentation takes its maps along; later, because whoever removes several nodes may hold them as well."""
        if not node.IsA("vtkMRMLSegmentationNode"):
            return
        maps = [volume for volume in (overlay.volume(node) for overlay in _MAPS) if volume is not None]
        if maps:
            qt.QTimer.singleShot(0, lambda: remove_maps_without_owner(maps))


def _no_doubt() -> str:
    return _("The map of doubt is kept with the scene only if it was shown. Segment again to get it.")

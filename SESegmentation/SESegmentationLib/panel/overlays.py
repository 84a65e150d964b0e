"""The check boxes that lay maps over the slice views: where there is doubt, and what the networks looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
from slicer.i18n import tr as _

from ..mrml import ATTENTION, DOUBT
from .scene_results import SceneResults


class Overlays:
    """Shows one map at a time, of the segmentation on show.

    Args:
        ui: holds doubtCheckBox and attentionCheckBox.
        results: knows the doubt about results that were not reloaded.
        on_attention_wanted: called to see to it that the map of attention is made; it takes time.
    """

    def __init__(self, ui: Any, results: SceneResults, on_attention_wanted: Callable[[], None]) -> None:
        self._ui = ui
        self._results = results
        self._on_attention_wanted = on_attention_wanted
        self._node: slicer.vtkMRMLSegmentationNode | None = None
        self._doubt_tip = ui.doubtCheckBox.toolTip
        self._can_attend = False
        ui.doubtCheckBox.connect("clicked(bool)", self._on_doubt)
        ui.attentionCheckBox.connect("clicked(bool)", self._on_attention)

    def show(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Offer the maps of this segmentation, and say which lies over the views."""
        self._node = node
        self.refresh()

    def let_attend(self, possible: bool) -> None:
        """Whether the map of attention can be made now."""
        self._can_attend = possible
        self.refresh()

    def refresh(self) -> None:
        """Say what is so now; another module may have changed the views."""
        node, ui = self._node, self._ui
        known = node is not None and (DOUBT.volume(node) is not None or self._results.doubt(node) is not None)
        ui.doubtCheckBox.enabled = known
        ui.doubtCheckBox.checked = node is not None and DOUBT.is_shown(node)
        ui.doubtCheckBox.toolTip = self._doubt_tip if known or node is None else _no_doubt()
        there = node is not None and ATTENTION.volume(node) is not None
        ui.attentionCheckBox.enabled = there or self._can_attend
        ui.attentionCheckBox.checked = there and ATTENTION.is_shown(node)

    def _on_doubt(self, shown: bool) -> None:
        if shown:
            if DOUBT.volume(self._node) is None:
                DOUBT.make(self._node, self._results.doubt(self._node))
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
            self._on_attention_wanted()
        self.refresh()


def _no_doubt() -> str:
    return _("The map of doubt is kept with the scene only if it was shown. Segment again to have it.")

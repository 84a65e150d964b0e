"""Moving the slice views to a place."""

from __future__ import annotations

from collections.abc import Sequence

import slicer


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

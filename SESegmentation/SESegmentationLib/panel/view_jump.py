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
    left, posterior, superior = point_lps
    world = [0.0, 0.0, 0.0]
    node.TransformPointToWorld((-left, -posterior, superior), world)
    slicer.vtkMRMLSliceNode.JumpAllSlices(node.GetScene(), *world, slicer.vtkMRMLSliceNode.CenteredJumpSlice)

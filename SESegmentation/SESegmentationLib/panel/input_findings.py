"""What about a volume does not fit a model, as far as it can be said at once, before anything is computed."""

from __future__ import annotations

import numpy as np
import slicer
import vtk

from ..models import ModelCard
from ..quality.input_checks import check_header
from ..result import Finding


def input_findings(node: slicer.vtkMRMLScalarVolumeNode, card: ModelCard, has_region: bool) -> list[Finding]:
    """Findings about a volume node that can be segmented.

    Args:
        node: the volume; its parent transform is left out, as in the segmentation.
        card: the model.
        has_region: only a part is to be segmented: then the size of the whole does not matter.
    """
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASDirectionMatrix(matrix)
    directions = np.abs(slicer.util.arrayFromVTKMatrix(matrix)[:3, :3])
    spacing = np.array(node.GetSpacing())
    image = node.GetImageData()
    ignored = set()
    if has_region:
        ignored |= {"small-field", "large-field"}
    elif card.pipeline is not None:  # in a large field of view another model finds the place first
        ignored.add("large-field")
    extent = directions @ (spacing * image.GetDimensions())
    findings = check_header(extent, spacing[directions.argmax(axis=1)], image.GetScalarRange()[0], card)
    return [finding for finding in findings if finding.code not in ignored]

"""Parameters that were adapted to a patient, a text beside the segmentation: a small file, saved with the scene."""

from __future__ import annotations

import base64
import binascii

import slicer

from .segmentation import place_beside

_ROLE = "SESegmentation.Adapted"


def adapted_parameters(node: slicer.vtkMRMLSegmentationNode) -> bytes | None:
    """The file of adapted parameters that belongs to a segmentation; None where there is none that can be read."""
    text = node.GetNodeReference(_ROLE)
    try:
        return base64.b64decode(text.GetText(), validate=True) or None if text is not None else None
    except (binascii.Error, TypeError):  # changed by hand, or empty
        return None


def keep_adapted_parameters(node: slicer.vtkMRMLSegmentationNode, content: bytes | None) -> None:
    """Keep a file of adapted parameters with a segmentation, in place of the one before; None: keep none."""
    scene, text = node.GetScene(), node.GetNodeReference(_ROLE)
    if content is None:
        if text is not None:
            scene.RemoveNode(text)
        return
    if text is None:
        name = scene.GenerateUniqueName(f"{node.GetName()} adapted parameters")
        text = scene.AddNewNodeByClass("vtkMRMLTextNode", name)
        node.SetNodeReferenceID(_ROLE, text.GetID())
        place_beside(text, node)
    text.SetText(base64.b64encode(content).decode())

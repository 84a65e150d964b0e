"""Parameters that were adapted to a patient, a text beside the segmentation: a small file, saved with the scene."""

from __future__ import annotations

import base64
import binascii

import slicer

from ..refine.adapted_file import AdaptedNotes
from .made import made_node, refer_to_made
from .segmentation import place_beside

_ROLE = "SESegmentation.Adapted"
#: characters; squeeze & excitation blocks have some hundred thousand numbers, of 4 bytes, at most
_LONGEST = 2**25


def adapted_text(node: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLTextNode | None:
    """The node that keeps the file of adapted parameters of a segmentation; None where there is none."""
    return made_node(node, _ROLE, "vtkMRMLTextNode")


def adapted_parameters(node: slicer.vtkMRMLSegmentationNode) -> bytes | None:
    """The file of adapted parameters that belongs to a segmentation; None where there is none that can be used."""
    text = adapted_text(node)
    written = text.GetText() if text is not None else None
    if not written or len(written) > _LONGEST:
        return None
    try:
        content = base64.b64decode(written, validate=True)
    except (binascii.Error, ValueError):  # changed by hand
        return None
    return content if AdaptedNotes.read(content) is not None else None


def keep_adapted_parameters(node: slicer.vtkMRMLSegmentationNode, content: bytes | None) -> None:
    """Keep a file of adapted parameters with a segmentation, in place of the one before; None: keep none."""
    scene, text = node.GetScene(), adapted_text(node)
    if content is None:
        if text is not None:
            scene.RemoveNode(text)
        return
    if text is None:
        name = scene.GenerateUniqueName(f"{node.GetName()} adapted parameters")
        text = scene.AddNewNodeByClass("vtkMRMLTextNode", name)
        refer_to_made(node, _ROLE, text)
        place_beside(text, node)
    text.SetText(base64.b64encode(content).decode())

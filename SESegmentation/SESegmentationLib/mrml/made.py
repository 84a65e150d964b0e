"""Nodes that this module makes for a segmentation: maps, tables, adapted networks.

Scenes come from anywhere, and a reference may name any node. What was not made for the purpose is neither changed nor
removed, whatever a reference says.
"""

from __future__ import annotations

import slicer

_MADE_FOR = "SESegmentation.MadeFor"


def made_node(owner: slicer.vtkMRMLNode, role: str, kind: str) -> slicer.vtkMRMLNode | None:
    """The node of a class that was made for this role of ``owner``; None where there is none."""
    node = referenced_node(owner, role, kind)
    return node if node is not None and node.GetAttribute(_MADE_FOR) == role else None


def refer_to_made(owner: slicer.vtkMRMLNode, role: str, node: slicer.vtkMRMLNode) -> None:
    """Say that a node was made for this role of ``owner``."""
    node.SetAttribute(_MADE_FOR, role)
    owner.SetNodeReferenceID(role, node.GetID())


def referenced_node(owner: slicer.vtkMRMLNode, role: str, kind: str) -> slicer.vtkMRMLNode | None:
    """The node of a class to which ``owner`` refers; None where there is none, or it is of another class."""
    node = owner.GetNodeReference(role)
    return node if node is not None and node.IsA(kind) else None

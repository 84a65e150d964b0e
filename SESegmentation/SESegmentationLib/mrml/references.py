"""What belongs to a node: other nodes, by the roles of node references, and the history of changes to undo.

Scenes are not trusted, and a reference may name any node. Nodes not made for the purpose are neither changed nor
removed, whatever a reference says.
"""

from __future__ import annotations

import base64
import binascii

import slicer
from slicer.i18n import tr as _

from ..adapted_notes import AdaptedNotes
from ..errors import InputError
from .place import GEOMETRY_ROLE, VOLUME_ROLE, movement

_MADE_FOR = "SESegmentation.MadeFor"
_ADAPTED_ROLE = "SESegmentation.Adapted"
#: characters; squeeze & excitation blocks have some hundred thousand numbers, of 4 bytes, at most
_LONGEST_ADAPTED = 2**25


def companion_node(owner: slicer.vtkMRMLNode, role: str, class_name: str) -> slicer.vtkMRMLNode | None:
    """The node of a class that was made for this role of ``owner``; None where there is none."""
    node = referenced_node(owner, role, class_name)
    return node if node is not None and node.GetAttribute(_MADE_FOR) == role else None


def is_companion(node: slicer.vtkMRMLNode) -> bool:
    """Whether a node was made for another one, as its map or table; a copy of such a node counts as well."""
    return node.GetAttribute(_MADE_FOR) is not None


def add_companion_node(owner: slicer.vtkMRMLNode, role: str, class_name: str, name: str) -> slicer.vtkMRMLNode:
    """Put a node for this role of ``owner`` into the scene, beside ``owner``.

    Args:
        owner: refers to the node.
        role: of the reference.
        class_name: of the node.
        name: of the node; a number is added where the scene has a node of that name.
    """
    scene = owner.GetScene()
    node = scene.CreateNodeByClass(class_name)
    node.UnRegister(None)
    node.SetName(scene.GenerateUniqueName(name))
    node.SetAttribute(_MADE_FOR, role)  # before it is added, for the observers of its addition
    scene.AddNode(node)
    owner.SetNodeReferenceID(role, node.GetID())
    place_beside(node, owner)
    return node


def referenced_node(owner: slicer.vtkMRMLNode, role: str, class_name: str) -> slicer.vtkMRMLNode | None:
    """The node of a class to which ``owner`` refers; None where there is none, or it is of another class."""
    node = owner.GetNodeReference(role)
    return node if node is not None and node.IsA(class_name) else None


def segmented_volume(node: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The volume that a segmentation was made of; None where it is no longer in the scene, or not known.

    Where no result says which it was, as in scenes of earlier versions, it is the one that gave it its geometry.
    """
    role = VOLUME_ROLE if node.GetNumberOfNodeReferences(VOLUME_ROLE) else GEOMETRY_ROLE
    return referenced_node(node, role, "vtkMRMLScalarVolumeNode")


def source_volume(node: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLScalarVolumeNode:
    """The volume that a segmentation was made of.

    Raises:
        InputError: it is no longer in the scene, or the segmentation does not refer to it.
    """
    volume = segmented_volume(node)
    if volume is None:
        raise InputError(
            # the module Data copies a segmentation without its references
            _("The volume of {node} is no longer in the scene, or {node} is a copy that does not refer to it.").format(
                node=node.GetName()
            ),
            _("Choose the volume, loading it again if need be, and {node} as the output, and click Segment.").format(
                node=node.GetName()
            ),
        )
    return volume


def place_beside(node: slicer.vtkMRMLNode, volume: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Put a node into the volume's folder or study, and store which DICOM images it comes from.

    DICOM export of a segmentation asks for both: the study, and the images that it refers to. A node that the user has
    put into another folder stays there.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volume.GetScene())
    beside = hierarchy.GetItemByDataNode(volume)
    if not beside:
        return
    top = hierarchy.GetSceneItemID()
    item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(top, node)
    if hierarchy.GetItemParent(item) == top:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(beside))
    constants = slicer.vtkMRMLSubjectHierarchyConstants
    images = volume.GetAttribute("DICOM.instanceUIDs") or hierarchy.GetItemUID(
        beside, constants.GetDICOMInstanceUIDName()
    )
    if images:
        hierarchy.SetItemAttribute(item, constants.GetDICOMReferencedInstanceUIDsAttributeName(), images)


def adapted_text_node(node: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLTextNode | None:
    """The text node with the file of adapted parameters of a segmentation; None where there is none."""
    return companion_node(node, _ADAPTED_ROLE, "vtkMRMLTextNode")


def adapted_parameters(node: slicer.vtkMRMLSegmentationNode) -> bytes | None:
    """The file of adapted parameters that belongs to a segmentation; None where there is none that can be used."""
    text = adapted_text_node(node)
    written = text.GetText() if text is not None else None
    if not written or len(written) > _LONGEST_ADAPTED:
        return None
    try:
        content = base64.b64decode(written, validate=True)
    except (binascii.Error, ValueError):  # changed by hand
        return None
    return content if AdaptedNotes.read(content) is not None else None


def require_adapted_parameters(node: slicer.vtkMRMLSegmentationNode) -> bytes:
    """The file of adapted parameters that belongs to a segmentation; InputError where there is none."""
    content = adapted_parameters(node)
    if content is None:
        raise InputError(
            _("{name} has no recalibrated network that can be used.").format(name=node.GetName()),
            _("Recalibrate again, or segment with the model's own network."),
        )
    return content


def set_adapted_parameters(node: slicer.vtkMRMLSegmentationNode, content: bytes | None) -> None:
    """Store a file of adapted parameters with a segmentation, in place of the one before; None: store none."""
    text = adapted_text_node(node)
    if content is None:
        if text is not None:
            node.GetScene().RemoveNode(text)
        return
    if text is None:
        text = add_companion_node(node, _ADAPTED_ROLE, "vtkMRMLTextNode", f"{node.GetName()} adapted parameters")
    text.SetText(base64.b64encode(content).decode())


class UndoHistory:
    """States of segmentations before this program changed them.

    A state holds everything: voxels, names, colours, terminology, status. Segments keep their IDs. In a sequence each
    frame has its own history, and what is undone is the frame that the node shows.

    Args:
        maximum: states kept for each segmentation; older ones are forgotten.

    Example::

        history.save(node)
        update_segmentation(node, labels, structures)
        history.undo(node)
    """

    def __init__(self, maximum: int = 5) -> None:
        self._maximum = maximum
        # the nodes tell whether the segmentations are still in use
        self._histories: list[tuple[slicer.vtkMRMLSegmentationNode, slicer.vtkSegmentationHistory]] = []

    def save(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Keep the present state, so that the next change can be undone."""
        self._histories = [entry for entry in self._histories if entry[0].GetScene() is not None]
        history = self._find(node)
        if history is None:
            history = slicer.vtkSegmentationHistory()
            history.SetMaximumNumberOfStates(self._maximum)
            history.SetSegmentation(node.GetSegmentation())
            self._histories.append((node, history))
        history.SaveState()

    def can_undo(self, node: slicer.vtkMRMLSegmentationNode | None) -> bool:
        """Whether there is a change of this segmentation to undo, and its states lie where the segments are now."""
        history = self._find(node)
        return history is not None and movement(node) is None and bool(history.IsRestorePreviousStateAvailable())

    def can_redo(self, node: slicer.vtkMRMLSegmentationNode | None) -> bool:
        """Whether a change of this segmentation was undone and can be redone, likewise."""
        history = self._find(node)
        return history is not None and movement(node) is None and bool(history.IsRestoreNextStateAvailable())

    def undo(self, node: slicer.vtkMRMLSegmentationNode) -> bool:
        """Undo the last change. Returns whether there was one."""
        history = self._find(node)
        return history is not None and self.can_undo(node) and bool(history.RestorePreviousState())

    def redo(self, node: slicer.vtkMRMLSegmentationNode) -> bool:
        """Redo the change that was undone last. Returns whether there was one."""
        history = self._find(node)
        return history is not None and self.can_redo(node) and bool(history.RestoreNextState())

    def _find(self, node: slicer.vtkMRMLSegmentationNode | None) -> slicer.vtkSegmentationHistory | None:
        segmentation = node.GetSegmentation() if node is not None else None
        return next((history for _, history in self._histories if history.GetSegmentation() is segmentation), None)

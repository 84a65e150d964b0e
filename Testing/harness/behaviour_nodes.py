"""What the widgets do that show nodes of the scene."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import shiboken6
import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets

from .widgets import behaviour, emit


class Observations:
    """Observers of a widget, which end with it: VTK would go on to call a widget that Qt has deleted."""

    def __init__(self, widget: QtWidgets.QWidget, callback: Callable[[], None]) -> None:
        self._widget = widget
        self._callback = callback
        self._tags: list[tuple[vtk.vtkObject, int]] = []

    def observe(self, target: vtk.vtkObject, *events: int) -> None:
        """Call the callback on these events of ``target``, when the scene's own observers are through."""
        self._tags += [(target, target.AddObserver(event, self._on_event, -1.0)) for event in events]

    def stop(self) -> None:
        """End all observations."""
        for target, tag in self._tags:
            target.RemoveObserver(tag)
        self._tags = []

    def _on_event(self, caller: vtk.vtkObject, event: str) -> None:
        widget = vars(self).get("_widget")  # nothing is left of an object that is being collected as garbage
        if widget is None:
            return
        if shiboken6.isValid(widget):
            self._callback()
        else:
            self.stop()


@behaviour("qSlicerWidget")
class SceneHolder:
    """Keeps the scene and passes it on."""

    _scene: slicer.vtkMRMLScene | None = None

    def setMRMLScene(self, scene: slicer.vtkMRMLScene | None) -> None:
        if scene is not self._scene:
            self._scene = scene
            emit(self, "mrmlSceneChanged(vtkMRMLScene*)", scene)


@behaviour("qMRMLWidget")
class SceneWidget(SceneHolder):
    """Tells its scene as well."""

    def mrmlScene(self) -> slicer.vtkMRMLScene | None:
        return self._scene


@behaviour("qMRMLSliderWidget")
class UnitSlider:
    """A slider in the scene's units; the units are not modelled."""

    _scene: slicer.vtkMRMLScene | None = None

    def setMRMLScene(self, scene: slicer.vtkMRMLScene | None) -> None:
        self._scene = scene

    def mrmlScene(self) -> slicer.vtkMRMLScene | None:
        return self._scene


class SortFilterProxyModel:
    """The part of qMRMLSortFilterProxyModel that leaves out nodes by their IDs; anything else is not modelled."""

    __slots__ = ("_changed", "_hidden")

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._hidden: tuple[str, ...] = ()

    @property
    def hiddenNodeIDs(self) -> tuple[str, ...]:  # noqa: N802 - its name in Slicer
        return self._hidden

    @hiddenNodeIDs.setter
    def hiddenNodeIDs(self, identifiers: list[str] | tuple[str, ...]) -> None:  # noqa: N802
        if tuple(identifiers) != self._hidden:
            self._hidden = tuple(identifiers)
            self._changed()


@behaviour("qMRMLNodeComboBox")
class NodeComboBox:
    """Chooses a node of given classes. It follows the scene; without "None" it always shows a node if there is one."""

    _defaults = {
        "addEnabled": True,
        "removeEnabled": True,
        "showChildNodeTypes": True,
        "selectNodeUponCreation": True,
        "noneDisplay": "None",
    }
    _scene: slicer.vtkMRMLScene | None = None

    def _init(self) -> None:
        self._combo = QtWidgets.QComboBox(self)
        self._combo.currentIndexChanged.connect(lambda index: self._report())
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        self._ids: list[str | None] = []  # one for each row
        self._attributes: list[tuple[str, str, Any]] = []
        self._reported: str | None = None
        self._filling = False
        self._proxy = SortFilterProxyModel(self._fill)
        self._of_scene = Observations(self, self._fill)
        self._of_nodes = Observations(self, self._update_names)

    def setMRMLScene(self, scene: slicer.vtkMRMLScene | None) -> None:
        self._of_scene.stop()
        self._scene = scene
        if scene is not None:
            events = slicer.vtkMRMLScene
            self._of_scene.observe(
                scene, events.NodeAddedEvent, events.NodeRemovedEvent, events.EndCloseEvent, events.EndImportEvent
            )
        self._fill()

    def mrmlScene(self) -> slicer.vtkMRMLScene | None:
        return self._scene

    def currentNode(self) -> slicer.vtkMRMLNode | None:
        identifier = self._current_id()
        return self._scene.GetNodeByID(identifier) if self._scene is not None and identifier else None

    def setCurrentNode(self, node: slicer.vtkMRMLNode | str | None) -> None:
        identifier = (node if isinstance(node, str) or node is None else node.GetID()) or None
        fallback = 0 if self.noneEnabled and self._ids else -1
        self._combo.setCurrentIndex(self._ids.index(identifier) if identifier in self._ids else fallback)

    def setCurrentNodeID(self, identifier: str) -> None:
        self.setCurrentNode(identifier)

    def setCurrentNodeIndex(self, index: int) -> None:
        self.setCurrentNode(self.nodeFromIndex(index))

    def sortFilterProxyModel(self) -> SortFilterProxyModel:
        return self._proxy

    def nodeCount(self) -> int:
        return len(self._nodes())

    def nodeFromIndex(self, index: int) -> slicer.vtkMRMLNode:
        return self._nodes()[index]

    def addAttribute(self, node_type: str, name: str, value: Any = None) -> None:
        self._attributes.append((node_type, name, value))
        self._fill()

    def removeAttribute(self, node_type: str, name: str) -> None:
        self._attributes = [entry for entry in self._attributes if entry[:2] != (node_type, name)]
        self._fill()

    def addNode(self, node_type: str | None = None) -> slicer.vtkMRMLNode:
        node_type = node_type or self.nodeTypes[0]
        base = self.baseName or slicer.mrmlScene.GetTagByClassName(node_type) or node_type
        node = self._scene.AddNewNodeByClass(node_type, self._scene.GenerateUniqueName(base))
        for kind, name, value in self._attributes:
            if node.IsA(kind):
                node.SetAttribute(name, "" if value is None else str(value))
        self._fill()
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        emit(self, "nodeAdded(vtkMRMLNode*)", node)
        emit(self, "nodeAddedByUser(vtkMRMLNode*)", node)  # deprecated in 5.12
        emit(self, "nodeAddedByUserAction(vtkMRMLNode*)", node)
        return node

    def removeCurrentNode(self) -> None:
        self._scene.RemoveNode(self.currentNode())

    def _matching(self) -> list[slicer.vtkMRMLNode]:
        """The scene's nodes that are shown; properties are asked once, and not again for each of hundreds of nodes."""
        hidden, children = self.showHidden, self.showChildNodeTypes
        kinds, left_out = self.nodeTypes, self.hideChildNodeTypes

        def matches(node: slicer.vtkMRMLNode) -> bool:
            if (node.GetHideFromEditors() and not hidden) or node.GetID() in self._proxy.hiddenNodeIDs:
                return False
            wanted = any(node.IsA(kind) if children else node.GetClassName() == kind for kind in kinds)
            if not wanted or any(node.IsA(kind) for kind in left_out):
                return False
            filters = [(name, value) for kind, name, value in self._attributes if node.IsA(kind)]
            return all(node.GetAttribute(n) is not None and v in (None, node.GetAttribute(n)) for n, v in filters)

        count = self._scene.GetNumberOfNodes() if self._scene is not None else 0
        return [node for node in map(self._nth, range(count)) if matches(node)]

    def _nodes(self) -> list[slicer.vtkMRMLNode]:
        return [self._scene.GetNodeByID(identifier) for identifier in self._ids if identifier]

    def _fill(self) -> None:
        if self._scene is not None and self._scene.IsBatchProcessing():
            return  # closing and importing end with an event of their own
        keep, self._filling = self._current_id(), True
        nodes = self._matching()
        self._ids = ([None] if self.noneEnabled else []) + [node.GetID() for node in nodes]
        self._of_nodes.stop()
        for node in nodes:
            self._of_nodes.observe(node, vtk.vtkCommand.ModifiedEvent)
        self._combo.clear()
        self._combo.addItems(
            ([self.noneDisplay] if self.noneEnabled else []) + [node.GetName() or "" for node in nodes]
        )
        self._combo.setCurrentIndex(self._ids.index(keep) if keep in self._ids else (0 if self._ids else -1))
        self._filling = False
        self._report()

    def _nth(self, index: int) -> slicer.vtkMRMLNode:
        return self._scene.GetNthNode(index)

    def _update_names(self) -> None:
        for row, identifier in enumerate(self._ids):
            node = self._scene.GetNodeByID(identifier) if identifier else None
            if node is not None and self._combo.itemText(row) != node.GetName():
                self._combo.setItemText(row, node.GetName())

    def _current_id(self) -> str | None:
        row = self._combo.currentIndex
        return self._ids[row] if 0 <= row < len(self._ids) else None

    def _report(self) -> None:
        identifier = self._current_id()
        if self._filling or identifier == self._reported:
            return
        self._reported = identifier
        node = self.currentNode()
        emit(self, "currentNodeChanged(vtkMRMLNode*)", node)
        emit(self, "currentNodeChanged(bool)", node is not None)
        emit(self, "currentNodeIDChanged(QString)", identifier or "")

    def _get_currentNodeID(self) -> str:
        return self._current_id() or ""

    def _set_currentNodeID(self, identifier: str) -> None:
        self.setCurrentNode(identifier)

    _get_currentNodeId, _set_currentNodeId = _get_currentNodeID, _set_currentNodeID

    def _set_noneEnabled(self, enabled: bool) -> None:
        self._p_noneEnabled = enabled
        self._fill()

    def _set_noneDisplay(self, text: str) -> None:
        self._p_noneDisplay = text
        self._fill()

    def _set_nodeTypes(self, node_types: tuple[str, ...]) -> None:
        for node_type in node_types:
            if not hasattr(slicer, node_type):
                raise AttributeError(f"there is no node class {node_type}")  # the application shows an empty list
        self._p_nodeTypes = node_types
        self._fill()

    def _set_showHidden(self, shown: bool) -> None:
        self._p_showHidden = shown
        self._fill()


@behaviour("qMRMLCheckableNodeComboBox")
class CheckableNodeComboBox:
    """A node combo box with a check mark at each node."""

    def _init(self) -> None:
        self._checked: set[str] = set()

    def checkState(self, node: slicer.vtkMRMLNode) -> QtCore.Qt.CheckState:
        return QtCore.Qt.Checked if node.GetID() in self._checked else QtCore.Qt.Unchecked

    def setCheckState(self, node: slicer.vtkMRMLNode, state: QtCore.Qt.CheckState) -> None:
        before = set(self._checked)
        (self._checked.add if state == QtCore.Qt.Checked else self._checked.discard)(node.GetID())
        if self._checked != before:
            emit(self, "checkedNodesChanged()")

    def check(self, node: slicer.vtkMRMLNode) -> None:
        self.setCheckState(node, QtCore.Qt.Checked)

    def uncheck(self, node: slicer.vtkMRMLNode) -> None:
        self.setCheckState(node, QtCore.Qt.Unchecked)

    def checkedNodes(self) -> list[slicer.vtkMRMLNode]:
        return [node for node in self._nodes() if node.GetID() in self._checked]

    def uncheckedNodes(self) -> list[slicer.vtkMRMLNode]:
        return [node for node in self._nodes() if node.GetID() not in self._checked]

    def allChecked(self) -> bool:
        return not self.uncheckedNodes()

    def noneChecked(self) -> bool:
        return not self.checkedNodes()


def color_icon(color: tuple[float, float, float]) -> QtGui.QIcon:
    """A square of a segment's colour."""
    pixmap = QtGui.QPixmap(12, 12)
    pixmap.fill(QtGui.QColor.fromRgbF(*color))
    return QtGui.QIcon(pixmap)

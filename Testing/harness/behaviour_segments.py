"""What the widgets do that show and edit segmentations."""

from __future__ import annotations

import slicer
from PySide6 import QtCore, QtWidgets

from .behaviour_nodes import NodeComboBox, Observations, color_icon
from .widgets import behaviour, emit

_LOGIC = slicer.vtkSlicerSegmentationsModuleLogic
_COLUMNS = ("Visible", "Color", "Opacity", "Status", "Name")
_NAME = _COLUMNS.index("Name")


def _segment_ids(node: slicer.vtkMRMLSegmentationNode | None) -> list[str]:
    if node is None or node.GetSegmentation() is None:
        return []
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]


@behaviour("qMRMLSegmentsTableView")
class SegmentsTableView:
    """A table of the segments, which follows the segmentation."""

    _defaults = dict.fromkeys(
        ("headerVisible", "visibilityColumnVisible", "colorColumnVisible", "opacityColumnVisible"), True
    )
    _node: slicer.vtkMRMLSegmentationNode | None = None

    def _init(self) -> None:
        self._table = QtWidgets.QTableWidget(0, len(_COLUMNS), self)
        self._table.setHorizontalHeaderLabels(_COLUMNS)
        self._table.setSelectionBehavior(QtWidgets.QAbstractItemView.SelectRows)
        self._table.horizontalHeader().setStretchLastSection(True)
        self._table.verticalHeader().setVisible(False)
        self._table.selectionModel().selectionChanged.connect(self._on_selection)
        self._table.itemChanged.connect(self._on_edit)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._table)
        self._rows: list[str] = []
        self._hidden: set[str] = set()
        self._of_segments = Observations(self, self._fill)
        self._of_looks = Observations(self, self._show)  # comes before SegmentAdded for a new segment, too

    def setSegmentationNode(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        self._of_segments.stop()
        self._of_looks.stop()
        self._node = node
        if node is not None:
            events = slicer.vtkSegmentation
            self._of_segments.observe(node.GetSegmentation(), events.SegmentAdded, events.SegmentRemoved)
            self._of_looks.observe(node.GetSegmentation(), events.SegmentModified)
            self._of_looks.observe(node, slicer.vtkMRMLDisplayableNode.DisplayModifiedEvent)
        self._fill()

    def segmentationNode(self) -> slicer.vtkMRMLSegmentationNode | None:
        return self._node

    def tableWidget(self) -> QtWidgets.QTableView:
        return self._table

    def selectedSegmentIDs(self) -> tuple[str, ...]:
        return tuple(self._rows[row] for row in sorted({index.row() for index in self._table.selectedIndexes()}))

    def setSelectedSegmentIDs(self, identifiers: list[str]) -> None:
        model, selection = self._table.model(), QtCore.QItemSelection()
        for identifier in identifiers:
            row = self._rows.index(identifier)
            selection.select(model.index(row, 0), model.index(row, len(_COLUMNS) - 1))
        self._table.selectionModel().select(selection, QtCore.QItemSelectionModel.ClearAndSelect)

    def clearSelection(self) -> None:
        self._table.clearSelection()

    def rowForSegmentID(self, identifier: str) -> int:
        return self._rows.index(identifier) if identifier in self._rows else -1

    def segmentIDForRow(self, row: int) -> str:
        return self._rows[row] if 0 <= row < len(self._rows) else ""

    def displayedSegmentIDs(self) -> tuple[str, ...]:
        return tuple(i for row, i in enumerate(self._rows) if not self._table.isRowHidden(row))

    def setHideSegments(self, identifiers: list[str]) -> None:
        self._hidden = set(identifiers)
        self._filter()

    def hideSegments(self) -> tuple[str, ...]:
        return tuple(self._hidden)

    def setTextFilter(self, text: str) -> None:
        self._p_textFilter = text
        self._filter()

    _set_textFilter = setTextFilter

    def jumpSlices(self) -> None:
        for identifier in self.selectedSegmentIDs()[:1]:
            center = self._node.GetSegmentCenterRAS(identifier)
            slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *center, slicer.vtkMRMLSliceNode.CenteredJumpSlice)

    def _get_segmentCount(self) -> int:
        return len(self._rows)

    def _fill(self) -> None:
        selected = set(self.selectedSegmentIDs()) if self._rows else set()
        self._rows = _segment_ids(self._node)
        self._table.setRowCount(len(self._rows))
        self._show()
        shown = (self.visibilityColumnVisible, self.colorColumnVisible, self.opacityColumnVisible)
        for column, visible in enumerate((*shown, self.statusColumnVisible, True)):
            self._table.setColumnHidden(column, not visible)
        self._filter()
        self.setSelectedSegmentIDs([identifier for identifier in self._rows if identifier in selected])

    def _show(self) -> None:
        self._table.blockSignals(True)
        for row, identifier in enumerate(self._rows):
            if self._node.GetSegmentation().GetSegment(identifier) is None:
                continue  # about to be removed
            for column, text in enumerate(self._texts(identifier)):
                item = QtWidgets.QTableWidgetItem(text)
                if _COLUMNS[column] != "Name" or self.readOnly:
                    item.setFlags(item.flags() & ~QtCore.Qt.ItemIsEditable)
                self._table.setItem(row, column, item)
            color = self._node.GetSegmentation().GetSegment(identifier).GetColor()
            self._table.item(row, _COLUMNS.index("Color")).setIcon(color_icon(color))
        self._table.blockSignals(False)

    def _texts(self, identifier: str) -> tuple[str, ...]:
        segment = self._node.GetSegmentation().GetSegment(identifier)
        display = self._node.GetDisplayNode()
        visible = "yes" if display is None or display.GetSegmentVisibility(identifier) else "no"
        opacity = f"{display.GetSegmentOpacity3D(identifier):.2f}" if display is not None else ""
        status = _LOGIC.GetSegmentStatusAsHumanReadableString(_LOGIC.GetSegmentStatus(segment))
        return visible, "", opacity, status, segment.GetName()

    def _filter(self) -> None:
        for row, identifier in enumerate(self._rows):
            name = self._table.item(row, _NAME).text().lower()
            self._table.setRowHidden(row, identifier in self._hidden or self.textFilter.lower() not in name)

    def _on_selection(self, selected: QtCore.QItemSelection, deselected: QtCore.QItemSelection) -> None:
        emit(self, "selectionChanged(QItemSelection,QItemSelection)", selected, deselected)
        if self.jumpToSelectedSegmentEnabled:
            self.jumpSlices()

    def _on_edit(self, item: QtWidgets.QTableWidgetItem) -> None:
        if item.column() == _NAME:
            identifier = self._rows[item.row()]
            emit(self, "segmentAboutToBeModified(QString)", identifier)
            self._node.GetSegmentation().GetSegment(identifier).SetName(item.text())


@behaviour("qMRMLSegmentationShow3DButton")
class Show3DButton:
    """Shows and hides the surfaces of a segmentation."""

    _node: slicer.vtkMRMLSegmentationNode | None = None

    def _init(self) -> None:
        self.setCheckable(True)
        self.setEnabled(False)
        self.setText("Show 3D")
        self.clicked.connect(self._on_clicked)
        self._observations = Observations(self, self._update)

    def setSegmentationNode(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        self._observations.stop()
        self._node = node
        if node is not None:
            events = slicer.vtkSegmentation
            self._observations.observe(
                node.GetSegmentation(), events.ContainedRepresentationNamesModified, events.SegmentAdded
            )
        self._update()

    def segmentationNode(self) -> slicer.vtkMRMLSegmentationNode | None:
        return self._node

    def _has_surface(self) -> bool:
        name = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
        return self._node is not None and self._node.GetSegmentation().ContainsRepresentation(name)

    def _update(self) -> None:
        self.setEnabled(bool(_segment_ids(self._node)))
        self.setChecked(self._has_surface())

    def _on_clicked(self, checked: bool) -> None:
        if not checked:
            self._node.RemoveClosedSurfaceRepresentation()
            return
        self._node.CreateClosedSurfaceRepresentation()
        display = self._node.GetDisplayNode()
        display.SetVisibility(True)
        display.SetVisibility3D(True)
        display.SetPreferredDisplayRepresentationName3D(
            slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
        )


@behaviour("qMRMLSegmentSelectorWidget")
class SegmentSelectorWidget:
    """Chooses a segmentation and one or several of its segments."""

    def _init(self) -> None:
        self._nodes = slicer.qMRMLNodeComboBox(self)
        self._nodes.nodeTypes = ["vtkMRMLSegmentationNode"]
        self._nodes.currentNodeChanged.connect(self._on_node)
        self._segments = QtWidgets.QListWidget(self)
        self._segments.itemSelectionChanged.connect(self._on_selection)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._nodes)
        layout.addWidget(self._segments)
        self._ids: list[str] = []
        self._observations = Observations(self, self._fill)
        self.mrmlSceneChanged.connect(self._nodes.setMRMLScene)

    def currentNode(self) -> slicer.vtkMRMLSegmentationNode | None:
        return NodeComboBox.currentNode(self._nodes)

    def currentNodeID(self) -> str:
        return self._nodes.currentNodeID

    def setCurrentNode(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        self._nodes.setCurrentNode(node)

    def setCurrentNodeID(self, identifier: str) -> None:
        self._nodes.setCurrentNodeID(identifier)

    def segmentIDs(self) -> tuple[str, ...]:
        return tuple(self._ids)

    def currentSegmentID(self) -> str:
        return next(iter(self.selectedSegmentIDs()), "")

    def setCurrentSegmentID(self, identifier: str) -> None:
        self.setSelectedSegmentIDs([identifier])

    def selectedSegmentIDs(self) -> tuple[str, ...]:
        return tuple(self._ids[index.row()] for index in self._segments.selectedIndexes())

    def setSelectedSegmentIDs(self, identifiers: list[str]) -> None:
        for row, identifier in enumerate(self._ids):
            self._segments.item(row).setSelected(identifier in identifiers)

    def _set_noneEnabled(self, enabled: bool) -> None:
        self._p_noneEnabled = self._nodes.noneEnabled = enabled

    def _set_multiSelection(self, several: bool) -> None:
        self._p_multiSelection = several
        view = QtWidgets.QAbstractItemView
        self._segments.setSelectionMode(view.ExtendedSelection if several else view.SingleSelection)

    def _on_node(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        self._observations.stop()
        if node is not None:
            events = slicer.vtkSegmentation
            self._observations.observe(
                node.GetSegmentation(), events.SegmentAdded, events.SegmentRemoved, events.SegmentModified
            )
        self._fill()
        emit(self, "currentNodeChanged(vtkMRMLNode*)", node)
        emit(self, "currentNodeChanged(bool)", node is not None)

    def _fill(self) -> None:
        keep = self.selectedSegmentIDs() if self._ids else ()
        node = self.currentNode()
        self._ids = _segment_ids(node)
        self._segments.clear()
        self._segments.addItems([node.GetSegmentation().GetSegment(identifier).GetName() for identifier in self._ids])
        self.setSelectedSegmentIDs([i for i in keep if i in self._ids] or self._ids[:1])

    def _on_selection(self) -> None:
        emit(self, "currentSegmentChanged(QString)", self.currentSegmentID())
        emit(self, "segmentSelectionChanged(QStringList)", list(self.selectedSegmentIDs()))


@behaviour("qMRMLSegmentEditorWidget")
class SegmentEditorWidget:
    """The segment editor: which segmentation, volume and segment; undo. The effects are not modelled."""

    _editor: slicer.vtkMRMLSegmentEditorNode | None = None

    def _init(self) -> None:
        self._logic = slicer.vtkSlicerSegmentEditorLogic()
        self._logic.SetSegmentationHistory(slicer.vtkSegmentationHistory())

    def setMRMLSegmentEditorNode(self, node: slicer.vtkMRMLSegmentEditorNode | None) -> None:
        self._editor = node
        self._logic.SetMRMLScene(self.mrmlScene())
        self._logic.SetSegmentEditorNode(node)

    def mrmlSegmentEditorNode(self) -> slicer.vtkMRMLSegmentEditorNode | None:
        return self._editor

    def setSegmentationNode(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        if self._editor is None:
            return  # the application logs an error: the editor node comes first
        self._editor.SetAndObserveSegmentationNode(node)
        self._logic.SetSegmentationNode(node)
        emit(self, "segmentationNodeChanged(vtkMRMLSegmentationNode*)", node)
        self.setCurrentSegmentID(next(iter(_segment_ids(node)), ""))

    def segmentationNode(self) -> slicer.vtkMRMLSegmentationNode | None:
        return self._editor.GetSegmentationNode() if self._editor is not None else None

    def setSourceVolumeNode(self, node: slicer.vtkMRMLScalarVolumeNode | None) -> None:
        if self._editor is not None:
            self._editor.SetAndObserveSourceVolumeNode(node)
            emit(self, "sourceVolumeNodeChanged(vtkMRMLVolumeNode*)", node)

    def sourceVolumeNode(self) -> slicer.vtkMRMLScalarVolumeNode | None:
        return self._editor.GetSourceVolumeNode() if self._editor is not None else None

    def setCurrentSegmentID(self, identifier: str) -> None:
        if self._editor is not None and self.currentSegmentID() != identifier:
            self._editor.SetSelectedSegmentID(identifier)
            emit(self, "currentSegmentIDChanged(QString)", identifier)

    def currentSegmentID(self) -> str:
        return (self._editor.GetSelectedSegmentID() or "") if self._editor is not None else ""

    def saveStateForUndo(self) -> None:
        self._logic.SaveStateForUndo()

    def undo(self) -> None:
        self._logic.Undo()

    def redo(self) -> None:
        self._logic.Redo()

    def setUndoEnabled(self, enabled: bool) -> None:
        self._logic.ClearUndoState()

"""The result on show: findings, structures with volumes and confidence, 3-D, opacity, undo."""

from __future__ import annotations

from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from .messages import Message, MessageList
from .result_record import RecordedStructure, ResultRecord
from .scene_results import SceneResults
from .view_jump import jump_to
from .wording import duration

_NAME, _VOLUME, _CONFIDENCE = range(3)
_SWATCH = 12  # pixels
_SORT_MARK = 26  # pixels, with the margins of a title
#: structures that are seen without scrolling in the table
_MAXIMUM_ROWS = 12


class ResultView(VTKObservationMixin):
    """Shows one segmentation at a time. A click on a structure moves the slice views there.

    Args:
        ui: holds resultSection, resultLabel, findingFrame, show3DButton, undoButton, structureTable.
        results: takes changes back.
    """

    def __init__(self, ui: Any, results: SceneResults) -> None:
        super().__init__()
        self._ui = ui
        self._results = results
        self._node: slicer.vtkMRMLSegmentationNode | None = None
        self._record: ResultRecord | None = None
        self._opacity: tuple[str, float] | None = None  # of which display node it was set last
        self._findings = MessageList(ui.findingFrame)
        table = ui.structureTable
        _arrange_columns(table)
        table.connect("cellClicked(int,int)", self._on_cell)
        table.connect("currentCellChanged(int,int,int,int)", self._on_cell)
        ui.undoButton.connect("clicked(bool)", self._on_undo)
        self.show(None)

    @property
    def findings(self) -> list[Message]:
        """The warnings on show."""
        return self._findings.shown

    def show(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Show this segmentation; the section is hidden where there is no result at all."""
        record = ResultRecord.read(node)
        segmentations = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        self._ui.resultSection.visible = node is not None or any(map(ResultRecord.is_kept, segmentations))
        self._ui.show3DButton.setSegmentationNode(node)
        self._ui.undoButton.enabled = self._results.can_undo(node)
        if node is not self._node:
            self.removeObservers()
            if node is not None:  # when another frame of a sequence is selected, the node shows the result of that one
                self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._on_modified)
        if record == self._record and node is self._node:
            return
        self._node, self._record = node, record
        self._findings.show([Message.of_finding(finding) for finding in record.findings] if record else [])
        self._ui.resultLabel.text = _summary(record) if record else _("No result of this module.")
        self._ui.structureTable.visible = record is not None
        self._fill(record.structures if record else ())

    def set_opacity(self, opacity: float) -> None:
        """How opaque the segmentation on show is in all views, 0 to 1; what other modules make of it later counts."""
        display = self._node.GetDisplayNode() if self._node is not None else None
        if display is not None and self._opacity != (display.GetID(), opacity):
            display.SetOpacity(opacity)
            self._opacity = (display.GetID(), opacity)

    def close(self) -> None:
        """Look at nothing any more."""
        self.removeObservers()
        self._node = None

    def _on_modified(self, caller: slicer.vtkMRMLNode, event: str) -> None:
        self.show(self._node)

    def _fill(self, structures: tuple[RecordedStructure, ...]) -> None:
        """List the structures, the least certain first."""
        table = self._ui.structureTable
        table.blockSignals(True)
        table.setSortingEnabled(False)  # rows would move while they are filled
        table.setRowCount(len(structures))
        for row, structure in enumerate(structures):
            for column, item in enumerate(_items(row, structure)):
                table.setItem(row, column, item)
        table.setSortingEnabled(True)
        table.sortItems(_CONFIDENCE, qt.Qt.AscendingOrder)
        table.clearSelection()
        table.resizeRowsToContents()
        table.blockSignals(False)
        rows = sum(table.rowHeight(row) for row in range(min(len(structures), _MAXIMUM_ROWS)))
        table.setFixedHeight(table.horizontalHeader().height + rows + 2 * table.frameWidth)

    def _on_cell(self, row: int, column: int) -> None:
        item = self._ui.structureTable.item(row, _NAME)
        if item is None or self._record is None:
            return
        centre = self._record.structures[item.data(qt.Qt.UserRole)].centre_lps
        if centre is not None:
            jump_to(self._node, centre)

    def _on_undo(self) -> None:
        self._results.undo(self._node)
        self.show(self._node)


def _arrange_columns(table: Any) -> None:
    """As much room as there is for the names."""
    titles = _("Structure"), _("Volume (ml)"), _("Confidence (%)")
    table.setHorizontalHeaderLabels([title.replace(" (", "\n(") for title in titles])
    header, metrics = table.horizontalHeader(), table.fontMetrics()
    header.setSectionResizeMode(_NAME, qt.QHeaderView.Stretch)
    for column in (_VOLUME, _CONFIDENCE):
        header.setSectionResizeMode(column, qt.QHeaderView.Fixed)
        width = max(metrics.boundingRect(word).width() for word in titles[column].split(" "))
        table.setColumnWidth(column, width + _SORT_MARK)
    header.setFixedHeight(2 * metrics.lineSpacing() + 8)


def _items(index: int, structure: RecordedStructure) -> tuple[Any, Any, Any]:
    """The cells of a structure; numbers are kept as numbers, so that they are sorted as such."""
    swatch = qt.QPixmap(_SWATCH, _SWATCH)
    swatch.fill(qt.QColor(*structure.color))
    name = qt.QTableWidgetItem(structure.name)
    name.setToolTip(structure.name)  # the column may be too narrow for it
    name.setIcon(qt.QIcon(swatch))
    name.setData(qt.Qt.UserRole, index)
    volume, confidence = qt.QTableWidgetItem(), qt.QTableWidgetItem()
    if structure.centre_lps is None:
        volume.setText(_("not found"))
    else:
        volume.setData(qt.Qt.DisplayRole, round(structure.volume_ml, 2))
        confidence.setData(qt.Qt.DisplayRole, round(100 * structure.confidence))
    for number in (volume, confidence):
        number.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
    return name, volume, confidence


def _summary(record: ResultRecord) -> str:
    return _("{volume}: {model} {version}, {seconds} on {device}").format(
        volume=record.volume,
        model=record.model,
        version=record.model_version,
        seconds=duration(record.seconds),
        device=record.device,
    )

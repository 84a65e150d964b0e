"""The review list: structures with their volumes, how far to trust them and what the clinician says, worst first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..models import Label
from ..mrml import (
    ACCEPTED,
    CORRECTED,
    TO_CHECK,
    edited_voxels,
    find_segment,
    note_correction,
    review_state,
    set_review_state,
)
from .result_record import RecordedStructure, ResultRecord
from .view_jump import jump_to, jump_to_slices
from .wording import as_rich_text, state_name

_NAME, _VOLUME, _TRUST, _STATE = range(4)
_SWATCH = 12  # pixels
_MARGINS, _SORT_MARK = 14, 20  # pixels, of a title
#: in place of a number that there is not
_NONE = "\u2013"
#: structures that are seen without scrolling in the table
_MAXIMUM_ROWS = 12
#: least number for a light: green, yellow; red below
_LIGHTS = ((0.85, (56, 158, 77)), (0.7, (235, 180, 32)), (-1.0, (208, 52, 44)))


class ReviewList:
    """Lists the structures of one result. A click, or a key, shows one where it is most doubtful.

    Args:
        ui: holds structureTable, previousButton, nextButton and acceptButton.
        on_current: called when another structure is chosen.
    """

    def __init__(self, ui: Any, on_current: Callable[[], None]) -> None:
        self._ui = ui
        self._on_current = on_current
        self._node: slicer.vtkMRMLSegmentationNode | None = None
        self._record: ResultRecord | None = None
        self._changes: Mapping[int, tuple[int, int]] | None = None
        table = ui.structureTable
        table.connect("cellClicked(int,int)", self._on_cell)
        table.connect("currentCellChanged(int,int,int,int)", self._on_cell)
        ui.nextButton.connect("clicked(bool)", lambda: self._move(1))
        ui.previousButton.connect("clicked(bool)", lambda: self._move(-1))
        ui.acceptButton.connect("clicked(bool)", self._on_accept)
        self.show(None, None)

    @property
    def current(self) -> RecordedStructure | None:
        """The structure that is chosen."""
        table = self._ui.structureTable
        item = table.item(table.currentRow(), _NAME) if self._record and table.currentRow() >= 0 else None
        return self._record.structures[item.data(qt.Qt.UserRole)] if item is not None else None

    def show(self, node: slicer.vtkMRMLSegmentationNode | None, record: ResultRecord | None) -> None:
        """List the structures of a result."""
        chosen = self.current.label.value if self.current and node is self._node else None
        self._node, self._record = node, record
        self._ui.structureTable.visible = record is not None
        self._fill(record.structures if record else (), chosen)
        self.refresh()

    def show_changes(self, changes: Mapping[int, tuple[int, int]] | None) -> None:
        """Show, instead of states, how many voxels each structure (by value) would gain and lose; None: states."""
        self._changes = changes
        self.refresh()

    def refresh(self) -> None:
        """Show the states, or changes, as they are now."""
        table = self._ui.structureTable
        title = _("State") if self._changes is None else _("Change\n(voxels)")
        table.horizontalHeaderItem(_STATE).setText(title)
        for row in range(table.rowCount):
            structure = self._record.structures[table.item(row, _NAME).data(qt.Qt.UserRole)]
            table.item(row, _STATE).setText(self._state_text(structure.label))
        self._show_buttons()

    def mark_corrected(self) -> None:
        """Mark the structures as corrected that were edited since they were written; what is accepted stays so."""
        if self._node is None or self._record is None:
            return
        for value, count in edited_voxels(self._node, self._record.labels).items():
            segment = self._segment(value)
            if not count or segment is None:
                continue
            note_correction(segment)
            if review_state(segment) == TO_CHECK:
                set_review_state(segment, CORRECTED)
        self.refresh()

    def jump(self) -> None:
        """Move the slice views to where the structure that is chosen is most doubtful."""
        structure = self.current
        if structure is None or structure.centre_lps is None:
            return
        jump_to(self._node, structure.centre_lps)
        if structure.doubtful_lps is not None:
            jump_to_slices(self._node, structure.doubtful_lps)

    def _segment(self, value: int) -> slicer.vtkSegment | None:
        label = next((label for label in self._record.labels if label.value == value), None)
        return find_segment(self._node.GetSegmentation(), label) if label is not None else None

    def _state_text(self, label: Label) -> str:
        if self._changes is not None:
            gained, lost = self._changes.get(label.value, (0, 0))
            return f"+{gained} \u2212{lost}" if gained or lost else _NONE
        segment = self._segment(label.value)
        return state_name(review_state(segment)) if segment is not None else _("deleted")

    def _show_buttons(self) -> None:
        ui, structure = self._ui, self.current
        listed = ui.structureTable.rowCount > 0
        ui.nextButton.enabled = ui.previousButton.enabled = listed
        segment = self._segment(structure.label.value) if structure else None
        ui.acceptButton.enabled = segment is not None and self._changes is None
        accepted = segment is not None and review_state(segment) == ACCEPTED
        shortcut = ui.acceptButton.shortcut
        ui.acceptButton.text = _("Reopen (A)") if accepted else _("Accept (A)")
        ui.acceptButton.shortcut = shortcut  # a new text takes it away

    def _fill(self, structures: tuple[RecordedStructure, ...], chosen: int | None) -> None:
        """List the structures, the least certain first."""
        table = self._ui.structureTable
        calibrated = any(s.expected_dice is not None for s in structures if s.centre_lps is not None)
        order = sorted(range(len(structures)), key=lambda index: _trust_rank(structures[index], calibrated))
        table.blockSignals(True)
        _mark_sorted(table, -1)  # or rows would move while they are filled
        _arrange_columns(table, _("Expected\nDice (%)") if calibrated else _("Confidence\n(%)"))
        table.setRowCount(len(structures))
        for row, index in enumerate(order):
            for column, item in enumerate(_items(index, structures[index], calibrated)):
                table.setItem(row, column, item)
        _mark_sorted(table, _TRUST)
        table.clearSelection()
        table.setCurrentItem(None)
        for row in range(len(structures)):
            if structures[table.item(row, _NAME).data(qt.Qt.UserRole)].label.value == chosen:
                table.setCurrentCell(row, _NAME)
        table.resizeRowsToContents()
        table.blockSignals(False)
        rows = sum(table.rowHeight(row) for row in range(min(len(structures), _MAXIMUM_ROWS)))
        table.setFixedHeight(table.horizontalHeader().height + rows + 2 * table.frameWidth)

    def _on_cell(self, row: int, column: int) -> None:
        if self._ui.structureTable.item(row, _NAME) is None or self._record is None:
            return
        self.jump()
        self._show_buttons()
        self._on_current()

    def _move(self, step: int) -> None:
        table = self._ui.structureTable
        row = table.currentRow()
        table.setCurrentCell((row + step) % table.rowCount if row >= 0 else 0, _NAME)

    def _on_accept(self) -> None:
        """Accept the structure and go to the next; one that is accepted is to be checked again."""
        segment = self._segment(self.current.label.value)
        if review_state(segment) == ACCEPTED:
            set_review_state(segment, TO_CHECK)
            self.mark_corrected()
            return
        set_review_state(segment, ACCEPTED)
        self.refresh()
        self._move(1)


def _arrange_columns(table: Any, trust: str) -> None:
    """As much room as there is for the names."""
    titles = _("Structure"), _("Volume\n(ml)"), trust, _("State")
    table.setHorizontalHeaderLabels(titles)
    header, metrics = table.horizontalHeader(), table.fontMetrics()
    header.setSectionResizeMode(_NAME, qt.QHeaderView.Stretch)
    for column, text in {_VOLUME: _("not found"), _TRUST: trust, _STATE: state_name(CORRECTED)}.items():
        header.setSectionResizeMode(column, qt.QHeaderView.Fixed)
        width = max(metrics.boundingRect(line).width() for line in text.split("\n")) + _MARGINS
        table.setColumnWidth(column, width + (_SORT_MARK if column == _TRUST else 0))
    header.setFixedHeight(2 * metrics.lineSpacing() + 8)


def _mark_sorted(table: Any, column: int) -> None:
    """Show by which column the rows are sorted, -1 for none; Qt would order numbers and dashes in a way of its own."""
    header = table.horizontalHeader()
    blocked = header.blockSignals(True)
    header.setSortIndicator(column, qt.Qt.AscendingOrder)
    header.blockSignals(blocked)


def _trust_rank(structure: RecordedStructure, calibrated: bool) -> tuple[int, float]:
    """Its place in the list: what was not found, what was not measured, then the least certain first."""
    if structure.centre_lps is None:
        return 0, 0.0
    number = structure.expected_dice if calibrated else structure.confidence
    return (1, structure.confidence) if number is None else (2, number)


def _items(index: int, structure: RecordedStructure, calibrated: bool) -> tuple[Any, ...]:
    """The cells of a structure; numbers are kept as numbers, so that they are sorted as such."""
    name = qt.QTableWidgetItem(structure.label.name)
    name.setToolTip(as_rich_text(structure.label.name))  # the column may be too narrow for it
    name.setIcon(_square(structure.label.color))
    name.setData(qt.Qt.UserRole, index)
    volume, trust, state = qt.QTableWidgetItem(), qt.QTableWidgetItem(), qt.QTableWidgetItem()
    number = structure.expected_dice if calibrated else structure.confidence
    if structure.centre_lps is None:
        volume.setText(_("not found"))
        trust.setText(_NONE)
        trust.setToolTip(_("Not found: nothing to expect"))
    else:
        volume.setData(qt.Qt.DisplayRole, round(structure.volume_ml, 2))
        if number is None:
            trust.setText(_NONE)
        else:
            trust.setData(qt.Qt.DisplayRole, round(100 * number))
            trust.setIcon(_light(next(color for least, color in _LIGHTS if number >= least)))
        if structure.expected_dice is None:
            text = _("Expected Dice: not measured for this structure and model. Confidence: {number} %")
            trust.setToolTip(text.format(number=round(100 * structure.confidence)))
    for cell in (volume, trust):
        cell.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
    return name, volume, trust, state


def _square(color: tuple[int, int, int]) -> Any:
    swatch = qt.QPixmap(_SWATCH, _SWATCH)
    swatch.fill(qt.QColor(*color))
    return _icon(swatch)


def _light(color: tuple[int, int, int]) -> Any:
    lamp = qt.QPixmap(_SWATCH, _SWATCH)
    lamp.fill(qt.QColor(0, 0, 0, 0))
    painter = qt.QPainter(lamp)
    painter.setRenderHint(qt.QPainter.Antialiasing)
    painter.setBrush(qt.QBrush(qt.QColor(*color)))
    painter.setPen(qt.QPen(qt.QColor(90, 90, 90)))
    painter.drawEllipse(1, 1, _SWATCH - 3, _SWATCH - 3)
    painter.end()
    return _icon(lamp)


def _icon(picture: Any) -> Any:
    """An icon that keeps its colours in the selected row."""
    icon = qt.QIcon(picture)
    icon.addPixmap(picture, qt.QIcon.Selected)
    return icon

"""The table of structures: left and right of a pair in one row, rows under their regions, a filter by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import qt
from slicer.i18n import tr as _

from ..mrml import CORRECTED
from ..result import IntracranialVolume
from ..structure_rows import (
    FEW_ROWS,
    NONE,
    StructureRow,
    asymmetry,
    find_rows,
    signed_percent,
    significant,
    traffic_light,
)
from .messages import as_rich_text, state_name
from .result_record import (
    RecordedStructure,
    RegionTitle,
    ResultRecord,
    review_order,
    shown_confidence,
    sides_text,
    why_no_dice,
)

_NAME = 0
_ICON_SIZE = 12  # pixels
_MARGINS = 12  # pixels, of a title
#: rows that are seen without scrolling in the table
_MAXIMUM_ROWS = 12


@dataclass(frozen=True)
class _LastColumn:
    """The last column; see :meth:`StructureTable.set_last_column`."""

    title: str = ""
    texts: Mapping[int, str] = field(default_factory=dict)
    usual: str = ""


class StructureTable:
    """Shows the structures of one record; one of them is the current one.

    Where there are pairs, a row has a volume for each side: a click on it chooses that side, a click elsewhere in the
    row the less certain one.

    Args:
        table: QTableWidget.
        search_box: filters the rows by name; visible where there are many.
        share_box: check box that lists volumes as shares of the intracranial one; visible where that is known.
        on_chosen: called when a structure is chosen, also when it was the current one before.
    """

    def __init__(self, table: Any, search_box: Any, share_box: Any, on_chosen: Callable[[], None]) -> None:
        self._table = table
        self._search_box = search_box
        self._share_box = share_box
        self._on_chosen = on_chosen
        self._structures: tuple[RecordedStructure, ...] = ()
        self._intracranial: IntracranialVolume | None = None
        self._rows: list[StructureRow | RegionTitle] = []
        self._order: list[int] = []
        self._calibrated = self._paired = False
        self._sorting = (-1, False)  # column, whether descending
        self._marked: Any = None  # the volume of the side that is chosen
        self._last_column = _LastColumn()
        self._fitting = qt.QTimer(table)
        self._fitting.setSingleShot(True)
        self._fitting.connect("timeout()", self._fit_rows)
        table.sortingEnabled = False  # Qt would break up regions, and sort numbers and dashes its own way
        table.connect("cellClicked(int,int)", self._on_cell)
        table.connect("currentCellChanged(int,int,int,int)", self._on_cell)
        header = table.horizontalHeader()
        header.setSectionsClickable(True)
        header.connect("sectionClicked(int)", self._on_title)
        header.connect("sectionResized(int,int,int)", self._on_resized)
        search_box.connect("textChanged(QString)", self._filter)
        share_box.connect("toggled(bool)", lambda _checked: self._lay_out_again())

    @property
    def current(self) -> int | None:
        """Index of the structure that is chosen."""
        return self._index_at(self._table.currentRow(), self._table.currentColumn())

    @property
    def listed(self) -> list[int]:
        """Indices of the structures that are not filtered out, in the order of their review."""
        shown = {
            index
            for number, row in enumerate(self._rows)
            if isinstance(row, StructureRow) and not self._table.isRowHidden(number)
            for index in row.members
        }
        return [index for index in self._order if index in shown]

    def fill(self, record: ResultRecord | None, chosen: int | None) -> None:
        """List the structures of a record.

        Args:
            chosen: index of the current one; None for none.
        """
        structures = self._structures = record.structures if record else ()
        self._intracranial = record.intracranial if record else None
        self._calibrated = any(s.expected_dice is not None for s in structures if s.found)
        self._order = review_order(structures, self._calibrated)
        self._sorting, self._last_column = (-1, False), _LastColumn()
        rows = find_rows([structure.label for structure in structures])
        self._paired = any(row.is_pair for row in rows)
        self._search_box.visible = len(rows) > FEW_ROWS
        if len(rows) <= FEW_ROWS:
            self._search_box.text = ""
        self._share_box.visible = self._intracranial is not None
        self._lay_out(rows, chosen)

    def set_structures(self, structures: tuple[RecordedStructure, ...]) -> None:
        """List the same structures with the volumes and colours that they have now."""
        if structures != self._structures:
            self._structures = structures
            self._lay_out_again()

    def choose(self, index: int) -> None:
        """Make a structure the current one."""
        number, row = next((number, row) for number, row in self._structure_rows() if index in row.members)
        self._table.setCurrentCell(number, 1 + row.members.index(index) if row.is_pair else _NAME)

    def set_last_column(self, title: str, texts: Mapping[int, str], usual: str) -> None:
        """Fill the last column.

        Args:
            title: of the column.
            texts: by index of the structure. Of a pair, texts that differ are shown side by side.
            usual: the text that is omitted where the other side has a different one.
        """
        self._last_column = _LastColumn(title, texts, usual)
        table, column = self._table, self._table.columnCount - 1
        table.horizontalHeaderItem(column).setText(title)
        for number, row in self._structure_rows():
            table.item(number, column).setText(sides_text([texts[index] for index in row.members], usual))
        self._fit_rows()

    def _structure_rows(self) -> Iterator[tuple[int, StructureRow]]:
        """Number and structures of each row that is no title."""
        return ((number, row) for number, row in enumerate(self._rows) if isinstance(row, StructureRow))

    def _index_at(self, row: int, column: int) -> int | None:
        item = self._table.item(row, column) if self._structures and row >= 0 else None
        index = item.data(qt.Qt.UserRole) if item is not None else None
        return index if index is None else int(index)

    def _on_cell(self, row: int, column: int, *before: int) -> None:
        if self._index_at(row, column) is not None:
            self._mark_side(row, column)
            self._on_chosen()

    def _mark_side(self, row: int, column: int) -> None:
        """Show which side of a pair is chosen."""
        index, structures = self._index_at(row, column), self._rows[row]
        if self._marked is not None:
            _underline(self._marked, False)
            self._marked = None
        if isinstance(structures, StructureRow) and structures.is_pair and index is not None:
            self._marked = self._table.item(row, 1 + structures.members.index(index))
            _underline(self._marked, True)

    def _on_title(self, column: int) -> None:
        """Sort by a column, within the regions; in the other direction at the second click."""
        if not self._rows:
            return
        self._sorting = (column, self._sorting[0] == column and not self._sorting[1])
        self._lay_out_again()

    def _lay_out_again(self) -> None:
        self._lay_out([row for _number, row in self._structure_rows()], self.current)

    def _on_resized(self, column: int, before: int, now: int) -> None:
        if column == _NAME:
            self._fitting.start(0)  # the table gets the signal later

    def _fit_rows(self) -> None:
        """Fit rows to their contents, and the table's height to at most ``_MAXIMUM_ROWS`` of them."""
        table = self._table
        table.resizeRowsToContents()
        heights = sum(table.rowHeight(row) for row in range(min(len(self._rows), _MAXIMUM_ROWS)))
        table.setFixedHeight(table.horizontalHeader().height + heights + 2 * table.frameWidth)

    def _filter(self, text: str) -> None:
        words = text.lower().split()
        title, found = None, False
        for number, row in enumerate(self._rows):
            if isinstance(row, RegionTitle):
                title, found = number, False
                self._table.setRowHidden(number, bool(words))
                continue
            names = " ".join([row.name, *(self._structures[index].label.name for index in row.members)]).lower()
            shown = all(word in names for word in words)
            self._table.setRowHidden(number, not shown)
            if shown and title is not None and not found:
                self._table.setRowHidden(title, False)
                found = True

    @property
    def _shares(self) -> bool:
        """Whether volumes are listed as shares of the intracranial one."""
        return self._share_box.checked and self._intracranial is not None

    def _arrange_columns(self, rows: list[StructureRow]) -> None:
        """Give the names the remaining width, but at least that of their longest word."""
        table, unit = self._table, _("%") if self._shares else _("ml")
        confidence_title = _("Expected\nDice (%)") if self._calibrated else _("Confidence\n(%)")
        volumes = [(f"{_('Volume')}\n({unit})", _("not found"))]
        if self._paired:
            sides = [(f"{side}\n({unit})", "0.000") for side in (_("Left"), _("Right"))]
            volumes = [*sides, (_("Asym.\n(%)"), "+00.0")]
        columns = [*volumes, (confidence_title, ""), (_("State"), state_name(CORRECTED))]
        table.columnCount = 1 + len(columns)
        table.setHorizontalHeaderLabels([_("Structure"), *(title for title, _width in columns)])
        header, metrics = table.horizontalHeader(), table.fontMetrics()
        header.setSectionResizeMode(_NAME, qt.QHeaderView.Stretch)
        for column, (title, widest) in enumerate(columns, start=1):
            header.setSectionResizeMode(column, qt.QHeaderView.Fixed)
            lines = [*title.split("\n"), widest]
            table.setColumnWidth(column, max(metrics.boundingRect(line).width() for line in lines) + _MARGINS)
        header.setFixedHeight(2 * metrics.lineSpacing() + 8)
        words = [_("Structure"), *(word for row in rows for word in row.name.split())]
        names = max(metrics.boundingRect(word).width() for word in words) + _ICON_SIZE + _MARGINS + 4
        others = sum(table.columnWidth(column) for column in range(1, table.columnCount))
        scroll_bar = table.style().pixelMetric(qt.QStyle.PM_ScrollBarExtent)
        table.setMinimumWidth(names + others + scroll_bar + 2 * table.frameWidth)
        if self._paired:
            tip = _("Asymmetry: 100 \u00d7 (left \u2212 right) / mean of both: positive where the left one is larger")
            table.horizontalHeaderItem(3).setToolTip(tip)

    def _lay_out(self, rows: list[StructureRow], chosen: int | None) -> None:
        """Put rows into the table, sorted, each region under its title."""
        self._arrange_columns(rows)
        table, header = self._table, self._table.horizontalHeader()
        self._rows, self._marked = [], None
        region = ""
        for row in self._sorted(rows):
            if row.region != region:
                region = row.region
                self._rows.append(RegionTitle(region))
            self._rows.append(row)
        table.blockSignals(True)
        table.clearSpans()
        table.clearContents()
        table.setRowCount(len(self._rows))
        for number, entry in enumerate(self._rows):
            if isinstance(entry, RegionTitle):
                table.setItem(number, _NAME, _title_cell(entry.region, table))
                table.setSpan(number, _NAME, 1, table.columnCount)
            else:
                self._fill_row(number, entry)
        table.clearSelection()
        table.setCurrentItem(None)
        if chosen is not None:
            self.choose(chosen)
            self._mark_side(table.currentRow(), table.currentColumn())
        column, descending = self._sorting
        header.setSortIndicatorShown(column >= 0)
        header.setSortIndicator(column, qt.Qt.DescendingOrder if descending else qt.Qt.AscendingOrder)
        table.blockSignals(False)
        self._fit_rows()
        last = self._last_column
        if last.texts:
            self.set_last_column(last.title, last.texts, last.usual)
        self._filter(self._search_box.text)

    def _sorted(self, rows: list[StructureRow]) -> list[StructureRow]:
        """Rows by the column that was clicked, the least certain first where none was, within their regions."""
        column, descending = self._sorting
        ordered = sorted(rows, key=lambda row: self._sort_key(row, column), reverse=descending)
        regions = list(dict.fromkeys(row.region for row in rows))
        return sorted(ordered, key=lambda row: regions.index(row.region))

    def _sort_key(self, row: StructureRow, column: int) -> Any:
        structures = [self._structures[index] for index in row.members]
        last = self._table.columnCount - 1
        if column == _NAME:
            return row.name
        if column == last:
            return [self._last_column.texts[index] for index in row.members]
        if column in (-1, last - 1):
            return min(self._order.index(index) for index in row.members)
        if column == 3:
            percent = asymmetry(*(s.volume_ml for s in structures)) if row.is_pair else None
            return -1.0 if percent is None else abs(percent)
        return structures[min(column, len(structures)) - 1].volume_ml

    def _fill_row(self, number: int, row: StructureRow) -> None:
        """Make the cells of a row; each knows the structure that a click on it chooses."""
        structures = [self._structures[index] for index in row.members]
        name = qt.QTableWidgetItem(row.name)
        name.setIcon(_swatch(structures[0].label.color))
        volumes = [self._volume(structure) for structure in structures]
        cells = [name, *volumes]
        if self._paired:
            if not row.is_pair:
                self._table.setSpan(number, 1, 1, 2)
                cells.append(qt.QTableWidgetItem())
            percent = asymmetry(*(s.volume_ml for s in structures)) if row.is_pair else None
            cells.append(_number_cell(signed_percent(percent) if row.is_pair else ""))
        cells += [self._confidence(structures), qt.QTableWidgetItem()]
        certain_last = sorted(row.members, key=self._order.index)
        for column, cell in enumerate(cells):
            of_side = row.is_pair and column in (1, 2)
            cell.setData(qt.Qt.UserRole, row.members[column - 1] if of_side else certain_last[0])
            self._table.setItem(number, column, cell)

    def _volume(self, structure: RecordedStructure) -> Any:
        """The cell of a volume, or of its share of the intracranial one; the other is the tip."""
        if not structure.found and not structure.voxels:  # otherwise it was drawn
            return _number_cell(_("not found"))
        ml, whole = structure.volume_ml, self._intracranial
        if whole is None:
            return _number_cell(significant(ml, 2))
        share = 100 * ml / whole.ml
        if self._shares:
            cell = _number_cell(significant(share, 3))
            cell.setToolTip(_("{ml} ml").format(ml=significant(ml, 2)))
        else:
            cell = _number_cell(significant(ml, 2))
            cell.setToolTip(_("{share:.2g} % of the intracranial volume").format(share=share))
        return cell

    def _confidence(self, structures: list[RecordedStructure]) -> Any:
        """The cell of expected Dice or confidence; its traffic light is that of the less certain side."""
        numbers = [shown_confidence(structure, self._calibrated) for structure in structures]
        known = [number for number in numbers if number is not None]
        texts = [NONE if number is None else str(round(100 * number)) for number in numbers]
        cell = _number_cell("/".join(texts) if known else NONE)
        if known:
            cell.setIcon(_status_dot(traffic_light(min(known))))
        tips = [why_no_dice(structure) for structure in structures]
        if len(structures) == 2:
            sides = zip(structures, tips, texts, strict=True)
            tips = [f"{s.label.name}: {tip or _('expected Dice {n} %').format(n=text)}" for s, tip, text in sides]
        cell.setToolTip("<br>".join(map(as_rich_text, tips)) if len(tips) == 2 else tips[0])
        return cell


def _number_cell(text: str) -> Any:
    cell = qt.QTableWidgetItem(text)
    cell.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
    return cell


def _title_cell(region: str, table: Any) -> Any:
    cell = qt.QTableWidgetItem(region)
    cell.setFlags(qt.Qt.NoItemFlags)  # neither mouse nor arrow keys stop there
    cell.setForeground(qt.QBrush(table.palette.color(qt.QPalette.Text)))  # or it would look disabled
    cell.setBackground(qt.QBrush(qt.QColor(128, 128, 128, 45)))  # seen in light and dark styles
    font = cell.font()
    font.setBold(True)
    cell.setFont(font)
    return cell


def _underline(cell: Any, chosen: bool) -> None:
    font = cell.font()
    font.setUnderline(chosen)
    font.setBold(chosen)
    cell.setFont(font)


def _swatch(color: tuple[int, int, int]) -> Any:
    swatch = qt.QPixmap(_ICON_SIZE, _ICON_SIZE)
    swatch.fill(qt.QColor(*color))
    return _icon(swatch)


def _status_dot(color: tuple[int, int, int]) -> Any:
    lamp = qt.QPixmap(_ICON_SIZE, _ICON_SIZE)
    lamp.fill(qt.QColor(0, 0, 0, 0))
    painter = qt.QPainter(lamp)
    painter.setRenderHint(qt.QPainter.Antialiasing)
    painter.setBrush(qt.QBrush(qt.QColor(*color)))
    painter.setPen(qt.QPen(qt.QColor(90, 90, 90)))
    painter.drawEllipse(1, 1, _ICON_SIZE - 3, _ICON_SIZE - 3)
    painter.end()
    return _icon(lamp)


def _icon(picture: Any) -> Any:
    """An icon that keeps its colours in the selected row."""
    icon = qt.QIcon(picture)
    icon.addPixmap(picture, qt.QIcon.Selected)
    return icon

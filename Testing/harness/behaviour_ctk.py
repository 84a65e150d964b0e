"""What CTK's widgets do: foldable sections, sliders, paths, search. Only names of the real classes are public."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from .dialogs import Dialog, dialogs
from .widgets import behaviour, emit

_UNLIMITED = 16777215  # QWIDGETSIZE_MAX
#: dynamic property of a child: whether it is to be seen while its section is unfolded
_WANTED = "visibilityToParent"


class _Foldable:
    """Shows and hides the children of a widget. A child that was hidden by itself stays hidden when it is unfolded."""

    _folding = False

    def _fold(self, folded: bool, height: int) -> None:
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget):
                self._show(child, not folded)
        self.setMaximumHeight(height if folded else _UNLIMITED)

    def _show(self, child: QtWidgets.QWidget, shown: bool) -> None:
        self._folding = True
        child.setVisible(shown and child.property(_WANTED) is not False)
        self._folding = False

    def childEvent(self, event: QtCore.QChildEvent) -> None:
        child = event.child()
        if event.added() and isinstance(child, QtWidgets.QWidget):
            child.installEventFilter(self)
            if not self.isChecked():
                self._show(child, False)

    def eventFilter(self, child: QtCore.QObject, event: QtCore.QEvent) -> bool:
        wanted = {QtCore.QEvent.ShowToParent: True, QtCore.QEvent.HideToParent: False}.get(event.type())
        if wanted is not None and not self._folding:
            child.setProperty(_WANTED, wanted)
            if wanted and not self.isChecked():
                self._show(child, False)
        return False


@behaviour("ctkCollapsibleButton")
class CollapsibleButton(_Foldable):
    """A section with a header that folds it."""

    _HEADER = 24

    def _init(self) -> None:
        self.setCheckable(True)
        self.setChecked(True)
        policy = QtWidgets.QSizePolicy
        self.setSizePolicy(policy.Minimum, policy.Preferred)  # as high as its text needs at its width
        self.setContentsMargins(4, self._HEADER, 4, 2)
        self.toggled.connect(self._on_toggled)

    def _on_toggled(self, opened: bool) -> None:
        self._fold(not opened, self._HEADER)
        emit(self, "contentsCollapsed(bool)", not opened)

    def _get_collapsed(self) -> bool:
        return not self.isChecked()

    def _set_collapsed(self, collapsed: bool) -> None:
        self.setChecked(not collapsed)

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        painter = QtGui.QPainter(self)
        painter.fillRect(0, 2, self.width, self._HEADER - 4, QtGui.QColor(222, 224, 230))
        arrow = QtCore.Qt.DownArrow if self.isChecked() else QtCore.Qt.RightArrow
        option = QtWidgets.QStyleOption()
        option.initFrom(self)
        option.rect = QtCore.QRect(6, 7, 10, 10)
        element = QtWidgets.QStyle.PE_IndicatorArrowDown
        if arrow == QtCore.Qt.RightArrow:
            element = QtWidgets.QStyle.PE_IndicatorArrowRight
        self.style().drawPrimitive(element, option, painter, self)
        painter.drawText(22, 17, self.text.replace("&&", "&"))
        painter.end()


@behaviour("ctkCollapsibleGroupBox")
class CollapsibleGroupBox(_Foldable):
    """A group box whose check mark folds it."""

    def _init(self) -> None:
        self.setCheckable(True)
        self.setChecked(True)
        self.toggled.connect(lambda opened: self._fold(not opened, 24))

    def _get_collapsed(self) -> bool:
        return not self.isChecked()

    def _set_collapsed(self, collapsed: bool) -> None:
        self.setChecked(not collapsed)


class _Number:
    """A number within bounds."""

    _defaults: dict[str, Any] = {"maximum": 99.0, "singleStep": 1.0, "decimals": 2}

    def _clip(self, value: float) -> float:
        return round(min(max(value, self.minimum), self.maximum), self.decimals)

    def _set_value(self, value: float) -> None:
        value = self._clip(value)
        if value != self.value:
            self._p_value = value
            emit(self, "valueChanged(double)", value)
            self._show()

    def _set_minimum(self, value: float) -> None:
        self._p_minimum = value
        self._p_maximum = max(self.maximum, value)
        self._set_value(self.value)
        self._show()

    def _set_maximum(self, value: float) -> None:
        self._p_maximum = value
        self._p_minimum = min(self.minimum, value)
        self._set_value(self.value)
        self._show()

    def _show(self) -> None:
        """Paint the value; widgets override this."""


@behaviour("ctkSliderWidget")
class SliderWidget(_Number):
    """A slider with a spin box."""

    _defaults = {**_Number._defaults, "spinBoxVisible": True, "tracking": True}

    def _init(self) -> None:
        self._slider = QtWidgets.QSlider(QtCore.Qt.Horizontal, self)
        self._slider.setRange(0, 1000)
        self._slider.valueChanged.connect(self._on_slider)
        self._label = QtWidgets.QLabel(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)
        layout.addWidget(self._label)
        self._show()

    def _on_slider(self, position: int) -> None:
        self._set_value(self.minimum + (self.maximum - self.minimum) * position / 1000)

    def _show(self) -> None:
        span = self.maximum - self.minimum
        self._slider.blockSignals(True)
        self._slider.setValue(round(1000 * (self.value - self.minimum) / span) if span else 0)
        self._slider.blockSignals(False)
        self._label.setText(f"{self.prefix}{self.value:.{self.decimals}f}{self.suffix}")


@behaviour("ctkDoubleSpinBox")
class DoubleSpinBox(_Number):
    """A spin box of CTK."""

    def _set_value(self, value: float) -> None:
        before = self.value
        super()._set_value(value)
        if self.value != before:
            emit(self, "valueChanged(QString)", f"{self.value:.{self.decimals}f}")

    def stepUp(self) -> None:
        self.value = self.value + self.singleStep

    def stepDown(self) -> None:
        self.value = self.value - self.singleStep


@behaviour("ctkRangeWidget")
class RangeWidget:
    """Two numbers within bounds, the lower first."""

    _defaults = {"maximum": 99.0, "maximumValue": 99.0, "singleStep": 1.0, "decimals": 2}

    def setRange(self, low: float, high: float) -> None:
        self._p_minimum, self._p_maximum = float(min(low, high)), float(max(low, high))
        emit(self, "rangeChanged(double,double)", self.minimum, self.maximum)
        self.setValues(self.minimumValue, self.maximumValue)

    def setValues(self, low: float, high: float) -> None:
        before = self.minimumValue, self.maximumValue
        low, high = (min(max(float(v), self.minimum), self.maximum) for v in sorted((low, high)))
        self._p_minimumValue, self._p_maximumValue = low, high
        if low != before[0]:
            emit(self, "minimumValueChanged(double)", low)
        if high != before[1]:
            emit(self, "maximumValueChanged(double)", high)
        if (low, high) != before:
            emit(self, "valuesChanged(double,double)", low, high)

    def _set_minimum(self, value: float) -> None:
        self.setRange(value, max(value, self.maximum))

    def _set_maximum(self, value: float) -> None:
        self.setRange(min(value, self.minimum), value)

    def _set_minimumValue(self, value: float) -> None:
        self.setValues(value, max(value, self.maximumValue))

    def _set_maximumValue(self, value: float) -> None:
        self.setValues(min(value, self.minimumValue), value)


class _Browsable:
    """A path with a button that opens a file dialog."""

    def _choose(self) -> str:
        return str(dialogs.take(Dialog("QFileDialog", "", type(self).__name__)))


@behaviour("ctkPathLineEdit")
class PathLineEdit(_Browsable):
    """An editable path. It tells of one that exists and fits; of any other, only that it does not, and not again."""

    _DIRS, _FILES = 0x1, 0x2  # QDir::Filter
    _valid = False

    def _init(self) -> None:
        self._edit = QtWidgets.QLineEdit(self)
        self._edit.textChanged.connect(self._on_text)
        self._button = QtWidgets.QToolButton(self)
        self._button.setText("...")
        self._button.clicked.connect(self.browse)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._edit)
        layout.addWidget(self._button)

    def _on_text(self, text: str) -> None:
        wanted, path = int(self.filters or 0), Path(text)
        valid = path.is_dir() if wanted & self._DIRS and not wanted & self._FILES else bool(text) and path.exists()
        valid = valid and bool(text)
        if valid:
            emit(self, "currentPathChanged(QString)", text)
        if valid != self._valid:
            self._valid = valid
            emit(self, "validInputChanged(bool)", valid)

    def _get_currentPath(self) -> str:
        return self._edit.text

    def _set_currentPath(self, path: str) -> None:
        self._edit.setText(path)

    def browse(self) -> None:
        path = self._choose()
        if path:
            self._set_currentPath(path)

    def addCurrentPathToHistory(self) -> None:
        """The history is not modelled."""


@behaviour("ctkDirectoryButton")
class DirectoryButton(_Browsable):
    """A button that shows a folder and chooses another."""

    def _set_directory(self, path: str) -> None:
        if path != self.directory:
            self._p_directory = path
            emit(self, "directoryChanged(QString)", path)

    def browse(self) -> None:
        path = self._choose()
        if path:
            self._set_directory(path)
            emit(self, "directorySelected(QString)", path)


@behaviour("ctkCheckableComboBox")
class CheckableComboBox:
    """A combo box with a check mark at each item."""

    def _init(self) -> None:
        self.model().itemChanged.connect(lambda item: emit(self, "checkedIndexesChanged()"))

    def checkableModel(self) -> QtGui.QStandardItemModel:
        return self.model()

    def checkState(self, index: QtCore.QModelIndex) -> QtCore.Qt.CheckState:
        return self.model().itemFromIndex(index).checkState()

    def setCheckState(self, index: QtCore.QModelIndex, state: QtCore.Qt.CheckState) -> None:
        self.model().itemFromIndex(index).setCheckState(state)

    def checkedIndexes(self) -> list[QtCore.QModelIndex]:
        items = [self.model().item(row) for row in range(self.model().rowCount())]
        return [item.index() for item in items if item.checkState() == QtCore.Qt.Checked]

    def allChecked(self) -> bool:
        return len(self.checkedIndexes()) == self.model().rowCount()

    def noneChecked(self) -> bool:
        return not self.checkedIndexes()


@behaviour("ctkSearchBox")
class SearchBox:
    """A line edit with a button that clears it."""

    def _init(self) -> None:
        self.setClearButtonEnabled(True)
        self.setPlaceholderText("Search...")


@behaviour("ctkMessageBox")
class MessageBox:
    """A message box with "Don't show again"; here it is always shown."""

"""How a parameter is bound to a widget: the pairs of type and widget class that Slicer knows, and no others.

As in Slicer the class must match exactly: other classes made from QCheckBox than ctkCheckBox are not bound.
"""

from __future__ import annotations

import enum
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import ctk
import qt
import slicer

from .parameter_node import Choice, Decimals, Maximum, Minimum, Parameter, SingleStep, WithinRange


class Connector:
    """A widget bound to a parameter.

    Args:
        widget: the widget.
        signal: name of the signal that says the value changed.
        read: returns the widget's value.
        write: gives the widget a value.
    """

    def __init__(
        self, widget: Any, signal: str, read: Callable[[], Any] | str, write: Callable[[Any], None] | None = None
    ) -> None:
        self._signal = getattr(widget, signal)
        self._callback: Callable[..., None] | None = None
        attribute = read
        self.read = read if callable(read) else lambda: getattr(widget, attribute)
        self.write = write or (lambda value: setattr(widget, attribute, value))

    def connect(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the user changes the widget."""
        self._callback = lambda *arguments: callback()
        self._signal.connect(self._callback)

    def disconnect(self) -> None:
        self._signal.disconnect(self._callback)


def connector(widget: Any, parameter: Parameter) -> Connector:
    """The connector of a widget and a parameter.

    Raises:
        RuntimeError: Slicer has none for this pair, or the parameter lacks an annotation that it needs.
    """
    kind, cls = parameter.type, type(widget)
    if kind is bool and cls in (qt.QCheckBox, ctk.ctkCheckBox):
        return Connector(widget, "stateChanged", "checked")
    if kind is bool and cls is qt.QPushButton:
        widget.checkable = True
        return Connector(widget, "toggled", "checked")
    if kind is int and cls in (qt.QSlider, qt.QSpinBox):
        return _number(widget, parameter, -(2**31), 2**31 - 1, cls is qt.QSlider)
    if kind is float and cls in (qt.QDoubleSpinBox, ctk.ctkSliderWidget):
        return _number(widget, parameter, float("-inf"), float("inf"), cls is ctk.ctkSliderWidget)
    if kind is str and cls is qt.QLineEdit:
        return Connector(widget, "textChanged", "text")
    if kind is str and cls is qt.QTextEdit:
        return Connector(widget, "textChanged", widget.toPlainText, widget.setPlainText)
    if cls is qt.QComboBox and kind in (int, float, str, bool):
        choice = parameter.find(Choice)
        if choice is None:
            raise RuntimeError(f"{parameter.name}: a combo box requires the Choice annotation")
        return _combo_box(widget, [str(value) for value in choice.choices], choice.choices)
    if cls is qt.QComboBox and issubclass(kind, enum.Enum):
        label = getattr(kind, "label", lambda value: value.name)
        return _combo_box(widget, [label(value) for value in kind], list(kind))
    if kind in (pathlib.Path, pathlib.PurePath) and cls in (ctk.ctkPathLineEdit, ctk.ctkDirectoryButton):
        attribute = "currentPath" if cls is ctk.ctkPathLineEdit else "directory"
        return Connector(
            widget,
            f"{attribute}Changed",
            lambda: kind(getattr(widget, attribute)),
            lambda value: setattr(widget, attribute, str(value)),
        )
    if parameter.node_types and cls is slicer.qMRMLNodeComboBox:
        widget.nodeTypes = [node_type.__name__ for node_type in parameter.node_types]
        return Connector(widget, "currentNodeChanged", widget.currentNode, widget.setCurrentNode)
    raise RuntimeError(f"Unable to create GUI connector from datatype '{kind}' to widget type '{cls}'")


def _number(widget: Any, parameter: Parameter, lowest: float, highest: float, must_be_bounded: bool) -> Connector:
    low, high = parameter.find(WithinRange, Minimum), parameter.find(WithinRange, Maximum)
    if must_be_bounded and (low is None or high is None):
        raise RuntimeError(f"{parameter.name}: a slider needs a parameter with bounds")
    for annotation, attribute in ((parameter.find(Decimals), "decimals"), (parameter.find(SingleStep), "singleStep")):
        if annotation is not None:
            setattr(widget, attribute, annotation.value)
    widget.minimum = low.minimum if low else lowest
    widget.maximum = high.maximum if high else highest
    return Connector(widget, "valueChanged", "value")


def _combo_box(widget: Any, labels: Sequence[str], values: Sequence[Any]) -> Connector:
    widget.clear()
    for label in labels:
        widget.addItem(label)

    def write(value: Any) -> None:
        widget.currentIndex = list(values).index(value)

    return Connector(widget, "currentIndexChanged", lambda: values[widget.currentIndex], write)

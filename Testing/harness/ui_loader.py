"""Loading of ``.ui`` files that tolerates nothing: Qt's loader only prints a line where a name is wrong."""

from __future__ import annotations

import functools
import xml.etree.ElementTree as ET
from typing import Any

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

from .widgets import setter_errors

_QT = {n: getattr(m, n) for m in (QtCore, QtGui, QtWidgets) for n in dir(m) if n.startswith("Q")}
_QT["Line"] = QtWidgets.QFrame
#: dynamic properties that Slicer reads; any other is a slip of the pen
_DYNAMIC_PROPERTIES = {"SlicerParameterName", "SlicerPackParameterName"}
#: enum values spelled with their enum's name, which Qt 5's loader does not understand
_LAYOUT_PROPERTIES = {
    "leftMargin",
    "topMargin",
    "rightMargin",
    "bottomMargin",
    "margin",
    "horizontalSpacing",
    "verticalSpacing",
}


class UiError(Exception):
    """A ``.ui`` file that Slicer would load only in part."""


def make_loader(classes: dict[str, type]) -> type:
    """A strict QUiLoader that knows these widget classes."""

    class QUiLoader(QtUiTools.QUiLoader):
        """Loads a ``.ui`` file or raises :class:`UiError`."""

        def load(self, source: Any, parent: QtWidgets.QWidget | None = None) -> QtWidgets.QWidget:
            tree = ET.fromstring(bytes(source.readAll().data()))
            _Checker(classes).check(tree)
            wires = _take_connections(tree)
            for name in {widget.get("class") for widget in tree.iter("widget")} & set(classes):
                self.registerCustomWidget(classes[name])
            buffer = QtCore.QBuffer()
            buffer.setData(ET.tostring(tree))
            buffer.open(QtCore.QIODevice.ReadOnly)
            root = _without_warnings(lambda: super(QUiLoader, self).load(buffer, parent))
            if root is None:
                raise UiError(self.errorString())
            for sender, signal, receiver, slot in wires:
                try:
                    _object(root, sender).connect(signal, _object(root, receiver), slot)
                except (AttributeError, ValueError) as error:
                    raise UiError(str(error)) from error
            return root

    return QUiLoader


def _without_warnings(load: Any) -> Any:
    """Call ``load``; what Qt would only print is an error."""
    messages: list[str] = []
    previous = QtCore.qInstallMessageHandler(lambda kind, context, text: messages.append(text))
    try:
        root = load()
    finally:
        QtCore.qInstallMessageHandler(previous)
    messages += setter_errors
    setter_errors.clear()
    if messages:
        raise UiError("; ".join(messages))
    return root


def _take_connections(tree: ET.Element) -> list[list[str]]:
    """Remove the <connections> (the loader cannot make those of custom widgets) and return them."""
    connections = tree.find("connections")
    if connections is None:
        return []
    tree.remove(connections)
    return [[wire.findtext(tag, "") for tag in ("sender", "signal", "receiver", "slot")] for wire in connections]


def _object(root: QtCore.QObject, name: str) -> QtCore.QObject:
    found = root if root.objectName == name else root.findChild(QtCore.QObject, name)
    if found is None:
        raise UiError(f"a connection names {name}, which does not exist")
    return found


@functools.cache
def _properties(cls: type) -> dict[str, QtCore.QMetaEnum | None]:
    """Every property of a class, with its enumerator where it is an enum. Read once: the meta object does not last."""
    meta = cls.staticMetaObject
    properties = [meta.property(index) for index in range(meta.propertyCount())]
    return {prop.name(): prop.enumerator() if prop.isEnumType() else None for prop in properties}


class _Checker:
    """Compares every name in a ``.ui`` file with the classes' properties."""

    def __init__(self, classes: dict[str, type]) -> None:
        self._classes = {**_QT, **classes}
        self._names: dict[str, str] = {}

    def check(self, tree: ET.Element) -> None:
        for element in tree.iter():
            if element.tag in ("widget", "layout", "action", "spacer"):
                self._check_element(element)
        for custom in tree.iter("customwidget"):
            self._class(custom.findtext("class", ""), "customwidget")
        for label in tree.iter("property"):
            buddy = label.findtext("cstring")
            if label.get("name") == "buddy" and buddy not in self._names:
                raise UiError(f"a buddy names {buddy}, which does not exist")

    def _check_element(self, element: ET.Element) -> None:
        name = element.get("name", "")
        class_name = element.get("class") or {"action": "QAction", "spacer": "QSpacerItem"}[element.tag]
        if name and name in self._names:
            raise UiError(f"two objects are called {name}")
        self._names[name] = class_name
        if element.tag == "spacer":
            return
        cls = self._class(class_name, name)
        for prop in element.findall("property"):
            self._check_property(cls, prop, f"{class_name} {name}")

    def _class(self, class_name: str, name: str) -> type:
        cls = self._classes.get(class_name)
        if cls is None:
            raise UiError(f"unknown widget class {class_name} ({name})")
        return cls

    def _check_property(self, cls: type, prop: ET.Element, where: str) -> None:
        key = prop.get("name", "")
        if key in _DYNAMIC_PROPERTIES or (key in _LAYOUT_PROPERTIES and issubclass(cls, QtWidgets.QLayout)):
            return
        known = _properties(cls)
        made_up = (QtWidgets.QLabel, "buddy"), (QtWidgets.QFrame, "orientation")  # by Designer, for its "Line"
        if key not in known and (cls, key) not in made_up:
            raise UiError(f"{where} has no property {key}")
        value = prop.find("enum")
        if value is None:
            value = prop.find("set")
        enumerator = known.get(key)
        if value is None or enumerator is None:
            return
        for part in (value.text or "").split("|"):
            if part.count("::") > 1:
                raise UiError(f"{where}.{key}: Qt 5 knows no {part}, only the short spelling")
            if enumerator.keyToValue(part.split("::")[-1]) == -1:
                raise UiError(f"{where}.{key} has no value {part}")

"""Qt as Slicer's Python sees it (PythonQt), on PySide6: the module ``qt``.

What differs, and is bridged here:

- properties are attributes (``button.enabled = True``, ``label.text``) and hide the getter of the same name;
- an unknown attribute cannot be set on a C++ object;
- ``object.connect("clicked(bool)", f)``: a slot gets only the arguments that it takes;
- one flat module; ``name``, ``className()``, ``exec_()``.

Stricter than PythonQt on purpose: connecting to a signal that does not exist raises (PythonQt prints a line).
"""

from __future__ import annotations

import enum
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

from PySide6 import QtCore, QtGui, QtNetwork, QtUiTools, QtWidgets

_SOURCES = (QtWidgets, QtGui, QtCore, QtUiTools, QtNetwork)
_QObject = QtCore.QObject
#: C++ calls these by name on Python subclasses, so they stay methods
_VIRTUAL_GETTERS = {"sizeHint", "minimumSizeHint"}
#: signals that Qt 6 has and Qt 5.15, which Slicer uses, has not
_NEWER_THAN_QT5 = {"checkStateChanged", "colorSchemeChanged"}
#: modules whose classes stand for C++ ones
_CPP_MODULES = ("ctk", "slicer")

_get_property, _set_property = _QObject.property, _QObject.setProperty
_pyside_connect, _pyside_disconnect = _QObject.connect, _QObject.disconnect


class PropertyAttribute:
    """A Qt property as a Python attribute of its class.

    Args:
        name: the property's name.
        writable: whether it can be set.
        method: what the class had under this name before: QTimer.singleShot is a property and a static method.
    """

    def __init__(self, name: str, writable: bool, method: Any = None) -> None:
        self.name = name
        self.writable = writable
        self.method = method

    def __get__(self, instance: QtCore.QObject | None, owner: type | None = None) -> Any:
        if instance is not None:
            return _get_property(instance, self.name)
        if self.method is None:
            return self
        return self.method.__get__(None, owner) if hasattr(self.method, "__get__") else self.method

    def __set__(self, instance: QtCore.QObject, value: Any) -> None:
        if not self.writable:
            raise AttributeError(f"Property '{self.name}' of {type(instance).__name__} object is not writable")
        if isinstance(_get_property(instance, self.name), bool) and not isinstance(value, str):
            value = bool(value)  # PythonQt takes truth values
        if isinstance(value, enum.Enum):
            value = value.value  # PySide6 converts no enum to a property's C++ type
        if not _set_property(instance, self.name, value):
            raise AttributeError(
                f"Property '{self.name}' of {type(instance).__name__} does not accept an object of type "
                f"{type(value).__name__} ({value!r})"
            )


def find_signal(sender: QtCore.QObject, signature: str) -> tuple[QtCore.SignalInstance, int]:
    """The signal with this C++ signature, and how many arguments it carries.

    Raises:
        ValueError: there is no such signal.
    """
    normal = QtCore.QMetaObject.normalizedSignature(signature).data().decode()
    name, _, types_text = normal.removesuffix(")").partition("(")
    count = len(types_text.split(",")) if types_text else 0
    overloads = getattr(type(sender), "_signal_overloads", {})  # of the classes made from the contract
    if normal in overloads:
        signal = getattr(sender, name)
        return (signal[overloads[normal]] if overloads[normal] is not None else signal), count
    meta = sender.metaObject()
    if meta.indexOfSignal(normal) < 0 or name in _NEWER_THAN_QT5:
        raise ValueError(f"signal '{signature}' does not exist on {meta.className()}")
    signal = getattr(sender, name)
    if not types_text:
        return signal, 0
    return signal[_overload(meta, name, types_text)], count


def _overload(meta: QtCore.QMetaObject, name: str, types_text: str) -> str:
    """The overload of a signal that carries these arguments; default arguments make shorter twins of one overload."""
    methods = [meta.method(index) for index in range(meta.methodCount())]
    signals = [m for m in methods if m.methodType() == QtCore.QMetaMethod.MethodType.Signal]
    same = [
        m.methodSignature().data().decode()[len(name) + 1 : -1] for m in signals if m.name().data().decode() == name
    ]
    if types_text in same and not any(other.startswith(types_text + ",") for other in same):
        return types_text
    return max((other for other in same if other.startswith(types_text)), key=len)


def _arity(slot: Callable[..., Any]) -> int | None:
    """How many positional arguments a slot takes; None where it takes any number or is no Python function."""
    code = getattr(getattr(slot, "__func__", slot), "__code__", None)
    if code is None or code.co_flags & inspect.CO_VARARGS:
        return None
    return code.co_argcount - (1 if inspect.ismethod(slot) else 0)


_connections: dict[tuple[int, str, Any], tuple[QtCore.SignalInstance, Callable[..., None]]] = {}


def _connect(self: QtCore.QObject, signature: Any, receiver: Any, slot: str | None = None, *more: Any) -> bool:
    """``sender.connect("signal(type)", callable)``, or ``sender.connect("signal()", receiver, "slot()")``."""
    if isinstance(signature, _QObject):  # PySide6's `signal.connect(f)` comes through this very method
        return _pyside_connect(signature, receiver, slot, *more)
    target = getattr(receiver, slot.split("(")[0]) if slot is not None else receiver
    if not callable(target):
        raise TypeError(f"{target!r} is not callable")
    signal, count = find_signal(self, signature)
    taken = _arity(target)
    count = count if taken is None else min(count, taken)

    def call(*arguments: Any) -> None:
        target(*arguments[:count])

    signal.connect(call)
    _connections[id(self), signature, target] = (signal, call)
    return True


def _disconnect(self: QtCore.QObject, signature: Any = None, receiver: Any = None, *more: Any) -> bool:
    if isinstance(signature, _QObject):
        return _pyside_disconnect(signature, receiver, *more)
    found = [
        key
        for key in _connections
        if key[0] == id(self) and signature in (None, key[1]) and (receiver is None or receiver == key[2])
    ]
    for key in found:
        signal, call = _connections.pop(key)
        signal.disconnect(call)
    return bool(found)


def _set_attribute(self: QtCore.QObject, name: str, value: Any) -> None:
    """Attributes of C++ objects can be set only where there is a property; Python subclasses are free."""
    cls = type(self)
    attribute = inspect.getattr_static(cls, name, None)
    is_pyside = cls.__module__.startswith("PySide6.")
    if isinstance(value, QtCore.SignalInstance):  # PySide6 keeps a bound signal on its object
        self.__dict__[name] = value
    elif isinstance(attribute, QtCore.Property):  # declared in Python; PySide6 would set it past this method
        setter = cls._property_setters.get(name)
        if setter is None:
            raise AttributeError(f"Property '{name}' of {cls.__name__} object is not writable")
        setter(self, value)
    elif hasattr(type(attribute), "__set__"):
        type(attribute).__set__(attribute, self, value)
    elif is_pyside or (cls.__module__ in _CPP_MODULES and not name.startswith("_")):
        if _get_property(self, name) is None:  # no dynamic property either
            reason = (
                "Slot can not be overwritten" if attribute is not None else "no such property, and none can be made"
            )
            raise AttributeError(f"'{name}' on {cls.__name__} object: {reason}")
        _set_property(self, name, value)
    else:
        self.__dict__[name] = value


def _bridge(cls: type[QtCore.QObject]) -> None:
    """Give a PySide6 class PythonQt's attributes."""
    cls.__setattr__ = _set_attribute
    meta = cls.staticMetaObject
    for index in range(meta.propertyCount()):
        prop = meta.property(index)
        name = prop.name()
        inherited = index < meta.propertyOffset() and name not in vars(cls)
        if name not in _VIRTUAL_GETTERS and not inherited:
            setattr(cls, name, PropertyAttribute(name, prop.isWritable(), vars(cls).get(name)))


def install() -> types.ModuleType:
    """Bridge all of PySide6 and make ``qt`` importable. Returns it."""
    if "qt" in sys.modules:
        return sys.modules["qt"]
    members = {name: getattr(source, name) for source in reversed(_SOURCES) for name in dir(source) if name[0] != "_"}
    for cls in {member for member in members.values() if inspect.isclass(member) and issubclass(member, _QObject)}:
        _bridge(cls)
    _QObject.name = PropertyAttribute("objectName", True)
    _QObject.className = lambda self: self.metaObject().className()
    # shiboken answers instance.connect in C before it looks into the class
    original, bridged = _QObject.__getattribute__, {"connect": _connect, "disconnect": _disconnect}
    _QObject.__getattribute__ = lambda self, name: (
        bridged[name].__get__(self) if name in bridged else original(self, name)
    )
    for cls in (QtWidgets.QDialog, QtWidgets.QMenu, QtCore.QEventLoop, QtCore.QCoreApplication):
        cls.exec_ = cls.exec
    qt = sys.modules["qt"] = types.ModuleType("qt", "Qt as PythonQt shows it (stand-in on PySide6)")
    vars(qt).update(members)
    return qt

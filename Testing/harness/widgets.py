"""CTK's and Slicer's widget classes on PySide6, generated from the contract.

A generated class has exactly the names of the real one. A behaviour (see the ``behaviour_*`` modules) says what some of
them do: a mix-in class whose public methods must be in the contract, with hooks for properties (``_get_x``, ``_set_x``)
and ``_init``. A name without behaviour raises :class:`NotModelled` when it is called; a property without behaviour
keeps the value it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6 import QtCore, QtGui, QtNetwork, QtWidgets

from . import contract, pythonqt

_PYTHON_TYPES = {"bool": bool, "int": int, "uint": int, "double": float, "float": float, "QString": str}
_QT = {n: getattr(m, n) for m in (QtCore, QtGui, QtNetwork, QtWidgets) for n in dir(m) if n.startswith("Q")}
_QT["QVTKOpenGLNativeWidget"] = QtWidgets.QWidget
_BEHAVIOURS: dict[str, type] = {}
#: what went wrong when C++ (the loader of .ui files) set properties
setter_errors: list[str] = []


class NotModelled(NotImplementedError):  # noqa: N818 - what it says is its name
    """The name exists in Slicer, but the stand-in does not know what it does."""


def behaviour(*class_names: str) -> Callable[[type], type]:
    """Class decorator: these widget classes behave like the decorated class says."""

    def register(cls: type) -> type:
        for name in class_names:
            _BEHAVIOURS[name] = cls
        return cls

    return register


def emit(sender: QtCore.QObject, signature: str, *arguments: Any) -> None:
    """Emit a signal by its C++ signature."""
    pythonqt.find_signal(sender, signature)[0].emit(*arguments)


def build() -> dict[str, type]:
    """All classes of the contract by name."""
    classes: dict[str, type] = {}
    for name in contract.load():
        _build_class(name, classes)
    return classes


def _build_class(name: str, classes: dict[str, type]) -> type:
    if name in classes:
        return classes[name]
    spec = contract.load().get(name)
    if spec is None:
        return _QT[name]
    base = _build_class(spec.base, classes) if spec.base else QtCore.QObject
    mixin = _BEHAVIOURS.get(name, object)
    _check_behaviour(name, mixin, base)
    namespace: dict[str, Any] = {"__module__": "ctk" if name.startswith("ctk") else "slicer", "__init__": _construct}
    namespace["_property_setters"] = dict(getattr(base, "_property_setters", {}))
    for key, prop in spec.properties.items():
        namespace[key], namespace["_property_setters"][key] = _make_property(key, prop)
    _add_signals(namespace, spec, dict(getattr(base, "_signal_overloads", {})))
    setters = {prop.setter: key for key, prop in spec.properties.items() if prop.setter}
    for method in spec.method_names() - set(namespace) - _public(mixin):
        if method in setters:
            namespace[method] = _make_setter(setters[method])
        elif not hasattr(base, method):
            namespace[method] = _make_not_modelled(name, method)
    for enum_values in spec.enums.values():
        namespace |= {value: index for index, value in enumerate(enum_values) if value not in namespace}
    if base is QtWidgets.QAbstractButton and not hasattr(mixin, "paintEvent"):
        namespace["paintEvent"] = lambda self, event: None
    bases = (mixin, base) if mixin is not object else (base,)
    classes[name] = type(base)(name, bases, namespace)
    return classes[name]


def _construct(self: QtCore.QObject, *arguments: Any, **options: Any) -> None:
    """Construct the Qt object, then run the ``_init`` of each behaviour, base first."""
    qt_class = next(cls for cls in type(self).__mro__ if cls.__module__.startswith("PySide6."))
    qt_class.__init__(self, *arguments, **options)
    for cls in reversed(type(self).__mro__):
        if "_init" in vars(cls):
            vars(cls)["_init"](self)


def _public(mixin: type) -> set[str]:
    return {name for cls in mixin.__mro__[:-1] for name in vars(cls) if not name.startswith("_")}


def _check_behaviour(name: str, mixin: type, base: type) -> None:
    """Refuse a behaviour that shows Python a name which the real class has not."""
    extra = {key for key in _public(mixin) - contract.names(name) if not hasattr(base, key)}
    if extra:
        raise AssertionError(f"the real {name} has no {sorted(extra)}")


def _make_property(name: str, prop: contract.Property) -> tuple[QtCore.Property, Callable[[Any, Any], None] | None]:
    is_list = prop.type == "QStringList"
    python_type = _PYTHON_TYPES.get(prop.type)
    empty = () if is_list else python_type() if python_type else None

    def get(self: Any) -> Any:
        hook = getattr(self, f"_get_{name}", None)
        return hook() if hook else self.__dict__.get(f"_p_{name}", getattr(self, "_defaults", {}).get(name, empty))

    def set_(self: Any, value: Any) -> None:
        if python_type is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if python_type is bool and isinstance(value, int):
            value = bool(value)
        wanted = (list, tuple) if is_list else python_type
        if wanted and not isinstance(value, wanted):
            raise AttributeError(
                f"Property '{name}' of type '{prop.type}' does not accept an object of type {type(value).__name__}"
            )
        before = get(self)
        value = tuple(value) if is_list else value  # PythonQt gives string lists back as tuples
        hook = getattr(self, f"_set_{name}", None)
        if hook:
            hook(value)
        else:
            self.__dict__[f"_p_{name}"] = value
        if prop.notify and not hook and get(self) != before:
            signature = next(key for key in self._signal_overloads if key.startswith(f"{prop.notify}("))
            emit(self, signature, *([get(self)] if not signature.endswith("()") else []))

    def set_from_cpp(self: Any, value: Any) -> None:
        try:
            set_(self, value)
        except Exception as error:  # PySide6 would carry it through C++, and crash
            setter_errors.append(f"{type(self).__name__} {self.objectName}: {error}")

    if not prop.setter:
        return QtCore.Property(python_type or "QVariant", get), None
    return QtCore.Property(python_type or "QVariant", get, set_from_cpp), set_


def _make_setter(name: str) -> Callable[[Any, Any], None]:
    return lambda self, value: setattr(self, name, value)


def _make_not_modelled(class_name: str, name: str) -> Callable[..., None]:
    def method(self: Any, *arguments: Any, **options: Any) -> None:
        raise NotModelled(f"{class_name}.{name} exists in Slicer, but the stand-in does not model it")

    return method


def _add_signals(namespace: dict[str, Any], spec: contract.ClassContract, overloads: dict[str, Any]) -> None:
    """Declare the signals; ``_signal_overloads`` maps each C++ signature to PySide6's overload key (None: only one)."""
    by_name: dict[str, list[list[str]]] = {}
    for signatures in spec.signals:
        by_name.setdefault(signatures[0].split("(")[0], []).append(signatures)
    for name, variants in by_name.items():
        kinds = [tuple(_signal_type(t) for t in s[0][len(name) + 1 : -1].split(",") if t) for s in variants]
        namespace[name] = QtCore.Signal(*(kinds if len(kinds) > 1 else kinds[0]))
        for kind, signatures in zip(kinds, variants, strict=True):
            key = (kind[0] if len(kind) == 1 else kind) if len(kinds) > 1 else None
            overloads |= dict.fromkeys(signatures, key)
    namespace["_signal_overloads"] = overloads


def _signal_type(cpp: str) -> type:
    return _PYTHON_TYPES.get(cpp, list if cpp == "QStringList" else object)

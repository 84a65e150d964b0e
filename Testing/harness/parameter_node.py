"""Stand-in for ``slicer.parameterNodeWrapper``: typed properties kept in the scene, and bound to widgets.

Values are kept as the application keeps them (``SetParameter``, node references), so scenes saved by either are read
by both. Types: bool, int, float, str, enum, path, node, and Optional of a node.
"""

from __future__ import annotations

import dataclasses
import enum
import pathlib
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

import slicer
import slicer.util
import vtk

__all__ = [
    "Choice",
    "Decimals",
    "Default",
    "Maximum",
    "Minimum",
    "SingleStep",
    "WithinRange",
    "isParameterNodeWrapper",
    "parameterNodeWrapper",
]
PROPERTY_NAME = "SlicerParameterName"


@dataclasses.dataclass
class Default:
    """The value of a parameter that was never set."""

    value: Any


@dataclasses.dataclass
class Minimum:
    """Lowest value allowed."""

    minimum: float

    def validate(self, value: Any) -> None:
        if value < self.minimum:
            raise ValueError(f"{value} is below {self.minimum}")


@dataclasses.dataclass
class Maximum:
    """Highest value allowed."""

    maximum: float

    def validate(self, value: Any) -> None:
        if value > self.maximum:
            raise ValueError(f"{value} is above {self.maximum}")


@dataclasses.dataclass
class WithinRange:
    """Lowest and highest value allowed."""

    minimum: float
    maximum: float

    def validate(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is not within {self.minimum} to {self.maximum}")


@dataclasses.dataclass
class Choice:
    """The values allowed."""

    choices: Sequence[Any]

    def validate(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"{value!r} is not one of {self.choices}")


@dataclasses.dataclass
class Decimals:
    """Decimal places that a spin box or slider shows."""

    value: int


@dataclasses.dataclass
class SingleStep:
    """Step of a spin box or slider."""

    value: float


class Parameter:
    """One typed property: how it is kept in a parameter node."""

    def __init__(self, name: str, annotation: Any, default: Any) -> None:
        self.name = name
        annotated = typing.get_origin(annotation) is typing.Annotated
        self.type = typing.get_args(annotation)[0] if annotated else annotation
        self.annotations = list(typing.get_args(annotation)[1:]) if annotated else []
        self.node_types = _node_types(self.type)
        simple = (bool, int, float, str, enum.Enum, pathlib.PurePath)
        if not self.node_types and not (isinstance(self.type, type) and issubclass(self.type, simple)):
            raise NotImplementedError(f"{name}: {self.type} may work in Slicer, but the stand-in does not model it")
        given = [entry.value for entry in self.annotations if isinstance(entry, Default)]
        self.default = default if default is not None else given[0] if given else self._type_default()

    def _type_default(self) -> Any:
        if self.node_types:
            return None
        return next(iter(self.type)) if issubclass(self.type, enum.Enum) else self.type()

    def find(self, *kinds: type) -> Any:
        """The first annotation of one of these classes, or None."""
        return next((entry for entry in self.annotations if isinstance(entry, kinds)), None)

    def write(self, node: slicer.vtkMRMLScriptedModuleNode, value: Any) -> None:
        """Check and keep a value; TypeError or ValueError where it is not allowed."""
        allowed = self.node_types or ((int, float) if self.type is float else self.type)
        if not isinstance(value, allowed) and not (self.node_types and value is None):
            raise TypeError(f"{self.name} takes {self.type}, not {value!r}")
        for annotation in self.annotations:
            if hasattr(annotation, "validate"):
                annotation.validate(value)
        if self.node_types:
            with slicer.util.NodeModify(node):
                node.SetParameter(self.name, "")
                node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
        else:
            node.SetParameter(self.name, value.name if isinstance(value, enum.Enum) else str(value))

    def read(self, node: slicer.vtkMRMLScriptedModuleNode) -> Any:
        """The value kept; the default is kept first where there is none (after the scene was closed, for example)."""
        if not node.HasParameter(self.name):
            self.write(node, self.default)
        if self.node_types:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if self.type is bool:
            return text == "True"
        return self.type[text] if issubclass(self.type, enum.Enum) else self.type(text)


def _node_types(annotation: Any) -> tuple[type, ...]:
    """The MRML classes of ``vtkMRMLXNode``, ``A | B`` or ``Optional[A]``; () for anything else."""
    members = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if typing.get_origin(annotation) is typing.Union:
        members = typing.get_args(annotation)
    nodes = tuple(member for member in members if member is not type(None))
    return nodes if all(isinstance(node, type) and issubclass(node, slicer.vtkMRMLNode) for node in nodes) else ()


def isParameterNodeWrapper(value: Any) -> bool:
    """Whether a class or object was made by :func:`parameterNodeWrapper`."""
    return hasattr(value, "allParameters")


def parameterNodeWrapper(cls: type | None = None) -> Any:
    """Class decorator: annotated names become properties of a parameter node."""
    if cls is None:
        return parameterNodeWrapper
    hints = typing.get_type_hints(cls, include_extras=True)
    parameters = {name: Parameter(name, hint, getattr(cls, name, None)) for name, hint in hints.items()}
    for name in vars(_Wrapper):
        if not name.startswith("__") and hasattr(cls, name):
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
    for name in parameters:
        setattr(cls, name, property(_reader(name), _writer(name)))
    return type(cls.__name__, (_Wrapper, cls), {"allParameters": parameters, "__module__": cls.__module__})


class Cached:
    """A parameter of one node whose value is kept, and read again only when the node says that it was modified.

    Node references are kept as well, so one that is read while its node is not in the scene yet (during an import)
    is None and stays so: the node does not say that it was modified when the import ends.
    """

    def __init__(self, parameter: Parameter, node: slicer.vtkMRMLScriptedModuleNode) -> None:
        self._parameter = parameter
        self._node = node
        self._writing = False
        self.value = parameter.read(node)
        node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._on_modified)  # for as long as there is the node

    def write(self, value: Any) -> None:
        self._writing = True
        try:
            with slicer.util.NodeModify(self._node):
                self._parameter.write(self._node, value)
                self.value = self._parameter.read(self._node)
        finally:
            self._writing = False

    def _on_modified(self, caller: vtk.vtkObject, event: str) -> None:
        if not self._writing:
            self.value = self._parameter.read(self._node)


def _reader(name: str) -> Callable[[Any], Any]:
    return lambda wrapper: wrapper.getValue(name)


def _writer(name: str) -> Callable[[Any, Any], None]:
    return lambda wrapper, value: wrapper.setValue(name, value)


class _Wrapper:
    """What every parameter node class gets."""

    def __init__(self, parameterNode: slicer.vtkMRMLScriptedModuleNode) -> None:
        self.parameterNode = parameterNode
        self._bindings: dict[int, dict[str, Any]] = {}
        self._next_tag = 0
        self._updating = False
        self._cached = {name: Cached(parameter, parameterNode) for name, parameter in self.allParameters.items()}

    def default(self, name: str) -> Default:
        return Default(self._parameter(name).default)

    def isCached(self, name: str) -> bool:
        return bool(self._parameter(name))

    def getValue(self, name: str) -> Any:
        self._parameter(name)
        return self._cached[name].value

    def setValue(self, name: str, value: Any) -> None:
        self._parameter(name)
        self._cached[name].write(value)

    def _parameter(self, name: str) -> Parameter:
        if name not in self.allParameters:
            raise ValueError(f"Cannot find a param with the given name: {name}. Found: {', '.join(self.allParameters)}")
        return self.allParameters[name]

    def connectGui(self, gui: Any) -> int:
        """Bind the widgets whose dynamic property SlicerParameterName names a parameter; returns the tag of that.

        ``gui`` is a widget, or what ``slicer.util.childWidgetVariables`` returns.
        """
        import qt

        widgets = gui.findChildren(qt.QWidget) if isinstance(gui, qt.QWidget) else vars(gui).values()
        return self.connectParametersToGui({w.property(PROPERTY_NAME): w for w in widgets if w.property(PROPERTY_NAME)})

    def connectParametersToGui(self, mapping: dict[str, Any]) -> int:
        """Bind widgets by parameter name. Returns the tag for :meth:`disconnectGui`."""
        from .gui_connectors import connector

        connectors = {name: connector(widget, self._parameter(name)) for name, widget in mapping.items()}
        tag = self._next_tag
        self._next_tag += 1
        self._bindings[tag] = connectors
        for name, bound in connectors.items():
            bound.write(self.getValue(name))
            bound.connect(lambda name=name, bound=bound: self._from_gui(name, bound))
        self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: self._to_gui())
        return tag

    def disconnectGui(self, tag: int | None) -> None:
        """Undo :meth:`connectParametersToGui`. A tag that was never given is ignored."""
        for bound in self._bindings.pop(tag, {}).values():
            bound.disconnect()

    def _from_gui(self, name: str, bound: Any) -> None:
        with slicer.util.NodeModify(self):
            if not self._updating:
                self.setValue(name, bound.read())

    def _to_gui(self) -> None:
        if self._updating:
            return
        self._updating = True
        try:
            with slicer.util.NodeModify(self):
                for connectors in list(self._bindings.values()):
                    for name, bound in connectors.items():
                        bound.write(self.getValue(name))
        finally:
            self._updating = False

    def StartModify(self) -> int:
        return self.parameterNode.StartModify()

    def EndModify(self, wasModified: int) -> None:
        self.parameterNode.EndModify(wasModified)

    def Modified(self) -> None:
        self.parameterNode.Modified()

    def AddObserver(self, event: int, callback: Callable[..., None], priority: float = 0.0) -> int:
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

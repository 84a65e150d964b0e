"""Which functions a command may come to, by the names in its source."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "SESegmentation"


class Program:
    """The functions, classes and constants of all packages but for what runs in Slicer.

    Each is called by "module:name" or "module:class.method". Names are followed through imports; methods by their
    names alone, in classes that are come to.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, ast.AST] = {}
        self.methods: dict[str, list[str]] = defaultdict(list)
        self.imports: dict[str, dict[str, tuple[str, str]]] = {}
        for path in SOURCES.glob("SESegmentation*/**/*.py"):
            parts = path.relative_to(SOURCES).with_suffix("").parts
            package = parts[:-1]
            module = ".".join(package if parts[-1] == "__init__" else parts)
            if not {"panel", "mrml"} & set(parts):
                self._add(module, package, ast.parse(path.read_text(encoding="utf-8")))

    def _add(self, module: str, package: tuple[str, ...], tree: ast.Module) -> None:
        self.imports[module] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else ()
                origin = ".".join([*above, *([node.module] if node.module else [])])
                self.imports[module] |= {a.asname or a.name: (origin, a.name) for a in node.names}
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.nodes[f"{module}:{node.name}"] = node
            for method in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
                    self.nodes[f"{module}:{node.name}.{method.name}"] = method
                    self.methods[method.name].append(f"{module}:{node.name}.{method.name}")
            for name in assigned(node):
                self.nodes[f"{module}:{name}"] = node

    def _named(self, module: str, name: str, depth: int = 9) -> str:
        """What a name in a module is: a function, class, constant, or module; empty where it is none of these."""
        if f"{module}:{name}" in self.nodes or not depth:
            return f"{module}:{name}"
        origin, original = self.imports.get(module, {}).get(name, ("", ""))
        if f"{origin}.{original}" in self.imports:
            return f"{origin}.{original}"
        return self._named(origin, original, depth - 1) if origin in self.imports else ""

    @cache  # noqa: B019 - it lives as long as the module
    def _uses(self, place: str) -> tuple[set[str], set[str]]:
        """Names of what a function uses, and of what may be methods."""
        node, module = self.nodes[place], place.partition(":")[0]
        own = {argument.arg for argument in ast.walk(node) if isinstance(argument, ast.arg)}
        names, attributes = set(), set()
        for part in shallow(node):
            if isinstance(part, ast.Name) and part.id not in own:
                names.add(self._named(module, part.id))
            elif isinstance(part, ast.Attribute):
                base = self._named(module, part.value.id) if isinstance(part.value, ast.Name) else ""
                if base in self.imports:
                    names.add(self._named(base, part.attr))
                else:
                    attributes.add(part.attr)
        if isinstance(node, ast.ClassDef):  # Python calls them by other names
            names |= {name for name in self.nodes if name.startswith(f"{place}.__")}
        return names & self.nodes.keys(), attributes

    def reached(self, *starts: str) -> set[str]:
        """The functions, classes and constants that may be come to."""
        seen: set[str] = set()
        attributes: set[str] = set()
        waiting = set(starts)
        while waiting:
            seen |= waiting
            names, more = zip(*(self._uses(place) for place in waiting), strict=True)
            attributes |= set().union(*more)
            methods = {method for name in attributes for method in self.methods.get(name, ())}
            waiting = set().union(*names, {each for each in methods if each.rpartition(".")[0] in seen}) - seen
        return seen


def assigned(node: ast.stmt) -> list[str]:
    """Names of constants of a module."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def shallow(node: ast.AST) -> Iterator[ast.AST]:
    """A function with all in it; a class without its methods."""
    if not isinstance(node, ast.ClassDef):
        yield from ast.walk(node)
        return
    for part in (*node.bases, *node.decorator_list, *node.body):
        if not isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from ast.walk(part)

"""What Slicer's own Python imports of this project needs nothing that Slicer has not."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MODULE_FOLDER = Path(__file__).resolve().parents[3] / "SESegmentation"
LIBRARY = "SESegmentationLib"
#: besides the standard library
IN_SLICER = {"numpy", "vtk", "qt", "ctk", "slicer", "SimpleITK", "requests"}
#: modules of Slicer and of the PyTorch extension that are there once Slicer has started: within functions only
ONCE_STARTED = {"SampleData", "PyTorchUtils"}
#: what runs in Slicer's own Python, as files and folders
ROOTS = (
    "SESegmentation.py",
    *(f"{LIBRARY}/{name}" for name in ("panel", "mrml", "client", "models", "doctor.py", "errors.py", "progress.py")),
    *(f"{LIBRARY}/worker/{name}.py" for name in ("ending", "frames", "jobs", "messages", "results")),
)
#: of these also what functions import runs there; elsewhere functions may belong to the worker process
ONLY_IN_SLICER = ("SESegmentation.py", f"{LIBRARY}/panel", f"{LIBRARY}/mrml")


class Imports(ast.NodeVisitor):
    """Imported modules by where they are imported: when the file is, or when a function is called.

    Attributes:
        at_file_scope: absolute names, "a.b" for "from a import b" as well as "a".
        in_functions: the same.
    """

    def __init__(self, source: str, package: str) -> None:
        self.at_file_scope: set[str] = set()
        self.in_functions: set[str] = set()
        self._package = package
        self._depth = 0
        self.visit(ast.parse(source))

    def visit_FunctionDef(self, node: ast.AST) -> None:  # noqa: N802
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef  # noqa: N815

    def visit_If(self, node: ast.If) -> None:  # noqa: N802
        if ast.unparse(node.test) not in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:  # noqa: N802
        self._add(alias.name for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:  # noqa: N802
        parents = self._package.split(".")
        base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
        module = ".".join(filter(None, (base, node.module)))
        self._add([module, *(f"{module}.{alias.name}" for alias in node.names)])

    def _add(self, names: Iterator[str]) -> None:
        (self.in_functions if self._depth else self.at_file_scope).update(names)


def imports_of(path: Path, root: Path) -> Imports:
    package = ".".join(path.relative_to(root).parent.parts)
    return Imports(path.read_text(encoding="utf-8"), package)


def files_of(name: str, root: Path) -> list[Path]:
    """The files that importing a module of ours runs: its own and the ``__init__`` of every package above it."""
    parts = name.split(".")
    folders = [root.joinpath(*parts[:count]) for count in range(1, len(parts) + 1)]
    candidates = [folder / "__init__.py" for folder in folders] + [folders[-1].with_suffix(".py")]
    return [path for path in candidates if path.is_file()]


def is_in_slicer(name: str) -> bool:
    top = name.partition(".")[0]
    return top in sys.stdlib_module_names or top in IN_SLICER


def foreign_imports(root: Path, starts: list[Path], with_functions: list[Path]) -> list[str]:
    """Imports that fail in Slicer, "file: module", following those of our own modules.

    Args:
        root: the folder that Slicer imports from.
        starts: files to begin with.
        with_functions: those whose functions run in Slicer.
    """
    found, seen, waiting = [], set(), list(starts)
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        imports = imports_of(path, root)
        names = set(imports.at_file_scope)
        if path in with_functions:
            names |= {name for name in imports.in_functions if name.partition(".")[0] not in ONCE_STARTED}
        for name in sorted(names):
            if name.partition(".")[0] == LIBRARY:
                waiting += files_of(name, root)
            elif not is_in_slicer(name):
                found.append(f"{path.relative_to(root)}: {name}")
    return sorted(found)


def files_in(names: tuple[str, ...]) -> list[Path]:
    paths = [MODULE_FOLDER / name for name in names]
    return [file for path in paths for file in ([path] if path.suffix else sorted(path.rglob("*.py")))]


def test_slicer_has_all_that_the_slicer_side_imports():
    starts = files_in(ROOTS)
    assert len(starts) > 30 and all(path.is_file() for path in starts)
    assert foreign_imports(MODULE_FOLDER, starts, files_in(ONLY_IN_SLICER)) == []


def test_the_module_file_imports_no_library_of_ours_before_it_is_needed():
    """Slicer runs the file of every module when it starts."""
    names = imports_of(MODULE_FOLDER / "SESegmentation.py", MODULE_FOLDER).at_file_scope
    assert not {name for name in names if name.startswith(LIBRARY)}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch", ["start.py: torch"]),
        ("import torch.nn as nn", ["start.py: torch.nn"]),
        ("try:\n    import scipy\nexcept ImportError:\n    scipy = None", ["start.py: scipy"]),
        ("class A:\n    import rich", ["start.py: rich"]),
        ("if True:\n    from typer import Option", ["start.py: typer", "start.py: typer.Option"]),
        ("def f():\n    import torch", []),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", []),
        ("import os.path, numpy as np, vtk.util.numpy_support, slicer.i18n, qt, ctk, SimpleITK, requests", []),
        ("from SESegmentationLib import b", [f"{LIBRARY}/b/__init__.py: jsonschema"]),
        ("from SESegmentationLib.b.c import X", [f"{LIBRARY}/b/__init__.py: jsonschema", f"{LIBRARY}/b/c.py: pydicom"]),
        ("from SESegmentationLib.a import X", [f"{LIBRARY}/b/__init__.py: jsonschema", f"{LIBRARY}/b/c.py: pydicom"]),
        ("import SESegmentationLib.d", []),
    ],
)
def test_the_check_finds_what_it_must(tmp_path, source, found):
    library = tmp_path / LIBRARY
    (library / "b").mkdir(parents=True)
    (library / "__init__.py").write_text("", encoding="utf-8")
    (library / "a.py").write_text("from .b.c import X", encoding="utf-8")
    (library / "b" / "__init__.py").write_text("import jsonschema", encoding="utf-8")
    (library / "b" / "c.py").write_text("from ..d import Y\nimport pydicom", encoding="utf-8")
    (library / "d.py").write_text("def later():\n    import monai", encoding="utf-8")
    start = tmp_path / "start.py"
    start.write_text(source, encoding="utf-8")
    assert foreign_imports(tmp_path, [start], []) == found


def test_functions_of_the_panel_are_looked_into(tmp_path):
    start = tmp_path / "start.py"
    start.write_text("def f():\n    import SampleData, torch\n    from . import nothing", encoding="utf-8")
    assert foreign_imports(tmp_path, [start], []) == []
    assert "start.py: torch" in foreign_imports(tmp_path, [start], [start])
    assert "start.py: SampleData" not in foreign_imports(tmp_path, [start], [start])

"""What Slicer's own Python imports of this project needs nothing that Slicer has not: torch, for example."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="needs slicer-core (extra 'test')")

ROOT = Path(__file__).resolve().parents[3]
#: imports, in a process of its own, all that runs in Slicer, and tells what was refused to modules of ours
PROGRAM = '''
import ast, builtins, importlib, importlib.util, json, pkgutil, sys
from harness import application
application.start()

IN_SLICER = {"numpy", "vtk", "qt", "ctk", "slicer", "SimpleITK", "requests", "SampleData", "PyTorchUtils"}
PACKAGES = ("panel", "mrml", "client")  # all their functions run in Slicer
OURS = ("SESegmentation", "SESegmentationExport", "SESegmentationLib")
refused, original = [], builtins.__import__


def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    importer, top = (globals or {}).get("__name__") or "", name.partition(".")[0]
    if importer.partition(".")[0] in OURS and level == 0 and top not in sys.stdlib_module_names | IN_SLICER | set(OURS):
        refused.append(f"{importer}: {name}")
        raise ImportError(name)
    return original(name, globals, locals, fromlist, level)


def import_in_functions(module):
    """What functions of a module import: all of them run in Slicer."""
    for function in ast.walk(ast.parse(open(module.__file__, encoding="utf-8").read())):
        if isinstance(function, (ast.FunctionDef, ast.Lambda)):
            for node in ast.walk(function):
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    exec(ast.unparse(node), dict(vars(module)))


def refusals(work):
    refused.clear()
    try:
        work()
    except ImportError as error:
        refused.append(f"failed: {error}")
    return list(refused)


def everything():
    for package in PACKAGES:
        found = importlib.import_module(f"SESegmentationLib.{package}")
        for entry in pkgutil.iter_modules(found.__path__):
            importlib.import_module(f"{found.__name__}.{entry.name}")
    for name, module in list(sys.modules.items()):
        if name == "SESegmentation" or name.startswith(tuple(f"SESegmentationLib.{p}" for p in PACKAGES)):
            import_in_functions(module)


builtins.__import__ = guarded
module = application.load_module(sys.argv[1])
early = [name for name in sys.modules if name.startswith(("SESegmentationExport", "SESegmentationLib", "SimpleITK"))]
needed = refusals(everything)
loaded = [name for name in sys.modules if name.startswith("SESegmentationLib.")]
of_worker = refusals(lambda: importlib.import_module("SESegmentationLib.inference.engine"))
print(json.dumps({"early": early, "refused": needed, "loaded": loaded, "of_worker": of_worker}))
'''


@pytest.fixture(scope="module")
def imports() -> dict[str, list[str]]:
    """Modules of ours loaded with the module file, refused imports, modules loaded, imports refused to the worker's."""
    module = ROOT / "SESegmentation" / "SESegmentation.py"
    paths = [str(module.parent), str(ROOT / "Testing")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "QT_QPA_PLATFORM": "offscreen"}
    command = [sys.executable, "-c", PROGRAM, str(module)]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_module_file_imports_no_library_of_ours_before_it_is_needed(imports):
    """Slicer runs the file of every module when it starts."""
    assert imports["early"] == []


def test_slicer_has_all_that_the_slicer_side_imports(imports):
    assert imports["refused"] == []
    packages = {name.split(".")[1] for name in imports["loaded"]}
    assert {"client", "doctor", "files", "models", "mrml", "panel", "worker"} <= packages


def test_the_check_refuses_what_only_the_worker_may_import(imports):
    assert any("torch" in entry or "safetensors" in entry for entry in imports["of_worker"])

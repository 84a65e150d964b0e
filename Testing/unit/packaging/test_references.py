"""What docstrings and comments refer to is there: modules, classes, functions and attributes, by Sphinx's roles."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3] / "SESegmentation"
FILES = [
    path
    for package in ("Cohort", "Export", "Lib", "Server", "Training")
    for path in (ROOT / f"SESegmentation{package}").rglob("*.py")
]
REFERENCE = re.compile(r":(?:mod|class|func|meth|attr|data):`~?\.*([^`]+)`")


def names_of(path: Path) -> set[str]:
    """All that can be referred to in a file, by its full dotted name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    found = {module}

    def visit(node: ast.AST, prefix: str, of_class: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                found.add(f"{prefix}.{child.name}")
                visit(child, f"{prefix}.{child.name}" if isinstance(child, ast.ClassDef) else prefix, of_class)
            elif isinstance(child, ast.ImportFrom):
                found.update(f"{prefix}.{alias.asname or alias.name}" for alias in child.names)
            else:
                for name in ast.walk(child):
                    if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                        found.add(f"{prefix}.{name.id}")
                    elif isinstance(name, ast.Attribute) and isinstance(name.ctx, ast.Store):
                        found.add(f"{prefix}.{name.attr}")

    visit(ast.parse(path.read_text(encoding="utf-8")), module, False)
    return found


def test_references_lead_somewhere():
    known = set().union(*map(names_of, FILES))
    ends = {".".join(name.split(".")[-count:]) for name in known for count in range(1, name.count(".") + 2)}
    lost = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in FILES
        for target in REFERENCE.findall(path.read_text(encoding="utf-8"))
        if target.replace("\n", "").strip() not in ends and target.split(".")[0] not in ("torch", "typer", "qt", "vtk")
    ]
    assert not lost, "\n".join(lost)

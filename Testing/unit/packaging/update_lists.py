"""Writes the lists in SESegmentation/CMakeLists.txt anew: ``python Testing/unit/packaging/update_lists.py``."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

MODULE = Path(__file__).resolve().parents[3] / "SESegmentation"
LISTS = MODULE / "CMakeLists.txt"
NOT_IN_SLICER = ("SESegmentationCohort/", "SESegmentationServer/", "SESegmentationTraining/")


def main() -> None:
    """List every file of the module that is or will be committed, but for what is no part of the extension."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=MODULE, capture_output=True, encoding="utf-8", check=True).stdout.split("\0")
    files = sorted({path for path in listed if path and (MODULE / path).is_file()} - {LISTS.name})
    files = [path for path in files if not path.startswith(NOT_IN_SLICER)]
    scripts = [path for path in files if path.endswith(".py") and path != "SESegmentation.py"]
    text = LISTS.read_text(encoding="utf-8")
    text = _replaced(text, "SCRIPTS", ["${MODULE_NAME}.py", *scripts])
    text = _replaced(text, "RESOURCES", [path for path in files if not path.endswith(".py")])
    LISTS.write_text(text, encoding="utf-8")


def _replaced(text: str, name: str, files: list[str]) -> str:
    lines = "".join(f"  {path}\n" for path in files)
    new = f"set(MODULE_PYTHON_{name}\n{lines}  )\n"
    return re.sub(rf"set\(MODULE_PYTHON_{name}\n.*?\n  \)\n", lambda _: new, text, count=1, flags=re.DOTALL)


if __name__ == "__main__":
    main()

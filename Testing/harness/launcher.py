"""Stand-in for PythonSlicer, the launcher that lies between Slicer and the Python that it starts.

After the behaviour of CTK's AppLauncher: the real Python is a child that shares the launcher's streams; an exit code is
passed on, while any other end becomes exit code 1 and a line that names no cause; a launcher that is killed leaves its
child alive.
"""

from __future__ import annotations

import sys
from pathlib import Path

_PROGRAM = """#!{launcher} -IS
import subprocess, sys
code = subprocess.Popen([{python!r}, *sys.argv[1:]]).wait()
if code < 0 or code >= 0x80000000:
    print("error: [{real}] exit abnormally - Report the problem.", file=sys.stderr)
    code = 1
sys.exit(code)
"""


def write_launcher(folder: Path, python: str = sys.executable) -> Path:
    """A program PythonSlicer in ``folder`` that starts ``python``; not on Windows."""
    program = folder / "PythonSlicer"
    program.write_text(
        _PROGRAM.format(launcher=sys.executable, python=python, real=folder / "python-real"), encoding="utf-8"
    )
    program.chmod(0o755)
    return program

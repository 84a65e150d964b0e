"""How the worker process is started: by which Python, with which environment."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from ..errors import WorkerError
from ..worker.ending import CLIENT

#: the folder from which SESegmentationLib is imported
LIBRARY_FOLDER = Path(__file__).resolve().parents[2]


def find_python() -> str:
    """The Python that runs the worker: PythonSlicer inside Slicer, this program elsewhere.

    Inside Slicer ``sys.executable`` need not be a Python; PythonSlicer sets up the libraries that its Python needs.

    Raises:
        WorkerError: there is none.
    """
    beside = shutil.which("PythonSlicer", path=os.path.dirname(sys.executable or ""))
    if beside:
        return beside
    if hasattr(sys.modules.get("slicer"), "app") and (on_path := shutil.which("PythonSlicer")):
        return on_path
    if not Path(sys.executable or "").stem.lower().startswith("python"):  # it would be a second Slicer
        raise WorkerError("Slicer's program PythonSlicer was not found.", "Install Slicer anew.")
    return sys.executable


def worker_command() -> list[str]:
    """The command that starts the worker; WorkerError where there is no Python."""
    return [find_python(), "-m", "SESegmentationLib.worker"]


def worker_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """``environment``, with SESegmentationLib first among what Python imports from, and nothing from where it runs."""
    others = environment.get("PYTHONPATH", "").split(os.pathsep)
    paths = [str(LIBRARY_FOLDER), *(path for path in others if os.path.isabs(path))]  # "" is the current folder
    return {
        **environment,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONSAFEPATH": "1",  # a torch.py in the current folder is not torch
        "PYTHONIOENCODING": "utf-8",
        CLIENT: str(os.getpid()),
    }

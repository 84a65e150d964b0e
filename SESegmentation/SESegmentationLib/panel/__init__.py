"""The module's panel: one class a file; what a part needs of others is handed to it. Needs qt and slicer, no torch."""

from .add_model import FileDialogs
from .doctor_process import DoctorProcess
from .install import DependencyInstaller
from .memory import ComputerMemory
from .model_chooser import InstalledModels
from .panel import Panel
from .request import Request
from .scene_results import SceneResults

__all__ = [
    "ComputerMemory",
    "DependencyInstaller",
    "DoctorProcess",
    "FileDialogs",
    "InstalledModels",
    "Panel",
    "Request",
    "SceneResults",
]

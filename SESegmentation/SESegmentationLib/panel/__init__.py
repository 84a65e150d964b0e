"""The module's panel: one class a file; what a part needs of others is handed to it. Needs qt and slicer, no torch."""

from .computer import ComputerMemory, DoctorProcess
from .dependencies import DependencyInstaller
from .model_chooser import FileDialogs, InstalledModels
from .panel import Panel
from .requests import Request
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

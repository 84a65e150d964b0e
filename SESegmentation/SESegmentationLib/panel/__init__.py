"""The module's panel, one part per file; each is passed what it needs of the others. Needs qt and slicer, no torch."""

from .computer import DoctorProcess, UserSettings
from .dependencies import DependencyInstaller
from .model_chooser import FileDialogs, InstalledModels
from .panel import Panel
from .requests import SegmentRequest
from .run_control import segment_and_wait

__all__ = [
    "UserSettings",
    "DependencyInstaller",
    "DoctorProcess",
    "FileDialogs",
    "InstalledModels",
    "Panel",
    "SegmentRequest",
    "segment_and_wait",
]

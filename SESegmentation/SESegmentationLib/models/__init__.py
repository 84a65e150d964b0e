"""Model packages: cards, labels, where they are and whether they are intact. Needs only the standard library."""

from .card import DividingPlane, ModelCard, View
from .installing import AlreadyInstalledError, add_model
from .labels import Code, Label
from .licence import Licence
from .packages import update_card, write_package
from .store import (
    DamagedModel,
    ModelPackage,
    damaged_models,
    find_locator,
    find_model,
    list_models,
    locator_of,
    search_path,
    sha256_of,
    user_models_folder,
    verify_model,
    verify_package,
    verify_weights,
)

__all__ = [
    "AlreadyInstalledError",
    "Code",
    "DamagedModel",
    "DividingPlane",
    "Label",
    "Licence",
    "ModelCard",
    "ModelPackage",
    "View",
    "add_model",
    "damaged_models",
    "find_locator",
    "find_model",
    "list_models",
    "locator_of",
    "search_path",
    "sha256_of",
    "update_card",
    "user_models_folder",
    "verify_model",
    "verify_package",
    "verify_weights",
    "write_package",
]

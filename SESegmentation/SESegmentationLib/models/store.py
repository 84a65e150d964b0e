"""Where model packages are: the search path, listing and finding."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelError
from .card import CARD_NAME, ModelCard

#: folders of models, separated as in PATH
ENVIRONMENT_VARIABLE = "SESEGMENTATION_MODELS"
_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class ModelPackage:
    """A folder with a model card and weights.

    Attributes:
        path: the folder.
        card: its card, read and checked; the weights are not yet verified.
    """

    path: Path
    card: ModelCard

    @property
    def weights_path(self) -> Path:
        """The safetensors file."""
        return self.path / self.card.weights_file

    @classmethod
    def from_folder(cls, path: str | Path) -> ModelPackage:
        """Read the package in ``path``.

        Raises:
            ModelError: no card, a damaged card, or no weights beside it.
        """
        path = Path(path)
        package = cls(path, ModelCard.from_file(path / CARD_NAME))
        if not package.weights_path.is_file():
            raise ModelError(
                f"The weights of the model {package.card.name} are missing: there is no {package.weights_path}.",
                "Take the whole model package again from where it came.",
            )
        return package


@dataclass(frozen=True)
class DamagedModel:
    """A folder that looks like a model package and cannot be used.

    Attributes:
        path: the folder.
        error: why.
    """

    path: Path
    error: ModelError


def user_models_folder() -> Path:
    """The folder for the user's own models, by the platform's rules. It need not exist."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return base / "SESegmentation" / "models"


def search_path() -> list[Path]:
    """Folders that hold model packages, first match first: the environment's, the user's, the program's own."""
    folders = [Path(entry) for entry in os.environ.get(ENVIRONMENT_VARIABLE, "").split(os.pathsep) if entry.strip()]
    folders.append(user_models_folder())
    folders.append(_PACKAGE.parents[1] / "weights")  # a checkout
    folders.append(_PACKAGE / "weights")  # an installed Python package
    folders.append(_PACKAGE.parent / "Resources" / "weights")  # an installed Slicer extension
    return list(dict.fromkeys(folders))


def list_models() -> list[ModelPackage]:
    """All usable models, by name; of two with one name the first on the search path counts."""
    packages: dict[str, ModelPackage] = {}
    for found in _scan():
        if isinstance(found, ModelPackage):
            packages.setdefault(found.card.name, found)
    return [packages[name] for name in sorted(packages)]


def damaged_models() -> list[DamagedModel]:
    """Folders on the search path with a model card that cannot be used, and why."""
    return [found for found in _scan() if isinstance(found, DamagedModel)]


def find_model(name_or_folder: str | Path) -> ModelPackage:
    """The model of that name on the search path, or the package in that folder.

    Raises:
        ModelError: there is none (the message names those that exist), or it is damaged.
    """
    if (Path(name_or_folder) / CARD_NAME).is_file():
        return ModelPackage.from_folder(name_or_folder)
    name = str(name_or_folder)
    damaged = None
    for found in _scan():
        if isinstance(found, ModelPackage):
            if found.card.name == name:
                return found
        elif found.path.name == name:
            damaged = damaged or found.error
    if damaged:
        raise damaged
    names = ", ".join(package.card.name for package in list_models())
    raise ModelError(
        f"There is no model {name!r}.",
        f"Choose one of these: {names}."
        if names
        else f"No model is installed: put one into {user_models_folder()}, or set {ENVIRONMENT_VARIABLE}.",
    )


def _scan() -> list[ModelPackage | DamagedModel]:
    """Every model folder on the search path, in its order."""
    found: list[ModelPackage | DamagedModel] = []
    for folder in search_path():
        try:
            cards = sorted(folder.glob(f"*/{CARD_NAME}"))
        except OSError:  # a folder that may not be read is as good as empty
            continue
        for card in cards:
            try:
                found.append(ModelPackage.from_folder(card.parent))
            except ModelError as error:
                found.append(DamagedModel(card.parent, error))
    return found

"""Where model packages are: the search path, listing and finding; and whether one is intact."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelError
from ..files.json_files import REMEDY
from .card import CARD_NAME, README_NAME, ModelCard, read_card_json

#: folders of models, separated as in PATH
ENVIRONMENT_VARIABLE = "SESEGMENTATION_MODELS"
#: an empty file in a package that the user has added in place of a shipped one
REPLACES_SHIPPED = ".replaces-shipped"
#: larger files of weights are refused, in bytes
LARGEST_WEIGHTS = 1 << 30
PACKAGE_REMEDY = "Get the whole model package again from its source."
PIPELINE_REMEDY = "Correct the pipeline in model.json, or get the model packages again from their source."
_PACKAGE = Path(__file__).resolve().parents[1]
SCHEMA_PATH = Path(__file__).with_name("schema.json")


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

    @property
    def record(self) -> dict[str, str]:
        """Name, version and SHA-256 of the weights, for the cards of models that learn from this one."""
        return {"name": self.card.name, "version": self.card.version, "sha256": self.card.weights_sha256}

    @property
    def replaces_shipped(self) -> bool:
        """Whether the user has asked for it in place of the model of its name that comes with the program."""
        return (self.path / REPLACES_SHIPPED).is_file()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the folder that belong to the package."""
        return self.path / CARD_NAME, self.weights_path, self.path / README_NAME

    @classmethod
    def from_folder(cls, path: str | Path) -> ModelPackage:
        """Read the package in ``path``.

        Raises:
            ModelError: no card, a damaged card, or no weights beside it, or weights that are too large.
        """
        path = Path(path)
        package = cls(path, ModelCard.from_file(path / CARD_NAME))
        if not os.path.isfile(package.weights_path):
            raise ModelError(
                f"The weights of the model {package.card.name} are missing: there is no {package.weights_path}.",
                PACKAGE_REMEDY,
            )
        if os.path.getsize(package.weights_path) > LARGEST_WEIGHTS:
            raise ModelError(
                f"The weights {package.weights_path} are larger than {LARGEST_WEIGHTS >> 30} GiB.",
                PACKAGE_REMEDY,
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
    return list(dict.fromkeys([*folders, user_models_folder(), *_program_folders()]))


def shipped_models() -> set[str]:
    """Names of the models that come with the program: no other package takes their place unless the user asks."""
    return {found.card.name for found in _scan(_shipped_folders()) if isinstance(found, ModelPackage)}


def list_models() -> list[ModelPackage]:
    """All usable models, by name; of two with one name the first on the search path counts."""
    packages: dict[str, ModelPackage] = {}
    for found in _scan():
        if isinstance(found, ModelPackage):
            packages.setdefault(found.card.name, found)
    return [packages[name] for name in sorted(packages)]


def damaged_models() -> list[DamagedModel]:
    """Folders on the search path with a model that cannot be used, and why."""
    return [found for found in _scan() if isinstance(found, DamagedModel)]


def find_model(name_or_folder: str | Path) -> ModelPackage:
    """The model of that name on the search path, or the package in that folder.

    Raises:
        ModelError: there is none (the message names those that exist), or it is damaged.
    """
    name = str(name_or_folder)
    # a folder that is called like a shipped model needs "./" before its name
    if name not in shipped_models() and os.path.isfile(os.path.join(name, CARD_NAME)):
        return ModelPackage.from_folder(name_or_folder)
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


def find_locator(package: ModelPackage) -> ModelPackage:
    """The locator of ``package``: the package beside it, or the first of that name on the search path.

    Raises:
        ModelError: there is none, or it is damaged.
    """
    return locator_of(package.card, package.path.parent)


def locator_of(card: ModelCard, folder: Path | None = None) -> ModelPackage:
    """The locator of a model of which only the card is needed.

    Args:
        card: of the model.
        folder: the folder that holds its package, where the locator is looked for first; None where unknown.

    Raises:
        ModelError: as :func:`find_locator`.
    """
    name = (card.pipeline or {}).get("locator")
    if not isinstance(name, str):
        raise ModelError(f"The pipeline of the model {card.name} names no locator.", PIPELINE_REMEDY)
    try:
        beside = None if folder is None or name in shipped_models() else folder / name
        locator = find_model(beside if beside and (beside / CARD_NAME).is_file() else name)
        if locator.card.pipeline is not None:
            raise ModelError(f"The model {name} needs a locator itself.", "Name another one in the pipeline.")
        return locator
    except ModelError as error:
        raise ModelError(
            f"The model {card.name} needs the model {name} to find its structures in a whole volume, but that model "
            f"cannot be used: {error.cause}",
            f"Install {name} too, or give a region of interest round the structure.",
        ) from error


def _shipped_folders() -> list[Path]:
    """Folders on the search path whose models come with the program."""
    own = _program_folders()
    return [folder for folder in search_path() if folder in own]


def _program_folders() -> list[Path]:
    """Where models lie in a checkout, an installed Python package, and an installed extension of Slicer."""
    return [_PACKAGE.parents[1] / "weights", _PACKAGE / "weights", _PACKAGE.parent / "Resources" / "weights"]


def _scan(folders: list[Path] | None = None) -> list[ModelPackage | DamagedModel]:
    """Every model in ``folders``, in their order; all of the search path if None."""
    shipped = {folder.resolve() for folder in _shipped_folders()}
    names = shipped_models() if folders is None else set()
    found: list[ModelPackage | DamagedModel] = []
    for folder in search_path() if folders is None else folders:
        try:
            cards = sorted(folder.glob(f"*/{CARD_NAME}"))
        except OSError:  # an unreadable folder counts as empty
            continue
        for card in cards:
            try:
                package = ModelPackage.from_folder(card.parent)
                if package.card.name in names and not (folder.resolve() in shipped or package.replaces_shipped):
                    raise ModelError(
                        f"The model in {package.path} has the name of {package.card.name}, which comes with the "
                        "program, and is not used instead of it.",
                        "Add it with: sesegment models add --replace, or give it another name.",
                    )
                found.append(package)
            except ModelError as error:
                found.append(DamagedModel(card.parent, error))
    return found


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits; OSError where it cannot be read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify_weights(package: ModelPackage) -> None:
    """Compare the weights with the hash in the card.

    Raises:
        ModelError: they cannot be read, or are not those that the card describes.
    """
    try:
        digest = sha256_of(package.weights_path)
    except OSError as error:
        raise ModelError(
            f"The weights {package.weights_path} cannot be read: {error.strerror or error}.",
            "Check the file and its permissions, or get the model package again from its source.",
        ) from error
    if digest != package.card.weights_sha256:
        raise ModelError(
            f"The weights of the model {package.card.name} are damaged: their SHA-256 is not the one in {CARD_NAME}.",
            PACKAGE_REMEDY,
        )


def verify_schema(path: str | Path) -> None:
    """Check the card ``path`` against the JSON Schema; without jsonschema nothing is checked here.

    Raises:
        ModelError: the card breaks the schema.
    """
    try:
        import jsonschema
    except ImportError:  # Slicer has none; reading the card makes its own checks
        return
    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    problem = jsonschema.exceptions.best_match(validator.iter_errors(read_card_json(Path(path))))
    if problem is not None:
        where = problem.json_path.removeprefix("$.") if problem.path else "it"
        raise ModelError(f"{path}: The model card is damaged: {where}: {problem.message}.", REMEDY)


def verify_package(folder: str | Path) -> ModelPackage:
    """Read the package in ``folder`` and check its card, schema and hash.

    Raises:
        ModelError: whatever is wrong with it.
    """
    package = ModelPackage.from_folder(folder)
    verify_schema(package.path / CARD_NAME)
    verify_weights(package)
    return package


def verify_model(name_or_folder: str | Path) -> ModelPackage:
    """:func:`verify_package` of the model of that name, or in that folder.

    Raises:
        ModelError: there is none, or whatever is wrong with it.
    """
    return verify_package(find_model(name_or_folder).path)

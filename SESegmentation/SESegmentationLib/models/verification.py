"""Verification of a model package: the card against its schema, the weights against their hash."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ..errors import ModelError
from .card import CARD_NAME, read_card_json
from .fields import REMEDY
from .store import ModelPackage, find_model

SCHEMA_PATH = Path(__file__).with_name("schema.json")


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
            "Check the file and its permissions, or take the model package again from where it came.",
        ) from error
    if digest != package.card.weights_sha256:
        raise ModelError(
            f"The weights of the model {package.card.name} are damaged: their SHA-256 is not the one in {CARD_NAME}.",
            "Take the whole model package again from where it came.",
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

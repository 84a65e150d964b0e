"""Recipes: what to train, as TOML.

A recipe names the network, its views, the data's grid and intensities, augmentation, the phases of the schedule, and
the card's fixed parts (labels, licence). See ``recipes/*.toml``.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .appearance import Appearance
from .slabs import PLANE_AXES, Deformation
from .synthesis import Synthesis

RECIPES_FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Phase:
    """One part of the schedule; coarse phases come first.

    Attributes:
        steps: optimiser steps.
        batch: slabs per step.
        size: (height, width) in pixels.
        spacing: pixel size, relative to the model's (2: half the resolution, a quarter of the cost).
    """

    steps: int
    batch: int
    size: tuple[int, int]
    spacing: float = 1.0


@dataclass(frozen=True)
class Fit:
    """How the optimiser is run.

    Attributes:
        seed: of initialisation, order and augmentation.
        learning_rate: peak; cosine decay to a hundredth over all phases after a linear warm-up.
        weight_decay: of AdamW.
        warmup: steps.
        average: decay of the moving average of the weights, which is what is kept.
        bf16: autocast to bfloat16.
        rare_share: share of slabs centred on a slice that holds a label drawn uniformly.
        validate_every: steps between validations; 0 for none.
        validation_batches: batches per validation.
        patience: validations without improvement before stopping early; 0 for never.
    """

    seed: int = 0
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup: int = 100
    average: float = 0.998
    bf16: bool = True
    rare_share: float = 0.5
    validate_every: int = 500
    validation_batches: int = 20
    patience: int = 0


@dataclass(frozen=True)
class Data:
    """Where the examples come from.

    Attributes:
        source: "folder" (nnU-Net layout, images and labels) or "label-maps" (images are synthesised).
        validation: number of cases kept out for validation.
        test: number of cases kept out for the card's accuracy.
        split_seed: of the shuffle that splits the cases.
        priors: folder of tissue priors, relative to the dataset ("label-maps" only, as the next two).
        fluid_values: values learnt that skull stripping may remove (cerebrospinal fluid round the brain).
        mirrored_pairs: (left, right) values in the maps, exchanged in a mirror.
    """

    source: str = "folder"
    validation: int = 0
    test: int = 0
    split_seed: int = 0
    priors: str = "priors"
    fluid_values: tuple[int, ...] = ()
    mirrored_pairs: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A whole recipe.

    Attributes:
        name: of the model.
        network: its description, without input channels and classes, which follow from the card.
        card: what goes into model.json as it stands (title, labels, views, licence, ...).
        phases: the schedule of every network.
        specialise: with these, ``phases`` train one network on all views, and each network of the card starts from its
            weights and goes through these phases at a quarter of the learning rate, on its own views only.
    """

    name: str
    network: dict[str, Any]
    card: dict[str, Any]
    phases: list[Phase]
    specialise: list[Phase] = field(default_factory=list)
    data: Data = field(default_factory=Data)
    fit: Fit = field(default_factory=Fit)
    deformation: Deformation = field(default_factory=Deformation)
    appearance: Appearance = field(default_factory=Appearance)
    synthesis: Synthesis = field(default_factory=Synthesis)

    @classmethod
    def load(cls, name_or_file: str | Path) -> Recipe:
        """Read a recipe by the name of one that is shipped, or from a file.

        One that ``extends`` another takes over its entries; tables are merged, everything else replaced.

        Raises:
            UsageError: no such recipe, or one with unknown or missing entries.
        """
        return cls.from_dict(_read(name_or_file), str(name_or_file))

    @classmethod
    def from_dict(cls, entries: dict[str, Any], origin: str = "the recipe") -> Recipe:
        """Build a recipe from parsed TOML; raises UsageError naming the entry at fault."""
        try:
            arguments = dict(entries)
            arguments["phases"] = [_build(Phase, phase) for phase in entries["phases"]]
            arguments["specialise"] = [_build(Phase, phase) for phase in entries.get("specialise", [])]
            for part in ("data", "fit", "deformation", "appearance", "synthesis"):
                if part in arguments:
                    kind = next(f.default_factory for f in dataclasses.fields(cls) if f.name == part)
                    arguments[part] = _build(kind, arguments[part])
            recipe = cls(**arguments)
            unknown = {view["plane"] for view in recipe.card["views"]} - set(PLANE_AXES)
            if unknown:
                raise ValueError(f"unknown plane {', '.join(unknown)}")
            return recipe
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{origin}: {error}.", "Compare it with a recipe that is shipped.") from error

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, for the record kept with the model."""
        return dataclasses.asdict(self)


def _read(name_or_file: str | Path) -> dict[str, Any]:
    """The entries of a recipe, those it extends included."""
    path = Path(name_or_file)
    if path.suffix != ".toml":
        path = RECIPES_FOLDER / f"{name_or_file}.toml"
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        names = ", ".join(sorted(p.stem for p in RECIPES_FOLDER.glob("*.toml")))
        raise UsageError(f"There is no recipe {name_or_file}.", f"Give a .toml file or one of: {names}.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"The recipe {path} cannot be read: {error}.", "Correct the file.") from error
    base = entries.pop("extends", None)
    return _merged(_read(base), entries) if base else entries


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(base[key], value) for key, value in changes.items() if isinstance(base.get(key), dict)}
    return base | changes | both


def _build(kind: Any, entries: dict[str, Any]) -> Any:
    """Dataclass from a TOML table, lists as tuples; TypeError names an unknown entry."""
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in entries.items()})

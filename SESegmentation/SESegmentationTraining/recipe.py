"""Recipes: what to train, as TOML.

A recipe names the network, its views, the data's grid and intensities, augmentation, the phases of the schedule, and
the card's fixed parts (labels, licence). See ``recipes/*.toml``.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from SESegmentationLib.errors import UsageError, reason_of

from .fit_settings import Fit
from .ranges import LARGEST_EXPONENT, of_augmentations, of_deformation, of_fit, of_phases, of_synthesis, of_warmup
from .slabs import Deformation
from .synthesis import Synthesis
from .transforms import IntensityAugmentation

RECIPES_FOLDER = Path(__file__).parent / "recipes"
#: what ``source`` in [data] may be
SOURCE_KINDS = ("folder", "label-maps")
#: entries of [augmentation] that are for intensities from 0 on
UNIT_ONLY = ("bias", "gamma", "contrast")
#: what whole numbers of a recipe stay below: seeds are multiplied, and a card holds no larger ones
WHOLE_BELOW = 2**32


@dataclass(frozen=True)
class Phase:
    """One part of the schedule; coarse phases come first.

    Attributes:
        steps: optimiser steps.
        batch: slabs per step.
        size: (height, width) in pixels.
        spacing: pixel size, relative to the model's (2: half the resolution, a quarter of the cost).
        depth: slices of a volumetric view.
    """

    steps: int
    batch: int
    size: tuple[int, int]
    spacing: float = 1.0
    depth: int = 1


@dataclass(frozen=True)
class Data:
    """Where the examples come from.

    Attributes:
        source: "folder" (nnU-Net layout, images and labels) or "label-maps" (images are synthesised).
        validation: number of cases kept out for validation.
        test: number of cases kept out for the card's accuracy.
        split_seed: of the shuffle that splits the cases.
        folds: number of folds of a cross-validation, 0 for none; then ``test`` does not count.
        fold: whose cases are for test, counted from 0.
        group_pattern: regular expression for the beginning of cases' names; cases whose names agree in its group go
            to the same part of the split (slices of one patient). Empty: each case for itself.
        priors: folder of tissue priors, relative to the dataset ("label-maps" only, as the next one).
        fluid_values: values learnt that skull stripping may remove (cerebrospinal fluid round the brain).
        mirrored_pairs: (left, right) values in the files, exchanged in a mirror; the card's merged pairs always are.
        scans: folder of scans and labels in nnU-Net's layout, relative to the dataset, that are shown beside the
            synthesised images ("label-maps" only); empty for none.
        scans_share: of the batches that show them.
    """

    source: str = "folder"
    validation: int = 0
    test: int = 0
    split_seed: int = 0
    folds: int = 0
    fold: int = 0
    group_pattern: str = ""
    priors: str = "priors"
    fluid_values: tuple[int, ...] = ()
    mirrored_pairs: tuple[tuple[int, int], ...] = ()
    scans: str = ""
    scans_share: float = 0.0


@dataclass(frozen=True)
class Volumetric:
    """How networks are trained that see all slices at once.

    Attributes:
        network: what differs from the recipe's.
        phases: the schedule of each; their ``depth`` is the number of slices.
    """

    network: dict[str, Any] = field(default_factory=dict)
    phases: list[Phase] = field(default_factory=list)


@dataclass(frozen=True)
class NetworkChanges:
    """How the training of one network of the card differs from the recipe; it starts from random weights.

    Attributes:
        seed: of its own; below 0 it has the next one, see :func:`.training_plan.plan_fits`.
        augmentation: entries of [augmentation] that differ.
    """

    seed: int = -1
    augmentation: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Distillation:
    """What a larger model, trained before, adds to the labels.

    Attributes:
        model: its name on the search path of models, or its folder; empty for none.
        recipe: name or file of the recipe that makes it: where there is no such model, it is trained first, on the
            same cases; empty for none.
        share: of its probabilities in what is learnt; the rest are the labels.
    """

    model: str = ""
    recipe: str = ""
    share: float = 0.5


@dataclass(frozen=True)
class Recipe:
    """A whole recipe.

    Attributes:
        name: of the model.
        network: its description, without input channels and classes, which follow from the card.
        card: what goes into model.json as it stands (title, labels, views, licence, ...).
        phases: the schedule of every network of slices.
        specialise: with these, ``phases`` train one network on all views, and each network of the card starts from its
            weights and goes through these phases at a quarter of the learning rate, on its own views only.
        volumetric: the same for volumetric views, whose networks start from random weights.
        networks: what differs for some networks, by their names in the card: those that are taught otherwise err
            elsewhere, and together they err less.
        teacher: to learn from beside the labels, see :mod:`.distillation`.
        start: name or folder of a model with the same networks, from whose weights each starts; empty for none.
        start_class_balance: exponent of the class weights that the model to start from was trained with: its
            classifiers' biases are freed of them, see :func:`.train.without_class_weights`.
        bits: of each weight of the package, 16 or 8.
        scans_augmentation: how the intensities of real scans change that are shown beside synthesised images; without
            this table they change as those do, and thick slices are simulated too.
    """

    name: str
    network: dict[str, Any]
    card: dict[str, Any]
    phases: list[Phase] = field(default_factory=list)
    specialise: list[Phase] = field(default_factory=list)
    volumetric: Volumetric = field(default_factory=Volumetric)
    networks: dict[str, NetworkChanges] = field(default_factory=dict)
    teacher: Distillation = field(default_factory=Distillation)
    start: str = ""
    start_class_balance: float = 0.0
    bits: int = 16
    data: Data = field(default_factory=Data)
    fit: Fit = field(default_factory=Fit)
    deformation: Deformation = field(default_factory=Deformation)
    augmentation: IntensityAugmentation = field(default_factory=IntensityAugmentation)
    scans_augmentation: IntensityAugmentation | None = None
    synthesis: Synthesis = field(default_factory=Synthesis)

    @classmethod
    def load(cls, name_or_file: str | Path) -> Recipe:
        """Read a recipe by the name of one that is shipped, or from a file.

        One that ``extends`` another takes over its entries; tables are merged, everything else replaced.

        Raises:
            UsageError: no such recipe, or one with unknown or missing entries.
        """
        return cls.from_dict(read_entries(name_or_file), str(name_or_file))

    @classmethod
    def from_dict(cls, entries: dict[str, Any], origin: str = "the recipe") -> Recipe:
        """Build a recipe from parsed TOML; raises UsageError naming the entry at fault."""
        try:
            recipe = converted(entries, cls)
            _check(recipe)
        except ValueError as error:
            raise UsageError(f"{origin}: {error}.", "Compare it with a recipe that is shipped.") from error
        return recipe

    def augmentation_of(self, network: str) -> IntensityAugmentation:
        """How images change for a network of the card."""
        if network not in self.networks:
            return self.augmentation
        entries = dataclasses.asdict(self.augmentation) | self.networks[network].augmentation
        return converted(entries, IntensityAugmentation, f"networks.{network}.augmentation")

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, for the record kept with the model."""
        return dataclasses.asdict(self)


def _check(recipe: Recipe) -> None:
    """Raise ValueError if entries that are valid by themselves contradict each other."""
    data, fit = recipe.data, recipe.fit
    taught = bool(recipe.teacher.model)
    schedules = {
        "phases": recipe.phases,
        "specialise": recipe.specialise,
        "[volumetric] phases": recipe.volumetric.phases,
    }
    phases = [phase for schedule in schedules.values() for phase in schedule]
    final = [*(recipe.specialise or recipe.phases)[-1:], *recipe.volumetric.phases[-1:]]
    labels = len(listed) if isinstance(listed := recipe.card.get("labels"), list) else 0
    intensity = recipe.card.get("intensity")
    zscore = isinstance(intensity, dict) and intensity.get("type") == "zscore"
    augmentations = [recipe.augmentation, *(recipe.augmentation_of(network) for network in recipe.networks)]
    augmentations += [recipe.scans_augmentation] if recipe.scans_augmentation else []
    unfit = any(getattr(each, name) for each in augmentations for name in UNIT_ONLY)
    darkened = all(0 < channel <= labels for each in augmentations for channel in each.darkened)
    paired = all(bool(each.darkening) == bool(each.darkened) for each in augmentations)
    checks = (
        (phases, "there is no phase"),
        (not (recipe.specialise and recipe.networks), "[networks] is for networks that do not specialise"),
        (not (recipe.volumetric.phases and fit.boundary), "[fit] boundary is for slices, not for volumetric phases"),
        *of_phases(phases),
        (all(last.spacing == 1 for last in final), "the last phase has the model's spacing, 1"),
        (data.source in SOURCE_KINDS, f"[data] source is one of {', '.join(SOURCE_KINDS)}, not {data.source!r}"),
        (min(data.validation, data.test) >= 0, "[data] validation and test are numbers of cases"),
        (not data.folds or 0 <= data.fold < data.folds > 1, "[data] fold is below folds, which are at least 2"),
        (
            not data.group_pattern or _groups(data.group_pattern) == 1,
            "[data] group_pattern is a regular expression with one group",
        ),
        (not taught or 0 < recipe.teacher.share <= 1, "[teacher] share is above 0, at most 1"),
        (not taught or data.source == "folder", "[teacher] is for images, not for label maps"),
        (not taught or not (fit.class_balance or fit.boundary), "[teacher] leaves no class_balance and no boundary"),
        (recipe.bits in (8, 16), "bits is 8 or 16"),
        (bool(data.scans) == bool(data.scans_share), "[data] scans and scans_share go together"),
        (0 <= data.scans_share <= 1, "[data] scans_share is a number from 0 to 1"),
        (not data.scans or data.source == "label-maps", "[data] scans are shown beside label maps"),
        (data.scans or not recipe.scans_augmentation, "[scans_augmentation] is for the scans of [data]"),
        (
            0 <= recipe.start_class_balance <= LARGEST_EXPONENT,
            f"start_class_balance is a number from 0 to {LARGEST_EXPONENT:g}",
        ),
        (not fit.frozen or recipe.start, "[fit] frozen is for networks that start from a model's"),
        (not taught or fit.dice == 1, "[teacher] leaves the loss as it is, so dice is 1"),
        *of_fit(fit),
        *of_warmup(fit, schedules),
        *of_deformation(recipe.deformation),
        *of_augmentations(augmentations),
        *of_synthesis(recipe.synthesis),
        (paired, "[augmentation] darkening and darkened go together"),
        (darkened, f"[augmentation] darkened are channels from 1 to {labels}"),
        (not (zscore and unfit), f"[augmentation] {', '.join(UNIT_ONLY)} must be 0 where intensities have the mean 0"),
    )
    for valid, problem in checks:
        if not valid:
            raise ValueError(problem)


def _groups(expression: str) -> int:
    """Number of groups of a regular expression; 0 for what is none."""
    try:
        return re.compile(expression).groups
    except re.error:
        return 0


def read_entries(
    name_or_file: str | Path, folder: Path = RECIPES_FOLDER, extended_by: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """The entries of a TOML file, those of the file it ``extends`` included.

    Args:
        name_or_file: name of one in ``folder``, or a file.
        folder: of the recipes that are shipped, or of other files of this kind.
        extended_by: files on the way here.

    Raises:
        UsageError: no such file, or one that cannot be read or extends itself.
    """
    path, kind = Path(name_or_file), folder.name.removesuffix("s")
    if path.suffix != ".toml":
        path = folder / f"{name_or_file}.toml"
    elif extended_by:
        path = extended_by[-1].parent / path
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        names = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
        raise UsageError(f"There is no {kind} {name_or_file}.", f"Give a .toml file or one of: {names}.") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"The {kind} {path} cannot be read: {reason_of(error)}.", "Correct the file.") from error
    path = path.resolve()
    if path in extended_by:
        raise UsageError(f"The {kind} {path} extends itself.", "Let it extend another one, or none.")
    base = entries.pop("extends", None)
    return merged(read_entries(str(base), folder, (*extended_by, path)), entries) if base else entries


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``: tables are merged, everything else replaced."""
    both = {key: merged(base[key], value) for key, value in changes.items() if isinstance(base.get(key), dict)}
    return base | changes | both


def converted(value: Any, kind: Any, where: str = "") -> Any:
    """A TOML value as what a dataclass declares; ValueError says ``where`` another type stands.

    Numbers are finite, and whole ones below :data:`WHOLE_BELOW`: no entry means anything else.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin is UnionType:  # of a kind and None
        return None if value is None else converted(value, parts[0], where)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _built(kind, value, where)
    if origin is list and isinstance(value, list):
        return [converted(entry, parts[0], f"{where}[{index}]") for index, entry in enumerate(value)]
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [parts[0]] * len(value) if parts[-1] is Ellipsis else parts
        if len(kinds) == len(value):
            return tuple(converted(*both, f"{where}[{i}]") for i, both in enumerate(zip(value, kinds, strict=True)))
    if origin is dict and isinstance(value, dict):
        if dataclasses.is_dataclass(parts[1]):
            return {key: converted(entry, parts[1], f"{where}.{key}") for key, entry in value.items()}
        return value
    if kind is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value)
    if kind is int and type(value) is int and abs(value) < WHOLE_BELOW:
        return value
    if kind in (str, bool) and type(value) is kind:
        return value
    names = {
        int: f"a whole number below {WHOLE_BELOW}",
        float: "a finite number",
        str: "a text",
        bool: "true or false",
        tuple: "other numbers",
    }
    raise ValueError(f"{where} is {value!r}, expected {names.get(kind) or names.get(origin) or 'a table'}")


def _built(kind: Any, entries: dict[str, Any], where: str) -> Any:
    """A dataclass from a TOML table."""
    hints = get_type_hints(kind)
    below = f"{where}." if where else ""
    unknown = [key for key in entries if key not in hints]
    if unknown:
        raise ValueError(f"there is no entry {below}{unknown[0]}")
    for entry in dataclasses.fields(kind):
        optional = entry.default is not dataclasses.MISSING or entry.default_factory is not dataclasses.MISSING
        if entry.name not in entries and not optional:
            raise ValueError(f"the entry {below}{entry.name} is missing")
    return kind(**{key: converted(value, hints[key], f"{below}{key}") for key, value in entries.items()})

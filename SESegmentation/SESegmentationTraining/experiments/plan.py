"""Plans of experiments, as TOML: which networks are compared on which data, and the control without SE blocks.

A plan names a dataset, a recipe (as in :mod:`..recipe`, without the network's type), protocols that change the recipe,
seeds, and comparisons. A comparison trains variants of networks under one protocol: every variant for every seed, and
for every fold where the recipe's [data] has folds. See ``plans/*.toml``; one plan may extend another.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from SESegmentationLib.errors import SegmentationError, UsageError
from SESegmentationLib.networks import build_network
from SESegmentationLib.networks.architectures import NETWORKS, POSITIONS

from ..recipe import Phase, Recipe, converted, merged, read_entries
from ..training_plan import draft_card

PLANS_FOLDER = Path(__file__).parents[1] / "plans"
#: in a variant: the network without SE blocks, since TOML has no null
NO_SE = "none"
#: in a variant: layers wider by as many parameters as this SE block would add
PARAMETERS_OF = "parameters_of"
#: to be increased when the code changes the results of runs
FORMAT = 1
#: entries of a card that a run depends on; texts and licences are not among them
DECISIVE_CARD = ("spacing", "orientation", "intensity", "views", "merged_pairs", "labels")
DECISIVE_LABEL = ("value", "name")


def widened_to(description: Mapping[str, Any]) -> list[int]:
    """Channels by which each block of a U-Net has to be wider to have the parameters of ``description``, without SE.

    Channels are spread over the blocks as evenly as the number of parameters allows; it is met to within half of what
    one channel costs.

    Args:
        description: of a U-Net with SE blocks.

    Returns:
        A number for each block, as ``widened`` of :class:`~SESegmentationLib.networks.architectures.UNet`.

    Raises:
        UsageError: the network is no U-Net.
        ModelError: the description makes no network.
    """
    if description.get("type") != "UNet":
        raise UsageError("Only the U-Net's layers can be widened.", "Leave other networks out of this comparison.")
    bare = {**description, "se": None}
    blocks = description.get("blocks", 4)
    wanted = _parameters(description)
    # all decoders cost the same, and all encoders but the first, which stays as it is: its input has fewer channels
    places = {"encoder": range(1, blocks) or range(1), "decoder": range(blocks, 2 * blocks)}
    own = _parameters(bare)
    encoder, decoder = (_parameters({**bare, "widened": _widened({p[-1]: 1}, blocks)}) - own for p in places.values())
    most = (wanted - own) // decoder + 2
    _, _, encoders, decoders = min(
        (abs(own + e * encoder + d * decoder - wanted), abs(e - d), e, d)
        for e in range((most if blocks > 1 else 0) + 1)
        for d in range(most + 1)
        if blocks == 1 or abs(e - d) <= blocks
    )
    return _widened(_shares(encoders, places["encoder"]) | _shares(decoders, places["decoder"]), blocks)


def _widened(channels: Mapping[int, int], blocks: int) -> list[int]:
    """Channels by block, from those of some blocks."""
    return [channels.get(block, 0) for block in range(2 * blocks)]


def _shares(channels: int, blocks: Sequence[int]) -> dict[int, int]:
    """``channels`` spread evenly over ``blocks``."""
    return {block: (channels + place) // len(blocks) for place, block in enumerate(blocks)}


def _parameters(description: Mapping[str, Any]) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_network(description).parameters())


@dataclass(frozen=True)
class Comparison:
    """Variants that are compared with each other.

    Attributes:
        name: of its table and plot.
        title: in words.
        protocol: of the training.
        variants: arguments of the networks by the variant's name, in the order of the table. ``se = "none"`` is a
            network without SE blocks, ``parameters_of = "scSE"`` one whose layers are wider by as many parameters.
        networks: types, each in all variants.
        baseline: the variant that the others are tested against.
    """

    name: str
    title: str
    protocol: str
    variants: dict[str, dict[str, Any]]
    networks: list[str] = field(default_factory=lambda: ["UNet"])
    baseline: str = NO_SE


@dataclass(frozen=True)
class Plan:
    """A whole plan.

    Attributes:
        title: in words.
        dataset: folder below that of all data.
        card_of: shipped recipe whose card (labels, intensities) the recipe takes over.
        recipe: entries of the recipe that all runs share.
        protocols: changes of the recipe, by name.
        comparisons: in the order in which they are run.
        seeds: of initialisation, order and augmentation.
        notes: said below the title of the tables.
        name: the file's.
    """

    title: str
    dataset: str
    recipe: dict[str, Any]
    protocols: dict[str, dict[str, Any]]
    comparisons: list[Comparison]
    seeds: list[int]
    card_of: str = ""
    notes: str = ""
    name: str = ""

    @classmethod
    def load(cls, name_or_file: str | Path) -> Plan:
        """Read a plan by the name of one that is shipped, or from a file.

        Raises:
            UsageError: no such plan, or one with entries that are unknown, missing or of no use.
        """
        entries = read_entries(name_or_file, PLANS_FOLDER) | {"name": Path(name_or_file).stem}
        try:
            plan = converted(entries, cls)
            _check(plan)
        except ValueError as error:
            raise UsageError(f"{name_or_file}: {error}.", "Compare it with a plan that is shipped.") from error
        return plan

    def runs(self) -> list[Run]:
        """Everything to be trained, each run once; all variants for one seed before the next.

        Raises:
            UsageError: recipe or network of a run is not valid.
        """
        unique: dict[str, Run] = {}
        for comparison in self.comparisons:
            for run in self.runs_of(comparison):
                unique.setdefault(run.key, run)
        return list(unique.values())

    def runs_of(self, comparison: Comparison) -> list[Run]:
        """The runs of one comparison; errors as :meth:`runs`."""
        recipes = {
            (network, variant): self._recipe(comparison, network, variant)
            for network in comparison.networks
            for variant in comparison.variants
        }
        folds = self.recipe.get("data", {}).get("folds", 0)
        return [
            Run(self.dataset, _with(recipe, seed, fold), *names, seed, fold if folds else None)
            for seed in self.seeds
            for fold in range(max(folds, 1))
            for names, recipe in recipes.items()
        ]

    def _recipe(self, comparison: Comparison, network: str, variant: str) -> Recipe:
        """The recipe of a variant, whatever seed and fold."""
        arguments = self.recipe.get("network", {}) | {"type": network} | comparison.variants[variant]
        arguments = {key: None if value == NO_SE else value for key, value in arguments.items()}
        entries = merged({"name": self.name} | self._card(), self.recipe)
        entries = merged(entries, self.protocols[comparison.protocol])
        where = f"{self.name}, {comparison.name}: {network} {variant}"
        try:
            recipe = Recipe.from_dict(entries | {"network": _simplest(arguments)}, where)
            card = draft_card(recipe)
            if len(card.views) != 1 or recipe.specialise or recipe.teacher.model:
                raise UsageError(
                    "An experiment trains one network on one view, from the labels alone.",
                    "Give the recipe one view, and no teacher.",
                )
        except SegmentationError as error:
            raise UsageError(f"{where}: {error.cause}", error.remedy) from error
        return recipe

    def _card(self) -> dict[str, Any]:
        return {"card": read_entries(self.card_of).get("card", {})} if self.card_of else {}


@dataclass(frozen=True)
class Run:
    """One network to be trained and tested.

    Attributes:
        dataset: folder below that of all data.
        recipe: with network, seed and fold.
        network: type.
        variant: name.
        seed: as in the recipe.
        fold: as in the recipe; None without folds.
    """

    dataset: str
    recipe: Recipe
    network: str
    variant: str
    seed: int
    fold: int | None

    @property
    def title(self) -> str:
        """In words."""
        fold = "" if self.fold is None else f", fold {self.fold}"
        return f"{self.dataset}: {self.network} {self.variant}, seed {self.seed}{fold}"

    @property
    def description(self) -> dict[str, Any]:
        """All that decides the result."""
        return describe_run(self.dataset, self.recipe)

    @property
    def key(self) -> str:
        """A key that equal runs share, whatever plan they are in."""
        return key_of(self.description)


def _check(plan: Plan) -> None:
    """Raise ValueError where entries that are well by themselves make no sense together."""
    names = [comparison.name for comparison in plan.comparisons]
    checks: list[tuple[Any, str]] = [
        (isinstance(plan.recipe.get("network", {}), dict), "recipe.network is a table"),
        (all(isinstance(p, dict) for p in plan.protocols.values()), "a protocol is a table"),
        (plan.comparisons, "there is no comparison"),
        (plan.seeds and len(set(plan.seeds)) == len(plan.seeds), "seeds are numbers, each once"),
        (len(set(names)) == len(names), "two comparisons have the same name"),
    ]
    for comparison in plan.comparisons:
        where = f"the comparison {comparison.name}"
        known = ", ".join(plan.protocols)
        unknown = [network for network in comparison.networks if network not in NETWORKS]
        checks += [
            (comparison.name.replace("-", "").isalnum(), f"{where}: a name is made of letters, digits and hyphens"),
            (comparison.protocol in plan.protocols, f"{where}: its protocol is one of {known}"),
            (comparison.networks and not unknown, f"{where}: networks are {', '.join(NETWORKS)}"),
            (comparison.baseline in comparison.variants, f"{where}: the baseline is one of its variants"),
            (all(isinstance(v, dict) for v in comparison.variants.values()), f"{where}: a variant is a table"),
        ]
    for valid, problem in checks:
        if not valid:
            raise ValueError(problem)


def _with(recipe: Recipe, seed: int, fold: int) -> Recipe:
    """The recipe for one seed and fold."""
    return replace(recipe, fit=replace(recipe.fit, seed=seed), data=replace(recipe.data, fold=fold))


def _simplest(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A network's arguments without those that change nothing, so that runs that are the same look the same."""
    network = dict(arguments)
    if PARAMETERS_OF in network:
        like = network.pop(PARAMETERS_OF)
        network |= {"se": None, "widened": widened_to({**network, "se": like})}
    if network.get("se", "scSE") is None:
        network = _without(network, ("reduction", "aggregation", "positions"))
    if isinstance(positions := network.get("positions"), list):  # their order changes nothing
        network["positions"] = sorted(positions, key=lambda name: POSITIONS.index(name) if name in POSITIONS else -1)
    defaults = {
        name: parameter.default
        for kind in reversed(NETWORKS[network["type"]].__mro__)
        for name, parameter in inspect.signature(vars(kind).get("__init__", object.__init__)).parameters.items()
    }
    return {
        key: value
        for key, value in network.items()
        if _plain(value) != _plain(defaults.get(key, inspect.Parameter.empty))
    }


def _without(entries: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if key not in keys}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def describe_run(dataset: str, recipe: Recipe) -> dict[str, Any]:
    """The run as plain values: dataset, and the recipe's entries that decide and are no defaults.

    Defaults are left out so that old runs keep their key when recipes get new entries.
    """
    card = {key: recipe.card[key] for key in DECISIVE_CARD if key in recipe.card}
    card["labels"] = [{key: label[key] for key in DECISIVE_LABEL} for label in card["labels"]]
    changed = {"card": card, "network": recipe.network, "phases": [_phase(p) for p in recipe.phases]}
    for entry in ("data", "fit", "deformation", "augmentation", "synthesis"):
        if entries := _changed(getattr(recipe, entry)):
            changed[entry] = entries
    if recipe.networks:
        changed["networks"] = {name: _changed(changes) for name, changes in recipe.networks.items()}
    if recipe.data.source != "label-maps":
        changed.pop("synthesis", None)
    return json.loads(json.dumps({"format": FORMAT, "dataset": dataset, "recipe": changed}))


def key_of(description: dict[str, Any]) -> str:
    """Hash of a description, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]


def _phase(phase: Phase) -> dict[str, Any]:
    """A phase; its depth decides only what volumetric views learn, and others have none."""
    entries = dataclasses.asdict(phase)
    return entries if phase.depth > 1 else {key: value for key, value in entries.items() if key != "depth"}


def _changed(entries: Any) -> dict[str, Any]:
    """The entries of a dataclass that are not its defaults; how often a fit is saved or reported decides nothing."""
    default = type(entries)()
    return {
        entry.name: getattr(entries, entry.name)
        for entry in dataclasses.fields(entries)
        if getattr(entries, entry.name) != getattr(default, entry.name) and entry.name != "checkpoint_seconds"
    }

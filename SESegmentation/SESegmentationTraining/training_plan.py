"""What a recipe makes: the card of its model before it is trained, and the fits of its networks."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from SESegmentationLib.errors import ModelError, UsageError
from SESegmentationLib.files.json_files import Fields
from SESegmentationLib.models.card import ModelCard, View
from SESegmentationLib.models.packages import WEIGHTS_NAME
from SESegmentationLib.networks import build_network, network_cost

from .fit import Schedule
from .recipe import NetworkChanges, Recipe

#: pixels along each side from which on no network pools all of them
LARGE = 64


@dataclass(frozen=True)
class PlannedFit:
    """One network to be fitted.

    Attributes:
        name: key of the card's networks, or "shared".
        description: of the network.
        views: that it learns.
        schedule: phases and learning rate.
        seed: of its initialisation, order and augmentation.
    """

    name: str
    description: dict[str, Any]
    views: Sequence[View]
    schedule: Schedule
    seed: int

    @property
    def volumetric(self) -> bool:
        """Whether it sees all slices at once; such a network starts from nothing."""
        return self.views[0].volumetric

    @property
    def work(self) -> float:
        """Multiplications for all pixels that it sees, to which the time it takes is about proportional."""
        size = (64,) * (3 if self.volumetric else 2)
        with torch.device("meta"):
            network = build_network(self.description)
        return self.schedule.work(self.schedule.steps) * network_cost(network, *size).multiply_adds / math.prod(size)


def plan_fits(card: ModelCard, recipe: Recipe) -> list[PlannedFit]:
    """What is fitted, in order: with ``recipe.specialise`` first one "shared" network, from which the others start.

    Networks that start from nothing have a seed each, so that several of one plane do not become the same; one that
    is taught otherwise may have its own.

    Raises:
        UsageError: a phase shows a network too little at once.
    """
    fit, deep = recipe.fit, {view.network for view in card.views if view.volumetric}
    main = Schedule(recipe.phases, fit.learning_rate, fit.warmup, fit.step_decays)
    own = Schedule(recipe.specialise, fit.learning_rate / 4, fit.warmup, fit.step_decays)
    volumetric = Schedule(recipe.volumetric.phases, fit.learning_rate, fit.warmup, fit.step_decays)
    plan, seeds = [], itertools.count(fit.seed)
    flat = [view for view in card.views if not view.volumetric]
    if recipe.specialise and flat:
        plan.append(PlannedFit("shared", card.networks[flat[0].network], flat, main, fit.seed))
    for name, description in card.networks.items():
        views = [view for view in card.views if view.network == name]
        if recipe.specialise and name not in deep:
            plan.append(PlannedFit(name, description, views, own, fit.seed))
        else:
            changes = recipe.networks.get(name, NetworkChanges())
            seed = changes.seed if changes.seed >= 0 else next(seeds)
            plan.append(PlannedFit(name, description, views, volumetric if name in deep else main, seed))
    for planned in plan:
        _check_sizes(recipe, planned)
    return plan


def _check_sizes(recipe: Recipe, fit: PlannedFit) -> None:
    """Raise UsageError where a batch norm would get a single value, or a layer none."""
    with torch.device("meta"):
        network = build_network(fit.description).train()
    for phase in fit.schedule.phases:
        size = (phase.depth, *phase.size) if fit.volumetric else phase.size
        if phase.batch > 1 and min(size) >= LARGE:
            continue
        try:
            with torch.no_grad():
                network(torch.empty((phase.batch, fit.description["in_channels"], *size), device="meta"))
        except (ValueError, RuntimeError) as error:
            raise UsageError(
                f"In the recipe {recipe.name} a phase of size {list(phase.size)} and batch {phase.batch} is too small "
                f"for the network {fit.name}.",
                "Make the phase's size or batch larger, or give the network fewer levels.",
            ) from error


def draft_card(recipe: Recipe) -> ModelCard:
    """The card of a model before it is trained.

    There is one network for each name that the views mention; its input channels and classes follow from views and
    labels.

    Raises:
        UsageError: the recipe's card or network is not valid.
    """
    try:
        fields = Fields(recipe.card)
        entries = [
            {**_frame(recipe, view), **view} if isinstance(view, dict) else view for view in fields.sequence("views")
        ]
        views = [View.from_dict(view, f"views[{index}]") for index, view in enumerate(entries)]
        classes = len(fields.sequence("labels")) + 1
        networks = {
            view.network: recipe.network
            | ({"dimensions": 3, **recipe.volumetric.network} if view.volumetric else {})
            | {"in_channels": view.thickness, "classes": classes}
            for view in views
        }
        card = ModelCard.from_dict(
            {
                "format": 1,
                "name": recipe.name,
                "orientation": "RAS",
                "networks": networks,
                "weights": {"file": WEIGHTS_NAME, "sha256": "0" * 64},
                **recipe.card,
                "views": entries,
            }
        )
        with torch.device("meta"):  # whether it can be built shows without the numbers
            for description in networks.values():
                build_network(description)
    except ModelError as error:
        cause = error.cause.removeprefix(Fields.damaged)
        raise UsageError(f"The recipe {recipe.name} makes no model: {cause}", "Correct the recipe.") from error
    _check_networks(recipe, card)
    _check_sides(recipe, card)
    return card


def _check_sides(recipe: Recipe, card: ModelCard) -> None:
    """Raise UsageError where a label would have two other sides: a mirror would make one structure of two."""
    pairs = {frozenset(pair) for pair in (*card.merged_pairs, *recipe.data.mirrored_pairs)}
    count = Counter(value for pair in pairs for value in pair)
    if several := sorted(value for value, number in count.items() if number > 1):
        raise UsageError(
            f"In the recipe {recipe.name} a mirror exchanges label {several[0]} with several others.",
            "Name each label once in mirrored_pairs, with the same other side as in merged_pairs.",
        )


def _check_networks(recipe: Recipe, card: ModelCard) -> None:
    """Raise UsageError where networks, phases and views of a recipe do not belong together."""
    networks, views = card.networks, card.views
    if unknown := sorted(set(recipe.networks) - set(networks)):
        raise UsageError(
            f"The recipe {recipe.name} changes a network that no view has: {', '.join(unknown)}.",
            f"Name one of {', '.join(networks)} in [networks].",
        )
    for kind, where, phases in (
        (False, "phases", recipe.phases),
        (True, "[volumetric] phases", recipe.volumetric.phases),
    ):
        if not phases and any(view.volumetric == kind for view in views):
            raise UsageError(
                f"The recipe {recipe.name} has {'volumetric ' * kind}views, but no {where} to train them.",
                f"Add {where}, or take these views out.",
            )
    shared = "shared" if recipe.specialise else None
    thickness = {
        (view.network if view.volumetric else shared or view.network, view.thickness, view.volumetric) for view in views
    }
    if len(thickness) > len({name for name, *_ in thickness}):
        raise UsageError(
            f"In the recipe {recipe.name} one network has views of different thickness.",
            "Give them the same thickness, or networks of their own (without specialise).",
        )


def _frame(recipe: Recipe, view: dict[str, Any]) -> dict[str, Any]:
    """The "size" that a view's network sees when its training ends, of a volumetric one slices included."""
    deep = bool(view.get("volumetric"))
    phases = recipe.volumetric.phases if deep else recipe.specialise or recipe.phases
    if not phases:
        return {}
    last = phases[-1]
    return {"size": [*([last.depth] if deep else []), *last.size]}

"""What a recipe makes: the card of its model, and the fits that train its networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import ModelError, UsageError
from ..models.card import ModelCard, View
from ..models.fields import Fields
from ..models.writing import WEIGHTS_NAME
from ..networks import build_network
from .fit import Schedule
from .recipe import Phase, Recipe


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
    def work(self) -> int:
        """Pixels that it sees, to which the time it takes is proportional."""
        return self.schedule.work(self.schedule.steps)


def plan_fits(card: ModelCard, recipe: Recipe) -> list[PlannedFit]:
    """What is fitted, in order: with ``recipe.specialise`` first one "shared" network, from which the others start.

    Without it each network has a seed of its own, so that several of one plane do not become the same.
    """
    fit = recipe.fit
    main = Schedule(recipe.phases, fit.learning_rate, fit.warmup, fit.drops)
    own = Schedule(recipe.specialise, fit.learning_rate / 4, fit.warmup, fit.drops)
    first = next(iter(card.networks.values()))
    plan = [PlannedFit("shared", first, card.views, main, fit.seed)] if recipe.specialise else []
    for number, (name, description) in enumerate(card.networks.items()):
        views = [view for view in card.views if view.network == name]
        schedule, seed = (own, fit.seed) if recipe.specialise else (main, fit.seed + number)
        plan.append(PlannedFit(name, description, views, schedule, seed))
    return plan


def draft_card(recipe: Recipe) -> ModelCard:
    """The card of a model before it is trained.

    There is one network for each name that the views mention; its input channels and classes follow from views and
    labels.

    Raises:
        UsageError: the recipe's card or network is not valid.
    """
    try:
        fields = Fields(recipe.card)
        last = (recipe.specialise or recipe.phases)[-1]
        entries = [
            {"size": _frame(last, view), **view} if isinstance(view, dict) else view
            for view in fields.sequence("views")
        ]
        views = [View.from_dict(view, f"views[{index}]") for index, view in enumerate(entries)]
        classes = len(fields.sequence("labels")) + 1
        networks = {
            view.network: recipe.network
            | {"in_channels": view.thickness, "classes": classes}
            | ({"dimensions": 3} if view.volumetric else {})
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
        cause = error.cause.removeprefix("The model card is damaged: ")
        raise UsageError(f"The recipe {recipe.name} makes no model: {cause}", "Correct the recipe.") from error
    volumetric = {view.volumetric for view in views}
    shallow = any(phase.depth == 1 for phase in (*recipe.phases, *recipe.specialise))
    if volumetric != {False} and (len(volumetric) > 1 or shallow or recipe.fit.boundary):
        raise UsageError(
            f"The recipe {recipe.name} has volumetric views that cannot be trained as it says.",
            "Make all views volumetric, give every phase a depth above 1, and leave boundary in [fit] at 0.",
        )
    thickness = {(view.network if not recipe.specialise else "shared", view.thickness) for view in views}
    if len(thickness) > len({name for name, _ in thickness}):
        raise UsageError(
            f"In the recipe {recipe.name} one network has views of different thickness.",
            "Give them the same thickness, or networks of their own (without specialise).",
        )
    return card


def _frame(phase: Phase, view: dict[str, Any]) -> list[int]:
    """What a view's network sees at once in training: rows and columns, and of a volumetric view slices before them."""
    return [*([phase.depth] if view.get("volumetric") else []), *phase.size]

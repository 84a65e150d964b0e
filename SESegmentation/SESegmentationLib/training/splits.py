"""Which cases a network learns from, and which are kept out: for validation, for test, or fold by fold."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError
from .recipe import Recipe


@dataclass(frozen=True)
class Split:
    """Names of the cases for training, validation and test."""

    training: list[str]
    validation: list[str]
    test: list[str]


def split_cases(names: Sequence[str], validation: int, test: int, seed: int, together: str = "") -> Split:
    """Shuffle by ``seed`` and split; the same names and seed give the same split anywhere.

    Cases that belong ``together`` (see :class:`~SESegmentationLib.training.recipe.Data`) stay so: then there may be
    more for validation and test than asked for.

    Raises:
        InputError: nothing would be left for training.
    """
    groups = _shuffled_groups(names, seed, together)
    parts = [_take(groups, count) for count in (test, validation, len(names))]
    return _checked(Split(training=parts[2], validation=parts[1], test=parts[0]), len(names))


def fold_of_cases(names: Sequence[str], validation: int, folds: int, fold: int, seed: int, together: str = "") -> Split:
    """The split of one fold of a cross-validation: every case is for test in exactly one of the ``folds``.

    Args: as :func:`split_cases`; ``fold`` counts from 0.

    Raises:
        InputError: a fold would have nothing for test, or nothing would be left for training.
    """
    groups = _shuffled_groups(names, seed, together)
    test = [name for group in groups[fold::folds] for name in group]
    rest = [group for index, group in enumerate(groups) if index % folds != fold]
    kept_out = _take(rest, validation)
    if not test:
        raise InputError(f"There are {len(names)} cases, too few for {folds} folds.", "Add cases, or use fewer folds.")
    return _checked(Split(training=_take(rest, len(names)), validation=kept_out, test=test), len(names))


def _shuffled_groups(names: Sequence[str], seed: int, together: str) -> list[list[str]]:
    """Cases that belong together, shuffled."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        match = re.match(together, name) if together else None
        groups.setdefault(match[1] if match else name, []).append(name)
    shuffled = list(groups)
    random.Random(seed).shuffle(shuffled)
    return [groups[key] for key in shuffled]


def _take(groups: list[list[str]], count: int) -> list[str]:
    """Remove groups from the front until there are ``count`` cases, and return these."""
    part: list[str] = []
    while groups and len(part) < count:
        part += groups.pop(0)
    return part


def _checked(split: Split, cases: int) -> Split:
    """``split``, which has to leave something for training."""
    if not split.training:
        raise InputError(
            f"There are {cases} cases, too few to keep out {len(split.validation)} for validation and "
            f"{len(split.test)} for test.",
            "Add cases, or keep out fewer in the recipe's [data].",
        )
    return split


def split_by_recipe(names: Sequence[str], recipe: Recipe) -> Split:
    """The split that a recipe's [data] asks for; InputError as :func:`split_cases`."""
    data = recipe.data
    if data.folds:
        return fold_of_cases(names, data.validation, data.folds, data.fold, data.split_seed, data.together)
    return split_cases(names, data.validation, data.test, data.split_seed, data.together)

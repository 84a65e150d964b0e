"""The validation cases of a finished model, whole: for what is measured on them after training."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from ..models import ModelPackage
from .recipe import Recipe
from .sources import open_source

#: structures smaller than this in a case are not counted there, in voxels: a rest cut off by the field of view
FEWEST_VOXELS = 30


def add_options(parser: argparse.ArgumentParser) -> None:
    """What a command must be told to find the cases."""
    parser.add_argument("model", help="name of the model, or its folder")
    parser.add_argument("--dataset", type=Path, required=True, help="folder that the model was trained on")
    parser.add_argument("--recipe", required=True, help="name or file")
    parser.add_argument("--volumes", type=int, default=1, help="times that each validation case is looked at")


def validation_cases(
    options: argparse.Namespace, package: ModelPackage, seed: int
) -> Iterable[tuple[str, np.ndarray, np.ndarray]]:
    """Name, normalised image float32 and output channels uint8 (k, j, i) of each case.

    Args:
        options: see :func:`add_options`. Where the recipe synthesises its images, each of ``options.volumes`` looks at
            a case is another volume.
        seed: of what is synthesised.

    Raises:
        InputError, UsageError: dataset or recipe cannot be used.
    """
    source = open_source(options.dataset, Recipe.load(options.recipe), package.card, torch.device("cpu"))
    generators = [torch.Generator().manual_seed(seed + number) for number in range(options.volumes)]
    return itertools.chain.from_iterable(source.whole_volumes(generator) for generator in generators)

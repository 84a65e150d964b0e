"""A picture of what a recipe's networks learn from: training slices, each beside its target.

``python -m SESegmentationLib.training.gallery DATASET --recipe NAME -o FILE.png`` draws it, the same for the same seed.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..errors import UsageError
from ..files import check_writable, refuse_overwriting, write_whole
from ..models.card import ModelCard
from .commands import as_command
from .dataset import dataset_paths
from .plan import draft_card
from .recipe import Phase, Recipe
from .sources import Batch, open_source

#: slices in the picture, and of them in a row
COUNT, IN_A_ROW = 16, 4
OPACITY = 0.6


def draw_gallery(dataset: Path, recipe: Recipe, seed: int = 0) -> Image.Image:
    """Draw random training slices of ``recipe`` on ``dataset``, in the size and resolution of its last phase.

    Every slice stands twice: as the networks see it, and with the target in the labels' colours. Where a view merges
    left and right, both have the colour of the left.

    Raises:
        InputError, UsageError: dataset or recipe cannot be used.
    """
    card = draft_card(recipe)
    source = open_source(dataset, recipe, card, torch.device("cpu"))
    last = recipe.phases[-1]
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    return _compose(source.batch(card.views, Phase(1, COUNT, last.size, last.spacing), generator), card)


def _compose(batch: Batch, card: ModelCard) -> Image.Image:
    palette = np.array([(0, 0, 0), *(label.color for label in card.labels)], np.float32)
    middle = batch.images[:, batch.images.shape[1] // 2].clamp(0, 1).numpy()
    grey = np.repeat(255 * middle[..., None], 3, axis=-1)
    target = batch.target.numpy()
    opacity = np.where(target > 0, OPACITY, 0.0)[..., None]
    pairs = np.concatenate([grey, (1 - opacity) * grey + opacity * palette[target]], axis=2)
    pairs = pairs[:, ::-1]  # rows run to the front or to the head; a picture from top to bottom
    rows = [np.concatenate(list(pairs[start : start + IN_A_ROW]), axis=1) for start in range(0, len(pairs), IN_A_ROW)]
    return Image.fromarray(np.concatenate(rows).astype(np.uint8))


@as_command
def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of ``python -m SESegmentationLib.training.gallery``; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--recipe", required=True, help="name or file")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the picture, .png or .jpg")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    formats = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
    kind = formats.get(chosen.output.suffix.lower())
    if kind is None:
        raise UsageError(f"{chosen.output} ends neither in .png nor in .jpg.", "Choose another name for -o.")
    refuse_overwriting([*dataset_paths(chosen.dataset), Path(chosen.recipe)], [chosen.output])
    check_writable(chosen.output)
    content = io.BytesIO()
    draw_gallery(chosen.dataset, Recipe.load(chosen.recipe), chosen.seed).save(content, format=kind)
    write_whole(chosen.output, content.getvalue())


if __name__ == "__main__":
    sys.exit(main())

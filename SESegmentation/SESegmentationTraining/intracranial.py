"""How exact a model's intracranial volume is, on synthesised heads whose volume is known.

    python -m SESegmentationTraining.intracranial MODEL --dataset LABELMAPS [--recipe NAME] [--volumes N] [--write]

The validation maps of the training are drawn under N random contrasts each. With ``--write`` the card gets the relative
error that results tell beside the volume.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from SESegmentationLib.models import ModelPackage, verify_model, write_package
from SESegmentationLib.networks.weights import load_networks
from SESegmentationLib.predict.predictor import Predictor

from .calibration import recipe_of
from .processes import as_command
from .recipe import Recipe
from .sources import open_source

SEED = 71


def relative_errors(package: ModelPackage, dataset: Path, recipe: Recipe, volumes: int) -> list[float]:
    """Found over true volume, less 1, of every validation head under ``volumes`` contrasts."""
    whole = replace(recipe.synthesis, stripped=0.0, defaced=0.0, cropped=0.0)
    source = open_source(dataset, replace(recipe, synthesis=whole), package.card, torch.device("cpu"))
    predictor = Predictor(package.card, load_networks(package), torch.device("cpu"))
    errors = []
    for number in range(volumes):
        for name, image, truth in source.whole_volumes(torch.Generator().manual_seed(SEED + number)):
            found = int((predictor.predict(image, predictor.views).probabilities.argmax(0) > 0).sum())
            errors.append(found / int(np.count_nonzero(truth)) - 1)
            print(f"{name}: {errors[-1]:+.3f}", file=sys.stderr)
    return errors


@as_command
def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of ``python -m SESegmentationTraining.intracranial``; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name of the model, or its folder")
    parser.add_argument("--dataset", type=Path, required=True, help="folder that the model was trained on")
    parser.add_argument("--recipe", help="name or file, where the card's training does not name it")
    parser.add_argument("--volumes", type=int, default=4, help="contrasts of each validation head")
    parser.add_argument("--write", action="store_true", help="write the error into the card")
    chosen = parser.parse_args(arguments)
    package = verify_model(chosen.model)
    errors = relative_errors(package, chosen.dataset, recipe_of(package, chosen.recipe), chosen.volumes)
    error = round(float(np.sqrt(np.mean(np.square(errors)))), 4)
    print(json.dumps({"heads": len(errors), "mean": round(float(np.mean(errors)), 4), "root_mean_square": error}))
    if chosen.write:
        entries = {**package.card.to_dict(), "intracranial_error": error}
        write_package(package.path, entries, package.weights_path)


if __name__ == "__main__":
    sys.exit(main())

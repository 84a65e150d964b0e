"""One run of an experiment: train a network, test it on the cases kept out, and store the result."""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from SESegmentationLib import __version__
from SESegmentationLib.errors import InputError, UsageError
from SESegmentationLib.inference.predictor import Predictor
from SESegmentationLib.inference.views import PLANE_AXIS
from SESegmentationLib.models.card import ModelCard
from SESegmentationLib.networks import build_network, network_cost
from SESegmentationLib.networks.cost import NetworkCost
from SESegmentationLib.networks.losses import overlap_and_size
from SESegmentationLib.progress import Progress, no_progress

from ..begun import begin, contents_of
from ..fit import FitState, fit_network
from ..processes import machine_words
from ..recipe import Recipe
from ..sources import Source, open_source
from ..training_plan import draft_card, plan_fits
from .plan import Run
from .results import result_path, write_run

#: of the images that are synthesised to test on
TEST_SEED = 20_190_210
#: slices that are timed, and how often; the quickest time is the least disturbed one
TIMED_SLICES, TIMED_REPEATS = 16, 5
#: share of a run's progress that is training
TRAINING_SHARE = 0.9

#: name, normalised image and output channels, (k, j, i)
Volume = tuple[str, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Trained:
    """A network that was trained, and what its training took.

    Attributes:
        predictor: with the network.
        cost: of the network, for one slice.
        state: how the training went, all resumed parts together.
        milliseconds_per_step: of the steps done now; None where none was left.
    """

    predictor: Predictor
    cost: NetworkCost
    state: FitState
    milliseconds_per_step: float | None


class Runner:
    """Does one run after another. Data that the next run needs too is not loaded again.

    Args:
        data: folder that holds the datasets.
        folder: where results are kept; a run under way has a folder below it.
        device: where networks are trained and tested.
    """

    def __init__(self, data: Path, folder: Path, device: torch.device) -> None:
        self.data = data
        self.folder = folder
        self.device = device
        self._opened = ""
        self._source: Source
        self._contents: dict[str, str] = {}
        self._test: list[Volume] = []

    def __call__(self, run: Run, progress: Progress = no_progress) -> dict[str, Any]:
        """Train and test; a run that was interrupted goes on where it stopped.

        Returns:
            The result as it is written to the file of the run's key.

        Raises:
            InputError, UsageError: the data is not there or cannot be used, or changed since the run was begun.
            SegmentationError: the training diverged.
            CancelledError: from ``progress``.
        """
        card = draft_card(run.recipe)
        self._open(run, card)
        working = result_path(self.folder, run.key).with_suffix(".unfinished")
        # the folder's name tells the recipe
        begin(working, None, asdict(self._source.split), self._contents)
        trained = self._train(run, card, working, progress)
        tested = time.monotonic()
        dice = self._test_dice(run, trained.predictor, progress)
        size = run.recipe.phases[-1].size
        cost = trained.cost
        result = {
            "key": run.key,
            "description": run.description,
            "labels": [label.name for label in card.labels],
            "dice": dice,
            "curve": [[entry["step"], entry["mean"]] for entry in trained.state.history],
            "parameters": cost.parameters,
            "se_parameters": cost.se_parameters,
            "multiply_adds": cost.multiply_adds,
            "size": list(size),
            "milliseconds_per_slice": round(1000 * self._seconds_per_slice(trained.predictor, size), 3),
            "milliseconds_per_step": trained.milliseconds_per_step,
            "hours": round((trained.state.seconds + time.monotonic() - tested) / 3600, 5),
            "split": asdict(self._source.split),
            "contents": self._contents,
            "machine": machine_words(self.device),
            "versions": versions(),
            "date": time.strftime("%Y-%m-%d"),
        }
        write_run(result_path(self.folder, run.key), result)
        shutil.rmtree(working, ignore_errors=True)
        return result

    def _train(self, run: Run, card: ModelCard, working: Path, progress: Progress) -> Trained:
        """Train the network of ``run``, or go on with it; checkpoints are in ``working``."""
        recipe, fit = run.recipe, plan_fits(card, run.recipe)[0]
        torch.manual_seed(recipe.fit.seed)
        network = build_network(fit.description)
        cost = network_cost(network, *recipe.phases[-1].size)
        steps, clock = 0, _clock(self.device)
        started = clock()

        def report(phase: str, fraction: float, seconds_left: float | None) -> None:
            nonlocal steps
            steps += 1
            progress(run.title, TRAINING_SHARE * fraction, seconds_left)

        weights, state = fit_network(
            network,
            self._source,
            fit.views,
            card.channel_pairs,
            recipe,
            fit.schedule,
            working,
            "network",
            self.device,
            report,
        )
        milliseconds = round(1000 * (clock() - started) / steps, 2) if steps else None
        network.load_state_dict(weights)
        return Trained(Predictor(card, {fit.name: network.eval()}, self.device), cost, state, milliseconds)

    def _test_dice(self, run: Run, predictor: Predictor, progress: Progress) -> dict[str, list[float]]:
        """Dice of every structure by case that was kept out."""
        dice: dict[str, list[float]] = {}
        for name, image, labels in self._test:
            dice[name] = dice_of(predictor, image, labels)
            progress(run.title, TRAINING_SHARE + (1 - TRAINING_SHARE) * len(dice) / len(self._test), None)
        return dice

    def _open(self, run: Run, card: ModelCard) -> None:
        """Load the data of ``run`` unless it is that of the run before."""
        dataset = self.data / run.dataset
        if not dataset.is_dir():
            raise InputError(f"There is no dataset {dataset}.", "Name the folder that holds the datasets by --data.")
        opened = _data_of(run.recipe, dataset, card)
        if opened == self._opened:
            return
        self._opened, self._test = "", []  # frees memory before the next data are loaded
        self._source = open_source(dataset, run.recipe, card, self.device)
        self._test = list(self._source.whole_volumes(torch.Generator().manual_seed(TEST_SEED), "test"))
        if not self._test:
            raise UsageError(
                f"{run.title}: no cases are kept out for test.", "Set test, or folds, in the recipe's [data]."
            )
        split = self._source.split
        self._contents = contents_of(dataset, run.recipe, [*split.training, *split.validation, *split.test])
        self._opened = opened

    def _seconds_per_slice(self, predictor: Predictor, size: tuple[int, int]) -> float:
        """Time of one slice of ``size``, probabilities included, in s (on a CPU of its cores together)."""
        view = predictor.views[0]
        random = np.random.default_rng(0)
        volume = random.random((TIMED_SLICES, *size), dtype=np.float32)
        volume = np.moveaxis(volume, 0, PLANE_AXIS[view.plane])
        clock, times = _clock(self.device), []
        for _ in range(TIMED_REPEATS):
            started = clock()
            predictor.predict(volume, [view])
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            times.append(clock() - started)
        return min(times) / TIMED_SLICES


def dice_of(predictor: Predictor, image: np.ndarray, labels: np.ndarray) -> list[float]:
    """Dice of every structure of one volume in three dimensions, on the model's grid; 1 where there is none in either.

    Args:
        image: (k, j, i) float32, normalised.
        labels: (k, j, i), output channels.
    """
    found = predictor.predict(image, predictor.views).votes[0].cpu()
    overlap, size = (counts.tolist() for counts in overlap_and_size(found, torch.from_numpy(labels), predictor.classes))
    return [round(2 * o / s, 4) if s else 1.0 for o, s in zip(overlap[1:], size[1:], strict=True)]


def versions() -> dict[str, str]:
    """Versions of what computes."""
    packages = {name: version(name) for name in ("torch", "numpy", "SimpleITK")}
    return {"SESegmentation": __version__, "python": platform.python_version(), **packages}


def _clock(device: torch.device) -> Callable[[], float]:
    """On a CPU the time that this process gets, since others may run beside it; in s."""
    return time.process_time if device.type == "cpu" else time.perf_counter


def _data_of(recipe: Recipe, dataset: Path, card: ModelCard) -> str:
    """What the source of a run depends on; the seed of its batches is given at every step."""
    parts = (recipe.data, recipe.deformation, recipe.augmentation, recipe.synthesis)
    seen = {key: value for key, value in card.to_dict().items() if key != "networks"}
    changes = {name: asdict(changed) for name, changed in recipe.networks.items()}
    decisive = [str(dataset), seen, recipe.fit.rare_share, changes, *(asdict(part) for part in parts)]
    return json.dumps(decisive, sort_keys=True, default=str)

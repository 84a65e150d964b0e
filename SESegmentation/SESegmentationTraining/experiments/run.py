"""One run of an experiment: train a network, test it on the cases kept out, and store the result.

``runs/<key>.json`` is what one run gave. ``results.json`` holds many, what they share (splits, cards) only once; it
alone is enough to make tables and plots anew.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from SESegmentationLib import __version__
from SESegmentationLib.errors import InputError, UsageError
from SESegmentationLib.files import write_whole
from SESegmentationLib.inference.predictor import Predictor
from SESegmentationLib.inference.views import PLANE_AXIS
from SESegmentationLib.models.card import ModelCard
from SESegmentationLib.networks import build_network, network_cost
from SESegmentationLib.networks.losses import overlap_and_size
from SESegmentationLib.progress import Progress, no_progress

from ..draft import draft_card, plan_fits
from ..fit import fit_network
from ..processes import machine_words
from ..recipe import Recipe
from ..sources import Source, open_source
from .plan import Run

#: of the images that are synthesised to test on
TEST_SEED = 20_190_210
#: slices that are timed, and how often; the quickest time is the least disturbed one
TIMED_SLICES, TIMED_REPEATS = 16, 5
#: share of a run's progress that is training
TRAINING_SHARE = 0.9

#: name, normalised image and output channels, (k, j, i)
Volume = tuple[str, np.ndarray, np.ndarray]
RESULTS_NAME = "results.json"
#: entries that many runs have in common
SHARED = (("split",), ("versions",), ("labels",), ("description", "recipe", "card"), ("description", "recipe", "data"))


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
        self._test: list[Volume] = []

    def __call__(self, run: Run, progress: Progress = no_progress) -> dict[str, Any]:
        """Train and test; a run that was interrupted goes on where it stopped.

        Returns:
            The result as it is written to the file of the run's key.

        Raises:
            InputError, UsageError: the data is not there or cannot be used.
            SegmentationError: the training diverged.
            CancelledError: from ``progress``.
        """
        recipe, card = run.recipe, draft_card(run.recipe)
        self._open(run, card)
        working = result_path(self.folder, run.key).with_suffix(".unfinished")
        working.mkdir(parents=True, exist_ok=True)
        fit = plan_fits(card, recipe)[0]
        torch.manual_seed(recipe.fit.seed)
        network = build_network(fit.description)
        size = recipe.phases[-1].size
        cost = network_cost(network, *size)
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
        training_seconds = clock() - started
        network.load_state_dict(weights)
        predictor = Predictor(card, {fit.name: network.eval()}, self.device)
        tested = time.monotonic()
        dice = {}
        for name, image, labels in self._test:
            dice[name] = dice_of(predictor, image, labels)
            progress(run.title, TRAINING_SHARE + (1 - TRAINING_SHARE) * len(dice) / len(self._test), None)
        result = {
            "key": run.key,
            "description": run.description,
            "labels": [label.name for label in card.labels],
            "dice": dice,
            "curve": [[entry["step"], entry["mean"]] for entry in state.history],
            "parameters": cost.parameters,
            "se_parameters": cost.se_parameters,
            "multiply_adds": cost.multiply_adds,
            "size": list(size),
            "milliseconds_per_slice": round(1000 * self._seconds_per_slice(predictor, size), 3),
            "milliseconds_per_step": round(1000 * training_seconds / steps, 2) if steps else None,
            "hours": round((state.seconds + time.monotonic() - tested) / 3600, 5),
            "split": asdict(self._source.split),
            "machine": machine_words(self.device),
            "versions": versions(),
            "date": time.strftime("%Y-%m-%d"),
        }
        write_run(result_path(self.folder, run.key), result)
        shutil.rmtree(working, ignore_errors=True)
        return result

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


def result_path(folder: Path, key: str) -> Path:
    """The file of one run."""
    return folder / "runs" / f"{key}.json"


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """All results in ``folder`` by key: those of ``results.json`` and of single runs.

    Raises:
        InputError: ``results.json`` is damaged.
    """
    together = folder / RESULTS_NAME
    results = {}
    if together.is_file():
        try:
            content = json.loads(together.read_text(encoding="utf-8"))
            results = {run["key"]: _whole(run, content["shared"]) for run in content["runs"]}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{together} is damaged: {error}.", "Restore the file, or delete it.") from error
    for path in sorted(result_path(folder, "*").parent.glob("*.json")):
        if (result := _read(path)) is not None:
            results[result["key"]] = result
    return results


def gather_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Move the results of single runs into ``results.json``, and return all by key; errors as :func:`read_results`."""
    single = list(result_path(folder, "*").parent.glob("*.json"))
    results = read_results(folder)
    if single:
        write_results(folder, results.values())
        for path in single:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a run that is unfinished stays
            single[0].parent.rmdir()
    return results


def write_results(folder: Path, results: Iterable[Mapping[str, Any]]) -> None:
    """Write ``results.json``: a line for each shared entry and each run, in the order of their keys."""
    shared: dict[str, Any] = {}
    runs = [_compact(result, shared) for result in sorted(results, key=lambda result: result["key"])]
    lines = [
        '{"shared": {',
        ",\n".join(f"{json.dumps(key)}: {_line(value)}" for key, value in sorted(shared.items())),
        '}, "runs": [',
        ",\n".join(map(_line, runs)),
        "]}\n",
    ]
    write_whole(folder / RESULTS_NAME, "\n".join(lines))


def write_run(path: Path, content: Mapping[str, Any]) -> None:
    """Write one run's result, whole or not at all."""
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _read(path: Path) -> dict[str, Any] | None:
    """One result; None for a file that is damaged: that run is done again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if content["key"] == path.stem else None
    except (ValueError, KeyError, TypeError):
        return None


def _compact(result: Mapping[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    compact = copy.deepcopy(dict(result))
    for *above, last in SHARED:
        place = compact
        for key in above:
            place = place[key]
        if last in place:
            digest = hashlib.sha256(json.dumps(place[last], sort_keys=True).encode()).hexdigest()[:12]
            shared[digest] = place[last]
            place[last] = digest
    return compact


def _whole(compact: dict[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    for *above, last in SHARED:
        place = compact
        for key in above:
            place = place[key]
        if last in place:
            place[last] = copy.deepcopy(shared[place[last]])
    return compact


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

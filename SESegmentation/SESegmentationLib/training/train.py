"""From a dataset and a recipe to a model package."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from safetensors.torch import save_file

from .. import __version__
from ..errors import DeviceError, UsageError
from ..models.card import ModelCard, View
from ..models.readme import write_readme
from ..models.store import ModelPackage
from ..models.writing import WEIGHTS_NAME, write_package
from ..networks import build_network
from ..progress import Progress, no_progress
from .fit import FitState, Schedule, fit_network
from .recipe import Recipe
from .sources import channel_pairs, open_source


def train_model(
    dataset: Path, recipe: Recipe, output: Path, device: str = "auto", progress: Progress = no_progress
) -> ModelPackage | None:
    """Train all networks of ``recipe`` on ``dataset`` and write a model package to ``output``.

    What was trained before in ``output`` is resumed. Under ``torchrun`` the processes share the work.

    Args:
        dataset: folder, see :mod:`.dataset`.
        output: folder of the package; its ``training`` folder keeps checkpoints, logs and the split.
        device: "auto", "cpu" or "cuda".

    Returns:
        The package; None in processes other than the first.

    Raises:
        InputError, UsageError, DeviceError: dataset, recipe or device cannot be used.
    """
    with ProcessGroup(device) as (chosen, rank):
        card = draft_card(recipe)
        folder = output / "training"
        folder.mkdir(parents=True, exist_ok=True)
        source = open_source(dataset, recipe, card, chosen)
        if rank == 0:
            _write_json(folder / "split.json", asdict(source.split))
        weights: dict[str, torch.Tensor] = {}
        states: dict[str, FitState] = {}

        def fit(name: str, views: Sequence[View], schedule: Schedule, start: dict[str, torch.Tensor] | None) -> dict:
            torch.manual_seed(recipe.fit.seed)
            network = build_network(next(iter(card.networks.values())))
            if start:
                network.load_state_dict(start)
            pairs = channel_pairs(card)
            trained, states[name] = fit_network(
                network, source, views, pairs, recipe, schedule, folder, name, chosen, progress
            )
            return trained

        main = Schedule(recipe.phases, recipe.fit.learning_rate, recipe.fit.warmup)
        own = Schedule(recipe.specialise, recipe.fit.learning_rate / 4, recipe.fit.warmup)
        shared = fit("shared", card.views, main, None) if recipe.specialise else None
        for name in card.networks:
            views = [view for view in card.views if view.network == name]
            trained = fit(name, views, own if shared else main, shared)
            weights |= {f"{name}.{key}": value for key, value in trained.items()}
        if rank != 0:
            return None
        return _write(output, card, recipe, source.split, weights, states, chosen)


def draft_card(recipe: Recipe) -> ModelCard:
    """The card of a model before it is trained.

    The network's input channels and classes follow from views and labels; a recipe that gives no "networks" trains one
    network for each name its views mention.

    Raises:
        ModelError: the recipe's card part is not valid.
    """
    entries = dict(recipe.card)
    thickness = max(view.get("thickness", 1) for view in entries["views"])
    description = {**recipe.network, "in_channels": thickness, "classes": len(entries["labels"]) + 1}
    names = dict.fromkeys(view["network"] for view in entries["views"])
    return ModelCard.from_dict(
        {
            "format": 1,
            "name": recipe.name,
            "orientation": "RAS",
            "networks": dict.fromkeys(names, description),
            "weights": {"file": WEIGHTS_NAME, "sha256": "0" * 64},
            **entries,
        }
    )


def _write(
    output: Path,
    card: ModelCard,
    recipe: Recipe,
    split: Any,
    weights: dict[str, torch.Tensor],
    states: dict[str, FitState],
    device: torch.device,
) -> ModelPackage:
    # half precision halves the package; the loss of accuracy is below what can be measured
    halves = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    temporary = output / "training" / WEIGHTS_NAME
    save_file({key: value.contiguous() for key, value in halves.items()}, temporary)
    training = {
        **card.training,
        "recipe": recipe.name,
        "seed": recipe.fit.seed,
        "split_seed": recipe.data.split_seed,
        "cases": {group: len(names) for group, names in asdict(split).items()},
        "test_cases": split.test,
        "steps": {name: state.step for name, state in states.items()},
        "hours": round(sum(state.seconds for state in states.values()) / 3600, 2),
        "machine": _machine(device),
        "date": time.strftime("%Y-%m-%d"),
        "version": __version__,
    }
    package = write_package(output, {**card.to_dict(), "training": training}, temporary)
    write_readme(package)
    return package


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def _write_json(path: Path, content: Any) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(temporary, path)


class ProcessGroup:
    """Joins the processes that ``torchrun`` started, if it did; yields this one's device and rank."""

    def __init__(self, device: str) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"There is no device {device!r}.", "Use auto, cpu or cuda.")
        if device == "cuda" and not torch.cuda.is_available():
            raise DeviceError("No CUDA device can be used.", "Use --device cpu, or install a driver that fits torch.")
        self.on_gpu = device != "cpu" and torch.cuda.is_available()
        self.world = int(os.environ.get("WORLD_SIZE", "1"))

    def __enter__(self) -> tuple[torch.device, int]:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if self.world > 1:
            distributed.init_process_group("nccl" if self.on_gpu else "gloo")
        if not self.on_gpu:
            return torch.device("cpu"), int(os.environ.get("RANK", "0"))
        torch.cuda.set_device(local)
        return torch.device("cuda", local), int(os.environ.get("RANK", "0"))

    def __exit__(self, *_: object) -> None:
        if self.world > 1:
            distributed.destroy_process_group()

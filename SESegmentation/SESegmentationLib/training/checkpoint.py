"""Training state on disk, so that a killed run resumes where it stopped.

Tensors go to safetensors and the rest to JSON inside its header: nothing is pickled.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import InputError
from ..files import write_whole


def save_checkpoint(
    path: Path, parts: dict[str, nn.Module], optimizer: torch.optim.Optimizer, state: dict[str, object]
) -> None:
    """Write modules, optimiser and plain ``state`` to ``path``, whole or not at all.

    Args:
        parts: modules by name.
        state: JSON-able values.
    """
    tensors = {f"{name}|{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer|{index}|{key}": torch.as_tensor(value) for key, value in slots.items()}
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    write_whole(path, save(tensors, metadata={"state": json.dumps(state)}))


def load_checkpoint(path: Path, parts: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, object]:
    """Restore what :func:`save_checkpoint` wrote and return its ``state``.

    Raises:
        InputError: the file is damaged or belongs to another network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        for name, part in parts.items():
            part.load_state_dict(_below(tensors, name))
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in _below(tensors, "optimizer").items():
            index, slot = key.split("|")
            slots.setdefault(int(index), {})[slot] = value
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    except Exception as error:  # safetensors and torch raise many kinds for a damaged or foreign file
        raise InputError(
            f"The checkpoint {path} cannot be resumed: {error}.", "Delete it to start the training again."
        ) from error
    return state


def _below(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}|"): value for key, value in tensors.items() if key.startswith(f"{name}|")}

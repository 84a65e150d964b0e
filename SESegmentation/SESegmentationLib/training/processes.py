"""Where a training runs: the machine, and several processes that train together, as ``torchrun`` starts them."""

from __future__ import annotations

import os
import platform

import torch
import torch.distributed as distributed

from ..errors import DeviceError, UsageError


class ProcessGroup:
    """Joins the processes that ``torchrun`` started, if it did; yields this one's device and rank."""

    def __init__(self, device: str) -> None:
        device = device.strip().lower()
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

    def __exit__(self, failure: object, *_: object) -> None:
        if self.world > 1:
            if failure is None:  # leave together: who is gone while others still write would end them
                distributed.barrier()
            distributed.destroy_process_group()


def rank_and_count() -> tuple[int, int]:
    """The number of this process, from 0, and how many there are; (0, 1) where it is alone."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def as_first_process(flag: bool, device: torch.device) -> bool:
    """``flag`` of the first process, in all of them; each has to call this."""
    if not distributed.is_initialized():
        return flag
    shared = torch.tensor(int(flag), device=device)
    distributed.broadcast(shared, 0)
    return bool(shared)


def machine_words(device: torch.device) -> str:
    """The kind of machine, in words: times of one kind say little of another."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    abilities = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} CPU ({abilities}), {threads} thread{'s' if threads > 1 else ''}"

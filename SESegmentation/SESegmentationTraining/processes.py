"""Where a training runs, what it writes into its log, and how far it is."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed

from SESegmentationLib.errors import DeviceError, UsageError
from SESegmentationLib.files import write_whole
from SESegmentationLib.progress import Progress


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
            if failure is None:  # leave together: a process that leaves early would end those that still write
                distributed.barrier()
            distributed.destroy_process_group()


def rank_and_count() -> tuple[int, int]:
    """The number of this process, from 0, and how many there are; (0, 1) where it is alone."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def as_first_process(number: int, device: torch.device) -> int:
    """``number``, or a flag, of the first process, in all of them; each has to call this."""
    if not distributed.is_initialized():
        return number
    shared = torch.tensor(int(number), device=device)
    distributed.broadcast(shared, 0)
    return int(shared)


def machine_words(device: torch.device) -> str:
    """The kind of machine, in words, since times of different machines cannot be compared."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    abilities = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} CPU ({abilities}), {threads} thread{'s' if threads > 1 else ''}"


class Log:
    """The course of a fit as JSON lines in ``<name>.log.jsonl``, and as TensorBoard events where that is installed.

    A ``with`` block, at whose end everything is on disk.

    Args:
        folder: where the file and a folder ``tensorboard/<name>`` are written.
        name: of the fit.
        step: where the fit goes on; what a killed run logged beyond is taken back, since it is done again.
    """

    def __init__(self, folder: Path, name: str, step: int = 0) -> None:
        self._path = folder / f"{name}.log.jsonl"
        self._take_back(step)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._board = None
        else:
            self._board = SummaryWriter(str(folder / "tensorboard" / name), purge_step=step + 1)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self._board:
            self._board.close()

    def write(self, entry: dict[str, Any]) -> None:
        """Append one line; numbers go to TensorBoard under their keys, at the entry's "step"."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if self._board:
            for key, value in entry.items():
                if key != "step" and isinstance(value, int | float):
                    self._board.add_scalar(key, value, entry["step"])

    def _take_back(self, step: int) -> None:
        """Drop the entries beyond ``step``, and lines that a kill or a full disk cut off."""
        if not self._path.exists():
            return
        lines = self._path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
        write_whole(self._path, "".join(f"{line}\n" for line in lines if _step_of(line) <= step))


def _step_of(line: str) -> float:
    """The step of an entry of a log; infinity where the line is none."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError):
        return math.inf


def percent_printer(what_is_left: str = "") -> Progress:
    """Progress as a line on stderr for each new per cent.

    Args:
        what_is_left: said behind the minutes that are left.
    """
    shown = -1

    def report(phase: str, fraction: float, seconds_left: float | None) -> None:
        nonlocal shown
        if int(100 * fraction) > shown:
            shown = int(100 * fraction)
            left = "" if seconds_left is None else f", {seconds_left / 60:.0f} min left{what_is_left}"
            print(f"{shown} % {phase}{left}", file=sys.stderr, flush=True)

    return report

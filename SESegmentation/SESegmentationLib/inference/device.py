"""Where networks run: a GPU or the cores of the processor.

One batch for each core is faster than one batch shared by all cores: intermediate results then stay in the core's own
cache.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from ..errors import DeviceError
from ..models import ModelCard
from ..networks import build_network
from ..plain_text import first_line

#: more at once would need too much memory
MAX_WORKERS = 8
#: voxels along each side of what a network is tried on
_TRIED = 16


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; for "auto" the first of CUDA, Apple's MPS and the CPU that is available.

    Args:
        name: "auto", "cpu", "mps", "cuda" or, with several GPUs, "cuda:1" and so on; case does not matter.

    Raises:
        DeviceError: no such device, or it does not work.
    """
    name = name.strip().lower()
    if name == "auto":
        return torch.device("cuda" if _works("cuda") else "mps" if _works("mps") else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise DeviceError(f"There is no kind of device called {name!r}.", "Choose auto, cpu, cuda or mps.")
    if not _works(name):
        raise DeviceError(_why_not(device), "Choose the device auto or cpu.")
    return device


def device_for(card: ModelCard, name: str = "auto") -> torch.device:
    """The device of that name, see :func:`choose_device`, on which the networks of ``card`` run.

    PyTorch has not every layer for Apple's GPU: those in 3-D are there since version 2.9, and Slicer on macOS gets 2.2.

    Raises:
        DeviceError: no such device; one that is named does not run them.
    """
    device = choose_device(name)
    if device.type != "mps" or (lack := _unsupported(card, device)) is None:
        return device
    if name.strip().lower() == "auto":
        return torch.device("cpu")
    raise DeviceError(
        f"PyTorch {torch.__version__} cannot run the model {card.name} on Apple's GPU (mps): {lack}.",
        "Choose the device auto or cpu, or install a newer PyTorch.",
    )


def _unsupported(card: ModelCard, device: torch.device) -> str | None:
    """Why a network of ``card`` cannot run on a device; None if all can."""
    try:
        for view in card.views:
            network = build_network(card.networks[view.network]).eval().to(device)
            slices = (1, 1, _TRIED) if view.volumetric else (1, view.thickness)
            with torch.inference_mode():
                network(torch.zeros(*slices, _TRIED, _TRIED, device=device)).cpu()
    except RuntimeError as error:  # NotImplementedError among them
        return first_line(str(error))
    return None


def fast_precision(device: torch.device) -> torch.dtype:
    """The type in which networks run fastest there without losing accuracy: bfloat16 where the hardware has it."""
    if device.type == "cuda":
        emulated = torch.cuda.get_device_capability(device) < (8, 0)
        return torch.float32 if emulated else torch.bfloat16
    if device.type == "cpu":
        has_bfloat16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        return torch.bfloat16 if has_bfloat16() else torch.float32
    return torch.float32


def _works(name: str) -> bool:
    """Whether a tensor can be made there: drivers can be present but unusable."""
    try:
        torch.ones(1, device=name).add_(1).item()
    except (RuntimeError, AssertionError, NotImplementedError):
        return False
    return True


def _why_not(device: torch.device) -> str:
    if device.type == "mps":
        return "Apple's GPU (mps) cannot be used: this computer or this PyTorch has no support for it."
    if torch.version.cuda is None:
        return f"The GPU ({device}) cannot be used: this PyTorch was built for the CPU only."
    if not torch.cuda.is_available():
        return f"The GPU ({device}) cannot be used: no NVIDIA GPU or no working driver was found."
    return f"The GPU {device} cannot be used: there are {torch.cuda.device_count()}, counted from 0, or it is in use."


@contextlib.contextmanager
def compute_pool(workers: int, cores: int = 1) -> Iterator[ThreadPoolExecutor]:
    """Threads in each of which PyTorch uses ``cores`` cores; tasks that were not begun are dropped at the end.

    PyTorch's modes, such as inference mode, are not inherited by these threads.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(cores,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # some of a thread's settings apply to all threads


@contextlib.contextmanager
def map_on_cores(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """A ``map`` that makes ``workers`` calls at once, which share the cores; one after the other if that is 1."""
    if workers == 1:
        yield map
        return
    with compute_pool(workers, max(1, torch.get_num_threads() // workers)) as pool:
        yield pool.map

"""From a normalised volume to fused class probabilities: the networks, slice by slice, in every view.

Arrays are (k, j, i) on a model grid, see :mod:`.views`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError, OutOfMemoryError
from ..memory import MEMORY_REMEDY, is_out_of_memory, require_memory
from ..models import ModelCard, View
from ..networks.batch_norms import fold_batch_norms
from ..networks.se import recorded_gates, spatial_gate
from .device import MAX_WORKERS, fast_precision, map_on_cores
from .smoothing import channel_sigmas, smooth
from .views import (
    PLANE_AXIS,
    across_axis,
    add_along,
    along,
    as_slices,
    fastest_order,
    logits_of,
    network_input,
    other_sides,
    restrict_fusion,
    slab,
    split_merged,
    stack,
)

#: pixels of a batch of slices, by type of device: enough to be fast, few enough to fit into memory; on a CPU few enough
#: for a core's caches, as every core has a batch of its own
BATCH_PIXELS = {"cpu": 80_000, "mps": 1_500_000, "cuda": 6_000_000}
#: the same where memory is scarce
LOW_MEMORY_PIXELS = 35_000

#: the output for a batch of slices
Output = TypeVar("Output")


@dataclass(frozen=True)
class Prediction:
    """The output of the views for a volume.

    Attributes:
        probabilities: (C, k, j, i) half precision, background first, adding up to 1, fused over the views; a structure
            that some views overlook is fused over the others alone. Smoothed as the card says, see :mod:`.smoothing`.
        votes: each view's own most probable channel, (k, j, i) uint8 (int16 for more than 256 channels).
        unsmoothed: the probabilities before smoothing, if requested.
    """

    probabilities: Tensor
    votes: list[Tensor]
    unsmoothed: Tensor | None = None


class Predictor:
    """The networks of a model, ready on a device.

    Args:
        card: views, labels and merged pairs.
        networks: by name, in evaluation mode; modified in place (batch norms folded, moved, precision lowered).
        device: where they run.

    Raises:
        ModelError: no view tells left from right, or a network does not suit a view.
    """

    def __init__(self, card: ModelCard, networks: dict[str, nn.Module], device: torch.device) -> None:
        _check_views(card, networks)
        self.device = device
        self._card = card
        #: views that cannot tell left from right come last: they need the others' output
        self.views = sorted(card.views, key=lambda view: view.merged)
        self._precision = fast_precision(device)
        self._dropout_active = False
        self._networks = {
            name: fold_batch_norms(network).to(  # type: ignore[call-overload]  # PyTorch's stubs lack memory_format
                device, self._precision, memory_format=fastest_order(_in_3d(network), device)
            )
            for name, network in networks.items()
        }
        self._pairs = card.channel_pairs
        self._sigmas = channel_sigmas(card)
        self._other_side = other_sides(self._pairs, len(card.labels) + 1)
        #: C; what networks give beyond the background and the labels is not used
        self.classes = len(card.labels) + 1

    def best_view(self) -> View:
        """The view with the largest weight among those that tell left from right, without mirroring, for speed."""
        best = max((view for view in self.views if not view.merged), key=lambda view: view.weight)
        return replace(best, mirrored=False)

    @property
    def has_dropout(self) -> bool:
        """Whether networks drop channels in training."""
        return any(layer.p > 0 for layer in self._dropouts())

    def _dropouts(self) -> list[nn.Dropout | nn.Dropout2d | nn.Dropout3d]:
        kinds = (nn.Dropout, nn.Dropout2d, nn.Dropout3d)
        return [layer for network in self._networks.values() for layer in network.modules() if isinstance(layer, kinds)]

    @contextlib.contextmanager
    def dropout(self, seed: int) -> Iterator[None]:
        """Let the networks drop channels as in training: Monte Carlo dropout."""
        layers = self._dropouts()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            try:
                for layer in layers:
                    layer.train()
                self._dropout_active = True
                yield
            finally:
                self._dropout_active = False
                for layer in layers:
                    layer.eval()

    @torch.inference_mode()
    def predict(
        self,
        volume: np.ndarray,
        views: Sequence[View],
        low_memory: bool = False,
        report: Callable[[View, float], None] = lambda view, fraction: None,
        keep_unsmoothed: bool = False,
    ) -> Prediction:
        """Segment ``volume`` in ``views`` and fuse their probabilities.

        Args:
            volume: (k, j, i) float32, normalised.
            views: some of ``self.views`` in their order; merged ones only after one that is not.
            low_memory: small batches, and the fused probabilities in main memory.
            report: called with the view and the fraction of its slices done, after each batch; may raise to stop.
            keep_unsmoothed: also return the probabilities before smoothing.

        Raises:
            OutOfMemoryError: not even single slices fit.
        """
        total, votes = self._fused(volume, views, low_memory, report)
        for finding, channels in restrict_fusion(self._card, views, votes).items():
            some = [views[position] for position in finding]
            # their progress was reported before
            restricted, _ = self._fused(volume, some, low_memory, lambda view, fraction: report(view, 1.0))
            where = torch.zeros_like(votes[0], dtype=torch.bool)
            for position, channel in itertools.product(finding, channels):
                where |= votes[position] == channel
            total[:, where] = restricted[:, where]
        unsmoothed = total.clone() if keep_unsmoothed else None
        smooth(total, votes, self._sigmas, self._card.spacing)
        return Prediction(total, votes, unsmoothed)

    def _fused(
        self, volume: np.ndarray, views: Sequence[View], low_memory: bool, report: Callable[[View, float], None]
    ) -> tuple[Tensor, list[Tensor]]:
        """The weighted mean of the probabilities of ``views``, and the votes of each."""
        on_cpu = low_memory or self.device.type == "cpu"
        if on_cpu:
            require_memory(volume.size * (2 * self.classes + 8) / 1e9)
        store = torch.device("cpu") if on_cpu else self.device
        image = torch.from_numpy(np.ascontiguousarray(volume)).to(self.device, self._precision)
        # channels last: a network's output for a slice then lies together in memory, whatever its plane
        total = torch.zeros((*volume.shape, self.classes), dtype=torch.float16, device=store).permute(3, 0, 1, 2)
        whole = sum(view.weight for view in views)
        votes = [self._predict_view(view, image, total, view.weight / whole, low_memory, report) for view in views]
        return total, votes

    def _limit(self, low_memory: bool) -> int:
        return LOW_MEMORY_PIXELS if low_memory else BATCH_PIXELS[self.device.type]

    def gated(self, views: Sequence[View]) -> list[View]:
        """Those of ``views`` whose networks have a spatial gate in their last decoder."""
        return [view for view in views if spatial_gate(self._networks[view.network]) is not None]

    def gates(
        self,
        volume: np.ndarray,
        views: Sequence[View],
        low_memory: bool = False,
        report: Callable[[View, float], None] = lambda view, fraction: None,
    ) -> np.ndarray:
        """The spatial gates of the last decoders, mean over ``views``: (k, j, i) float32, 0 (shut) to 1 (open).

        Args:
            volume, low_memory, report: as for :meth:`predict`.
            views: some of those that :meth:`gated` returns.
        """
        limit = self._limit(low_memory)
        whole = sum(view.weight for view in views)
        require_memory(volume.size * 8 / 1e9)
        with torch.inference_mode():
            image = torch.from_numpy(np.ascontiguousarray(volume)).to(self.device, self._precision)
            total = torch.zeros(volume.shape, dtype=torch.float32)
            for view in views:

                def evaluate(which: slice, view: View = view) -> Tensor:
                    return self._gates(view, image, which).cpu()

                def keep(which: slice, gates: Tensor, view: View = view) -> None:
                    along(total, view.plane, which).add_(gates, alpha=view.weight / whole)

                self._in_batches(view, image, limit, report, evaluate, keep)
        return total.numpy()

    def _gates(self, view: View, image: Tensor, which: slice) -> Tensor:
        """(N, H, W) float32 for the slices ``which``; of a mirrored view the mean with the mirror image's."""
        slabs = self._slabs(view, image, which)
        gates = self._gate(view, slabs)
        if not view.mirrored:
            return gates
        across = across_axis(view.plane)
        mirrored = self._gate(view, slabs, mirror=True)
        return (gates + (mirrored if across == -3 and not view.volumetric else mirrored.flip(across))) / 2

    def _gate(self, view: View, slabs: Tensor, mirror: bool = False) -> Tensor:
        """The spatial gate of a view's network for ``slabs``, or for their mirror images: (N, H, W) float32, 0 to 1."""
        seen, inside = network_input(slabs, view, mirror)
        network = self._networks[view.network]
        gate = spatial_gate(network)
        if gate is None:
            raise ValueError("the network has no spatial gate")
        with recorded_gates(gate) as gates:
            network(seen)
        # the network pads at the ends what it cannot halve often enough
        shown: tuple[EllipsisType | slice, ...] = (..., *(slice(length) for length in seen.shape[2:]))
        return as_slices(gates[0][shown][inside], view.volumetric)[:, 0]

    @staticmethod
    def _slabs(view: View, image: Tensor, which: slice) -> Tensor:
        """The view's input for the slices ``which``; a volumetric one sees all of them, whichever are asked for."""
        return stack(image, view.plane) if view.volumetric else slab(image, view.plane, which, view.thickness)

    def find(self, volume: np.ndarray, step: int) -> np.ndarray:
        """Where there is any structure, in every ``step``-th slice of the best view.

        Args:
            volume: (k, j, i) float32, normalised.

        Returns:
            Mask like ``volume``, without the slices between.
        """
        view = self.best_view()
        axis = PLANE_AXIS[view.plane]
        count = volume.shape[axis]
        first = min(step // 2, count - 1)  # thin slabs have fewer slices than a step
        with torch.inference_mode():
            image = torch.from_numpy(np.ascontiguousarray(volume)).to(self.device, self._precision)

        def evaluate(which: slice) -> Tensor:
            with torch.inference_mode():
                return self._probabilities(view, image, which).argmax(1) > 0

        if view.volumetric:
            return np.moveaxis(evaluate(slice(0, count))[first::step].cpu().numpy(), 0, axis)
        chosen = [slice(n, n + 1) for n in range(first, count, step)]
        with map_on_cores(self._workers()) as map_slices:
            return np.moveaxis(torch.cat(list(map_slices(evaluate, chosen))).cpu().numpy(), 0, axis)

    def _predict_view(
        self,
        view: View,
        image: Tensor,
        total: Tensor,
        weight: float,
        low_memory: bool,
        report: Callable[[View, float], None],
    ) -> Tensor:
        """Add one view to ``total``; returns its own most probable channels, (k, j, i)."""
        votes = torch.empty(total.shape[1:], dtype=torch.uint8 if self.classes <= 256 else torch.int16)
        votes = votes.to(total.device)

        def evaluate(which: slice) -> tuple[Tensor, Tensor]:
            probabilities = self._probabilities(view, image, which).to(total.device)
            if view.merged:
                probabilities = split_merged(probabilities, along(total, view.plane, which), self._pairs)
            return probabilities, probabilities.max(dim=1).indices

        def keep(which: slice, seen: tuple[Tensor, Tensor]) -> None:
            probabilities, winners = seen
            add_along(total, view.plane, which, probabilities, weight)
            along(votes, view.plane, which).copy_(winners)

        self._in_batches(
            view, image, self._limit(low_memory), report, evaluate, keep, 1 if low_memory else self._workers()
        )
        return votes

    def _workers(self) -> int:
        """How many batches are evaluated at once, each on cores of its own."""
        # which channels are dropped depends on the order of the batches
        return 1 if self._dropout_active or self.device.type != "cpu" else min(MAX_WORKERS, torch.get_num_threads())

    def _in_batches(
        self,
        view: View,
        image: Tensor,
        limit: int,
        report: Callable[[View, float], None],
        evaluate: Callable[[slice], Output],
        keep: Callable[[slice, Output], None],
        workers: int = 1,
    ) -> None:
        """Evaluate all slices of a view, ``limit`` pixels at once or fewer if these do not fit, and keep the output.

        Args:
            evaluate: computes the output for some slices; without side effects, as it is repeated with fewer slices if
                memory runs out.
            keep: takes that output, in the order of the slices.
            workers: how many batches are evaluated at once; they share the cores.
        """
        count = image.shape[PLANE_AXIS[view.plane]]
        batch = count if view.volumetric else max(1, min(count, limit // (image.numel() // count)))
        workers = min(workers, -(-count // batch))
        report(view, 0.0)
        start = 0

        def evaluate_inference(which: slice) -> Output:
            with torch.inference_mode():
                return evaluate(which)

        with map_on_cores(workers) as map_parts:
            while start < count:
                parts = [slice(n, min(n + batch, count)) for n in range(start, count, batch)[:workers]]
                try:
                    seen = list(map_parts(evaluate_inference, parts))
                except (MemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error):
                        raise
                    batch = 0 if view.volumetric else batch // 2
                    if batch == 0:
                        what = "The volume" if view.volumetric else "A single slice"
                        where = "graphics card" if self.device.type == "cuda" else "computer"
                        cause = f"{what} does not fit into the memory of the {where}."
                        raise OutOfMemoryError(cause, MEMORY_REMEDY) from error
                    if self.device.type == "cuda":
                        torch.cuda.empty_cache()
                    continue
                for which, found in zip(parts, seen, strict=True):
                    keep(which, found)
                start = parts[-1].stop
                report(view, start / count)

    def _probabilities(self, view: View, image: Tensor, which: slice) -> Tensor:
        """(N, C, H, W) half precision for the slices ``which``; of a mirrored view the mean with the mirror image's."""
        slabs = self._slabs(view, image, which)
        probabilities = self._softmax(view, slabs)
        if view.mirrored:
            probabilities = (probabilities + self._softmax(view, slabs, mirror=True)) / 2
        return probabilities[which] if view.volumetric else probabilities

    def _softmax(self, view: View, slabs: Tensor, mirror: bool = False) -> Tensor:
        """Class probabilities of ``slabs``, or of their mirror images: (N, C, H, W) half precision."""
        logits = logits_of(self._networks[view.network], view, slabs, self._other_side, mirror)
        return torch.softmax(logits.permute(0, 2, 3, 1), dim=-1, dtype=torch.float16).permute(0, 3, 1, 2)


def _in_3d(network: nn.Module) -> bool:
    return getattr(network, "dimensions", 2) == 3


def _check_views(card: ModelCard, networks: dict[str, nn.Module]) -> None:
    remedy = "Correct model.json, or get the model package again from its source."
    if card.views and all(view.merged for view in card.views):
        raise ModelError(f"No view of the model {card.name} tells left from right.", remedy)
    for view in card.views:
        network = networks[view.network]
        classes, thickness = getattr(network, "classes", None), getattr(network, "in_channels", None)
        if _in_3d(network) != view.volumetric:
            raise ModelError(
                f"The {view.plane} view of {card.name} is {'' if view.volumetric else 'not '}volumetric, "
                f"its network has {3 if _in_3d(network) else 2} dimensions.",
                remedy,
            )
        if thickness not in (None, view.thickness):
            raise ModelError(
                f"The {view.plane} view of {card.name} is {view.thickness} slices thick, its network {thickness}.",
                remedy,
            )
        if classes not in (None, len(card.labels) + 1):
            raise ModelError(
                f"The network {view.network!r} of {card.name} has {classes} classes for {len(card.labels)} labels.",
                remedy,
            )

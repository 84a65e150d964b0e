"""The spatial gate (sSE) of a network's last decoder: for each pixel how much of its features goes on.

It is read by a hook for as long as it is asked for; otherwise networks run as if there were none.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

from torch import Tensor, nn

from ..networks.se import ConcurrentSE, SpatialSE


def spatial_gate(network: nn.Module) -> SpatialSE | None:
    """The sSE block, or the sSE branch of the scSE block, of the decoder that runs last; None where it has none."""
    block = getattr(network, "last_se", None)
    if isinstance(block, ConcurrentSE):
        return block.sSE
    return block if isinstance(block, SpatialSE) else None


@contextlib.contextmanager
def recorded_gates(block: SpatialSE) -> Iterator[list[Tensor]]:
    """A list that gets the gates (N, 1, H, W) of each forward pass of ``block``, float32 whatever it runs in.

    Gates that are all but open differ by less than half precision can tell.
    """
    gates: list[Tensor] = []
    exact = copy.deepcopy(block).float()
    hook = block.register_forward_hook(lambda module, inputs, output: gates.append(exact.gate(inputs[0].float())))
    try:
        yield gates
    finally:
        hook.remove()

"""Which parameters of a network are adapted to a patient."""

from __future__ import annotations

from torch import nn

from ..errors import UsageError
from ..networks.se import ChannelSE, SpatialSE

#: the sets that can be adapted
PARAMETER_SETS = ("se", "classifier", "all")


def adapted_parameters(network: nn.Module, which: str) -> dict[str, nn.Parameter]:
    """The parameters of a set, by name.

    Args:
        network: any of :mod:`SESegmentationLib.networks`; what gives its logits is called ``classifier``.
        which: "se" for the squeeze & excitation blocks and the classifier's bias, "classifier", or "all".

    Raises:
        UsageError: there is no such set, or the network has none of its parameters.
    """
    if which not in PARAMETER_SETS:
        raise UsageError(f"There is no set of parameters {which!r}.", f"Choose one of {', '.join(PARAMETER_SETS)}.")
    blocks = [name + "." for name, module in network.named_modules() if isinstance(module, ChannelSE | SpatialSE)]
    if which == "se" and not blocks:
        raise UsageError(
            "The network has no squeeze & excitation blocks to recalibrate.", "Adapt its classifier or all weights."
        )
    chosen = {
        "se": lambda name: name.startswith(tuple(blocks)) or (name.startswith("classifier.") and name.endswith("bias")),
        "classifier": lambda name: name.startswith("classifier."),
        "all": lambda name: True,
    }[which]
    return {name: parameter for name, parameter in network.named_parameters() if chosen(name)}

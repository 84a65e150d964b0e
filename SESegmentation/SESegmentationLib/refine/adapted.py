"""Parameters adapted to a patient: which they are, and the small file beside the scene that keeps them.

The file is safetensors: the adapted tensors, named as in the model's weights (``network.parameter``), single
precision. Its metadata say which weights they belong to and how they came about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from ..adapted_notes import FORMAT, AdaptedNotes
from ..errors import InputError, ModelError, UsageError
from ..files import write_whole
from ..models import ModelPackage
from ..networks.se import ChannelSE, SpatialSE
from ..networks.weights import load_networks

#: the sets that can be adapted
PARAMETER_SETS = ("se", "classifier", "all")
_REMEDY = "Refine again with this model, or give the file that was written with it."


def parameters_to_adapt(network: nn.Module, which: str) -> dict[str, nn.Parameter]:
    """The parameters of a set, by name.

    Args:
        network: any of :mod:`SESegmentationLib.networks`; the layer that outputs its logits is called ``classifier``.
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


@dataclass(frozen=True)
class AdaptedParameters:
    """What recalibration changed.

    Attributes:
        tensors: by ``network.parameter``.
        weights_sha256: of the model's weights, some of which they replace.
        notes: how they were learnt, by heading; shown to users.
    """

    tensors: dict[str, Tensor]
    weights_sha256: str
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many numbers were adapted."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all; UsageError or OutputError where that fails."""
        write_whole(Path(path), self.to_bytes())

    def to_bytes(self) -> bytes:
        """The content of the file that :meth:`save` writes."""
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        return save(tensors, {"format": FORMAT, "weights_sha256": self.weights_sha256, **self.notes})

    @classmethod
    def load(cls, path: str | Path) -> AdaptedParameters:
        """Read the file.

        Raises:
            InputError: it cannot be read, or is another kind of file.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"The adapted parameters {path} cannot be read: {error.strerror}.", _REMEDY) from error
        return cls.from_bytes(content, str(path))

    @classmethod
    def from_bytes(cls, content: bytes, source: str = "the segmentation") -> AdaptedParameters:
        """Read the output of :meth:`to_bytes`; messages name ``source``.

        Raises:
            InputError: it cannot be read, or is another kind of file.
        """
        try:
            tensors = load(content)
        except SafetensorError as error:
            raise InputError(f"The adapted parameters of {source} cannot be read: {error}.", _REMEDY) from error
        notes = AdaptedNotes.read(content)
        if notes is None or not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise InputError(f"{source} holds no adapted parameters.", _REMEDY)
        return cls(tensors, notes.weights_sha256, notes.notes)

    def networks(self, package: ModelPackage) -> dict[str, nn.Module]:
        """The networks of a package with these parameters, as :func:`.load_networks` gives them.

        Raises:
            InputError: the parameters belong to other weights.
            ModelError: from :func:`.load_networks`.
        """
        if self.weights_sha256 != package.card.weights_sha256:
            raise InputError(
                f"The adapted parameters belong to other weights than those of {package.card.name}.", _REMEDY
            )
        networks = load_networks(package)
        replace_parameters(networks, self.tensors)
        return networks


def replace_parameters(networks: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Replace parameters, named ``network.parameter``; ModelError where there is none of that name and shape."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            network, _, parameter = name.partition(".")
            known = dict(networks[network].named_parameters()) if network in networks else {}
            if parameter not in known or known[parameter].shape != tensor.shape:
                raise ModelError(f"The adapted parameter {name} does not fit the model.", _REMEDY)
            known[parameter].copy_(tensor)

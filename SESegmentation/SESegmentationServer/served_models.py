"""The models that are here: a server's clients name one of them, and never a path."""

from __future__ import annotations

import time

from SESegmentationLib.models import ModelCard, ModelPackage, list_models
from SESegmentationLib.models.card import CARD_NAME

#: time in s after which the list is read again, so that new models are found
SECONDS = 5.0


class ServedModels:
    """Reads the list anew after some seconds, and at once where files of a model were removed or changed."""

    def __init__(self) -> None:
        self._packages: dict[str, ModelPackage] = {}
        self._stamps: dict[str, tuple[int, ...]] = {}
        self._until = 0.0

    def packages(self) -> dict[str, ModelPackage]:
        """The packages by name."""
        if time.monotonic() > self._until or _stamps(self._packages) != self._stamps:
            self._packages = {package.card.name: package for package in list_models()}
            self._stamps = _stamps(self._packages)
            self._until = time.monotonic() + SECONDS
        return self._packages

    def cards(self) -> dict[str, ModelCard]:
        """Their cards by name."""
        return {name: package.card for name, package in self.packages().items()}


def _stamps(packages: dict[str, ModelPackage]) -> dict[str, tuple[int, ...]]:
    """Of each package, by name, when card and weights were changed; nothing of one that is not whole."""
    stamps = {}
    for name, package in packages.items():
        try:
            files = [path.stat() for path in (package.path / CARD_NAME, package.weights_path)]
        except OSError:
            continue
        stamps[name] = tuple(number for file in files for number in (file.st_mtime_ns, file.st_size))
    return stamps

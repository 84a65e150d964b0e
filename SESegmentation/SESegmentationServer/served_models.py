"""The models that are here: a server's clients name one of them, and never a path."""

from __future__ import annotations

import time

from SESegmentationLib.models import ModelCard, ModelPackage, list_models

#: time in s after which the list is read again
SECONDS = 5.0


class ServedModels:
    """Reads the list anew after some seconds."""

    def __init__(self) -> None:
        self._packages: dict[str, ModelPackage] = {}
        self._until = 0.0

    def packages(self) -> dict[str, ModelPackage]:
        """The packages by name."""
        if time.monotonic() > self._until:
            self._packages = {package.card.name: package for package in list_models()}
            self._until = time.monotonic() + SECONDS
        return self._packages

    def cards(self) -> dict[str, ModelCard]:
        """Their cards by name."""
        return {name: package.card for name, package in self.packages().items()}

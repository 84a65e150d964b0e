"""What is remembered on this computer rather than in a scene: licences accepted, speed, the folder of wheels."""

from __future__ import annotations

from typing import Any, Protocol

from slicer.i18n import tr as _

from ..errors import UsageError
from ..models import ModelCard

_GROUP = "SESegmentation"


class Settings(Protocol):
    """The part of ``qt.QSettings`` that is used; values come back as text."""

    def value(self, key: str, default: Any = None) -> Any:
        """The value kept, or the default."""

    def setValue(self, key: str, value: Any) -> None:
        """Keep a value."""


class ComputerMemory:
    """Reads and writes the settings of this user on this computer.

    Args:
        settings: where they are kept, ``qt.QSettings()`` in Slicer.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def has_accepted(self, card: ModelCard) -> bool:
        """Whether the user has accepted these terms for this model. Free licences ask for no consent."""
        accepted = self._settings.value(_key("AcceptedLicence", card.name))
        return not card.licence.asks_consent or accepted == card.licence.spdx

    def require_accepted(self, card: ModelCard) -> None:
        """Raise UsageError unless the user has accepted the terms of this model."""
        if not self.has_accepted(card):
            raise UsageError(
                _("The terms of {card} are not accepted: {name} ({spdx}).").format(
                    card=card.title, name=card.licence.name, spdx=card.licence.spdx
                ),
                _("Choose the model, read its licence in its card and tick the box below it; or choose another one."),
            )

    def accept(self, card: ModelCard, accepted: bool) -> None:
        """Remember that the user accepts the terms of this model, or no longer does."""
        self._settings.setValue(_key("AcceptedLicence", card.name), card.licence.spdx if accepted else "")

    def expected_seconds(self, model: str, device: str, fast: bool, volume_ml: float) -> float | None:
        """Expected time of a segmentation in s, by the last one on this computer; None before the first.

        Args:
            volume_ml: the part of space to be segmented: time grows with it, as the model's grid is the same for all.
        """
        try:
            return float(self._settings.value(_speed_key(model, device, fast))) * volume_ml
        except (TypeError, ValueError):
            return None

    def remember_seconds(self, model: str, device: str, fast: bool, volume_ml: float, seconds: float) -> None:
        """Remember how long a segmentation took."""
        if volume_ml > 0:
            self._settings.setValue(_speed_key(model, device, fast), repr(seconds / volume_ml))

    @property
    def wheels_folder(self) -> str:
        """Folder of wheels to install from instead of the internet; empty where there is none."""
        return str(self._settings.value(_key("WheelsFolder")) or "")

    @wheels_folder.setter
    def wheels_folder(self, folder: str) -> None:
        self._settings.setValue(_key("WheelsFolder"), folder)


def _key(*parts: str) -> str:
    return "/".join((_GROUP, *parts))


def _speed_key(model: str, device: str, fast: bool) -> str:
    return _key("SecondsPerMl", model, device, "fast" if fast else "full")

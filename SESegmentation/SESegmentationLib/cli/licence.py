"""Consent to the terms of weights that are not free for every use."""

from __future__ import annotations

from ..errors import UsageError
from ..models import ModelCard

OPTION = "--accept-licence"


def require_consent(card: ModelCard, accepted: bool) -> None:
    """Raise UsageError where the terms of a model are not free and not accepted."""
    licence = card.licence
    if accepted or not licence.asks_consent:
        return
    where = f" at {licence.url}" if licence.url else ""
    raise UsageError(
        f"The weights of {card.name} may not be used for every purpose: {licence.name} ({licence.spdx}).",
        f"Read these terms{where}; if you accept them, add {OPTION}.",
    )

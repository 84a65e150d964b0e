"""A model card as rich text for the panel."""

from __future__ import annotations

import html

from slicer.i18n import tr as _

from ..models import DamagedModel, ModelCard
from .wording import about, structure_list


def card_html(card: ModelCard, expected_seconds: float | None) -> str:
    """What the model finds, how well, under which licence and in what time.

    Args:
        expected_seconds: on this computer for the volume that is chosen, in s; None where that is not known yet.
    """
    lines = [f"<b>{html.escape(card.title)}</b> {html.escape(card.version)}", html.escape(card.summary)]
    lines.append(_line(_("Finds"), structure_list([label.name for label in card.labels])))
    lines.append(_line(_("Accuracy"), _accuracy(card)))
    limits = " ".join(map(str, card.input.get("limits", [])))
    if limits:
        lines.append(_line(_("Limits"), limits))
    lines.append(f"<b>{html.escape(_('Licence'))}:</b> {_licence(card)}")
    if expected_seconds is None:
        lines.append(_line(_("Time on this computer"), _("known after the first segmentation")))
    else:
        lines.append(_line(_("Time on this computer"), about(expected_seconds)))
    return "<br>".join(lines)


def damage_html(model: DamagedModel) -> str:
    """Why a model cannot be used, and what to do."""
    return f"<b>{html.escape(model.error.cause)}</b><br>{html.escape(model.error.remedy)}"


def _line(name: str, text: str) -> str:
    return f"<b>{html.escape(name)}:</b> {html.escape(text)}"


def _accuracy(card: ModelCard) -> str:
    accuracy = card.accuracy
    if "mean_dice" not in accuracy:
        return _("not measured")
    text = _("mean Dice {dice:.2f} over {cases} cases that it had not seen").format(
        dice=accuracy["mean_dice"], cases=accuracy.get("cases", 0)
    )
    return f"{text} ({accuracy['data']})" if accuracy.get("data") else text


def _licence(card: ModelCard) -> str:
    licence = card.licence
    name = html.escape(licence.name)
    if licence.url.startswith(("https://", "http://")):
        name = f'<a href="{html.escape(licence.url)}">{name}</a>'
    return f"{name}. {html.escape(licence.attribution)}".strip()

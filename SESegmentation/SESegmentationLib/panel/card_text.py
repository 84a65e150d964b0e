"""A model card as rich text for the panel."""

from __future__ import annotations

import html

from slicer.i18n import tr as _

from ..models import DamagedModel, ModelCard
from ..models.labels import split_side
from .wording import about, structure_list

#: characters of the names of structures in the summary: one line of a narrow panel
_SUMMARY_LENGTH = 44


def summary_html(card: ModelCard, expected_seconds: float | None) -> str:
    """Two lines: what the model finds; how well, and in what time.

    Args:
        expected_seconds: on this computer for the volume that is chosen, in s; None where that is not known yet.
    """
    measured = _("accuracy not measured")
    if "mean_dice" in card.accuracy:
        measured = _("mean Dice {dice:.2f}").format(dice=card.accuracy["mean_dice"])
    seconds = _("time known after the first segmentation")
    if expected_seconds is not None:
        seconds = _("{time} here").format(time=about(expected_seconds))
    found = _few([label.name for label in card.labels])
    return f"{found}<br>{html.escape(f'{measured}; {seconds}')}"


def card_html(card: ModelCard) -> str:
    """All that the model finds, how well and under which licence."""
    lines = [f"<b>{html.escape(card.title)}</b> {html.escape(card.version)}", html.escape(card.summary)]
    lines.append(_line(_("Finds"), structure_list([label.name for label in card.labels])))
    lines.append(_line(_("Accuracy"), _accuracy(card)))
    limits = " ".join(map(str, card.input.get("limits", [])))
    if limits:
        lines.append(_line(_("Limits"), limits))
    lines.append(f"<b>{html.escape(_('Licence'))}:</b> {_licence(card)}")
    return "<br>".join(lines)


def damage_html(model: DamagedModel) -> str:
    """Why a model cannot be used, and what to do."""
    return f"<b>{html.escape(model.error.cause)}</b><br>{html.escape(model.error.remedy)}"


def _line(name: str, text: str) -> str:
    return f"<b>{html.escape(name)}:</b> {html.escape(text)}"


def _few(names: list[str]) -> str:
    """All names, or how many there are and as many as there is room for, those of pairs without their sides."""
    text = structure_list(names)
    if len(text) <= _SUMMARY_LENGTH:
        return _line(_("Finds"), text)
    words = list(dict.fromkeys(split_side(name)[1] for name in names))
    while len(words) > 1 and len(", ".join(words)) > _SUMMARY_LENGTH:
        words.pop()
    return _line(_("{count} structures").format(count=len(names)), f"{', '.join(words)}, \u2026")


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

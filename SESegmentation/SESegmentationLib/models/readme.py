"""The model card rendered as README.md, which says nothing about what the card leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from .card import ModelCard, View
from .sections import REPEATABILITY_COEFFICIENT


def render_readme(card: ModelCard) -> str:
    """The model card in Markdown."""
    parts = [
        f"# {card.title}",
        f"`{card.name}` {card.version}. {card.summary}",
        _facts(card),
        "## Accuracy\n\n" + _accuracy(card),
        *_expectation(card.calibration),
        *_repeatability(card.repeatability),
    ]
    if card.training:
        parts.append("## Training\n\n" + _training(card.training))
    limits = card.input.get("limits", [])
    if limits:
        parts.append("## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits))
    licence = card.licence
    name = f"[{licence.name}]({licence.url})" if licence.url else licence.name
    parts.append(f"## Licence\n\n{name}. {licence.attribution}".strip())
    return "\n\n".join(parts) + "\n"


def _facts(card: ModelCard) -> str:
    planes = [view.plane for view in card.views]
    names = [view.plane if planes.count(view.plane) == 1 else f"{view.plane} {view.network!r}" for view in card.views]
    views = ", ".join(
        f"{name} ({_seen(view)}, weight {view.weight:g})" for name, view in zip(names, card.views, strict=True)
    )
    spacing = " x ".join(f"{size:g}" for size in card.spacing)
    rows = {
        "Input": f"{card.modality}, {card.contrast}".rstrip(", "),
        "Grid": f"{spacing} mm",
        "Views": views,
        "Structures": str(len(card.labels))
        + "".join(describe(card) for describe in (_dividing_plane, _excluded_views, _smoothed, _fluid)),
        "Weights": f"`{card.weights_file}`, SHA-256 `{card.weights_sha256}`",
    }
    return _table(("", ""), [(f"**{key}**", value) for key, value in rows.items()])


def _dividing_plane(card: ModelCard) -> str:
    """Which structures meet at a plane."""
    if card.dividing_plane is None:
        return ""
    names = " and ".join(card.label(value).name for value in card.dividing_plane.values)
    return f"; {names} meet at one {card.dividing_plane.plane} slice"


def _excluded_views(card: ModelCard) -> str:
    """When a view is excluded from the fusion for a structure."""
    share = f"less than {100 * card.missed_below:g} % of what another view finds of it"
    return f"; a view is left out for one of which it finds {share}" if card.missed_below else ""


def _smoothed(card: ModelCard) -> str:
    """How many structures are smoothed, and how much."""
    parts = [f"{len(entry['values'])} by {entry['sigma_mm']:g} mm" for entry in card.cleanup.get("smoothing", [])]
    return f"; probabilities are smoothed, of {', of '.join(parts)} (standard deviation)" if parts else ""


def _fluid(card: ModelCard) -> str:
    """Which structures end where the image shows fluid."""
    count = len(card.cleanup.get("fluid", {}).get("values", []))
    return f"; {count} ventricles end where the image shows that the fluid does" if count else ""


def _seen(view: View) -> str:
    """What a view's network sees at once."""
    return "all slices" if view.volumetric else f"{view.thickness} slice{'s' if view.thickness > 1 else ''}"


def _accuracy(card: ModelCard) -> str:
    accuracy = card.accuracy
    if not accuracy:
        return "Not measured yet."
    rows, apart = [], accuracy.get("not_in_mean", [])
    for label in card.labels:
        entry = accuracy.get("labels", {}).get(str(label.value))
        if entry:
            name = f"{label.name} (not in the mean)" if label.value in apart else label.name
            rows.append((name, *(_figure(entry.get(key)) for key in ("dice", "hausdorff95_mm", "surface_mm"))))
    header = ("Structure", "Dice", "95 % Hausdorff (mm)", "Mean surface distance (mm)")
    parts = []
    if cases := accuracy.get("cases"):
        spread = ", mean ± standard deviation" if cases > 1 else ""
        kept_out = f"{cases} case{'s' * (cases > 1)} kept out of the training{spread}."
        parts.append(f"{accuracy.get('data', '')}: {kept_out}".lstrip(": "))
    if rows:
        parts.append(_table(header, rows))
    if "mean_dice" in accuracy:
        parts.append(f"Mean Dice over the structures: **{accuracy['mean_dice']:.3f}**.")
    return "\n\n".join([*parts, *_command(accuracy)])


def _expectation(calibration: Mapping[str, Any]) -> list[str]:
    """What the Dice that results are expected to have rests on; nothing where there is none."""
    if not calibration:
        return []
    known = f", as it was on {calibration['data']}" if "data" in calibration else ""
    text = f"Results tell the Dice to be expected of each structure{known}."
    return ["\n\n".join([f"## Expected Dice\n\n{text}", *_command(calibration)])]


def _repeatability(repeatability: Mapping[str, Any]) -> list[str]:
    """From what change on volumes are known to differ; nothing where it was not measured."""
    deviations = sorted(repeatability.get("within_scan_sd", {}).values())
    if not deviations:
        return []
    places = (deviations[0], median(deviations), deviations[-1])
    least, middle, most = (REPEATABILITY_COEFFICIENT * 100 * each for each in places)
    known = f" Measured on {repeatability['data']}." if "data" in repeatability else ""
    text = (
        f"The least change of a volume that exceeds noise: {middle:.1f} % (median over the structures; {least:.1f} to "
        f"{most:.1f} %), from {repeatability.get('pairs', 0)} pairs of scans.{known}"
    )
    return ["\n\n".join([f"## Follow-up\n\n{text}", *_command(repeatability)])]


def _command(figures: Mapping[str, Any]) -> list[str]:
    """What was called to measure ``figures``, where they tell."""
    return [f"Measured with `{figures['command']}`."] if "command" in figures else []


def _figure(entry: Mapping[str, float] | None) -> str:
    if not entry:
        return "-"
    digits = 3 if entry["mean"] <= 1 else 2
    return f"{entry['mean']:.{digits}f}" + (f" ± {entry['std']:.{digits}f}" if entry["n"] > 1 else "")


def _training(training: Mapping[str, Any]) -> str:
    rows = [(f"**{key.replace('_', ' ')}**", _plain(value)) for key, value in training.items() if key != "test_cases"]
    return _table(("", ""), rows)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(entry) for entry in value)
    return str(value)


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)

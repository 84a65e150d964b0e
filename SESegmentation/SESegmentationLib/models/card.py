"""The model card, ``model.json``: all that is known of a model, as data."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..files.json_files import DEEPEST, REMEDY, Fields, parse_json, read_bytes, without_nulls
from . import sections
from .labels import Label
from .licence import Licence
from .sections import PLANES, View

#: version of the card's format that this code writes and the newest that it reads
FORMAT = 1
CARD_NAME = "model.json"
#: kind of input of models that take slices one by one
SLICES = "slices"
README_NAME = "README.md"
_KEYS = """format name title version summary modality contrast spacing orientation intensity networks views labels
merged_pairs dividing_plane missed_below intracranial_error margin_mm input cleanup pipeline training accuracy
calibration repeatability licence weights"""
#: largest numbers of labels, views and networks
MOST_LABELS, MOST_VIEWS, MOST_NETWORKS = 255, 32, 32
#: values, lists and objects in a whole card
MOST_ENTRIES = 200_000
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_SECTIONS = {
    "intensity": sections.check_intensity,
    "input": sections.check_input,
    "cleanup": sections.check_cleanup,
    "pipeline": sections.check_pipeline,
    "training": sections.check_training,
    "accuracy": sections.check_accuracy,
    "calibration": sections.check_calibration,
    "repeatability": sections.check_repeatability,
}
#: cache of cards by the content of their files, as each job looks for its model among all installed ones
_checked_cards: dict[bytes, ModelCard] = {}
_MOST_CHECKED = 64


@dataclass(frozen=True)
class DividingPlane:
    """Two structures that by definition meet at a plane: each of its slices holds the one or the other.

    Attributes:
        plane: one of ``PLANES``.
        values: of the label in the slices of higher numbers (right, anterior or superior), then of the other.
    """

    plane: str
    values: tuple[int, int]

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> DividingPlane:
        """Read the card's entry; ModelError where it is damaged."""
        fields = Fields(entry, "dividing_plane")
        fields.only("plane", "values")
        return cls(fields.text("plane", choices=PLANES), fields.numbers("values", 2, whole=True, low=1))

    def to_dict(self) -> dict[str, Any]:
        """The entry as it stands in model.json."""
        return {"plane": self.plane, "values": list(self.values)}


@dataclass(frozen=True)
class ModelCard:
    """Everything about a model except its weights.

    Attributes:
        name: short name for the command line, lower case, for example "hippocampus-t1".
        title: name that is shown to users.
        version: version of the model, for example "1.0.0".
        summary: one sentence.
        modality: DICOM modality, "MR" or "CT".
        contrast: for example "T1".
        spacing: voxel size of the model's grid in mm, along right-left, posterior-anterior and inferior-superior.
        orientation: axes of the model's grid; "RAS" is the only one.
        intensity: recipe for the intensities, see ``inference.intensity``.
        networks: descriptions for ``networks.build_network``, by name; output channel c is the c-th label, 0 the
            background.
        views: planes and their networks.
        labels: structures, in the order of the networks' output channels 1, 2, ...
        merged_pairs: (left value, right value) of labels that views with ``merged`` cannot tell apart.
        dividing_plane: labels that meet at a plane, or None.
        missed_below: share of a structure's volume in another view below which a view overlooks it and is left out
            of its fusion, see ``inference.views``; 0 where all views always count.
        intracranial_error: of models that find all that lies inside the skull, the relative error (root mean square) of
            its volume; 0 if the model does not give it.
        margin_mm: margin in mm kept round the foreground or region when cropping.
        input: what the model expects: "kind", "extent_mm", "needs_stripping".
        cleanup: what is smoothed, see ``inference.smoothing``, which ventricles end where the fluid does, see
            ``inference.ventricle_wall``, what is removed and filled, see ``inference.cleanup``.
        pipeline: cascade of another model that locates the target, or None.
        training: what it was trained on and how.
        accuracy: measured accuracy.
        calibration: what Dice to expect at what confidence, see :func:`.sections.expected_dice`.
        repeatability: how far volumes differ between scans of unchanged patients, see
            :mod:`SESegmentationExport.comparison`.
        licence: terms of use of the weights.
        weights_file: file name of the weights beside model.json.
        weights_sha256: their SHA-256, 64 hexadecimal digits.
    """

    name: str
    title: str
    version: str
    summary: str
    modality: str
    contrast: str
    spacing: tuple[float, float, float]
    intensity: dict[str, Any]
    networks: dict[str, dict[str, Any]]
    views: tuple[View, ...]
    labels: tuple[Label, ...]
    licence: Licence
    weights_file: str
    weights_sha256: str
    orientation: str = "RAS"
    merged_pairs: tuple[tuple[int, int], ...] = ()
    dividing_plane: DividingPlane | None = None
    missed_below: float = 0.0
    intracranial_error: float = 0.0
    margin_mm: float = 0.0
    input: dict[str, Any] = field(default_factory=dict)
    cleanup: dict[str, Any] = field(default_factory=dict)
    pipeline: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    repeatability: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_file(cls, path: str | Path) -> ModelCard:
        """Read ``model.json`` (or the folder that holds it).

        Raises:
            ModelError: unreadable, no JSON, or not a model card.
        """
        path = Path(path) / CARD_NAME if Path(path).is_dir() else Path(path)
        content = _read(path)
        card = _checked_cards.get(content) or cls.from_dict(_object(path, content), path)
        if len(_checked_cards) > _MOST_CHECKED:
            _checked_cards.clear()
        _checked_cards[content] = card
        return card

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any], path: str | Path | None = None) -> ModelCard:
        """Read a card from the object in model.json; ``path`` serves the messages.

        Raises:
            ModelError: something is missing, of another type, contradictory, or of a newer format.
        """
        try:
            _check_entries(entry)
            card = _parse(cls, Fields(entry))
            _check(card)
        except ModelError as error:
            if path is None:
                raise
            raise ModelError(f"{path}: {error.cause}", error.remedy) from None
        return card

    @property
    def input_kind(self) -> str:
        """What the model takes: "head", "crop", ``SLICES`` or something else; empty where the card does not say."""
        return str(self.input.get("kind") or "")

    @property
    def takes_slices(self) -> bool:
        """Whether it takes slices one by one, pixel by pixel, such as pictures."""
        return self.input_kind == SLICES

    @property
    def pixel_mm(self) -> tuple[float, float, float] | None:
        """The spacing in mm that pictures get where the model takes slices, its own; None for a model of volumes."""
        return self.spacing if self.takes_slices else None

    @property
    def channels(self) -> dict[int, int]:
        """The output channel of each label value; channel 0 is background."""
        return {label.value: channel for channel, label in enumerate(self.labels, start=1)}

    @property
    def channel_pairs(self) -> list[tuple[int, int]]:
        """The output channels (left, right) of the merged pairs."""
        channels = self.channels
        return [(channels[left], channels[right]) for left, right in self.merged_pairs]

    def to_dict(self) -> dict[str, Any]:
        """The card as it stands in model.json; ``from_dict(card.to_dict()) == card``."""
        return {
            "format": FORMAT,
            "name": self.name,
            "title": self.title,
            "version": self.version,
            "summary": self.summary,
            "modality": self.modality,
            "contrast": self.contrast,
            "spacing": list(self.spacing),
            "orientation": self.orientation,
            "intensity": self.intensity,
            "networks": self.networks,
            "views": [view.to_dict() for view in self.views],
            "labels": [label.to_dict() for label in self.labels],
            "merged_pairs": [list(pair) for pair in self.merged_pairs],
            "dividing_plane": self.dividing_plane and self.dividing_plane.to_dict(),
            **({"missed_below": self.missed_below} if self.missed_below else {}),
            **({"intracranial_error": self.intracranial_error} if self.intracranial_error else {}),
            "margin_mm": self.margin_mm,
            "input": self.input,
            "cleanup": self.cleanup,
            "pipeline": self.pipeline,
            "training": self.training,
            "accuracy": self.accuracy,
            "calibration": self.calibration,
            **({"repeatability": self.repeatability} if self.repeatability else {}),
            "licence": self.licence.to_dict(),
            "weights": {"file": self.weights_file, "sha256": self.weights_sha256},
        }

    def label(self, value: int) -> Label:
        """The label of voxel value ``value``; KeyError where the model has none."""
        for label in self.labels:
            if label.value == value:
                return label
        raise KeyError(value)


def read_card_json(path: Path) -> dict[str, Any]:
    """The object in the file ``path``; ModelError where it cannot be read or is not a JSON object."""
    return _object(path, _read(path))


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except OSError as error:
        raise ModelError(f"The model card {path} cannot be read: {error.strerror or error}.", REMEDY) from error
    except ValueError as error:
        raise ModelError(f"The model card {path} is not JSON: {error}.", REMEDY) from error


def _object(path: Path, content: bytes) -> dict[str, Any]:
    try:
        entry = parse_json(content)
    except ValueError as error:
        raise ModelError(f"The model card {path} is not JSON: {error}.", REMEDY) from error
    if not isinstance(entry, dict):
        raise ModelError(f"The model card {path} is damaged: a JSON object is expected.", REMEDY)
    return entry


def _check_entries(entry: Any) -> None:
    """Raise ModelError for what no part of a card may hold: text that is not plain, numbers that are not finite."""
    pending, count = [("it", entry, 0)], 0
    while pending:
        where, value, depth = pending.pop()
        count += 1
        if count > MOST_ENTRIES or depth > DEEPEST:
            raise ModelError("The model card is damaged: it holds too many entries, or too deep ones.", REMEDY)
        if isinstance(value, Mapping):
            pending += [(str(key)[:80], inner, depth + 1) for key, inner in value.items()]
            pending += [("a key", str(key), depth + 1) for key in value]
        elif isinstance(value, list | tuple):
            pending += [(where, inner, depth + 1) for inner in value]
        elif value is not None and not isinstance(value, bool):
            fields = Fields({where: value})
            if isinstance(value, str):
                fields.text(where, "" if not value.strip() else None)
            else:
                fields.number(where, low=-math.inf)


def _parse(cls: type[ModelCard], fields: Fields) -> ModelCard:
    version = fields.integer("format", low=1)
    if version > FORMAT:
        raise ModelError(
            f"The model card has format {version}; this version reads up to {FORMAT}.",
            "Update SESegmentation, or take an older version of the model.",
        )
    fields.only(*_KEYS.split())
    weights = Fields(fields.mapping("weights"), "weights")
    pairs = fields.sequence("merged_pairs", [], most=MOST_LABELS)
    networks = Fields(fields.mapping("networks"), "networks")
    pair_fields = Fields({str(index): pair for index, pair in enumerate(pairs)}, "merged_pairs")
    spacing = fields.numbers("spacing", 3, low=0, high=100)
    read: dict[str, Any] = {}
    for key, check in _SECTIONS.items():
        if fields.has(key) or key == "intensity":  # which each card must have
            check(fields.section(key))
            read[key] = without_nulls(fields.mapping(key))
    sections.check_networks(fields.section("networks"), list(fields.mapping("networks")))
    if min(spacing) <= 0:
        fields.fail("spacing", "three sizes above 0 mm")
    return cls(
        name=fields.text("name"),
        title=fields.text("title", longest=200),
        version=fields.text("version", longest=64),
        summary=fields.text("summary"),
        modality=fields.text("modality", longest=64),
        contrast=fields.text("contrast", "", longest=200),
        spacing=spacing,
        orientation=fields.text("orientation", choices=("RAS",)),
        networks={name: networks.mapping(name) for name in fields.mapping("networks")},
        views=tuple(
            View.from_dict(view, f"views[{i}]") for i, view in enumerate(fields.sequence("views", most=MOST_VIEWS))
        ),
        labels=tuple(
            Label.from_dict(label, f"labels[{i}]")
            for i, label in enumerate(fields.sequence("labels", most=MOST_LABELS))
        ),
        merged_pairs=tuple(pair_fields.numbers(str(i), 2, whole=True, low=1) for i in range(len(pairs))),
        dividing_plane=(
            DividingPlane.from_dict(fields.mapping("dividing_plane")) if fields.has("dividing_plane") else None
        ),
        missed_below=fields.number("missed_below", 0.0, low=0, high=1),
        intracranial_error=fields.number("intracranial_error", 0.0, low=0, high=1),
        margin_mm=fields.number("margin_mm", 0.0, low=0, high=1000),
        licence=Licence.from_dict(fields.mapping("licence")),
        weights_file=weights.text("file", forbidden="/\\"),
        weights_sha256=weights.text("sha256").lower(),
        **read,
    )


def _check(card: ModelCard) -> None:
    """Raise ModelError if fields that are valid by themselves contradict each other."""
    values = [label.value for label in card.labels]
    unpaired = [value for pair in card.merged_pairs for value in pair if value not in values]
    undescribed = sorted({view.network for view in card.views} - set(card.networks))
    divided = card.dividing_plane.values if card.dividing_plane else ()
    locator = (card.pipeline or {}).get("locator")
    targets = (card.pipeline or {}).get("targets", [])
    located = sorted({int(own) for target in targets for own in target["values"]} - set(values))
    fluid = [value for key in ("values", "tissue") for value in card.cleanup.get("fluid", {}).get(key, [])]
    smoothed = [value for entry in card.cleanup.get("smoothing", []) for value in entry["values"]]
    checks = (
        (_NAME.fullmatch(card.name), "the name may have 64 lower-case letters, digits, '.', '_' and '-' only"),
        (locator is None or _NAME.fullmatch(locator), "pipeline.locator is not the name of a model"),
        (locator != card.name, "pipeline.locator is the model itself"),
        (not located, f"pipeline.targets name labels that do not exist: {', '.join(map(str, located))}"),
        (len(card.networks) <= MOST_NETWORKS, f"there are more than {MOST_NETWORKS} networks"),
        (_FILE_NAME.fullmatch(card.weights_file), "weights.file is not the name of a file"),
        (card.weights_file.lower() != CARD_NAME, "weights.file is the card"),
        (values, "there is no label"),
        (len(set(values)) == len(values), "two labels have the same value"),
        (len({label.name for label in card.labels}) == len(values), "two labels have the same name"),
        (card.views, "there is no view"),
        (not undescribed, f"views name networks that are not described: {', '.join(undescribed)}"),
        (not unpaired, f"merged_pairs name labels that do not exist: {', '.join(map(str, unpaired))}"),
        (set(divided) <= set(values), "dividing_plane names labels that do not exist"),
        (len(set(divided)) == len(divided), "dividing_plane names one label twice"),
        (card.merged_pairs or not any(v.merged for v in card.views), "a view is merged, yet merged_pairs is empty"),
        (len(smoothed) == len(set(smoothed) & set(values)), "cleanup.smoothing names a label twice, or one not there"),
        (len(fluid) == len(set(fluid) & set(values)), "cleanup.fluid names a label twice, or one not there"),
        (_SHA256.fullmatch(card.weights_sha256), "weights.sha256 must have 64 hexadecimal digits"),
    )
    for valid, problem in checks:
        if not valid:
            raise ModelError(f"The model card is damaged: {problem}.", REMEDY)

"""The model for a DICOM series: chosen by what its tags say that it shows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from ..errors import InputError
from ..io.dicom.headers import all_tags, numbers_of, text_of
from ..io.dicom.series import Series
from ..models import ModelCard, ModelPackage
from ..models.labels import REGIONS, STRUCTURES
from .shared_options import OPTION

#: by part of the body: beginnings of words for it in BodyPartExamined or descriptions, and the structures in it
_BODY_PARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "head": (
        "head|brain|skull|crani|cereb|enceph|neuro|hippoc|hypoph|kopf|schädel|gehirn|tete|cerveau|cabeza|mprage|flair",
        tuple(structure for structures in REGIONS.values() for structure in structures),
    ),
    "chest": ("chest|thora|lung|heart|card|mediast", ("lung", "trachea", "heart", "aorta", "esophagus")),
    "abdomen": (
        "abd|liver|hepa|kidney|renal|spleen|pancrea|leber|niere|bauch|foie|wholebody",
        ("liver", "kidney", "spleen", "stomach", "pancreas", "gallbladder", "adrenal gland"),
    ),
    "pelvis": ("pelvi|prosta|bladder|uter|becken", ("urinary bladder", "prostate")),
}
#: what an MR series is, by the beginnings of words in its description; the first match counts
_CONTRASTS = (
    ("a localizer", "loc|scout|survey|smartbrain|aahead"),
    ("a calibration scan", "calib|asset.?cal|sense.?ref|ref.?scan|coil.?(?:survey|sens)"),
    ("a diffusion series", "dwi|dti|diff|adc|trace|ep2d_d"),
    ("a susceptibility or field map", "swi|swan|swip|t2[*]|t2st|gre_field|b0|field.?map|phase.?map"),
    ("an angiogram", "tof|angio|mra(?![a-z])|pc3d|mip(?![a-z])"),
    ("a perfusion series", "perf|asl(?![a-z])|dsc|dce"),
    ("a functional series", "bold|fmri|rest(?![a-z])"),
    ("T1", "t1[ _-]?(?:flair|tirm)"),  # both suppress fluid, but are weighted by T1
    ("FLAIR", "flair|tirm|dark.?fl"),
    ("T1", "t1|mprage|mp2rage|spgr|bravo|fspgr|vibe"),
    ("T2", "t2"),
    ("PD", "pd(?![a-z])|proton"),
)
#: contrasts that models of "any" contrast can segment
_ANATOMICAL = ("T1", "T2", "FLAIR", "PD")
#: DICOM's own words for the same, in ImageType and AcquisitionContrast
_CODES = {
    "LOCALIZER": "a localizer",
    "DIFFUSION": "a diffusion series",
    "ADC": "a diffusion series",
    "FA": "a diffusion series",
    "TRACEW": "a diffusion series",
    "PERFUSION": "a perfusion series",
    "PHASE MAP": "a susceptibility or field map",
    "PROJECTION IMAGE": "an angiogram",
    "TOF": "an angiogram",
    "FLUID_ATTENUATED": "FLAIR",
    "T1": "T1",
    "T2": "T2",
    "PROTON_DENSITY": "PD",
}


@dataclass(frozen=True)
class Shown:
    """What a series shows according to its tags.

    Attributes:
        modality: DICOM's, for example "MR".
        body_parts: keys of ``_BODY_PARTS``, or another part as named in the tags; empty if unknown.
        contrast: for MR one of ``_CONTRASTS``, None if unknown; None for other modalities.
        words: its description, in lower case, to be searched for contrasts that only a model's card names.
    """

    modality: str
    body_parts: frozenset[str]
    contrast: str | None
    words: str

    @classmethod
    def by(cls, tags: Dataset) -> Shown:
        """What the tags of one of the series' files say."""
        words = " ".join(text_of(tags, key) for key in ("SeriesDescription", "ProtocolName")).casefold()
        modality = text_of(tags, "Modality").upper()
        return cls(modality, _body_parts(tags, words), _contrast(tags, words) if modality == "MR" else None, words)

    def refusal(self, card: ModelCard, is_named: bool) -> tuple[int, str]:
        """How well a model suits the series, 0 to 4, and why it is refused; (4, "") if it is not.

        Args:
            card: of the model.
            is_named: the user named the model: only modality is checked, and that the series shows anatomy.
        """
        if self.modality != card.modality:
            return 0, f"it is {self.modality or 'of unknown modality'}, not {card.modality}"
        if self.contrast is not None and self.contrast not in _ANATOMICAL:
            return 1, f"it is {self.contrast}"
        if is_named:
            return 4, ""
        parts = body_parts(card)
        if not self.body_parts:
            return 2, "its tags do not give the part of the body (BodyPartExamined)"
        if not parts & self.body_parts:
            return 2, f"it shows {' and '.join(sorted(self.body_parts))}, not {' or '.join(sorted(parts)) or card.name}"
        wanted = card.contrast.casefold()
        if wanted in ("", "any") or wanted == (self.contrast or "").casefold():
            return 4, ""
        if self.contrast is None and wanted in self.words:
            return 4, ""
        return 3, f"it is {self.contrast or 'of unknown contrast'}, not {card.contrast}"


def _body_parts(tags: Dataset, words: str) -> frozenset[str]:
    part = text_of(tags, "BodyPartExamined").casefold()
    study = text_of(tags, "StudyDescription").casefold()
    for text, start in ((part, ""), (words, "(?<![a-z])"), (study, "(?<![a-z])")):  # "HEADNECK" is one word
        found = {name for name, (known, _) in _BODY_PARTS.items() if re.search(f"{start}({known})", text)}
        if found or (part and text is part):
            return frozenset(found or {part})
    return frozenset()


def _contrast(tags: Dataset, words: str) -> str | None:
    codes = [code.strip() for key in ("AcquisitionContrast", "ImageType") for code in text_of(tags, key).split("\\")]
    for code in codes:
        if code in _CODES:
            return _CODES[code]
    for contrast, beginnings in _CONTRASTS:
        if re.search(f"(?<![a-z0-9])({beginnings})", words):
            return contrast
    return _contrast_by_times(tags)


def _contrast_by_times(tags: Dataset) -> str | None:
    """T1, T2, FLAIR or PD from repetition, echo and inversion time (ms), by textbook limits; else None."""
    times = [_number(tags, key) for key in ("RepetitionTime", "EchoTime", "InversionTime")]
    repetition, echo, inversion = times
    if repetition is None or echo is None or "EP" in text_of(tags, "ScanningSequence").split("\\"):
        return None
    if echo >= 60 and repetition >= 1800:
        return "FLAIR" if inversion and inversion >= 1500 else "T2"
    if echo <= 30 and (repetition <= 1000 or (inversion and echo <= 10)):
        return "T1"
    return "PD" if echo <= 40 and repetition >= 1800 else None


def _number(tags: Dataset, keyword: str) -> float | None:
    try:
        found = numbers_of(tags, keyword, 1, "")
    except InputError:
        return None
    return found[0] if found else None


def body_parts(card: ModelCard) -> set[str]:
    """The parts of the body in which a model's structures are, by their codes."""
    codes = {label.type.value for label in card.labels}
    return {
        name for name, (_, structures) in _BODY_PARTS.items() if codes & {STRUCTURES[each][0] for each in structures}
    }


def choose_model(shown: Shown, packages: Iterable[ModelPackage], named: bool, accepted: bool) -> ModelPackage | str:
    """The model for a series; or the reason why it is skipped.

    Of several, one for the whole part of the body comes before one for a crop, one for the very contrast before one for
    any, one with more structures before one with fewer.

    Args:
        shown: what the series shows.
        packages: models to choose from.
        named: whether the user named these models.
        accepted: the terms of models that are not free.
    """
    refusals, suitable = [], []
    for package in packages:
        how_far, reason = shown.refusal(package.card, named)
        if not reason and package.card.licence.asks_consent and not accepted:
            reason = f"the terms of {package.card.name} must be accepted ({OPTION})"
        if reason:
            refusals.append((how_far, reason))
        else:
            suitable.append(package)
    if not suitable:  # the refusal of the best match is the most informative
        return max(refusals, default=(0, "no model is installed"))[1]

    def rank(package: ModelPackage) -> tuple[bool, bool, int]:
        card = package.card
        exact = card.contrast.casefold() not in ("", "any")
        return card.input_kind != "crop", exact, len(card.labels)

    return max(suitable, key=rank)


def choose_for_series(
    series: Series, packages: Sequence[ModelPackage], named: bool, accepted: bool
) -> ModelPackage | str:
    """The model for a series of files, or why it is skipped; arguments as of :func:`choose_model`."""
    if series.no_scan:
        return f"it is {series.no_scan}"
    if not re.fullmatch(r"[0-9.]{1,64}", series.uid):  # files are named by it
        return "its SeriesInstanceUID is not valid"
    if sum(header.number("NumberOfFrames") or 1 for header in series.headers) < 2:
        return "it is a single image"
    try:
        return choose_model(Shown.by(all_tags(series.headers[0].path)), packages, named, accepted)
    except InputError as error:
        return error.cause.rstrip(".")

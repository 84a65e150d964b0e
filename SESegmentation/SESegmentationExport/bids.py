"""BIDS, the Brain Imaging Data Structure: scans of a dataset are found by their names, and results become derivatives.

See https://bids-specification.readthedocs.io, "Magnetic Resonance Imaging" and "Derivatives: Imaging".
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from SESegmentationLib import __version__
from SESegmentationLib.errors import InputError, UsageError
from SESegmentationLib.files import OutputFiles, refuse_same_names
from SESegmentationLib.files.json_files import read_json, to_json
from SESegmentationLib.models import ModelCard
from SESegmentationLib.report import without_folders
from SESegmentationLib.result import SegmentationResult

from . import Export
from .scan_identity import scan_sha256
from .tables import tsv

#: of the specification that derivatives follow
BIDS_VERSION = "1.10.0"
DESCRIPTION = "dataset_description.json"
_NAME = "SESegmentation"
#: file suffix by the contrast of the models that segment such files, the usual one first
_SUFFIXES = {"T1": "T1w", "T2": "T2w", "FLAIR": "FLAIR"}
_SCAN = re.compile(r"(?P<entities>sub-[A-Za-z0-9]+(_[a-z]+-[A-Za-z0-9+]+)*)_(T1w|T2w|FLAIR)\.nii(\.gz)?")
#: in names of images of phase, or of real or imaginary parts
_NO_MAGNITUDE = re.compile(r"_part-(phase|real|imag)_")
#: where scans are: in a dataset, in the folder of a subject, in that of a session
_ANATOMY = {"": ("sub-*/anat", "sub-*/ses-*/anat"), "sub-": ("anat", "ses-*/anat"), "ses-": ("anat",)}
#: entities that stand after "space" in a name
_AFTER_SPACE = ("split-", "recording-", "chunk-", "atlas-", "seg-", "scale-", "res-", "den-", "label-")
_SEGMENTATION = "_dseg.nii.gz"
#: digits that would become one number without what is between them
_TWO_NUMBERS = re.compile("[0-9][^A-Za-z0-9]+[0-9]")
_DIGITS_OF_HASH = 8
#: field beside a segmentation that tells of which scan it is, without naming it: see :func:`.scan_sha256`
_SOURCE = "SourceSHA256"
#: what ``sesegment cohort`` keeps in its folder
_OF_COHORTS = ("records/", "cohort.tsv", "failures.tsv", "sheet*.html")
#: what lies beside a segmentation
_TABLES = ("dseg.tsv", "dseg.json", "volumes.tsv")
_LABEL_COLUMNS = ("index", "name", "color")
_VOLUME_COLUMNS = {
    "index": "Value in the segmentation; n/a for the intracranial volume.",
    "name": "Name of the structure.",
    "voxels": "How many voxels the structure has.",
    "volume_ml": "Volume in ml.",
    "intracranial_share": "Share of the intracranial volume, 0 to 1.",
    "confidence": "Agreement of the networks' views, 0 to 1.",
    "expected_dice": "Expected Dice overlap with the truth, 0 to 1.",
}


def _suffixes(card: ModelCard) -> list[str]:
    """The suffixes of scans that a model takes."""
    if card.modality != "MR":
        return []
    wanted = card.contrast.casefold()
    return [suffix for contrast, suffix in _SUFFIXES.items() if wanted in ("", "any", contrast.casefold())]


def find_scans(folder: Path, card: ModelCard) -> list[Path] | None:
    """The scans of a BIDS dataset, subject or session that a model can segment; None for other folders.

    Raises:
        InputError: it is a dataset, and holds none.
    """
    if not folder.is_dir():
        return None
    kind = next((kind for kind in ("sub-", "ses-") if folder.resolve().name.startswith(kind)), "")
    places = sorted(place for pattern in _ANATOMY[kind] for place in folder.glob(pattern) if place.is_dir())
    scans = [path for place in places for path in sorted(place.iterdir()) if _SCAN.fullmatch(path.name)]
    if not scans and not (folder / DESCRIPTION).is_file():
        return None
    suffixes = _suffixes(card)
    found = [path for path in scans if _suffix(path) in suffixes and not _NO_MAGNITUDE.search(path.name)]
    if not found:
        raise InputError(
            f"{folder} is a BIDS dataset without {' or '.join(suffixes) or card.modality} images (sub-*/anat).",
            "Choose another model, or name the files that are to be segmented.",
        )
    return found


def _suffix(scan: Path) -> str:
    return scan.name.split(".")[0].rsplit("_", 1)[-1]


def derivative_paths(folder: Path, names: Mapping[Path, str]) -> dict[Path, Path]:
    """Where the segmentation of each scan is in a dataset of derivatives.

    Scans of BIDS datasets keep their entities; T2w and FLAIR images are distinguished by ``space-``, whether
    there is a T1w image or not, so that later runs use other names. Names of other scans become those of subjects.

    Args:
        folder: of the derivatives.
        names: of the scans.

    Raises:
        UsageError: two segmentations would have the same name.
    """
    paths = {source: folder / _derivative(source, name) for source, name in names.items()}
    refuse_same_names(paths.items(), "Segment them in two calls with different folders.")
    return paths


def _derivative(source: Path, name: str) -> Path:
    scan = _SCAN.fullmatch(source.name)
    if not scan:
        subject = _subject(name)
        return Path(f"sub-{subject}", "anat", f"sub-{subject}_desc-sesegment{_SEGMENTATION}")
    entities = [entity for entity in scan["entities"].split("_") if not entity.startswith("desc-")]
    if _suffix(source) != _SUFFIXES["T1"] and not any(entity.startswith("space-") for entity in entities):
        later = (number for number, entity in enumerate(entities) if entity.startswith(_AFTER_SPACE))
        entities.insert(next(later, len(entities)), f"space-{_suffix(source)}")
    levels = [entity for entity in entities if entity.startswith(("sub-", "ses-"))]
    return Path(*levels, "anat", "_".join([*entities, f"desc-sesegment{_SEGMENTATION}"]))


def _subject(name: str) -> str:
    """The label of a subject, which can have letters A to Z and digits only, for the name of a scan.

    Where other letters are lost, or two numbers become one, a part of the name's hash follows: patients of other names
    would have the same label, and a later run would write over the earlier patient's results.
    """
    name = unicodedata.normalize("NFC", name)
    kept = re.sub("[^A-Za-z0-9]", "", unicodedata.normalize("NFKD", name))
    if kept and name.isascii() and not _TWO_NUMBERS.search(name):
        return kept
    digest = hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()
    return (kept or "unnamed") + digest[:_DIGITS_OF_HASH]


class Derivatives(Export):
    """The files beside segmentations in a dataset of derivatives: labels, volumes, description of the dataset.

    Args:
        folder: of the derivatives.
        card: of the model.
        paths: of :func:`derivative_paths`.
        described: the dataset is, by :meth:`describe`.
        series: chosen of DICOM folders.
        contents: the :func:`.scan_sha256` of each scan, where the caller knows it.

    Raises:
        UsageError: in the folder there is another dataset, or that of another model.
    """

    def __init__(
        self,
        folder: Path,
        card: ModelCard,
        paths: Mapping[Path, Path],
        described: bool = False,
        series: str | None = None,
        contents: Mapping[Path, str | None] | None = None,
    ) -> None:
        _refuse_other_dataset(folder, card)
        self._paths, self._described, self._series, self._contents = paths, described, series, contents
        self._about = _about_dataset(folder, card)
        of_scans = [_beside(path, kind) for path in paths.values() for kind in _TABLES]
        self.outputs = [*self._about, *of_scans]

    def take(
        self, files: OutputFiles, volume: Path, image: sitk.Image, result: SegmentationResult, report: Mapping[str, Any]
    ) -> None:
        """Write the tables of one scan, and what its segmentation is."""
        path = self._paths[volume]
        labels = [
            {"index": label.value, "name": label.name, "color": "#{:02X}{:02X}{:02X}".format(*label.color)}
            for label in (structure.label for structure in result.structures)
        ]
        rows = [entry | {"index": entry["value"]} for entry in report["structures"]]
        if report["intracranial"]:
            rows.append({"name": "intracranial volume", "volume_ml": report["intracranial"]["volume_ml"]})
        about = {
            "Description": f"Structures found by {result.model.title}; for research.",
            "Manual": False,
            "SpatialReference": "orig",  # the scan itself; required for names with "space-"
            "Model": report["model"],
            "Date": report["date"],
            "Warnings": [without_folders(finding["message"], volume) for finding in report["findings"]],
        }
        if content := scan_sha256(volume, self._series) if self._contents is None else self._contents[volume]:
            about[_SOURCE] = content
        contents = (tsv(_LABEL_COLUMNS, labels), to_json(about) + "\n", tsv(list(_VOLUME_COLUMNS), rows))
        for kind, content in zip(_TABLES, contents, strict=True):
            files.write(_beside(path, kind), content)
        if not self._described:
            self.describe(files)

    def describe(self, files: OutputFiles) -> None:
        """Write what the dataset is."""
        for file, text in self._about.items():
            files.write(file, text)

    def add(self, volume: Path, report: Mapping[str, Any]) -> None:
        """Note that the dataset is described, once a scan has been written."""
        self._described |= "error" not in report


def refuse_other_scans(paths: Mapping[Path, Path], series: str | None = None) -> None:
    """Refuse to write over the segmentation of another scan of the same name: of another patient, perhaps.

    Args:
        paths: of :func:`derivative_paths`.
        series: chosen of DICOM folders.

    Raises:
        UsageError: a segmentation is there already, of a scan with other content.
    """
    for source, path in paths.items():
        known = _source_of(path)
        if known and known != scan_sha256(source, series):
            raise UsageError(
                f"{path} was made from another scan of this name than {source}, or from an earlier state of it.",
                f"Name another folder, rename the scan, or delete {path.name} and what lies beside it.",
            )


def _source_of(path: Path) -> str | None:
    """The hash of the scan that a segmentation is of; None where there is none, or it is not recorded."""
    if not path.exists():
        return None
    try:
        return read_json(_beside(path, "dseg.json"))[_SOURCE]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(path.name.removesuffix(_SEGMENTATION) + f"_{kind}")


def _refuse_other_dataset(folder: Path, card: ModelCard) -> None:
    path = folder / DESCRIPTION
    if not path.exists():
        return
    try:
        description = read_json(path)
        made_by, title = description["GeneratedBy"][0]["Name"], description["Name"]
    except (OSError, ValueError, LookupError, TypeError):
        made_by = title = None
    if made_by == _NAME and title != _title(card):  # its segmentations have the same names
        raise UsageError(
            f"{folder} holds segmentations by another model than {card.name}.",
            f"Name a folder of its own, for example {folder.with_name(f'{folder.name}-{card.name}')}.",
        )
    if made_by != _NAME:
        raise UsageError(
            f"{folder} is another dataset: its {DESCRIPTION} was not written by SESegmentation.",
            f"Name a folder of its own, for example {folder / 'derivatives' / 'sesegment'}.",
        )


def _title(card: ModelCard) -> str:
    return f"Segmentations by {card.name}"


def _about_dataset(folder: Path, card: ModelCard) -> dict[Path, str]:
    """The files that describe the dataset, with their content."""
    model = f"{card.name} {card.version}, weights SHA-256 {card.weights_sha256}"
    description = {
        "Name": _title(card),
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": _NAME, "Version": __version__, "Description": f"Model {model}"}],
    }
    readme = f"""# Segmentations by SESegmentation

For research; not for diagnosis or treatment. Made by SESegmentation {__version__}, model {model}.

`*_dseg.nii.gz` are label maps, `*_dseg.tsv` says what their values mean, `*_volumes.tsv` the volume of each structure.
"""
    columns = {name: {"Description": text} for name, text in _VOLUME_COLUMNS.items()}
    return {
        folder / DESCRIPTION: to_json(description) + "\n",
        folder / "README.md": readme,
        # tables of volumes have no name in the specification
        folder / ".bidsignore": "*_volumes.tsv\nvolumes.json\n" + "".join(f"{name}\n" for name in _OF_COHORTS),
        folder / "volumes.json": to_json(columns) + "\n",
    }


def sources_of(volumes: Iterable[Path], card: ModelCard) -> list[Path]:
    """The volumes, with the scans that a model takes in place of each BIDS dataset; errors as of :func:`find_scans`."""
    return [source for volume in volumes for source in find_scans(volume, card) or [volume]]

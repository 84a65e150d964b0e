"""Writing model packages, with the card rendered as a README, and installing them from a folder or a ZIP.

The README says nothing about what the card leaves out.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from statistics import median
from typing import Any

from ..errors import InputError, ModelError, UsageError
from ..files import OutputFiles, cannot_write, incomplete, staging_folder, sync
from ..files.json_files import LARGEST, parse_json
from ..files.writing import placing, remove_leftovers
from .card import CARD_NAME, FORMAT, README_NAME, ModelCard, View
from .sections import REPEATABILITY_COEFFICIENT
from .store import (
    LARGEST_WEIGHTS,
    REPLACES_SHIPPED,
    ModelPackage,
    sha256_of,
    shipped_models,
    user_models_folder,
    verify_package,
)

#: what a package may hold besides its weights
COMPANIONS = (CARD_NAME, "README.md", "LICENSE")
#: largest number of entries of a ZIP, and of bytes of their list
MOST_ENTRIES = 1000
LARGEST_LIST = 1 << 20
#: largest compression ratio of files above LARGEST; weights hardly compress
MOST_SHRUNK = 20
#: other methods can demand any amount of memory
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_REMEDY = "Give a ZIP of one model's folder, as it came from whoever made the model."
WEIGHTS_NAME = "model.safetensors"


class _Bounded(io.FileIO):
    """A file that refuses large reads: the list of files in a ZIP is read at once, before anything else."""

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(LARGEST_LIST + 1 if size is None or size < 0 else min(size, LARGEST_LIST + 1))
        if len(content) > LARGEST_LIST:
            raise zipfile.BadZipFile("its list of files is too long")
        return content


def unpack(source: Path, folder: Path) -> None:
    """Put the card, companions and weights in the ZIP ``source`` into ``folder``.

    Raises:
        InputError: it cannot be unpacked, holds no or several models, too much data, or paths that point outside of it.
        ModelError: the card is damaged.
    """
    with _reading(source), _Bounded(source) as file, zipfile.ZipFile(file) as archive:
        files = _files(source, archive)
        cards = [path for path in files if path.name == CARD_NAME]
        if len(cards) != 1:
            raise InputError(f"{source} holds {len(cards)} model cards.", _REMEDY)
        content = _content(source, archive, files[cards[0]], LARGEST)
        try:
            card = ModelCard.from_dict(parse_json(content), f"{source}: {cards[0]}")
        except ValueError as error:
            raise ModelError(f"{source}: {cards[0]} is not JSON: {error}.", _REMEDY) from error
        for name in (*COMPANIONS, card.weights_file):
            entry = files.get(cards[0].parent / name)
            if entry is not None:
                largest = LARGEST_WEIGHTS if name == card.weights_file else LARGEST
                (folder / name).write_bytes(_content(source, archive, entry, largest))


@contextmanager
def _reading(source: Path) -> Iterator[None]:
    """Turn what a damaged ZIP raises into InputError."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, RuntimeError, EOFError, LookupError) as error:
        raise InputError(f"{source} cannot be unpacked: {error}.", "Get the file again.") from error


def _files(source: Path, archive: zipfile.ZipFile) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The files of a ZIP by path, with either kind of slash (some Windows programs write backslashes)."""
    entries = archive.infolist()
    if len(entries) > MOST_ENTRIES:
        raise InputError(f"{source} holds {len(entries)} files; a model has about four.", _REMEDY)
    files: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for entry in entries:
        name = entry.filename.replace("\\", "/")
        path = PurePosixPath(name)
        outside = path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0])
        if outside or stat.S_ISLNK(entry.external_attr >> 16):
            raise InputError(f"{source} holds {entry.filename!a}, which points outside of it.", "Do not use this file.")
        if name.endswith("/") or path.parts[:1] == ("__MACOSX",):
            continue
        if path in files:
            raise InputError(f"{source} holds {entry.filename!a} twice.", "Do not use this file.")
        files[path] = entry
    return files


def _content(source: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, largest: int) -> bytes:
    """The content of one file, whose size is checked first."""
    if entry.flag_bits & 1:
        raise InputError(f"{source} is encrypted.", "Give a ZIP without a password.")
    if entry.compress_type not in _METHODS:
        raise InputError(f"{source} is compressed by a method other than deflate.", "Pack the folder as a plain ZIP.")
    shrunk = entry.file_size > max(LARGEST, MOST_SHRUNK * entry.compress_size)
    if entry.file_size > largest or shrunk:
        size = f"{entry.file_size / 1e6:.0f} MB"
        raise InputError(f"{source} holds {entry.filename!a}, which unpacks to {size}: too much.", _REMEDY)
    return archive.read(entry)


class AlreadyInstalledError(UsageError):
    """There is a model of that name, and it was not to be replaced."""


def add_model(source: Path, folder: Path | None = None, replace: bool = False) -> ModelPackage:
    """Copy the model package in ``source`` to where models are looked for, whole or not at all.

    Card, schema and SHA-256 of the weights are checked first. Nothing in the package is executed.

    Args:
        source: folder with a model card, or a ZIP that holds one package.
        folder: where to put it; the user's models folder if None.
        replace: overwrite a model of the same name there.

    Raises:
        InputError: ``source`` is neither, or a ZIP that cannot be trusted; see :func:`unpack`.
        ModelError: the package is damaged.
        AlreadyInstalledError: there is a model of that name, there or among those that come with the program.
        UsageError: ``source`` is what it would replace.
        OutputError: the folder cannot be written.
    """
    folder = folder or user_models_folder()
    with _unpacked(source) as unpacked:
        package = verify_package(unpacked)
        name = package.card.name
        target, shipped = folder / name, name in shipped_models()
        if target.exists() and target.resolve() in (source.resolve(), *source.resolve().parents):
            raise UsageError(f"{source} is what would be replaced.", "Give a copy that lies elsewhere.")
        if (target.exists() or shipped) and not replace:
            where = "that comes with the program" if shipped else f"in {folder}"
            raise AlreadyInstalledError(
                f"There is a model {name} {where} already.",
                "Replace it with --replace, or give the new one another name.",
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
            with staging_folder(folder) as temporary:
                copied = temporary / "new"
                copied.mkdir()
                for file in (*COMPANIONS, package.card.weights_file):
                    if (unpacked / file).is_file():
                        _check_size(unpacked / file, file in COMPANIONS)
                        shutil.copyfile(unpacked / file, copied / file)
                        sync(copied / file)
                verify_package(copied)
                if shipped:
                    (copied / REPLACES_SHIPPED).touch()
                with placing:
                    if target.exists():
                        os.replace(target, temporary / "old")
                    os.replace(copied, target)
        except OSError as error:
            raise cannot_write(folder / name, error) from error
    return ModelPackage.from_folder(target)


@contextmanager
def _unpacked(source: Path) -> Iterator[Path]:
    """The folder with the model card: ``source`` itself, or a temporary folder with the unpacked ZIP."""
    if source.is_dir():
        yield source
        return
    if not zipfile.is_zipfile(source):
        found = "is not a ZIP file" if source.exists() else "does not exist"
        raise InputError(f"{source} {found}.", f"Give a folder with {CARD_NAME}, or a ZIP of such a folder.")
    with tempfile.TemporaryDirectory() as temporary:
        unpack(source, Path(temporary))
        yield Path(temporary)


def _check_size(path: Path, companion: bool) -> None:
    """Refuse a text of unreasonable size; that of the weights is known already."""
    if companion and path.stat().st_size > LARGEST:
        raise ModelError(f"{path} is larger than {LARGEST >> 20} MiB.", "Get the model package again from its source.")


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
        "Structures": f"{len(card.labels)}{_dividing_plane(card)}{_overlooked(card)}{_smoothed(card)}",
        "Weights": f"`{card.weights_file}`, SHA-256 `{card.weights_sha256}`",
    }
    return _table(("", ""), [(f"**{key}**", value) for key, value in rows.items()])


def _dividing_plane(card: ModelCard) -> str:
    """Which structures meet at a plane."""
    if card.dividing_plane is None:
        return ""
    names = " and ".join(card.label(value).name for value in card.dividing_plane.values)
    return f"; {names} meet at one {card.dividing_plane.plane} slice"


def _overlooked(card: ModelCard) -> str:
    """When a view is left out of the fusion for a structure."""
    share = f"less than {100 * card.missed_below:g} % of what another view finds of it"
    return f"; a view is left out for one of which it finds {share}" if card.missed_below else ""


def _smoothed(card: ModelCard) -> str:
    """How many structures are smoothed, and how much."""
    parts = [f"{len(entry['values'])} by {entry['sigma_mm']:g} mm" for entry in card.cleanup.get("smoothing", [])]
    return f"; probabilities are smoothed, of {', of '.join(parts)} (standard deviation)" if parts else ""


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


def update_card(package: ModelPackage, entries: Mapping[str, Any]) -> ModelPackage:
    """Write entries into the card of a package in place of those it has; errors as of :func:`write_package`."""
    return write_package(package.path, package.card.to_dict() | dict(entries), package.weights_path)


def write_package(directory: str | Path, card: Mapping[str, Any] | ModelCard, tensors_file: str | Path) -> ModelPackage:
    """Write weights, card and README into ``directory``, each whole or not at all.

    Args:
        directory: the package's folder; made where absent, files of these names in it are replaced.
        card: the card; "format" and "weights" are filled in here.
        tensors_file: safetensors file to copy; it may be the one in ``directory`` already.

    Raises:
        ModelError: the card is not valid; nothing is written then.
        UsageError: the folder cannot be written to.
        OutputError: a file cannot be written.
    """
    directory, tensors_file = Path(directory), Path(tensors_file)
    entry = dict(card.to_dict() if isinstance(card, ModelCard) else card)
    entry["format"] = FORMAT
    entry["weights"] = {"file": WEIGHTS_NAME, "sha256": sha256_of(tensors_file)}
    checked = ModelCard.from_dict(entry, directory / CARD_NAME)
    # the card after the weights that it is about, and before what is made from it
    texts = {
        CARD_NAME: json.dumps(checked.to_dict(), indent=2, ensure_ascii=False) + "\n",
        README_NAME: render_readme(checked),
    }
    weights = directory / WEIGHTS_NAME
    with OutputFiles() as files:
        if not (weights.exists() and weights.samefile(tensors_file)):
            copied = files.begin(weights)
            shutil.copyfile(tensors_file, copied)
            sync(copied)
            if sha256_of(copied) != entry["weights"]["sha256"]:
                raise incomplete(copied, tensors_file.stat().st_size)
        for name, text in texts.items():
            files.write(directory / name, text)
    return ModelPackage(directory, checked)

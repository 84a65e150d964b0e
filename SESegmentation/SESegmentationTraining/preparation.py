"""Preparing data for training: benchmarks in nnU-Net's layout, labels across contrasts, a look at training slices.

The benchmarks are two of the paper's, laid out as the recipes ``malc`` and ``visceral`` want them. Neither can be
passed on: ask their owners (Neuromorphometrics, Inc.; the VISCERAL project). The paper's third, retinal OCT, comes as
MATLAB files, which are not read here; the recipe ``duke-oct`` says what to make of them.

Labels across contrasts: what a model finds on one scan is the label of the patient's other scans.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from PIL import Image

from SESegmentationLib.errors import InputError, UsageError
from SESegmentationLib.files import OutputFiles, check_writable, refuse_overwriting, write_whole
from SESegmentationLib.geometry import Geometry, same_grid
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.io.reading import read_label_volume, read_volume
from SESegmentationLib.io.volume_image import voxels_of
from SESegmentationLib.io.writing import write_image
from SESegmentationLib.models import Label, ModelCard, find_model, sha256_of

from .dataset import dataset_paths, volumes_in
from .recipe import Recipe
from .sources import Batch, open_source
from .training_plan import draft_card

#: FreeSurfer's value by the value in the challenge's labels (Neuromorphometrics' numbers), as QuickNAT remaps them
FREESURFER_VALUES = {
    45: 2, 52: 4, 41: 7, 39: 8, 60: 10, 37: 11, 58: 12, 56: 13, 4: 14, 11: 15, 35: 16, 48: 17, 32: 18, 62: 28,
    44: 41, 51: 43, 40: 46, 38: 47, 59: 49, 36: 50, 57: 51, 55: 52, 47: 53, 31: 54, 61: 60,
}  # fmt: skip
#: the challenge's first parcel of the cortex; odd numbers are left, even ones right
FIRST_PARCEL = 100
LEFT_CORTEX, RIGHT_CORTEX = 3, 42
#: value in the recipe ``visceral`` by RadLex number, of which each structure's file carries one
RADLEX_VALUES = {
    58: 1, 86: 2, 29662: 3, 29663: 4, 1302: 5, 1326: 6, 32248: 7, 32249: 8, 237: 9, 480: 10,
}  # fmt: skip
_STRUCTURE = re.compile(r"(?P<case>.+)_(?P<radlex>\d+)_(?P<annotator>\d+)\.nii(\.gz)?")
#: slices in the picture, and of them in a row
COUNT, IN_A_ROW = 16, 4
OPACITY = 0.6


def lay_out_malc(source: Path, dataset: Path) -> dict[str, int]:
    """The MICCAI 2012 Multi-Atlas Labelling Challenge.

    Its folders are ``training-images`` (``1000_3.nii``), ``training-labels`` (``1000_3_glm.nii``) and two of testing.
    Training cases go to ``imagesTr`` and ``labelsTr``, those of ``testing-images`` to ``imagesTs`` and ``labelsTs``.

    Returns:
        Number of cases by "Tr" and "Ts".

    Raises:
        InputError: folders or labels are missing, or a file cannot be read.
    """
    counts = {}
    for part, kind in (("Tr", "training"), ("Ts", "testing")):
        images, labels = source / f"{kind}-images", source / f"{kind}-labels"
        for folder in (images, labels):
            if not folder.is_dir():
                raise InputError(f"There is no folder {folder}.", "Give the folder that the challenge's archive makes.")
        by_name = {_stem(path): path for path in volumes_in(labels)}
        for path in volumes_in(images):
            name = _stem(path)
            if f"{name}_glm" not in by_name:
                raise InputError(f"There is no {name}_glm in {labels}.", "Unpack the archive again.")
            parcels = read_label_volume(by_name[f"{name}_glm"])
            _write_case(dataset, part, name, read_volume(path), _recoded(parcels, _malc_table(parcels)))
        counts[part] = len(volumes_in(images))
    _describe(dataset, "malc", "T1", counts["Tr"])
    return counts


def lay_out_visceral(source: Path, dataset: Path, part: str = "Tr") -> tuple[int, list[str]]:
    """VISCERAL: volumes ``CASE.nii.gz`` and a file a structure, ``CASE_RADLEX_ANNOTATOR.nii.gz``, in any subfolders.

    Args:
        source: folder of the volumes and segmentations.
        dataset: folder to write.
        part: "Tr" or "Ts".

    Returns:
        Number of cases, and the names of those left out because a structure is missing: it would be learnt as
        background.

    Raises:
        InputError: there is no case, or a file cannot be read.
    """
    files = sorted(path for path in source.rglob("*.nii*") if not path.name.startswith("."))
    masks: dict[str, dict[int, Path]] = {}
    for path in files:
        match = _STRUCTURE.fullmatch(path.name)
        if match and int(match["radlex"]) in RADLEX_VALUES:
            masks.setdefault(match["case"], {}).setdefault(int(match["radlex"]), path)
    volumes = {_stem(path): path for path in files if _stem(path) in masks}
    if not volumes:
        raise InputError(
            f"{source} holds no volume with files of its structures.",
            "Give the folder that holds the volumes and the segmentations, called as VISCERAL calls them.",
        )
    left_out = [case for case in masks if set(masks[case]) != set(RADLEX_VALUES) or case not in volumes]
    for case, path in volumes.items():
        if case in left_out:
            continue
        image = read_volume(path)
        values = np.zeros(image.GetSize()[::-1], np.uint8)
        for radlex, value in RADLEX_VALUES.items():
            mask = read_label_volume(masks[case][radlex])
            if not same_grid(image, mask):
                raise InputError(f"{masks[case][radlex]} does not lie on the grid of {path}.", "Get the file again.")
            values[voxels_of(mask) > 0] = value
        labels = Geometry.of(image).image(values)
        _write_case(dataset, part, case, image, labels)
    count = len(set(volumes) - set(left_out))
    _describe(dataset, "visceral", "CT", count)
    return count, sorted(left_out)


def _malc_table(labels: sitk.Image) -> np.ndarray:
    """FreeSurfer's value for every value in ``labels``; 0 for what the recipe does not learn."""
    table = np.zeros(max(int(voxels_of(labels).max()), 255) + 1, np.uint8)
    table[FIRST_PARCEL:] = np.where(np.arange(FIRST_PARCEL, len(table)) % 2, LEFT_CORTEX, RIGHT_CORTEX)
    for theirs, value in FREESURFER_VALUES.items():
        table[theirs] = value
    return table


def _recoded(labels: sitk.Image, table: np.ndarray) -> sitk.Image:
    return Geometry.of(labels).image(table[voxels_of(labels)])


def _write_case(dataset: Path, part: str, name: str, image: sitk.Image, labels: sitk.Image) -> None:
    for folder, file, content in ((f"images{part}", f"{name}_0000", image), (f"labels{part}", name, labels)):
        with OutputFiles() as files:
            write_image(files.begin(dataset / folder / f"{file}.nii.gz"), content)


def _describe(dataset: Path, recipe: str, channel: str, cases: int) -> None:
    """``dataset.json`` as nnU-Net reads it, with the labels of ``recipe``."""
    labels = [Label.from_dict(entry) for entry in Recipe.load(recipe).card["labels"]]
    values: Mapping[str, int] = {"background": 0} | {label.name: label.value for label in labels}
    content = {
        "name": recipe,
        "channel_names": {"0": channel},
        "labels": values,
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    write_whole(dataset / "dataset.json", json.dumps(content, indent=1) + "\n")


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def prepare_malc(source: Path, dataset: Path) -> None:
    """Lay out MALC and say how many cases there are; errors as of :func:`lay_out_malc`."""
    refuse_overwriting([source], [dataset])
    counts = lay_out_malc(source, dataset)
    print(f"{counts['Tr']} cases for training, {counts['Ts']} for test")


def prepare_visceral(source: Path, dataset: Path, test: bool = False) -> None:
    """Lay out VISCERAL and say how many cases there are; errors as of :func:`lay_out_visceral`.

    Args:
        source, dataset: see there.
        test: the cases are for test only.
    """
    refuse_overwriting([source], [dataset])
    count, left_out = lay_out_visceral(source, dataset, "Ts" if test else "Tr")
    print(f"{count} cases" + (f"; without all structures: {', '.join(left_out)}" if left_out else ""))


def label_scans(model: str, reference: Path, others: Sequence[Path], output: Path) -> list[str]:
    """Segment ``reference`` and write it and ``others`` with that segmentation as their labels.

    Args:
        model: name or folder.
        reference: the scan that the model knows best.
        others: scans of the same patient on the same grid, ``.nii.gz``.
        output: folder that gets ``imagesTr`` and ``labelsTr``, all files or none.

    Returns:
        The names of the cases.

    Raises:
        InputError: a scan cannot be read, is no ``.nii.gz``, or lies on another grid.
        ModelError: there is no such model.
        UsageError: two scans are one or have one name, or a case of that name has another image or other labels.
        OutputError: a file cannot be written.
    """
    image = read_volume(reference, None)
    scans = [reference, *others]
    for number, path in enumerate(scans):
        if not path.name.endswith(".nii.gz"):
            raise InputError(f"{path} is no .nii.gz file.", "Convert it first.")
        if path.exists() and any(other.exists() and path.samefile(other) for other in scans[:number]):
            raise UsageError(f"The scan {path} is named twice.", "Name each scan once.")
        if not same_grid(read_volume(path, None), image):
            raise InputError(f"{path} does not lie on the grid of {reference}.", "Register and resample it first.")
    names = [path.name.removesuffix(".nii.gz").removesuffix("_0000") for path in scans]
    cases = {
        path: (output / "imagesTr" / f"{name}_0000.nii.gz", output / "labelsTr" / f"{name}.nii.gz")
        for name, path in zip(names, scans, strict=True)
    }
    refuse_overwriting(scans, [path for both in cases.values() for path in both])
    for path, (own_image, own_labels) in cases.items():
        check_writable(own_image)
        check_writable(own_labels)
        if own_image.exists() and sha256_of(own_image) != sha256_of(path):
            raise _other_case(own_image, f"is another scan than {path}")
    labels = Engine(find_model(model)).segment(image).labels
    for _, own_labels in cases.values():
        if own_labels.exists() and not _same_labels(own_labels, labels):
            raise _other_case(own_labels, f"holds other labels than the model finds on {reference}")
    with OutputFiles() as files:
        for path, (own_image, own_labels) in cases.items():
            files.write(own_image, path.read_bytes())
            write_image(files.begin(own_labels), labels)
    return names


def _other_case(path: Path, what: str) -> UsageError:
    return UsageError(
        f"{path} {what}, and would be overwritten.", "Rename the scan, choose another folder, or remove that case."
    )


def _same_labels(path: Path, labels: sitk.Image) -> bool:
    there = read_label_volume(path)
    return same_grid(there, labels) and np.array_equal(voxels_of(there), voxels_of(labels))


def draw_gallery(dataset: Path, recipe: Recipe, seed: int = 0) -> Image.Image:
    """Draw random training slices of ``recipe`` on ``dataset``, in the size and resolution of its last phase.

    Views of slices are drawn, or of a model that has none the middle slices of what its volumetric views see. Every
    slice stands twice: as the networks see it, and with the target in the labels' colours. Where a view merges
    left and right, both have the colour of the left.

    Raises:
        InputError, UsageError: dataset or recipe cannot be used.
    """
    card = draft_card(recipe)
    source = open_source(dataset, recipe, card, torch.device("cpu"))
    volumetric = [view for view in card.views if view.volumetric]
    views = [view for view in card.views if not view.volumetric] or volumetric
    last = (recipe.specialise or recipe.phases or recipe.volumetric.phases)[-1]
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    batch = source.batch(views, replace(last, batch=COUNT), generator)
    if views is volumetric:  # of stacks the middle slices
        middle = last.depth // 2
        batch = replace(batch, images=batch.images[:, :, middle], target=batch.target[:, middle])
    return _compose(batch, card)


def _compose(batch: Batch, card: ModelCard) -> Image.Image:
    palette = np.array([(0, 0, 0), *(label.color for label in card.labels)], np.float32)
    middle = batch.images[:, batch.images.shape[1] // 2].clamp(0, 1).numpy()
    grey = np.repeat(255 * middle[..., None], 3, axis=-1)
    target = batch.target.numpy()
    opacity = np.where(target > 0, OPACITY, 0.0)[..., None]
    pairs = np.concatenate([grey, (1 - opacity) * grey + opacity * palette[target]], axis=2)
    pairs = pairs[:, ::-1]  # rows run to the front or to the head; a picture from top to bottom
    rows = [np.concatenate(list(pairs[start : start + IN_A_ROW]), axis=1) for start in range(0, len(pairs), IN_A_ROW)]
    return Image.fromarray(np.concatenate(rows).astype(np.uint8))


def write_gallery(dataset: Path, recipe: str, output: Path, seed: int = 0) -> None:
    """Write the picture of :func:`draw_gallery` to ``output``, a .png or .jpg.

    Raises:
        UsageError: ``output`` has another ending, or would overwrite what is read.
        SegmentationError: as of :func:`draw_gallery`.
    """
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(output.suffix.lower())
    if kind is None:
        raise UsageError(f"{output} ends neither in .png nor in .jpg.", "Choose another name for -o.")
    refuse_overwriting([*dataset_paths(dataset), Path(recipe)], [output])
    check_writable(output)
    content = io.BytesIO()
    draw_gallery(dataset, Recipe.load(recipe), seed).save(content, format=kind)
    write_whole(output, content.getvalue())

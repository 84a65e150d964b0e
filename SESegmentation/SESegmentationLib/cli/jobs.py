"""Which volumes are segmented, where each result goes, and how many are worked on at once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..errors import SegmentationError, UsageError
from ..files import same_name
from ..io.formats import PICTURE_ENDINGS, is_picture, read_header

VOLUME_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh")
OUTPUT_ENDINGS = (".seg.nrrd", ".nii.gz", ".nii")
#: the same for models of slices
SLICE_OUTPUT_ENDINGS = (*OUTPUT_ENDINGS, ".png")
#: endings by which a name is meant as a file, though not as one that can be written
_FILE_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd", ".gz", ".dcm", ".png", ".json", ".txt", ".stl", ".zip", ".mgz")


@dataclass(frozen=True)
class Job:
    """One volume to segment.

    Attributes:
        source: file, or folder of a DICOM series.
        output: file of the segmentation.
    """

    source: Path
    output: Path


def plan_jobs(volumes: Sequence[Path], output: Path, file_format: str | None = None, slices: bool = False) -> list[Job]:
    """Pair every volume with its output.

    Args:
        volumes: files, folders of volumes, folders of a DICOM series.
        output: a file that ends in one of ``OUTPUT_ENDINGS`` (for one volume only), or a folder.
        file_format: "seg.nrrd" or "nii.gz" (the default) for outputs in a folder; "png" (the default for pictures).
        slices: whether the model takes slices: then folders may hold pictures, and outputs be PNG files.

    Raises:
        UsageError: the output does not suit, or two results would go to one file.
    """
    sources = [source for volume in volumes for source in expand(volume, slices)]
    if not sources:
        raise UsageError("There is no volume to segment.", "Name at least one file or folder.")
    if file_format == "png" and not slices:
        raise UsageError("Only models of slices write PNG files.", "Choose --format nii.gz or seg.nrrd.")
    endings = SLICE_OUTPUT_ENDINGS if slices else OUTPUT_ENDINGS
    name = output.name.lower()
    ending = next((ending for ending in endings if name.endswith(ending)), None)
    if ending and not output.is_dir():
        if len(sources) > 1:
            raise UsageError(
                f"{len(sources)} volumes cannot go into the one file {output}.", "Name a folder with -o instead."
            )
        if file_format and not name.endswith(f".{file_format}"):
            raise UsageError(
                f"{output.name} does not end in .{file_format}.", "Leave out --format, or change the name."
            )
        jobs = [Job(sources[0], output)]
    elif output.is_file() or (not output.is_dir() and output.suffix.lower() in _FILE_ENDINGS):
        raise UsageError(f"{output} is neither .seg.nrrd nor .nii.gz nor a folder.", "Choose one of these with -o.")
    else:
        jobs = [
            Job(source, output / f"{name}.{file_format or _format(source)}")
            for source, name in case_names(sources).items()
        ]
    return jobs


def expand(volume: Path, slices: bool = False) -> list[Path]:
    """The volumes that a path stands for: those in a folder; the folder itself where it holds none (DICOM).

    Args:
        slices: count pictures too.
    """
    if not volume.is_dir():
        return [volume]
    endings = (*VOLUME_ENDINGS, *PICTURE_ENDINGS) if slices else VOLUME_ENDINGS
    inside = sorted(
        path for path in volume.iterdir() if path.name.lower().endswith(endings) and not path.name.startswith(".")
    )
    return inside or [volume]


def case_names(sources: Sequence[Path]) -> dict[Path, str]:
    """A name for the result of each source; of one that is given twice, one.

    It is that of :func:`case_name`. Where several have the same, folders stand before it, as many as tell them apart:
    ``sub-01_anat_T1w``; in one folder their endings are part of the name: ``scan_nii``, ``scan_mha``.

    Raises:
        UsageError: sources that neither tells apart.
    """
    names: dict[Path, str] = {}
    alike: dict[str, list[Path]] = {}
    sources = list(dict.fromkeys(sources))
    for source in sources:
        alike.setdefault(same_name(case_name(source)), []).append(source)
    for group in alike.values():
        names |= _told_apart(group)
    taken: dict[str, Path] = {}
    for source in sources:
        other = taken.setdefault(same_name(names[source]), source)
        if other is not source:
            raise UsageError(
                f"{other} and {source} would both be written to {names[source]}.",
                "Segment them in two calls with different folders.",
            )
    return {source: names[source] for source in sources}


def _told_apart(group: Sequence[Path]) -> dict[Path, str]:
    """Names for sources of one case name."""
    folders = {source: Path(os.path.abspath(source)).parent.parts[1:] for source in group}
    for count in range(0 if len(group) == 1 else 1, max(map(len, folders.values())) + 1):
        names = {
            source: "_".join([*folders[source][len(folders[source]) - count :], case_name(source)]) for source in group
        }
        if len({same_name(name) for name in names.values()}) == len(group):
            return names
    # files of one folder that differ in their endings only
    return {source: case_name(source) if len(group) == 1 else source.name.replace(".", "_") for source in group}


def case_name(source: Path) -> str:
    """Name of the case: the file's name without its ending and without nnU-Net's channel number ``_0000``.

    A link has the name that it bears itself: what it leads to may be called by a hash.
    """
    name = Path(os.path.abspath(source)).name
    for ending in (*VOLUME_ENDINGS, *PICTURE_ENDINGS, ".dcm"):
        if name.lower().endswith(ending):
            name = name[: -len(ending)]
            break
    return name.removesuffix("_0000") or name


def _format(source: Path) -> str:
    """The format of a result in a folder: PNG for pictures of one page."""
    return "png" if is_picture(source) and not source.name.lower().endswith((".tif", ".tiff")) else "nii.gz"


#: a volume with more voxels on the model's grid, about 100^3, keeps all cores busy by itself, and needs the memory
SMALL = 1_000_000

Done = TypeVar("Done")
Task = TypeVar("Task")


def all_small(volumes: Sequence[Path], spacing: Sequence[float]) -> bool:
    """Whether every volume has at most ``SMALL`` voxels of ``spacing`` (mm); a DICOM folder counts as large.

    Only headers are read; a file that has none that is known here counts as small where it has few bytes.
    """
    return not any(volume.is_dir() or _voxels(volume, spacing) > SMALL for volume in volumes)


def _voxels(volume: Path, spacing: Sequence[float]) -> float:
    try:
        header = None if is_picture(volume) else read_header(volume)
        if header is None:
            return volume.stat().st_size
        extent = np.multiply(header.size, np.linalg.norm(header.affine[:3, :3], axis=0))
    except (SegmentationError, OSError):
        return 0  # it will be refused
    return float(np.prod(extent / np.asarray(spacing)))


def side_by_side(work: Callable[[Task], Done], tasks: Iterable[Task]) -> Iterator[Done]:
    """What ``work`` gives for each of ``tasks``, in their order, each on one core. What it raises ends the rest.

    Tasks are drawn in the thread that asks for results, a few ahead of what is done.
    """
    from ..predict.device import MAX_WORKERS, compute_pool

    cores = min(MAX_WORKERS, os.cpu_count() or 1)
    begun: deque[Future[Done]] = deque()
    with compute_pool(cores) as pool:
        for task in tasks:
            begun.append(pool.submit(work, task))
            if len(begun) == 2 * cores:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()

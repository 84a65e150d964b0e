"""Which volumes are segmented and where each result goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..inference.pictures import PICTURE_ENDINGS, is_picture

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
    ending = next((ending for ending in endings if output.name.endswith(ending)), None)
    if ending and not output.is_dir():
        if len(sources) > 1:
            raise UsageError(
                f"{len(sources)} volumes cannot go into the one file {output}.", "Name a folder with -o instead."
            )
        if file_format and not output.name.endswith(f".{file_format}"):
            raise UsageError(
                f"{output.name} does not end in .{file_format}.", "Leave out --format, or change the name."
            )
        jobs = [Job(sources[0], output)]
    elif output.is_file() or (not output.is_dir() and output.suffix.lower() in _FILE_ENDINGS):
        raise UsageError(f"{output} is neither .seg.nrrd nor .nii.gz nor a folder.", "Choose one of these with -o.")
    else:
        jobs = [Job(source, output / f"{case_name(source)}.{file_format or _format(source)}") for source in sources]
    _refuse_collisions(jobs)
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


def case_name(source: Path) -> str:
    """Name of the case: the file's name without its ending and without nnU-Net's channel number ``_0000``."""
    name = source.resolve().name
    for ending in (*VOLUME_ENDINGS, *PICTURE_ENDINGS, ".dcm"):
        if name.lower().endswith(ending):
            name = name[: -len(ending)]
            break
    return name.removesuffix("_0000") or name


def _format(source: Path) -> str:
    """The format of a result in a folder: PNG for pictures of one page."""
    return "png" if is_picture(source) and not source.name.lower().endswith((".tif", ".tiff")) else "nii.gz"


def _refuse_collisions(jobs: Sequence[Job]) -> None:
    sources = {job.source.resolve() for job in jobs}
    outputs: dict[Path, Path] = {}
    for job in jobs:
        target = job.output.resolve()
        if target in sources:
            raise UsageError(f"The output {job.output} would overwrite a volume.", "Choose another folder with -o.")
        if target in outputs:
            raise UsageError(
                f"{outputs[target]} and {job.source} would both be written to {job.output}.",
                "Segment them in two calls with different folders.",
            )
        outputs[target] = job.source

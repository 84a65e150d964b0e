"""Which volumes are segmented, where each result goes, and how many are worked on at once."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from SESegmentationExport.dicom_options import DicomOptions

from ..client.reading import reading_process
from ..errors import DependencyError, SegmentationError, UsageError, install_advice
from ..files import OutputFiles, refuse_same_names, same_name
from ..io.dicom import is_dicom, looks_like_dicom
from ..io.formats import PICTURE_ENDINGS, VOLUME_ENDINGS, is_picture, is_volume, read_header
from ..io.segmentations import algorithm_name
from ..progress import at_early_end
from .remedies import DICOM_REMEDY

if TYPE_CHECKING:
    import SimpleITK as sitk

    from SESegmentationExport.dicom_seg import SourceSeries

    from ..client import Segmenter
    from ..client.servers import Server
    from ..result import SegmentationResult

#: of a segmentation, which is no volume to segment
SEGMENTATION_ENDING = ".seg.nrrd"
OUTPUT_ENDINGS = (SEGMENTATION_ENDING, ".nii.gz", ".nii", ".dcm")
#: the same for models of slices
SLICE_OUTPUT_ENDINGS = (*OUTPUT_ENDINGS, ".png")
#: endings that mean a file, not a folder, though none that can be written
_FILE_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd", ".gz", ".png", ".json", ".txt", ".stl", ".zip", ".mgz")
#: a volume of more voxels on the model's grid (about 100^3) runs alone: it uses all cores, and needs the memory
SMALL = 1_000_000
Done = TypeVar("Done")
Task = TypeVar("Task")


@dataclass(frozen=True)
class FileJob:
    """One volume to segment.

    Attributes:
        source: file, or folder of a DICOM series.
        output: file of the segmentation.
        series: UID of one of several DICOM series in the source.
    """

    source: Path
    output: Path
    series: str | None = None

    @property
    def as_dicom(self) -> bool:
        """Whether the segmentation is written as DICOM."""
        return self.output.name.lower().endswith(".dcm")


def plan_jobs(
    volumes: Sequence[Path],
    output: Path,
    file_format: str | None = None,
    slices: bool = False,
    series: str | None = None,
) -> list[FileJob]:
    """Pair every volume with its output.

    Args:
        volumes: files, folders of volumes, folders of a DICOM series.
        output: a file that ends in one of ``OUTPUT_ENDINGS`` (for one volume only), or a folder.
        file_format: "seg.nrrd", "dcm" or "nii.gz" (the default) for outputs in a folder; "png" (the default for
            pictures).
        slices: whether the model takes slices: then folders may hold pictures, and outputs be PNG files.
        series: which of several DICOM series is wanted.

    Raises:
        UsageError: the output does not suit, two results would go to one file, or a folder has two kinds of input.
    """
    sources = [source for volume in volumes for source in expand(volume, slices, series)]
    if not sources:
        raise UsageError("There is no volume to segment.", "Name at least one file or folder.")
    if file_format == "png" and not slices:
        raise UsageError("Only models of single pictures write PNG files.", "Choose --format nii.gz or seg.nrrd.")
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
        jobs = [FileJob(sources[0], output)]
    elif output.is_file() or (not output.is_dir() and output.suffix.lower() in _FILE_ENDINGS):
        raise UsageError(
            f"{output} is neither .seg.nrrd nor .nii.gz nor .dcm nor a folder.", "Choose one of these with -o."
        )
    else:
        jobs = [
            FileJob(source, output / f"{name}.{file_format or result_format(source)}")
            for source, name in case_names(sources).items()
        ]
    return jobs


def check_dicom(jobs: Sequence[FileJob], options: DicomOptions) -> list[Path]:
    """The files that are written besides those of the jobs, where these are written as DICOM.

    Raises:
        UsageError: DICOM options are given for another output format, or a volume is not DICOM.
        DependencyError: highdicom is not installed.
    """
    as_dicom = [job for job in jobs if job.as_dicom]
    if not as_dicom:
        if options != DicomOptions():
            raise UsageError(
                "--seg-type, --sr, --secondary-capture and --deidentify are for results that are written as DICOM.",
                DICOM_REMEDY,
            )
        return []
    if find_spec("highdicom") is None:
        raise DependencyError(
            "Writing results as DICOM needs the Python package highdicom, which is not installed.",
            install_advice("highdicom"),
        )
    for job in as_dicom:
        if job.source.is_file() and not is_dicom(job.source):
            raise UsageError(
                f"{job.source} is not a DICOM series, and a DICOM segmentation must refer to one.",
                "Write .nii.gz or .seg.nrrd instead.",
            )
    return [path for job in as_dicom for path in options.outputs(job.output)]


def read_source(job: FileJob, options: DicomOptions, series: str | None) -> SourceSeries | None:
    """The series to which a result refers that is written as DICOM; None where it is not."""
    if not job.as_dicom:
        return None
    from SESegmentationExport.dicom_seg import SourceSeries

    return SourceSeries.read(job.source, job.series or series, options.deidentify)


def prepare_to_segment() -> None:
    """Before the libraries are imported that compute: start the process that reads files, and let threads wait idly."""
    # threads that wait by spinning slow each other down tenfold where other programs use the cores too
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    reading_process().start()


@contextlib.contextmanager
def segmenter_on(server: Server) -> Iterator[Segmenter]:
    """A segmenter that uses a server; if this program is ended meanwhile, the server is notified."""
    from ..client.remote import RemoteSegmenter

    with RemoteSegmenter(server) as segmenter:
        at_early_end.append(segmenter.close)
        try:
            yield segmenter
        finally:
            at_early_end.remove(segmenter.close)


def refuse_on_server(option: str) -> None:
    """Raise UsageError for an option that a server does not have."""
    raise UsageError(f"{option} is not available on a server.", f"Leave out {option}, or --server.")


def write_result(
    files: OutputFiles,
    job: FileJob,
    image: sitk.Image,
    result: SegmentationResult,
    source: SourceSeries | None,
    options: DicomOptions,
    corrected: bool = False,
) -> None:
    """Write the segmentation of ``image`` as the job wants it; see :func:`..io.writing.write_segmentation`."""
    if source is None:
        from ..io.writing import write_segmentation

        structures = [structure.label for structure in result.structures]
        algorithm = algorithm_name(result.model.name, result.model.version)
        write_segmentation(files.begin(job.output), result.labels, structures, algorithm, corrected)
        return
    from SESegmentationExport.dicom_seg import write_dicom

    write_dicom(files, job.output, image, result, source, options, corrected)


def expand(volume: Path, slices: bool = False, series: str | None = None) -> list[Path]:
    """The volumes that a path stands for: those in a folder; the folder itself where it holds none (DICOM).

    Args:
        slices: count pictures too.
        series: which of several DICOM series is wanted: of volumes and DICOM in one folder, DICOM is meant.

    Raises:
        UsageError: a folder holds both, and nothing tells which is meant; it holds volumes in its subfolders only.
    """
    if not volume.is_dir():
        return [volume]
    inside = sorted(path for path in volume.iterdir() if is_input(path, slices) and not path.name.startswith("."))
    below = None if inside else next((file for file in _files_near(volume) if is_input(file, slices)), None)
    if not inside and below is None:
        return [volume]
    others = (file for file in _files_near(volume) if not is_input(file, slices))
    dicom = next(filter(looks_like_dicom, others), None)
    if below is not None:
        if dicom is not None or series is not None:
            return [volume]
        raise UsageError(
            f"{volume} holds volumes in its subfolders only, such as {below.relative_to(volume)}.",
            "Name the folders or files that are meant, or segment all: sesegment cohort.",
        )
    if dicom is None:
        return inside
    if series is not None:
        return [volume]
    raise UsageError(
        f"{volume} holds volumes, such as {inside[0].name}, and DICOM files, such as {dicom.relative_to(volume)}.",
        "Name the files of the volumes, or choose a DICOM series with --series.",
    )


def is_input(file: Path, slices: bool = False) -> bool:
    """Whether a file in a folder is one to segment; segmentations are what earlier runs left.

    Args:
        slices: count pictures too.
    """
    if file.name.lower().endswith(SEGMENTATION_ENDING):
        return False
    return is_volume(file) or (slices and is_picture(file))


def _files_near(folder: Path) -> Iterator[Path]:
    """The files of a folder and of its subfolders, without hidden ones; no deeper, as below may lie a whole disk."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if Path(place) == folder else []
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def case_names(sources: Sequence[Path]) -> dict[Path, str]:
    """A name for the result of each source; a source given twice gets one.

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
        names |= _distinct_names(group)
    names = {source: names[source] for source in sources}
    refuse_same_names(names.items(), "Segment them in two calls with different folders.")
    return names


def _distinct_names(group: Sequence[Path]) -> dict[Path, str]:
    """Distinct names for sources that share a case name."""
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
    for ending in (*VOLUME_ENDINGS, ".img.gz", ".img", *PICTURE_ENDINGS, ".dcm"):
        if name.lower().endswith(ending):
            name = name[: -len(ending)]
            break
    return name.removesuffix("_0000") or name


def result_format(source: Path) -> str:
    """The format of a result in a folder: PNG for pictures of one page."""
    return "png" if is_picture(source) and not source.name.lower().endswith((".tif", ".tiff")) else "nii.gz"


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
    """Results of ``work`` for each of ``tasks``, in order, each computed on one core. An exception ends the iteration.

    Tasks are taken in the thread that iterates over the results, a few ahead of the results.
    """
    from ..inference.device import MAX_WORKERS, compute_pool

    cores = min(MAX_WORKERS, os.cpu_count() or 1)
    begun: deque[Future[Done]] = deque()
    with compute_pool(cores) as pool:
        for task in tasks:
            begun.append(pool.submit(work, task))
            if len(begun) == 2 * cores:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()

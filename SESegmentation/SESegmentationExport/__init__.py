"""Exports of results: as DICOM for archives, as tables for other tools, as pages to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from SESegmentationLib.errors import DependencyError, UsageError, install_advice

if TYPE_CHECKING:
    import jinja2
    import SimpleITK as sitk

    from SESegmentationLib.files import OutputFiles
    from SESegmentationLib.result import SegmentationResult


class Export:
    """What is made of a run besides segmentations; this one makes nothing.

    A context manager, entered before the first volume and left after the last, or with the error that ended the run.

    Attributes:
        outputs: the files that will be written.
        place: a file in the folder of all outputs, to check that it is writable; None: the first output.
    """

    outputs: Sequence[Path] = ()
    place: Path | None = None

    def take(
        self, files: OutputFiles, volume: Path, image: sitk.Image, result: SegmentationResult, report: Mapping[str, Any]
    ) -> None:
        """Write to ``files`` what belongs to one volume; from any thread, before :meth:`add`."""

    def add(self, volume: Path, report: Mapping[str, Any]) -> None:
        """Add a volume by its report, or by the error if it failed; called in order."""

    def __enter__(self) -> Export:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def file_per_volume(
    option: str, path: Path, names: Mapping[Path, str], endings: Sequence[str], inside: str
) -> dict[Path, Path]:
    """The file that is written for each volume.

    Args:
        option: of the command line that gave ``path``, for messages.
        path: a file, for one volume only, or a folder.
        names: the volumes with their names.
        endings: those that name a file.
        inside: path of a file within the folder, with ``{}`` for the name of the volume.

    Raises:
        UsageError: ``path`` is one file for several volumes, or has another ending.
    """
    if path.name.lower().endswith(tuple(endings)) and not path.is_dir():
        if len(names) > 1:
            raise UsageError(
                f"{len(names)} volumes cannot go into the one file {path}.", f"Name a folder with {option} instead."
            )
        return dict.fromkeys(names, path)
    if path.suffix and not path.is_dir():
        raise UsageError(
            f"{path} does not end in {' or '.join(endings)}.", f"Choose another name for {option}, or a folder."
        )
    return {volume: path / inside.format(name) for volume, name in names.items()}


def require_packages(what: str, *packages: str) -> None:
    """Raise DependencyError unless the Python packages that make ``what`` are installed."""
    modules = {"pillow": "PIL"}
    for package in packages:
        if find_spec(modules.get(package, package)) is None:
            raise DependencyError(f"{what} needs the Python package {package}.", install_advice(package))


def templates() -> jinja2.Environment:
    """The Jinja environment of the pages' templates, which escapes all that is put into them."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)

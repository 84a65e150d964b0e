"""Segmentation of medical volumes by networks with squeeze & excitation blocks (Roy et al., IEEE TMI 2019).

In five lines of Python, a volume in, named structures out. Example::

    from SESegmentationLib import save, segment

    result = segment("head.nii.gz", model="brain-mr")
    for structure in result.structures:
        print(f"{structure.label.name}: {structure.volume_ml:.1f} ml")
    save(result, "head.seg.nrrd")
"""

# importing this package loads neither torch nor SimpleITK: the functions do

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import SimpleITK as sitk

    from .models import ModelPackage
    from .progress import Progress
    from .result import SegmentationResult

__version__ = "0.1.0"
__all__ = ["__version__", "save", "segment"]


def segment(
    image: sitk.Image | str | os.PathLike[str],
    model: str | ModelPackage = "brain-mr",
    *,
    device: str = "auto",
    fast: bool = False,
    progress: Progress | None = None,
) -> SegmentationResult:
    """Segment a volume. For many volumes make one :class:`~SESegmentationLib.inference.engine.Engine`, and keep it.

    Args:
        image: a 3-D scalar volume, LPS and mm as everywhere in SimpleITK; or its file or DICOM folder.
        model: the name of a model, the folder of one, or the result of :func:`~SESegmentationLib.models.find_model`.
        device: "auto", "cpu", "cuda", "cuda:1", ..., "mps".
        fast: use only the view with the largest weight.
        progress: called with phase, fraction and seconds left; may raise to cancel.

    Returns:
        Labels on the grid of ``image``, and the measurements of each structure.

    Raises:
        SegmentationError: one of its subclasses, see :mod:`SESegmentationLib.errors`: the volume cannot be read or
            segmented, there is no such model, or memory or device are insufficient.
    """
    from .inference.engine import Engine
    from .io.reading import read_volume
    from .models import ModelPackage, find_model
    from .progress import no_progress
    from .result import SegmentOptions

    package = model if isinstance(model, ModelPackage) else find_model(model)
    volume = read_volume(Path(image)) if isinstance(image, str | os.PathLike) else image
    return Engine(package, device).segment(volume, SegmentOptions(fast=fast), progress=progress or no_progress)


def save(result: SegmentationResult, path: str | os.PathLike[str]) -> None:
    """Write the labels of a result, whole or not at all.

    Args:
        result: of :func:`segment`.
        path: ends in ``.seg.nrrd`` (segments with name, colour and terminology), ``.nii.gz`` or ``.nii``.

    Raises:
        UsageError: the folder cannot be written to.
        OutputError: the file cannot be written (disk full, for example).
    """
    from .files import OutputFiles
    from .io.segmentations import algorithm_name
    from .io.writing import write_segmentation

    with OutputFiles() as files:
        write_segmentation(
            files.begin(Path(path)),
            result.labels,
            [structure.label for structure in result.structures],
            algorithm_name(result.model.name, result.model.version),
        )

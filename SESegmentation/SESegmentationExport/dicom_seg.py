"""Results as DICOM: segmentations that refer to the series they were made from, and pictures of them.

Patient, study and frame of reference are the series' own. highdicom builds the objects.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import generate_uid
from pydicom.valuerep import DA, STR_VR, TM, DSfloat

from SESegmentationExport.dicom_options import DicomOptions, SegmentationType, beside
from SESegmentationLib import __version__
from SESegmentationLib.errors import InputError, SegmentationError
from SESegmentationLib.files import OutputFiles
from SESegmentationLib.geometry import Geometry, same_grid
from SESegmentationLib.io.dicom.frames import DicomFrame, frames_of
from SESegmentationLib.io.dicom.headers import DicomHeader, all_tags, text_of
from SESegmentationLib.io.dicom.series import Found, choose_series
from SESegmentationLib.io.dicom.stack import Stack
from SESegmentationLib.io.drawing import draw_picture
from SESegmentationLib.io.segmentations import algorithm_name
from SESegmentationLib.io.volume_image import affine_of, voxels_of
from SESegmentationLib.models import Code, Label
from SESegmentationLib.result import SegmentationResult

if TYPE_CHECKING:
    import highdicom as hd

#: manufacturer and model name of the equipment in written objects
NAME = "SESegmentation"
#: beginning of the description of every series that is written
PURPOSE = "For research"
_LONGEST = 64  # characters of DICOM's value representations LO and PN
_ELSE = "Write .nii.gz or .seg.nrrd instead."
#: attributes that segmentations and reports must have, empty where the series has none
_PATIENT_AND_STUDY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    *("StudyTime", "ReferringPhysicianName"),
)
#: attributes that highdicom accepts in one form only, with functions that convert to it
_FORMS: dict[str, Callable[[str], object]] = {
    "PatientBirthDate": DA,
    "StudyDate": DA,
    "StudyTime": TM,
    "PatientSex": lambda sex: ["", "M", "F", "O"].index(sex),
}
#: control characters, which no text may hold; and, for texts of several lines, all but ends of lines and pages
_CONTROLS, _CONTROLS_IN_LINES = re.compile(r"[\x00-\x1f\x7f-\x9f]+"), re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]+")
_OF_LINES = ("LT", "ST", "UT")


@dataclass(frozen=True)
class SourceSeries:
    """The series that a volume was read from.

    Attributes:
        images: its images without pixels: one for each slice, in the volume's order, or one multi-frame image.
        further: the other multi-frame images, if there are several.
        slices: the frame that each slice of the volume was read from.
        geometry: the volume's.
        name: for messages.
    """

    images: list[Dataset]
    further: list[Dataset]
    slices: list[DicomFrame]
    geometry: Geometry
    name: str

    @classmethod
    def read(cls, path: Path, series: str | None = None, deidentify: bool = False) -> SourceSeries:
        """Read what a segmentation of a series needs of it.

        Args:
            path: as :func:`SESegmentationLib.io.dicom.read_dicom` takes it.
            series: which of several, as there.
            deidentify: without patient and study.

        Raises:
            InputError: there is no such series; it lacks an attribute that results must refer to.
        """
        headers = choose_series(Found.at(path), series, path).headers
        frames = frames_of(headers, str(path))
        stack = Stack.of(frames, str(path))
        slices = [images[0] for images in stack.places]
        size = (*slices[0].size, len(slices))
        geometry = Geometry(size, stack.spacing, stack.origin, tuple(stack.direction.ravel()))
        about = _patient_and_study(slices[0].file, deidentify)
        by_file = {header.path: header for header in headers}
        first = slices[0]
        thickness = first.thickness or stack.spacing[2]
        if "PerFrameFunctionalGroupsSequence" not in by_file[first.file].dataset:
            # patient and study are taken from the first
            images = [
                _single_frame_image(Dataset() if one is not first else about, by_file[one.file], one, first, thickness)
                for one in slices
            ]
            return cls(images, [], slices, geometry, str(path))
        files = [
            _multi_frame_image(
                about, header, [frame for frame in frames if frame.file == header.path], first, thickness
            )
            for header in headers
        ]
        return cls(files[:1], files[1:], slices, geometry, str(path))


def _patient_and_study(file: Path, deidentify: bool) -> Dataset:
    """All attributes of a file without pixels, in UTF-8; where ``deidentify``, none."""
    about = Dataset() if deidentify else all_tags(file)
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        about.pop(keyword, None)
    with pydicom.config.disable_value_validation():
        about.walk(_clean)
    about.SpecificCharacterSet = "ISO_IR 192"  # structures have names in any language
    for keyword in _PATIENT_AND_STUDY:
        try:
            about.setdefault(keyword, "")
            _FORMS.get(keyword, str)(text_of(about, keyword))
        except ValueError:
            setattr(about, keyword, "")
    return about


def _clean(_dataset: Dataset, element: DataElement) -> None:
    """Replace control characters in an attribute's texts by spaces; readers of DICOM refuse them."""
    if element.VR not in STR_VR or not element.value:
        return
    controls = _CONTROLS_IN_LINES if element.VR in _OF_LINES else _CONTROLS
    values = element.value if isinstance(element.value, MultiValue) else [element.value]
    if any(controls.search(str(value)) for value in values):
        element.value = [controls.sub(" ", str(value)).strip() for value in values]


def _described(about: Dataset, header: DicomHeader, first: DicomFrame) -> Dataset:
    """An image of the series: its UIDs and size, and what is known of patient and study."""
    image = Dataset()
    image.update(copy.deepcopy(about))  # elements would be shared
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        if not (value := header.text(keyword)):
            raise InputError(f"{header.path} has no {keyword}, to which results as DICOM must refer.", _ELSE)
        setattr(image, keyword, value)
    image.Modality = header.text("Modality") or "OT"
    image.Columns, image.Rows = first.size
    return image


def _single_frame_image(
    about: Dataset, header: DicomHeader, frame: DicomFrame, first: DicomFrame, thickness: float
) -> Dataset:
    image = _described(about, header, first)
    image.ImagePositionPatient = _decimal_strings(frame.position)
    image.ImageOrientationPatient = _decimal_strings(first.axes.ravel())  # others differ by rounding only
    image.PixelSpacing = _decimal_strings(first.pixel_mm[::-1])
    image.SliceThickness = _decimal_strings([thickness])[0]
    image.pop("SpacingBetweenSlices", None)  # found from the positions
    return image


def _multi_frame_image(
    about: Dataset, header: DicomHeader, frames: Sequence[DicomFrame], first: DicomFrame, thickness: float
) -> Dataset:
    image = _described(about, header, first)
    image.NumberOfFrames = len(frames)
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = _decimal_strings(first.pixel_mm[::-1])
    measures.SliceThickness = _decimal_strings([thickness])[0]
    orientation.ImageOrientationPatient = _decimal_strings(first.axes.ravel())
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    groups = []
    for frame in sorted(frames, key=lambda frame: frame.number):
        group, position = Dataset(), Dataset()
        position.ImagePositionPatient = _decimal_strings(frame.position)
        group.PlanePositionSequence = [position]
        groups.append(group)
    image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence = [shared], groups
    return image


def _decimal_strings(values: Sequence[float] | np.ndarray) -> list[DSfloat]:
    return [DSfloat(float(value), auto_format=True) for value in values]


def write_dicom(
    files: OutputFiles,
    path: Path,
    image: sitk.Image,
    result: SegmentationResult,
    source: SourceSeries,
    options: DicomOptions,
    corrected: bool = False,
) -> None:
    """Write a result as DICOM segmentation, and what belongs to it.

    Args:
        files: outputs, whole or not at all.
        path: the segmentation; see :func:`SESegmentationExport.dicom_options.beside` for the others.
        image: the volume, for the picture.
        result: on the series' grid or any other in its frame of reference.
        source: the series.
        options: what is written.
        corrected: a person has edited it.

    Raises:
        InputError: attributes of the series cannot be used in results.
        OutputError: a file cannot be written.
    """
    from .dicom_sr import build_structured_report

    try:
        with _quiet():
            segmentation = build_segmentation(result, source, options.seg_type, corrected)
            _save(files, path, segmentation, options)
            del segmentation.PixelData  # it may be large
            if options.report:
                _save(files, beside(path, "sr"), build_structured_report(result, source, segmentation), options)
            if options.capture:
                _save(files, beside(path, "sc"), build_capture(image, result, source), options)
    except (SegmentationError, MemoryError, OSError):
        raise
    except Exception as error:  # whatever strange attributes of the series make highdicom and pydicom raise
        raise InputError(f"{source.name}: results cannot refer to this series as DICOM: {error}", _ELSE) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings of highdicom and pydicom about the series' own values, which are kept as they are."""
    logger = logging.getLogger("highdicom")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"), pydicom.config.disable_value_validation():
            yield
    finally:
        logger.setLevel(level)


def _save(files: OutputFiles, path: Path, dataset: Dataset, options: DicomOptions) -> None:
    if options.deidentify:
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = "Patient and study attributes left empty; UIDs kept"
    content = io.BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    files.write(path, content.getvalue())


def build_segmentation(
    result: SegmentationResult, source: SourceSeries, seg_type: SegmentationType = "binary", corrected: bool = False
) -> hd.seg.Segmentation:
    """The DICOM segmentation of a result; see :func:`write_dicom`.

    In a label map segments have the values of the labels, else the numbers from 1 on in their order. Frames without a
    voxel are left out of a binary one.
    """
    import highdicom as hd

    labels = sorted((structure.label for structure in result.structures), key=lambda label: label.value)
    values = voxels_of(result.labels)
    numbers = [label.value for label in labels]
    if seg_type == "binary":
        table = np.zeros(int(values.max()) + 1, np.uint16)
        numbers = list(range(1, len(labels) + 1))
        for number, label in zip(numbers, labels, strict=True):
            if label.value < len(table):
                table[label.value] = number
        values = table[values]
    kept = slice(None)
    if not values.any():  # DICOM requires at least one frame
        kept = slice(len(values) // 2, len(values) // 2 + 1)
    algorithm = hd.AlgorithmIdentificationSequence(
        name=algorithm_name(result.model.name, result.model.version),
        family=codes.DCM.ArtificialIntelligence,
        version=_text(result.model.version),
        source=NAME,
        parameters={"weights_sha256": result.model.weights_sha256},
    )
    return hd.seg.Segmentation(
        source_images=source.images,
        further_source_images=source.further,
        segmentation_type=seg_type.upper(),
        segment_descriptions=[
            _segment(number, label, algorithm, corrected) for number, label in zip(numbers, labels, strict=True)
        ],
        omit_empty_frames=seg_type == "binary",
        content_label="SEGMENTATION",
        content_description=_text(result.model.title),
        **_frames(values, kept, result.labels, source),
        **equipment(source, result, 1),
    )


def _frames(values: np.ndarray, kept: slice, labels: sitk.Image, source: SourceSeries) -> dict[str, Any]:
    """Voxels and places of the frames: those of the series' own images where the grid is the same."""
    import highdicom as hd

    if same_grid(labels, source.geometry):
        places = [
            hd.PlanePositionSequence(hd.CoordinateSystemNames.PATIENT, frame.position.tolist())
            for frame in source.slices[kept]
        ]
        return {"pixel_array": values[kept], "plane_positions": places}
    affine = affine_of(labels)[:, [2, 1, 0, 3]]
    uid = source.images[0].FrameOfReferenceUID
    volume = hd.Volume(values, affine, coordinate_system="PATIENT", frame_of_reference_uid=uid)
    return {"pixel_array": volume[kept]}


def _segment(
    number: int, label: Label, algorithm: hd.AlgorithmIdentificationSequence, corrected: bool
) -> hd.seg.SegmentDescription:
    import highdicom as hd
    from highdicom.sr import CodedConcept

    segment = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=_text(label.name),
        segmented_property_category=dicom_code(label.category),
        segmented_property_type=dicom_code(label.type),
        algorithm_type="SEMIAUTOMATIC" if corrected else "AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_id=_text(label.name),
        tracking_uid=generate_uid(),
        display_color=hd.color.CIELabColor.from_rgb(*label.color),
    )
    if label.modifier is not None:
        side = CodedConcept.from_code(dicom_code(label.modifier))
        segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]
    return segment


def dicom_code(code: Code) -> DicomCode:
    """A code as pydicom has it, its meaning not longer than DICOM allows."""
    return DicomCode(code.value, code.scheme, _text(code.meaning))


def _text(text: str) -> str:
    """``text`` as DICOM's value representation LO can hold it."""
    return "".join(c if c.isprintable() and c != "\\" else " " for c in text)[:_LONGEST].strip()


def equipment(source: SourceSeries, result: SegmentationResult, place: int) -> dict[str, Any]:
    """Arguments for highdicom of a new series, the ``place``-th (1 to 9) that is derived from the source."""
    own = text_of(source.images[0], "SeriesNumber")
    number = int(own) if own.isdecimal() and len(own) < 8 else 0
    return {
        "series_instance_uid": generate_uid(),
        "series_number": 100 * (number or 99) + place,
        "series_description": _text(f"{PURPOSE}: {algorithm_name(result.model.name, result.model.version)}"),
        "sop_instance_uid": generate_uid(),
        "instance_number": 1,
        "manufacturer": NAME,
        "manufacturer_model_name": NAME,
        "software_versions": __version__,
        "device_serial_number": __version__,
    }


def build_capture(image: sitk.Image, result: SegmentationResult, source: SourceSeries) -> hd.sc.SCImage:
    """The picture of a result (:mod:`SESegmentationLib.io.drawing`) as secondary capture; it names no patient."""
    import highdicom as hd

    labels = [structure.label for structure in result.structures]
    volumes = [structure.volume_ml for structure in result.structures]
    title = f"{PURPOSE}, not for diagnosis · {result.model.title}"
    pixels = np.asarray(draw_picture(image, result.labels, labels, volumes, title).convert("RGB"))
    capture = hd.sc.SCImage.from_ref_dataset(
        source.images[0],
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        transfer_syntax_uid=pydicom.uid.ExplicitVRLittleEndian,
        **equipment(source, result, 3),
    )
    for keyword, value in (("PatientOrientation", None), ("Laterality", None), ("BurnedInAnnotation", "NO")):
        setattr(capture, keyword, value)  # it shows three planes and both sides, and names nobody
    return capture

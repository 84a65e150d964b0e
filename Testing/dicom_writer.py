"""Writes volumes as DICOM series of CT or MR, whole or with faults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

#: changes a file before it is written; it gets the file's tags and its number, from 0
Edit = Callable[[Dataset, int], object]


@dataclass
class Volume:
    """Voxels (k, j, i) and where they lie, LPS in mm."""

    voxels: np.ndarray
    spacing: tuple[float, float, float] = (0.75, 0.5, 2.5)
    origin: np.ndarray = field(default_factory=lambda: np.array([-10.0, 20.0, -30.0]))
    axes: np.ndarray = field(default_factory=lambda: np.eye(3)[:2])  # rows: along a row, down a column

    @classmethod
    def of(cls, image: sitk.Image) -> Volume:
        """The volume of an image whose axes are right-handed."""
        axes = np.reshape(image.GetDirection(), (3, 3)).T
        assert np.linalg.det(axes) > 0
        voxels = np.rint(sitk.GetArrayFromImage(image)).astype(np.int16)
        return cls(voxels, image.GetSpacing(), np.array(image.GetOrigin()), axes[:2])

    @property
    def normal(self) -> np.ndarray:
        return np.cross(*self.axes)

    def position(self, k: float) -> np.ndarray:
        return self.origin + k * self.spacing[2] * self.normal

    @property
    def affine(self) -> np.ndarray:
        """(3, 4) from i, j, k to LPS."""
        return np.column_stack([np.vstack([self.axes, self.normal]).T * self.spacing, self.origin])


def asymmetric(slices: int = 6, rows: int = 5, columns: int = 4) -> Volume:
    """A volume in which no exchange of slices, rows or columns goes unseen."""
    k, j, i = np.mgrid[:slices, :rows, :columns]
    return Volume((100 * k + 7 * j * j + i).astype(np.int16))


def write_series(
    volume: Volume,
    folder: Path,
    edit: Edit | None = None,
    names: str = "IM{:04d}",
    modality: str = "MR",
    **tags: object,
) -> str:
    """A file a slice, the lowest first; what ``edit`` returns False for is left out. UID of the series."""
    folder.mkdir(parents=True, exist_ok=True)
    study, series, place = generate_uid(), generate_uid(), generate_uid()
    for k, plane in enumerate(volume.voxels):
        dataset = _image(CTImageStorage if modality == "CT" else MRImageStorage, study, series, place, plane)
        dataset.Modality = modality
        dataset.SliceThickness = volume.spacing[2]
        dataset.PixelSpacing = [volume.spacing[1], volume.spacing[0]]
        dataset.ImageOrientationPatient = _decimal(volume.axes.ravel())
        dataset.ImagePositionPatient = _decimal(volume.position(k))
        dataset.InstanceNumber = k + 1
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)
        if edit is None or edit(dataset, k) is not False:
            dataset.save_as(folder / names.format(k), enforce_file_format=True)
    return series


def write_enhanced(
    volume: Volume,
    path: Path,
    order: Sequence[int] | None = None,
    edit: Callable[[Dataset], object] | None = None,
    edit_frame: Edit | None = None,
    slopes: Sequence[float] | None = None,
) -> None:
    """One file of the slices in ``order``; ``edit_frame`` gets the group of a frame and its slice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    order = range(len(volume.voxels)) if order is None else order
    dataset = _image(EnhancedMRImageStorage, generate_uid(), generate_uid(), generate_uid(), volume.voxels[list(order)])
    dataset.NumberOfFrames = len(order)
    shared = Dataset()
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = [volume.spacing[1], volume.spacing[0]]
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = _decimal(volume.axes.ravel())
    dataset.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for number, k in enumerate(order):
        group = Dataset()
        group.PlanePositionSequence = [Dataset()]
        group.PlanePositionSequence[0].ImagePositionPatient = _decimal(volume.position(k))
        group.FrameContentSequence = [Dataset()]
        group.FrameContentSequence[0].InStackPositionNumber = k + 1
        if slopes is not None:
            group.PixelValueTransformationSequence = [Dataset()]
            group.PixelValueTransformationSequence[0].RescaleSlope = slopes[k]
            group.PixelValueTransformationSequence[0].RescaleIntercept = 0
        if edit_frame:
            edit_frame(group, number)
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    if edit:
        edit(dataset)
    dataset.save_as(path, enforce_file_format=True)


def _image(kind: str, study: str, series: str, place: str, voxels: np.ndarray) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, place
    dataset.PatientName, dataset.PatientID, dataset.StudyID = "Drawn^Volume", "0", "1"
    dataset.StudyDate, dataset.StudyTime = "20240101", "120000"
    dataset.Modality, dataset.SeriesNumber, dataset.SeriesDescription = "MR", 3, "T1 drawn"
    dataset.Rows, dataset.Columns = voxels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.PixelData = np.ascontiguousarray(voxels, "<i2").tobytes()
    return dataset


def _decimal(numbers: np.ndarray) -> list[pydicom.valuerep.DSfloat]:
    return [pydicom.valuerep.DSfloat(float(number), auto_format=True) for number in numbers]

"""Results as DICOM structured report: the volume of each structure, by the template TID 1500 (Measurement Report)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import generate_uid

from SESegmentationLib import __version__
from SESegmentationLib.io.segmentations import algorithm_name
from SESegmentationLib.result import SegmentationResult, StructureResult

from .dicom_seg import NAME, SourceSeries, dicom_code, equipment

if TYPE_CHECKING:
    import highdicom as hd

#: LOINC's "unspecified body region", by modality
_PROCEDURES = {
    "CT": DicomCode("25045-6", "LN", "CT unspecified body region"),
    "MR": DicomCode("25056-3", "LN", "MRI unspecified body region"),
}
_ANY_PROCEDURE = DicomCode("363679005", "SCT", "Imaging procedure")
_MILLILITRE = DicomCode("ml", "UCUM", "milliliter")
#: for what no other scheme has a code
_OWN_SCHEME = "99SESEGMENTATION"
_INTRACRANIAL_SHARE = DicomCode("INTRACRANIAL-SHR", _OWN_SCHEME, "Share of the intracranial volume")
_INTRACRANIAL = DicomCode("1101003", "SCT", "Intracranial")


def build_structured_report(
    result: SegmentationResult, source: SourceSeries, segmentation: hd.seg.Segmentation
) -> hd.sr.EnhancedSR:
    """The measurement report of a result.

    Args:
        result: whose volumes, and their shares of the intracranial volume where that is known, are reported; those of
            structures that were not found are 0.
        source: the series.
        segmentation: the result as DICOM, to whose segments the measurements refer.
    """
    import highdicom as hd
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[NAME, __version__]), name=NAME, manufacturer_name=NAME, model_name=NAME
    )
    observer = hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    algorithm = hd.sr.AlgorithmIdentification(
        name=algorithm_name(result.model.name, result.model.version),
        version=result.model.version,
        family=codes.DCM.ArtificialIntelligence,
    )
    by_value = {structure.label.value: structure for structure in result.structures}
    segments = [segment for segment in segmentation.SegmentSequence if segment.SegmentNumber]  # 0 is the background
    groups: list[
        hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations | hd.sr.MeasurementsAndQualitativeEvaluations
    ] = [
        _structure(by_value[value], segment, segmentation, source, result, algorithm)
        for value, segment in zip(sorted(by_value), segments, strict=True)
    ]
    if result.intracranial is not None:
        groups.append(
            hd.sr.MeasurementsAndQualitativeEvaluations(
                tracking_identifier=hd.sr.TrackingIdentifier(generate_uid(), "intracranial volume"),
                finding_type=_INTRACRANIAL,
                algorithm_id=algorithm,
                measurements=[hd.sr.Measurement(codes.SCT.Volume, round(result.intracranial.ml, 1), _MILLILITRE)],
            )
        )
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_person_context=None, observer_device_context=observer),
        procedure_reported=_PROCEDURES.get(source.images[0].Modality, _ANY_PROCEDURE),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    own = CodingSchemeIdentificationItem(_OWN_SCHEME, name=NAME, responsible_organization=NAME)
    return hd.sr.EnhancedSR(
        evidence=[*source.images, *source.further, segmentation],
        content=report[0],
        is_complete=True,
        coding_schemes=[own],
        **equipment(source, result, 2),
    )


def _structure(
    structure: StructureResult,
    segment: hd.seg.SegmentDescription,
    segmentation: hd.seg.Segmentation,
    source: SourceSeries,
    result: SegmentationResult,
    algorithm: hd.sr.AlgorithmIdentification,
) -> hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    import highdicom as hd

    label = structure.label
    measurements = [hd.sr.Measurement(codes.SCT.Volume, round(structure.volume_ml, 4), _MILLILITRE)]
    if result.intracranial is not None:
        share = round(100 * structure.volume_ml / result.intracranial.ml, 4)
        measurements.append(hd.sr.Measurement(_INTRACRANIAL_SHARE, share, codes.UCUM.Percent))
    place = dicom_code(label.type)
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(segment.TrackingUID, segment.TrackingID),
        referenced_segment=hd.sr.ReferencedSegment(
            segmentation.SOPClassUID,
            segmentation.SOPInstanceUID,
            segment.SegmentNumber,
            source_series=hd.sr.SourceSeriesForSegmentation(source.images[0].SeriesInstanceUID),
        ),
        finding_category=dicom_code(label.category),
        finding_type=place,
        finding_sites=[hd.sr.FindingSite(place, dicom_code(label.modifier) if label.modifier else None)],
        algorithm_id=algorithm,
        measurements=measurements,
    )

"""Results as DICOM objects: on other grids, of odd series, without names, corrected, and with nothing in them."""

from __future__ import annotations

import re
from math import nan
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from dicom_writer import Volume, write_enhanced, write_series
from SESegmentationExport.dicom_options import DicomOptions
from SESegmentationExport.dicom_seg import SourceSeries, write_dicom
from SESegmentationLib.cli import main
from SESegmentationLib.errors import InputError
from SESegmentationLib.files import OutputFiles
from SESegmentationLib.geometry import Geometry
from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.models import ModelCard, find_model
from SESegmentationLib.models.labels import LEFT, structure_label
from SESegmentationLib.result import IntracranialVolume, SegmentationResult, StructureResult

hd = pytest.importorskip("highdicom", reason="needs highdicom (extra 'export')")
LABELS = (structure_label(17, "hippocampus", LEFT), structure_label(500, "brain stem"))
ALL = DicomOptions(report=True, capture=True)


@pytest.fixture(scope="module")
def scan(oblique) -> Volume:
    """Oblique, 7 slices, other sizes along each axis."""
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 900, (7, 12, 10)).astype(np.int16))
    image.SetSpacing((0.7, 0.9, 3.1))
    image.SetOrigin((-11.25, 20.5, 7.0))
    return Volume.of(oblique(image, 25))


@pytest.fixture(scope="module")
def card(tiny_model) -> ModelCard:
    return find_model(str(tiny_model)).card


def result_of(labels: sitk.Image, card: ModelCard) -> SegmentationResult:
    """A result with these labels."""
    array = sitk.GetArrayFromImage(labels)
    ml = np.prod(labels.GetSpacing()) / 1000
    counts = [int((array == label.value).sum()) for label in LABELS]
    structures = [
        StructureResult(label, count, count * ml, 0.9, (nan, nan, nan))
        for label, count in zip(LABELS, counts, strict=True)
    ]
    return SegmentationResult(labels, structures, {}, [], card, "cpu", intracranial=IntracranialVolume(1400.0, 30.0))


def drawn(image: sitk.Image, finer: int = 1) -> sitk.Image:
    """Labels on the grid of an image, or on one with ``finer`` times as many slices."""
    size = (*image.GetSize()[:2], image.GetSize()[2] * finer)
    array = np.zeros(size[::-1], np.uint16)
    array[finer : 3 * finer, 2:7, 3:8] = 17
    array[4 * finer :, 6:, :5] = 500
    labels = sitk.GetImageFromArray(array)
    labels.SetOrigin(image.GetOrigin())
    labels.SetDirection(image.GetDirection())
    labels.SetSpacing((*image.GetSpacing()[:2], image.GetSpacing()[2] / finer))
    return labels


def written(source: Path, target: Path, labels: sitk.Image, card: ModelCard, options=ALL, corrected=False) -> Path:
    """The segmentation that was written of ``labels``."""
    path = target / "x.seg.dcm"
    with OutputFiles() as files:
        series = SourceSeries.read(source, deidentify=options.deidentify)
        write_dicom(files, path, read_volume(source), result_of(labels, card), series, options, corrected)
    return path


def voxels_on(grid: Geometry, path: Path, values: dict[int, int]) -> np.ndarray:
    """The label map that highdicom reads, on a grid on whose voxels its own lie."""
    volume = hd.seg.segread(path).get_volume(combine_segments=True)
    found = np.zeros(grid.shape, np.uint16)
    indices = np.argwhere(volume.array > 0)
    places = volume.map_indices_to_reference(indices)
    there = grid.indices(places)
    np.testing.assert_allclose(there, np.rint(there), atol=1e-4)
    i, j, k = np.rint(there).astype(int).T
    found[k, j, i] = [values[value] for value in volume.array[tuple(indices.T)]]
    return found


@pytest.mark.parametrize("seg_type", ["binary", "labelmap"])
@pytest.mark.parametrize("finer", [1, 3])
def test_a_result_on_the_series_grid_or_a_finer_one_lies_where_it_should(
    scan, card, tmp_path, dicom_errors, seg_type, finer
):
    write_series(scan, tmp_path / "in", names="{}.dcm")
    labels = drawn(read_volume(tmp_path / "in"), finer)
    path = written(tmp_path / "in", tmp_path, labels, card, DicomOptions(seg_type, True))
    values = {1: 17, 2: 500} if seg_type == "binary" else {17: 17, 500: 500}
    np.testing.assert_array_equal(voxels_on(Geometry.of(labels), path, values), sitk.GetArrayFromImage(labels))
    if seg_type == "binary":
        assert dicom_errors(path) == dicom_errors(tmp_path / "x.sr.dcm") == []
    # the validator does not know label maps yet


def test_a_file_of_several_frames_in_any_order_is_referred_to_frame_by_frame(scan, card, tmp_path, dicom_errors):
    order = [3, 0, 6, 2, 5, 1, 4]
    write_enhanced(scan, tmp_path / "in" / "all.dcm", order=order)
    labels = drawn(read_volume(tmp_path / "in"))
    path = written(tmp_path / "in", tmp_path, labels, card)
    grid = Geometry.of(labels)
    np.testing.assert_array_equal(voxels_on(grid, path, {1: 17, 2: 500}), sitk.GetArrayFromImage(labels))
    for group in pydicom.dcmread(path).PerFrameFunctionalGroupsSequence:
        (source,) = group.DerivationImageSequence[0].SourceImageSequence
        place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        assert order[source.ReferencedFrameNumber - 1] == round(grid.indices(place[None])[0][2])
    assert dicom_errors(path) == []


def test_shares_of_the_intracranial_volume_are_reported(scan, card, tmp_path, dicom_errors):
    write_series(scan, tmp_path / "in", names="{}.dcm")
    labels = drawn(read_volume(tmp_path / "in"))
    path = written(tmp_path / "in", tmp_path, labels, card)
    report = hd.sr.srread(tmp_path / "x.sr.dcm")
    expected = result_of(labels, card).structures
    for group, structure in zip(report.content.get_volumetric_roi_measurement_groups(), expected, strict=True):
        volume, share = group.get_measurements()
        assert volume.value == pytest.approx(structure.volume_ml, abs=1e-4)
        assert share.value == pytest.approx(100 * structure.volume_ml / 1400, abs=1e-4)
        assert (share.unit.value, share.name.meaning) == ("%", "Share of the intracranial volume")
    (whole,) = report.content.get_image_measurement_groups()
    assert [measurement.value for measurement in whole.get_measurements()] == [1400.0]
    assert dicom_errors(path) == dicom_errors(tmp_path / "x.sr.dcm") == dicom_errors(tmp_path / "x.sc.dcm") == []


@pytest.mark.parametrize("deidentify", [False, True])
def test_the_patient_is_named_where_the_format_demands_it_unless_that_is_not_wanted(
    scan, card, tmp_path, dicom_errors, deidentify
):
    about = {
        "PatientName": "山田^太郎",
        "PatientID": "id-4711",
        "PatientBirthDate": "19610203",
        "PatientSex": "F",
        "AccessionNumber": "acc-4711",
        "StudyDate": "20190304",
        "ReferringPhysicianName": "doc-4711^x",
        "PatientComments": "com-4711",
        "InstitutionName": "ins-4711",
        "StudyDescription": "std-4711",
        "SpecificCharacterSet": "ISO_IR 192",
        "PatientAddress": "adr-4711",
        "Manufacturer": "Scanner AG",
    }
    write_series(scan, tmp_path / "in", names="{}.dcm", **about)
    options = DicomOptions(report=True, capture=True, deidentify=deidentify)
    written(tmp_path / "in", tmp_path, drawn(read_volume(tmp_path / "in")), card, options)
    source = pydicom.dcmread(tmp_path / "in" / "0.dcm")
    files = sorted(tmp_path.glob("*.dcm"))
    assert len(files) == 3
    for file in files:
        content, dataset = file.read_bytes(), pydicom.dcmread(file)
        # with the hyphen, since UIDs are made of random digits
        named = any(text.encode() in content for text in ("山田", "-4711", "19610203", "20190304"))
        assert named is not deidentify
        assert str(dataset.PatientName) == ("" if deidentify else "山田^太郎")
        assert dataset.StudyInstanceUID == source.StudyInstanceUID
        assert dataset.get("PatientIdentityRemoved") == ("YES" if deidentify else None)
        assert str(tmp_path).encode() not in content
        assert dicom_errors(file) == []


def test_strange_attributes_of_the_series_do_not_keep_results_from_being_written(scan, card, tmp_path):
    def strange(dataset: pydicom.Dataset, number: int) -> None:
        for keyword in ("StudyID", "PatientID", "SeriesNumber"):
            del dataset[keyword]
        with pydicom.config.disable_value_validation():
            dataset.PatientSex, dataset.PatientBirthDate = "FEMALE", "about 1970"
            dataset.StudyTime, dataset.PatientName = "noon", "only one part"
            dataset.PatientAge, dataset.AccessionNumber = "12", "longer than sixteen characters"

    write_series(scan, tmp_path / "in", strange, names="{}.dcm")
    path = written(tmp_path / "in", tmp_path, drawn(read_volume(tmp_path / "in")), card)
    dataset = hd.seg.segread(path)
    assert (dataset.PatientSex, dataset.PatientBirthDate or "", dataset.PatientID) == ("", "", "")
    assert dataset.PatientName == "only one part"


def test_control_characters_of_the_series_are_not_copied(scan, card, tmp_path):
    def strange(dataset: pydicom.Dataset, number: int) -> None:
        other = pydicom.Dataset()
        with pydicom.config.disable_value_validation():
            dataset.PatientID, dataset.PatientName = "4711\n-a\x07\n", "山田^太郎\r\n"
            dataset.StudyDescription, dataset.PatientSex = "head\tand\x85neck", "F\n"
            dataset.OtherPatientNames, dataset.PatientComments = ["A^\nB", "C^D"], "one\r\ntwo\x07"
            other.PatientID, other.TypeOfPatientID = "0\x7f815", "TEXT"
        dataset.OtherPatientIDsSequence = [other]

    write_series(scan, tmp_path / "in", strange, names="{}.dcm", SpecificCharacterSet="ISO_IR 192")
    written(tmp_path / "in", tmp_path, drawn(read_volume(tmp_path / "in")), card, ALL)
    files = sorted(tmp_path.glob("*.dcm"))
    assert len(files) == 3
    for file in files:
        dataset = pydicom.dcmread(file)
        assert (dataset.PatientID, str(dataset.PatientName), dataset.PatientSex) == ("4711 -a", "山田^太郎", "F")
        assert not [
            element
            for element in dataset.iterall()
            if element.VR not in ("SQ", "LT", "ST", "UT", "OB", "OW", "OF")
            and re.search(r"[\x00-\x1f\x7f-\x9f]", str(element.value))
        ]
        assert dataset.get("StudyDescription", "head and neck") == "head and neck"
        assert dataset.get("PatientComments", "one\r\ntwo") == "one\r\ntwo"


@pytest.mark.parametrize("keyword", ["FrameOfReferenceUID", "StudyInstanceUID", "SOPInstanceUID"])
def test_a_series_that_cannot_be_referred_to_is_refused(scan, card, tmp_path, keyword):
    write_series(scan, tmp_path / "in", lambda dataset, number: dataset.pop(keyword) and None, names="{}.dcm")
    with pytest.raises(InputError, match=f"has no {keyword}") as raised:
        SourceSeries.read(tmp_path / "in")
    assert ".nii.gz" in raised.value.remedy


@pytest.mark.parametrize("corrected", [False, True])
def test_corrected_segments_are_semiautomatic(scan, card, tmp_path, corrected):
    write_series(scan, tmp_path / "in", names="{}.dcm")
    path = written(tmp_path / "in", tmp_path, drawn(read_volume(tmp_path / "in")), card, corrected=corrected)
    kinds = {segment.SegmentAlgorithmType for segment in pydicom.dcmread(path).SegmentSequence}
    assert kinds == {"SEMIAUTOMATIC" if corrected else "AUTOMATIC"}


@pytest.mark.parametrize("seg_type", ["binary", "labelmap"])
def test_a_result_with_nothing_in_it_is_written_all_the_same(scan, card, tmp_path, dicom_errors, seg_type):
    write_series(scan, tmp_path / "in", names="{}.dcm")
    labels = drawn(read_volume(tmp_path / "in")) * 0
    path = written(tmp_path / "in", tmp_path, labels, card, DicomOptions(seg_type, True))
    dataset = hd.seg.segread(path)
    assert not dataset.pixel_array.any()
    assert dataset.NumberOfFrames <= 2
    if seg_type == "binary":
        assert dicom_errors(path) == dicom_errors(tmp_path / "x.sr.dcm") == []


def test_a_corrected_series_is_written_as_dicom_by_refine(tiny_model, sample_file, tmp_path, capfd):
    volume = Volume.of(sitk.DICOMOrient(sitk.ReadImage(str(sample_file)), "LPS"))
    write_series(volume, tmp_path / "in", names="{:03d}.dcm")
    first, out = tmp_path / "first.nii.gz", tmp_path / "out.dcm"
    assert main(["run", str(tmp_path / "in"), "-m", str(tiny_model), "-o", str(first)]) == 0
    arguments = ["-m", str(tiny_model), "--corrected", str(first), "--slices", "k:14,20", "--sr", "-o", str(out)]
    assert main(["refine", str(tmp_path / "in"), *arguments]) == 0, capfd.readouterr().err
    assert {segment.SegmentAlgorithmType for segment in pydicom.dcmread(out).SegmentSequence} == {"SEMIAUTOMATIC"}
    assert (tmp_path / "out.sr.dcm").is_file()


def test_what_cannot_be_written_as_dicom_is_told_before_any_work(
    scan, tiny_model, sample_file, tmp_path, capfd, monkeypatch
):
    def refused(*arguments: object) -> str:
        capfd.readouterr()
        assert main(["run", "-m", str(tiny_model), *map(str, arguments)]) == code
        out, err = capfd.readouterr()
        assert not out and len(err.splitlines()) == 2, err
        return err

    code = 2
    write_series(scan, tmp_path / "in", names="{}.dcm")
    assert "is not a DICOM series" in refused(sample_file, "-o", tmp_path / "x.dcm")
    for option in ("--sr", "--secondary-capture", "--deidentify", "--seg-type=labelmap"):
        assert "--format dcm" in refused(tmp_path / "in", "-o", tmp_path / "x.nii.gz", option)
    assert "would be overwritten" in refused(tmp_path / "in", "-o", tmp_path / "in" / "0.dcm")
    code = 1
    monkeypatch.setattr("SESegmentationLib.cli.file_jobs.find_spec", lambda name: None)
    assert "highdicom" in refused(tmp_path / "in", "-o", tmp_path / "x.dcm")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]

"""``sesegment dicom``: CT and MR from real scans, oblique too, go in; what comes out agrees with the NIfTI result."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from dicom_writer import Volume, write_series
from SESegmentationLib.cli import main
from SESegmentationLib.cli.model_choice import Shown, choose_model
from SESegmentationLib.geometry import Geometry
from SESegmentationLib.models import find_model
from SESegmentationLib.models.labels import LEFT, structure_label

hd = pytest.importorskip("highdicom", reason="needs highdicom (extra 'export')")
PATIENT = {
    "PatientName": "Müller^Jörg",
    "PatientID": "secret-7",
    "PatientBirthDate": "19700101",
    "PatientSex": "M",
    "AccessionNumber": "A-1",
    "ReferringPhysicianName": "Doc^Tor",
    "InstitutionName": "Hospital",
}


class Folder(NamedTuple):
    """What a call of ``sesegment dicom`` was given and gave."""

    source: Path
    target: Path
    code: int
    reports: list[dict]
    errors: list[str]

    def file(self, model: str, kind: str) -> Path:
        (found,) = self.target.glob(f"*_{model}.{kind}.dcm")
        return found


def called(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``sesegment``."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = main([str(argument) for argument in arguments])
    return code, out.getvalue(), errors.getvalue()


@pytest.fixture(scope="module")
def done(shared_data, make_random_model, oblique, tmp_path_factory) -> Folder:
    """An oblique abdomen (MR), an oblique trunk (CT), a localizer and a single image in one folder."""
    folder = tmp_path_factory.mktemp("dicom")
    source, target = folder / "in", folder / "out"
    abdomen = oblique(sitk.ReadImage(str(shared_data / "abdomen-mr/imagesTr/chaos_001_0000.nii.gz")), 17)
    trunk = oblique(sitk.ReadImage(str(shared_data / "volumes/ct-trunk-3mm.nii.gz")), -11)[:, :, 20:60]
    tags = PATIENT | {"SpecificCharacterSet": "ISO_IR 100", "BodyPartExamined": "ABDOMEN"}
    write_series(Volume.of(abdomen), source / "a/1", names="{:03d}.dcm", SeriesDescription="T2 SPIR tra", **tags)
    write_series(Volume.of(trunk), source / "a/2", modality="CT", SeriesDescription="native", **tags)
    write_series(Volume.of(abdomen[:, :, :3]), source / "b", SeriesDescription="localizer", **tags)
    write_series(Volume.of(abdomen[:, :, :1]), source / "c", SeriesDescription="T2 once", **tags)
    labels = [structure_label(7, "kidney", LEFT).to_dict(), structure_label(40, "liver").to_dict()]
    of_ct = {"name": "tiny-ct", "modality": "CT", "contrast": "any", "spacing": [4.0] * 3, "labels": labels}
    model = make_random_model(**of_ct, input={"kind": "volume"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SESEGMENTATION_MODELS", str(model.parent))
        code, out, errors = called(
            "dicom", source, target, "--secondary-capture", "--accept-licence", "--fast", "--json"
        )
        for name, part in (("abdomen-mr", "a/1"), ("tiny-ct", "a/2")):
            run = ("run", source / part, "-m", name, "-o", folder / f"{name}.nii.gz", "--accept-licence", "--fast")
            assert called(*run)[0] == 0
    return Folder(source, target, code, json.loads(out), errors.splitlines())


def test_each_series_goes_to_the_model_that_suits_it_and_the_others_are_skipped_with_the_reason(done):
    assert done.code == 0
    assert len(list(done.target.iterdir())) == 6
    (localizer,) = [line for line in done.errors if "localizer" in line]
    (single,) = [line for line in done.errors if "T2 once" in line]
    assert localizer.startswith("Skipped") and localizer.endswith("it is a localizer.")
    assert single.startswith("Skipped") and single.endswith("it is a single image.")
    assert sorted(report.get("model", {}).get("name", "") for report in done.reports) == [
        *("", "", "abdomen-mr", "tiny-ct")
    ]
    assert done.errors[-1] == "2 of 4 series segmented."


@pytest.mark.parametrize("model", ["abdomen-mr", "tiny-ct"])
def test_voxels_agree_with_those_of_the_nifti_result(done, model):
    """By pydicom alone: each frame lies exactly on a slice of the NIfTI grid, and holds its voxels."""
    nifti = sitk.ReadImage(str(done.source.parent / f"{model}.nii.gz"))
    grid, dataset = Geometry.of(nifti), pydicom.dcmread(done.file(model, "seg"))
    shared = dataset.SharedFunctionalGroupsSequence[0]
    axes = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    np.testing.assert_allclose(axes, grid.axes.T[:2], atol=1e-6)
    spacing = [float(length) for length in shared.PixelMeasuresSequence[0].PixelSpacing]
    assert spacing == pytest.approx([grid.spacing[1], grid.spacing[0]], rel=1e-6)
    structures = next(r for r in done.reports if r.get("model", {}).get("name") == model)["structures"]
    values = [0, *sorted(structure["value"] for structure in structures)]
    found = np.zeros(grid.shape, np.uint16)
    frames = pydicom.pixels.pixel_array(dataset)
    for frame, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        i, j, k = grid.indices(place[None])[0]
        assert abs(i) + abs(j) + abs(k - round(k)) < 1e-3
        found[round(k)][frame > 0] = values[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
    np.testing.assert_array_equal(found, sitk.GetArrayFromImage(nifti))
    assert found.any()


@pytest.mark.parametrize("model", ["abdomen-mr", "tiny-ct"])
@pytest.mark.parametrize("kind", ["seg", "sr", "sc"])
def test_the_validator_finds_no_errors(done, dicom_errors, model, kind):
    assert dicom_errors(done.file(model, kind)) == []


def test_the_segmentation_refers_to_the_images_it_was_made_from(done):
    series = {}
    for file in (done.source / "a/1").iterdir():
        image = pydicom.dcmread(file)
        series[image.SOPInstanceUID] = image
    dataset = pydicom.dcmread(done.file("abdomen-mr", "seg"))
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientBirthDate", "StudyDate"):
        assert dataset[keyword].value == image[keyword].value
    assert str(dataset.PatientName) == "Müller^Jörg"
    (referred,) = dataset.ReferencedSeriesSequence
    assert referred.SeriesInstanceUID == image.SeriesInstanceUID != dataset.SeriesInstanceUID
    assert {one.ReferencedSOPInstanceUID for one in referred.ReferencedInstanceSequence} == set(series)
    for group in dataset.PerFrameFunctionalGroupsSequence:
        (source,) = group.DerivationImageSequence[0].SourceImageSequence
        place = series[source.ReferencedSOPInstanceUID].ImagePositionPatient
        np.testing.assert_allclose(
            np.array(group.PlanePositionSequence[0].ImagePositionPatient, float), np.array(place, float), atol=1e-6
        )


def test_segments_say_what_they_are_and_who_drew_them(done):
    dataset = hd.seg.segread(done.file("abdomen-mr", "seg"))
    card = find_model("abdomen-mr").card
    for number, label in enumerate(card.labels, start=1):
        segment = dataset.get_segment_description(number)
        code = segment.segmented_property_type
        assert (segment.segment_label, code.value, code.scheme_designator) == (label.name, label.type.value, "SCT")
        assert segment.segmented_property_category.value == label.category.value
        sides = segment.SegmentedPropertyTypeCodeSequence[0].get("SegmentedPropertyTypeModifierCodeSequence", [])
        assert [side.CodeValue for side in sides] == ([label.modifier.value] if label.modifier else [])
        colour = hd.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue).to_rgb()
        np.testing.assert_allclose(colour, label.color, atol=2)
        assert segment.algorithm_type.value == "AUTOMATIC"
        algorithm = segment.algorithm_identification
        assert algorithm.name == f"SESegmentation {card.name} {card.version}"
        assert (algorithm.version, algorithm.family.meaning) == (card.version, "Artificial Intelligence")


def test_the_report_gives_the_volumes_and_refers_to_the_segments(done):
    report = hd.sr.srread(done.file("abdomen-mr", "sr"))
    segmentation = pydicom.dcmread(done.file("abdomen-mr", "seg"), stop_before_pixels=True)
    told = next(r for r in done.reports if r.get("model", {}).get("name") == "abdomen-mr")["structures"]
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert len(groups) == len(told)
    for group, structure, segment in zip(groups, told, segmentation.SegmentSequence, strict=True):
        (volume,) = group.get_measurements()
        assert (volume.name.value, volume.unit.value) == ("118565006", "ml")
        assert volume.value == pytest.approx(structure["volume_ml"], abs=1e-4)
        assert group.tracking_uid == segment.TrackingUID
        assert group.referenced_segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert group.referenced_segment.referenced_segment_numbers == [segment.SegmentNumber]
        assert group.finding_type.value == structure["code"]["value"]


def test_the_capture_shows_the_picture(done):
    capture = pydicom.dcmread(done.file("abdomen-mr", "sc"))
    pixels = pydicom.pixels.pixel_array(capture)
    assert pixels.shape[2] == 3
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500  # a scan with structures in colour


@pytest.mark.parametrize(
    ("tags", "chosen"),
    [
        ({"Modality": "MR", "BodyPartExamined": "BRAIN", "SeriesDescription": "t1_mprage_sag"}, "brain-mr"),
        ({"Modality": "MR", "BodyPartExamined": "HEADNECK", "SeriesDescription": "AX T2 FLAIR"}, "brain-mr"),
        ({"Modality": "MR", "SeriesDescription": "Kopf T2 tse tra"}, "brain-mr"),
        ({"Modality": "MR", "StudyDescription": "MR Abdomen", "SeriesDescription": "t2_spir"}, "abdomen-mr"),
        ({"Modality": "MR", "BodyPartExamined": "ABDOMEN", "RepetitionTime": 2500, "EchoTime": 80}, "abdomen-mr"),
        ({"Modality": "MR", "BodyPartExamined": "ABDOMEN", "SeriesDescription": "T1 dixon"}, "it is T1, not T2"),
        ({"Modality": "CT", "BodyPartExamined": "HEAD"}, "it is CT, not MR"),
        ({"Modality": "MR", "BodyPartExamined": "KNEE", "SeriesDescription": "pd fs"}, "it shows knee"),
        (
            {"Modality": "MR", "BodyPartExamined": "BRAIN", "SeriesDescription": "ep2d_diff_ADC"},
            "it is a diffusion series",
        ),
        ({"Modality": "MR", "BodyPartExamined": "BRAIN", "SeriesDescription": "TOF 3D"}, "it is an angiogram"),
        (
            {"Modality": "MR", "BodyPartExamined": "BRAIN", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
            "it is a localizer",
        ),
        ({"Modality": "MR", "BodyPartExamined": "LIVER", "SeriesDescription": "T2 portal phase"}, "abdomen-mr"),
        ({"Modality": "MR", "BodyPartExamined": "ABDOMEN", "SeriesDescription": "Ax T1 FLAIR"}, "it is T1, not T2"),
        (
            {"Modality": "MR", "BodyPartExamined": "ABDOMEN", "SeriesDescription": "t1_tirm_dark-fluid"},
            "it is T1, not T2",
        ),
        (
            {"Modality": "MR", "BodyPartExamined": "BRAIN", "SeriesDescription": "SenseRefScan"},
            "it is a calibration scan",
        ),
        (
            {"Modality": "MR", "BodyPartExamined": "HEAD", "SeriesDescription": "Asset calibration"},
            "it is a calibration scan",
        ),
        ({"Modality": "MR", "SeriesDescription": "t1_fl2d"}, "its tags do not give the part of the body"),
    ],
)
def test_tags_choose_the_model(tags, chosen, shipped_weights):
    dataset = pydicom.Dataset()
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    packages = [find_model(str(folder)) for folder in sorted(shipped_weights.iterdir())]
    found = choose_model(Shown.by(dataset), packages, named=False, accepted=True)
    assert (found if isinstance(found, str) else found.card.name).startswith(chosen)


def test_terms_that_are_not_accepted_are_the_reason(shipped_weights):
    dataset = pydicom.Dataset()
    dataset.Modality, dataset.BodyPartExamined, dataset.SeriesDescription = "MR", "ABDOMEN", "T2"
    packages = [find_model(str(folder)) for folder in sorted(shipped_weights.iterdir())]
    assert "--accept-licence" in choose_model(Shown.by(dataset), packages, named=False, accepted=False)


def test_no_file_is_named_by_what_is_no_uid(tiny_model, tmp_path):
    voxels = np.arange(600, dtype=np.int16).reshape(6, 10, 10)
    with pydicom.config.disable_value_validation():
        write_series(Volume(voxels), tmp_path / "in", names="{}.dcm", SeriesInstanceUID="1.2/../../../escaped")
    code, _, errors = called("dicom", tmp_path / "in", tmp_path / "a" / "b", "-m", tiny_model)
    assert code == 2 and "its SeriesInstanceUID is not valid" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("content", ["nothing", "text", "cut off", "no model"])
def test_a_folder_without_anything_to_segment_is_refused(content, tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    if content == "text":
        (source / "readme.txt").write_text("no image", encoding="utf-8")
    if content in ("cut off", "no model"):
        voxels = np.arange(600, dtype=np.int16).reshape(6, 10, 10)
        write_series(Volume(voxels), source, modality="CT", names="{}.dcm")
    if content == "cut off":
        for file in source.iterdir():
            file.write_bytes(file.read_bytes()[:-50])
    code, out, errors = called("dicom", source, target)
    assert (code, out) == (2, "")
    lines = errors.splitlines()
    assert len(lines) == (3 if content == "no model" else 2)
    assert {"cut off": "cut off", "no model": "No model can segment"}.get(content, "no DICOM images") in errors
    assert not target.exists()


def test_a_series_that_fails_does_not_keep_the_others_from_being_segmented(tiny_model, sample_file, tmp_path):
    volume = Volume.of(sitk.DICOMOrient(sitk.ReadImage(str(sample_file)), "LPS"))
    whole = write_series(volume, tmp_path / "in/1", names="{:03d}.dcm", SeriesDescription="whole", **PATIENT)
    write_series(volume, tmp_path / "in/2", lambda dataset, k: k != 9, "{:03d}.dcm", SeriesDescription="gap", **PATIENT)
    options = ("--model", tiny_model, "--seg-type", "labelmap", "--deidentify")
    code, out, errors = called("dicom", tmp_path / "in", tmp_path / "out", *options)
    assert code == 2
    assert "gap" in errors and "not at equal distances" in errors
    assert errors.splitlines()[-1] == "1 of 2 series segmented."
    assert "whole" in out and len(out.splitlines()) == 1
    names = {f"{whole}_tiny-t1.{kind}.dcm" for kind in ("seg", "sr")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    segmentation = pydicom.dcmread(tmp_path / "out" / f"{whole}_tiny-t1.seg.dcm")
    assert (segmentation.SegmentationType, segmentation.PatientIdentityRemoved) == ("LABELMAP", "YES")
    assert called("dicom", tmp_path / "in/1", tmp_path / "in/1")[0] == 2  # nothing is written into what is read
    assert called("dicom", tmp_path / "absent", tmp_path / "out")[0] == 2

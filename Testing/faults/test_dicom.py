"""DICOM is what its tags say: images are put in order by their own place, scale and time, or refused with the cause."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    RLELossless,
    RTDoseStorage,
    SegmentationStorage,
    generate_uid,
)

from dicom_writer import Volume, asymmetric, write_enhanced, write_series
from SESegmentationLib.errors import InputError, OutOfMemoryError
from SESegmentationLib.io.dicom.volume import StoredPixels
from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.io.volume_image import remarks_of

SHARED_FAULTS = Path(__file__).resolve().parents[3] / "shared" / "faults"
READ = ""

#: by folder of ../shared/faults/dicom_*.py, what the cause of the refusal says
SHARED = {
    "enhanced": {
        **dict.fromkeys(("e_plain", "e_nosbs", "e_thick", "e_thicksbs", "e_rev", "e_interleaved", "e_stacks"), READ),
        "e_slopes": READ,
        "e_twotimes": "several images in the same place (time points or contrasts): frame 1 of a.dcm and frame 31",
        "e_gap": "frame 10 of a.dcm and frame 11 of a.dcm are 10 mm apart, most others 2.5 mm, so that 3 are probably",
        "e_tilt": "sheared by 13.5 degrees",
        "e_localizer": "not parallel: frame 4 of a.dcm",
    },
    "classic": {
        **dict.fromkeys(("c_plain", "c_revinst", "c_negsbs", "c_wrongsbs", "c_jitter", "c_mono1", "c_utf8"), READ),
        **dict.fromkeys(("c_rtstruct", "c_junk", "c_pad", "c_dup", "c_oblique", "c_sag"), READ),
        **dict.fromkeys(("c_slope_first_int", "c_slope_vary"), READ),
        "c_oddsize": "IM0015 has 20 x 20 pixels, the others 40 x 44 pixels",
        "c_noipp": "no ImagePositionPatient",
        "c_sliceloc": "no ImagePositionPatient",
        "c_missing": "IM0004 and IM0005 are 5 mm apart, most others 2.5 mm, so that 1 is probably missing",
        "c_mixorient": "not parallel: IM0025",
        "c_nested": "2 DICOM series",
        "c_nopixelspacing": "no PixelSpacing",
        "c_gantry": "sheared by 6.8 degrees",
    },
}


def refusal(path: Path, series: str | None = None) -> str:
    with pytest.raises(InputError) as raised:
        read_volume(path, series=series)
    assert raised.value.remedy
    assert "\n" not in raised.value.cause
    return raised.value.cause


def assert_is(image: sitk.Image, volume: Volume) -> None:
    """Whether ``image`` is ``volume``, voxel by voxel and in space."""
    np.testing.assert_allclose(sitk.GetArrayFromImage(image), volume.voxels, atol=1e-3)
    affine = np.column_stack([np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing(), image.GetOrigin()])
    np.testing.assert_allclose(affine, volume.affine, atol=1e-4)


@pytest.fixture(scope="module")
def shared_faults(tmp_path_factory) -> Path:
    if not SHARED_FAULTS.is_dir():
        pytest.skip(f"needs the generators in {SHARED_FAULTS}")
    folder = tmp_path_factory.mktemp("dicom")
    for kind in SHARED:
        command = [sys.executable, "-W", "ignore", SHARED_FAULTS / f"dicom_{kind}.py", folder / kind]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    return folder


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in SHARED.items() for name in names])
def test_shared_faults(shared_faults, kind, name):
    folder, words = shared_faults / kind / name, SHARED[kind][name]
    if words:
        assert words in refusal(folder)
        return
    k, j, i = np.mgrid[:30, :44, :40].astype(float)  # the phantom of the generators
    drawn = 200 * np.exp(-(((i - 15) / 10) ** 2 + ((j - 25) / 12) ** 2 + ((k - 12) / 8) ** 2)) + 5 * i + 3 * j + 7 * k
    number = np.arange(30)
    slopes = {
        "e_slopes": np.where(number < 15, 1, 3),
        "c_slope_first_int": np.where(number == 0, 1, 0.5),
        "c_slope_vary": 0.5 + 0.1 * number,
    }
    axes = {"c_oblique": [0.9848, 0.1736, 0, -0.1736, 0.9848, 0], "c_sag": [0, 1, 0, 0, 0, -1]}
    volume = Volume(
        drawn.astype(np.int16) * slopes.get(name, np.ones(30))[:, None, None],
        (1.0, 1.0, 2.5),
        np.array([-10.0, -20.0, -30.0]),
        np.reshape(axes.get(name, [1, 0, 0, 0, 1, 0]), (2, 3)) / np.linalg.norm(axes.get(name, [1])[:3]),
    )
    image = read_volume(folder)
    if name == "c_jitter":
        assert image.GetSpacing()[2] == pytest.approx(2.5, abs=1e-3)
        image.SetSpacing(volume.spacing)
    assert_is(image, volume)
    assert [remark.code for remark in remarks_of(image)] == (["inverted"] if name == "c_mono1" else [])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_order_of_files_and_frames_gives_the_same(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("order")
    volume = asymmetric(data.draw(st.integers(2, 7)))
    spacing = st.floats(0.3, 6).map(lambda mm: round(mm, 3))
    volume.spacing = data.draw(st.tuples(spacing, spacing, spacing))
    turn = sitk.VersorTransform(
        data.draw(st.sampled_from([(1, 2, 3), (0, 0, 1), (-1, 0, 2)])), data.draw(st.floats(-3, 3))
    )
    volume.axes = np.reshape(turn.GetMatrix(), (3, 3)).T[:2]
    volume.origin = np.array(data.draw(st.tuples(*[st.floats(-300, 300)] * 3)))
    count = len(volume.voxels)
    order = data.draw(st.permutations(range(count)))
    slopes = data.draw(st.none() | st.lists(st.sampled_from([1, 0.5, 2, 3.25]), min_size=count, max_size=count))
    if data.draw(st.booleans()):
        write_enhanced(volume, folder / "all", order, slopes=slopes)
    else:

        def edit(dataset: Dataset, k: int) -> None:
            dataset.InstanceNumber = order[k]  # another order than the places
            if slopes is not None:
                dataset.RescaleSlope, dataset.RescaleIntercept = slopes[k], 0

        write_series(volume, folder / "made", edit)
        for k in range(count):
            (folder / f"sub{k % 2}").mkdir(exist_ok=True)
            (folder / "made" / f"IM{k:04d}").rename(folder / f"sub{k % 2}" / str(order[k]))
    if slopes is not None:
        volume.voxels = volume.voxels * np.array(slopes)[:, None, None]
    assert_is(read_volume(folder), volume)


def _mosaic(dataset: Dataset, k: int) -> None:
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]


def _echoes(dataset: Dataset, k: int) -> None:
    dataset.EchoTime = 10 if k < 3 else 80
    dataset.ImagePositionPatient = [0, 0, k % 3]


def _off_by_one(dataset: Dataset, k: int) -> None:
    if k == 3:
        dataset.ImagePositionPatient[0] += 4


def _exchanged(dataset: Dataset, k: int) -> None:
    if k > 3:
        dataset.ImageOrientationPatient = [0, 1, 0, -1, 0, 0]


def _growing(dataset: Dataset, k: int) -> None:
    dataset.ImagePositionPatient = [0, 0, 2.5 * k + 0.2 * k * k]


def _beside(dataset: Dataset, k: int) -> None:
    dataset.ImagePositionPatient = [200 * (k % 2), 0, k // 2]


def _tag(keyword: str, value: object, only: int | None = None) -> Callable[[Dataset, int], None]:
    def edit(dataset: Dataset, k: int) -> None:
        if only is None or k == only:
            setattr(dataset, keyword, value)

    return edit


def _raw(keyword: str, value: bytes) -> Callable[[Dataset, int], None]:
    """A value that pydicom would not write, in the second file."""

    def edit(dataset: Dataset, k: int) -> None:
        if k == 1:
            old = dataset[keyword]
            dataset._dict[old.tag] = pydicom.dataelem.RawDataElement(old.tag, old.VR, len(value), value, 0, False, True)

    return edit


@pytest.mark.parametrize(
    ("keyword", "values", "told"),
    [
        ("EchoTime", (10, 80), "EchoTime is 10.0 (IM0000) and 80.0 (IM0004)."),
        ("ConvolutionKernel", ("B30f", "B70f"), "ConvolutionKernel is B30f (IM0000) and B70f (IM0004)."),
        ("EchoTime", (80, 80.5), None),
    ],
)
def test_slices_of_several_contrasts_are_noticed(tmp_path, keyword, values, told):
    """Where one half of each of two echoes was exported, they lie above each other as one volume does."""
    write_series(asymmetric(), tmp_path, lambda dataset, k: setattr(dataset, keyword, values[k >= 4]))
    found = [remark.message for remark in remarks_of(read_volume(tmp_path)) if remark.code == "mixed-contrasts"]
    assert found == ([f"The slices were acquired in several ways: {told}"] if told else [])


@pytest.mark.parametrize(
    ("edit", "cause"),
    [
        (_mosaic, "Siemens mosaics: IM0000"),
        (_echoes, "IM0000 and IM0003, which differ in EchoTime 10.0 and 80.0"),
        (_off_by_one, "straight line at equal distances: IM0003"),
        (_exchanged, "not parallel: IM0004, IM0005 are turned"),
        (_growing, "not at equal distances: IM0000 and IM0001"),
        (_beside, "IM0000 and IM0001 lie beside each other"),
        (_tag("PixelSpacing", [1, 1], 5), "IM0005 has pixels of 1 x 1 mm, the others pixels of 0.75 x 0.5 mm"),
        (_tag("PixelSpacing", [0, 1], 5), "IM0005: PixelSpacing is 0 x 1 mm"),
        (_tag("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], 2), "IM0002: ImageOrientationPatient is not two"),
        (_tag("ImageOrientationPatient", None), "IM0000 has no ImageOrientationPatient"),
        (_tag("ImagePositionPatient", None, 4), "1 of 6 files do not say where"),
        (_tag("FrameOfReferenceUID", "1.2.3", 5), "2 frames of reference (FrameOfReferenceUID): IM0000, IM0005"),
        (_tag("PatientID", "1", 5), "2 patients (PatientID): IM0000, IM0005"),
        (_tag("StudyInstanceUID", "1.2.3", 5), "2 studies (StudyInstanceUID): IM0000, IM0005"),
        (_tag("SeriesInstanceUID", "1.2.3", 5), "2 DICOM series"),
        (_tag("RescaleSlope", 0), "IM0000: RescaleSlope is 0"),
        (_tag("RescaleSlope", 2, 3), "5 of 6 images have no RescaleSlope"),
        (_tag("ModalityLUTSequence", [Dataset()]), "stores its values by a table"),
        (_tag("NumberOfFrames", 2), "IM0000 is cut off"),
        (_tag("SamplesPerPixel", 3), "IM0000 is cut off"),
        (_tag("PhotometricInterpretation", "PALETTE COLOR"), "IM0000 is in colour"),
        (_tag("Modality", "SEG"), "is not a scan: it holds a segmentation (SEG)"),
        (_tag("Modality", "RTDOSE"), "is not a scan: it holds a dose (RTDOSE)"),
        (_tag("SOPClassUID", SegmentationStorage), "is not a scan: it holds a segmentation (Segmentation)"),
        (_tag("SOPClassUID", RTDoseStorage), "is not a scan: it holds a dose (RTDOSE)"),
        (_tag("DoseGridScaling", 0.1), "is not a scan: it holds a dose (RTDOSE)"),
        (_raw("ImagePositionPatient", b"1,5\\2,5\\3,5 "), "IM0001: ImagePositionPatient cannot be read as numbers"),
        (_raw("ImagePositionPatient", b"nan\\1\\1 "), "IM0001: ImagePositionPatient is [nan, 1, 1]"),
        (_raw("PixelSpacing", b"1 "), "IM0001: PixelSpacing is 1, which is not 2 numbers"),
    ],
)
def test_what_does_not_make_a_volume_is_refused(tmp_path, edit, cause):
    write_series(asymmetric(), tmp_path, edit)
    assert cause in refusal(tmp_path)


def test_frames_that_do_not_make_a_volume_are_refused(tmp_path):
    volume = asymmetric()

    def contrast(group: Dataset, number: int) -> None:
        group.MREchoSequence = [Dataset()]
        group.MREchoSequence[0].EffectiveEchoTime = 10.0 if number < 6 else 90.0

    write_enhanced(volume, tmp_path / "two.dcm", [*range(6), *range(5, -1, -1)], edit_frame=contrast)
    two = pydicom.dcmread(tmp_path / "two.dcm")
    two.PixelData = volume.voxels.tobytes() + (volume.voxels + 1).tobytes()
    two.save_as(tmp_path / "two.dcm")
    assert "EffectiveEchoTime 10.0 and 90.0" in refusal(tmp_path / "two.dcm")
    write_enhanced(volume, tmp_path / "less.dcm", edit=lambda dataset: dataset.PerFrameFunctionalGroupsSequence.pop())
    assert "should hold 6 frames (NumberOfFrames), but describes 5" in refusal(tmp_path / "less.dcm")

    def unplaced(dataset: Dataset) -> None:
        dataset.SOPClassUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
        del dataset.PerFrameFunctionalGroupsSequence
        dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]

    write_enhanced(volume, tmp_path / "sc.dcm", edit=unplaced)
    assert "holds 6 frames, and does not say where each lies" in refusal(tmp_path / "sc.dcm")


def test_a_scan_in_several_enhanced_files_is_one(tmp_path):
    volume, (series, place, study, whole) = asymmetric(), (generate_uid() for _ in range(4))

    def part(number: int) -> Callable[[Dataset], None]:
        def edit(dataset: Dataset) -> None:
            dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID, dataset.StudyInstanceUID = series, place, study
            dataset.ConcatenationUID, dataset.InConcatenationNumber = whole, number
            dataset.InConcatenationTotalNumber = 3

        return edit

    for number, order in enumerate(([5, 1], [0, 2], [3, 4]), start=1):
        write_enhanced(volume, tmp_path / f"{number}", order, part(number))
    assert_is(read_volume(tmp_path), volume)
    (tmp_path / "3").unlink()
    (tmp_path / "1").unlink()
    assert "is in 3 files, of which number 1, 3 is missing" in refusal(tmp_path)


def test_copies_are_taken_once_and_what_is_no_image_is_passed_over(tmp_path):
    volume = asymmetric()
    write_series(volume, tmp_path)
    (tmp_path / "IM0002 (1)").write_bytes((tmp_path / "IM0002").read_bytes())
    write_series(volume, tmp_path / "contours", lambda dataset, k: k == 0 and _make_contours(dataset))
    for name in ("Thumbs.db", "info.txt", "._IM0001", "README"):
        (tmp_path / name).write_bytes(b"no DICOM")
    os.mkfifo(tmp_path / "IM0009")
    assert_is(read_volume(tmp_path), volume)


def _make_contours(dataset: Dataset) -> None:
    dataset.SOPClassUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"
    del dataset.Rows, dataset.PixelData


@pytest.mark.parametrize(("padding", "written"), [(-2000, -2000), (-2000, 63536), (-20, -20)])
def test_padding_far_below_the_image_is_taken_out(tmp_path, padding, written):
    """Where it is near the image's values it changes nothing, and stays."""
    volume = asymmetric()
    volume.voxels[:, 0, :2] = padding

    def edit(dataset: Dataset, k: int) -> None:
        dataset.add_new("PixelPaddingValue", "US" if written > 0 else "SS", written)
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -5

    write_series(volume, tmp_path, edit)
    volume.voxels[volume.voxels == -2000] = volume.voxels[volume.voxels > -2000].min()
    volume.voxels -= 5
    assert_is(read_volume(tmp_path), volume)


@pytest.mark.parametrize(("first", "last"), [(32767, None), (30000, 32767), (-2000, -1500), (-1500, -2000)])
def test_padding_is_what_the_tags_say_on_either_side_of_the_image(tmp_path, first, last):
    volume = asymmetric()
    volume.voxels[:, 0, 0], volume.voxels[:, 0, 1] = first, first if last is None else last

    def edit(dataset: Dataset, k: int) -> None:
        dataset.add_new("PixelPaddingValue", "SS", first)
        if last is not None:
            dataset.add_new("PixelPaddingRangeLimit", "SS", last)

    write_series(volume, tmp_path, edit)
    volume.voxels[:, 0, :2] = volume.voxels[:, :, 2:].min()
    assert_is(read_volume(tmp_path), volume)


def test_memory_is_asked_for_before_anything_is_decoded(tmp_path, monkeypatch):
    def huge(dataset: Dataset) -> None:
        dataset.compress(RLELossless)
        dataset.Rows = dataset.Columns = 60_000

    write_enhanced(asymmetric(), tmp_path / "a.dcm", edit=huge)
    monkeypatch.setattr("SESegmentationLib.memory.available_gigabytes", lambda: 16.0)
    monkeypatch.setattr(StoredPixels, "of", None)
    with pytest.raises(OutOfMemoryError, match="need 2.* GB of memory; 16.0 GB are available"):
        read_volume(tmp_path / "a.dcm")


@pytest.mark.parametrize(("stored", "high"), [(12, 11), (12, 15), (10, 12)])
@pytest.mark.parametrize("packed", [False, True])
def test_other_bits_of_a_pixel_are_no_values(tmp_path, stored, high, packed):
    volume = asymmetric(6, 20, 16)

    def edit(dataset: Dataset, k: int) -> None:
        bits = (volume.voxels[k].astype(int) & ((1 << stored) - 1)) << (high + 1 - stored)
        dataset.PixelData = (bits | (0xFFFF & ~(((1 << stored) - 1) << (high + 1 - stored)))).astype("<u2").tobytes()
        dataset.BitsStored = 16  # as the encoder looks at them
        if packed:
            dataset.compress(RLELossless, encoding_plugin="pydicom")
        dataset.BitsStored, dataset.HighBit = stored, high

    volume.voxels[0] -= 300
    volume.voxels[:] = np.clip(volume.voxels, -512, 511)
    write_series(volume, tmp_path, edit)
    assert_is(read_volume(tmp_path), volume)


def test_compressed_files_are_read_frame_by_frame(tmp_path):
    volume = asymmetric()
    volume.voxels[0] -= 300
    for syntax in (ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        write_series(volume, tmp_path / syntax, lambda d, k, uid=syntax: setattr(d.file_meta, "TransferSyntaxUID", uid))
        assert_is(read_volume(tmp_path / syntax), volume)
    slopes = [1, 2, 0.5, 3, 1, 4]
    write_enhanced(volume, tmp_path / "rle.dcm", [3, 0, 5, 1, 2, 4], lambda d: d.compress(RLELossless), slopes=slopes)
    scaled = Volume(volume.voxels * np.array(slopes)[:, None, None], volume.spacing, volume.origin, volume.axes)
    assert_is(read_volume(tmp_path / "rle.dcm"), scaled)
    volume = asymmetric(3, 44, 40)  # ITK writes no smaller ones as JPEG 2000
    for compressor in ("JPEG2000", "JPEG"):  # without loss
        write_series(volume, tmp_path / f"{compressor} raw")
        (tmp_path / compressor).mkdir()
        for file in (tmp_path / f"{compressor} raw").iterdir():
            writer = sitk.ImageFileWriter()
            writer.KeepOriginalImageUIDOn()
            writer.SetImageIO("GDCMImageIO")
            writer.SetFileName(str(tmp_path / compressor / f"{file.name}.dcm"))
            writer.SetCompressor(compressor)
            writer.UseCompressionOn()
            writer.Execute(sitk.ReadImage(str(file)))
        assert_is(read_volume(tmp_path / compressor), volume)

"""The files of a DICOM scan: found wherever they lie, one of several series chosen; none is lost without a word."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from dicom_writer import asymmetric, write_enhanced, write_series
from SESegmentationLib.cli import main
from SESegmentationLib.errors import InputError
from SESegmentationLib.io.dicom import headers as opening
from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.io.volume_image import remarks_of

VOLUME = asymmetric()


def refusal(path: Path, series: str | None = None) -> str:
    with pytest.raises(InputError) as raised:
        read_volume(path, series=series)
    assert raised.value.remedy
    return raised.value.cause


def is_read(path: Path, series: str | None = None) -> bool:
    return np.array_equal(sitk.GetArrayFromImage(read_volume(path, series=series)), VOLUME.voxels)


def broken(whole: bytes) -> Iterator[bytes]:
    """What is left of a file by an interrupted copy, a full disk, a failed download."""
    pixels = VOLUME.voxels[0].nbytes
    for length in (0, 100, 131, 132, 140, 200, 300, 331, 400, 450, 500, 600, 700, 800, 900):
        yield whole[:length]
    yield whole[: -pixels - 14]
    yield whole[:-pixels]
    yield whole[:-1]
    yield bytes(len(whole))
    yield b"<html>404 Not Found</html>"


@pytest.mark.parametrize("names", ["IM{:04d}", "{}.dcm", "1.2.840.{}", "slice-{}.IMA", "MR0{}a3f"])
@pytest.mark.parametrize("k", [0, 3, 5])
def test_a_broken_file_is_named_wherever_it_lies_in_the_series(tmp_path, names, k):
    write_series(VOLUME, tmp_path, names=names)
    file = tmp_path / names.format(k)
    for content in broken(file.read_bytes()):
        file.write_bytes(content)
        assert str(file) in refusal(tmp_path), len(content)
    file.unlink()
    file.symlink_to(tmp_path / "not fetched")
    assert str(file) in refusal(tmp_path)


def test_a_broken_enhanced_or_compressed_file_is_named(tmp_path):
    write_enhanced(VOLUME, tmp_path / "plain.dcm")
    write_enhanced(VOLUME, tmp_path / "packed.dcm", edit=lambda dataset: dataset.compress(RLELossless))
    for file in list(tmp_path.iterdir()):
        whole = file.read_bytes()
        for share in np.linspace(0.1, 0.99, 15):
            file.write_bytes(whole[: int(share * len(whole))])
            assert str(file) in refusal(file)


def test_no_more_is_inflated_than_the_tags_tell_of(tmp_path, monkeypatch):
    """By the size of what is held, not by what the file could be made into."""
    deflated = DeflatedExplicitVRLittleEndian
    write_series(VOLUME, tmp_path, lambda dataset, k: setattr(dataset.file_meta, "TransferSyntaxUID", deflated))
    assert is_read(tmp_path)
    monkeypatch.setattr(opening, "_TAG_BYTES", 1 << 21)
    file = tmp_path / "IM0003"
    dataset = pydicom.dcmread(file)
    tracemalloc.start()
    for edit, words in (
        (lambda: dataset.add_new(0x7FE00010, "OB", bytes(1 << 25)), "it inflates to more than its tags say"),
        (lambda: dataset.add_new(0x00204000, "UT", " " * (1 << 25)), "it inflates to more than its tags say"),
        (
            lambda: (dataset.pop(0x00204000), dataset.add_new(0x7FE00010, "OW", bytes(8))),
            "is cut off: it holds 8 bytes",
        ),
    ):
        edit()
        dataset.save_as(file, enforce_file_format=True)
        assert file.stat().st_size < 1 << 20
        tracemalloc.reset_peak()
        said = refusal(tmp_path)
        assert str(file) in said and words in said
        assert tracemalloc.get_traced_memory()[1] - tracemalloc.get_traced_memory()[0] < 1 << 24
    tracemalloc.stop()
    dataset.PixelData = bytes(VOLUME.voxels[3].nbytes)
    dataset.save_as(file, enforce_file_format=True)
    whole = file.read_bytes()
    for length in range(340, len(whole), 31):
        file.write_bytes(whole[:length])
        assert str(file) in refusal(tmp_path)


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
def test_compressed_pixels_are_not_larger_than_the_tags_say(tmp_path, compressor):
    volume = asymmetric(2, 44, 40)
    write_series(volume, tmp_path / "plain")
    (tmp_path / "packed").mkdir()
    for file in sorted((tmp_path / "plain").iterdir()):
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(str(tmp_path / "packed" / f"{file.name}.dcm"))
        writer.SetCompressor(compressor)
        writer.UseCompressionOn()
        writer.Execute(sitk.ReadImage(str(file)))
    file = tmp_path / "packed" / "IM0001.dcm"
    content = file.read_bytes()
    here, width = (44, 40), 2 if compressor == "JPEG" else 4
    said = b"".join(size.to_bytes(width, "big") for size in (here if width == 2 else here[::-1]))
    huge = b"".join(size.to_bytes(width, "big") for size in (65000, 65000))
    begin = content.index(b"\xff\xd8" if width == 2 else b"\xff\x4f\xff\x51")
    place = content.index(said, begin)
    file.write_bytes(content[:place] + huge + content[place + len(huge) :])
    assert "its pixels hold 65000 x 65000 pixels, not 40 x 44" in refusal(tmp_path / "packed")


def test_a_broken_file_of_another_series_hinders_nothing(tmp_path):
    write_series(VOLUME, tmp_path)
    write_series(VOLUME, tmp_path, lambda dataset, k: setattr(dataset, "SeriesNumber", 8), "other{}.x")
    file = tmp_path / "other5.x"
    file.write_bytes(file.read_bytes()[:-9])
    assert is_read(tmp_path, "3")
    assert str(file) in refusal(tmp_path, "8")


def _siemens(dataset: Dataset, k: int) -> None:
    protocol = b"sKSpace.lImagesPerSlab\t = \t6\nsKSpace.ucDimension\t = \t0x4\nsSliceArray.lSize\t = \t1\n"
    dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x20, "OB", protocol + b" ")


def _private(creator: str, group: int, element: int, kind: str) -> Callable[[Dataset, int], None]:
    return lambda dataset, k: dataset.private_block(group, creator, create=True).add_new(element, kind, 6)


@pytest.mark.parametrize(
    ("edit", "lost", "words"),
    [
        (lambda dataset, k: None, 0, "numbered up to 6, without 1"),
        (lambda dataset, k: setattr(dataset, "InstanceNumber", 6 - k), 5, "numbered up to 6, without 1"),
        (lambda dataset, k: setattr(dataset, "ImagesInAcquisition", 6), 5, "has 6 images (ImagesInAcquisition), of"),
        (_private("GEMS_RELA_01", 0x0021, 0x4F, "SS"), 5, "there are 5 of 6 slices (GE"),
        (_private("GEMS_SERS_01", 0x0025, 0x07, "SL"), 5, "there are 5 of 6 images (GE"),
        (_private("Philips Imaging DD 001", 0x2001, 0x18, "SL"), 5, "there are 5 of 6 slices (Philips"),
        (_siemens, 5, "there are 5 of 6 slices (Siemens"),
    ],
)
def test_a_file_that_is_missing_at_an_end_is_hinted_at(tmp_path, edit, lost, words):
    write_series(VOLUME, tmp_path, edit)
    assert remarks_of(read_volume(tmp_path)) == []
    (tmp_path / f"IM{lost:04d}").unlink()
    (remark,) = remarks_of(read_volume(tmp_path))
    assert remark.code == "incomplete-series"
    assert words in remark.message


def _between(mm: object) -> Callable[[Dataset, int], None]:
    return lambda dataset, k: setattr(dataset, "SpacingBetweenSlices", mm)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_between(2.5), "the slices are 7.5 mm apart, which is 3 times their SpacingBetweenSlices"),
        (_between(-2.5), "which is 3 times their SpacingBetweenSlices"),
        (lambda dataset, k: None, "the images are numbered in steps of 3, and as far apart as 3 slices"),
        (lambda dataset, k: setattr(dataset, "InstanceNumber", 40 - k), "numbered in steps of 3"),
        # thin slices with gaps between them; numbered by contrast and slice; the gap instead of the distance
        (lambda dataset, k: (_between(7.5)(dataset, k), setattr(dataset, "InstanceNumber", k // 3 + 1)), ""),
        (lambda dataset, k: setattr(dataset, "SliceThickness", 7.5), ""),
        (lambda dataset, k: (_between(1.5)(dataset, k), setattr(dataset, "SliceThickness", 6)), ""),
        (lambda dataset, k: (_between(0)(dataset, k), setattr(dataset, "InstanceNumber", 1)), ""),
        (lambda dataset, k: setattr(dataset, "ImageType", ["DERIVED", "SECONDARY", "MPR"]), ""),
    ],
)
def test_slices_that_are_missing_everywhere_are_hinted_at(tmp_path, edit, words):
    """Where every third slice was exported, what is there lies at equal distances."""
    write_series(asymmetric(18), tmp_path, lambda dataset, k: (edit(dataset, k), k % 3 == 0)[1])
    hints = [remark.message for remark in remarks_of(read_volume(tmp_path))]
    assert len(hints) == bool(words) and all(words in hint for hint in hints)


def test_a_file_that_is_missing_for_certain_is_refused(tmp_path):
    def positron(dataset: Dataset, k: int) -> None:
        dataset.Modality, dataset.NumberOfSlices = "PT", 6

    write_series(VOLUME, tmp_path, positron)
    assert is_read(tmp_path)
    (tmp_path / "IM0005").unlink()
    assert "has 6 slices (NumberOfSlices), of which 5 are there" in refusal(tmp_path)


def test_a_dicomdir_finds_the_files_and_tells_which_is_missing(tmp_path):
    uid = write_series(VOLUME, tmp_path / "files")
    write_series(VOLUME, tmp_path / "files", lambda dataset, k: setattr(dataset, "SeriesNumber", 8), "other{}")
    disc = FileSet()
    for file in sorted((tmp_path / "files").iterdir()):
        disc.add(pydicom.dcmread(file))
    disc.write(tmp_path / "disc")
    assert is_read(tmp_path / "disc" / "DICOMDIR", uid)
    assert is_read(tmp_path / "disc", "8")
    last = next(file for file in (tmp_path / "disc").rglob("IM*") if _place(file) == (3, 6))
    last.unlink()
    assert str(last) in refusal(tmp_path / "disc", "3")
    assert is_read(tmp_path / "disc" / "DICOMDIR", "8")


def _place(file: Path) -> tuple[int, int]:
    dataset = pydicom.dcmread(file)
    return dataset.SeriesNumber, dataset.InstanceNumber


def test_series_are_listed_and_chosen(tmp_path):
    def as_series(number: int | None, name: str) -> Callable[[Dataset, int], None]:
        def edit(dataset: Dataset, k: int) -> None:
            dataset.SeriesNumber, dataset.SeriesDescription = number, name

        return edit

    first = write_series(VOLUME, tmp_path / "A" / "1", as_series(1, "T1 mprage"))
    write_series(VOLUME, tmp_path / "A" / "2", as_series(2, "T2 [bold]\x1b[31m"))
    write_series(VOLUME, tmp_path / "B", as_series(1, "Flair"))
    write_series(VOLUME, tmp_path / "C", as_series(None, "flair 2"))

    def as_segmentation(dataset: Dataset, k: int) -> None:
        dataset.SeriesNumber, dataset.Modality = 2, "SEG"

    write_series(VOLUME, tmp_path / "A" / "2", as_segmentation, "S{}")
    listed = refusal(tmp_path)
    assert "4 DICOM series" in listed
    assert f'1 "T1 mprage" (MR, 6 images, UID {first})' in listed
    assert "\x1b" not in listed
    for wanted in (first, "t1 MPRAGE", "mprage", "2", "flair", "flair 2"):
        assert is_read(tmp_path, wanted), wanted
    assert "holds 2 DICOM series that are called 1:" in refusal(tmp_path, "1")
    assert "holds no series 7. It holds 1 " in refusal(tmp_path, "7")
    assert is_read(tmp_path / "A" / "1")
    assert is_read(tmp_path / "B", "1")


def test_the_command_takes_a_series(tmp_path, tiny_model, capsys):
    volume = asymmetric(16, 20, 20)
    volume.spacing = (1.0, 1.0, 1.0)
    write_series(volume, tmp_path / "study" / "1")
    write_series(volume, tmp_path / "study" / "2", lambda dataset, k: k > 0 and setattr(dataset, "SeriesNumber", 8))
    (tmp_path / "study" / "2" / "IM0001").unlink()
    run = ["run", str(tmp_path / "study"), "-m", str(tiny_model), "--device", "cpu", "-o", str(tmp_path / "a.nii.gz")]
    assert main(run) == 2
    assert "Choose one with --series" in capsys.readouterr().err
    assert not (tmp_path / "a.nii.gz").exists()
    assert main([*run, "--series", "8"]) == 0
    out = capsys.readouterr()
    assert "Slices may be missing" in " ".join((out.out + out.err).split())
    assert sitk.ReadImage(str(tmp_path / "a.nii.gz")).GetSize() == (20, 20, 14)
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkUInt8), str(tmp_path / "b.nii"))
    assert main(["run", str(tmp_path / "b.nii"), *run[2:], "--series", "8"]) == 2
    assert "not a DICOM file" in capsys.readouterr().err

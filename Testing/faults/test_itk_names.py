"""Files and folders whose names ITK does not know: on Windows those that are not ASCII, as of a user called Jörg."""

from __future__ import annotations

import os
import sys
import tempfile

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.uid import RLELossless

from dicom_writer import asymmetric, write_enhanced
from SESegmentationLib.errors import InputError
from SESegmentationLib.files import OutputError, OutputFiles
from SESegmentationLib.io import itk_names
from SESegmentationLib.io.dicom import read_dicom
from SESegmentationLib.io.formats import open_file
from SESegmentationLib.io.writing import write_image

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows itself has such names")
IMAGE = sitk.GetImageFromArray(np.arange(60, dtype=np.uint8).reshape(3, 4, 5))


@pytest.fixture
def windows(tmp_path, monkeypatch):
    """ITK as on Windows, for a code page; folders have short names of 8 characters if wanted."""

    def begin(code_page: int = 1252, short_names: bool = True) -> None:
        def told(call, position):
            def checked(*arguments, **options):
                name = str(arguments[position])
                if not name.isascii() and code_page != 65001:
                    raise RuntimeError(f'The file "{name}" does not exist.')
                return call(*arguments, **options)

            return checked

        def short(name: str) -> str:
            if not short_names or not os.path.exists(name):
                return name
            link = tmp_path / f"SHORT~{len(list(tmp_path.iterdir()))}"
            os.symlink(os.path.dirname(name) if os.path.isfile(name) else name, link)
            return str(link / os.path.basename(name) if os.path.isfile(name) else link)

        monkeypatch.setattr(sys, "platform", "win32")
        monkeypatch.setattr(itk_names, "_code_page", lambda: code_page)
        monkeypatch.setattr(itk_names, "_short_name", short)
        for name, position in (("WriteImage", 1), ("ReadImage", 0)):
            monkeypatch.setattr(sitk, name, told(getattr(sitk, name), position))
        of_name = told(sitk.ImageFileReader.GetImageIOFromFileName, 0)
        monkeypatch.setattr(sitk.ImageFileReader, "GetImageIOFromFileName", of_name)

    return begin


@pytest.mark.parametrize(("code_page", "short_names"), [(1252, True), (1252, False), (65001, False)])
def test_images_are_written_into_folders_of_any_name(tmp_path, windows, code_page, short_names):
    windows(code_page, short_names)
    path = tmp_path / "Jörg" / "Kopf ä.nii.gz"
    with OutputFiles() as files:
        write_image(files.begin(path), IMAGE)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    (tmp_path / "copy.nii.gz").write_bytes(path.read_bytes())
    assert (
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "copy.nii.gz"))) == sitk.GetArrayFromImage(IMAGE)
    ).all()


def test_where_no_folder_has_such_a_name_it_is_told(tmp_path, windows, monkeypatch):
    windows(short_names=False)
    (tmp_path / "Jörg").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "Jörg"))
    with pytest.raises(OutputError, match="characters outside ASCII") as caught, OutputFiles() as files:
        write_image(files.begin(tmp_path / "Jörg" / "a.nii"), IMAGE)
    assert "TEMP" in caught.value.remedy
    assert not list((tmp_path / "Jörg").iterdir())


def test_files_that_only_itk_reads_are_read_by_their_short_names(tmp_path, windows):
    path = tmp_path / "Jörg" / "a.hdf5"
    path.parent.mkdir()
    sitk.WriteImage(IMAGE, str(path))
    windows()
    assert (sitk.GetArrayFromImage(open_file(path)) == sitk.GetArrayFromImage(IMAGE)).all()
    windows(short_names=False)
    with pytest.raises(InputError, match="has a name that ITK cannot open") as caught:
        open_file(path)
    assert "Rename" in caught.value.remedy


def test_compressed_dicom_is_read_where_the_folder_for_temporary_files_has_such_a_name(tmp_path, windows, monkeypatch):
    volume = asymmetric()
    write_enhanced(volume, tmp_path / "rle.dcm", range(6), lambda dataset: dataset.compress(RLELossless))
    (tmp_path / "Jörg").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "Jörg"))
    windows()
    assert (sitk.GetArrayFromImage(read_dicom(tmp_path / "rle.dcm")) == volume.voxels).all()

"""Damaged headers, thousands of each format: read as they say, or refused in one line; never a crash, never a guess.

``make fuzz`` tries more of them, and others each time: FUZZ_MUTATIONS and FUZZ_SEED say how many and which.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from SESegmentationLib.client.reading import ReadingProcess
from SESegmentationLib.errors import SegmentationError
from SESegmentationLib.io.reading import files_opened_by, read_volume
from SESegmentationLib.io.volume_image import RAS_TO_LPS, affine_of, remarks_of

sys.path.insert(0, str(Path(__file__).parent))

import mutants  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]  # pydicom's, of damaged values
COUNT = int(os.environ.get("FUZZ_MUTATIONS", "2000"))
SEED = int(os.environ.get("FUZZ_SEED", "19"))
#: what says that the geometry is doubtful
DOUBTFUL = {"no-orientation", "two-transforms", "no-voxel-size"}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where thousands of files are written, in memory where that can be had."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def apart() -> Iterator[ReadingProcess]:
    process = ReadingProcess(seconds=10.0)
    with files_opened_by(process):
        yield process
    process.close()


class Itk:
    """Reads files with ITK in a process that may die of them, as another opinion about where voxels are."""

    PROGRAM = (
        "import json, sys; import SimpleITK as sitk\n"
        "sitk.ProcessObject.GlobalWarningDisplayOff()\n"
        "for line in sys.stdin:\n"
        "    try:\n"
        "        image = sitk.ReadImage(json.loads(line))\n"
        "        size = image.GetSize()[:3]; image = image if image.GetDimension() == 3 else image[..., 0]\n"
        "        told = [image.GetSpacing(), image.GetOrigin(), image.GetDirection(),"
        " sitk.GetArrayFromImage(image).astype(float).ravel().tolist()]\n"
        "    except Exception: told = None\n"
        "    print(json.dumps(told), flush=True)\n"
    )

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def read(self, path: Path) -> tuple[np.ndarray, np.ndarray] | None:
        """Affine (to LPS) and voxels in file order; None where ITK cannot read it, or dies of it."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", self.PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
            )
        print(json.dumps(str(path)), file=self._process.stdin, flush=True)
        told = json.loads(self._process.stdout.readline() or "null")
        if told is None:
            return None
        spacing, origin, direction, voxels = told
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(direction, (3, 3)) * spacing
        affine[:3, 3] = origin
        return affine, np.array(voxels)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


def read_or_refused(path: Path) -> sitk.Image | None:
    """The volume; None where it is refused, which must be in one line that says what is wrong."""
    try:
        return read_volume(path)
    except SegmentationError as error:
        assert len(error.cause.splitlines()) == 1
        assert error.remedy
        for excuse in ("Unexpected", "crashes the library", "does not finish", "Error:"):
            assert excuse not in error.cause, error.cause
        return None


def assert_same(image: sitk.Image, affine: np.ndarray, voxels: np.ndarray | None) -> None:
    size = np.array(image.GetSize())
    ends = np.array([[0, 0, 0, 1], [*(size - 1), 1], [size[0] - 1, 0, 0, 1], [0, size[1] - 1, 0, 1]], float)
    tolerance = 0.01 * np.linalg.norm(affine[:3, :3], axis=0).min() + 1e-5 * np.abs(affine).max()
    np.testing.assert_allclose(ends @ affine_of(image).T, ends @ affine.T, atol=tolerance)
    if voxels is not None:
        ours = sitk.GetArrayFromImage(image).astype(float).ravel()
        np.testing.assert_allclose(ours, np.where(np.isfinite(voxels), voxels, 0).ravel(), rtol=1e-5, atol=1e-5)


@pytest.mark.timeout(3600)
def test_damaged_nifti_is_what_nibabel_reads_or_refused(folder, apart):
    read = 0
    path = folder / "a.nii.gz"  # compressed or not, whatever its name says
    plain = folder / "b.nii"
    for damaged in mutants.mutants("nifti", mutants.nifti(), COUNT, SEED):
        path.write_bytes(damaged)
        image = read_or_refused(path)
        if image is None or DOUBTFUL & {finding.code for finding in remarks_of(image)}:
            continue
        read += 1
        plain.write_bytes(gzip.decompress(damaged) if damaged[:2] == b"\x1f\x8b" else damaged)
        theirs = nibabel.load(plain)
        units = {1: 1000.0, 3: 0.001}.get(int(theirs.header["xyzt_units"]) & 7, 1.0)
        affine = RAS_TO_LPS @ np.diag([units, units, units, 1.0]) @ theirs.affine
        assert_same(image, affine, np.asarray(theirs.dataobj).reshape(image.GetSize()).astype(float).T)
    assert read > COUNT // 10


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["nrrd", "metaimage"])
def test_damaged_text_headers_are_what_itk_reads_or_refused(folder, apart, kind):
    whole: Callable[[], bytes] = getattr(mutants, kind)
    path, itk, read = folder / f"a.{'nrrd' if kind == 'nrrd' else 'mha'}", Itk(), 0
    for damaged in mutants.mutants(kind, whole(), COUNT, SEED):
        path.write_bytes(damaged)
        image = read_or_refused(path)
        if image is None or DOUBTFUL & {finding.code for finding in remarks_of(image)}:
            continue
        if b'"m"' in damaged or re.search(rb"ElementDataFile = LOCAL\n\w+ = ", damaged):
            continue  # ITK goes by no unit, and takes what follows that field for voxels
        if (theirs := itk.read(path)) is not None:
            read += 1
            assert_same(image, *theirs)
    itk.close()
    assert read > COUNT // 20


@pytest.mark.timeout(3600)
def test_a_damaged_file_of_a_series_is_read_as_its_tags_say_or_refused(folder, apart):
    """Whatever GDCM does with it: that may die, the program may not."""
    files = mutants.write_dicom(folder)
    read, whole = 0, files[2].read_bytes()
    for damaged in mutants.mutants("dicom", whole, COUNT, SEED):
        files[2].write_bytes(damaged)
        try:
            image = read_volume(folder)
        except SegmentationError as error:
            assert len(error.cause.splitlines()) == 1
            assert "Unexpected" not in error.cause
            continue
        if image.GetSize()[2] < len(files):
            continue
        read += 1
        positions = []
        for file in files:
            tags = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            positions.append([float(x) for x in tags.ImagePositionPatient])
            assert [float(x) for x in tags.PixelSpacing] == pytest.approx(image.GetSpacing()[1::-1])
        positions.sort(key=lambda position: position[2])
        np.testing.assert_allclose(image.GetOrigin(), positions[0], atol=1e-3)
        last = image.TransformIndexToPhysicalPoint((0, 0, len(files) - 1))
        np.testing.assert_allclose(last, positions[-1], atol=0.2)
    assert read

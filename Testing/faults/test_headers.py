"""Headers that contradict themselves, or say what cannot be: read as they are meant, with a remark, or refused by name.

The files of ``../shared/faults`` are used where they are there; what they show is known: a phantom in one place.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

import mutants  # noqa: E402

from SESegmentationLib.errors import InputError
from SESegmentationLib.inference.head import HeadMeasurements
from SESegmentationLib.io.reading import check_volume, read_label_layers, read_volume
from SESegmentationLib.io.volume_image import RAS_TO_LPS, affine_of, remarks_of

FAULTS = Path(__file__).resolve().parents[3] / "shared" / "faults"
#: the phantom's place
PHANTOM = RAS_TO_LPS @ np.array([[-1.0, 0, 0, 10], [0, 1, 0, -20], [0, 0, 2.5, -30], [0, 0, 0, 1]])


def codes(image: sitk.Image) -> set[str]:
    return {finding.code for finding in remarks_of(image)}


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as raised:
        read_volume(path)
    assert str(path) in raised.value.cause and raised.value.remedy
    return raised.value.cause


def made_by(script: str, folder: Path) -> dict[str, Path]:
    """The files of a generator, by name."""
    if not FAULTS.is_dir():
        pytest.skip(f"needs the generators in {FAULTS}")
    subprocess.run([sys.executable, FAULTS / script, folder], check=True, capture_output=True, timeout=120)
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def nifti_files(tmp_path_factory) -> dict[str, Path]:
    return made_by("nifti_headers.py", tmp_path_factory.mktemp("nifti"))


#: what cannot be read names this
REFUSED_NIFTI = {
    "dim0_zero.nii": "dim[0]",
    "dim_neg.nii": "dim[1]",
    "crlf.nii": "transferred as a text",
    "voxoffset_zero.nii": "vox_offset",
    "magic_bad.nii": "magic",
    "qs_flip.nii": "sform and qform",
    "quat_big.nii": "quatern",
    "quat_nan.nii": "qform",
    "sform_nan.nii": "sform",
    "sform_zero_code1.nii": "sform",
    "sform_zero_q0.nii": "sform",
    "units_micron_coded_mm.nii": "another unit",
    "shear_sonly.nii": "sheared",
    "rgb.nii": "3 values",
    "vec.nii": "3 values",
    "dt_c64.nii": "complex",
    "frames2.nii": "2 frames",
    "twice.nii.gz": "compressed twice",
    "lfs.nii.gz": "Git LFS",
    "html.nii.gz": "not a medical volume",
    "empty.nii.gz": "empty",
}


def test_every_nifti_variant_is_where_nibabel_puts_it_or_refused_by_its_fault(nifti_files):
    files = dict(nifti_files)
    for name, cause in REFUSED_NIFTI.items():
        assert cause in refusal(files.pop(name)), name
    read = 0
    for name, path in files.items():
        if path.suffix == ".mat" or name.startswith("shear_s"):
            continue
        image = read_volume(path)
        try:
            theirs = nibabel.load(path)
        except nibabel.filebasedimages.ImageFileError:  # a name that does not say what the file is
            expected = PHANTOM
        else:
            units = {1: 1000.0, 3: 0.001}.get(int(theirs.header["xyzt_units"]) & 7, 1.0) if ".nii" in name else 1.0
            expected = RAS_TO_LPS @ np.diag([units] * 3 + [1.0]) @ theirs.affine
        if name == "qs_mni.nii":
            assert codes(image) == {"two-transforms"}
            expected = PHANTOM  # the way to a template is not where the scan was taken
        if not name.startswith("spm99"):  # beside it lies a file that says more
            np.testing.assert_allclose(affine_of(image), expected, atol=1e-4, err_msg=name)
        read += 1
        assert codes(image) == {
            "none.nii": {"no-orientation"},
            "analyze.hdr": {"no-orientation"},
            "analyze.img": {"no-orientation"},
            "spm99.hdr": {"no-orientation"},
            "spm99.img": {"no-orientation"},
            "qs_rot15.nii": {"two-transforms"},
            "qs_mni.nii": {"two-transforms"},
        }.get(name, set()), name
    assert read > 50


@pytest.mark.parametrize("name", ["gz_named_nii.nii", "free.mgz", "pixdim_neg.nii", "nifti2.nii"])
def test_what_was_refused_or_mirrored_before_is_the_phantom(nifti_files, name):
    image, plain = read_volume(nifti_files[name]), read_volume(nifti_files["plain.nii"])
    np.testing.assert_allclose(affine_of(image), PHANTOM, atol=1e-5)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(plain))


REFUSED_TEXT = {
    "block.nrrd": "type",
    "cut.nrrd": "cut off",
    "cutgz.nrrd": "cut off",
    "det_missing.nhdr": "gone.raw",
    "det_missing.mhd": "gone.raw",
    "m_cut.mha": "cut off",
    "m_neg.mha": "ElementSpacing",
    "m_zero.mha": "ElementSpacing",
    "nan_dir.nrrd": "space directions",
    "shear.nrrd": "sheared",
    "time_last.nrrd": "2 values",
    "vec3.nrrd": "3 values",
}
#: files that say less than they should; they are read as ITK reads them
DOUBTFUL_TEXT = {"nothing.nrrd", "spacings_only.nrrd", "m_nomatrix.mha"}
DOUBTFUL_TEXT |= {"scanner.nrrd", "scanner_t.nrrd", "spacedim.nrrd"}


def test_every_nrrd_and_metaimage_variant_is_the_phantom_or_refused_by_its_fault(tmp_path):
    files = {name: path for name, path in made_by("nrrd_metaimage_headers.py", tmp_path).items() if ".raw" not in name}
    for name, cause in REFUSED_TEXT.items():
        assert cause in refusal(files.pop(name)), name
    whole = sitk.GetArrayFromImage(read_volume(files["lps.nrrd"]))
    for name, path in files.items():
        image = read_volume(path)
        assert codes(image) - {"no-voxel-size"} == ({"no-orientation"} if name in DOUBTFUL_TEXT else set()), name
        values = np.clip(whole, 0, 255) if name == "hex.nrrd" else whole
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), values, err_msg=name)
        if name not in DOUBTFUL_TEXT:
            np.testing.assert_allclose(affine_of(image), PHANTOM, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("qform", [0, 1])
def test_a_negative_voxel_size_is_no_mirror(tmp_path, axis, qform):
    content = bytearray(mutants.nifti())
    (size,) = struct.unpack_from("<f", content, 76 + 4 * axis)
    struct.pack_into("<f", content, 76 + 4 * axis, -size)
    struct.pack_into("<h", content, 252, qform)
    (tmp_path / "a.nii").write_bytes(content)
    image = read_volume(tmp_path / "a.nii")
    np.testing.assert_allclose(affine_of(image), RAS_TO_LPS @ mutants.AFFINE_RAS, atol=1e-5)


@pytest.mark.parametrize(
    ("sform", "qform", "taken"), [(1, 1, "sform"), (1, 4, "sform"), (4, 1, "qform"), (4, 4, "sform")]
)
def test_two_transforms_that_lie_apart_are_told_either_way_round(tmp_path, sform, qform, taken):
    image = nibabel.Nifti1Image(mutants.VOXELS, mutants.AFFINE_RAS)
    moved = mutants.AFFINE_RAS.copy()
    moved[:3, 3] += (0, 30, 0)
    image.set_sform(mutants.AFFINE_RAS, sform)
    image.set_qform(moved, qform)
    image.to_filename(tmp_path / "a.nii")
    read = read_volume(tmp_path / "a.nii")
    (finding,) = remarks_of(read)
    assert finding.code == "two-transforms" and f"the {taken} was used" in finding.message
    expected = RAS_TO_LPS @ (moved if taken == "qform" else mutants.AFFINE_RAS)
    np.testing.assert_allclose(affine_of(read), expected, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    turn=st.tuples(*[st.floats(-3, 3)] * 3),
    mirror=st.booleans(),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
    origin=st.tuples(*[st.floats(-300, 300)] * 3),
    ending=st.sampled_from([".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"]),
    dtype=st.sampled_from(["u1", "i2", "u2", "i4", "f4", "f8"]),
)
def test_what_itk_writes_is_read_as_itk_reads_it(tmp_path_factory, turn, mirror, spacing, origin, ending, dtype):
    """Our readers and ITK's are two opinions."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(mutants.VOXELS.T.astype(dtype)))
    axes = np.reshape(sitk.Euler3DTransform((0, 0, 0), *turn).GetMatrix(), (3, 3)) * [1, 1, -1 if mirror else 1]
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(axes.ravel().tolist())
    path = tmp_path_factory.mktemp("itk") / f"a{ending}"
    sitk.WriteImage(image, path)
    read, theirs = read_volume(path), sitk.ReadImage(path)
    assert read.GetPixelID() == theirs.GetPixelID()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(theirs))
    np.testing.assert_allclose(affine_of(read), affine_of(theirs), atol=2e-3 if ".nii" in ending else 1e-4)
    assert not codes(read)


@pytest.mark.parametrize(("unit", "factor"), [("m", 1000), ("cm", 10), ("um", 0.001), ("microns", 0.001), ("mm", 1)])
def test_the_units_of_nrrd_count(tmp_path, unit, factor):
    head = mutants.nrrd().replace(b'"mm" "mm" "mm"', f'"{unit}" "{unit}" "{unit}"'.encode())
    for number in (b"-1.5", b"1.25", b"2.5", b"20", b"-30", b"-10"):
        head = head.replace(number, repr(float(number) / factor).encode(), 1)
    (tmp_path / "a.nrrd").write_bytes(head)
    np.testing.assert_allclose(affine_of(read_volume(tmp_path / "a.nrrd")), RAS_TO_LPS @ mutants.AFFINE_RAS, rtol=1e-6)
    (tmp_path / "b.nrrd").write_bytes(head.replace(f'"{unit}"'.encode(), b'"furlong"'))
    assert "space units" in refusal(tmp_path / "b.nrrd")


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.raw", "sub/a.raw", "..\\a.raw", "C:a.raw", "."])
@pytest.mark.parametrize("kind", ["nrrd", "metaimage"])
def test_voxels_are_only_read_from_beside_their_header(tmp_path, kind, name):
    (tmp_path / "sub").mkdir()
    for folder in (tmp_path, tmp_path / "sub", tmp_path.parent):
        (folder / "a.raw").write_bytes(mutants.VOXELS.tobytes(order="F"))
    header = getattr(mutants, kind)()[: -mutants.VOXELS.nbytes]
    field = "data file" if kind == "nrrd" else "ElementDataFile"
    for listed in (False, True):
        if kind == "nrrd":
            lines = f"data file: LIST\n{name}\n" if listed else f"data file: {name}\n\n"
            content = header[:-1] + lines.encode()
        else:
            content = header.replace(b"LOCAL\n", f"LIST\n{name}\n".encode() if listed else f"{name}\n".encode())
        path = tmp_path / ("a.nhdr" if kind == "nrrd" else "a.mhd")
        path.write_bytes(content)
        assert f"{field} names" in refusal(path)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Spm2AnalyzeImage])
def test_voxels_of_a_pair_may_begin_as_dicom_does(tmp_path, kind):
    """Noise in air: 8, 3, 5, 0 is the tag (0008,0003) with a length of 5."""
    stored = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    stored[:4, 0, 0] = 8, 3, 5, 0
    kind(stored, np.diag([2.0, 2, 2, 1])).to_filename(tmp_path / "a.img")
    for name in ("a.img", "a.hdr"):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / name)).T, stored)


@pytest.mark.parametrize("slope", [0.25, -2.0, 0.0, float("nan")])
def test_the_scale_that_spm_gives_in_analyze_counts(tmp_path, slope):
    """In a field that Analyze itself does not use; 0 and NaN are no scale."""
    stored = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    image = nibabel.Spm99AnalyzeImage(stored, np.eye(4))
    image.to_filename(tmp_path / "a.img")
    header = bytearray((tmp_path / "a.hdr").read_bytes())
    header[112:116] = struct.pack("<f", slope)
    (tmp_path / "a.hdr").write_bytes(header)
    read = sitk.GetArrayFromImage(read_volume(tmp_path / "a.hdr")).T
    np.testing.assert_array_equal(read, stored * (slope if slope in (0.25, -2.0) else 1))


@pytest.mark.parametrize(
    ("spacings", "refused"),
    [("1 1 2.5", False), ("NaN NaN NaN", False), ("1 1 x", False), ("1 1 5", True), ("1 1 2.6", True)],
)
def test_spacings_beside_directions_say_the_same_or_are_refused(tmp_path, spacings, refused):
    path = tmp_path / "a.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(24, dtype=np.uint8).reshape(2, 3, 4)), str(path))
    content = path.read_bytes().replace(b"(0,0,1)", b"(0,0,2.5)")
    path.write_bytes(content.replace(b"kinds:", b"spacings: " + spacings.encode() + b"\nkinds:", 1))
    if refused:
        assert "two voxel sizes, 1 x 1 x 2.5 (space directions) and" in refusal(path)
    else:
        assert read_volume(path).GetSpacing() == (1, 1, 2.5)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (bz2.compress(bytes(1000)), "bzip2"),
        (lzma.compress(bytes(1000)), "xz"),
        (b"PK\x03\x04" + bytes(1000), "ZIP"),
    ],
    ids=["bzip2", "xz", "ZIP"],
)
def test_what_is_packed_otherwise_is_told(tmp_path, content, name):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(content)
    assert f"packed or compressed by {name}" in refusal(path)


def test_too_small_and_too_large_are_told(tmp_path):
    for factor, words in ((1e-3, "only"), (1e3, "m long")):
        image = sitk.GetImageFromArray(np.ascontiguousarray(mutants.VOXELS.T))
        image.SetSpacing([factor] * 3)
        sitk.WriteImage(image, tmp_path / "a.mha")
        assert words in refusal(tmp_path / "a.mha") and "another unit" in refusal(tmp_path / "a.mha")


def test_more_voxels_than_the_header_tells_are_told(tmp_path):
    (tmp_path / "a.nrrd").write_bytes(mutants.nrrd() + mutants.VOXELS.tobytes())
    assert codes(read_volume(tmp_path / "a.nrrd")) == {"surplus"}


@pytest.mark.parametrize("name", ["a.nii", "a.nrrd", "a.mha"])
def test_what_was_transferred_as_a_text_is_refused(tmp_path, name):
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 256, (20, 20, 20)).astype(np.uint8))
    sitk.WriteImage(image, tmp_path / name)
    assert codes(read_volume(tmp_path / name)) == set()
    content = (tmp_path / name).read_bytes()
    spared = 352 if name == "a.nii" else 0  # a header without such a byte
    (tmp_path / name).write_bytes(content[:spared] + content[spared:].replace(b"\n", b"\r\n"))
    assert "transferred as a text" in refusal(tmp_path / name)


@pytest.mark.parametrize(("values", "lowest"), [((0, 100), 0), ((-1024, 1500), -1024)])
def test_padding_far_below_the_image_is_taken_as_its_lowest_value(values, lowest):
    array = np.random.default_rng(3).integers(*values, (20, 20, 20)).astype(np.int16)
    array[0, 0, 0] = lowest
    whole = check_volume(sitk.GetImageFromArray(array))
    assert not codes(whole)
    padded = array.copy()
    padded[:, :2] = -9999
    image = check_volume(sitk.GetImageFromArray(padded))
    assert codes(image) == {"padding"}
    expected = np.where(padded == -9999, padded[padded > -9999].min(), padded)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), expected)


def test_a_head_that_faces_another_way_than_its_header_says_is_noticed(shared_data):
    """Half turns, which leave the head symmetric from left to right."""
    for name in ("t1-head-0p88mm", "t1-brain-stripped"):
        image = sitk.BinShrink(read_volume(shared_data / "volumes" / f"{name}.nii.gz"), (2, 2, 2))
        assert HeadMeasurements.of(image).facing is None, name
        for turn, facing in (((-1, -1, 1), "backwards"), ((-1, 1, -1), "upside down")):
            turned = sitk.Image(image)
            turned.SetDirection((np.diag(turn) @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
            turned.SetOrigin(np.multiply(turn, image.GetOrigin()).tolist())
            assert HeadMeasurements.of(turned).facing == facing, name


def test_layers_and_their_names_are_kept(tmp_path):
    layers = np.stack([mutants.VOXELS > 500, mutants.VOXELS > 700]).astype(np.uint8)
    head = (
        mutants.nrrd()[: -mutants.VOXELS.nbytes]
        .replace(b"type: short\ndimension: 3", b"type: uchar\ndimension: 4")
        .replace(b"sizes: 7 6 5", b"sizes: 2 7 6 5")
        .replace(b"space directions: ", b"space directions: none ")
        .replace(b"kinds: domain", b"kinds: list domain")
        .replace(b"some key:=some value", b"Segment0_ID:=a\nSegment1_ID:=b\nSegment1_Layer:=1")
    )
    (tmp_path / "a.seg.nrrd").write_bytes(head + layers.tobytes(order="F"))
    read = read_label_layers(tmp_path / "a.seg.nrrd")
    assert read[1].GetMetaData("Segment1_Layer") == "1"
    for layer, values in zip(read, layers, strict=True):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(layer).T, values)

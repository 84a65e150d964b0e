"""Images and results on their way: geometry, voxels and metadata stay, and memory belongs to whom uses it."""

from __future__ import annotations

import gc
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from SESegmentationLib.errors import InputError
from SESegmentationLib.inference.input_checks import check_input
from SESegmentationLib.io.reading import NOT_NUMBERS
from SESegmentationLib.io.volume_image import add_remarks, voxels_of
from SESegmentationLib.models import ModelPackage
from SESegmentationLib.result import Finding, SegmentationResult, SegmentOptions, StructureResult
from SESegmentationLib.worker.jobs import (
    JOBS,
    AttentionJob,
    RefineJob,
    SegmentJob,
    WarmUpJob,
    pack_image,
    pack_result,
    unpack_image,
    unpack_result,
)

LENGTHS = st.floats(0.01, 100, allow_nan=False)
POSITIONS = st.floats(-1e4, 1e4, allow_nan=False)
TYPES = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64, np.float32, np.float64]


def through_json(value: object) -> object:
    return json.loads(json.dumps(value, allow_nan=False))


def assert_same(one: sitk.Image, other: sitk.Image) -> None:
    assert one.GetPixelID() == other.GetPixelID()
    assert one.GetSize() == other.GetSize()
    assert one.GetSpacing() == other.GetSpacing()
    assert one.GetOrigin() == other.GetOrigin()
    assert one.GetDirection() == other.GetDirection()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(one), sitk.GetArrayFromImage(other))


@settings(max_examples=60, deadline=None)
@given(
    voxels=st.sampled_from(TYPES).flatmap(
        lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=3, max_dims=3, max_side=4))
    ),
    spacing=st.tuples(LENGTHS, LENGTHS, LENGTHS),
    origin=st.tuples(POSITIONS, POSITIONS, POSITIONS),
    angle=st.floats(-3, 3),
)
def test_an_image_arrives_exactly(voxels, spacing, origin, angle):
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    cosine, sine = math.cos(angle), math.sin(angle)
    image.SetDirection((cosine, -sine, 0, sine, cosine, 0, 0, 0, -1))  # left-handed
    description, array = pack_image(image)
    assert_same(unpack_image(through_json(description), array.copy()), image)


@pytest.mark.parametrize(
    "image", [sitk.Image([3, 4, 5], sitk.sitkVectorUInt8, 3), sitk.Image([2, 3, 4, 5], sitk.sitkFloat32)]
)
def test_vectors_and_sequences_arrive_as_what_they_are(image):
    description, array = pack_image(image)
    got = unpack_image(through_json(description), array)
    assert got.GetNumberOfComponentsPerPixel() == image.GetNumberOfComponentsPerPixel()
    assert_same(got, image)


def test_the_input_checks_find_the_same(tiny_model, tmp_path):
    card = ModelPackage.from_folder(tiny_model).card
    noise = np.random.default_rng(2).normal(100, 20, (12, 12, 12)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(noise), str(tmp_path / "a.nii"))
    image = sitk.ReadImage(str(tmp_path / "a.nii"))
    image.SetMetaData("descrip", "name of a patient")
    image.SetMetaData(NOT_NUMBERS, "3")
    add_remarks(image, [Finding("incomplete", "No. 1 is missing.", "Structures may be cut off.")])
    add_remarks(image, [Finding("other", "Also.", "So.")])
    for codes, finding in ((("0", "0"), "no-orientation"), (("1", "1"), "two-transforms")):
        image.SetMetaData("qform_code", codes[0])
        image.SetMetaData("sform_code", codes[1])
        image.SetMetaData("srow_x", "1 0 0 50")
        findings = check_input(image, card)
        assert {finding, "not-numbers", "incomplete", "other"} <= {finding.code for finding in findings}
        description, array = pack_image(image)
        got = unpack_image(through_json(description), array)
        assert check_input(got, card) == findings
        assert not got.HasMetaDataKey("descrip")


def test_voxels_are_not_copied():
    image = sitk.Image(20, 20, 20, sitk.sitkFloat32)
    _, array = pack_image(image)
    assert array.ctypes.data == voxels_of(image).ctypes.data


def test_voxels_outlive_the_image():
    # so large that the memory of a freed image is given back to the system, where reading it would end the process
    arrays = [pack_image(sitk.Image(160, 160, 160, sitk.sitkUInt8) + value)[1] for value in (1, 2, 3)]
    gc.collect()
    assert [int(array.min()) for array in arrays] == [1, 2, 3]
    assert [int(array.max()) for array in arrays] == [1, 2, 3]


def test_complex_images_are_refused():
    with pytest.raises(InputError, match="cannot be segmented") as caught:
        pack_image(sitk.Image(2, 2, 2, sitk.sitkComplexFloat32))
    assert caught.value.remedy


def test_an_image_whose_place_is_no_number_is_refused():
    image = sitk.Image(2, 2, 2, sitk.sitkInt16)
    image.SetOrigin((0, float("nan"), 0))
    with pytest.raises(InputError, match="not given by numbers"):
        pack_image(image)


@pytest.mark.parametrize("roi", [None, sitk.Image(2, 2, 2, sitk.sitkUInt8) + 1])
def test_a_job_arrives_whole(roi, tmp_path):
    image = sitk.Image(3, 4, 5, sitk.sitkFloat32) + 2.5
    options = SegmentOptions(roi, fast=True, low_memory=True, grid="auto")
    job = SegmentJob(image, tmp_path / "mødel 脳", options, device="cuda:1")
    value, arrays = job.pack()
    got = JOBS[job.kind].unpack(through_json(value), arrays)
    assert (got.model, got.device) == (str(tmp_path / "mødel 脳"), "cuda:1")
    assert replace(got.options, roi=roi) == options
    assert_same(got.image, image)
    assert (got.options.roi is None) == (roi is None)
    if roi is not None:
        assert_same(got.options.roi, roi)


@pytest.mark.parametrize("kind", [SegmentJob, AttentionJob])
@pytest.mark.parametrize("adapted", [None, b"\x00parameters\xff"])
def test_adapted_parameters_arrive_whole(kind, adapted):
    image = sitk.Image(3, 4, 5, sitk.sitkFloat32)
    value, arrays = kind(image, "model", SegmentOptions(roi=image > 1), adapted=adapted).pack()
    got = JOBS[kind.kind].unpack(through_json(value), arrays)
    assert type(got) is kind
    assert got.adapted == adapted
    assert got.options.roi.GetSize() == got.image.GetSize() == (3, 4, 5)


@pytest.mark.parametrize("slices", [("k:1,2", "i:0"), None], ids=["named", "to be found"])
def test_a_refinement_arrives_whole(slices):
    image, labels = sitk.Image(3, 4, 5, sitk.sitkFloat32) + 2.5, sitk.Image(3, 4, 5, sitk.sitkUInt8) + 1
    value, arrays = RefineJob(
        image, labels, slices, "brain", options=SegmentOptions(low_memory=True, doubt=True)
    ).pack()
    got = JOBS["refine"].unpack(through_json(value), arrays)
    assert (got.slices, got.model) == (slices, "brain")
    assert got.options == SegmentOptions(low_memory=True, doubt=True)
    assert_same(got.image, image)
    assert_same(got.labels, labels)
    assert got.options.roi is None


def test_a_warm_up_arrives_whole():
    value, arrays = WarmUpJob("brain", "cpu").pack()
    assert JOBS["warm_up"].unpack(through_json(value), arrays) == WarmUpJob("brain", "cpu")


def test_a_result_arrives_whole_and_outlives_its_origin(tiny_model):
    package = ModelPackage.from_folder(tiny_model)
    first, second = package.card.labels
    result = SegmentationResult(
        labels=sitk.Image(160, 160, 160, sitk.sitkUInt8) + 2,
        structures=[
            StructureResult(first, np.int64(12), np.float64(0.012), np.float32(0.5), (1.0, -2.0, 3.5), 0.75, (3, 2, 1)),
            StructureResult(second, 0, 0.0, 0.0, (float("nan"),) * 3),
        ],
        timings={"prepare": 0.25},
        findings=[Finding("contrast", "What.", "So what.")],
        model=package.card,
        device="cpu",
        doubt=sitk.Image(160, 160, 160, sitk.sitkFloat32) + 0.3,
    )
    value, arrays = pack_result(result)
    structures, timings, findings = result.structures, result.timings, result.findings
    del result
    gc.collect()
    got = unpack_result(through_json(value), arrays)
    assert sitk.GetArrayFromImage(got.labels).min() == 2
    assert arrays[1].dtype == np.uint8
    assert np.abs(sitk.GetArrayFromImage(got.doubt) / 255 - 0.3).max() < 1 / 255
    assert got.structures[0] == structures[0]
    assert got.structures[1].label == second
    assert all(math.isnan(number) for number in got.structures[1].centre_lps)
    assert (got.timings, got.findings, got.device) == (timings, findings, "cpu")
    assert got.model.to_dict() == package.card.to_dict()

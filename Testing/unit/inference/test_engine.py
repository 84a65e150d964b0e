"""The engine: regions, fewer views, progress, and inputs at the edge of sense."""

from __future__ import annotations

import re

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.errors import CancelledError, InputError, OutOfMemoryError
from SESegmentationLib.geometry import RAS, Geometry, mask_box
from SESegmentationLib.inference import engine as engine_module
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.models import ModelPackage
from SESegmentationLib.result import SegmentOptions


@pytest.fixture(scope="module")
def engine(phantom_package) -> Engine:
    return Engine(phantom_package, device="cpu")


@pytest.fixture(scope="module")
def phantom(make_phantom) -> tuple[sitk.Image, np.ndarray]:
    return make_phantom()


def box_of(image: sitk.Image, low: tuple[int, int, int], high: tuple[int, int, int]) -> sitk.Image:
    """A label map, 1 in the voxels (k, j, i) from ``low`` to, excluded, ``high``."""
    array = np.zeros(image.GetSize()[::-1], np.uint8)
    array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    return Geometry.of(image).image(array)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.5, 0.7)])
def test_a_region_limits_the_result_to_itself(engine, make_phantom, spacing):
    image, _ = make_phantom(spacing)
    whole = sitk.GetArrayFromImage(engine.segment(image).labels)
    roi = box_of(image, (8, 4, 0), (30, 20, image.GetWidth()))
    inside = sitk.GetArrayFromImage(roi) > 0
    labels = sitk.GetArrayFromImage(engine.segment(image, SegmentOptions(roi=roi)).labels)
    assert not labels[~inside].any()
    assert (labels == whole)[inside].mean() > 0.99
    assert labels.any()


def test_a_region_may_have_another_grid_and_other_axes(engine, phantom):
    """A coarse box, turned by 30 degrees, round the right ellipsoid."""
    image, truth = phantom
    turned = Geometry((3, 3, 3), (5.0,) * 3, (0.0,) * 3, sitk.VersorTransform((0, 0, 1), 0.5).GetMatrix())
    centre = Geometry.of(image).points(np.argwhere(truth == 2).mean(0)[None, ::-1])[0]
    origin = tuple(centre - turned.points([[1, 1, 1]])[0])
    roi = Geometry(turned.size, turned.spacing, origin, turned.direction).image(np.ones((3, 3, 3), np.uint8))
    labels = sitk.GetArrayFromImage(engine.segment(image, SegmentOptions(roi=roi)).labels)
    assert (labels > 0).sum() == pytest.approx(15**3, rel=0.05)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.5, 0.7)])
def test_what_a_region_cuts_through_is_told(engine, make_phantom, spacing):
    image, truth = make_phantom(spacing)
    whole = image.GetSize()[::-1]
    around = mask_box(truth == 2, 3)

    def cut(low: tuple[int, int, int], high: tuple[int, int, int]) -> list[str]:
        found = engine.segment(image, SegmentOptions(roi=box_of(image, low, high))).findings
        return [finding.message for finding in found if finding.code == "cut-by-region"]

    low, high = (tuple(getattr(side, end) for side in around) for end in ("start", "stop"))
    assert cut((0, 0, 0), whole) == [] and cut(low, high) == []
    for axis in range(3):
        middle = (low[axis] + high[axis]) // 2
        upper, lower = [*high], [*low]
        upper[axis] = lower[axis] = middle
        for (told,) in (cut(low, upper), cut(lower, high)):  # the network's sides are those of the crop
            assert re.fullmatch(r"At the border of the region of interest: .*hippocampus\.", told)


@pytest.mark.parametrize("far_mm", [200.0, -200.0])
def test_a_region_elsewhere_is_refused(engine, phantom, far_mm):
    image, truth = phantom
    roi = Geometry.of(image).image((truth > 0).astype(np.uint8))
    roi.SetOrigin([x + far_mm for x in image.GetOrigin()])
    with pytest.raises(InputError, match="outside the volume"):
        engine.segment(image, SegmentOptions(roi=roi))


def test_an_empty_region_is_refused(engine, phantom):
    with pytest.raises(InputError, match="empty"):
        engine.segment(phantom[0], SegmentOptions(roi=box_of(phantom[0], (0, 0, 0), (0, 0, 0))))


def test_fast_asks_the_best_view_only(engine, phantom):
    result = engine.segment(phantom[0], SegmentOptions(fast=True))
    assert list(result.timings) == ["prepare", "axial", "restore", "measure"]
    plain = engine.segment(phantom[0])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result.labels), sitk.GetArrayFromImage(plain.labels))


def test_low_memory_gives_the_same(engine, phantom):
    plain, low = (engine.segment(phantom[0], SegmentOptions(low_memory=low)) for low in (False, True))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(low.labels), sitk.GetArrayFromImage(plain.labels))


def test_air_round_a_head_changes_nothing(make_package, phantom):
    """Networks look at the body only; the result lies on the whole volume."""
    package = make_package(input={"kind": "head"}, margin_mm=4.0)
    image, _ = phantom
    plain = Engine(package, device="cpu").segment(image)
    padded = Engine(package, device="cpu").segment(sitk.ConstantPad(image, (21, 0, 13), (5, 30, 7), 0.0))
    assert padded.labels.GetSize() == (image.GetWidth() + 26, image.GetHeight() + 30, image.GetDepth() + 20)
    for one, other in zip(plain.structures, padded.structures, strict=True):
        assert one.voxels == other.voxels > 0
        assert one.centre_lps == pytest.approx(other.centre_lps, abs=1e-6)


def test_crops_are_normalised_by_themselves_and_heads_as_a_whole(make_package, phantom):
    """Bright air outside the region raises the percentile of a whole volume, not of a crop."""
    image, truth = phantom
    array = sitk.GetArrayFromImage(image)
    array[:2] = 5000
    bright = Geometry.of(image).image(array)
    roi = Geometry.of(image).image((truth > 0).astype(np.uint8))
    recipe = {"type": "percentile", "lower": 0, "upper": 100}
    found = {}
    for kind in ("crop", "head"):
        package = make_package(input={"kind": kind}, intensity=recipe, margin_mm=0.0)
        result = Engine(package, device="cpu").segment(bright, SegmentOptions(roi=roi))
        found[kind] = result.structures[0].voxels
    assert found["crop"] > 10_000
    assert found["head"] == 0


def test_clean_up_is_the_card_s(make_package, phantom):
    image, _ = phantom
    array = sitk.GetArrayFromImage(image)
    array[2:4, 2:4, 2:4] = 200  # left, in a corner
    spotted = Geometry.of(image).image(array)
    plain, clean = (
        Engine(make_package(cleanup=cleanup), device="cpu").segment(spotted).structures[0].voxels
        for cleanup in ({}, {"largest_component": "all"})
    )
    assert plain == clean + 8


def test_progress_rises_through_all_phases(engine, phantom):
    told = []
    engine.segment(phantom[0], progress=lambda phase, fraction, left: told.append((phase, fraction)))
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert list(dict.fromkeys(phase for phase, _ in told)) == [
        "prepare", "axial", "coronal", "sagittal", "restore", "measure",
    ]  # fmt: skip


def test_a_run_can_be_cancelled_and_repeated(engine, phantom):
    def cancel(phase: str, fraction: float, seconds_left: float | None) -> None:
        if phase == "coronal":
            raise CancelledError("Cancelled.")

    with pytest.raises(CancelledError):
        engine.segment(phantom[0], progress=cancel)
    assert engine.segment(phantom[0]).structures[0].voxels > 10_000


def test_a_lack_of_memory_anywhere_is_told(engine, phantom, monkeypatch):
    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(engine_module, "clean", fail)
    with pytest.raises(OutOfMemoryError):
        engine.segment(phantom[0])


def test_findings_of_the_input_checks_are_in_the_result(engine, phantom):
    image = sitk.Image(phantom[0])
    image.SetSpacing((1.0, 1.0, 3.0))
    assert "coarse" in {finding.code for finding in engine.segment(image).findings}


def test_input_is_checked(engine):
    with pytest.raises(InputError, match="every voxel is 3"):
        engine.segment(sitk.Image(9, 9, 9, sitk.sitkUInt8) + 3)


@pytest.mark.parametrize("size", [(2, 2, 2), (3, 50, 2), (17, 1 + 1, 40)])
@pytest.mark.parametrize("spacing", [0.06, 1.0, 40.0])
def test_odd_sizes_are_segmented(tiny_model, size, spacing):
    array = np.random.default_rng(0).normal(100, 20, size[::-1]).astype(np.float32)
    image = Geometry(size, (1.0, spacing, 1.0), (0.0,) * 3, RAS).image(array)
    result = Engine(ModelPackage.from_folder(tiny_model), device="cpu").segment(image)
    assert Geometry.of(result.labels) == Geometry.of(image)
    assert set(np.unique(sitk.GetArrayFromImage(result.labels))) <= {0, 1, 2}


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float64])
def test_every_type_of_voxel_is_segmented(engine, phantom, kind):
    array = sitk.GetArrayFromImage(phantom[0])
    result = engine.segment(Geometry.of(phantom[0]).image(array.astype(kind)))
    assert result.structures[0].voxels > 10_000


@pytest.mark.parametrize("along", [0, 1, 2])
def test_thick_slices_are_answered_on_the_model_s_grid(engine, make_phantom, along):
    thick = [1.0, 1.0, 1.0]
    thick[along] = 3.0
    image, _ = make_phantom(tuple(thick))
    volumes = {}
    for grid in ("input", "auto", "model"):
        result = engine.segment(image, SegmentOptions(grid=grid, doubt=True))
        assert Geometry.of(result.labels) == Geometry.of(result.doubt)
        volumes[grid] = [structure.volume_ml for structure in result.structures]
        expected = (3.0 if axis == along and grid == "input" else 1.0 for axis in range(3))
        assert result.labels.GetSpacing() == pytest.approx(tuple(expected))
        assert [finding.code for finding in result.findings] == ["coarse"]  # about the volume as it was given
    assert volumes["auto"] == volumes["model"]
    whole, _ = make_phantom()
    true = [structure.volume_ml for structure in engine.segment(whole).structures]
    assert volumes["model"] == pytest.approx(true, rel=0.1)
    np.testing.assert_allclose(volumes["model"], volumes["input"], rtol=0.15)


def test_thin_slices_are_answered_on_their_own_grid(engine, make_phantom):
    image, _ = make_phantom((0.8, 1.4, 1.0))
    assert Geometry.of(engine.segment(image, SegmentOptions(grid="auto")).labels) == Geometry.of(image)


def test_a_region_of_thick_slices_limits_the_result(engine, make_phantom):
    image, _ = make_phantom((1.0, 1.0, 3.0))
    roi = box_of(image, (0, 0, 0), (image.GetSize()[2] // 2, *image.GetSize()[1::-1]))
    result = engine.segment(image, SegmentOptions(roi=roi, grid="model"))
    positions = Geometry.of(result.labels).points(np.argwhere(sitk.GetArrayFromImage(result.labels) > 0)[:, ::-1])
    inside = Geometry.of(image).indices(positions)[:, 2]
    assert len(positions) and inside.max() <= image.GetSize()[2] // 2 - 0.5 + 1e-6

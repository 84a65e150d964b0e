"""A refinement through the real worker: what came of it, its progress, cancelling, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from drawn_hippocampus import draw_sample
from SESegmentationLib.client import FailureEvent, ProgressEvent, RefineJob, ResultEvent, SegmentJob
from SESegmentationLib.errors import CancelledError, InputError
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.models.store import ModelPackage
from SESegmentationLib.result import SegmentOptions

SLICE = 16


@pytest.fixture(scope="module")
def sample():
    return draw_sample()


@pytest.fixture
def job(tiny_model, sample):
    return RefineJob(
        sample.image, sample.labels, (f"k:{SLICE}",), tiny_model, options=SegmentOptions(doubt=True), device="cpu"
    )


def test_it_carries_keeps_and_doubts(warm, job, sample):
    handle = warm.segmenter.submit(job)
    event = warm.finish(handle)
    assert isinstance(event, ResultEvent) and event.kind == "refine", event
    refined = event.refinement()
    labels, truth = (sitk.GetArrayFromImage(image) for image in (refined.result.labels, sample.labels))
    assert (labels[SLICE] == truth[SLICE]).all() and refined.slices == (f"k:{SLICE}",)
    doubt = sitk.GetArrayFromImage(refined.result.doubt)
    assert doubt.dtype == np.uint8 and doubt[SLICE].max() == 0 < doubt.max()
    assert refined.result.doubt.GetOrigin() == sample.image.GetOrigin()
    for structure in refined.result.structures:
        assert structure.voxels == (labels == structure.label.value).sum()
        assert structure.doubtful is None or structure.doubtful[2] != SLICE
    assert refined.adapted is None and refined.parameters == 0
    phases = [event.phase for event in warm.of(handle) if isinstance(event, ProgressEvent)]
    assert list(dict.fromkeys(phases)) == ["load", "segment", "adapt", "carry"]


def test_doubt_of_a_segmentation_where_it_is_asked_for(warm, job):
    asked, plain = (
        warm.finish(
            warm.segmenter.submit(SegmentJob(job.image, job.model, SegmentOptions(doubt=doubt), device="cpu"))
        ).segmentation()
        for doubt in (True, False)
    )
    assert plain.doubt is None and all(structure.doubtful is None for structure in plain.structures)
    doubt = sitk.GetArrayFromImage(asked.doubt)
    here = Engine(ModelPackage.from_folder(job.model), "cpu").segment(job.image, SegmentOptions(doubt=True)).doubt
    expected = sitk.GetArrayFromImage(here)
    assert doubt.dtype == np.uint8 and doubt.max() > 0 and 0 < expected.max() <= 1
    assert np.abs(doubt - 255 * expected).max() <= 1  # the worker's threads may add in another order
    assert any(structure.doubtful for structure in asked.structures if structure.voxels)


def test_cancelling(warm, job):
    handle = warm.segmenter.submit(job)
    warm.until(lambda event: isinstance(event, ProgressEvent) and event.phase == "segment")
    handle.cancel()
    failure = warm.finish(handle)
    assert isinstance(failure, FailureEvent) and isinstance(failure.error, CancelledError)


@pytest.mark.parametrize(("slices", "cause"), [(("k:99",), "There is no slice k:99"), ((), "No slice is corrected")])
def test_what_cannot_be_learnt_from_is_refused(warm, job, slices, cause):
    failure = warm.finish(warm.segmenter.submit(RefineJob(job.image, job.labels, slices, job.model, device="cpu")))
    assert isinstance(failure, FailureEvent) and type(failure.error) is InputError
    assert cause in failure.error.cause and failure.error.remedy

"""Segmenting on a server: what is sent, what comes back, and whatever goes wrong on the way."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from remote_jobs import error_of, events_of, jobs_asked, short_result
from SESegmentationLib.client import (
    AcceptedEvent,
    FailureEvent,
    ProgressEvent,
    RefineJob,
    ResultEvent,
    SegmentJob,
    http_client,
    remote,
)
from SESegmentationLib.client.remote import RemoteSegmenter
from SESegmentationLib.client.servers import server_at
from SESegmentationLib.errors import CancelledError
from SESegmentationLib.io.volume_image import add_remarks
from SESegmentationLib.progress import no_progress
from SESegmentationLib.result import Finding, SegmentOptions
from SESegmentationLib.worker.messages import ACCEPTED, PROGRESS
from SESegmentationLib.worker.process import JobRunner

MARKER = "Hjelmslev-4711"

pytestmark = pytest.mark.usefixtures("no_own_servers")


# --- what is sent, and what comes back --------------------------------------------------------------------------------


def test_the_result_is_the_local_one_and_only_the_scan_leaves(serve, image, tiny_model, tmp_path):
    """Voxels, geometry and options are sent; names, paths and what reading remarked on stay here."""
    image.SetMetaData("0010|0010", MARKER)
    image.SetMetaData("descrip", MARKER)
    add_remarks(image, [Finding("odd", f"{MARKER}.nii holds 3 bytes more.", "It is cut off.")])
    job = SegmentJob(image, tiny_model, SegmentOptions(doubt=True), device="cuda:7")
    value, arrays = JobRunner().run(replace(job, device="cpu"), no_progress)
    server = serve()
    events = events_of(server.url, job)
    result = events[-1]
    assert isinstance(result, ResultEvent), result
    assert [a.tobytes() for a in result.arrays] == [a.tobytes() for a in arrays] and len(arrays) == 2
    for given in (value, result.value):
        assert given.pop("timings")
    assert result.value == json.loads(json.dumps(value))
    result.value["timings"] = {}
    assert result.segmentation().findings[0].message.startswith(MARKER)

    (body,) = server.uploads
    for secret in (MARKER, str(tiny_model), str(tiny_model.parent), "cuda:7"):
        assert secret.encode() not in body
    assert b'"model": "tiny-t1"' in body
    phases = [event.phase for event in events if isinstance(event, ProgressEvent)]
    assert phases[0] == remote.SENDING and "axial" in phases
    assert phases.index("queue 2") < phases.index("queue 1") < phases.index("axial")
    fractions = [event.fraction for event in events if isinstance(event, ProgressEvent)]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert sum(isinstance(event, AcceptedEvent) for event in events) == 1
    assert jobs_asked(server) == ["PUT", "DELETE"] and server.jobs == {}


def test_corrections_are_sent_and_learnt_from(serve, image, tiny_model):
    labels = sitk.Cast(sitk.BinaryThreshold(image, 100, 1e9), sitk.sitkUInt8)
    labels.CopyInformation(image)
    job = RefineJob(image, labels, ("k:10",), tiny_model)
    *_, result = events_of(serve().url, job)
    assert isinstance(result, ResultEvent), result
    value, arrays = JobRunner().run(replace(job, device="cpu"), no_progress)
    assert [a.tobytes() for a in result.arrays] == [a.tobytes() for a in arrays]
    assert result.refinement().slices == ("k:10",)


def test_large_arrays_go_both_ways_whole(serve, tiny_model):
    noise = np.random.default_rng(1).integers(0, 6000, (60, 200, 211), np.int16)
    *_, result = events_of(serve(work=short_result).url, SegmentJob(sitk.GetImageFromArray(noise), tiny_model))
    assert (result.arrays[0] == noise).all()


def test_several_jobs_at_once_are_not_mixed(serve, tiny_model):
    server = serve(work=short_result)
    images = [sitk.Image(5, 6, 7 + number, sitk.sitkInt16) + number for number in range(8)]
    with RemoteSegmenter(server_at(server.url)) as segmenter:
        handles = [segmenter.submit(SegmentJob(image, tiny_model)) for image in images]
        results, end = {}, time.monotonic() + 30
        while len(results) < len(images) and time.monotonic() < end:
            time.sleep(0.005)
            results |= {event.job: event for event in segmenter.poll() if isinstance(event, ResultEvent)}
    for number, handle in enumerate(handles):
        assert (results[handle.number].arrays[0] == np.full((7 + number, 6, 5), number)).all()


# --- lost connections -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drops", [(0, 30), (500, 900, 1700), (2500, 40_000, 40_001, 3)])
def test_a_job_is_taken_up_again_where_the_connection_was_lost(serve, image, tiny_model, drops):
    """In a header, between messages, in the arrays of the result; nothing is told twice, nothing is sent twice."""
    server = serve()
    whole = events_of(server.url, SegmentJob(image, tiny_model))
    server.drops.extend(drops)
    events = events_of(server.url, SegmentJob(image, tiny_model))
    assert len(server.drops) < len(drops) and len(server.uploads) == 2
    assert events[-1].arrays[0].tobytes() == whole[-1].arrays[0].tobytes()
    told = [(e.phase, e.fraction) for e in events if isinstance(e, ProgressEvent) and e.phase != remote.RECONNECTING]
    sending = [entry for entry in told if entry[0] == remote.SENDING]
    assert len(set(told)) == len(told) - (len(sending) - len(set(sending)))
    assert any(isinstance(e, ProgressEvent) and e.phase == remote.RECONNECTING for e in events)


def test_an_upload_that_broke_off_is_sent_again(serve, tiny_model):
    server = serve(work=short_result)
    server.refuses_upload = 2
    noise = np.random.default_rng(1).integers(0, 6000, (50, 200, 200), np.int16)
    *_, result = events_of(server.url, SegmentJob(sitk.GetImageFromArray(noise), tiny_model))
    assert (result.arrays[0] == noise).all() and len(server.uploads) == 1


def test_a_server_that_restarts_gets_the_job_again_until_it_has_begun(serve, image, tiny_model):
    begun = threading.Event()

    def wait_in_queue(frame, publish):
        publish({"type": "queued", "position": 1, "seconds_left": None})
        if begun.is_set():
            short_result(frame, publish)

    server = serve(work=wait_in_queue)

    def restart(event):
        if isinstance(event, ProgressEvent) and event.phase == "queue 1" and not begun.is_set():
            server.stop(forget=True)
            begun.set()
            server.start()

    *_, result = events_of(server.url, SegmentJob(image, tiny_model), until=restart)
    assert isinstance(result, ResultEvent) and len(server.uploads) == 2


def test_a_job_that_a_restarted_server_has_forgotten_is_told(serve, image, tiny_model):
    server = serve(work=lambda frame, publish: publish({"type": ACCEPTED}))

    def restart(event):
        if isinstance(event, AcceptedEvent):
            server.stop(forget=True)
            server.start()

    *_, last = events_of(server.url, SegmentJob(image, tiny_model), until=restart)
    assert "forgotten the job: it was restarted, or this computer was asleep" in last.error.cause


def test_a_server_that_does_not_come_back_is_told(serve, image, tiny_model):
    server = serve(work=lambda frame, publish: publish({"type": ACCEPTED}))

    def stop(event):
        if isinstance(event, AcceptedEvent):
            server.stop()

    *_, last = events_of(server.url, SegmentJob(image, tiny_model), until=stop, lost=0.5)
    assert "was lost and did not come back within 0 s" in last.error.cause.replace("1 s", "0 s")
    assert "Check the network" in last.error.remedy
    assert "cannot be reached" in error_of(server.url, SegmentJob(image, tiny_model)).cause


def test_a_server_that_falls_silent_is_as_one_that_is_lost(serve, image, tiny_model, monkeypatch):
    monkeypatch.setattr(http_client, "SILENCE_SECONDS", 0.3)
    server = serve()
    server.silent.set()
    timer = threading.Timer(0.8, server.silent.clear)
    timer.start()
    events = events_of(server.url, SegmentJob(image, tiny_model))
    assert isinstance(events[-1], ResultEvent) and jobs_asked(server).count("GET") >= 1


def test_busy_servers_are_asked_again_and_then_believed(serve, image, tiny_model):
    server = serve()
    busy = {"code": "server", "cause": "The server is full.", "remedy": "Try again later."}
    server.answers.extend([(503, busy, {"Retry-After": "0"}), (429, busy, {}), (502, {}, {}), (507, busy, {})])
    *_, result = events_of(server.url, SegmentJob(image, tiny_model))
    assert isinstance(result, ResultEvent)
    server.answers.append((429, busy, {"Retry-After": "3000"}))
    *_, last = events_of(server.url, SegmentJob(image, tiny_model))
    assert (last.error.cause, last.error.remedy) == ("The server is full.", "Try again later.")


# --- cancelling -------------------------------------------------------------------------------------------------------


def test_cancel_is_at_once_and_the_server_hears_of_it(serve, image, tiny_model):
    reached, stopped = threading.Event(), threading.Event()

    def endless(frame, publish):
        publish({"type": ACCEPTED})
        try:
            while True:
                publish({"type": PROGRESS, "phase": "axial", "fraction": 0.5, "seconds_left": None})
                reached.set()
                time.sleep(0.02)
        finally:
            stopped.set()

    server = serve(work=endless)
    for silent in (False, True):
        reached.clear(), stopped.clear()
        with RemoteSegmenter(server_at(server.url)) as segmenter:
            handle = segmenter.submit(SegmentJob(image, tiny_model))
            assert reached.wait(10)
            if silent:
                server.silent.set()
            began = time.monotonic()
            handle.cancel()
            handle.cancel()
            (*_, event) = segmenter.poll()
            assert isinstance(event, FailureEvent) and type(event.error) is CancelledError and handle.finished
            assert time.monotonic() - began < 0.7
            assert stopped.wait(5) and server.jobs == {}
            assert segmenter.poll() == []
            server.silent.clear()


def test_an_upload_is_cancelled_in_the_middle(serve, tiny_model):
    server = serve(work=short_result)
    image = sitk.Image(400, 400, 300, sitk.sitkInt16)

    def half_sent(event):
        return isinstance(event, ProgressEvent) and event.fraction > 0.5 * remote._SENDING_SHARE

    *_, last = events_of(server.url, SegmentJob(image, tiny_model), until=half_sent)
    assert type(last.error) is CancelledError
    assert server.jobs == {}
    *_, last = events_of(server.url, SegmentJob(sitk.Image(4, 4, 4, sitk.sitkInt16), tiny_model))
    assert isinstance(last, ResultEvent)

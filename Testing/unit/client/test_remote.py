"""Segmenting on a server: what is sent, what comes back, and whatever goes wrong on the way."""

from __future__ import annotations

import json
import ssl
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import trustme

from contract_server import ContractServer
from SESegmentationLib.client import (
    AcceptedEvent,
    FailureEvent,
    ProgressEvent,
    RefineJob,
    ResultEvent,
    SegmentJob,
    link,
    remote,
    servers,
)
from SESegmentationLib.client.remote import Patience, RemoteSegmenter
from SESegmentationLib.client.servers import Server, server_at
from SESegmentationLib.errors import CancelledError, InputError, ModelError, ServerError
from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.io.volume_image import add_remarks
from SESegmentationLib.models import find_model
from SESegmentationLib.progress import no_progress
from SESegmentationLib.result import Finding, SegmentOptions
from SESegmentationLib.worker.messages import ACCEPTED, PROGRESS, PROTOCOL, RESULT
from SESegmentationLib.worker.process import JobRunner

MARKER = "Hjelmslev-4711"


@pytest.fixture(autouse=True)
def own_settings(tmp_path, monkeypatch):
    """Nothing of this computer's user."""
    monkeypatch.setattr(servers, "servers_file", lambda: tmp_path / "settings" / "servers.json")
    monkeypatch.setattr(servers, "_keyring", lambda: None)
    monkeypatch.delenv(servers.TOKEN_VARIABLE, raising=False)


@pytest.fixture
def serve(tiny_model):
    """Makes servers; and segmenters for them, which are closed."""
    made = []

    def make(**options) -> ContractServer:
        made.append(ContractServer({"tiny-t1": tiny_model}, **options))
        return made[-1]

    yield make
    for server in made:
        server.silent.clear()
        server.stop()


@pytest.fixture
def image(sample_file) -> sitk.Image:
    return read_volume(sample_file)


def events_of(server: Server | str, job, until=lambda event: False, **patience) -> list:
    """All that becomes of a job; it is cancelled as soon as an event is such."""
    server = server if isinstance(server, Server) else server_at(server)
    events, end = [], time.monotonic() + 30
    with RemoteSegmenter(server, Patience(**patience)) as segmenter:
        handle = segmenter.submit(job)
        while not events or not isinstance(events[-1], ResultEvent | FailureEvent):
            assert time.monotonic() < end, events
            time.sleep(0.002)
            for event in segmenter.poll():
                assert event.job == handle.number
                events.append(event)
                if until(event):
                    handle.cancel()
        assert handle.finished
    return events


def error_of(server, job, kind=ServerError, **patience):
    (*_, last) = events_of(server, job, **patience)
    assert isinstance(last, FailureEvent) and type(last.error) is kind, last
    for line in (last.error.cause, last.error.remedy):
        assert line and "\n" not in line and "Traceback" not in line
    return last.error


def jobs_asked(server: ContractServer) -> list[str]:
    return [method for method, path in server.asked if path.startswith("/v1/jobs/")]


def short_result(frame, publish):
    """Gives back the voxels that were sent."""
    publish({"type": ACCEPTED})
    publish({"type": RESULT, "kind": frame.header["kind"], "value": {}}, frame.arrays[:1])


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
    noise = np.random.default_rng(1).integers(-3000, 3000, (60, 200, 211), np.int16)
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
    told = [(e.phase, e.fraction) for e in events if isinstance(e, ProgressEvent) and e.phase != remote.AGAIN]
    sending = [entry for entry in told if entry[0] == remote.SENDING]
    assert len(set(told)) == len(told) - (len(sending) - len(set(sending)))
    assert any(isinstance(e, ProgressEvent) and e.phase == remote.AGAIN for e in events)


def test_an_upload_that_broke_off_is_sent_again(serve, tiny_model):
    server = serve(work=short_result)
    server.refuses_upload = 2
    noise = np.random.default_rng(1).integers(-3000, 3000, (50, 200, 200), np.int16)
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
    assert "forgotten the job" in last.error.cause


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
    monkeypatch.setattr(link, "SILENCE_SECONDS", 0.3)
    server = serve()
    server.silent.set()
    timer = threading.Timer(0.8, server.silent.clear)
    timer.start()
    events = events_of(server.url, SegmentJob(image, tiny_model))
    assert isinstance(events[-1], ResultEvent) and jobs_asked(server).count("GET") >= 1


def test_busy_servers_are_asked_again_and_then_believed(serve, image, tiny_model):
    server = serve()
    busy = {"code": "server", "cause": "The server is full.", "remedy": "Try again later."}
    server.answers.extend([(503, busy, {"Retry-After": "0"}), (429, busy, {}), (502, {}, {})])
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


# --- who may ----------------------------------------------------------------------------------------------------------


def test_tokens(serve, image, tiny_model, monkeypatch):
    server, job = serve(token="right"), SegmentJob(image, tiny_model)
    assert "asks for a token" in error_of(server.url, job).cause
    servers.AddressBook().set_token(server.url, "wrong")
    error = error_of(server.url, job)
    assert "does not know this token" in error.cause and servers.TOKEN_VARIABLE in error.remedy
    assert jobs_asked(server) == [] and server.uploads == []
    monkeypatch.setenv(servers.TOKEN_VARIABLE, "right")
    assert isinstance(events_of(server.url, job)[-1], ResultEvent)
    assert isinstance(events_of(server.url, job)[-1], ResultEvent)

    waiting = serve(token="right", work=lambda frame, publish: publish({"type": ACCEPTED}))

    def revoke(event):
        if isinstance(event, AcceptedEvent):
            waiting.token = "another"
            waiting.stop()
            waiting.start()

    *_, last = events_of(waiting.url, job, until=revoke)
    assert "does not know this token" in last.error.cause


def test_nothing_follows_to_another_address(serve, image, tiny_model):
    """Neither a redirection nor a proxy nor a password file has a say in where a scan and a token go."""
    server, other = serve(token="right"), serve()
    server.answers.append((307, {}, {"Location": f"{other.url}/v1/jobs/a"}))
    servers.AddressBook().set_token(server.url, "right")
    assert "refuses (status 307)" in error_of(server.url, SegmentJob(image, tiny_model)).cause
    assert other.asked == []


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def tls(authority: trustme.CA, *names: str, **options) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **options).configure_cert(context)
    return context


def test_certificates(serve, image, tiny_model, authority, tmp_path):
    job, trusted, other = SegmentJob(image, tiny_model), tmp_path / "ca.pem", tmp_path / "other.pem"
    authority.cert_pem.write_to_path(str(trusted))
    trustme.CA().cert_pem.write_to_path(str(other))
    server = serve(token="right", context=tls(authority, "127.0.0.1"))
    servers.AddressBook().set_token(server.url, "right")
    assert isinstance(events_of(server_at(server.url, trusted), job)[-1], ResultEvent)
    asked = len(server.asked)
    for certificate in (None, other):
        assert "issuer is not known" in error_of(server_at(server.url, certificate), job).cause
    assert len(server.asked) == asked  # not even the token was sent
    elsewhere = serve(context=tls(authority, "gpu.example.org"))
    assert "not for this address" in error_of(server_at(elsewhere.url, trusted), job).cause
    plain = serve()
    error = error_of(server_at(plain.url.replace("http", "https"), trusted), job)
    assert "does not encrypt" in error.cause
    assert plain.asked == []


# --- other versions, other models, other servers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": PROTOCOL + 1}, "newer than this program"),
        ({"protocol": PROTOCOL - 1, "version": "9.0.0"}, "older than this program"),
        ({"version": "0.0.9"}, "older than this program"),
        ({"version": "99.1"}, "newer than this program"),
        ({"version": "odd"}, "older than this program"),
        ({"type": "teapot"}, "is no SESegmentation server"),
        ({"version": None}, "is no SESegmentation server"),
    ],
)
def test_versions(serve, image, tiny_model, change, words):
    server = serve()
    server.introduction = change
    assert words in error_of(server.url, SegmentJob(image, tiny_model)).cause
    assert server.uploads == []


def test_a_version_that_differs_in_its_last_part_fits(serve, image, tiny_model):
    server = serve(work=short_result)
    server.introduction = {"version": remote.__version__.rsplit(".", 1)[0] + ".77"}
    assert isinstance(events_of(server.url, SegmentJob(image, tiny_model))[-1], ResultEvent)


def test_models_and_sizes_that_do_not_fit_are_told_before_anything_is_sent(serve, image, tiny_model):
    card = find_model(tiny_model).card
    ours = {"name": card.name, "version": card.version, "weights_sha256": card.weights_sha256}
    server, job = serve(), SegmentJob(image, tiny_model)
    for models, words in (
        ([], "has no model tiny-t1"),
        ([ours | {"name": "another"}], "has no model tiny-t1"),
        ([ours | {"version": "2.0.0"}], "has version 2.0.0 of the model tiny-t1; here it is 1.0.0"),
        ([ours | {"weights_sha256": "0" * 64}], "has other weights of the model"),
        ("odd", "has no model"),
        ([7], "has no model"),
    ):
        server.introduction = {"models": models}
        assert words in error_of(server.url, job, ModelError).cause
    server.introduction = {"limits": {"bytes": 1000}}
    assert "takes 0 MB" in error_of(server.url, job, InputError).cause
    error_of(server.url, SegmentJob(image, "no such model"), ModelError)
    assert server.uploads == [] and jobs_asked(server) == []


def test_a_failure_of_the_job_comes_as_it_is(serve, tiny_model):
    error = error_of(serve().url, SegmentJob(sitk.Image(9, 9, 1, sitk.sitkFloat32), tiny_model), InputError)
    assert "slice" in error.cause or "volume" in error.cause


@pytest.mark.parametrize(
    "header",
    [
        {"type": PROGRESS},
        {"type": PROGRESS, "phase": "a", "fraction": "half", "seconds_left": None},
        {"type": RESULT, "kind": "segment", "value": 7},
        {"type": "failure", "code": "input"},
        {"type": "queued", "position": None, "seconds_left": None},
    ],
)
def test_what_cannot_be_read_is_told(serve, image, tiny_model, header):
    server = serve(work=lambda frame, publish: publish(header))
    assert "cannot be read" in error_of(server.url, SegmentJob(image, tiny_model)).cause


def test_an_answer_that_is_no_frame_is_told(serve, image, tiny_model):
    server = serve()
    server.answers.append((200, {"hello": "world"}, {}))
    assert "cannot be read" in error_of(server.url, SegmentJob(image, tiny_model)).cause


def test_a_job_that_stalls_is_given_up(serve, image, tiny_model):
    server = serve(work=lambda frame, publish: publish({"type": "heartbeat", "stalled": 3.0}))
    assert "made no progress for 3 s" in error_of(server.url, SegmentJob(image, tiny_model), stall=2.0).cause


def test_something_else_at_the_address(serve, image, tiny_model):
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Welcome</html>")

        def log_message(self, *arguments):
            pass

    other = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=other.serve_forever, args=(0.02,), daemon=True).start()
    try:
        url = f"http://127.0.0.1:{other.server_address[1]}"
        assert "is no SESegmentation server" in error_of(url, SegmentJob(image, tiny_model)).cause
        assert "is no SESegmentation server" in error_of(f"{url}/under", SegmentJob(image, tiny_model)).cause
    finally:
        other.shutdown()
        other.server_close()


def test_use_after_close_is_a_mistake(serve, image, tiny_model):
    segmenter = RemoteSegmenter(server_at(serve().url))
    segmenter.close()
    with pytest.raises(RuntimeError):
        segmenter.submit(SegmentJob(image, tiny_model))

"""A real server with TLS and tokens: the worker's own results, whoever asks at once, and whatever fails."""

from __future__ import annotations

import http.client
import io
import os
import signal
import socket
import ssl
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from serving import Server, body_of, frames_of
from SESegmentationLib.models import find_model
from SESegmentationLib.progress import no_progress
from SESegmentationLib.result import SegmentOptions
from SESegmentationLib.worker.jobs import AttentionJob, RefineJob, SegmentJob, WarmUpJob
from SESegmentationLib.worker.messages import (
    ACCEPTED,
    FAILURE,
    HELLO,
    MAGIC,
    PROGRESS,
    QUEUED,
    RESTARTED,
    RESULT,
    read_frame,
)
from SESegmentationLib.worker.process import JobRunner

MARKER = "MARKER7f3a"


def timeless(value):
    """A result without what it says of seconds."""
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if key not in ("seconds", "timings")}
    return [timeless(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def local(job):
    """What the worker makes of ``job``."""
    value, arrays = JobRunner().run(job, no_progress)
    return timeless(value), [array.tobytes() for array in arrays]


def remote(frames):
    """The result that frames end in."""
    last = frames[-1]
    assert last.header["type"] == RESULT, last.header
    return timeless(last.header["value"]), [array.tobytes() for array in last.arrays]


def until(condition, seconds: float = 30.0):
    """Wait for ``condition`` to give something, and give it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)
    return found


def jobs_of(server: Server, user: str) -> list[dict]:
    return server.ask("GET", "/v1/jobs", user).json()["jobs"]


@pytest.fixture(autouse=True)
def nothing_left_by_other_tests(server):
    """A busy computer may still keep what the test before has fetched or left."""
    for user in server.tokens:
        for job in jobs_of(server, user):
            server.ask("DELETE", f"/v1/jobs/{job['id']}", user)
        until(lambda user=user: jobs_of(server, user) == [])


def connect(server: Server) -> ssl.SSLSocket:
    """A connection to say what no library would."""
    host, port = server.url.rpartition("//")[2].split(":")
    context = ssl.create_default_context(cafile=str(server.authority))
    return context.wrap_socket(socket.create_connection((host, int(port)), 30), server_hostname=host)


def head(server: Server, user: str, length: int, identity: str) -> bytes:
    return (
        f"PUT /v1/jobs/{identity} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {server.tokens[user]}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def test_it_introduces_itself(server):
    told = server.ask("GET", "/v1/server", "alice").json()
    assert told["type"] == HELLO
    assert "pid" not in told
    assert {"name": "brain-mr", "version": find_model("brain-mr").card.version} in [
        {key: model[key] for key in ("name", "version")} for model in told["models"]
    ]
    assert told["limits"]["bytes"] == 24_000_000
    assert told["queue"] == {"waiting": 0, "running": 0, "seconds": 0.0}
    for path in ("/healthz", "/readyz"):
        assert server.ask("GET", path).status_code == 200


def test_every_kind_of_job_gives_what_the_worker_gives(server, crop, small_job):
    _, (labels, *_) = JobRunner().run(replace(small_job, options=SegmentOptions()), no_progress)
    corrected = sitk.GetImageFromArray(labels)
    corrected.CopyInformation(crop)
    roi = sitk.BinaryThreshold(corrected, 1, 2, 1, 0)
    jobs = [
        small_job,
        SegmentJob(crop, "hippocampus-t1", SegmentOptions(roi=roi, fast=True, grid="model")),
        AttentionJob(crop, "hippocampus-t1"),
        RefineJob(crop, corrected, (f"k:{labels.shape[0] // 2}",), "hippocampus-t1"),
        WarmUpJob("hippocampus-t1"),
    ]
    for job in jobs:
        frames = server.do(job, "alice", number=41)
        assert {frame.header["job"] for frame in frames} == {41}
        assert [frame.header["event"] for frame in frames] == sorted({frame.header["event"] for frame in frames})
        assert frames[-1].header["kind"] == job.kind
        assert remote(frames) == local(job)


def test_users_at_once_get_each_their_own_result(server, crops):
    jobs = [SegmentJob(image, "hippocampus-t1", SegmentOptions(doubt=True)) for image in crops]
    users = ["alice", "bob", "carol", "alice"] * 2
    with ThreadPoolExecutor(8) as pool:
        all_frames = list(pool.map(server.do, jobs, users))
    for job, frames in zip(jobs, all_frames, strict=True):
        assert remote(frames) == local(job)


def test_a_job_belongs_to_its_user_alone(server, long_job):
    identity = str(uuid.uuid4())
    answer = server.put(long_job, "alice", identity)
    assert [job["id"] for job in jobs_of(server, "alice")] == [identity]
    assert jobs_of(server, "bob") == []
    for method in ("GET", "DELETE", "PUT"):
        refused = server.ask(method, f"/v1/jobs/{identity}", "bob")
        assert (refused.status_code, refused.json()["code"]) == (404, "server")
    assert identity not in server.ask("GET", "/", "bob").text
    assert server.ask("DELETE", f"/v1/jobs/{identity}", "alice").status_code == 204
    assert list(frames_of(answer))[-1].header["code"] == "cancelled"
    assert jobs_of(server, "alice") == []
    until(lambda: server.ask("GET", "/v1/server", "alice").json()["queue"]["running"] == 0)


def test_a_lost_connection_is_taken_up_again_by_the_jobs_id(server, long_job):
    identity = str(uuid.uuid4())
    answer = server.put(long_job, "alice", identity)
    seen = next(frame for frame in frames_of(answer) if frame.header["type"] == PROGRESS).header["event"]
    answer.close()
    again = server.ask("GET", f"/v1/jobs/{identity}?after={seen}", "alice", stream=True)
    numbers = []
    for frame in frames_of(again):
        numbers.append(frame.header["event"])
    assert frame.header["type"] == RESULT
    assert min(numbers) > seen
    once_more = server.ask("PUT", f"/v1/jobs/{identity}", "alice", stream=True)  # needs no body
    assert list(frames_of(once_more))[-1].arrays[0].tobytes() == frame.arrays[0].tobytes()
    assert server.ask("DELETE", f"/v1/jobs/{identity}", "alice").status_code == 204


def test_what_a_client_leaves_is_cancelled_and_forgotten(server, long_job):
    identity = str(uuid.uuid4())
    answer = server.put(long_job, "alice", identity)
    next(frame for frame in frames_of(answer) if frame.header["type"] == PROGRESS)
    answer.close()
    until(lambda: jobs_of(server, "alice") == [])  # after two seconds, as the server was told
    assert server.ask("GET", f"/v1/jobs/{identity}", "alice").status_code == 404
    until(lambda: server.ask("GET", "/v1/server", "alice").json()["queue"]["running"] == 0)


def test_those_that_wait_are_told_their_turn(server, long_job, small_job):
    answers = [server.put(long_job, "alice") for _ in range(2)]
    waiting = server.put(small_job, "bob")
    told = [frame.header for frame in frames_of(waiting)]
    assert told[0]["type"] == QUEUED
    assert told[0]["position"] == 1  # before the second one of alice
    assert told[-1]["type"] == RESULT
    assert {"seconds_left", "position"} <= set(told[0])
    for answer in answers:
        answer.close()
    for job in jobs_of(server, "alice"):
        server.ask("DELETE", f"/v1/jobs/{job['id']}", "alice")


def test_a_replica_that_is_killed_in_a_job_costs_time_only(server, long_job):
    answer = server.put(long_job, "alice")
    frames, killed = [], False
    for frame in frames_of(answer):
        frames.append(frame)
        if frame.header.get("fraction", 0) > 0.2 and not killed:
            killed = True
            os.kill(server.replicas()[0].pid, signal.SIGKILL)
    assert RESTARTED in [frame.header.get("phase") for frame in frames]
    assert [frame.header["type"] for frame in frames].count(ACCEPTED) == 1
    assert remote(frames) == local(long_job)
    assert "sesegment_replicas_lost_total 1.0" in server.ask("GET", "/metrics", "alice").text


def test_half_an_upload_leaves_nothing(server, small_job):
    identity, body = str(uuid.uuid4()), body_of(small_job)
    with connect(server) as connection:
        connection.sendall(head(server, "alice", len(body), identity) + body[: len(body) // 2])
        time.sleep(0.3)
    assert jobs_of(server, "alice") == []
    assert server.ask("GET", f"/v1/jobs/{identity}", "alice").status_code == 404
    frames = list(frames_of(server.put(small_job, "alice", identity)))  # and the whole of it is taken
    assert frames[-1].header["type"] == RESULT


def test_a_slow_reader_holds_nobody_up_and_gets_the_whole_result(server, small_job):
    noise = np.random.default_rng(2).integers(0, 255, (160, 160, 160), np.uint8)
    large = SegmentJob(sitk.GetImageFromArray(noise), "abdomen-mr", SegmentOptions(doubt=True))
    identity, body = str(uuid.uuid4()), body_of(large)
    with connect(server) as slow:
        slow.sendall(head(server, "alice", len(body), identity) + body)
        answer = http.client.HTTPResponse(slow)
        answer.begin()
        assert answer.read(1)
        until(lambda: [job["state"] for job in jobs_of(server, "alice")] == ["done"])
        assert server.do(small_job, "bob")[-1].header["type"] == RESULT
        time.sleep(2.5)  # longer than a result stays that nobody fetches
        content = MAGIC[:1] + answer.read()
    file, frames = io.BytesIO(content), []
    while frame := read_frame(file):
        frames.append(frame)
    assert sum(array.nbytes for array in frames[-1].arrays) > 8_000_000  # more than lies in buffers on the way
    assert remote(frames) == local(large)
    server.ask("DELETE", f"/v1/jobs/{identity}", "alice")


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), ({"Authorization": "Bearer "}, 401), ({"Authorization": "Basic YWxpY2U6eA=="}, 401)],
)
def test_without_a_token_nothing_is_told(server, headers, status):
    for method, path in (("GET", "/v1/server"), ("GET", "/v1/jobs"), ("GET", "/"), ("GET", "/metrics")):
        refused = server.ask(method, path, headers=headers)
        assert refused.status_code == status
        assert "WWW-Authenticate" in refused.headers
        assert set(refused.json()) == {"code", "cause", "remedy"}
    assert server.ask("PUT", f"/v1/jobs/{uuid.uuid4()}", headers=headers, data=b"x").status_code == status


def test_a_token_that_is_tried_a_thousand_times_is_told_to_wait_and_locks_nobody_out(server):
    host, port = server.url.rpartition("//")[2].split(":")
    context = ssl.create_default_context(cafile=str(server.authority))
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=30)
    statuses = []
    for number in range(1000):
        connection.request("GET", "/v1/server", headers={"Authorization": f"Bearer guess{number}"})
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
    assert int(answer.headers["Retry-After"]) > 0
    connection.close()
    assert set(statuses) == {401, 429}
    assert statuses.count(401) <= 60
    assert server.ask("GET", "/v1/server", "alice").status_code == 200


def test_a_revoked_token_ends_what_its_user_has_begun(server, long_job):
    token = server.store.add("dave")
    answer = server.put(long_job, token)
    next(frame for frame in frames_of(answer) if frame.header["type"] == PROGRESS)
    server.store.revoke("dave")
    assert server.ask("GET", "/v1/jobs", token).status_code in (401, 429)
    last = list(frames_of(answer))[-1].header
    assert (last["type"], last["code"]) == (FAILURE, "cancelled")


def test_what_is_no_job_is_refused_with_its_cause(server, small_job):
    body = body_of(small_job)
    large = SegmentJob(sitk.Image([200, 200, 200], sitk.sitkFloat32), "hippocampus-t1")
    other = replace(small_job, model=str(find_model("hippocampus-t1").path))
    for sent, status in (
        (b"", 422),
        (b"x" * 100, 422),
        (body[:-1], 422),
        (body + b"x", 422),
        (body_of(small_job, kind="eval"), 422),
        (body_of(other), 422),
        (body_of(small_job, protocol=1), 409),
        (body_of(small_job, version="9.9.9"), 409),
        (body_of(small_job, model_version="0.0.1"), 409),
        (body_of(large), 413),
    ):
        for data in (sent, iter([sent])):  # with its length before it, and without
            if status == 413 and not isinstance(data, bytes):
                continue
            refused = server.ask("PUT", f"/v1/jobs/{uuid.uuid4()}", "alice", data=data)
            assert refused.status_code == status
            assert refused.json()["cause"]
            assert refused.json()["remedy"]
    assert server.ask("PUT", "/v1/jobs/..%2f..%2fetc", "alice", data=body).status_code in (404, 422)
    assert server.ask("GET", "/v1/nothing", "alice").status_code == 404
    assert jobs_of(server, "alice") == []


def test_what_a_volume_is_refused_for_comes_as_a_failure(server):
    nothing = SegmentJob(sitk.Image([8, 8, 8], sitk.sitkUInt8), "hippocampus-t1")
    last = server.do(nothing, "alice")[-1].header
    with pytest.raises(Exception) as failed:
        JobRunner().run(nothing, no_progress)
    assert (last["type"], last["cause"]) == (FAILURE, failed.value.cause)


def test_a_user_has_so_many_jobs_at_most(server, long_job):
    answers = [server.put(long_job, "carol") for _ in range(4)]
    refused = server.put(long_job, "carol")
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 0
    for job in jobs_of(server, "carol"):
        server.ask("DELETE", f"/v1/jobs/{job['id']}", "carol")
    for answer in answers:
        assert list(frames_of(answer))[-1].header["code"] == "cancelled"


def test_the_page_shows_queue_and_models_in_a_browser(server, long_job):
    from browser import NoBrowserError, chromium

    identities = [
        str(uuid.uuid4()) for _ in range(4)
    ]  # together longer than the 3 s after which the page is loaded again
    answers = []
    try:
        with chromium() as browser:
            credentials = {"username": "", "password": server.tokens["bob"]}
            context = browser.new_context(ignore_https_errors=True, http_credentials=credentials)
            page = context.new_page()
            complaints: list[str] = []
            page.on("console", lambda message: complaints.append(message.text))
            page.goto(server.url)
            page.wait_for_selector("#none")
            answers = [server.put(long_job, "bob", identity) for identity in identities]
            page.wait_for_selector("#jobs", timeout=10_000)  # by itself
            told = "['running', 'waiting'].map(id => Number(document.getElementById(id).textContent))"
            states = "[...document.querySelectorAll('#jobs tbody td:nth-child(3)')].map(cell => cell.textContent)"
            numbers, rows = page.evaluate(f"[{told}, {states}]")  # of one moment: it is loaded again
            assert numbers == [rows.count("running"), rows.count("queued")] and numbers[0] <= 1 <= sum(numbers)
            assert len(rows) <= 4
            assert "hippocampus-t1" in page.locator("#models").inner_text()
            assert "bob" in page.locator("body").inner_text()
            for width in (320, 1280):
                page.set_viewport_size({"width": width, "height": 700})
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            for identity in identities:
                server.ask("DELETE", f"/v1/jobs/{identity}", "bob")
            page.wait_for_selector("#none", timeout=10_000)  # by itself
            assert [text for text in complaints if "favicon" not in text] == []
    except NoBrowserError as error:
        pytest.skip(str(error))
    finally:
        for answer in answers:
            answer.close()


def test_prometheus_is_told_what_was_done(server, small_job):
    server.do(small_job, "alice")
    text = server.ask("GET", "/metrics", "alice").text
    for line in ("sesegment_jobs_waiting 0.0", 'sesegment_jobs_ended_total{outcome="done"}'):
        assert line in text
    assert 'sesegment_seconds_per_megavoxel{kind="segment",model="hippocampus-t1"}' in text
    assert "alice" not in text


def test_nothing_of_a_job_is_in_any_file(server, crop, small_job):
    named = sitk.Image(crop)
    named.SetMetaData("descrip", MARKER)
    named.SetMetaData("qform_code", MARKER)
    voxels = np.frombuffer((MARKER * 40).encode(), np.uint8).reshape(10, 10, -1)
    for job in (
        SegmentJob(named, "hippocampus-t1"),
        SegmentJob(sitk.GetImageFromArray(voxels), "hippocampus-t1"),
        SegmentJob(crop, MARKER),
    ):
        list(frames_of(server.put(job, "alice")) if job.model != MARKER else [])
        server.ask("PUT", f"/v1/jobs/{uuid.uuid4()}?name={MARKER}", "alice", data=body_of(job) + MARKER.encode())
    server.ask("GET", f"/v1/{MARKER}", MARKER)
    server.ask("GET", f"/v1/jobs/{uuid.uuid4()}?after={MARKER}", "alice")
    files = [path for path in server.folder.rglob("*") if path.is_file()]
    assert len(files) > 20  # Ray's logs are among them
    secrets = [MARKER, *server.tokens.values(), "alice"]
    for path in files:
        content = path.read_bytes()
        for secret in secrets:
            if path.name == "tokens.json" and secret == "alice":
                continue
            assert secret.encode() not in content, (path, secret)
    assert MARKER not in "".join(server.lines)
    assert server.do(small_job, "alice")[-1].header["type"] == RESULT

"""Servers that refuse, are not trusted, are of another version, or answer what cannot be read."""

from __future__ import annotations

import contextlib
import datetime
import re
import ssl
import threading

import numpy as np
import pytest
import SimpleITK as sitk
import trustme

from remote_jobs import error_of, events_of, jobs_asked, short_result
from SESegmentationLib.client import AcceptedEvent, AttentionJob, RefineJob, ResultEvent, SegmentJob, remote, servers
from SESegmentationLib.client.expected_result import ExpectedResult
from SESegmentationLib.client.http_client import HttpClient
from SESegmentationLib.client.remote import RemoteSegmenter
from SESegmentationLib.client.servers import server_at
from SESegmentationLib.errors import InputError, ModelError, ServerError, UsageError
from SESegmentationLib.models import find_model
from SESegmentationLib.result import SegmentOptions
from SESegmentationLib.worker.jobs import pack_image
from SESegmentationLib.worker.messages import ACCEPTED, PROGRESS, PROTOCOL, RESULT

pytestmark = pytest.mark.usefixtures("no_own_servers")


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
    assert "(status 307)" in error_of(server.url, SegmentJob(image, tiny_model)).cause
    assert other.asked == []


#: what nginx, Traefik and a page to sign in to a network send; none of it is JSON of the server
PAGE = "<html><head><title>Not what you asked for</title></head></html>"


@pytest.mark.parametrize(
    ("status", "headers", "cause", "remedy", "kind"),
    [
        (413, {}, "larger than what a proxy .* lets through", "limit of the proxy", InputError),
        (302, {"Location": "https://login.example"}, "leads to another page", "Sign in", ServerError),
        (511, {}, "leads to another page", "Sign in", ServerError),
        (403, {}, r"refuses \(status 403\)", "proxy or firewall", ServerError),
    ],
)
@pytest.mark.parametrize("encrypted", [False, True])
def test_what_a_proxy_refuses_is_told_as_its_refusal(
    serve, tiny_model, authority, tmp_path, status, headers, cause, remedy, kind, encrypted
):
    """Before it has read the volume, as proxies do."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    server = serve(context=tls(authority, "127.0.0.1") if encrypted else None)
    server.answers.append((status, PAGE, headers))
    job = SegmentJob(sitk.Image(400, 400, 100, sitk.sitkInt16), tiny_model)
    error = error_of(server_at(server.url, tmp_path / "ca.pem" if encrypted else None), job, kind)
    assert re.search(cause, error.cause) and remedy in error.remedy
    assert jobs_asked(server) == ["PUT", "DELETE"]


@pytest.mark.parametrize("status", [404, 500, 502, 503])
def test_what_stands_in_for_a_server_that_starts_is_asked_again(serve, image, tiny_model, status):
    """Ray Serve and some proxies answer 404 while the server behind them is not there yet: no job is lost by that."""
    server = serve()
    whole = events_of(server.url, SegmentJob(image, tiny_model))[-1]
    server.answers.extend([(status, PAGE, {})] * 2)
    server.drops.append(1000)
    assert events_of(server.url, SegmentJob(image, tiny_model))[-1].arrays[0].tobytes() == whole.arrays[0].tobytes()
    assert jobs_asked(server).count("PUT") >= 2

    def answer_so(event):
        if isinstance(event, AcceptedEvent):
            server.answers.extend([(status, PAGE, {})] * 2)

    server.drops.append(4000)
    events = events_of(server.url, SegmentJob(image, tiny_model), until=answer_so)
    assert isinstance(events[-1], ResultEvent), events[-1]


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


def test_an_encryption_that_does_not_come_about_is_told(serve, authority, tmp_path):
    """One side is too old, or something in between takes part: the address and the network are innocent of that."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = tls(authority, "127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED  # of the client, which has none
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(tmp_path / "ca.pem")
    server = server_at(serve(context=context).url, tmp_path / "ca.pem")
    with pytest.raises(ServerError, match="No encrypted connection .* comes about: handshake failure") as raised:
        HttpClient(server).introduction()
    assert "too old" in raised.value.remedy


@pytest.mark.parametrize("limits", [[1], "1", 7, {"bytes": "many"}, None])
def test_limits_that_cannot_be_read_are_none(serve, image, tiny_model, limits):
    server = serve(work=short_result)
    server.introduction["limits"] = limits
    assert isinstance(events_of(server.url, SegmentJob(image, tiny_model))[-1], ResultEvent)


@pytest.mark.parametrize(
    ("days", "reason", "remedy"),
    [((-9, -2), "has expired", "renew"), ((2, 9), "not valid yet", "date of this computer")],
)
def test_a_certificate_out_of_date_is_not_asked_for_again(serve, authority, tmp_path, days, reason, remedy):
    """The file of a certificate that has expired would not help."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    begin, end = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(day) for day in days)
    server = serve(context=tls(authority, "127.0.0.1", not_before=begin, not_after=end))
    with pytest.raises(ServerError, match=reason) as raised:
        HttpClient(server_at(server.url, tmp_path / "ca.pem")).introduction()
    assert remedy in raised.value.remedy and "choose it" not in raised.value.remedy


def test_certificates_that_are_no_longer_there_are_told(serve, authority, tmp_path, monkeypatch):
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    server = server_at(serve(context=tls(authority, "127.0.0.1")).url, trusted)
    trusted.unlink()
    with pytest.raises(ServerError, match="certificates .* was not found") as raised:
        HttpClient(server).introduction()
    assert "Choose the server's certificate again" in raised.value.remedy


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "proxy:port", ""])
def test_a_proxy_that_does_not_lead_to_the_server_is_named_as_the_cause(serve, monkeypatch, proxy):
    """It cannot be reached, is no address, or refuses; the server, its name and its address are innocent of that."""
    for name in ("NO_PROXY", "no_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    refusing = serve()
    monkeypatch.setenv("HTTPS_PROXY", proxy or refusing.url)
    with pytest.raises(ServerError, match="proxy .* does not lead to the server gpu.hospital.org") as raised:
        HttpClient(server_at("gpu.hospital.org")).introduction()
    assert "NO_PROXY" in raised.value.remedy
    assert refusing.asked == []


@pytest.mark.parametrize("token", ["secret\nX-Other: 1", "secret \u20ac"])
def test_a_token_that_cannot_be_sent_is_told_and_not_quoted(serve, image, tiny_model, monkeypatch, token):
    monkeypatch.setenv(servers.TOKEN_VARIABLE, token)
    server = serve(token="right")
    error = error_of(server.url, SegmentJob(image, tiny_model), UsageError)
    assert servers.TOKEN_VARIABLE in error.remedy
    assert "secret" not in error.cause + error.remedy
    assert server.asked == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": PROTOCOL + 1}, "newer than this program"),
        ({"protocol": PROTOCOL - 1, "version": "9.0.0"}, "older than this program"),
        ({"version": "0.0.9"}, "older than this program"),
        ({"version": "99.1"}, "newer than this program"),
        ({"version": "odd"}, "older than this program"),
        ({"type": "teapot"}, "is not an SESegmentation server"),
        ({"version": None}, "is not an SESegmentation server"),
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


def _moved(value, arrays):
    return {"geometry": value["geometry"] | {"origin": [900.0, 0.0, 0.0]}}, arrays


UNFIT = {
    "of another kind": lambda value, arrays: (value, arrays, "attention"),
    "of another place": _moved,
    "of another size": lambda value, arrays: (value, [arrays[0][:, 1:]]),
    "no labels": lambda value, arrays: (value, [arrays[0].astype(np.float32)]),
    "without labels": lambda value, arrays: (value, []),
    "not three-dimensional": lambda value, arrays: (value, [arrays[0][0]]),
    "without a place": lambda value, arrays: ({}, arrays),
}


@pytest.mark.parametrize(("unfit", "grid"), [*((name, "input") for name in UNFIT), ("of another place", "auto")])
def test_a_result_that_does_not_fit_the_volume_is_not_given_on(serve, image, tiny_model, unfit, grid):
    def work(frame, publish):
        value = {"geometry": frame.header["value"]["images"]["image"]}
        value, arrays, *kind = UNFIT[unfit](value, [frame.arrays[0].astype(np.uint8)])
        publish({"type": RESULT, "kind": kind[0] if kind else "segment", "value": value}, arrays)

    job = SegmentJob(image, tiny_model, SegmentOptions(grid=grid))
    assert "does not fit the volume" in error_of(serve(work=work).url, job).cause


def test_labels_have_to_lie_on_those_that_were_corrected_and_a_map_on_the_volume(image):
    labels = sitk.Resample(sitk.Cast(image, sitk.sitkUInt8), [n // 2 for n in image.GetSize()])
    for job, fitting, unfit in (
        (RefineJob(image, labels, None, "m"), labels, sitk.Cast(image, sitk.sitkUInt8)),
        (AttentionJob(image, "m"), image, sitk.Cast(labels, sitk.sitkFloat32)),
    ):
        expected = ExpectedResult.of(job)
        for given, fits in ((fitting, True), (unfit, False)):
            described, voxels = pack_image(given)
            value, arrays = {"attention": described, "result": {"geometry": described}}, [voxels, voxels]
            with contextlib.nullcontext() if fits else pytest.raises(ValueError, match="another place"):
                expected.check(job.kind, value, arrays)


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
        error = error_of(url, SegmentJob(image, tiny_model))
        assert "is not an SESegmentation server" in error.cause and "sign in" in error.remedy
        assert "is not an SESegmentation server" in error_of(f"{url}/under", SegmentJob(image, tiny_model)).cause
    finally:
        other.shutdown()
        other.server_close()


def test_use_after_close_is_a_mistake(serve, image, tiny_model):
    segmenter = RemoteSegmenter(server_at(serve().url))
    segmenter.close()
    with pytest.raises(RuntimeError):
        segmenter.submit(SegmentJob(image, tiny_model))

"""MONAI Label's published client, and requests as its OHIF extension makes them, against the server's routes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

sys.path.insert(0, str(Path(__file__).parents[1]))
pytest.importorskip("fastapi", reason="needs the extra 'serve'")

import requests
import uvicorn
from fastapi import FastAPI, Response

from dicom_writer import Volume, write_series
from SESegmentationLib.errors import InputError, OutOfMemoryError, WorkerError
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.models import find_model
from SESegmentationLib.worker.jobs import JOBS
from SESegmentationLib.worker.messages import ACCEPTED, RESULT
from SESegmentationLib.worker.process import JobRunner
from SESegmentationServer import monai_label
from SESegmentationServer.application import build_application
from SESegmentationServer.board import Board
from SESegmentationServer.refusals import RefusalError
from SESegmentationServer.sessions import Sessions
from SESegmentationServer.settings import ServerSettings
from SESegmentationServer.tokens import TokenStore

MODEL = "hippocampus-t1"


class Served:
    """An application on an address of this computer, in a thread."""

    def __init__(self, make) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._make = make
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        async def serve() -> None:
            self.server = uvicorn.Server(uvicorn.Config(self._make(), log_level="error", lifespan="on"))
            await self.server.serve(sockets=[self._socket])

        asyncio.run(serve())

    def __enter__(self) -> Served:
        self._thread.start()
        while not getattr(getattr(self, "server", None), "started", False):
            assert self._thread.is_alive()
            time.sleep(0.01)
        return self

    def __exit__(self, *error) -> None:
        self.server.should_exit = True
        self._thread.join(10)


def application(settings: ServerSettings) -> FastAPI:
    runner = JobRunner()

    async def segment(work, jobs):
        yield {"type": ACCEPTED}, []
        job = JOBS[work.kind].unpack(work.value, work.arrays)
        value, arrays = await asyncio.to_thread(runner.run, job, lambda *progress: None)
        yield {"type": RESULT, "kind": job.kind, "value": value}, arrays

    return build_application(Board(segment, 1, settings.limits), settings)


@pytest.fixture(scope="module")
def crop(shared_data) -> Path:
    return shared_data / "hippocampus" / "imagesTr" / "hippocampus_003_0000.nii.gz"


@pytest.fixture(scope="module")
def expected(crop) -> np.ndarray:
    return sitk.GetArrayFromImage(Engine(find_model(MODEL), "cpu").segment(read_volume(crop)).labels)


@pytest.fixture(scope="module")
def archive(crop, tmp_path_factory):
    """A DICOMweb archive with one series; its URL and the UID of the series."""
    folder = tmp_path_factory.mktemp("series")
    series = write_series(Volume.of(read_volume(crop)), folder)
    paths = sorted(folder.iterdir())
    study = str(pydicom.dcmread(paths[0]).StudyInstanceUID)
    app = FastAPI()

    @app.get("/series")
    async def search(SeriesInstanceUID: str) -> Response:  # noqa: N803 - DICOM's own name
        if SeriesInstanceUID != series:
            return Response(status_code=204)
        found = f'[{{"0020000D": {{"vr": "UI", "Value": ["{study}"]}}}}]'
        return Response(found, media_type="application/dicom+json")

    @app.get(f"/studies/{study}/series/{series}")
    async def retrieve() -> Response:
        parts = b"".join(
            b"--part\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() + b"\r\n" for path in paths
        )
        kind = 'multipart/related; type="application/dicom"; boundary=part'
        return Response(parts + b"--part--", headers={"Content-Type": kind})

    with Served(lambda: app) as served:
        yield served.url, series


@pytest.fixture(scope="module")
def server(tmp_path_factory, archive):
    settings = ServerSettings(
        tokens=tmp_path_factory.mktemp("tokens") / "tokens.json",
        dicomweb=archive[0],
        origins=("http://viewer.example",),
    )
    with Served(lambda: application(settings)) as served:
        yield served.url


@pytest.fixture
def client(server, tmp_path):
    module = pytest.importorskip("monailabel.client", reason="needs the client of MONAI Label")
    return module.MONAILabelClient(server, str(tmp_path))


def test_the_published_client_finds_models_and_segments_a_file(client, crop, expected):
    info = client.info()
    assert info["models"][MODEL]["type"] == "segmentation"
    assert info["models"][MODEL]["labels"] == {"anterior hippocampus": 1, "posterior hippocampus": 2}
    path, told = client.infer(MODEL, "", {}, file=str(crop))
    labels = sitk.ReadImage(path)
    assert np.array_equal(sitk.GetArrayFromImage(labels), expected)
    assert np.allclose(labels.GetOrigin(), sitk.ReadImage(str(crop)).GetOrigin())
    assert told["label_names"] == {"anterior hippocampus": 1, "posterior hippocampus": 2}


def test_the_published_client_segments_a_session(client, crop, expected):
    session = client.create_session(str(crop))["session_id"]
    path, _told = client.infer(MODEL, "", {"result_extension": ".nrrd"}, session_id=session)
    assert path.endswith(".nrrd")
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(path)), expected)
    client.remove_session(session)
    with pytest.raises(Exception, match="422"):
        client.infer(MODEL, "", {}, session_id=session)


def test_ohif_segments_a_series_of_the_archive_from_another_origin(server, archive, expected, tmp_path):
    params = '{"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": false}'
    answer = requests.post(
        f"{server}/infer/{MODEL}",
        params={"image": archive[1], "output": "image"},
        files={"params": (None, params)},
        headers={"Origin": "http://viewer.example"},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["Access-Control-Allow-Origin"] == "http://viewer.example"
    assert b"encoding: raw" in answer.content[:2000]
    (tmp_path / "labels.nrrd").write_bytes(answer.content)
    found = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "labels.nrrd"))
    assert 2 * np.logical_and(found, expected).sum() / (found.astype(bool).sum() + (expected > 0).sum()) > 0.9
    other = requests.get(f"{server}/info/", headers={"Origin": "http://other.example"}, timeout=10)
    assert "Access-Control-Allow-Origin" not in other.headers


@pytest.mark.parametrize(
    ("model", "files", "query", "remedy"),
    [
        (MODEL, {"params": (None, "{}")}, {}, "Send the volume"),
        (MODEL, {"params": (None, "no JSON"), "file": ("a.nii.gz", b"x")}, {}, "Send an object"),
        (MODEL, {"params": (None, "[" * 50_000)}, {}, "Send an object"),
        (MODEL, {"params": (None, '{"result_extension": "/etc/passwd"}')}, {}, ".nii.gz"),
        (MODEL, {"file": ("volume.exe", b"x")}, {}, ".nii.gz"),
        (MODEL, {"file": ("volume.nii.gz", b"no gzip")}, {}, "again"),
        ("..%2f..%2fetc", {"file": ("volume.nii.gz", b"x")}, {}, ""),
        ("no-model", {"file": ("volume.nii.gz", b"x")}, {}, "/info/"),
        (MODEL, {"params": (None, "{}")}, {"session_id": "00000000-0000-0000-0000-000000000000"}, "Send the volume"),
        (MODEL, {"params": (None, "{}")}, {"image": "../../study"}, "Send the volume"),
        (MODEL, {"params": (None, "{}")}, {"image": "1.2.3"}, "Choose another"),
    ],
)
def test_what_cannot_be_done_is_said_with_cause_and_remedy(server, model, files, query, remedy):
    answer = requests.post(f"{server}/infer/{model}", params=query, files=files, timeout=30)
    assert answer.status_code in (404, 422)
    assert remedy in answer.json()["remedy"]
    assert "sesegmentation-" not in answer.text  # no path of the server


def test_the_name_of_a_folder_of_the_server_is_left_out_and_nothing_else(server):
    files = {"file": ("volume.nrrd", b"NRRD0004\nabc\n")}
    answer = requests.post(f"{server}/infer/{MODEL}", files=files, timeout=30)
    assert answer.json()["cause"].startswith("The volume: its header holds 'abc'")


@pytest.mark.parametrize("kind", [OutOfMemoryError, WorkerError, InputError])
def test_no_error_of_reading_names_a_folder_of_the_server(server, crop, monkeypatch, kind):
    def fail(path, _pixel_mm):
        raise kind(f"There is not enough memory to read {path}.", f"Look at {path}: it is large.")

    monkeypatch.setattr(monai_label, "read_volume", fail)
    answer = requests.post(f"{server}/infer/{MODEL}", files={"file": (crop.name, crop.read_bytes())}, timeout=30)
    assert answer.json() == {
        "code": kind.code,
        "cause": "There is not enough memory to read the volume.",
        "remedy": "Look at the volume: it is large.",
    }


def _full(*_arguments):
    raise OSError(errno.ENOSPC, "No space left on device", "/tmp/secret")


def _cut_off(image, name, useCompression):  # noqa: N803 - as SimpleITK has it
    sitk_write(image, name, useCompression=useCompression)
    with open(name, "rb+") as file:
        file.truncate(400)


sitk_write = sitk.WriteImage


@pytest.mark.parametrize(
    ("holder", "name", "broken"),
    [
        (monai_label, "_read_upload", _full),
        (tempfile.SpooledTemporaryFile, "rollover", _full),
        (sitk, "WriteImage", _cut_off),
    ],
)
def test_a_full_disk_is_told_and_no_part_of_a_result_is_given(server, monkeypatch, holder, name, broken):
    """What is sent is kept on the disk for a moment, and the result is written there; ITK may not tell of that."""
    image = sitk.GetImageFromArray(np.random.default_rng(1).normal(100, 20, (40, 50, 40)))
    with tempfile.TemporaryDirectory() as folder:
        sitk.WriteImage(image, f"{folder}/large.nii")  # more than stays in memory
        content = Path(f"{folder}/large.nii").read_bytes() + bytes(600_000)
    monkeypatch.setattr(holder, name, broken)
    params = {"params": (None, '{"result_extension": ".nii"}')}
    answer = requests.post(f"{server}/infer/{MODEL}", files={"file": ("a.nii", content)} | params, timeout=60)
    assert (answer.status_code, answer.json()["cause"]) == (507, "The disk of the server is full, or fails.")
    assert "secret" not in answer.text


@pytest.mark.parametrize("path", [f"/infer/{MODEL}", "/session/", "/auth/token"])
def test_a_form_that_cannot_be_read_is_told(server, path):
    method = "PUT" if path == "/session/" else "POST"
    headers = {"Content-Type": "multipart/form-data"}  # which does not say where its parts end
    answer = requests.request(method, f"{server}{path}", data=b"abc", headers=headers, timeout=30)
    assert (answer.status_code, answer.json()["cause"]) == (400, "The server cannot read the form that was sent.")


@pytest.mark.parametrize("does", ["nothing listens", "hangs", "refuses", "answers something else"])
def test_an_archive_that_does_not_answer_is_told(tmp_path, monkeypatch, does):
    monkeypatch.setattr(monai_label, "ARCHIVE_SECONDS", (0.2, 0.2))
    monkeypatch.setattr(monai_label, "ARCHIVE_ATTEMPTS", 1)
    answers = {"refuses": (401, "[]"), "answers something else": (200, '[{"0020000D": {"vr": "UI"}}]')}
    with contextlib.ExitStack() as opened:
        listening = opened.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        if does == "hangs":
            listening.listen()
        elif does in answers:
            status, content = answers[does]
            app = FastAPI()
            app.get("/series")(lambda: Response(content, status, media_type="application/dicom+json"))
            url = opened.enter_context(Served(lambda: app)).url
        with pytest.raises(RefusalError) as raised:
            monai_label.dicom_archive(url)("1.2.3", tmp_path)
    assert raised.value.status == 502 and "archive" in raised.value.error.cause


def test_a_user_signs_in_with_name_and_token(tmp_path, crop):
    module = pytest.importorskip("monailabel.client", reason="needs the client of MONAI Label")
    store = TokenStore(tmp_path / "tokens.json")
    token = store.add("anna")
    settings = ServerSettings(tokens=tmp_path / "tokens.json")
    with Served(lambda: application(settings)) as served:
        client = module.MONAILabelClient(served.url, str(tmp_path))
        assert client.auth_enabled()
        with pytest.raises(module.client.MONAILabelClientException):
            client.info()
        for body in (b"password=" + b"x" * 1_000_000, iter([b"password=", b"x" * 1_000_000])):
            assert requests.post(f"{served.url}/auth/token", data=body, timeout=10).status_code == 413
        client.update_auth(client.auth_token("anna", token))
        assert client.auth_valid_token()
        assert MODEL in client.info()["models"]


def test_sessions_are_of_one_user_and_end():
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    volume = sitk.Image(2, 2, 2, sitk.sitkUInt8)
    name = sessions.add("anna", volume)
    assert sessions.get("anna", name) is volume
    with pytest.raises(InputError):
        sessions.get("ben", name)
    now[0] = 10_000.0
    with pytest.raises(InputError):
        sessions.get("anna", name)
    for known in (lambda user: True, lambda user: user != "anna"):  # by themselves: too old, or without a token now
        sessions.add("anna", volume)
        now[0] += 10_000.0 if known("anna") else 0.0
        sessions.clear(known)
        assert len(sessions) == 0
    names = [sessions.add("anna", volume) for _ in range(9)]
    kept = 0
    for each in names:
        try:
            sessions.get("anna", each)
            kept += 1
        except InputError:
            pass
    assert kept == 4

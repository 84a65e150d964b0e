"""The part of MONAI Label's REST interface that its clients in Slicer and OHIF need to segment.

A client asks ``/info/`` for the models, and sends a volume to ``/infer/{model}``: as a file with the request, as a
session that it has made before, or by the UID of a DICOM series, which is then fetched from the archive that the
server was given. The segmentation comes back as NIfTI or NRRD. Nothing is stored, learnt or trained here, so MONAI
Label's routes for these are absent. Interface: MONAI Label 0.8, https://docs.monai.io/projects/label.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import requests
import SimpleITK as sitk
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect
from urllib3.filepost import encode_multipart_formdata

from SESegmentationLib import __version__
from SESegmentationLib.client.reading import reading_apart
from SESegmentationLib.errors import InputError, SegmentationError, ServerError, UsageError
from SESegmentationLib.files import OutputError
from SESegmentationLib.files.json_files import parse_json
from SESegmentationLib.files.writing import OF_THE_DISK
from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.io.writing import write_image
from SESegmentationLib.models import ModelCard
from SESegmentationLib.result import SegmentationResult
from SESegmentationLib.worker.jobs import SegmentJob, unpack_result
from SESegmentationLib.worker.messages import FAILURE, JOB, PROTOCOL, Frame, error_of

from .board import Board
from .frames import read_work
from .refusals import RefusalError
from .sessions import Sessions
from .upload_memory import UploadMemory

#: the models that are here, by name
Cards = Callable[[], Mapping[str, ModelCard]]
#: fetches a DICOM series by its UID into a folder
Archive = Callable[[str, Path], None]

#: accepted file extensions of volumes; longer ones first
ENDINGS = (".nii.gz", ".seg.nrrd", ".nii", ".nrrd", ".mha", ".mgz")
#: formats in which a segmentation can be had
RESULT_ENDINGS = (".nii.gz", ".nii", ".nrrd")
_UID = re.compile(r"[0-9.]{1,64}")
#: limits on a form: number of fields, and bytes of a field that is no file
FIELDS, FIELD_BYTES = 20, 1 << 16
#: interval in s of checks whether the client is still connected
LOOK_SECONDS = 1.0
#: timeouts of the archive in s: until it is connected, until its next bytes
ARCHIVE_SECONDS = 10.0, 60.0
#: times that it is asked, with a pause of 2 s between
ARCHIVE_ATTEMPTS = 2


class _TimeLimitedAdapter(requests.adapters.HTTPAdapter):
    """Limits how long an answer is waited for, as each request takes one of the threads in which volumes are read."""

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        return super().send(request, **options | {"timeout": ARCHIVE_SECONDS})


def dicom_archive(url: str) -> Archive:
    """Fetches series from an archive that speaks DICOMweb (QIDO-RS and WADO-RS) at ``url``.

    It raises InputError where there is no such series, and RefusalError where the archive does not answer as it should.
    """

    def fetch(uid: str, folder: Path) -> None:
        from dicomweb_client import DICOMwebClient

        if not _UID.fullmatch(uid):
            raise InputError("The image is not named by the UID of a DICOM series.", "Send the volume itself.")
        with requests.Session() as session:
            for scheme in ("http://", "https://"):
                session.mount(scheme, _TimeLimitedAdapter())
            client = DICOMwebClient(url, session=session)
            client.set_http_retry_params(max_attempts=ARCHIVE_ATTEMPTS)
            found = client.search_for_series(search_filters={"SeriesInstanceUID": uid})
            if not found:
                raise InputError("The archive has no such series.", "Choose another one.")
            study = found[0]["0020000D"]["Value"][0]
            for number, instance in enumerate(client.iter_series(study, uid)):
                instance.save_as(folder / f"{number:05}.dcm", enforce_file_format=True)

    def fetch_or_refuse(uid: str, folder: Path) -> None:
        try:
            fetch(uid, folder)
        except (requests.RequestException, LookupError, TypeError, ValueError) as error:
            raise RefusalError(
                502,
                ServerError(
                    "The archive from which the server fetches series does not answer as it should.",
                    "Send the volume itself, or tell the owner of the server.",
                ),
            ) from error

    return fetch_or_refuse


def monai_label_routes(
    board: Board,
    cards: Cards,
    with_tokens: bool,
    memory: UploadMemory,
    sessions: Sessions,
    archive: Archive | None = None,
) -> APIRouter:
    """The routes; the user of a request is ``request.state.user``.

    Args:
        board: does the work.
        cards: of the models that are here.
        with_tokens: whether requests need one.
        memory: for volumes that are sent.
        sessions: keeps those that are sent for later requests.
        archive: fetches series; without it clients have to send their volumes.
    """
    router = APIRouter()

    @router.get("/info/")
    async def info() -> dict[str, Any]:
        return server_info(cards())

    @router.get("/auth/")
    async def authentication() -> dict[str, bool]:
        return {"enabled": with_tokens}

    @router.post("/auth/token")
    async def login(request: Request) -> dict[str, str]:
        length = request.headers.get("content-length", "")  # nobody knows yet who asks
        if not length.isdecimal() or len(length) > 9 or int(length) > FIELD_BYTES:
            raise RefusalError(
                413, InputError("This is not a form with a name and a token.", "Send both, and no more.")
            )
        # the password is the token itself; whether it is good is said where it is used
        async with request.form(max_files=0, max_fields=FIELDS, max_part_size=FIELD_BYTES) as form:
            return {"access_token": str(form.get("password", "")), "token_type": "bearer"}

    @router.get("/auth/token/valid")
    async def token_is_valid(request: Request) -> dict[str, str]:
        return {"username": request.state.user}

    @router.put("/session/")
    async def add_session(request: Request) -> dict[str, str]:
        with _refusals():
            async with _form(request, memory) as form:
                volume = await asyncio.to_thread(_read_upload, form.get("files"))
            return {"session_id": sessions.add(request.state.user, volume)}

    @router.get("/session/{session}")
    async def session_is_there(request: Request, session: str) -> dict[str, str]:
        with _refusals():
            sessions.get(request.state.user, session)
        return {"session_id": session}

    @router.delete("/session/{session}")
    async def remove_session(request: Request, session: str) -> dict[str, str]:
        with _refusals():
            sessions.remove(request.state.user, session)
        return {}

    @router.post("/infer/{model}")
    async def infer(
        request: Request,
        model: str,
        image: str = "",
        session_id: str = "",
        output: Literal["image", "json", "all"] = "all",
    ) -> Response:
        with _refusals():
            card = cards().get(model)
            if card is None:
                raise UsageError("There is no such model here.", "Ask for /info/, which lists the models.")
            async with _form(request, memory) as form:
                requested = _RequestedFormat.of(form.get("params") or "{}")
                if session_id:
                    volume = sessions.get(request.state.user, session_id)
                elif "file" in form:
                    pixel_mm = card.pixel_mm
                    volume = await asyncio.to_thread(_read_upload, form.get("file"), pixel_mm)
                elif image and archive is not None:
                    volume = await asyncio.to_thread(_read_series, archive, image)
                else:
                    raise UsageError(
                        "There is no volume to segment: no file, no session, and no archive to fetch it from.",
                        "Send the volume with the request, or start the server with --dicomweb URL.",
                    )
            result = await _segment(board, cards(), request, SegmentJob(volume, model))
            return await _answer(result, requested, output)

    return router


async def _segment(
    board: Board, cards: Mapping[str, ModelCard], request: Request, job: SegmentJob
) -> SegmentationResult:
    """Queue and run a job; it is cancelled if the client disconnects."""
    value, arrays = job.pack()
    header = {"type": JOB, "job": 0, "kind": job.kind, "value": value, "protocol": PROTOCOL, "version": __version__}
    user = request.state.user
    board.check_room(user)
    # as what comes over the network, whose fields are lists
    work = read_work(Frame(json.loads(json.dumps(header)), arrays), cards)
    entry = board.submit(str(uuid.uuid4()), user, work)
    entry.streams += 1  # somebody waits for it
    try:
        while entry.state != "done":
            changed = entry.changed
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), LOOK_SECONDS)
            if await request.is_disconnected():
                raise ClientDisconnect
        _number, event, found = entry.events[-1]
    finally:
        entry.streams -= 1
        board.forget(entry)
    if event["type"] == FAILURE:
        raise error_of(event)
    return unpack_result(event["value"], found)


async def _answer(result: SegmentationResult, requested: _RequestedFormat, output: str) -> Response:
    """A result in the form the client wants: its file, its parameters as JSON, or both as multipart."""
    parameters = {
        "label_names": {structure.label.name: structure.label.value for structure in result.structures},
        "volumes_ml": {structure.label.name: structure.volume_ml for structure in result.structures},
        "findings": [f"{finding.message} {finding.consequence}" for finding in result.findings],
    }
    if output == "json":
        return JSONResponse(parameters)
    labels = await asyncio.to_thread(_as_file, result.labels, requested)
    if output == "image":
        return Response(labels, media_type="application/octet-stream")
    parts: dict[str, str | tuple[str, bytes, str]] = {
        "params": json.dumps(parameters),
        "image": (f"segmentation{requested.ending}", labels, "application/octet-stream"),
    }
    body, content_type = encode_multipart_formdata(parts)
    return Response(body, media_type=content_type)


@contextlib.asynccontextmanager
async def _form(request: Request, memory: UploadMemory) -> AsyncIterator[FormData]:
    """The form of a request; it is read here, since who asks is known by now, and memory is kept for it meanwhile."""
    with memory.reserved(int(request.headers["content-length"])):  # of at most so many bytes: the gate has looked
        async with request.form(max_files=1, max_fields=FIELDS, max_part_size=FIELD_BYTES) as form:
            yield form


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Answer 422 to errors that the user can correct, 507 to a full disk; MONAI Label's clients show the text."""
    try:
        yield
    except (InputError, UsageError) as error:
        raise RefusalError(422, error) from error
    except (OutputError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in OF_THE_DISK:
            raise
        raise RefusalError(
            507,
            ServerError("The disk of the server is full, or fails.", "Try again later, and tell the server's owner."),
        ) from error


def server_info(cards: Mapping[str, ModelCard]) -> dict[str, Any]:
    """What ``/info/`` tells: the models with their structures, and that nothing can be trained or stored."""
    models = {
        name: {
            "type": "segmentation",
            "labels": {label.name: label.value for label in card.labels},
            "dimension": 3,
            "description": card.summary,
            "version": card.version,
            "config": {},
        }
        for name, card in cards.items()
    }
    labels = list(dict.fromkeys(label.name for card in cards.values() for label in card.labels))
    nothing: dict[str, Any] = {name: {} for name in ("trainers", "strategies", "scoring", "train_stats", "datastore")}
    return {
        "name": "SESegmentation",
        "description": "Segmentation of anatomy by networks with squeeze & excitation blocks",
        "version": __version__,
        "labels": labels,
        "models": models,
    } | nothing


@dataclass(frozen=True)
class _RequestedFormat:
    """The file format that a client asks for: ending of its name, and whether it is compressed."""

    ending: str = RESULT_ENDINGS[0]
    compressed: bool = True

    @classmethod
    def of(cls, params: object) -> _RequestedFormat:
        """What the parameters of a request say; UsageError where they cannot be used."""
        try:
            chosen = dict(parse_json(str(params).encode()))
        except (ValueError, TypeError) as error:
            raise UsageError("The parameters are not JSON.", 'Send an object, for example "{}".') from error
        ending = chosen.get("result_extension") or cls.ending
        if ending not in RESULT_ENDINGS:
            raise UsageError(
                "Segmentations are not written in this format.",
                f"Ask for result_extension {', '.join(RESULT_ENDINGS)}.",
            )
        return cls(ending, bool(chosen.get("result_compress", True)))


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder that only this user may look into; clients do not learn its name."""
    with tempfile.TemporaryDirectory(prefix="sesegmentation-") as folder:
        try:
            yield Path(folder)
        except SegmentationError as error:
            raise type(error)(_without(folder, error.cause), _without(folder, error.remedy)) from None


def _without(folder: str, text: str) -> str:
    """A sentence without the name of that folder and of the file in it."""
    shown = re.sub(rf"{re.escape(folder)}[^\s:]*?(?=\.?(?:[\s:]|$))", "the volume", text)
    return shown[:1].upper() + shown[1:]


def _read_upload(upload: UploadFile | str | None, pixel_mm: tuple[float, ...] | None = None) -> sitk.Image:
    """The volume of a file that was sent; only the ending of its name counts."""
    if not isinstance(upload, UploadFile):
        raise UsageError("There is no file in the request.", "Send the volume as a file.")
    name = (upload.filename or "").lower()
    ending = next((ending for ending in ENDINGS if name.endswith(ending)), None)
    if ending is None:
        raise UsageError("The file that was sent is in no supported format.", f"Send {', '.join(ENDINGS)}.")
    with _private_folder() as folder, reading_apart():
        path = folder / f"volume{ending}"
        path.write_bytes(upload.file.read())
        return read_volume(path, pixel_mm)


def _read_series(archive: Archive, uid: str) -> sitk.Image:
    with _private_folder() as folder, reading_apart():
        archive(uid, folder)
        return read_volume(folder, None)


def _as_file(labels: sitk.Image, requested: _RequestedFormat) -> bytes:
    with _private_folder() as folder:
        path = folder / f"segmentation{requested.ending}"
        write_image(path, labels, requested.compressed)  # ITK does not tell of every file that a full disk cut off
        return path.read_bytes()

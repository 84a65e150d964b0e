"""The server's HTTP routes: who may make requests, which, and how often. docs/server.md is the contract."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import logging
import time
import traceback
import uuid
from collections.abc import AsyncIterator

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from SESegmentationLib.errors import SegmentationError, ServerError
from SESegmentationLib.worker.messages import hello

from .board import Board, ServerJob
from .frames import MEDIA_TYPE, check_upload_memory, read_work, receive_frame
from .metrics import metrics_text
from .monai_label import dicom_archive, monai_label_routes
from .page import page_html
from .refusals import RefusalError, full, malformed, too_large, unknown_job
from .served_models import ServedModels
from .settings import ServerSettings
from .tokens import TokenStore

#: the user of all requests where no token is required
LOCAL_USER = "local"
_OPEN_PATHS = ("/healthz", "/readyz", "/auth/", "/auth/token")
#: MONAI Label's paths that volumes are sent to
_FORM_PATHS = ("/infer/", "/session/")
#: paths with something to look at, for which a browser asks its user for a token
_PAGE_PATHS = ("/", "/metrics")
_log = logging.getLogger(__name__)


class Gate:
    """Authenticates requests and limits their rate."""

    def __init__(self, settings: ServerSettings) -> None:
        self._store = TokenStore(settings.tokens)
        self._open = settings.loopback and not self._store.entries()
        self._hosts = {"localhost", "127.0.0.1", "::1", settings.host}
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._requests = RateLimitItemPerMinute(settings.limits.requests_per_minute)
        self._failures = RateLimitItemPerMinute(settings.limits.wrong_tokens_per_minute)

    @property
    def asks(self) -> bool:
        """Whether it requires tokens."""
        return not self._open

    def user_of(self, request: Request) -> str:
        """The user who makes the request.

        Raises:
            RefusalError: the token is missing or unknown, or the user or an address with wrong tokens exceeds its rate.
        """
        user = self._known(request)
        if not self._limiter.hit(self._requests, "user", user):
            raise self._too_often(self._requests, "user", user)
        return user

    def knows(self, user: str) -> bool:
        """Whether a user still has a token."""
        return user == LOCAL_USER if self._open else any(entry.name == user for entry in self._store.entries())

    def _known(self, request: Request) -> str:
        if self._open and self._store.entries():
            self._open = False  # for good: a revoked token does not open the server to all
        if self._open:
            if request.url.hostname not in self._hosts:  # a page of another site that has its name lead here
                raise RefusalError(421, ServerError("The server is not known by this name.", "Use 127.0.0.1."))
            return LOCAL_USER
        token = _token_of(request)
        user = self._store.user_of(token) if token else None
        if user is not None:
            return user
        address = request.client.host if request.client else ""
        # a right token is let in whatever others do from the same address: it is too long to be guessed
        if token and not self._limiter.hit(self._failures, "address", address):
            raise self._too_often(self._failures, "address", address)
        scheme = "Basic" if request.url.path in _PAGE_PATHS else "Bearer"
        raise RefusalError(
            401,
            ServerError(
                "The server does not know this token." if token else "The server asks for a token.",
                "Ask the owner of the server for a token, who makes it by: sesegment serve token add NAME",
            ),
            {"WWW-Authenticate": f'{scheme} realm="SESegmentation"'},
        )

    def _too_often(self, limit: RateLimitItemPerMinute, *who: str) -> RefusalError:
        reset = self._limiter.get_window_stats(limit, *who).reset_time
        return full("The server has received too many requests.", max(1, round(reset - time.time())), 429)


def _token_of(request: Request) -> str:
    """The token of a request: a bearer token, or the password that a browser has asked for."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    if scheme.lower() == "basic" and request.url.path in _PAGE_PATHS:
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    return ""


def build_application(board: Board, settings: ServerSettings) -> ASGIApp:
    """The application whose jobs ``board`` keeps."""
    app = _application(board, settings)

    async def quiet(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except Exception as error:  # it was answered; its text may quote what was sent, and is not for the log
            _log.error("%s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))

    return quiet


def _application(board: Board, settings: ServerSettings) -> FastAPI:
    gate, models, limits = Gate(settings), ServedModels(), settings.limits
    uploads: dict[str, tuple[str, asyncio.Task]] = {}

    @contextlib.asynccontextmanager
    async def lifespan(_application: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(board.watch(gate.knows))
        try:
            yield
        finally:
            watching.cancel()
            await board.close()

    async def admit(request: Request) -> None:
        if request.url.path not in _OPEN_PATHS:
            request.state.user = gate.user_of(request)
        if request.url.path.startswith(_FORM_PATHS) and request.method in ("POST", "PUT"):
            if "content-length" not in request.headers:
                raise RefusalError(411, ServerError("The request does not state its size.", "Send Content-Length."))
            _check_size(request, settings)

    app = FastAPI(
        title="SESegmentation",
        lifespan=lifespan,
        dependencies=[Depends(admit)],
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )

    @app.exception_handler(RefusalError)
    async def refuse(_request: Request, refusal: RefusalError) -> Response:
        return _refused(refusal)

    @app.exception_handler(SegmentationError)
    async def fail(_request: Request, error: SegmentationError) -> Response:
        return _refused(RefusalError(500, error))

    @app.exception_handler(ClientDisconnect)
    async def be_left(_request: Request, _error: ClientDisconnect) -> Response:
        return Response(status_code=499)

    @app.exception_handler(HTTPException)
    async def refuse_path(_request: Request, error: HTTPException) -> Response:
        return _refused(RefusalError(error.status_code, ServerError("The server has no such address.", "")))

    @app.exception_handler(RequestValidationError)
    async def refuse_query(_request: Request, _error: RequestValidationError) -> Response:
        return _refused(malformed("its address is not valid"))

    @app.exception_handler(Exception)
    async def fail_unexpectedly(_request: Request, _error: Exception) -> Response:
        return _refused(RefusalError(500, ServerError("The server failed.", "Try again.")))

    if settings.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.origins, allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    archive = dicom_archive(settings.dicomweb) if settings.dicomweb else None
    app.include_router(monai_label_routes(board, models.cards, gate.asks, archive))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        if not models.cards():
            raise full("The server has no model.")
        return {"status": "ready"}

    @app.get("/v1/server")
    async def server() -> dict[str, object]:
        introduction = {key: value for key, value in hello().items() if key != "pid"}
        cards = models.cards().values()
        return {
            **introduction,
            "models": [
                {
                    "name": card.name,
                    "version": card.version,
                    "title": card.title,
                    "weights_sha256": card.weights_sha256,
                }
                for card in cards
            ],
            "limits": {"bytes": limits.upload_bytes, "jobs": limits.jobs_per_user, "seconds": limits.job_seconds},
            "queue": {
                "waiting": len(board.queue),
                "running": board.queue.running,
                "seconds": board.queue.seconds_until_free(),
            },
        }

    @app.get("/v1/jobs")
    async def own_jobs(request: Request) -> dict[str, object]:
        return {"jobs": [_described(board, job) for job in board.jobs_of(request.state.user)]}

    @app.put("/v1/jobs/{identity}")
    async def put(identity: str, request: Request) -> Response:
        identity, user = _uuid(identity), request.state.user
        if board.knows(identity):
            return await _stream(board, board.find(identity, user))
        if identity in uploads:  # by a connection that was lost, unnoticed as yet
            owner, lost = uploads[identity]
            if owner != user:
                raise unknown_job()
            lost.cancel()
        board.check_room(user, sum(owner == user for owner, _ in uploads.values()), len(uploads))
        _check_size(request, settings)
        task = asyncio.current_task()
        assert task is not None
        uploads[identity] = user, task
        try:
            frame = await receive_frame(request.stream(), limits)
        finally:
            if uploads.get(identity) == (user, task):
                del uploads[identity]
        if board.knows(identity):
            return await _stream(board, board.find(identity, user))
        work = read_work(frame, models.cards())
        return await _stream(board, board.submit(identity, user, work))

    @app.get("/v1/jobs/{identity}")
    async def get(identity: str, request: Request, after: int = -1) -> Response:
        return await _stream(board, board.find(_uuid(identity), request.state.user), after)

    @app.delete("/v1/jobs/{identity}")
    async def delete(identity: str, request: Request) -> Response:
        board.forget(board.find(_uuid(identity), request.state.user))
        return Response(status_code=204)

    @app.get("/metrics")
    async def metrics() -> Response:
        text, media_type = metrics_text(board)
        return Response(text, media_type=media_type)

    @app.get("/")
    async def page(request: Request) -> Response:
        headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return HTMLResponse(page_html(board, models.cards(), request.state.user), headers=headers)

    return app


def _uuid(text: str) -> str:
    """The id of a job in its one form."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise malformed("its id is no UUID") from None


def _check_size(request: Request, settings: ServerSettings) -> None:
    """Refuse, before it is sent, an upload that is too large for the server or for its memory."""
    length = request.headers.get("content-length", "")
    size = int(length) if length.isascii() and length.isdecimal() and len(length) < 20 else 0
    limits = settings.limits
    if size > limits.upload_bytes + limits.header_bytes:
        raise too_large(limits.upload_bytes)
    check_upload_memory(size, limits)


async def _stream(board: Board, job: ServerJob, after: int = -1) -> Response:
    return StreamingResponse(
        await board.follow(job, after), media_type=MEDIA_TYPE, headers={"Cache-Control": "no-store"}
    )


def _described(board: Board, job: ServerJob) -> dict[str, object]:
    position, seconds = board.outlook(job)
    return {
        "id": job.id,
        "kind": job.kind,
        "model": job.model,
        "state": board.state_of(job),
        "position": position,
        "seconds": seconds,
    }


def _refused(refusal: RefusalError) -> Response:
    return JSONResponse(refusal.to_dict(), refusal.status, headers=refusal.headers)

"""The server's HTTP application: its routes, and what it answers where one fails. docs/server.md is the contract."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from SESegmentationLib.errors import SegmentationError, ServerError
from SESegmentationLib.worker.messages import hello

from .board import Board
from .gate import Gate
from .job_routes import job_routes
from .metrics import metrics_text
from .monai_label import dicom_archive, monai_label_routes
from .page import page_html
from .refusals import RefusalError, full, malformed, without_paths
from .served_models import ServedModels
from .sessions import Sessions
from .settings import ServerLimits, ServerSettings
from .upload_memory import UploadMemory

_log = logging.getLogger(__name__)


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
    gate, models, sessions = Gate(settings), ServedModels(), Sessions()
    memory = UploadMemory(settings.limits.spare_gigabytes)
    app = FastAPI(
        title="SESegmentation",
        lifespan=_lifespan(board, gate, sessions),
        dependencies=[Depends(gate.admit)],
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    _answer_errors(app)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.origins, allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    archive = dicom_archive(settings.dicomweb) if settings.dicomweb else None
    app.include_router(monai_label_routes(board, models.cards, gate.asks, memory, sessions, archive))
    app.include_router(job_routes(board, models.cards, settings.limits, memory))
    app.include_router(_state_routes(board, models, settings.limits))
    return app


def _lifespan(board: Board, gate: Gate, sessions: Sessions) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(_application: FastAPI) -> AsyncIterator[None]:
        watching = [asyncio.create_task(kept.watch(gate.knows)) for kept in (board, sessions)]
        try:
            yield
        finally:
            for task in watching:
                task.cancel()
            await board.close()

    return lifespan


def _answer_errors(app: FastAPI) -> None:
    """Have every error answered by a status with cause and remedy."""

    @app.exception_handler(RefusalError)
    async def refuse(_request: Request, refusal: RefusalError) -> Response:
        return _refused(refusal)

    @app.exception_handler(SegmentationError)
    async def fail(_request: Request, error: SegmentationError) -> Response:
        return _refused(RefusalError(500, without_paths(error)))

    @app.exception_handler(ClientDisconnect)
    async def answer_disconnected(_request: Request, _error: ClientDisconnect) -> Response:
        return Response(status_code=499)

    @app.exception_handler(HTTPException)
    async def refuse_request(_request: Request, error: HTTPException) -> Response:
        refusal = ServerError("The server has no such address.", "See docs/server.md for those that it has.")
        if error.status_code not in (404, 405):
            refusal = ServerError(
                "The server cannot read the form that was sent.", "Send it as MONAI Label's clients do."
            )
        return _refused(RefusalError(error.status_code, refusal))

    @app.exception_handler(RequestValidationError)
    async def refuse_query(_request: Request, _error: RequestValidationError) -> Response:
        return _refused(malformed("its address is not valid"))

    @app.exception_handler(Exception)
    async def fail_unexpectedly(_request: Request, _error: Exception) -> Response:
        return _refused(
            RefusalError(
                500, ServerError("The server failed.", "Try again; if it fails again, tell the owner of the server.")
            )
        )


def _refused(refusal: RefusalError) -> Response:
    return JSONResponse(refusal.to_dict(), refusal.status, headers=refusal.headers)


def _state_routes(board: Board, models: ServedModels, limits: ServerLimits) -> APIRouter:
    """The routes that tell of the server: whether it works, what it has, how busy it is."""
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz() -> dict[str, str]:
        if not models.cards():
            raise full("The server has no model.")
        return {"status": "ready"}

    @router.get("/v1/server")
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

    @router.get("/metrics")
    async def metrics() -> Response:
        text, media_type = metrics_text(board)
        return Response(text, media_type=media_type)

    @router.get("/")
    async def page(request: Request) -> Response:
        headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return HTMLResponse(page_html(board, models.cards(), request.state.user), headers=headers)

    return router

"""The routes by which clients send jobs, follow them and fetch results; docs/server.md is the contract."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from SESegmentationLib.models import ModelCard

from .board import Board, ServerJob
from .frames import MEDIA_TYPE, read_work, receive_frame
from .gate import check_size
from .refusals import malformed, unknown_job
from .settings import ServerLimits
from .upload_memory import UploadMemory


def job_routes(
    board: Board, cards: Callable[[], Mapping[str, ModelCard]], limits: ServerLimits, memory: UploadMemory
) -> APIRouter:
    """The routes; the user of a request is ``request.state.user``.

    Args:
        board: keeps the jobs.
        cards: of the models that are here, by name.
        limits: of uploads.
        memory: for them.
    """
    router, uploads = APIRouter(prefix="/v1/jobs"), _Uploads()

    @router.get("")
    async def own_jobs(request: Request) -> dict[str, object]:
        return {"jobs": [_described(board, job) for job in board.jobs_of(request.state.user)]}

    @router.put("/{identity}")
    async def put(identity: str, request: Request) -> Response:
        identity, user = _uuid(identity), request.state.user
        if not board.knows(identity):
            await uploads.supersede(identity, user)
            board.check_room(user, uploads.count_of(user), len(uploads))
            memory.check(check_size(request, limits))
            with uploads.receiving(identity, user):
                frame = await receive_frame(request.stream(), limits, memory)
            if not board.knows(identity):
                return await _stream(board, board.submit(identity, user, read_work(frame, cards())))
        return await _stream(board, board.find(identity, user))

    @router.get("/{identity}")
    async def get(identity: str, request: Request, after: int = -1) -> Response:
        return await _stream(board, board.find(_uuid(identity), request.state.user), after)

    @router.delete("/{identity}")
    async def delete(identity: str, request: Request) -> Response:
        board.forget(board.find(_uuid(identity), request.state.user))
        return Response(status_code=204)

    return router


class _Uploads:
    """Jobs that are on their way here: the user of each, the task that receives it, and whether that has ended."""

    def __init__(self) -> None:
        self._tasks: dict[str, tuple[str, asyncio.Task, asyncio.Event]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def count_of(self, user: str) -> int:
        """How many a user sends."""
        return sum(owner == user for owner, *_ in self._tasks.values())

    async def supersede(self, identity: str, user: str) -> None:
        """End the upload of a job that is sent anew: by a connection that was lost, unnoticed as yet.

        Its memory is free afterwards.

        Raises:
            RefusalError: it is somebody else's.
        """
        while identity in self._tasks:
            owner, lost, ended = self._tasks[identity]
            if owner != user:
                raise unknown_job()
            lost.cancel()
            await ended.wait()

    @contextlib.contextmanager
    def receiving(self, identity: str, user: str) -> Iterator[None]:
        """Inside the block this task receives a job."""
        task = asyncio.current_task()
        assert task is not None
        entry = self._tasks[identity] = user, task, asyncio.Event()
        try:
            yield
        finally:
            if self._tasks.get(identity) is entry:
                del self._tasks[identity]
            entry[-1].set()


def _uuid(text: str) -> str:
    """The id of a job in its one form."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise malformed("its id is not a UUID") from None


async def _stream(board: Board, job: ServerJob, after: int = -1) -> Response:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nginx would hold short messages back
    return StreamingResponse(await board.follow(job, after), media_type=MEDIA_TYPE, headers=headers)


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

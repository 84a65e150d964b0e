"""What becomes of Ray's failures: a full disk or memory ends a job with its cause, a lost replica starts it anew."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

ray = pytest.importorskip("ray")
from ray.exceptions import (  # noqa: E402
    ActorDiedError,
    NodeDiedError,
    ObjectStoreFullError,
    OutOfDiskError,
    WorkerCrashedError,
)

from SESegmentationLib.errors import OutOfMemoryError  # noqa: E402
from SESegmentationServer.board import ReplicaLostError  # noqa: E402
from SESegmentationServer.deployments import Ingress, Room  # noqa: E402
from SESegmentationServer.frames import Work  # noqa: E402


class Failing:
    """A handle of a deployment whose answer fails after its first part."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.cancelled = False
        self.run = self

    def options(self, **_options) -> Failing:
        return self

    def remote(self, *_arguments) -> Failing:
        return self

    def cancel(self) -> None:
        self.cancelled = True

    async def __aiter__(self):
        yield [({"type": "accepted"}, [])]
        raise self.error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ObjectStoreFullError("secret"), OutOfMemoryError),
        (OutOfDiskError("secret"), OutOfMemoryError),
        (ActorDiedError(), ReplicaLostError),
        (WorkerCrashedError(), ReplicaLostError),
        (NodeDiedError("secret"), ReplicaLostError),
    ],
)
def test_failures_of_ray_are_told_apart(error, expected):
    handle = Failing(error)
    ingress = SimpleNamespace(_segmenter=handle, _slots_of=lambda work: 1)

    async def story():
        told = []
        with pytest.raises(expected) as raised:
            async for header, _ in Ingress._segment(ingress, Work(1, "segment", "model", {}, [], 1.0), 1):
                told.append(header["type"])
        assert "secret" not in str(raised.value)
        return told

    assert asyncio.run(story()) == ["accepted"]
    assert handle.cancelled


def test_a_large_job_has_a_replica_for_itself_and_is_not_overtaken():
    async def story():
        room, order = Room(2), []

        async def job(name: str, slots: int, done: asyncio.Event):
            await room.enter(slots)
            order.append(name)
            await done.wait()
            room.leave(slots)

        ends = {name: asyncio.Event() for name in ("small", "large", "late")}
        tasks = [asyncio.create_task(job(name, 2 if name == "large" else 1, end)) for name, end in ends.items()]
        await asyncio.sleep(0.01)
        assert order == ["small"]
        ends["small"].set()
        await asyncio.sleep(0.01)
        assert order == ["small", "large"]
        ends["large"].set()
        ends["late"].set()
        await asyncio.gather(*tasks)
        assert order == ["small", "large", "late"]

    asyncio.run(story())

"""Jobs from the upload to the fetched result, without HTTP and Ray: whoever fails, every job ends, and once."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
from collections.abc import AsyncGenerator, AsyncIterator

import numpy as np
import pytest

from SESegmentationLib.worker.messages import (
    ACCEPTED,
    FAILURE,
    HEARTBEAT,
    PROGRESS,
    QUEUED,
    RESTARTED,
    RESULT,
    Frame,
    FrameError,
    read_frame,
)
from SESegmentationServer.board import Answer, Board, ReplicaLostError
from SESegmentationServer.frames import Work
from SESegmentationServer.job_routes import _stream, _Uploads
from SESegmentationServer.page import page_html
from SESegmentationServer.refusals import RefusalError
from SESegmentationServer.settings import ServerLimits

ID = "00000000-0000-4000-8000-00000000000{}".format


def work(number: int = 7) -> Work:
    return Work(number, "segment", "model", {}, [np.full(3, number, np.uint8)], 1.0)


async def at_once(job: Work, _count: int) -> AsyncGenerator[Answer]:
    yield {"type": ACCEPTED}, []
    yield {"type": PROGRESS, "phase": "predict", "fraction": 0.5, "seconds_left": 1.0}, []
    yield {"type": RESULT, "kind": job.kind, "value": {}}, job.arrays


class Held:
    """Does jobs when it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.ended: list[int] = []

    async def __call__(self, job: Work, count: int) -> AsyncGenerator[Answer]:
        try:
            yield {"type": ACCEPTED}, []
            await self.go.wait()
            async for answer in at_once(job, count):
                yield answer
        finally:
            self.ended.append(job.number)


async def frames(stream: AsyncIterator[bytes], count: int = 1000) -> list[Frame]:
    """The first frames of a stream."""
    found: list[Frame] = []
    rest = b""
    async for piece in stream:
        rest += piece
        found, file = [], io.BytesIO(rest)
        with contextlib.suppress(FrameError):  # the rest of it is in the next piece
            while frame := read_frame(file):
                found.append(frame)
        if len(found) >= count:
            break
    await stream.aclose()
    return found


def types(found: list[Frame]) -> list[str]:
    return [frame.header["type"] for frame in found if frame.header["type"] != HEARTBEAT]


def board(segment, slots: int = 1, **limits) -> Board:
    return Board(segment, slots, ServerLimits(**limits))


def test_what_is_told_of_a_job_has_numbers_and_can_be_taken_up():
    async def story():
        desk = board(at_once)
        job = desk.submit(ID(1), "alice", work())
        told = await frames(await desk.follow(job))
        assert types(told) == [ACCEPTED, PROGRESS, RESULT]
        assert [frame.header["event"] for frame in told] == [0, 1, 2]
        assert {frame.header["job"] for frame in told} == {7}
        assert (told[-1].arrays[0] == 7).all()
        assert types(await frames(await desk.follow(job, after=1))) == [RESULT]
        assert await frames(await desk.follow(job, after=2)) == []
        assert desk.finished == {"done": 1}

    asyncio.run(story())


def test_proxies_are_asked_to_pass_on_every_message_at_once():
    async def story():
        desk = board(at_once)
        answer = await _stream(desk, desk.submit(ID(1), "alice", work()))
        assert answer.headers["X-Accel-Buffering"] == "no"
        await desk.close()

    asyncio.run(story())


def test_an_upload_that_is_sent_anew_waits_until_the_lost_one_is_gone():
    """The memory of the lost one would be missing otherwise."""

    async def story():
        uploads, told = _Uploads(), []

        async def receive():
            with uploads.receiving(ID(1), "alice"):
                try:
                    await asyncio.sleep(60)
                finally:
                    told.append("memory is free")

        lost = asyncio.create_task(receive())
        await asyncio.sleep(0)
        with pytest.raises(RefusalError):
            await uploads.supersede(ID(1), "bob")
        await uploads.supersede(ID(1), "alice")
        assert told == ["memory is free"] and len(uploads) == 0
        assert (await asyncio.gather(lost, return_exceptions=True))[0].__class__ is asyncio.CancelledError

    asyncio.run(story())


def test_a_lost_replica_costs_time_and_too_many_end_the_job():
    async def story(losses: int):
        left = [losses]

        async def lossy(job: Work, count: int) -> AsyncGenerator[Answer]:
            yield {"type": ACCEPTED}, []
            if left[0]:
                left[0] -= 1
                raise ReplicaLostError
            async for answer in at_once(job, count):
                yield answer

        desk = board(lossy)
        job = desk.submit(ID(1), "alice", work())
        phases: list[str] = []
        publish = desk._publish
        desk._publish = lambda job, header, arrays=None: (
            phases.append(header.get("phase", header["type"])),
            publish(job, header, arrays),
        )
        told = await frames(await desk.follow(job))
        assert desk.queue.free == 1
        assert desk.lost == losses
        return phases, told[-1].header

    phases, last = asyncio.run(story(2))
    assert phases == [ACCEPTED, RESTARTED, RESTARTED, "predict", RESULT]
    phases, last = asyncio.run(story(3))
    assert phases == [ACCEPTED, RESTARTED, RESTARTED, FAILURE]
    assert last["code"] == "server"
    assert "lost the process of this job" in last["cause"]


@pytest.mark.parametrize("ends", ["silently", "unexpectedly", "late"])
def test_a_job_ends_however_its_replica_does(ends):
    async def bad(job: Work, count: int) -> AsyncGenerator[Answer]:
        yield {"type": ACCEPTED}, []
        if ends == "unexpectedly":
            raise ValueError("secret")
        if ends == "late":
            await asyncio.sleep(60)

    async def story():
        desk = board(bad, job_seconds=0.05)
        job = desk.submit(ID(1), "alice", work())
        told = await frames(await desk.follow(job))
        assert types(told)[-1] == FAILURE
        assert "secret" not in str(told[-1].header)
        assert desk.queue.free == 1
        return told[-1].header["cause"]

    assert ("longer than" in asyncio.run(story())) == (ends == "late")


def test_jobs_that_wait_are_told_their_position_and_time():
    async def story():
        held = Held()
        desk = board(held)
        first, second, third = (desk.submit(ID(n), user, work(n)) for n, user in ((1, "a"), (2, "a"), (3, "b")))
        desk.queue.estimates.learn(first.ticket, 10.0)
        told = (await frames(await desk.follow(third), 1))[0].header
        assert told["type"] == QUEUED
        assert told["position"] == 1  # the other user has one that runs
        assert [desk.outlook(job)[0] for job in (first, second, third)] == [0, 2, 1]
        desk.queue.progress(first.ticket, 7.0)
        assert desk.outlook(first) == (0, pytest.approx(7.0, abs=1.0))
        held.go.set()
        assert types(await frames(await desk.follow(third)))[-1] == RESULT
        assert types(await frames(await desk.follow(second)))[-1] == RESULT
        assert desk.outlook(third) == (0, None)

    asyncio.run(story())


def test_a_job_that_was_taken_runs_before_its_replica_says_so_and_not_once_it_is_done():
    async def story():
        said, over = asyncio.Event(), asyncio.Event()

        async def slow(job: Work, count: int) -> AsyncGenerator[Answer]:
            await said.wait()
            try:
                async for answer in at_once(job, count):
                    yield answer
            finally:
                await over.wait()  # its slot is not free yet

        desk = board(slow)
        first, second = (desk.submit(ID(number), "alice", work()) for number in (1, 2))
        await asyncio.sleep(0)

        def told() -> tuple[str, ...]:
            page = page_html(desk, {}, "alice")
            numbers = [re.search(rf'<b id="{name}">(\d+)</b>', page)[1] for name in ("running", "waiting")]
            return (*numbers, *re.findall(r"<td>(queued|running|done)</td>", page))

        assert told() == ("1", "1", "running", "queued")
        said.set()
        while first.state != "done":
            await asyncio.sleep(0)
        assert told() == ("0", "1", "done", "queued")
        over.set()
        while second.state != "done":
            await asyncio.sleep(0)
        assert told() == ("0", "0", "done", "done")

    asyncio.run(story())


def test_a_job_is_cancelled_by_its_user_and_by_nobody_else():
    async def story():
        held = Held()
        desk = board(held)
        running, waiting = desk.submit(ID(1), "alice", work(1)), desk.submit(ID(2), "bob", work(2))
        for job, other in ((running, "bob"), (waiting, "alice")):
            with pytest.raises(RefusalError) as refused:
                desk.find(job.id, other)
            assert refused.value.status == 404
        followers = [asyncio.create_task(frames(await desk.follow(job))) for job in (running, waiting)]
        await asyncio.sleep(0.01)
        desk.forget(waiting)
        desk.forget(running)
        for told in await asyncio.gather(*followers):
            assert told[-1].header["code"] == "cancelled"
        assert held.ended == [1]  # the other had not begun
        next_one = desk.submit(ID(3), "carol", work(3))
        held.go.set()
        assert types(await frames(await desk.follow(next_one)))[-1] == RESULT
        assert not desk.knows(running.id)
        assert desk.queue.free == 1
        assert running.work is None

    asyncio.run(story())


def test_a_job_that_is_cancelled_lets_the_next_one_begin():
    async def story():
        held = Held()
        desk = board(held)
        running, waiting = desk.submit(ID(1), "alice", work(1)), desk.submit(ID(2), "bob", work(2))
        await asyncio.sleep(0.01)
        desk.forget(running)
        held.go.set()
        assert types(await frames(await desk.follow(waiting)))[-1] == RESULT

    asyncio.run(story())


def test_what_nobody_comes_for_is_forgotten():
    async def story():
        now = [0.0]
        held = Held()
        desk = Board(held, 1, ServerLimits(keep_seconds=60), clock=lambda: now[0])
        watched, left = desk.submit(ID(1), "alice", work(1)), desk.submit(ID(2), "alice", work(2))
        follower = await desk.follow(watched)
        await anext(follower)
        now[0] = 61.0
        desk.clear(lambda user: True)
        assert desk.knows(watched.id)
        assert not desk.knows(left.id)
        await follower.aclose()
        now[0] = 120.0
        desk.clear(lambda user: True)
        assert desk.knows(watched.id)
        now[0] = 122.0
        desk.clear(lambda user: True)
        assert not desk.knows(watched.id)
        await asyncio.sleep(0.01)
        assert held.ended == [1]
        await desk.close()

    asyncio.run(story())


def test_a_client_that_is_gone_before_its_stream_begins_keeps_nothing():
    async def story():
        now = [0.0]
        desk = Board(at_once, 1, ServerLimits(keep_seconds=60, jobs_per_user=2), clock=lambda: now[0])
        for number in (1, 2):
            await desk.follow(desk.submit(ID(number), "alice", work(number)))  # whose stream nobody reads
        await asyncio.sleep(0.01)
        desk.check_room("alice")
        assert [job.id for job in desk.jobs_of("alice")] == [ID(2)]
        now[0] = 59.0
        desk.clear(lambda user: True)
        assert desk.knows(ID(2))
        now[0] = 61.0
        desk.clear(lambda user: True)
        assert not desk.knows(ID(2))

    asyncio.run(story())


def test_jobs_of_a_user_who_is_not_known_any_more_are_cancelled():
    async def story():
        held = Held()
        desk = board(held, slots=2)
        jobs = [desk.submit(ID(1), "alice", work(1)), desk.submit(ID(2), "bob", work(2))]
        await asyncio.sleep(0.01)
        desk.clear(lambda user: user == "bob")
        await asyncio.sleep(0.01)
        assert [desk.knows(job.id) for job in jobs] == [False, True]
        assert held.ended == [1]
        await desk.close()
        assert sorted(held.ended) == [1, 2]

    asyncio.run(story())


def test_a_slow_reader_holds_nobody_up():
    async def story():
        desk = board(at_once)
        slow = desk.submit(ID(1), "slow", work(1))
        reader = await desk.follow(slow)
        await anext(reader)  # and reads no further
        for number in range(2, 6):
            job = desk.submit(ID(number), "quick", work(number))
            assert types(await frames(await desk.follow(job)))[-1] == RESULT
        assert slow.state == "done"
        assert slow.work is None  # the upload is gone, however long the result takes to be fetched

    asyncio.run(story())


def test_a_user_has_so_many_jobs_and_followers_at_most():
    async def story():
        desk = board(Held(), jobs_per_user=2, jobs=3, streams_per_job=1)
        job = desk.submit(ID(1), "alice", work())
        desk.check_room("alice")
        follower = await desk.follow(job)
        await anext(follower)
        for refused, call in ((429, desk.follow(job)), (None, None)):
            if call:
                with pytest.raises(RefusalError) as error:
                    await call
                assert error.value.status == refused
        await follower.aclose()
        desk.submit(ID(2), "alice", work())
        with pytest.raises(RefusalError) as error:
            desk.check_room("alice")
        assert error.value.status == 429
        desk.check_room("bob")
        desk.submit(ID(3), "bob", work())
        with pytest.raises(RefusalError) as error:
            desk.check_room("bob")
        assert error.value.status == 503
        await desk.close()

    asyncio.run(story())


def test_results_that_are_not_fetched_do_not_pile_up():
    async def story():
        desk = board(at_once, jobs_per_user=2)
        for number in range(1, 6):
            desk.check_room("alice")
            job = desk.submit(ID(number), "alice", work(number))
            await frames(await desk.follow(job))
        assert [job.id for job in desk.jobs_of("alice")] == [ID(4), ID(5)]

    asyncio.run(story())

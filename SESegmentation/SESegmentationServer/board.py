"""The jobs of a server from the upload to the fetched result, and the clients that follow them.

It knows neither HTTP nor Ray: jobs are done by a function that it is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from SESegmentationLib.errors import CancelledError, SegmentationError, ServerError
from SESegmentationLib.worker.messages import ACCEPTED, FAILURE, HEARTBEAT, PROGRESS, QUEUED, RESTARTED, RESULT, failure

from .frames import Work, pieces_of
from .refusals import full, unknown_job
from .schedule import FairQueue, Ticket
from .settings import ServerLimits

BEAT_SECONDS = 1.0
#: interval in s at which waiting clients get their position, even if nothing has changed
QUEUED_SECONDS = 2.0
#: events of which a client that reconnects needs only the last
_PASSING = (QUEUED, PROGRESS)
_log = logging.getLogger(__name__)
Answer = tuple[dict[str, Any], list[np.ndarray]]
#: runs a job, given the number of jobs at once; yields the worker's messages about it
RunWork = Callable[[Work, int], AsyncGenerator[Answer]]


class ReplicaLostError(Exception):
    """The replica that ran a job is gone."""


@dataclass(eq=False)
class ServerJob:
    """A job of a user.

    Attributes:
        id: by which its user knows it; a UUID.
        ticket: its place in the queue, whose user is the job's.
        work: what to do; None when that is done.
        number: by which the client counts it.
        kind: of job.
        state: "queued", "running" or "done".
        events: what was sent about it, with consecutive numbers; of progress and position, the last only.
        streams: how many clients follow it.
    """

    id: str
    ticket: Ticket
    work: Work | None
    number: int
    kind: str
    model: str
    state: str = QUEUED
    events: list[tuple[int, dict[str, Any], list[np.ndarray]]] = field(default_factory=list)
    count: int = 0
    streams: int = 0
    left: float = 0.0
    moved: float = 0.0
    reported: tuple[float, int] = (0.0, 0)
    task: asyncio.Task | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def user(self) -> str:
        """Whose it is."""
        return self.ticket.user


class Board:
    """Keeps jobs; all in one thread, that of its event loop.

    Args:
        segment: does a job.
        slots: of all replicas.
        limits: how much is taken.
        slots_of: how many of them a job needs.
        clock: tells the time in s.
    """

    def __init__(
        self,
        segment: RunWork,
        slots: int,
        limits: ServerLimits,
        slots_of: Callable[[Work], int] = lambda work: 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.queue = FairQueue(slots, clock=clock)
        self.limits = limits
        self.finished: dict[str, int] = {}  # jobs by how they ended
        self.lost = 0  # replicas, each in a job
        self._segment = segment
        self._slots_of = slots_of
        self._clock = clock
        self._jobs: dict[str, ServerJob] = {}
        self._by_ticket: dict[Ticket, ServerJob] = {}
        self._tasks: set[asyncio.Task] = set()
        self._closed = False

    @property
    def users(self) -> int:
        """How many users have jobs."""
        return len({job.user for job in self._jobs.values()})

    def check_room(self, user: str, uploads: int = 0, all_uploads: int = 0) -> None:
        """Raise RefusalError if this user, or all users together, have reached the limit of jobs.

        Args:
            user: who asks.
            uploads: of this user that are under way.
            all_uploads: of all users.
        """
        own, all_jobs = self.jobs_of(user), self._jobs.values()
        done = [job for job in own if job.state == "done" and not job.streams]
        for job in done[: max(0, len(done) + 1 - self.limits.jobs_per_user)]:  # the client had time to fetch it
            self.forget(job)
        if sum(job.state != "done" for job in all_jobs) + all_uploads >= self.limits.jobs:
            raise full("The server has reached its limit of jobs.")
        if sum(job.state != "done" for job in own) + uploads >= self.limits.jobs_per_user:
            raise full("You have reached the limit of jobs that the server takes per user.", status=429)

    def find(self, identity: str, user: str) -> ServerJob:
        """The job of that user; RefusalError where there is none."""
        job = self._jobs.get(identity)
        if job is None or job.user != user:
            raise unknown_job()
        return job

    def knows(self, identity: str) -> bool:
        """Whether there is such a job, whosever it is."""
        return identity in self._jobs

    def jobs_of(self, user: str) -> list[ServerJob]:
        """All jobs of a user, the oldest first."""
        return [job for job in self._jobs.values() if job.user == user]

    def submit(self, identity: str, user: str, work: Work) -> ServerJob:
        """Queue a job."""
        ticket = Ticket(user, self._slots_of(work), (work.kind, work.model), work.megavoxels)
        job = ServerJob(identity, ticket, work, work.number, work.kind, work.model)
        job.left = job.moved = self._clock()
        self._jobs[identity] = self._by_ticket[ticket] = job
        self.queue.add(ticket)
        self._advance()
        self._tell_waiting()
        return job

    def forget(self, job: ServerJob) -> None:
        """Cancel a job if it runs, and keep nothing of it."""
        if self._jobs.pop(job.id, None) is None:
            return
        del self._by_ticket[job.ticket]
        if job.task:
            job.task.cancel()
        else:
            self.queue.leave(job.ticket)
        if job.state != "done":
            self._end(job, failure(job.number, CancelledError("Cancelled.", "Segment again when you like."), False))
        job.work = None
        self._advance()

    def state_of(self, job: ServerJob) -> str:
        """Its state as the queue has it: a job that was taken out of it runs, also before what runs it has said so."""
        return "running" if job.state == QUEUED and self.queue.runs(job.ticket) else job.state

    @property
    def running(self) -> int:
        """How many jobs run; a finished job does not count, though its slot may not be free yet."""
        return sum(self.state_of(job) == "running" for job in self._jobs.values())

    def outlook(self, job: ServerJob) -> tuple[int, float | None]:
        """Position of a waiting job, 1 for the next, or 0 of a running one; and the seconds until its result."""
        return self.queue.outlook().get(job.ticket, (0, self.queue.seconds_left(job.ticket)))

    async def follow(self, job: ServerJob, after: int = -1) -> AsyncIterator[bytes]:
        """The events of a job that follow number ``after``, as pieces of frames, until its end."""
        if job.streams >= self.limits.streams_per_job:
            raise full("Too many clients follow this job.", status=429)
        job.left = self._clock()  # time for the stream to begin
        return self._follow(job, after)

    async def _follow(self, job: ServerJob, after: int) -> AsyncIterator[bytes]:
        beat = self._clock() + BEAT_SECONDS
        job.streams += 1  # only now: of a client that is gone by then, this is never begun, nor ended
        try:
            while True:
                changed = job.changed
                news = [event for event in job.events if event[0] > after]
                for piece in pieces_of(*((header, arrays) for _, header, arrays in news)):
                    yield piece
                if job.state == "done" and job.changed is changed:
                    return
                if news:
                    after = news[-1][0]
                    continue
                try:
                    async with asyncio.timeout(max(0.0, beat - self._clock())):
                        await changed.wait()
                except TimeoutError:
                    beat = self._clock() + BEAT_SECONDS
                    stalled = self._clock() - job.moved if job.state == "running" else 0.0
                    for piece in pieces_of(({"type": HEARTBEAT, "stalled": stalled}, [])):
                        yield piece
        finally:
            job.streams -= 1
            job.left = self._clock()

    async def watch(self, known: Callable[[str], bool] = lambda user: True) -> None:
        """Send waiting clients their positions, and forget jobs that nobody fetches; runs for ever.

        Args:
            known: whether there still is a user of that name.
        """
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            self.clear(known)
            self._tell_waiting()

    def clear(self, known: Callable[[str], bool]) -> None:
        """Forget jobs that nobody has followed for ``keep_seconds``, and those of users who are no longer known."""
        users = {user: known(user) for user in {job.user for job in self._jobs.values()}}
        for job in list(self._jobs.values()):
            left = not job.streams and self._clock() - job.left > self.limits.keep_seconds
            if left or not users[job.user]:
                self.forget(job)

    async def close(self) -> None:
        """Forget all jobs, and start no more."""
        self._closed = True
        for job in list(self._jobs.values()):
            self.forget(job)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _advance(self) -> None:
        while not self._closed and (ticket := self.queue.take()):
            job = self._by_ticket[ticket]
            # not in the context of the request that happens to be answered: with that, Serve would cancel the job
            job.task = asyncio.create_task(self._run(job), context=contextvars.Context())
            self._tasks.add(job.task)
            job.task.add_done_callback(self._tasks.discard)

    def _tell_waiting(self) -> None:
        now = self._clock()
        for ticket, (position, seconds) in self.queue.outlook().items():
            job = self._by_ticket[ticket]
            reported, before = job.reported
            if position != before or now - reported >= QUEUED_SECONDS:
                job.reported = now, position
                self._publish(job, {"type": QUEUED, "position": position, "seconds_left": seconds})

    async def _run(self, job: ServerJob) -> None:
        """Run a job, again if its replica is lost; it always ends in a result or a failure."""
        began = self._clock()
        try:
            async with asyncio.timeout(self.limits.job_seconds):
                await self._try(job)
        except TimeoutError:
            self._fail(
                job,
                ServerError(
                    f"The job took longer than the {self.limits.job_seconds:.0f} s that the server gives to one.",
                    "Segment a region of interest, or on this computer.",
                ),
            )
        except SegmentationError as error:
            self._fail(job, error)
        except asyncio.CancelledError:
            if job.id in self._jobs:  # by nobody here
                self._fail(job, ServerError("The server ended this job.", "Segment again."))
            raise
        except Exception as error:  # its text may quote the volume: it is not for the log
            _log.error("%s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
            self._fail(
                job,
                ServerError("The server failed.", "Segment again; if it fails again, tell the owner of the server."),
            )
        finally:
            job.work = None
            self.queue.leave(job.ticket)
            if job.events and job.events[-1][1]["type"] == RESULT:
                self.queue.estimates.learn(job.ticket, self._clock() - began)
            if not self._closed:
                self._advance()
                self._tell_waiting()

    async def _try(self, job: ServerJob) -> None:
        for lost in range(self.limits.retries + 1):
            work = job.work
            if work is None:
                return
            if lost:
                self._publish(job, {"type": PROGRESS, "phase": RESTARTED, "fraction": 0.0, "seconds_left": None})
            try:
                async with contextlib.aclosing(self._segment(work, len(self.queue) + self.queue.running)) as answers:
                    async for header, arrays in answers:
                        self._take(job, header, arrays)
                        if job.state == "done":
                            return
            except ReplicaLostError:
                self.lost += 1
                continue
            break
        raise ServerError(
            "The server lost the process of this job at each try." if lost else "The server ended this job.",
            "Segment again; if it fails again, memory may be short: segment a region of interest, or tell its owner.",
        )

    def _take(self, job: ServerJob, header: dict[str, Any], arrays: list[np.ndarray]) -> None:
        kind = header["type"]
        job.moved = self._clock()
        if kind in (RESULT, FAILURE):
            self._end(job, header, arrays)
            return
        if kind == ACCEPTED:
            if job.state == "running":  # begun again: its start was reported
                return
            job.state = "running"
        elif kind == PROGRESS:
            self.queue.progress(job.ticket, header.get("seconds_left"))
        self._publish(job, header)

    def _fail(self, job: ServerJob, error: SegmentationError) -> None:
        self._end(job, failure(job.number, error, ends=False))

    def _end(self, job: ServerJob, header: dict[str, Any], arrays: list[np.ndarray] | None = None) -> None:
        if job.state == "done":
            return
        job.state = "done"
        outcome = header["code"] if header["type"] == FAILURE else "done"
        self.finished[outcome] = self.finished.get(outcome, 0) + 1
        self._publish(job, header, arrays)

    def _publish(self, job: ServerJob, header: dict[str, Any], arrays: list[np.ndarray] | None = None) -> None:
        if header["type"] in _PASSING:
            job.events = [event for event in job.events if event[1]["type"] not in _PASSING]
        job.events.append((job.count, {**header, "job": job.number, "event": job.count}, arrays or []))
        job.count += 1
        job.changed.set()
        job.changed = asyncio.Event()

"""Whose job is next, and how long it will take: users take turns, and times are estimated from finished jobs."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, zip_longest


@dataclass(eq=False)
class Ticket:
    """A place in the queue.

    Attributes:
        user: whose.
        slots: that the job needs while it runs.
        kind: jobs of one kind take the same time per voxel, for example ("segment", "brain-mr").
        megavoxels: of the volume on the model's grid, in millions.
    """

    user: str
    slots: int = 1
    kind: tuple[str, ...] = ()
    megavoxels: float = 1.0


class Estimates:
    """How long jobs of a kind take, estimated from finished ones.

    Args:
        memory: weight of a new measurement in the running mean, 0 to 1.
    """

    def __init__(self, memory: float = 0.3) -> None:
        self._memory = memory
        self.rates: dict[tuple[str, ...], float] = {}  # s for a million voxels

    def learn(self, ticket: Ticket, seconds: float) -> None:
        """A job took so many seconds."""
        rate = seconds / max(ticket.megavoxels, 1e-3)
        before = self.rates.get(ticket.kind, rate)
        self.rates[ticket.kind] = before + self._memory * (rate - before)

    def seconds(self, ticket: Ticket) -> float | None:
        """What a job will take, in s; None where none of its kind was measured."""
        rate = self.rates.get(ticket.kind)
        return None if rate is None else rate * max(ticket.megavoxels, 1e-3)


class FairQueue:
    """Users take turns, each with their oldest job; a job starts when its turn has come and its slots are free.

    A large job waits for its slots and is not overtaken meanwhile: small jobs could delay it for ever.

    Args:
        slots: that all replicas have together.
        estimates: of what jobs take.
        clock: tells the time in s.
    """

    def __init__(
        self, slots: int, estimates: Estimates | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.slots = slots
        self.estimates = estimates or Estimates()
        self._clock = clock
        self._waiting: dict[str, deque[Ticket]] = {}
        self._count = count(1)
        self._turns: dict[str, int] = {}  # the last one of each user
        self._ends: dict[Ticket, float | None] = {}  # of those that run, by the clock

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def running(self) -> int:
        """How many jobs run."""
        return len(self._ends)

    def runs(self, ticket: Ticket) -> bool:
        """Whether it was taken and has not left."""
        return ticket in self._ends

    @property
    def free(self) -> int:
        """Slots that nobody uses."""
        return self.slots - sum(min(ticket.slots, self.slots) for ticket in self._ends)

    def add(self, ticket: Ticket) -> None:
        """Let it wait."""
        self._waiting.setdefault(ticket.user, deque()).append(ticket)

    def take(self) -> Ticket | None:
        """The next one that can start, which runs from now on; None where none can."""
        if not self._waiting:
            return None
        ticket = self._waiting[self._users()[0]][0]
        if min(ticket.slots, self.slots) > self.free:
            return None
        self._remove(ticket)
        self._turns[ticket.user] = next(self._count)
        self._ends[ticket] = None
        self.progress(ticket, self.estimates.seconds(ticket))
        return ticket

    def progress(self, ticket: Ticket, seconds_left: float | None) -> None:
        """Record the time left that a running job reports, in s."""
        if ticket in self._ends and seconds_left is not None:
            self._ends[ticket] = self._clock() + seconds_left

    def seconds_left(self, ticket: Ticket) -> float | None:
        """Of a job that runs, in s; None where it is unknown, and of others."""
        end = self._ends.get(ticket)
        return None if end is None else max(0.0, end - self._clock())

    def leave(self, ticket: Ticket) -> None:
        """It runs no more, or waits no more."""
        if ticket in self._ends:
            del self._ends[ticket]
        elif ticket in self._waiting.get(ticket.user, ()):
            self._remove(ticket)
        if not self._ends and not self._waiting:
            self._turns.clear()

    def order(self) -> list[Ticket]:
        """Those that wait, as they will be taken."""
        rounds = zip_longest(*(self._waiting[user] for user in self._users()))
        return [ticket for turn in rounds for ticket in turn if ticket is not None]

    def outlook(self) -> dict[Ticket, tuple[int, float | None]]:
        """Of each that waits its position, 1 for the next, and the seconds until it will be done, None if unknown."""
        order = self.order()
        outlook: dict[Ticket, tuple[int, float | None]] = {}
        for position, (ticket, begin) in enumerate(zip(order, self._start_times(order), strict=True), 1):
            seconds = self.estimates.seconds(ticket)
            outlook[ticket] = position, None if begin is None or seconds is None else begin + seconds
        return outlook

    def seconds_until_free(self) -> float | None:
        """Seconds until a small job that is queued now would start; None if unknown."""
        return self._start_times([*self.order(), Ticket("")])[-1]

    def _start_times(self, order: list[Ticket]) -> list[float | None]:
        """When each of ``order`` begins, in s from now; None where something before it is of unknown length."""
        free_at: list[float] = [0.0] * self.free
        known, now = True, self._clock()
        for ticket, end in self._ends.items():
            known = known and end is not None
            free_at += [max(0.0, (end or now) - now)] * min(ticket.slots, self.slots)
        heapq.heapify(free_at)
        begins: list[float | None] = []
        for ticket in order:
            slots = min(ticket.slots, self.slots)
            begin = [heapq.heappop(free_at) for _ in range(slots)][-1]
            begins.append(begin if known else None)
            seconds = self.estimates.seconds(ticket)
            known = known and seconds is not None
            for _ in range(slots):
                heapq.heappush(free_at, begin + (seconds or 0.0))
        return begins

    def _users(self) -> list[str]:
        """Who waits; those first who have had no turn, or had it the longest ago."""
        return sorted(self._waiting, key=lambda user: self._turns.get(user, 0))

    def _remove(self, ticket: Ticket) -> None:
        own = self._waiting[ticket.user]
        own.remove(ticket)
        if not own:
            del self._waiting[ticket.user]

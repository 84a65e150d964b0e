"""Users take turns; positions and times are those that come true."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from SESegmentationServer.schedule import Estimates, FairQueue, Ticket

JOBS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([1, 1, 1, 4])), max_size=20)


def test_one_user_with_many_jobs_does_not_keep_another_waiting():
    queue = FairQueue(1)
    many, one = [Ticket("busy") for _ in range(10)], Ticket("other")
    for ticket in (*many, one):
        queue.add(ticket)
    assert queue.take() is many[0]
    assert queue.outlook()[one][0] == 1
    queue.leave(many[0])
    assert queue.take() is one
    queue.leave(one)
    assert queue.take() is many[1]


def test_who_has_a_job_running_comes_after_who_has_none():
    queue = FairQueue(1)
    running, second, other = Ticket("busy"), Ticket("busy"), Ticket("other")
    queue.add(running)
    assert queue.take() is running
    queue.add(second)
    queue.add(other)
    assert queue.order() == [other, second]


def test_a_large_job_is_not_overtaken_while_it_waits_for_its_slots():
    queue = FairQueue(2)
    running, large, small = Ticket("a"), Ticket("b", slots=2), Ticket("c")
    for ticket in (running, large, small):
        queue.add(ticket)
    assert queue.take() is running
    assert queue.take() is None
    queue.leave(running)
    assert queue.take() is large
    assert queue.take() is None


def test_one_that_needs_more_slots_than_there_are_gets_all():
    queue = FairQueue(2)
    queue.add(Ticket("a", slots=8))
    assert queue.take() is not None
    assert queue.free == 0


@given(JOBS)
def test_jobs_are_taken_in_the_order_that_was_told(jobs):
    queue = FairQueue(2)
    tickets = [Ticket(user, slots) for user, slots in jobs]
    for ticket in tickets:
        queue.add(ticket)
    told = queue.order()
    taken = []
    while len(queue):
        ticket = queue.take()
        if ticket is None:
            queue.leave(next(one for one in taken if one in queue._ends))
        else:
            taken.append(ticket)
            assert queue.free >= 0
    assert taken == told
    assert sorted(map(id, taken)) == sorted(map(id, tickets))
    for user in "abc":  # each user's own in the order in which they came
        assert [one for one in taken if one.user == user] == [one for one in tickets if one.user == user]
    owed = {user: [index for index, one in enumerate(taken) if one.user == user] for user in "abc"}
    for user, turns in owed.items():  # nobody has two turns between two of somebody who waits
        for before, after in zip(turns, turns[1:], strict=False):
            between = [one.user for one in taken[before + 1 : after]]
            assert all(between.count(other) <= 1 for other in between), (user, between)


@given(JOBS, st.data())
def test_times_that_are_told_come_true(jobs, data):
    now = [0.0]
    queue = FairQueue(4, Estimates(), clock=lambda: now[0])
    takes = {user: float(data.draw(st.integers(1, 9))) for user in "abc"}
    for user, seconds in takes.items():
        queue.estimates.learn(Ticket(user, kind=(user,)), seconds)
    tickets = [Ticket(user, slots, (user,)) for user, slots in jobs]
    for ticket in tickets:
        queue.add(ticket)
    told = {ticket: seconds for ticket, (_, seconds) in queue.outlook().items()}
    ends: dict[Ticket, float] = {}
    running: dict[Ticket, float] = {}
    while len(queue) or running:
        while ticket := queue.take():
            running[ticket] = now[0] + takes[ticket.user]
        first = min(running, key=running.__getitem__)
        now[0] = ends[first] = running.pop(first)
        queue.leave(first)
    assert all(told[ticket] == ends[ticket] for ticket in tickets)


def test_nothing_is_told_of_times_that_nobody_knows():
    queue = FairQueue(1)
    known, unknown = Ticket("a", kind=("known",)), Ticket("b", kind=("unknown",))
    queue.estimates.learn(known, 4.0)
    assert queue.seconds_until_free() == 0.0
    queue.add(unknown)
    queue.add(known)
    assert queue.outlook() == {unknown: (1, None), known: (2, None)}
    queue.take()
    assert queue.outlook() == {known: (1, None)}
    queue.progress(unknown, 3.0)
    position, seconds = queue.outlook()[known]
    assert position == 1
    assert seconds is not None
    assert 6.5 < seconds <= 7.0

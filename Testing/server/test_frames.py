"""What comes over the network is one whole frame with a job in it, or is refused with a cause: nothing in between."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import os
from collections.abc import AsyncIterator
from random import Random

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from json_places import holder, places
from serving import body_of, job_header
from SESegmentationLib.models import list_models
from SESegmentationLib.result import SegmentOptions
from SESegmentationLib.worker.jobs import JOBS, AttentionJob, RefineJob, SegmentJob, WarmUpJob
from SESegmentationLib.worker.messages import LENGTH, MAGIC, Frame
from SESegmentationServer import upload_memory
from SESegmentationServer.frames import pieces_of, read_work, receive_frame
from SESegmentationServer.refusals import RefusalError
from SESegmentationServer.settings import ServerLimits
from SESegmentationServer.upload_memory import UploadMemory

CARDS = {package.card.name: package.card for package in list_models()}
LIMITS = ServerLimits(upload_bytes=4096, header_bytes=4096, silence_seconds=5.0)
EXAMPLES = int(os.environ.get("FUZZ_MUTATIONS", "10000"))
IMAGE = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
LABELS = sitk.Cast(IMAGE > 30, sitk.sitkUInt8)
ROI = SegmentOptions(roi=LABELS, doubt=True, grid="model")
SENT = [
    SegmentJob(IMAGE, "hippocampus-t1"),
    SegmentJob(IMAGE, "brain-mr", ROI, adapted=b"\x00" * 20),
    AttentionJob(IMAGE, "abdomen-mr", ROI),
    RefineJob(IMAGE, LABELS, ("k:1",), "hippocampus-t1", ROI, recalibrate=True),
    RefineJob(IMAGE, LABELS, None, "hippocampus-t1"),
    WarmUpJob("brain-mr"),
]
BODIES = [body_of(job) for job in SENT]
loop = asyncio.new_event_loop()


async def chunks_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def read(*chunks: bytes, limits: ServerLimits = LIMITS):
    memory = UploadMemory(limits.spare_gigabytes)
    return read_work(loop.run_until_complete(receive_frame(chunks_of(*chunks), limits, memory)), CARDS)


def refusal(*chunks: bytes) -> RefusalError:
    with pytest.raises(RefusalError) as refused:
        read(*chunks)
    assert refused.value.error.cause
    return refused.value


@pytest.mark.parametrize("number", range(len(SENT)))
def test_a_job_comes_as_it_was_sent_however_it_is_cut(number):
    body, job = BODIES[number], SENT[number]
    for size in (1, 7, len(body)):
        work = read(*(body[begin : begin + size] for begin in range(0, len(body), size)))
        assert (work.kind, work.model, work.number) == (job.kind, job.model, 1)
        assert JOBS[work.kind].unpack(work.value, work.arrays).pack()[0] == job.pack()[0]
        assert [array.tobytes() for array in work.arrays] == [array.tobytes() for array in job.pack()[1]]


def test_what_does_not_concern_the_worker_is_dropped():
    image = sitk.Image(IMAGE)
    header, arrays = job_header(SegmentJob(image, "brain-mr"))
    header["value"]["images"]["image"]["metadata"] = {"qform_code": "1", "PatientName": "Doe"}
    work = read_work(Frame(header, arrays), CARDS)
    assert work.value["images"]["image"]["metadata"] == {"qform_code": "1"}


def test_the_size_on_the_models_grid_counts_millimetres():
    image = sitk.Image([100, 100, 50], sitk.sitkUInt8)
    image.SetSpacing([1.0, 1.0, 2.0])
    header, arrays = job_header(SegmentJob(image, "hippocampus-t1"))
    assert read_work(Frame(header, arrays), CARDS).megavoxels == pytest.approx(
        1.0 / np.prod(CARDS["hippocampus-t1"].spacing)
    )


@pytest.mark.parametrize(
    "model", ["no-such", "weights/brain-mr", "/", "../weights/brain-mr", "", "brain-mr/", str(list_models()[0].path)]
)
def test_a_model_is_one_of_those_that_are_here_and_never_a_path(model):
    body = body_of(SegmentJob(IMAGE, model))
    refused = refusal(body)
    assert refused.status == 422
    assert refused.error.code == "model"


def test_another_version_is_told_which_side_is_older():
    for changes, words in (
        ({"protocol": 1}, "older than the server"),
        ({"protocol": 99}, "newer than the server"),
        ({"version": "0.0.9"}, "(0.0.9) is older than the server"),
        ({"version": "99.0.0"}, "(99.0.0) is newer than the server"),
        ({"version": "\x1b[31m.<b>"}, "than the server"),
    ):
        refused = refusal(body_of(SENT[0], **changes))
        assert refused.status == 409
        assert refused.error.code == "server"
        assert words in refused.error.cause
        assert refused.error.remedy
        assert "\x1b" not in refused.error.cause
    assert read(body_of(SENT[0], version=f"{job_header(SENT[0])[0]['version'].rsplit('.', 1)[0]}.99"))
    refused = refusal(body_of(SENT[0], model_version="9.9"))
    assert (refused.status, refused.error.code) == (409, "model")
    assert "9.9" in refused.error.cause
    assert CARDS["hippocampus-t1"].version in refused.error.cause
    assert read(body_of(SENT[0], model_version=CARDS["hippocampus-t1"].version))


def test_what_is_too_large_is_refused_before_memory_is_taken_for_it():
    text = {"header": {}, "arrays": [{"dtype": "<f8", "shape": [1 << 13, 1 << 10, 1 << 10]}]}
    for large in (
        text,
        {"header": {}, "arrays": [{"dtype": "|u1", "shape": [4097]}]},
        {"header": {}, "arrays": [{"dtype": "|u1", "shape": [2049]}] * 2},
        {"header": {}, "arrays": [{"dtype": "|u1", "shape": [1 << 62, 1 << 62]}]},
    ):
        encoded = json.dumps(large).encode()
        assert refusal(MAGIC + LENGTH.pack(len(encoded)) + encoded).status == 413
    assert refusal(MAGIC + LENGTH.pack(1 << 31)).status == 413


def test_where_memory_is_short_nothing_is_taken(monkeypatch):
    monkeypatch.setattr(upload_memory, "available_gigabytes", lambda: 0.1)
    refused = refusal(BODIES[0])
    assert refused.status == 507
    assert int(refused.headers["Retry-After"]) > 0
    monkeypatch.setattr(upload_memory, "available_gigabytes", lambda: None)
    assert read(BODIES[0])


def test_memory_is_promised_once_to_uploads_that_arrive_at_once(monkeypatch):
    """The system counts it as taken only when it is written to: each by itself would find it free."""
    monkeypatch.setattr(upload_memory, "available_gigabytes", lambda: 4e-6)  # 4 kB: enough for one of 1.2 kB
    body = body_of(SegmentJob(sitk.GetImageFromArray(np.zeros((6, 10, 10), np.int16)), "hippocampus-t1"))
    memory = UploadMemory(0.0)

    async def halting(goes_on: asyncio.Event, fails: bool = False) -> AsyncIterator[bytes]:
        yield body[:-100]
        await goes_on.wait()
        yield b"" if fails else body[-100:]

    async def story():
        for fails in (True, False):  # a lost upload gives it back too
            goes_on = asyncio.Event()
            first = asyncio.create_task(receive_frame(halting(goes_on, fails), LIMITS, memory))
            await asyncio.sleep(0.01)
            for refused in (receive_frame(chunks_of(body), LIMITS, memory), None):
                with pytest.raises(RefusalError) as second:
                    await refused if refused else memory.check(1200)
                assert second.value.status == 507
            goes_on.set()
            (ended,) = await asyncio.gather(first, return_exceptions=True)
            assert isinstance(ended, RefusalError if fails else Frame)
        assert (await receive_frame(chunks_of(body), LIMITS, memory)).arrays

    loop.run_until_complete(story())


@pytest.mark.parametrize("arrived", [0, 1, 600, 1199])
@pytest.mark.parametrize("room", [7100, 7300])
def test_memory_that_an_upload_has_taken_is_not_promised_to_it_as_well(monkeypatch, room, arrived):
    """There is room for two of 3 x 1200 bytes or not, however much of the first has arrived."""
    body = body_of(SegmentJob(sitk.GetImageFromArray(np.zeros((6, 10, 10), np.int16)), "hippocampus-t1"))
    monkeypatch.setattr(upload_memory, "available_gigabytes", lambda: (room - arrived) / 1e9)
    memory, goes_on = UploadMemory(0.0), asyncio.Event()

    async def halting() -> AsyncIterator[bytes]:
        begin = len(body) - 1200 + arrived
        yield body[:begin]
        await goes_on.wait()
        yield body[begin:]

    async def story():
        first = asyncio.create_task(receive_frame(halting(), LIMITS, memory))
        await asyncio.sleep(0.01)
        with contextlib.nullcontext() if room > 7200 else pytest.raises(RefusalError):
            memory.check(1200)
        goes_on.set()
        await first
        memory.check((room - arrived) // 3)  # nothing is promised any more
        with pytest.raises(RefusalError):
            memory.check(room)

    loop.run_until_complete(story())


def test_an_upload_that_stops_is_refused_in_time():
    async def stopping() -> AsyncIterator[bytes]:
        yield BODIES[0][:50]
        await asyncio.sleep(60)

    for limits in (ServerLimits(silence_seconds=0.01), ServerLimits(upload_seconds=0.01)):
        with pytest.raises(RefusalError) as refused:
            loop.run_until_complete(receive_frame(stopping(), limits, UploadMemory(0.0)))
        assert refused.value.status == 408
        assert "part of the volume" in refused.value.error.remedy  # what is slow stays slow


#: each example is a number from which everything else is drawn: to draw it piece by piece takes five times as long
SEEDS = st.integers(0, 2**32 - 1)


def _anything(random: Random, depth: int = 3) -> object:
    """Some JSON."""
    kinds = ["null", "flag", "whole", "number", "text", *["list", "object"] * (depth > 0)]
    match random.choice(kinds):
        case "flag":
            return random.random() < 0.5
        case "whole":
            return random.choice([0, 1, -1, 2, 255, 1 << 31, -(1 << 63), 10**30, random.randint(-300, 300)])
        case "number":
            return random.choice([0.5, -0.0, 1e-300, 1e308, random.uniform(-9, 9)])
        case "text":
            return _text(random)
        case "list":
            return [_anything(random, depth - 1) for _ in range(random.randint(0, 3))]
        case "object":
            return {_text(random): _anything(random, depth - 1) for _ in range(random.randint(0, 3))}
    return None


def _text(random: Random) -> str:
    return "".join(random.choices("a1 /.\x00\n\ud800\u202eé", k=random.randint(0, 5)))


TEXTS = [json.loads(body[len(MAGIC) + LENGTH.size :][: LENGTH.unpack_from(body, len(MAGIC))[0]]) for body in BODIES]
PLACES = [places(text)[1:] for text in TEXTS]


@settings(max_examples=EXAMPLES // 2, deadline=None)
@given(SEEDS)
def test_damaged_bytes_are_refused_and_nothing_else_happens(seed):
    random = Random(seed)
    body = bytearray(random.choice(BODIES))
    for _ in range(random.randint(1, 4)):
        at, length = random.randint(0, len(body)), random.choice([0, 1, 1, 2, 40])
        body[at : at + length] = random.randbytes(random.randint(0, 4))
    cut = random.randint(0, len(body))
    try:
        work = read(bytes(body[:cut]), bytes(body[cut:]))
    except RefusalError as refused:
        assert refused.status in (409, 413, 422)
        return
    assert work.model in CARDS  # only numbers had changed


@settings(max_examples=EXAMPLES // 2, deadline=None)
@given(SEEDS)
def test_a_frame_with_something_else_in_it_is_refused_or_can_be_unpacked(seed):
    random = Random(seed)
    number = random.randrange(len(TEXTS))
    text = copy.deepcopy(TEXTS[number])
    path = random.choice(PLACES[number])
    place = holder(text, path)
    if random.random() < 0.5 or isinstance(place, list):
        place[path[-1]] = _anything(random)
    else:
        del place[path[-1]]
    encoded = json.dumps(text).encode()
    arrays = b"".join(array.tobytes() for array in SENT[number].pack()[1])
    try:
        work = read(MAGIC + LENGTH.pack(len(encoded)) + encoded + arrays)
    except RefusalError as refused:
        assert refused.status in (409, 413, 422)
        return
    try:
        JOBS[work.kind].unpack(work.value, work.arrays)
    except RuntimeError as error:  # SimpleITK's of a direction that is none; the replica tells it as an InputError
        assert "irection" in str(error)  # noqa: PT017


def test_a_frame_in_pieces_is_the_frame():
    assert b"".join(pieces_of(job_header(SENT[1]))) == BODIES[1]

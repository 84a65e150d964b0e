"""Frames over real pipes: what goes in comes out, what is no frame is refused, arrays cross without copies."""

from __future__ import annotations

import json
import os
import struct
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from SESegmentationLib.worker import messages as frames
from SESegmentationLib.worker.messages import DTYPES, MAGIC, Frame, FrameError, read_frame, write_frame

ARRAYS = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda code: hnp.arrays(code, hnp.array_shapes(min_dims=0, min_side=0))
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
HEADERS = st.dictionaries(st.text(), VALUES, max_size=5)
#: what may come before a frame and cannot be taken for the beginning of one
NOISE = st.binary(max_size=200).filter(lambda noise: MAGIC[0] not in noise)


@contextmanager
def pipe() -> Iterator[tuple[FileIO, FileIO]]:
    """The two ends of a pipe, unbuffered."""
    read, write = os.pipe()
    with open(read, "rb", buffering=0) as reader, open(write, "wb", buffering=0) as writer:
        yield reader, writer


def received(data: bytes, noise: bytearray | None = None) -> list[Frame]:
    """All frames of a stream of ``data`` that then ends."""
    with pipe() as (reader, writer):

        def send() -> None:
            with writer, suppress(BrokenPipeError):
                writer.write(data)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            found = []
            while frame := read_frame(reader, noise):
                found.append(frame)
            return found
        finally:
            reader.close()
            sender.join()


def written(header: dict, *arrays: np.ndarray) -> bytes:
    """The bytes of a frame; arrays must be small enough for a pipe's buffer."""
    with pipe() as (reader, writer):
        write_frame(writer, header, arrays)
        writer.close()
        return reader.read()


def described(content: object, rest: bytes = b"") -> bytes:
    """A frame with any JSON text."""
    text = json.dumps(content).encode()
    return MAGIC + struct.pack("<I", len(text)) + text + rest


@settings(max_examples=30, deadline=None)
@given(sent=st.lists(st.tuples(HEADERS, st.lists(ARRAYS, max_size=3)), min_size=1, max_size=3), noise=NOISE)
def test_what_goes_in_comes_out(sent, noise):
    heard = bytearray()
    got = received(noise + b"".join(written(header, *arrays) for header, arrays in sent), heard)
    assert bytes(heard) == noise
    assert [frame.header for frame in got] == [header for header, _ in sent]
    for frame, (_, arrays) in zip(got, sent, strict=True):
        assert [array.dtype for array in frame.arrays] == [array.dtype for array in arrays]
        for one, other in zip(frame.arrays, arrays, strict=True):
            np.testing.assert_array_equal(one, other)


@settings(max_examples=25, deadline=None)
@given(header=HEADERS, arrays=st.lists(ARRAYS, min_size=1, max_size=2), data=st.data())
def test_a_stream_that_ends_inside_a_frame(header, arrays, data):
    whole = written(header, *arrays)
    end = data.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(FrameError, match="ended inside"):
        received(whole[:end])


@settings(max_examples=40, deadline=None)
@given(junk=st.binary(min_size=8, max_size=64).filter(lambda junk: not junk.startswith(MAGIC)))
def test_noise_is_an_error_where_it_is_not_expected(junk):
    with pytest.raises(FrameError, match="No frame begins"):
        received(junk)


def test_an_empty_stream_is_no_frame():
    assert received(b"") == []


def test_noise_that_looks_like_the_beginning_of_a_frame():
    heard = bytearray()
    (frame,) = received(MAGIC[:5] + MAGIC[:7] + written({"a": 1}), heard)
    assert frame.header == {"a": 1}
    assert bytes(heard) == MAGIC[:5] + MAGIC[:7]


def test_noise_without_a_frame_is_kept():
    heard = bytearray()
    assert received(b"No such program.\n", heard) == []
    assert heard == b"No such program.\n"


def test_endless_noise_is_refused():
    with pytest.raises(FrameError):
        received(b"x" * (frames.MAXIMUM_NOISE + 100), bytearray())


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.int16).reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::-1],
        np.arange(6, dtype=">i4"),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.broadcast_to(np.float64(3), (2, 2)),
    ],
    ids=["transposed", "strided", "big endian", "Fortran", "broadcast"],
)
def test_arrays_that_do_not_lie_plainly_arrive_plainly(array):
    (frame,) = received(written({}, array))
    (got,) = frame.arrays
    np.testing.assert_array_equal(got, array)
    assert got.flags.c_contiguous
    assert got.flags.writeable
    assert got.dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize(
    "array",
    [np.array([None]), np.array(["text"]), np.zeros(2, complex), np.zeros(2, "i4,f4"), np.zeros(2, "M8[s]")],
    ids=lambda array: array.dtype.str,
)
def test_other_types_are_refused_before_anything_is_written(array):
    with pipe() as (reader, writer):
        with pytest.raises(FrameError, match="cannot be sent"):
            write_frame(writer, {}, [np.zeros(2), array])
        writer.close()
        assert reader.read() == b""


@pytest.mark.parametrize(
    "header", [{"a": float("nan")}, {"a": [float("-inf")]}, {"a": object()}, {"a": np.float32(1)}, {(1, 2): 3}]
)
def test_headers_that_are_no_json_are_refused_before_anything_is_written(header):
    with pipe() as (reader, writer):
        with pytest.raises(FrameError, match="JSON"):
            write_frame(writer, header)
        writer.close()
        assert reader.read() == b""


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        "text",
        {"header": [], "arrays": []},
        {"header": {}, "arrays": 3},
        {"header": {}, "arrays": ["text"]},
        {"header": {}, "arrays": [{"dtype": "<f4"}]},
        {"header": {}, "arrays": [{"dtype": "|O", "shape": [1]}]},
        {"header": {}, "arrays": [{"dtype": ["<f4"], "shape": [1]}]},
        {"header": {}, "arrays": [{"dtype": "<f4", "shape": [-1]}]},
        {"header": {}, "arrays": [{"dtype": "<f4", "shape": [1.5]}]},
        {"header": {}, "arrays": [{"dtype": "<f4", "shape": [True]}]},
        {"header": {}, "arrays": [{"dtype": "<f4", "shape": 3}]},
        {"header": {}, "arrays": [{"dtype": "<f8", "shape": [1 << 20, 1 << 20]}]},
        {"header": {}, "arrays": [{"dtype": "<f8", "shape": [0, 1 << 80]}]},
        {"header": {}, "arrays": [{"dtype": "<f8", "shape": [1] * 100}]},
        {"header": {"a": float("nan")}, "arrays": []},
    ],
)
def test_descriptions_that_make_no_sense_are_refused(content):
    with pytest.raises(FrameError, match="cannot be read"):
        received(described(content, bytes(64)))


@pytest.mark.parametrize("text", [b"\xff\xfe{}", b"{", b"[" * 100_000, b"1" * 10_000])
def test_text_that_is_no_json_is_refused(text):
    with pytest.raises(FrameError, match="cannot be read"):
        received(MAGIC + struct.pack("<I", len(text)) + text)


def test_headers_have_a_limit(monkeypatch):
    monkeypatch.setattr(frames, "MAXIMUM_HEADER", 1000)
    with pipe() as (_, writer), pytest.raises(FrameError, match="too large"):
        write_frame(writer, {"a": "x" * 1000})
    with pytest.raises(FrameError, match="too large"):
        received(MAGIC + struct.pack("<I", 1001))


def test_a_large_array_crosses_once_and_without_copies():
    array = np.random.default_rng(1).integers(0, 255, (100, 400, 500), dtype=np.uint8)
    crossed = []

    class Counting:
        def write(self, data: memoryview) -> int:
            crossed.append(writer.write(data))
            return crossed[-1]

    with pipe() as (reader, writer):
        sender = threading.Thread(target=write_frame, args=(Counting(), {"a": 1}, [array]))
        tracemalloc.start()
        try:
            sender.start()
            frame = read_frame(reader)
            sender.join()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    np.testing.assert_array_equal(frame.arrays[0], array)
    assert array.nbytes < sum(crossed) < array.nbytes + 200
    assert array.nbytes < peak < 1.05 * array.nbytes  # only where it was read to

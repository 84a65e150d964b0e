"""A job as it comes over the network: one frame of :mod:`SESegmentationLib.worker.messages`, not trusted yet."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from math import isfinite, prod
from typing import Any, get_args

import numpy as np

from SESegmentationLib import __version__
from SESegmentationLib.errors import ModelError, ServerError
from SESegmentationLib.models import ModelCard
from SESegmentationLib.result import Grid, SegmentOptions
from SESegmentationLib.worker.jobs import JOBS, KEPT_METADATA, RefineJob, WarmUpJob
from SESegmentationLib.worker.messages import JOB, LENGTH, MAGIC, PROTOCOL, Frame, FrameError, bytes_of, described_frame
from SESegmentationLib.worker.messages import write_frame as _write_frame

from .refusals import RefusalError, full, malformed, too_large
from .settings import ServerLimits
from .upload_memory import UploadMemory

MEDIA_TYPE = "application/x-sesegmentation-frames"
#: of what is sent at once, in bytes
PIECE = 1 << 20
_BEGIN = len(MAGIC) + LENGTH.size
_NUMBERS = 2**53  # larger integers are not exact in JSON
_IMAGE_FIELDS = {"spacing", "origin", "direction", "vector", "metadata"}
_VOLUME_FIELDS = {"model": str, "device": str, "options": dict, "images": dict, "adapted": bool | None}
_FIELDS: dict[str, dict[str, Any]] = {
    WarmUpJob.kind: {"model": str, "device": str},
    RefineJob.kind: {
        "model": str,
        "device": str,
        "options": dict,
        "images": dict,
        "slices": list | None,
        "whole_slices": bool,
        "recalibrate": bool,
    },
}
_OPTIONS: dict[str, tuple] = {
    option.name: get_args(Grid) if option.name == "grid" else (True, False)
    for option in fields(SegmentOptions)
    if option.name != "roi"
}


@dataclass(frozen=True)
class Work:
    """A job that the server can do.

    Attributes:
        number: by which its client knows it.
        kind: of job.
        model: name of a model that is here.
        value: of the job, as the worker takes it.
        arrays: likewise.
        megavoxels: of the volume on the model's grid, in millions.
    """

    number: int
    kind: str
    model: str
    value: dict[str, Any]
    arrays: list[np.ndarray]
    megavoxels: float


async def receive_frame(chunks: AsyncIterator[bytes], limits: ServerLimits, memory: UploadMemory) -> Frame:
    """Read a body that is one frame. Its arrays are filled where they lie.

    Raises:
        RefusalError: the body is no frame, too large or too slow.
    """
    try:
        async with asyncio.timeout(limits.upload_seconds):
            with contextlib.ExitStack() as reserved:
                return await _receive(
                    _impatient(chunks, limits.silence_seconds),
                    limits,
                    lambda size: reserved.enter_context(memory.reserved(size)),
                )
    except FrameError:  # its text may quote what was sent
        raise malformed("it is not one whole frame") from None
    except TimeoutError:
        raise RefusalError(
            408,
            ServerError(
                "The upload took too long, or stood still.",
                "Check the connection to the server; where it is slow, send a part of the volume (in Slicer: Crop "
                "Volume), or segment on this computer.",
            ),
        ) from None
    except MemoryError:
        raise full("The server has no memory for this volume.", status=507) from None


async def _impatient(chunks: AsyncIterator[bytes], seconds: float) -> AsyncIterator[bytes]:
    """The same chunks; TimeoutError if none comes within ``seconds``."""
    while True:
        try:
            chunk = await asyncio.wait_for(anext(chunks), seconds)
        except StopAsyncIteration:
            return
        yield chunk


async def _receive(
    chunks: AsyncIterator[bytes], limits: ServerLimits, reserve: Callable[[int], Callable[[int], None]]
) -> Frame:
    begin = bytearray()  # until the header is there
    frame: Frame | None = None
    room: Iterator[memoryview] = iter(())
    target = memoryview(b"")
    async for chunk in chunks:
        data = memoryview(chunk)
        if frame is None:
            begin += data
            if begin[: len(MAGIC)] != MAGIC[: len(begin)]:
                raise FrameError("no frame")
            if len(begin) < _BEGIN:
                continue
            (length,) = LENGTH.unpack_from(begin, len(MAGIC))
            if length > limits.header_bytes:
                raise too_large(limits.upload_bytes)
            if len(begin) < _BEGIN + length:
                continue
            frame = _described(begin[_BEGIN : _BEGIN + length], limits)
            taken = reserve(sum(array.nbytes for array in frame.arrays))  # before anything is written to them
            room = (bytes_of(array) for array in frame.arrays if array.size)
            target = next(room, target)
            data = memoryview(begin)[_BEGIN + length :]
        while data:
            if not target:
                raise FrameError("more than a frame")
            count = min(len(target), len(data))
            target[:count] = data[:count]
            taken(count)
            target, data = target[count:], data[count:]
            target = target or next(room, target)
    if frame is None or target:
        raise FrameError("less than a frame")
    return frame


def _described(text: bytearray, limits: ServerLimits) -> Frame:
    try:
        return described_frame(text, limits.upload_bytes)
    except FrameError as error:
        if "too large" in str(error):
            raise too_large(limits.upload_bytes) from None
        raise


def read_work(frame: Frame, cards: Mapping[str, ModelCard]) -> Work:
    """The job in ``frame``, after checking all of its parts.

    Args:
        frame: as it came.
        cards: of the models that are here, by name.

    Raises:
        RefusalError: it is no job, one of another version, or for a model that is not here.
    """
    header = frame.header
    _check_version(header)
    number, kind, value = header.get("job"), header.get("kind"), header.get("value")
    if header.get("type") != JOB or type(number) is not int or abs(number) > _NUMBERS or not isinstance(value, dict):
        raise malformed("it has no header of a job")
    if not isinstance(kind, str) or kind not in JOBS:
        raise malformed("there is no such kind of job")
    expected = _FIELDS.get(kind, _VOLUME_FIELDS)
    if set(value) != set(expected):
        raise malformed("its fields are not those of its kind")
    for name, type_ in expected.items():
        if not isinstance(value[name], type_):
            raise malformed(f"its {name} is not valid")
    card = _card(value["model"], header.get("model_version"), cards)
    if kind == WarmUpJob.kind:
        if frame.arrays:
            raise malformed("it has arrays")
        return Work(number, kind, card.name, dict(value), [], 0.0)
    if any(name not in _OPTIONS or option not in _OPTIONS[name] for name, option in value["options"].items()):
        raise malformed("its options are not valid")
    if not all(isinstance(entry, str) and len(entry) < 1 << 16 for entry in value.get("slices") or ()):
        raise malformed("its slices are not valid")
    images = _images(kind, value, frame.arrays)
    image, voxels = images["image"], frame.arrays[list(images).index("image")]
    shape = voxels.shape[: len(image["spacing"])]
    extent = prod(shape) * prod(image["spacing"])
    megavoxels = min(extent / prod(card.spacing) / 1e6, 1e6)
    return Work(number, kind, card.name, {**value, "images": images}, frame.arrays, megavoxels)


def _check_version(header: dict[str, Any]) -> None:
    """Refuse another version of the messages, or of the program in what counts (0.6.1 and 0.6.2 are alike)."""
    protocol, version = header.get("protocol"), header.get("version")
    if type(protocol) is not int or not isinstance(version, str) or len(version) > 64:
        raise malformed("it does not state its version")
    ours = __version__.split(".")[:2]
    if protocol == PROTOCOL and version.split(".")[:2] == ours:
        return
    theirs = [int(part) if part.isdecimal() else 0 for part in version.split(".")[:2]]
    older = (protocol, theirs) < (PROTOCOL, [int(part) for part in ours])
    shown = version if all(part.isalnum() for part in version.split(".")) else "another one"
    raise RefusalError(
        409,
        ServerError(
            f"This computer's SESegmentation ({shown}) is {'older' if older else 'newer'} than the server's "
            f"({__version__}).",
            "Update SESegmentation on this computer."
            if older
            else f"Have the server updated, or install SESegmentation {'.'.join(ours)} on this computer.",
        ),
    )


def _card(model: str, version: Any, cards: Mapping[str, ModelCard]) -> ModelCard:
    card = cards.get(model)
    if card is None:
        raise RefusalError(
            422,
            ModelError("The server does not have this model.", f"It has these: {', '.join(sorted(cards)) or 'none'}."),
        )
    if version is not None and version != card.version:
        shown = version if isinstance(version, str) and version.replace(".", "").isalnum() else "another one"
        raise RefusalError(
            409,
            ModelError(
                f"The model {card.name} is version {card.version} on the server, and {shown[:32]} here.",
                "Install the same version on both, or segment on this computer.",
            ),
        )
    return card


def _images(kind: str, value: dict[str, Any], arrays: list[np.ndarray]) -> dict[str, dict[str, Any]]:
    """The descriptions of a job's images, each of which fits its array, without what the worker does not look at."""
    needed = {"image", "labels"} if kind == RefineJob.kind else {"image"}
    images = value["images"]
    if not needed <= set(images) <= needed | {"roi"}:
        raise malformed("its images are not those of its kind")
    adapted = bool(value.get("adapted"))
    if "adapted" in value and value["adapted"] is False:
        raise malformed("its entry adapted is not valid")
    if len(arrays) != len(images) + adapted:
        raise malformed("the number of its arrays is wrong")
    if adapted and (arrays[-1].dtype != np.uint8 or arrays[-1].ndim != 1):
        raise malformed("its adapted parameters are not valid")
    return {
        name: _image(description, voxels) for (name, description), voxels in zip(images.items(), arrays, strict=False)
    }


def _image(description: Any, voxels: np.ndarray) -> dict[str, Any]:
    if not isinstance(description, dict) or set(description) != _IMAGE_FIELDS:
        raise malformed("an image is not valid")
    vector, metadata = description["vector"], description["metadata"]
    dimension = voxels.ndim - bool(vector)
    if not isinstance(vector, bool) or not 2 <= dimension <= 4 or not voxels.size or voxels.dtype == np.bool_:
        raise malformed("an image has no voxels")
    for name, count in (("spacing", dimension), ("origin", dimension), ("direction", dimension**2)):
        numbers = description[name]
        if not isinstance(numbers, (list, tuple)) or len(numbers) != count or not all(map(_is_number, numbers)):
            raise malformed(f"the {name} of an image is not valid")
    if not all(spacing > 0 for spacing in description["spacing"]):
        raise malformed("the spacing of an image is not valid")
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise malformed("the metadata of an image are not valid")
    return {**description, "metadata": {key: metadata[key] for key in KEPT_METADATA if key in metadata}}


def _is_number(number: Any) -> bool:
    return type(number) in (int, float) and abs(number) < 1e30 and isfinite(number)


class _Pieces:
    """A stream that keeps what is written to it."""

    def __init__(self) -> None:
        self.parts: list[memoryview] = []

    def write(self, data: memoryview) -> int:
        self.parts.append(data)
        return len(data)


def pieces_of(*frames: tuple[dict[str, Any], list[np.ndarray]]) -> Iterator[bytes]:
    """Frames in pieces to be sent: few small ones, since each takes its time on the way through Serve."""
    pieces = _Pieces()
    for header, arrays in frames:
        _write_frame(pieces, header, arrays)
    begun = bytearray()
    for part in pieces.parts:
        while part:
            count = min(len(part), PIECE - len(begun))
            begun += part[:count]
            part = part[count:]  # noqa: PLW2901
            if len(begun) == PIECE:
                yield bytes(begun)
                begun.clear()
    if begun:
        yield bytes(begun)

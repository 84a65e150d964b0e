"""Error responses: an HTTP status with cause and remedy. No file or folder of the server is named in them."""

from __future__ import annotations

import re
from typing import Any

from SESegmentationLib.errors import InputError, ModelError, SegmentationError, ServerError

#: where an absolute path begins, of any system; not within an address of the web, nor in "mm/s"
_PATH = re.compile(r"(?<![\w.:/\\])(?:/[^\s/]|~[/\\]|[A-Za-z]:[/\\](?!/)|\\\\\w)")


class RefusalError(Exception):
    """A request that is refused.

    Attributes:
        status: of HTTP.
        error: cause and remedy.
        headers: to be sent too.
    """

    def __init__(self, status: int, error: SegmentationError, headers: dict[str, str] | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.error = error
        self.headers = headers or {}

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"code": self.error.code, "cause": self.error.cause, "remedy": self.error.remedy}


def without_paths(error: SegmentationError) -> SegmentationError:
    """``error``; where it names a file or folder, which is one of the server, another of its class instead."""
    if not _PATH.search(f"{error.cause}\n{error.remedy}"):
        return error
    cause = "The server failed at a file of its own."
    if isinstance(error, ModelError):
        cause = "The server cannot use its files of this model."
    return type(error)(cause, "Tell the owner of the server, who finds the reason by: sesegment doctor")


def malformed(what: str) -> RefusalError:
    """What was sent is no job."""
    return RefusalError(
        422, InputError(f"The server cannot read the job: {what}.", "Update SESegmentation, and retry.")
    )


def too_large(limit: int) -> RefusalError:
    """More was sent, or is to be sent, than the server takes."""
    return RefusalError(
        413,
        InputError(
            f"The volume is larger than the {limit / 1e6:.0f} MB that this server takes.",
            "Crop the volume to a region of interest, or segment on this computer.",
        ),
    )


def unknown_job() -> RefusalError:
    """No such job, or somebody else's: the response does not tell which."""
    return RefusalError(404, ServerError("The server has no such job.", "Segment again."))


def full(what: str, seconds: int = 5, status: int = 503) -> RefusalError:
    """The server accepts no more at the moment."""
    return RefusalError(status, ServerError(what, "Wait a minute, then try again."), {"Retry-After": str(seconds)})

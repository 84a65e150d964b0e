"""``python -m SESegmentationLib.worker read``: opens files for another process, which lives on if this one dies.

Damaged files make some libraries end their process, or never come back. Requests come on standard input and answers go
to standard output, as :mod:`.frames`.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, OutOfMemoryError, SegmentationError
from ..io.formats import open_file
from .ending import prepare
from .frames import read_frame, take_pipes, write_frame
from .jobs import pack_image
from .messages import hello


def serve() -> None:
    """Answer requests until there are no more; then the process ends."""
    prepare()
    incoming, outgoing = take_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the process that asks; this one ends with it
    with contextlib.suppress(OSError):  # Linux: where memory runs out, end this process, not the one that asks
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    with contextlib.suppress(OSError):  # who asks is gone
        write_frame(outgoing, hello())
        while frame := read_frame(incoming):
            write_frame(outgoing, *_answer(frame.header))
    os._exit(0)  # libraries may take long to unload


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """What a request gives: the description and the voxels of an image, or why there are none."""
    with contextlib.suppress(OSError):  # a relative path is meant from where the other process works
        os.chdir(request["folder"])
    try:
        image = open_file(Path(request["path"]), request["pixel_mm"], request["labels"], request["series"])
        description, voxels = pack_image(image, image.GetMetaDataKeys())
        return {"image": description}, [voxels]
    except SegmentationError as error:
        known = error
    except MemoryError:
        known = OutOfMemoryError(f"There is not enough memory to read {request['path']}.", "Close other programs.")
    except Exception as error:  # no file may make more of it than a line
        known = InputError(
            f"{request['path']} cannot be read: it is damaged ({type(error).__name__}: {error}).",
            "Copy or download it again, or save it again from a program that shows it correctly.",
        )
    return {"error": {"code": known.code, "cause": known.cause, "remedy": known.remedy}}, []

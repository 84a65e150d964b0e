"""``python -m SESegmentationLib.worker``: started by the client, which talks to it through pipes.

With the argument ``read`` it only opens files for another process, which survives if this one dies: damaged files make
some libraries crash or hang.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import prepare

if TYPE_CHECKING:
    import numpy as np


def open_files() -> None:
    """Answer requests until there are no more; then the process ends."""
    from ..io import formats  # noqa: F401 - loaded before the process says that it is ready
    from .messages import hello, read_frame, take_pipes, write_frame

    incoming, outgoing = take_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the process that asks; this one ends with it
    with contextlib.suppress(OSError):  # Linux: where memory runs out, end this process, not the one that asks
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    with contextlib.suppress(OSError):  # the client is gone
        write_frame(outgoing, hello())
        while frame := read_frame(incoming):
            write_frame(outgoing, *_answer(frame.header))
    os._exit(0)  # libraries may take long to unload


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The answer to a request: the description and the voxels of an image, or the error."""
    from ..errors import InputError, OutOfMemoryError, SegmentationError
    from ..io.formats import open_file
    from .jobs import pack_image

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
    except Exception as error:  # no file may cause more than a one-line error
        known = InputError(
            f"{request['path']} cannot be read: it is damaged ({type(error).__name__}: {error}).",
            "Copy or download it again, or save it again from a program that shows it correctly.",
        )
    return {"error": {"code": known.code, "cause": known.cause, "remedy": known.remedy}}, []


if __name__ == "__main__":
    prepare()  # before anything is loaded that can crash or hang
    if sys.argv[1:] == ["read"]:
        open_files()
    else:
        from .process import serve

        serve()

"""What all ``python -m SESegmentationLib.training...`` commands share: a failure in words, and its exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps

from ..errors import SegmentationError
from ..interruption import end_on_signals

Command = Callable[[Sequence[str] | None], int | None]


def as_command(main: Command) -> Callable[..., int]:
    """Make ``main`` return an exit code: 0, or that of what it raised, of which it prints cause and remedy."""

    @wraps(main)
    def told(arguments: Sequence[str] | None = None) -> int:
        if arguments is None:
            end_on_signals()
        try:
            return main(arguments) or 0
        except SegmentationError as error:
            print(f"{error.cause}\n{error.remedy}", file=sys.stderr)
            return error.exit_code

    return told

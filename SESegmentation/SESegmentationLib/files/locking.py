"""Changing a file that several processes change: one reads, changes and writes at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ..errors import UsageError

#: a change of settings takes far less; the panel waits for no longer, in s
LONGEST_WAIT = 3.0


@contextlib.contextmanager
def changing(path: Path, longest_wait: float = LONGEST_WAIT) -> Iterator[None]:
    """Hold the lock of ``path``, a file ``.lock`` beside it, while the file is read, changed and written.

    Where the disk has no locks, or the package filelock is missing (Slicer without PyTorch, which brings it), nothing
    is locked.

    Args:
        path: of the file.
        longest_wait: in s, for another process that holds it.

    Raises:
        UsageError: another process holds it for longer.
    """
    with contextlib.ExitStack() as held:
        try:
            from filelock import FileLock, Timeout

            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            held.enter_context(FileLock(f"{path}.lock", timeout=longest_wait))
        except ImportError:
            pass
        except Timeout as error:
            raise UsageError(
                f"{path} is being changed by another program.", "Wait a moment and try again, or end that program."
            ) from error
        except (OSError, NotImplementedError):  # whoever writes it reports that it cannot be written
            pass
        yield

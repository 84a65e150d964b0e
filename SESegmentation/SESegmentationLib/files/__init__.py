"""Output files: never overwriting an input, whole or not at all, and verified; one process changes one at a time."""

from .comparing import same_content
from .locking import changing
from .overwriting import refuse_overwriting, refuse_same_names, same_name
from .staging import staging_folder
from .writing import (
    OutputError,
    OutputFiles,
    cannot_write,
    check_writable,
    incomplete,
    store,
    sync,
    write_private,
    write_whole,
)

__all__ = [
    "OutputError",
    "OutputFiles",
    "cannot_write",
    "changing",
    "check_writable",
    "incomplete",
    "refuse_overwriting",
    "refuse_same_names",
    "same_content",
    "same_name",
    "staging_folder",
    "store",
    "sync",
    "write_private",
    "write_whole",
]

"""Files that are written: never over what is read, whole or not at all, and known to be."""

from .overwriting import refuse_overwriting, same_name
from .staging import staging_folder
from .writing import OutputError, OutputFiles, cannot_write, check_writable, incomplete, store, sync, write_whole

__all__ = [
    "OutputError",
    "OutputFiles",
    "cannot_write",
    "check_writable",
    "incomplete",
    "refuse_overwriting",
    "same_name",
    "staging_folder",
    "store",
    "sync",
    "write_whole",
]

"""Files that are written: never over what is read, whole or not at all, and known to be."""

from .output_files import OutputFiles, check_writable, write_whole
from .overwriting import refuse_overwriting, same_name
from .staging import staging_folder
from .storing import OutputError, cannot_write, incomplete, store, sync

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

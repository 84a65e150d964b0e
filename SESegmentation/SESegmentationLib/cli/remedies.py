"""What to do about an error, in terms of the options that the running command has.

The library names no option: programs without a command line tell its errors too, and not every command has each option.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Sequence

from ..errors import SERIES_REMEDY, SegmentationError
from ..memory import MEMORY_REMEDY

DICOM_REMEDY = "Let the output end in .dcm."
#: what saves memory, by the option for it
_MEMORY = {
    "--roi": "segment a region of interest only (--roi)",
    "--low-memory": "use less memory and more time (--low-memory)",
    "--device": "compute on the CPU instead of a GPU (--device cpu)",
}
#: what can be done where there is an option for it, by what can be done without
_WITH_OPTION = {
    SERIES_REMEDY: (
        "--series",
        "Choose one with --series NUMBER, its description or its UID, or give the folder of one.",
    ),
    DICOM_REMEDY: ("--format", "Let the output end in .dcm, or choose --format dcm."),
}


def named(arguments: Sequence[str]) -> tuple[str, set[str]]:
    """The words of the command that ``arguments`` begin with, and those of its options that may still help.

    Where they cannot be found out, those of the program, and none.
    """
    words, options = ["sesegment"], set()
    with contextlib.suppress(Exception):  # there may be no memory for it, and reporting that must not fail
        import typer

        from .app import app

        command = typer.main.get_command(app)
        for argument in arguments:
            if below := getattr(command, "commands", {}).get(argument):
                command = below
                words.append(argument)
        options = {name for parameter in command.params for name in parameter.opts} - _without_effect(arguments)
    return " ".join(words), options


def _without_effect(arguments: Sequence[str]) -> set[str]:
    """Options that would save no more memory: they are chosen already, or refused together with others."""
    given = {argument.partition("=")[0] for argument in arguments}
    on_cpu = "--device=cpu" in arguments or ("--device", "cpu") in itertools.pairwise(arguments)
    return ({"--low-memory"} & given) | ({"--device"} if on_cpu or "--server" in given else set())


def by_options(error: SegmentationError, options: Collection[str]) -> SegmentationError:
    """``error`` with a remedy that names ``options``, and nothing that a command without others lacks."""
    remedy = error.remedy.replace(MEMORY_REMEDY, _for_memory(options))
    for without, (option, words) in _WITH_OPTION.items():
        if option in options:
            remedy = remedy.replace(without, words)
    return error if remedy == error.remedy else type(error)(error.cause, remedy)


def _for_memory(options: Collection[str]) -> str:
    ways = [words for option, words in _MEMORY.items() if option in options]
    sentence = f"{', '.join(ways)}, or close other programs." if ways else "close other programs."
    return sentence[0].upper() + sentence[1:]

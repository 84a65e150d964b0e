"""A remedy names nothing that the command lacks which tells it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator

import pytest
import typer

from program import Program, shallow
from SESegmentationLib.cli import main
from SESegmentationLib.cli.app import app
from SESegmentationLib.cli.remedies import DICOM_REMEDY
from SESegmentationLib.errors import SERIES_REMEDY, InputError, OutOfMemoryError
from SESegmentationLib.memory import MEMORY_REMEDY

#: an option, after the command that the text names before it, if it does
OPTION = re.compile(r"(?:(sesegment [a-z][a-z -]*?)(?: [A-Z]+)* )?(?<![\w-])(--[a-z][a-z-]+)")
#: options of other programs: Ray's and pip's
OF_OTHERS = {"--num-cpus", "--force-reinstall"}
#: where a command without the option does not come, with the reason
NOT_REACHED = {
    "SESegmentationLib.cli.remedies:_MEMORY": "chosen by option",
    "SESegmentationLib.cli.remedies:_WITH_OPTION": "chosen by option",
    "SESegmentationLib.cli.remedies:_without_effect": "compared with what is given",
    "SESegmentationLib.cli.file_jobs:plan_jobs": "no format is chosen where there is no option for it",
    "SESegmentationLib.cli.file_jobs:check_dicom": "sesegment dicom writes DICOM always",
    "SESegmentationLib.doctor:check_driver": "calls a program of the driver",
    "SESegmentationTraining.accuracy:_read_pair": "a training has refused such cases before",
    "SESegmentationTraining.accuracy:card_accuracy": "no structures are apart where there is no option for it",
    "SESegmentationExport.tables:Table.__init__": "the table of a cohort is named by the program",
}


def options_told(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Options in texts of a function, each after the command that the text names before it, if it does."""
    documentation = {
        id(part.body[0].value)
        for part in ast.walk(node)
        if isinstance(part, ast.FunctionDef) and isinstance(part.body[0], ast.Expr)
    }
    pieces = {id(piece) for part in ast.walk(node) if isinstance(part, ast.JoinedStr) for piece in part.values}
    for part in shallow(node):
        if isinstance(part, ast.JoinedStr):
            yield from OPTION.findall(
                "".join(
                    getattr(piece, "value", "") if isinstance(piece, ast.Constant) else "X" for piece in part.values
                )
            )
        elif isinstance(part, ast.Constant) and isinstance(part.value, str) and id(part) not in documentation | pieces:
            yield from OPTION.findall(part.value)


def commands() -> dict[str, typer.core.TyperCommand]:
    """Every command by its words."""

    def below(command, words):
        if command.callback and (not hasattr(command, "commands") or command.invoke_without_command):
            yield " ".join(words), command
        for name, one in getattr(command, "commands", {}).items():
            yield from below(one, [*words, name])

    return dict(below(typer.main.get_command(app), ["sesegment"]))


COMMANDS = commands()


def options(command: str) -> set[str]:
    return {"--debug", "--help"} | {name for parameter in COMMANDS[command].params for name in parameter.opts}


@pytest.fixture(scope="module")
def lacking() -> dict[str, dict[str, list[str]]]:
    """By command the options that it may tell of and lacks, by the function that tells of them."""
    program = Program()
    told = {place: found for place, node in program.nodes.items() if (found := list(options_told(node)))}
    lacking: dict[str, dict[str, list[str]]] = {}
    for command, one in COMMANDS.items():
        function = inspect.unwrap(one.callback)
        own = f"{function.__module__}:{function.__qualname__}"
        lacking[command] = {
            place: lacked
            for place in program.reached(own, "SESegmentationLib.cli:main") & told.keys() - {own}
            if (
                lacked := [
                    option for named, option in told[place] if option not in OF_OTHERS | options(named or command)
                ]
            )
        }
    return lacking


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_tells_of_its_own_options_only(lacking, command):
    found = lacking[command]
    assert {place: found[place] for place in found.keys() - NOT_REACHED.keys()} == {}


def test_every_exception_is_one(lacking):
    """That the check finds them shows also that it finds what it must."""
    assert {place for found in lacking.values() for place in found} == NOT_REACHED.keys()


@pytest.mark.parametrize(
    "error", [OutOfMemoryError("There is not enough memory.", f"{MEMORY_REMEDY} Go on."), MemoryError()]
)
@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        (
            "run scan.nii -m model -o x.nii.gz",
            "Segment a region of interest only (--roi), use less memory and more time (--low-memory), compute on the "
            "CPU instead of a GPU (--device cpu), or close other programs.",
        ),
        (
            "run scan.nii -m model -o x.nii.gz --server https://gpu.hospital.org",  # that chooses the device
            "Segment a region of interest only (--roi), use less memory and more time (--low-memory), or close other "
            "programs.",
        ),
        (
            "refine scan.nii -m model --corrected y.nii.gz --server=https://gpu.hospital.org -o x.nii.gz",
            "Segment a region of interest only (--roi), use less memory and more time (--low-memory), or close other "
            "programs.",
        ),
        (
            "run scan.nii -m model -o x.nii.gz --low-memory --device cpu",
            "Segment a region of interest only (--roi), or close other programs.",
        ),
        ("compare a b --device=cpu", "Close other programs."),
        ("compare a b", "Compute on the CPU instead of a GPU (--device cpu), or close other programs."),
        ("measure accuracy model", "Close other programs."),
        ("prepare malc a b", "Close other programs."),
    ],
)
def test_memory_is_saved_by_what_the_command_has(monkeypatch, capsys, command, remedy, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(typer.core.TyperCommand, "invoke", fail)
    assert main(command.split()) == OutOfMemoryError.exit_code
    assert capsys.readouterr().err.splitlines()[-1].removesuffix(" Go on.") == remedy


@pytest.mark.parametrize(
    ("remedy", "command", "told"),
    [
        (SERIES_REMEDY, "run scan -m model -o x.nii.gz", "Choose one with --series NUMBER, its description or its UID"),
        (SERIES_REMEDY, "measure accuracy model", SERIES_REMEDY),
        (DICOM_REMEDY, "run scan -m model -o x.nii.gz", "Let the output end in .dcm, or choose --format dcm."),
        (DICOM_REMEDY, "refine scan -m model --corrected y.nii.gz -o x.nii.gz", DICOM_REMEDY),
    ],
)
def test_what_a_command_can_choose_is_told_by_its_option(monkeypatch, capsys, remedy, command, told):
    def fail(*_):
        raise InputError("There are several.", remedy)

    monkeypatch.setattr(typer.core.TyperCommand, "invoke", fail)
    assert main(command.split()) == InputError.exit_code
    assert capsys.readouterr().err.splitlines()[-1].startswith(told)

"""The other commands: models, doctor, help, version; and that starting is cheap."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from SESegmentationLib import __version__
from SESegmentationLib.cli import main
from SESegmentationLib.cli.app import app
from SESegmentationLib.cli.show import duration

LIBRARY = Path(__file__).parents[3] / "SESegmentation"


@pytest.fixture(autouse=True)
def only_the_tiny_model(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("SESEGMENTATION_MODELS", str(tiny_model.parent))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def call(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capfd.readouterr()
    code = main(list(arguments))
    return code, *capfd.readouterr()


def test_version_and_help(capfd):
    assert call(capfd, "--version") == (0, f"{__version__}\n", "")
    code, out, _ = call(capfd, "--help")
    assert code == 0
    for command in ("models", "run", "train", "evaluate", "doctor"):
        assert command in out
        assert call(capfd, command, "--help")[0] == 0


@pytest.mark.parametrize("arguments", [["nonsense"], ["models", "extra"], ["run", "--device"], []])
def test_wrong_use_is_exit_code_2(capfd, arguments):
    code, _, err = call(capfd, *arguments)
    assert code == 2
    assert len(err.splitlines()) <= 2
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("measure repeatability m --pair a", ["Option '--pair' requires 2 arguments.", "measure repeatability"]),
        ("run --samples -3 a", ["Invalid value for '--samples': Input should be greater than or equal to 0.", "run"]),
        ("run a --grid x", ["Invalid value for '--grid': 'x' is not one of 'auto', 'input', 'model'.", "run"]),
        ("models add", ["Missing argument 'DIR|ZIP'.", "models add"]),
        ("serve token ad", ["No such command 'ad'. Did you mean 'add'?", "serve token"]),
    ],
)
def test_wrong_use_is_told_in_a_sentence_and_leads_to_the_help_of_the_command(capfd, arguments, told):
    code, _, err = call(capfd, *arguments.split())
    assert (code, err.splitlines()) == (2, [told[0], f"See: sesegment {told[1]} --help"])


def test_models_are_listed(capfd):
    code, out, err = call(capfd, "models")
    assert code == 0, err
    assert "tiny-t1" in out
    assert "anterior hippocampus" in " ".join(out.split())


def test_models_as_json(capfd, tiny_model):
    code, out, _ = call(capfd, "models", "--json")
    (model,) = [model for model in json.loads(out) if model["name"] == "tiny-t1"]
    assert code == 0
    assert model["path"] == str(tiny_model)
    assert [label["name"] for label in model["labels"]] == ["anterior hippocampus", "posterior hippocampus"]


def test_a_model_is_added_and_can_be_used(capfd, tiny_model, tmp_path, monkeypatch):
    monkeypatch.delenv("SESEGMENTATION_MODELS")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "data"))
    code, out, err = call(capfd, "models", "add", str(tiny_model))
    assert code == 0, err
    assert "tiny-t1" in out
    assert "tiny-t1" in call(capfd, "models")[1]
    code, _, err = call(capfd, "models", "add", str(tiny_model))
    assert (code, len(err.splitlines())) == (2, 2)
    assert "--replace" in err
    assert call(capfd, "models", "add", str(tiny_model), "--replace")[0] == 0
    assert call(capfd, "models", "add", str(tmp_path / "none"))[0] == 2


def test_damaged_models_are_told_of(capfd, tmp_path, monkeypatch):
    (tmp_path / "models" / "broken").mkdir(parents=True)
    (tmp_path / "models" / "broken" / "model.json").write_text("{", encoding="utf-8")
    monkeypatch.setenv("SESEGMENTATION_MODELS", str(tmp_path / "models"))
    code, out, err = call(capfd, "models", "--json")
    assert code == 0
    assert "broken" not in out
    assert "broken" in err


def test_doctor(capfd):
    code, out, err = call(capfd, "doctor", "--json")
    found = json.loads(out)
    assert (code == 1) == (found["status"] == "error"), err
    assert any(check["name"] == "model tiny-t1" for check in found["checks"])
    code, out, _ = call(capfd, "doctor")
    assert "torch" in out


def test_doctor_works_without_torch(capfd, tmp_path):
    """The command itself, in a Python that cannot import torch, numpy or SimpleITK."""
    program = (
        "import sys, importlib.abc\n"
        "class Block(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'numpy', 'SimpleITK', 'safetensors', 'jsonschema'):\n"
        "            raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from SESegmentationLib.cli import main\n"
        "sys.exit(main())\n"
    )

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env={**os.environ, "PYTHONPATH": str(LIBRARY)},
            capture_output=True,
            encoding="utf-8",  # other tests may change this process's locale
        )

    checks = json.loads(command("doctor", "--json").stdout)["checks"]
    assert any(check["name"] == "model tiny-t1" and check["status"] == "ok" for check in checks)
    assert command("models").returncode == 0
    failed = command("run", "a.nii", "-m", "tiny-t1", "-o", "b.nii.gz")
    assert failed.returncode == 1
    assert "is not installed" in failed.stderr
    assert "sesegment doctor" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_what_needs_no_torch_does_not_import_it():
    program = (
        "import sys; from SESegmentationLib.cli import main; main(['models']);"
        "print([name for name in ('torch', 'SimpleITK', 'numpy', 'monai') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(LIBRARY)},
        capture_output=True,
        encoding="utf-8",
    )
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


def test_models_can_be_read_in_a_narrow_terminal(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = call(capfd, "models")
    lines = out.splitlines()
    assert code == 0 and len(lines) <= 6 * sum(not line.startswith(" ") for line in lines)
    (brain,) = [number for number, line in enumerate(lines) if line.startswith("brain-mr")]
    text = " ".join(" ".join(lines[brain : brain + 6]).split())
    assert "and 28 more MR of any contrast, version" in text
    assert "CC-BY-NC-SA-4.0, consent required" in " ".join(out.split())


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (0.42, "0.4 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


def commands_of(command, path="sesegment"):
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from commands_of(each, f"{path} {name}")


def test_usage_names_arguments_as_their_list_does(capfd):
    for path, command in commands_of(typer.main.get_command(app)):
        arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
        code, out, _ = call(capfd, *path.split()[1:], "--help")
        usage = " ".join(re.split(r"\n\s*\n", out[out.index("Usage:") :])[0].split())
        assert code == 0 and usage.startswith(f"Usage: {path} "), path
        words = usage.split("[OPTIONS]")[1].replace("...", "").split()
        if arguments:
            assert words == [parameter.metavar for parameter in arguments], path


def test_help_reads_as_sentences_at_any_width():
    """A line of help that ends within a sentence is broken again where the terminal is narrower."""
    for path, command in commands_of(typer.main.get_command(app)):
        texts = [command.help or "", *(getattr(parameter, "help", None) or "" for parameter in command.params)]
        for line in filter(None, "\n".join(texts).splitlines()):
            assert line.rstrip().endswith("."), (path, line)
        for parameter in command.params:
            assert getattr(parameter, "help", None), (path, parameter.name)
            if parameter.param_type_name == "argument":
                assert parameter.metavar and parameter.metavar == parameter.metavar.upper(), (path, parameter.name)

"""Dockerfile and Apptainer recipe say the same, and what they say is so; ``make container-test`` runs them."""

from __future__ import annotations

import re
from pathlib import Path

from container.check import INPUT, OUTPUT, Steps
from SESegmentationLib import __version__

ROOT = Path(__file__).resolve().parents[3]
STEPS = Steps.read(ROOT / "Dockerfile")
RECIPE = (ROOT / "container/apptainer.def").read_text(encoding="utf-8")


def section(name: str) -> str:
    return re.split(r"^%", RECIPE.split(f"%{name}\n")[1], flags=re.MULTILINE)[0]


def test_labels_tell_the_version_and_the_models_inside():
    assert STEPS.labels["org.opencontainers.image.version"] == __version__
    assert f"version {__version__}\n" in section("labels")
    assert STEPS.labels["sesegmentation.models"].split() == sorted(path.name for path in (ROOT / "weights").iterdir())
    assert (STEPS.labels["sesegmentation.input"], STEPS.labels["sesegmentation.output"]) == (INPUT, OUTPUT)


def test_both_copy_and_set_the_same():
    copied = [part for word, said, _ in STEPS.work if word == "COPY" for part in said.split()[:-1]]
    assert sorted(copied) == sorted(line.split()[0] for line in section("files").split("\n") if line.strip())
    for part in copied:
        assert (ROOT / part).exists(), part
        assert f"!{part}" in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for line in section("environment").split("\n"):
        if line.strip():
            name, value = line.strip().removeprefix("export ").split("=", 1)
            assert STEPS.environment[name] == value
    assert "DEVICE" in STEPS.arguments
    assert re.search(r"From: (.*)", RECIPE)[1] in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_without_a_command_a_router_gets_its_series_segmented():
    assert (STEPS.entry, STEPS.command, STEPS.user.split(":")[0]) == (["sesegment"], ["dicom"], "1000")
    assert STEPS.environment["MERCURE_IN_DIR"] == INPUT
    assert STEPS.environment["MERCURE_OUT_DIR"] == OUTPUT

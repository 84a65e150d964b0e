"""What the documentation shows as Python runs as it stands there."""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path

import SimpleITK as sitk

import SESegmentationLib
from SESegmentationLib import networks
from SESegmentationLib.io.reading import read_volume

DOCUMENTS = Path(__file__).resolve().parents[2]


def example_of(module) -> str:
    """The code after "Example::" in a module's docstring."""
    return inspect.cleandoc(inspect.getdoc(module).split("Example::", 1)[1]).strip()


def test_five_lines_segment_a_file(sample_file, tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SESEGMENTATION_MODELS", str(tiny_model.parent))
    shutil.copy(sample_file, tmp_path / "head.nii.gz")
    program = example_of(SESegmentationLib)
    assert len([line for line in program.splitlines() if line.strip()]) == 5
    exec(program.replace("brain-mr", tiny_model.name), {})
    assert re.search(r"^\S.*: \d+\.\d ml$", capsys.readouterr().out, re.MULTILINE)
    written = sitk.ReadImage(str(tmp_path / "head.seg.nrrd"))
    assert written.GetSize() == read_volume(sample_file).GetSize()
    assert any(written.GetMetaData(key) for key in written.GetMetaDataKeys() if key.endswith("_Name"))


def test_the_documents_show_the_same_lines():
    program = example_of(SESegmentationLib)
    for name in ("README.md", "docs/command-line.md"):
        assert program in (DOCUMENTS / name).read_text(encoding="utf-8"), name


def test_networks_and_blocks_are_where_one_looks_for_them():
    scope: dict = {}
    exec(example_of(networks), scope)
    assert scope["logits"].shape == (2, 28, 160, 160) and scope["recalibrated"].shape == (2, 64, 40, 40)

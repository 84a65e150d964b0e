"""Tables for other tools: ``--stats`` is read as FreeSurfer's and FastSurfer's readers do, ``--table`` as TSV."""

from __future__ import annotations

import csv
import math
import re
import shutil
from math import nan
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationExport.tables import Table, aseg_stats, freesurfer_name, tsv
from SESegmentationLib.cli import main
from SESegmentationLib.errors import DeviceError
from SESegmentationLib.geometry import Geometry
from SESegmentationLib.models import ModelCard, find_model
from SESegmentationLib.models.labels import LEFT, structure_label
from SESegmentationLib.result import IntracranialVolume, SegmentationResult, StructureResult

LABELS = (structure_label(500, "brain stem"), structure_label(17, "hippocampus", LEFT), structure_label(14, "caudate"))


def as_freesurfer(text: str) -> tuple[dict[str, list[str]], dict[str, tuple[str, str, float, str]]]:
    """Rows by name of the structure, and measures, by the rules of asegstats2table and FastSurfer.

    Every line without "#" is a row, divided at blanks: segment in the second field, name in the fifth. Measures have
    five fields with commas between.
    """
    rows = [line.split() for line in text.splitlines() if "#" not in line]
    measures = {}
    for line in text.splitlines():
        if line.startswith("# Measure "):
            key, name, description, value, unit = re.split(r"\s*,\s*", line.removeprefix("# Measure ").strip())
            measures[key] = (name, description, float(value), unit)
    return {row[4]: row for row in rows}, measures


@pytest.fixture(scope="module")
def card(tiny_model) -> ModelCard:
    return find_model(str(tiny_model)).card


def test_aseg_stats_by_the_rules_of_its_readers(card):
    array = np.zeros((6, 8, 9), np.uint16)
    array[1:3, 2:5, 3:7], array[5, 5, 5] = 17, 500
    labels = sitk.GetImageFromArray(array)
    labels.SetSpacing((0.5, 1.25, 2.0))
    scan = np.random.default_rng(1).normal(100, 20, array.shape).astype(np.float32)
    image = sitk.GetImageFromArray(scan)
    image.CopyInformation(labels)
    structures = [
        StructureResult(label, n := int((array == label.value).sum()), n * 1.25 / 1000, 0.9, (nan,) * 3)
        for label in LABELS
    ]
    result = SegmentationResult(labels, structures, {}, [], card, "cpu", intracranial=IntracranialVolume(1512.5, 30.0))
    text = aseg_stats(result, image, "Anna #1 scan")
    rows, measures = as_freesurfer(text)
    assert [(row[0], row[1], row[4]) for row in rows.values()] == [
        ("1", "14", "caudate"),  # 14 is FreeSurfer's third ventricle: a model's own value has its own name
        ("2", "17", "Left-Hippocampus"),
        ("3", "500", "brain-stem"),
    ]
    inside = scan[array == 17].astype(float)
    numbers = [float(field) for field in rows["Left-Hippocampus"][5:]]
    expected = [inside.mean(), inside.std(ddof=1), inside.min(), inside.max(), np.ptp(inside)]
    np.testing.assert_allclose(numbers, expected, atol=1e-4)
    assert (rows["Left-Hippocampus"][2], float(rows["Left-Hippocampus"][3])) == ("24", 30.0)
    assert rows["caudate"][2:4] + rows["caudate"][5:] == ["0", "0.0"] + ["0.0000"] * 5, "not found, and there"
    assert float(rows["brain-stem"][6]) == 0, "a single voxel has no deviation"
    description = "Estimated Total Intracranial Volume"
    assert measures == {"EstimatedTotalIntraCranialVol": ("eTIV", description, 1512500.0, "mm^3")}
    assert "# VoxelVolume_mm3 1.25\n" in text
    assert "# subjectname Anna-1-scan\n" in text
    headers = next(line for line in text.splitlines() if line.startswith("# ColHeaders")).split()[2:]
    assert {len(row) for row in rows.values()} == {len(headers)} == {10}
    told = dict(re.findall(r"# TableCol +(\d+) ColHeader +(\w+)", text))
    assert [told[str(number)] for number in range(1, 11)] == headers
    finer = Geometry(tuple(2 * n for n in labels.GetSize()), (0.25, 0.625, 1.0), (0.0,) * 3, labels.GetDirection())
    other, _ = as_freesurfer(aseg_stats(result, finer.resample(image, sitk.sitkLinear), "a"))
    np.testing.assert_allclose(float(other["Left-Hippocampus"][5]), inside.mean(), rtol=0.05)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_intensities_between_voxels_are_not_cut_off_to_whole_numbers(card, kind):
    thick = np.add.outer(np.arange(6), np.arange(8)).repeat(9).reshape(6, 8, 9).astype(kind)
    image = sitk.GetImageFromArray(thick)
    image.SetSpacing((1.0, 1.0, 4.0))
    grid = Geometry((9, 8, 21), (1.0, 1.0, 1.0), (0.0,) * 3, image.GetDirection())
    structure = StructureResult(LABELS[1], math.prod(grid.size), 1.512, 0.9, (0.0,) * 3)
    labels = grid.image(np.full(grid.shape, 17, np.uint8))
    rows, _ = as_freesurfer(aseg_stats(SegmentationResult(labels, [structure], {}, [], card, "cpu"), image, "a"))
    expected = np.add.outer(np.arange(21) / 4, np.arange(8.0))
    measured = [float(field) for field in rows["Left-Hippocampus"][5:]]
    assert (measured[0], measured[2], measured[3]) == pytest.approx((expected.mean(), 0, expected.max()), abs=1e-3)


def test_structures_of_the_brain_have_the_names_of_freesurfer(shipped_weights):
    card = find_model(str(shipped_weights / "brain-mr")).card
    sided = (
        *("Cerebral-White-Matter", "Cerebral-Cortex", "Lateral-Ventricle", "Inf-Lat-Vent", "Cerebellum-White-Matter"),
        *("Cerebellum-Cortex", "Thalamus", "Caudate", "Putamen", "Pallidum", "Hippocampus", "Amygdala"),
        *("Accumbens-area", "VentralDC"),
    )
    table = {f"{side}-{name}" for name in sided for side in ("Left", "Right")}
    table |= {"3rd-Ventricle", "4th-Ventricle", "Brain-Stem", "CSF"}
    assert {freesurfer_name(label) for label in card.labels} == table


@pytest.fixture
def batch(tiny_model, sample_file, tmp_path, capfd):
    """Function that runs files of a folder: exit code and stderr."""
    folder = tmp_path / "John Doe" / "in"
    folder.mkdir(parents=True)
    for name in "ab":
        shutil.copy(sample_file, folder / f"{name}.nii.gz")
    (folder / "broken.nii.gz").write_bytes(b"no volume")

    def called(*options: object, names: str = "a b broken") -> tuple[int, str]:
        files = [folder / f"{name}.nii.gz" for name in names.split()]
        arguments = [*files, "-m", tiny_model, "-o", tmp_path / "out", "--device", "cpu"]
        capfd.readouterr()
        return main(["run", *map(str, [*arguments, *options])]), capfd.readouterr().err

    return called


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", strict=True))


def test_a_batch_as_one_table_and_a_folder_of_subjects(batch, tmp_path):
    table, subjects = tmp_path / "batch.tsv", tmp_path / "subjects"
    code, err = batch("--table", table, "--stats", subjects, "--report", tmp_path / "r.csv")
    assert code == 2, err
    first, second, broken = rows_of(table)
    assert [row["scan"] for row in (first, second, broken)] == ["a", "b", "broken"]
    assert first["state"] == second["state"] == "segmented" and broken["state"] == "failed"
    assert broken["cause"] in err and "broken.nii.gz" in broken["cause"]
    assert set(list(broken.values())[3:]) == {"n/a"} and first["cause"] == "n/a"
    with (tmp_path / "r.csv").open(encoding="utf-8-sig") as file:
        reported = {(Path(row["input"]).name, row["name"]): row for row in csv.DictReader(file)}
    for row in (first, second):
        rows, _ = as_freesurfer((subjects / row["scan"] / "stats" / "aseg.stats").read_text(encoding="utf-8"))
        for structure in ("anterior hippocampus", "posterior hippocampus"):
            report = reported[f"{row['scan']}.nii.gz", structure]
            column, name = structure.replace(" ", "_"), structure.replace(" ", "-")
            assert row[f"{column}_ml"] == report["volume_ml"]
            assert rows[name][1:3] == [report["value"], report["voxels"]]
            np.testing.assert_allclose(float(rows[name][3]), 1000 * float(report["volume_ml"]), atol=0.1)
    assert sorted(path.name for path in subjects.iterdir()) == ["a", "b"]
    for path in (table, *subjects.rglob("*.stats")):
        assert not re.search(r"John Doe|/tmp|/home", path.read_text(encoding="utf-8")), "no folders of absolute paths"


def test_a_table_of_what_was_done_where_a_batch_breaks_off(batch, tmp_path, lost_device):
    code, err = batch("--table", tmp_path / "t.tsv", "--stats", tmp_path / "s", "--low-memory", names="a b")
    assert code == DeviceError.exit_code, err
    assert [row["scan"] for row in rows_of(tmp_path / "t.tsv")] == ["a"]
    assert not list(tmp_path.glob("s/b/stats/*"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--stats", "x.stats"], "2 volumes cannot go into the one file"),
        (["--stats", "x.txt"], "does not end in .stats"),
        (["--table", "x.csv"], "does not end in .tsv"),
        (["--table", "John Doe/in/a.nii.gz/x.tsv"], "cannot be written to"),
    ],
)
def test_names_that_do_not_suit_are_told_before_any_work(batch, tmp_path, options, told):
    code, err = batch(options[0], tmp_path / options[1], names="a b")
    assert (code, len(err.splitlines())) == (2, 2), err
    assert told in err and options[0] in err or "written" in told
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_no_folder_is_made_for_a_first_scan_that_fails(batch, tmp_path):
    assert batch("--stats", tmp_path / "subjects", names="broken a")[0] == 2
    assert [path.name for path in (tmp_path / "subjects").iterdir()] == ["a"], "readers take each folder for a subject"


def test_one_volume_as_one_file(batch, tmp_path):
    code, err = batch("--stats", tmp_path / "aseg.stats", names="a")
    assert code == 0, err
    assert set(as_freesurfer((tmp_path / "aseg.stats").read_text(encoding="utf-8"))[0]) == {
        "anterior-hippocampus",
        "posterior-hippocampus",
    }


def test_texts_in_a_table_stay_in_their_cells():
    rows = [{"a": "x\ty\nz", "b": "=1+1"}, {"a": None, "b": 1.5}]
    assert tsv(["a", "b"], rows) == "a\tb\nx y z\t'=1+1\nn/a\t1.5\n"


HIPPOCAMPI = [f"{side}_{part}_hippocampus" for side in ("left", "right") for part in ("anterior", "posterior")]


def test_a_head_has_a_column_for_each_structure_of_each_side(segmented_head, tmp_path, capfd):
    """hippocampus-t1 knows two structures, and finds four in a whole head."""
    table = tmp_path / "t.tsv"
    arguments = [segmented_head, "-o", tmp_path / "out", "--table", table, "--sheet", tmp_path / "sheet"]
    code = main(["run", *map(str, arguments), "-m", "hippocampus-t1", "--accept-licence", "--device", "cpu"])
    assert code == 0, capfd.readouterr().err
    (row,) = rows_of(table)
    assert all(0.5 < float(row[f"{name}_ml"]) < 4 for name in HIPPOCAMPI)
    assert row["anterior_hippocampus_ml"] == row["posterior_hippocampus_ml"] == "n/a", "it is of both sides"
    assert "#808080" not in (tmp_path / "sheet" / "sheet.html").read_text(encoding="utf-8"), "each has its colour"


@pytest.mark.slow
def test_a_cohort_of_a_head_and_a_crop_in_one_table(head_result, shared_data, tmp_path, capfd):
    scans = tmp_path / "scans"
    scans.mkdir()
    shutil.copy(head_result[0], scans / "head.nii.gz")
    shutil.copy(shared_data / "hippocampus" / "imagesTr" / "hippocampus_003_0000.nii.gz", scans / "crop.nii.gz")
    arguments = [scans, "-o", tmp_path / "out", "-m", "hippocampus-t1", "--accept-licence", "--device", "cpu"]
    assert main(["cohort", *map(str, arguments)]) == 0, capfd.readouterr().err
    crop, head = rows_of(tmp_path / "out" / "cohort.tsv")
    assert (crop["scan"], head["scan"]) == ("crop", "head")
    assert float(crop["anterior_hippocampus_ml"]) > 0 and crop["left_anterior_hippocampus_ml"] == "n/a"
    assert float(head["left_anterior_hippocampus_ml"]) > 0 and head["anterior_hippocampus_ml"] == "n/a"


def test_a_structure_that_no_card_tells_of_gets_a_column(card, tmp_path):
    entry = {"voxels": 1, "volume_ml": 1.5, "expected_dice": None}
    told = {"model": {"name": "m", "version": "1", "weights_sha256": ""}, "findings": [], "intracranial": None}
    told |= {"versions": {"SESegmentation": "1"}, "device": "cpu", "timings_s": {}, "date": ""}
    names = ("anterior hippocampus", "new", "anterior-hippocampus")
    structures = [entry | {"value": value, "name": name} for value, name in enumerate(names, start=1)]
    with Table(tmp_path / "t.tsv", card, {Path("a"): "a"}) as table:
        table.add(Path("a"), told | {"structures": structures})
    (row,) = rows_of(tmp_path / "t.tsv")
    assert row["anterior_hippocampus_ml"] == row["new_ml"] == row["anterior_hippocampus_3_ml"] == "1.5"

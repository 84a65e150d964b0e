"""``sesegment experiment`` from the plan to tables and plots."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from SESegmentationLib.cli import main
from SESegmentationTraining.experiments.results import RESULTS_NAME, read_results


def test_an_experiment_is_run_once_and_reported_again_without_data(plan_file, blobs_folder, tmp_path, capsys):
    # 17 and 53 without sides need no pairs in a mirror
    path, folder = plan_file(("seeds = [1, 2]", "seeds = [1]")), tmp_path / "out"
    command = ["experiment", str(path), "-o", str(folder), "--device", "cpu"]
    assert main([*command, "--data", str(blobs_folder.parent)]) == 0
    said = capsys.readouterr().out
    assert "UNet scSE, seed 1: Dice 0." in said
    assert "blobs, aggregation: 3 of 3 runs." in said
    made = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    assert sorted(made) == ["blobs-aggregation.png", "blobs-networks.png", "blobs.md", RESULTS_NAME]
    assert "sesegment experiment blobs" in made["blobs.md"].decode()

    # all runs are there: nothing is trained, so no data is missed
    assert main([*command, "--data", str(tmp_path / "nowhere")]) == 0
    assert "seed 1: Dice" not in capsys.readouterr().out

    # the one file is enough
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(folder / RESULTS_NAME, other)
    assert main(["experiment", str(path), "-o", str(other), "--report"]) == 0
    assert (other / "blobs.md").read_bytes() == made["blobs.md"]
    assert (other / RESULTS_NAME).read_bytes() == made[RESULTS_NAME]


def test_the_table_shows_the_figures(plan, plan_file, results_folder):
    path, results = plan_file(), read_results(results_folder)
    assert main(["experiment", str(path), "-o", str(results_folder), "--report"]) == 0
    text = (results_folder / "blobs.md").read_text(encoding="utf-8")
    run = [run for run in plan().runs() if run.variant == "none"]
    mean = np.mean([np.mean(list(results[r.key]["dice"].values())) for r in run])
    (row,) = {line for line in text.splitlines() if line.startswith("| none | ")}
    assert row.startswith(f"| none | {mean:.3f} ± ")
    assert "1,004" in row
    assert "abacus" in text
    head = next(line for line in text.splitlines() if "left blob" in line)
    assert head.count("|") == row.count("|")


def test_plots_show_a_box_for_each_variant(plan_file, results_folder):
    assert main(["experiment", str(plan_file()), "-o", str(results_folder), "--report"]) == 0
    with Image.open(results_folder / "blobs-aggregation.png") as picture:
        colours = {tuple(colour) for colour in np.asarray(picture.convert("RGB")).reshape(-1, 3)}
        assert picture.size == (1500, 480)
    # grey, blue and orange, as lines of the curves
    assert {(0x7F, 0x7F, 0x7F), (0x4C, 0x72, 0xB0), (0xDD, 0x84, 0x52)} <= colours


def test_what_is_missing_is_said(plan_file, tmp_path, capsys):
    assert main(["experiment", str(plan_file()), "-o", str(tmp_path / "empty"), "--report"]) == 0
    assert "0 of 4 runs" in capsys.readouterr().out
    assert "Not run yet" in (tmp_path / "empty" / "blobs.md").read_text(encoding="utf-8")
    assert not list((tmp_path / "empty").glob("*.png"))


def test_results_of_other_data_are_refused_and_shown_alone(plan_file, results_folder, blobs_folder, capsys):
    """Those of the made-up results have been deleted since."""
    before = (results_folder / RESULTS_NAME).read_bytes()
    arguments = ["experiment", str(plan_file()), "-o", str(results_folder), "--data", str(blobs_folder.parent)]
    assert main(arguments) == 2
    assert "changed since" in capsys.readouterr().err
    assert main([*arguments, "--report"]) == 0
    assert "4 of 4 runs" in capsys.readouterr().out
    assert (results_folder / RESULTS_NAME).read_bytes() == before


def test_many_structures_get_a_table_of_their_own(plan_file, plan, made_up, tmp_path):
    from SESegmentationTraining.experiments.results import write_results

    results = made_up(plan())
    for result in results.values():
        result["labels"] = [f"structure {n}" for n in range(8)]
        result["dice"] = {case: dice * 4 for case, dice in result["dice"].items()}
    write_results(tmp_path, results.values())
    assert main(["experiment", str(plan_file()), "-o", str(tmp_path), "--report"]) == 0
    lines = (tmp_path / "blobs.md").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.startswith("| structure 7 | ")]) == 2
    assert "| structure | none | scSE |" in lines


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["liver"], "no plan liver"),
        (["PLAN", "--data", "nowhere"], "no dataset"),
        (["PLAN", "--device", "abacus"], "no device"),
        (["PLAN", "--workers", "0"], "process"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_wrong_use_gets_a_cause_and_a_remedy(plan_file, tmp_path, capsys, arguments, words):
    plan = str(plan_file())
    arguments = [plan if argument == "PLAN" else argument for argument in arguments]
    assert main(["experiment", *arguments, "-o", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert words in lines[0]
    assert len(lines) == 2
    assert not list(tmp_path.rglob("*.md"))

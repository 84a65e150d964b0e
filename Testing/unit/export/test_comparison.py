"""Two scans of one patient are compared: what changed, and what of that can be told from noise."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from dicom_writer import Volume, write_series
from SESegmentationExport.comparison import (
    COLUMNS,
    NO_CHANGE,
    Change,
    acquisition_date,
    as_csv,
    compare_reports,
    read_report,
    remarks,
    scan_tags,
)
from SESegmentationExport.registration import align, overlap, register
from SESegmentationLib.cli import main
from SESegmentationLib.errors import InputError, UsageError
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.io import drawing
from SESegmentationLib.io.reading import read_label_volume, read_volume
from SESegmentationTraining.repeatability import larger_deviations, rescan, within_scan_deviations

MODEL = {"name": "tiny", "version": "1.0.0", "weights_sha256": "0" * 64}


def report(*volumes: float, **model: str) -> dict:
    structures = [{"value": n + 1, "name": f"part {n + 1}", "volume_ml": ml} for n, ml in enumerate(volumes)]
    return {"input": "scan.nii.gz", "model": MODEL | model, "structures": structures}


def test_a_change_is_told_where_it_exceeds_the_noise():
    noise = {"part 1": 0.03, "part 2": 0.14}
    first, second, third = compare_reports(report(10, 10, 10), report(11, 11, 11), noise, None)
    assert (first.exceeds_noise, second.exceeds_noise, third.exceeds_noise) == (True, False, None)
    assert first.noise_percent == pytest.approx(3)
    assert (first.words(), second.words(), third.words()) == ("+10.0 %", NO_CHANGE, "+10.0 %")


def test_a_change_by_the_year_needs_some_time():
    def yearly(days: float | None) -> float | None:
        return Change(1, "part", 10, 9, days=days).percent_a_year

    assert yearly(None) is None and yearly(30) is None
    assert yearly(365.25 / 2) == pytest.approx(-20)
    assert Change(1, "part", 10, 9, 0.01, 730.5).words() == "-10.0 %, -5.0 % a year"


def test_what_appears_or_is_lost_is_said():
    assert Change(1, "part", 0, 2, 0.01).words() == "appeared"
    assert Change(1, "part", 2, 0, 0.01).words() == "no longer found"
    assert Change(1, "part", 0, 0, 0.01).words() == NO_CHANGE


@given(st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0, 2))
def test_who_did_not_change_is_never_told_to_have(earlier, later, least):
    change, back = Change(1, "part", earlier, later, least), Change(1, "part", later, earlier, least)
    assert change.exceeds_noise == back.exceeds_noise
    assert not Change(1, "part", earlier, earlier, least).exceeds_noise


@pytest.mark.parametrize("other", [{"name": "another"}, {"version": "2.0.0"}, {}])
def test_results_of_different_models_are_not_compared(other):
    with pytest.raises(UsageError, match="different models"):
        compare_reports(report(1), report(1, weights_sha256="1" * 64, **other), {}, None)


@pytest.mark.parametrize("content", ["[]", "{}", '{"input": "x"}', "nonsense", '[{"input": "a"}, {"input": "b"}]'])
def test_other_files_are_not_reports(tmp_path, content):
    (tmp_path / "x.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="not a report of one scan") as raised:
        read_report(tmp_path / "x.json")
    assert "model card" not in raised.value.cause


def test_within_scan_deviation_is_that_of_one_scan():
    random = np.random.default_rng(1)
    pairs = [({1: a, 2: 0.0}, {1: b, 2: 0.0}) for a, b in 10 * (1 + 0.03 * random.normal(size=(4000, 2)))]
    found = within_scan_deviations(pairs)
    assert found.keys() == {1}  # of the other there is nothing
    assert found[1] == pytest.approx(0.03, rel=0.05)


def test_rescans_do_not_dilute_what_scans_of_a_patient_show():
    quiet, noisy = [({1: 10.0, 2: 5.0}, {1: 10.1, 2: 6.0})] * 9, [({1: 10.0}, {1: 12.0})]
    alone = within_scan_deviations(noisy)[1]
    assert larger_deviations(noisy, quiet) == {1: alone, 2: within_scan_deviations(quiet)[2]}
    assert alone > 2 * within_scan_deviations([*noisy, *quiet])[1]


def test_changes_are_read_by_chance_and_by_the_skull():
    scans = [report(*[10.0] * 30) | {"intracranial": {"volume_ml": ml}} for ml in (1500.0, 1530.0)]
    noise = {f"part {n + 1}": 0.03 for n in range(20)}
    by_chance, skull = remarks(*scans, compare_reports(*scans, noise, None))
    assert "about 1.0 of 20 structures" in by_chance
    assert skull.endswith("1500 and 1530 ml (+2.0 %)")
    assert remarks(*scans, compare_reports(*scans, {}, None)) == []


def test_a_table_holds_no_formulas():
    first = report(1.0)
    first["structures"][0]["name"] = "=1+1"
    rows = list(csv.DictReader(as_csv(compare_reports(first, first, {}, None)).lstrip("\ufeff").splitlines()))
    assert rows[0]["name"] == "'=1+1" and float(rows[0]["earlier_ml"]) == 1.0


@pytest.fixture(scope="module")
def crop(shared_data) -> tuple[sitk.Image, sitk.Image]:
    """A real crop and its labels."""
    folder = shared_data / "hippocampus"
    image = read_volume(folder / "imagesTr" / "hippocampus_003_0000.nii.gz")
    return image, read_label_volume(folder / "labelsTr" / "hippocampus_003.nii.gz")


def test_scans_are_brought_into_one_place(crop):
    image, labels = crop
    middle = image.TransformContinuousIndexToPhysicalPoint([(size - 1) / 2 for size in image.GetSize()])
    motion = sitk.Euler3DTransform(middle, 0.1, -0.06, 0.12, (9.0, -7.0, 5.0))
    turn = np.reshape(motion.GetMatrix(), (3, 3))
    later = [sitk.Image(each) for each in crop]
    for each in later:
        each.SetOrigin(motion.TransformPoint(each.GetOrigin()))
        each.SetDirection((turn @ np.reshape(each.GetDirection(), (3, 3))).ravel())
    assert overlap(labels, later[1], sitk.Transform(3, sitk.sitkIdentity)) < 0.5
    found = register(image, labels, *later)
    for index in ([0.0, 0.0, 0.0], [20.0, 30.0, 15.0]):
        place = image.TransformContinuousIndexToPhysicalPoint(index)
        assert np.linalg.norm(np.subtract(found.TransformPoint(place), motion.TransformPoint(place))) < 1.0
    aligned, aligned_labels = align(image, labels, *later)
    arrays = [sitk.GetArrayFromImage(each) > 0 for each in (labels, aligned_labels)]
    assert 2 * (arrays[0] & arrays[1]).sum() / sum(array.sum() for array in arrays) > 0.9
    assert np.corrcoef(*(sitk.GetArrayFromImage(each).ravel() for each in (image, aligned)))[0, 1] > 0.8


def test_scans_of_different_places_are_not_brought_together(crop):
    image, labels = crop
    with pytest.raises(InputError, match="no structure in common"):
        register(image, labels, image, sitk.Cast(labels > 9, sitk.sitkUInt8))
    corner = sitk.Cast(labels > 9, sitk.sitkUInt8)
    corner[0, 0, 0] = 1
    with pytest.raises(InputError, match="could not be aligned"):
        register(image, labels, image, corner)


def test_a_rescan_shows_the_same_anatomy_moved(sample_file):
    image = read_volume(sample_file)
    first, again, second = rescan(image, 1), rescan(image, 1), rescan(image, 2)
    arrays = [sitk.GetArrayFromImage(each) for each in (image, first, again, second)]
    assert (arrays[1] == arrays[2]).all() and (arrays[1] != arrays[3]).any()
    assert (first.GetSize(), first.GetOrigin(), first.GetDirection()) == (
        image.GetSize(),
        image.GetOrigin(),
        image.GetDirection(),
    )
    assert 0.3 < np.corrcoef(arrays[0].ravel(), arrays[1].ravel())[0, 1] < 0.999


def test_the_command_compares_volumes_and_reports(tiny_model, sample_file, tmp_path, capsys):
    later = tmp_path / "later_0000.nii.gz"
    sitk.WriteImage(rescan(read_volume(sample_file), 5), str(later))
    files = {name: tmp_path / name for name in ("a.json", "b.json", "c.csv", "c.png")}
    for volume, name in ((sample_file, "a.json"), (later, "b.json")):
        call = ["run", str(volume), "-m", str(tiny_model), "-o", str(tmp_path / "x.nii.gz")]
        assert main([*call, "--report", str(files[name])]) == 0
    capsys.readouterr()
    call = ["compare", str(files["a.json"]), str(files["b.json"]), "--days", "365.25", "--json"]
    assert main(call) == 0
    content = json.loads(capsys.readouterr().out)
    expected = {entry["value"]: entry["volume_ml"] for entry in json.loads(files["b.json"].read_text())["structures"]}
    assert {entry["value"]: entry["later_ml"] for entry in content["changes"]} == pytest.approx(expected, abs=1e-3)
    dates = ["--dates", "2020-01-01", "2022-01-01", "--json"]
    assert main(["compare", str(files["a.json"]), str(files["b.json"]), *dates]) == 0
    assert json.loads(capsys.readouterr().out)["days"] == 731
    assert main([*call, "-m", "brain-mr"]) == 2
    assert "by another model than brain-mr" in capsys.readouterr().err
    volumes = [str(sample_file), str(later), "-m", str(tiny_model)]
    assert main(["compare", *volumes, "-o", str(files["c.csv"]), "--picture", str(files["c.png"])]) == 0
    out = capsys.readouterr()
    assert "was not measured" in out.err and "earlier ml" in out.out
    rows = list(csv.DictReader(files["c.csv"].read_text(encoding="utf-8-sig").splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert [float(row["change_ml"]) for row in rows] == pytest.approx(
        [e["change_ml"] for e in content["changes"]], abs=1e-3
    )
    assert files["c.png"].read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["a.nii.gz", "b.nii.gz"], "No model is named"),
        (["a.json", "b.json", "--picture", "x.png"], "no images to draw"),
        (["a.json", "b.json", "-o", "x.txt"], "does not end in .json or .csv"),
        (["a.json", "b.json", "-o", "a.json"], "a.json"),
        (["a.nii.gz", "b.nii.gz", "-m", "x", "--series", "1"], "--series"),
        (["a.json", "b.json", "--days", "3", "--dates", "2020-01-01", "2021-01-01"], "--days and --dates"),
        (["a.json", "b.json"], "cannot be read"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(arguments, cause, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2 and cause in lines[0]
    assert not list(tmp_path.iterdir())


def test_the_time_between_is_that_of_the_dicom_files(tiny_model, sample_file, tmp_path, capsys):
    for name, date in (("first", "20200101"), ("second", "20220101")):
        write_series(Volume.of(read_volume(sample_file)), tmp_path / name, StudyDate=date)
    assert str(acquisition_date(scan_tags(tmp_path / "first"))) == "2020-01-01"
    assert scan_tags(sample_file) is None
    folders = [str(tmp_path / name) for name in ("first", "second")]
    assert main(["compare", *folders, "-m", str(tiny_model), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["days"] == 731
    assert all(entry["change_ml"] == 0 for entry in content["changes"])
    assert not [finding for finding in content["findings"] if finding["scan"] == "both"]
    assert main(["compare", *reversed(folders), "-m", str(tiny_model)]) == 2
    assert "Exchange the two." in capsys.readouterr().err


def test_scans_of_two_patients_are_noticed(tiny_model, sample_file, tmp_path, capsys):
    volume = Volume.of(read_volume(sample_file))
    for name, patient, born in (("first", "17", "19500101"), ("second", "71", ""), ("third", "17", "19500101")):
        write_series(volume, tmp_path / name, PatientID=patient, PatientBirthDate=born)
    folders = {name: str(tmp_path / name) for name in ("first", "second", "third")}
    assert main(["compare", folders["first"], folders["second"], "-m", str(tiny_model)]) == 0
    assert "tags (PatientID), the scans are of different patients. Unless" in capsys.readouterr().err
    assert main(["compare", folders["first"], folders["third"], "-m", str(tiny_model)]) == 0
    assert "different patients" not in capsys.readouterr().err


def test_what_was_doubtful_about_a_reported_scan_is_told_again(tmp_path, capsys):
    cut = {"code": "cut-off", "message": "At the edge: part 1.", "consequence": "It may be too small."}
    for name, findings in (("a.json", []), ("b.json", [cut])):
        (tmp_path / name).write_text(json.dumps(report(2, 1) | {"findings": findings}), encoding="utf-8")
    files = [str(tmp_path / name) for name in ("a.json", "b.json")]
    assert main(["compare", *files, "--json"]) == 0
    told = capsys.readouterr()
    assert f"{files[1]}: Warning: At the edge: part 1. It may be too small." in told.err
    assert json.loads(told.out)["findings"] == [{"scan": "later"} | cut]


def test_what_is_no_report_is_not_called_a_model_card(tmp_path, capsys):
    (tmp_path / "several.json").write_text(json.dumps([report(1, 1)]), encoding="utf-8")
    assert main(["compare", *[str(tmp_path / "several.json")] * 2]) == 2
    cause = capsys.readouterr().err.splitlines()[0]
    assert cause.endswith("several.json is not a report of one scan: report must be a JSON object.")


def test_one_scan_given_twice_is_told(tmp_path, capsys):
    """No change would be found in the patient, whatever happened to him."""
    for name, volume in (("a.json", 2), ("copy.json", 2), ("b.json", 3)):
        (tmp_path / name).write_text(json.dumps(report(volume, 1)), encoding="utf-8")
    told = {}
    for name in ("a.json", "copy.json", "b.json"):
        assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / name), "--json"]) == 0
        told[name] = [finding["code"] for finding in json.loads(capsys.readouterr().out)["findings"]]
    assert told == {"a.json": ["same-scan"], "copy.json": ["same-scan"], "b.json": []}


def test_one_folder_is_given_twice_for_two_series(tiny_model, sample_file, tmp_path, capsys):
    for number in (1, 2):
        write_series(Volume.of(read_volume(sample_file)), tmp_path / "both" / str(number), SeriesNumber=number)
    folder, model = [str(tmp_path / "both")] * 2, ["-m", str(tiny_model), "--json"]
    told = []
    for later in ("1", "2"):
        assert main(["compare", *folder, *model, "--series", "1", "--series", later]) == 0
        findings = json.loads(capsys.readouterr().out)["findings"]
        told.append("same-scan" in [finding["code"] for finding in findings])
    assert told == [True, False]


def test_what_was_segmented_in_another_way_is_told(tiny_model, sample_file, tmp_path, capsys):
    """The noise of a model was measured with all views; a structure may extend beyond a region."""
    sitk.WriteImage(sitk.ReadImage(str(sample_file)) * 0 + 1, str(tmp_path / "roi.nii.gz"))
    files = {name: str(tmp_path / f"{name}.json") for name in ("whole", "fast", "roi")}
    options: dict[str, list[str]] = {"whole": [], "fast": ["--fast"], "roi": ["--roi", str(tmp_path / "roi.nii.gz")]}
    for name, more in options.items():
        call = ["run", str(sample_file), "-m", str(tiny_model), "-o", str(tmp_path / "x.nii.gz"), *more]
        assert main([*call, "--report", files[name]]) == 0
    told = {}
    for name in files:
        capsys.readouterr()
        assert main(["compare", files["whole"], files[name], "--json"]) == 0
        findings = json.loads(capsys.readouterr().out)["findings"]
        told[name] = [f["message"] for f in findings if f["scan"] == "both" and f["code"] != "same-scan"]
    start = "The scans were segmented in different ways: the later scan"
    assert told == {
        "whole": [],
        "fast": [f"{start} with fewer views."],
        "roi": [f"{start} in a region of interest only."],
    }


def test_what_cannot_be_compared_is_told_before_anything_is_segmented(
    tiny_model, sample_file, tmp_path, monkeypatch, capsys
):
    def segment(*arguments, **options):
        raise AssertionError("this takes minutes")

    monkeypatch.setattr(Engine, "segment", segment)
    (tmp_path / "other.json").write_text(json.dumps(report(1, 1)), encoding="utf-8")
    model = ["-m", str(tiny_model)]
    assert main(["compare", str(tmp_path / "other.json"), str(sample_file), *model]) == 2
    assert "A report was made by another model" in capsys.readouterr().err
    assert main(["compare", str(sample_file), str(sample_file), *model, "--dates", "2022-01-01", "2020-01-01"]) == 2
    assert "Exchange the two." in capsys.readouterr().err


def test_both_sides_of_a_head_are_compared_and_drawn(segmented_head, tmp_path, monkeypatch, capsys):
    """Noise was measured for the model's own two structures: it is that of each side."""
    outlined = []
    draw = drawing.draw_slices

    def drawn(image, labels, structures, *others):
        outlined.append({label.value for label in structures})
        return draw(image, labels, structures, *others)

    monkeypatch.setattr(drawing, "draw_slices", drawn)
    call = ["compare", *[str(segmented_head)] * 2, "-m", "hippocampus-t1", "--accept-licence", "--device", "cpu"]
    assert main([*call, "--picture", str(tmp_path / "c.png"), "--json"]) == 0
    changes = {change["value"]: change for change in json.loads(capsys.readouterr().out)["changes"]}
    assert [changes[value]["name"].split()[0] for value in (1, 2, 3, 4)] == ["left", "left", "right", "right"]
    assert changes[1]["noise_percent"] == changes[3]["noise_percent"] is not None
    assert changes[2]["noise_percent"] == changes[4]["noise_percent"] is not None
    assert outlined == [{1, 2, 3, 4}] * 2


def test_a_crop_and_a_head_have_nothing_in_common():
    crop, head = report(1.0), report(1.0)
    head["structures"][0]["name"] = "left part 1"
    with pytest.raises(UsageError, match="no structure in common"):
        compare_reports(crop, head, {}, None)


def test_a_scan_has_no_noise_to_itself(tiny_model, sample_file, tmp_path, capsys):
    """The least change that exceeds noise would be none."""
    shutil.copy(sample_file, tmp_path / "copy.nii.gz")
    before = (tiny_model / "model.json").read_bytes()
    pair = ["--pair", str(sample_file), str(tmp_path / "copy.nii.gz")]
    assert main(["measure", "repeatability", str(tiny_model), *pair, "--write"]) == 2
    cause, remedy = capsys.readouterr().err.strip().splitlines()
    assert "are one scan, not two" in cause and "--scan" in remedy
    assert (tiny_model / "model.json").read_bytes() == before

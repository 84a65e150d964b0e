"""The sheet of a batch: what ``sesegment run --sheet`` writes, and how marks come back by ``--skip-passed``."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.sheet import synthetic_scans
from SESegmentationExport import sheet
from SESegmentationLib.cli import main
from SESegmentationLib.errors import DeviceError, UsageError
from SESegmentationLib.files import changing
from SESegmentationLib.models import find_model
from SESegmentationLib.report import without_folders


@pytest.fixture
def batch(tiny_model, sample_file, tmp_path, capfd):
    """Function that runs files of a folder with a name that has spaces: exit code, stderr, scans of the page."""
    folder = tmp_path / "John Doe" / "in"
    folder.mkdir(parents=True)
    for name in "ab":
        shutil.copy(sample_file, folder / f"{name}.nii.gz")
    (folder / "broken.nii.gz").write_bytes(b"no volume")

    def called(*options: object, names: str = "a b broken"):
        files = [folder / f"{name}.nii.gz" for name in names.split()]
        arguments = [*files, "-m", tiny_model, "-o", tmp_path / "out", "--device", "cpu", "--sheet", tmp_path / "s"]
        capfd.readouterr()
        code = main(["run", *map(str, [*arguments, *options])])
        scans = {scan["name"]: scan for scan in scans_of(tmp_path / "s" / sheet.PAGE)}
        return code, capfd.readouterr().err, scans

    called.folder = folder
    return called


def scans_of(path: Path) -> list[dict]:
    """The scans of a page, by what it holds itself; none where there is none."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = re.search(r'id="data">(.*?)</script>', text)
    return json.loads(found[1]).get("scans", []) if found else []


def save_marks(path: Path, scans: dict[str, dict], **marks: str) -> Path:
    """A file of marks as the page saves it."""
    kept = [
        {key: scans[name][key] for key in ("name", "sha256", "date")}
        | {"model": scans[name]["model"]["name"], "mark": mark}
        for name, mark in marks.items()
    ]
    path.write_text(json.dumps({"format": sheet.FORMAT, "saved": "now", "scans": kept}), encoding="utf-8")
    return path


def test_a_batch_and_its_failures_on_one_page(batch, tmp_path):
    code, err, scans = batch()
    assert code == 2, err
    page = (tmp_path / "s" / sheet.PAGE).read_text(encoding="utf-8")
    assert list(scans) == ["a", "b", "broken"]
    assert page.index("<h2>broken</h2>") < min(page.index("<h2>a</h2>"), page.index("<h2>b</h2>")), "failures first"
    assert scans["broken"]["error"]["cause"] in err
    assert scans["broken"]["picture"] is None
    report = scans["a"]["structures"]
    assert [structure["name"] for structure in report] == ["anterior hippocampus", "posterior hippocampus"]
    assert [structure["color"] for structure in report] != ["#808080"] * 2
    assert scans["a"]["picture"][:4] == "UklG", "a picture as WebP (RIFF)"
    assert not re.search(r"John Doe|/tmp|\.nii\.gz/", page), "no folders of absolute paths"
    assert str(tmp_path) not in page
    drawings = r"url\(.data:image/svg[^)]*\)"
    assert not re.search(r"//\w+\.\w+", re.sub(drawings, "", page)), "nothing from elsewhere"


def test_what_passed_is_skipped_by_its_content(batch, tmp_path, sample_file):
    (batch.folder / "b.nii.gz").write_bytes(sample_file.read_bytes() + b"\0")  # another content than that of a
    _, _, first = batch(names="a b")
    marks = save_marks(tmp_path / "marks.json", first, a="pass", b="look again")
    shutil.move(batch.folder / "a.nii.gz", batch.folder / "renamed.nii.gz")
    (tmp_path / "out" / "a.nii.gz").unlink()
    code, err, scans = batch("--skip-passed", marks, names="renamed b")
    assert code == 0, err
    assert "1 of 2 volumes passed before and are skipped." in err
    assert not list((tmp_path / "out").glob("*a.nii.gz")) and not list((tmp_path / "out").glob("renamed*"))
    assert scans["a"]["mark"] == "pass" and scans["a"] == first["a"] | {"mark": "pass"}, "its row stays"
    assert scans["b"]["mark"] is None and scans["b"]["sha256"] == first["b"]["sha256"], (
        "segmented anew, to be looked at"
    )
    # another content of the same name has not been looked at
    marks = save_marks(tmp_path / "marks.json", scans, b="pass")
    (batch.folder / "b.nii.gz").write_bytes(sample_file.read_bytes())
    code, err, _ = batch("--skip-passed", marks, names="b")
    assert code == 0
    assert "b.nii.gz: it has changed since it passed, and is segmented again." in err


def test_a_table_and_a_report_do_not_lose_what_passed(batch, tmp_path, sample_file):
    (batch.folder / "b.nii.gz").write_bytes(sample_file.read_bytes() + b"\0")  # another content than that of a
    files = {"--table": tmp_path / "table.tsv", "--report": tmp_path / "report.json"}
    _, _, scans = batch(*(word for option in files.items() for word in option), names="a b")
    before = [path.read_bytes() for path in files.values()]
    marks = save_marks(tmp_path / "marks.json", scans, a="pass")
    for option, path in files.items():
        code, err, _ = batch("--skip-passed", marks, option, path, names="a b")
        assert (code, len(err.splitlines())) == (2, 2), err
        assert f"{path} exists" in err and option in err
    new = tmp_path / "again.json"
    code, err, _ = batch("--skip-passed", marks, "--report", new, names="a b")
    assert code == 0, err
    assert [Path(report["input"]).name for report in json.loads(new.read_text(encoding="utf-8"))] == ["b.nii.gz"]
    marks = save_marks(tmp_path / "marks.json", scans, a="pass", b="pass")
    for report in (files["--report"], tmp_path / "none.json"):
        code, err, _ = batch("--skip-passed", marks, "--table", files["--table"], "--report", report, names="a b")
        assert code == 0, err
    assert [path.read_bytes() for path in files.values()] == before
    assert not (tmp_path / "none.json").exists(), "a report of nothing"


def test_all_passed_is_nothing_to_do(batch, tmp_path, tiny_model):
    _, _, scans = batch(names="a")
    marks = save_marks(tmp_path / "marks.json", scans, a="pass")
    before = (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns
    code, err, _ = batch("--skip-passed", marks, names="a")
    assert (code, (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns) == (0, before), err
    content = json.loads(marks.read_text(encoding="utf-8"))
    content["scans"][0]["model"] = "another-model"
    marks.write_text(json.dumps(content), encoding="utf-8")
    assert "0 of 1 volumes passed" in batch("--skip-passed", marks, names="a")[1], "it passed by another model"


@pytest.mark.parametrize(
    "content", ["", "[]", '{"scans": []}', '{"format": "SESegmentation sheet 1", "scans": [{"mark": "pass"}]}', None]
)
def test_marks_that_are_none_are_refused_before_any_work(batch, tmp_path, content):
    marks = tmp_path / "marks.json"
    if content is not None:
        marks.write_text(content, encoding="utf-8")
    code, err, scans = batch("--skip-passed", marks)
    assert (code, len(err.splitlines()), scans) == (2, 2, {}), err
    assert "marks.json holds no marks of a sheet" in err and "$" not in err
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_a_batch_that_breaks_off_leaves_a_whole_page_of_what_was_done(batch, tmp_path, lost_device):
    code, err, scans = batch("--low-memory", names="a b")  # one after the other
    assert code == DeviceError.exit_code, err
    assert list(scans) == ["a"] and scans["a"]["picture"]
    assert (tmp_path / "s" / sheet.PAGE).read_text(encoding="utf-8").endswith("</html>")
    assert {path.name for path in (tmp_path / "s").iterdir()} <= {sheet.PAGE, f"{sheet.PAGE}.lock"}


def test_the_page_is_written_meanwhile_and_goes_on(batch, tmp_path, monkeypatch):
    monkeypatch.setattr(sheet, "_OFTEN_S", 0.0)
    monkeypatch.setattr(sheet, "_WRITING_SHARE", 1e9)
    written = []
    write = sheet.write_whole
    monkeypatch.setattr(sheet, "write_whole", lambda path, text: (written.append(text), write(path, text)))
    batch(names="a b")
    assert ["<h2>a</h2>" in text and "<h2>b</h2>" in text for text in written] == [False, True, True]
    _, _, scans = batch(names="a broken")
    assert list(scans) == ["a", "b", "broken"], "scans of an earlier run stay"


def test_batches_that_continue_one_page_at_the_same_time_lose_no_row(tmp_path):
    card, failed = find_model("hippocampus-t1").card, {"error": {"cause": "It is empty.", "remedy": ""}}
    path, volumes = tmp_path / sheet.PAGE, {tmp_path / name: name for name in "abc"}
    first, second = sheet.Sheet(tmp_path, card, volumes), sheet.Sheet(tmp_path, card, volumes)
    with first, second:
        first.add(tmp_path / "a", failed)
        second.add(tmp_path / "b", failed)
        first.add(tmp_path / "c", failed)
    assert {scan["name"] for scan in scans_of(path)} == {"a", "b", "c"}


def test_a_page_that_another_batch_writes_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(sheet, "_LONGEST_WAIT", 0.01)
    batch = sheet.Sheet(tmp_path, find_model("hippocampus-t1").card, {tmp_path / "a": "a"})
    with changing(tmp_path / sheet.PAGE):
        batch.add(tmp_path / "a", {"error": {"cause": "It is empty.", "remedy": ""}})
        with pytest.raises(UsageError, match="being changed by another program"):
            batch.write()
    assert not (tmp_path / sheet.PAGE).exists()
    batch.write()
    assert len(scans_of(tmp_path / sheet.PAGE)) == 1


@pytest.mark.parametrize("content", ["<p>mine</p>", '<script type="application/json" id="data">{}</script>'])
def test_what_is_no_sheet_is_not_written_over(batch, tmp_path, content):
    page = tmp_path / "s" / sheet.PAGE
    page.parent.mkdir()
    page.write_text(content, encoding="utf-8")
    code, err, _ = batch()
    assert (code, len(err.splitlines())) == (2, 2)
    assert "is not a sheet that can be continued" in err
    assert page.read_text(encoding="utf-8") == content
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_without_jinja_nothing_is_begun(batch, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, err, scans = batch()
    assert (code, scans) == (1, {})
    assert "jinja2" in err and "pip install" in err
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_outliers_by_median_and_mad():
    random = np.random.default_rng(0)
    scans = synthetic_scans(20, structures=2)
    for scan, ml in zip(scans, random.normal(100, 5, 20), strict=True):
        scan["structures"][0]["volume_ml"] = ml
        scan["structures"][1]["volume_ml"] = 7.0
    scans[3]["structures"][0]["volume_ml"] = 160.0
    scans[4]["structures"][0] |= {"voxels": 0, "volume_ml": 0.0}  # not found: no volume, and no outlier
    scans[5]["structures"][1]["volume_ml"] = 9.0  # all others are equal: no MAD
    rows = re.findall(r"<article.*?</article>", sheet.page(scans), re.DOTALL)
    outlying = {re.search("<h2>(.*?)</h2>", row)[1]: re.findall(r'outlier" title="([^"]*)"', row) for row in rows}
    outlying = {name: titles for name, titles in outlying.items() if titles}
    assert set(outlying) == {"sub-0003_T1w", "sub-0005_T1w"}
    found = np.array([scan["structures"][0]["volume_ml"] for scan in scans if scan["structures"][0]["voxels"]])
    deviation = (160 - np.median(found)) / (1.4826 * np.median(np.abs(found - np.median(found))))
    assert f"{deviation:.1f} robust standard deviations above" in outlying["sub-0003_T1w"][0]
    assert re.search("<h2>(.*?)</h2>", rows[0])[1] == "sub-0004_T1w", "what lacks a structure comes first"
    few = sheet.page([scan for scan in scans if scan["name"] < "sub-0009"])
    assert 'outlier" title' not in few, "a small batch does not tell"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/John Doe/in/a.nii.gz: damaged.", "a.nii.gz: damaged."),
        ("It lies in /home/doe/x y/model.json.", "It lies in x y/model.json."),
        (r"C:\Users\doe\scan.nii cannot be read", "scan.nii cannot be read"),
        ("~/study/b.nii and study/c.nii", "b.nii and study/c.nii"),
        ("5 mm/s, left/right, https://www.slicer.org/a/b", "5 mm/s, left/right, https://www.slicer.org/a/b"),
    ],
)
def test_texts_lose_folders_of_absolute_paths(text, expected):
    assert without_folders(text, Path("/data/John Doe/in/a.nii.gz")) == expected
    assert without_folders("5 mm/s in /a.nii", Path("/a.nii")) == "5 mm/s in /a.nii"
    assert without_folders("/x y/../z/a.nii is empty", Path("/x y/../z/a.nii")) == "a.nii is empty"

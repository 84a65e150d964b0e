"""Cohorts that go on: after a signal, with changed and damaged files, other options, on a full disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cohort_command import Command, interrupted, rows

from SESegmentationCohort.cases import CohortCase
from SESegmentationCohort.records import FAILED, SEGMENTED, Record, Records
from SESegmentationCohort.run import RESUME, describe_changed_settings
from SESegmentationCohort.settings import CohortSettings
from SESegmentationExport.dicom_options import DicomOptions
from SESegmentationLib.cli import main
from SESegmentationLib.files import write_whole

posix = pytest.mark.skipif(os.name == "nt", reason="there are no such signals")


@posix
def test_killed_and_gone_on_with(make_command, real_crops, tmp_path):
    command = make_command(real_crops, "hippocampus-t1")
    err = interrupted(command, signal.SIGINT)
    assert err.splitlines() == ["Cancelled.", "Finished files are complete; nothing else was written.", RESUME]
    assert not command.hidden()
    refused, err = command.run()
    assert (refused, len(err.splitlines())) == (2, 2)
    assert "--resume" in err
    interrupted(command, signal.SIGKILL, "--resume")
    done = {name: command.stamps()[f"{name}.nii.gz"] for name in command.records}
    assert 6 <= len(done) < len(real_crops)
    code, err = command.run("--resume")
    assert code == 0, err
    assert f"{len(done)} of them before, the others in " in err
    names = [path.name.removesuffix("_0000.nii.gz") for path in real_crops]
    assert sorted(command.records) == names
    assert {record.state for record in command.records.values()} == {"segmented"}
    after = command.stamps()
    assert sorted(after) == [f"{name}.nii.gz" for name in names]
    assert {name: after[f"{name}.nii.gz"] for name in done} == done
    assert not command.hidden()
    assert [row["scan"] for row in rows(command.out / "cohort.tsv")] == names
    assert (command.out / "sheet.html").is_file()
    some = real_crops[:: len(real_crops) // 3]
    assert main(["run", *map(str, some), "-m", "hippocampus-t1", "-o", str(tmp_path / "run"), "--device", "cpu"]) == 0
    for path in (tmp_path / "run").iterdir():
        assert path.read_bytes() == (command.out / path.name).read_bytes()


def test_what_failed_was_changed_or_is_not_whole_is_done_again(tmp_path, sample_file, tiny_model, threshold, capfd):
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    for name in "abcdefg":
        shutil.copy(sample_file, scans / f"{name}.nii.gz")
    (scans / "empty.nii.gz").touch()
    (scans / "rubbish.nrrd").write_bytes(b"rubbish" * 100)
    (scans / "nowhere.nii.gz").symlink_to(tmp_path / "absent")
    command = Command(scans, out, tiny_model)
    tables = {"cohort.tsv", "failures.tsv", "sheet.html"}
    said: list[str] = []

    def done(*options: object) -> tuple[int, set[str]]:
        """Exit code, and which results were written."""
        before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
        arguments = [scans, "-o", out, "-m", tiny_model, "--device", "cpu", "--workers", 1, *options]
        code = main(["cohort", *map(str, arguments)])
        said.append(capfd.readouterr().err)
        assert (str(out / "changed") in said[-1]) == (out / "changed").exists()
        after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
        return code, {path.name for path in after if after[path] != before.get(path) and path.parent == out} - tables

    assert done() == (2, {f"{name}.nii.gz" for name in "abcdefg"})
    failures = rows(out / "failures.tsv")
    assert [Path(row["input"]).name for row in failures] == ["empty.nii.gz", "nowhere.nii.gz", "rubbish.nrrd"]
    assert all(row["code"] == "input" and row["cause"] and row["remedy"] for row in failures)
    assert [row["state"] for row in rows(out / "cohort.tsv")].count("failed") == 3

    (scans / "nowhere.nii.gz").unlink()
    shutil.copy(sample_file, scans / "nowhere.nii.gz")  # mended
    shutil.copy(sample_file.parent / sample_file.name, scans / "a.nii.gz")  # the same content anew
    with open(scans / "b.nii.gz", "ab") as file:  # another content
        file.write(b"\0" * 8)
    content = (out / "c.nii.gz").read_bytes()
    (out / "c.nii.gz").write_bytes(content[:-1])  # cut off
    (out / "d.nii.gz").unlink()
    (out / "records" / "e.json").write_text("{", encoding="utf-8")
    (scans / "f.nii.gz").write_bytes(b"no volume")  # of no use any more
    (scans / "rubbish.nrrd").unlink()
    (scans / "empty.nii.gz").unlink()
    assert done("--resume") == (2, {f"{name}.nii.gz" for name in ("b", "c", "d", "e", "nowhere")})
    assert (out / "c.nii.gz").read_bytes() == content
    assert (out / "changed" / "c.nii.gz").read_bytes() == content[:-1]  # it may be what somebody has corrected
    assert not (out / "f.nii.gz").exists()
    assert command.records["f"].state == "failed"
    assert done("--resume") == (2, set())
    assert not any("segmented again" in err for err in said)

    shutil.copy(sample_file, scans / "f.nii.gz")
    code, written = done("--resume", "--format", "seg.nrrd")
    assert code == 0
    assert written == {f"{name}.seg.nrrd" for name in (*"abcdefg", "nowhere")}
    assert not list(out.glob("*.nii.gz"))
    assert said[-1].startswith("7 of 8 scans are segmented again, as these differ from before: --format.\n")


def test_why_scans_are_done_again_is_told(tmp_path):
    """With other options --resume computes for hours again: it is said before, and which they are."""
    settings, records = CohortSettings("tiny", tmp_path, model_key="1"), Records(tmp_path)
    cases = [CohortCase(name, tmp_path / name) for name in "abc"]

    def write(name: str, state: str = SEGMENTED, told: dict | None = settings.recorded) -> None:
        about = {"report": {}} if state == SEGMENTED else {"error": {}}
        record = Record(name, name, "tiny", state, settings.key(name), name, settings=told, **about)
        write_whole(records.path(name), record.to_json())

    def told(**changes: object) -> str:
        return describe_changed_settings(cases, replace(settings, **changes), records)

    (tmp_path / "records").mkdir()
    write("a")
    write("b", FAILED)  # is repeated anyway
    assert told() == told(device="cuda", resume=True) == ""
    again = "of 3 scans are segmented again, as these differ from before"
    assert told(fast=True, file_format="seg.nrrd") == f"1 {again}: --format, --fast."
    assert told(dicom=DicomOptions(report=True), model_key="2") == f"1 {again}: --sr, the files of the model."
    write("b", told=None)  # by a version that did not record them
    assert told(fast=True) == f"2 {again}: --fast."
    (tmp_path / "records" / "a.json").unlink()
    assert told(fast=True) == f"1 {again}: options, or the files of the model."


def test_a_scan_that_cannot_be_read_now_keeps_its_result(tmp_path, sample_file, tiny_model, threshold, capfd):
    """As on a disk that is not connected; only what is known to be of another content goes."""
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    for name in "abcd":
        shutil.copy(sample_file, scans / f"{name}.nii.gz")
    (tmp_path / "list.txt").write_text("".join(f"scans/{name}.nii.gz\n" for name in "abcd"), encoding="utf-8")
    command = Command(tmp_path / "list.txt", out, tiny_model)
    arguments = [command.source, "-o", out, "-m", tiny_model, "--device", "cpu", "--workers", 1]

    def done(*options: object) -> int:
        return main(["cohort", *map(str, [*arguments, *options])])

    assert done() == 0
    (out / "b.nii.gz").write_bytes(b"corrected")
    before, records = command.stamps(), command.records
    scans.rename(tmp_path / "away")
    assert done("--resume") == 2
    assert "4 failed" in capfd.readouterr().err
    assert command.stamps() == before
    assert (out / "b.nii.gz").read_bytes() == b"corrected"
    assert {row["state"] for row in rows(out / "cohort.tsv")} == {"segmented"}
    assert [Path(row["input"]).name for row in rows(out / "failures.tsv")] == [f"{name}.nii.gz" for name in "abcd"]

    command.source.write_text("scans/a.nii.gz\nscans/b.nii.gz\nother/c.nii.gz\nscans/d.nii.gz\n", encoding="utf-8")
    assert done("--resume") == 2
    assert not (out / "c.nii.gz").exists(), "it is of another scan"
    (out / "changed" / "c.nii.gz").rename(out / "c.nii.gz")
    (out / "records" / "c.json").write_text(records["c"].to_json(), encoding="utf-8")
    (tmp_path / "away").rename(scans)
    (tmp_path / "other").mkdir()  # another patient's scan of the same name
    (tmp_path / "other" / "d.nii.gz").write_bytes(sample_file.read_bytes() + bytes(8))
    command.source.write_text("scans/a.nii.gz\nscans/b.nii.gz\nscans/c.nii.gz\nother/d.nii.gz\n", encoding="utf-8")
    result = (out / "d.nii.gz").read_bytes()
    (out / "b.nii.gz").unlink()
    (scans / "c.nii.gz").write_bytes(b"no volume")  # of no use any more
    (out / "c.nii.gz").write_bytes(b"corrected")
    assert done("--resume") == 2
    assert command.stamps()["a.nii.gz"] == before["a.nii.gz"]
    assert {name: command.records[name].state for name in "abcd"} == dict.fromkeys("abd", "segmented") | {"c": "failed"}
    assert command.records["a"] == records["a"]
    assert (out / "changed" / "c.nii.gz").read_bytes() == b"corrected"
    assert (out / "changed" / "d.nii.gz").read_bytes() == result and (out / "d.nii.gz").is_file()
    assert [Path(row["input"]).name for row in rows(out / "failures.tsv")] == ["c.nii.gz"]


def test_a_full_disk_ends_it_and_it_goes_on_when_there_is_room(tmp_path, sample_file, tiny_model, threshold, capfd):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        (tmp_path / "scans").mkdir()
        for number in range(10):
            shutil.copy(sample_file, tmp_path / "scans" / f"{number}.nii.gz")
        command = Command(tmp_path / "scans", disk / "out", tiny_model)
        arguments = [command.source, "-o", command.out, "-m", tiny_model, "--device", "cpu", "--workers", 1, "--resume"]
        assert main(["cohort", *map(str, arguments)]) == 1
        err = capfd.readouterr().err
        assert f"the disk {disk} is full" in err
        assert not command.hidden()
        whole = {name for name, record in command.records.items() if record.state == "segmented"}
        assert 0 < len(whole) < 10
        assert {f"{name}.nii.gz" for name in whole} == set(command.stamps())
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        assert main(["cohort", *map(str, arguments)]) == 0
        assert {record.state for record in command.records.values()} == {"segmented"}
        assert len(command.stamps()) == len(command.records) == 10
    finally:
        subprocess.run(["umount", str(disk)], check=True)

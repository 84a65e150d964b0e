"""Whole cohorts: interrupted and gone on with, with changed and damaged files, in parts, on a full disk."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path, PureWindowsPath

import psutil
import pytest
from cohort_command import ENVIRONMENT, Command

from dicom_writer import Volume, write_series
from SESegmentationCohort import processes, records
from SESegmentationCohort.cases import CohortCase
from SESegmentationCohort.records import FAILED, SEGMENTED, Record, Records
from SESegmentationCohort.run import RESUME, WorkDistribution, run_cohort, why_again
from SESegmentationCohort.settings import CohortSettings
from SESegmentationExport.dicom_options import DicomOptions
from SESegmentationLib.cli import main
from SESegmentationLib.errors import DeviceError
from SESegmentationLib.files import write_whole

DOCUMENT = Path(__file__).parents[2] / "docs" / "cohorts.md"
posix = pytest.mark.skipif(os.name == "nt", reason="there are no such signals")


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def interrupted(command: Command, number: int, *options: object) -> str:
    """Begin, send a signal in the middle, and see that nothing is left running; what it said."""
    before = len(command.stamps())
    process = command.start(*options)
    until = time.monotonic() + 120
    while len(command.stamps()) < before + 4 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive
    return err


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

    def write(name: str, state: str = SEGMENTED, told: dict | None = settings.told) -> None:
        about = {"report": {}} if state == SEGMENTED else {"error": {}}
        record = Record(name, name, "tiny", state, settings.key(name), name, settings=told, **about)
        write_whole(records.path(name), record.to_json())

    def told(**changes: object) -> str:
        return why_again(cases, replace(settings, **changes), records)

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


def test_the_table_has_each_scan_of_the_cohort_once(tmp_path, sample_file, tiny_model, threshold, capfd):
    """Though names change when scans are added, scans are removed, and one scan may be listed by two names."""
    for patient in ("P1", "P2"):
        (tmp_path / patient).mkdir()
        shutil.copy(sample_file, tmp_path / patient / "T1.nii.gz")
    out, text, table = tmp_path / "out", tmp_path / "list.txt", tmp_path / "list.tsv"

    def scans(source: Path, content: str) -> list[str]:
        source.write_text(content, encoding="utf-8")
        arguments = [source, "-o", out, "-m", tiny_model, "--device", "cpu", "--workers", 1, "--resume"]
        assert main(["cohort", *map(str, arguments)]) == 0
        return [row["scan"] for row in rows(out / "cohort.tsv")]

    assert scans(text, "P1/T1.nii.gz\n") == ["T1"]
    assert "outside this cohort" not in capfd.readouterr().err
    names = scans(text, "P1/T1.nii.gz\nP2/T1.nii.gz\n")
    assert [name[-5:] for name in names] == ["P1_T1", "P2_T1"]
    assert f"outside this cohort in {out / 'records'}: 1;" in capfd.readouterr().err
    page = (out / "sheet.html").read_text(encoding="utf-8")
    assert [f"<h2>{name}</h2>" in page for name in (*names, "T1")] == [True, True, False]
    assert scans(table, "path\tname\nP1/T1.nii.gz\tfirst\nP1/T1.nii.gz\tsecond\n") == ["first", "second"]
    assert f"outside this cohort in {out / 'records'}: 3;" in capfd.readouterr().err


def test_derivatives_of_a_bids_dataset_and_results_as_dicom(tmp_path, sample_file, tiny_model, capfd):
    import SimpleITK as sitk

    pytest.importorskip("highdicom", reason="needs highdicom (extra export)")
    volume = Volume.of(sitk.DICOMOrient(sitk.ReadImage(str(sample_file)), "LPS"))
    uids = [write_series(volume, tmp_path / "pacs" / "study", names=f"{name}{{:03}}") for name in "ab"]
    common = ["-m", tiny_model, "--device", "cpu", "--workers", 1]
    arguments = [tmp_path / "pacs", "-o", tmp_path / "dicom", "--format", "dcm", "--sr", *common]
    assert main(["cohort", *map(str, arguments)]) == 0
    written = sorted(path.name for path in (tmp_path / "dicom").glob("*.dcm"))
    assert written == sorted(f"{uid}{ending}" for uid in uids for ending in (".dcm", ".sr.dcm"))
    arguments = [tmp_path / "pacs", "-o", tmp_path / "series", "--bids", "--shard", "1/2", *common]
    assert main(["cohort", *map(str, arguments)]) == 0
    (about,) = (tmp_path / "series").glob("sub-*/anat/*_dseg.json")
    (record,) = Records(tmp_path / "series").all()
    assert json.loads(about.read_text(encoding="utf-8"))["SourceSHA256"] == record.content is not None
    anatomy = tmp_path / "bids" / "sub-1" / "anat"
    anatomy.mkdir(parents=True)
    shutil.copy(sample_file, anatomy / "sub-1_T1w.nii.gz")
    out = tmp_path / "bids" / "derivatives" / "sesegment"
    for more in ([], ["--resume"]):
        assert main(["cohort", *map(str, [tmp_path / "bids", "-o", out, "--bids", *common, *more])]) == 0
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    expected = {
        f"sub-1/anat/sub-1_desc-sesegment_{kind}" for kind in ("dseg.nii.gz", "dseg.json", "dseg.tsv", "volumes.tsv")
    }
    about = {"dataset_description.json", "README.md", ".bidsignore", "volumes.json"}
    of_cohort = {"records/sub-1/anat/sub-1_T1w.json", "cohort.tsv", "failures.tsv", "sheet.html"}
    assert files == expected | about | of_cohort
    assert {"records/", "cohort.tsv"} <= set((out / ".bidsignore").read_text(encoding="utf-8").split())
    assert len(Command(tmp_path, out, tiny_model).records["sub-1/anat/sub-1_T1w"].outputs) == 4
    code = main(["cohort", *map(str, [tmp_path / "pacs", "-o", out, "-m", "brain-mr", "--resume", "--device", "cpu"])])
    assert code == 2
    assert "holds a cohort by the model tiny-t1, not brain-mr" in capfd.readouterr().err


@posix
def test_a_crash_costs_one_case_and_a_broken_device_ends_all(tmp_path, tiny_model, threshold, monkeypatch, capfd):
    import SimpleITK as sitk

    (tmp_path / "scans").mkdir()
    for number in range(8):
        image = sitk.GaussianSource(sitk.sitkFloat32, [20, 20, 20], [5] * 3, [10] * 3)
        image[0, 0, 0] = {3: 7, 5: 8}.get(number, 1)
        sitk.WriteImage(image, str(tmp_path / "scans" / f"{number}.nii.gz"))
    settings = CohortSettings(str(tiny_model), tmp_path / "out", device="cpu")
    command = Command(tmp_path / "scans", tmp_path / "out", tiny_model)
    monkeypatch.setenv("BROKEN", "1")
    with pytest.raises(DeviceError, match="out of order"):
        run_cohort(command.source, settings, WorkDistribution(workers=1), accept_licence=False)
    assert not command.records
    monkeypatch.delenv("BROKEN")
    assert run_cohort(command.source, settings, WorkDistribution(workers=1), accept_licence=False) == 1
    told = {name: (record.state, (record.error or {}).get("code")) for name, record in command.records.items()}
    expected = {str(number): ("segmented", None) for number in range(8)}
    assert told == expected | {"3": ("failed", "worker"), "5": ("failed", "device")}


@posix
def test_a_process_that_is_killed_costs_no_scan(tmp_path, sample_file, tiny_model, monkeypatch, capfd):
    """As on a computer with many cores, where lanes are processes of their own."""
    monkeypatch.setattr(processes, "MOST_HERE", 1)
    (tmp_path / "scans").mkdir()
    for number in range(12):
        shutil.copy(sample_file, tmp_path / "scans" / f"{number:02}.nii.gz")
    command, killed = Command(tmp_path / "scans", tmp_path / "out", tiny_model), []

    def kill() -> None:
        while not killed:
            children = multiprocessing.active_children()
            if len(children) == 2 and command.stamps():
                killed.append(children[0])
                children[0].kill()
            time.sleep(0.01)

    threading.Thread(target=kill, daemon=True).start()
    settings = CohortSettings(str(tiny_model), command.out, device="cpu")
    assert run_cohort(command.source, settings, WorkDistribution(workers=2), accept_licence=False) == 0
    assert killed
    assert len(command.stamps()) == len(command.records) == 12
    assert {record.state for record in command.records.values()} == {"segmented"}
    assert not command.hidden()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("place", ["../a", "/a", "..\\a", "b\\..\\..\\a", "C:a", "C:\\a", "\\\\server\\share\\a", ""])
def test_a_record_lists_files_below_the_results_only(place, monkeypatch):
    """They are moved and removed; on Windows there are more ways to lead elsewhere."""
    monkeypatch.setattr(records, "PurePath", PureWindowsPath)
    entry = {"name": "a", "input": "a.nii", "model": "m", "state": "segmented", "key": "k", "report": {}}
    kept = {"format": records.FORMAT, **entry, "content": None, "seconds": 1.0, "error": None, "picture": None}
    assert Record.from_dict(kept | {"outputs": {"b/a.nii.gz": "digest"}}).outputs
    with pytest.raises(ValueError, match="outputs"):
        Record.from_dict(kept | {"outputs": {place: "digest"}})


@pytest.mark.parametrize(("found", "lanes"), [((16.0, 4.6), 3), ((16.0, 0.2), 1), ((None, 0.0), 8)])
def test_there_are_no_more_lanes_than_the_memory_holds(tmp_path, monkeypatch, found, lanes):
    """As every system tells it, and not Linux alone."""
    monkeypatch.setattr(processes, "memory_gb", lambda: found)
    monkeypatch.setattr(processes, "cores", lambda: 8)
    assert len(processes.local_lanes(CohortSettings("brain-mr", tmp_path, device="cpu"), None, small=True)) == lanes


#: starts a lane that is a process; the parent of a process is told as Windows tells it, also when that is gone
LANE = """
import os, sys, time
parent = os.getppid()
os.getppid = lambda: parent
from pathlib import Path
from SESegmentationCohort.processes import _Process
from SESegmentationCohort.settings import CohortSettings

if __name__ == "__main__":
    lane = _Process(CohortSettings(sys.argv[1], Path(sys.argv[2]), device="cpu"), {})
    lane.start()
    print(lane._manager._process.pid, flush=True)
    time.sleep(100)
"""


def test_a_lane_ends_with_a_killed_command_also_on_windows(tmp_path, tiny_model):
    (tmp_path / "lane.py").write_text(LANE, encoding="utf-8")
    call = [sys.executable, str(tmp_path / "lane.py"), str(tiny_model), str(tmp_path / "out")]
    with subprocess.Popen(call, stdout=subprocess.PIPE, env=ENVIRONMENT, encoding="utf-8") as command:
        lane = psutil.Process(int(command.stdout.readline()))
        command.kill()
    try:
        lane.wait(20)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            lane.kill()


@posix
def test_the_job_array_of_the_documents(tmp_path, sample_file, tiny_model):
    script = tmp_path / "cohort.sh"
    (found,) = re.findall(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    script.write_text(found, encoding="utf-8")
    (tmp_path / "scans").mkdir()
    for number in range(7):
        shutil.copy(sample_file, tmp_path / "scans" / f"{number}.nii.gz")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "sesegment"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m SESegmentationLib.cli "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    of_slurm = {"SLURM_ARRAY_TASK_COUNT": "3", "PATH": f"{program.parent}:{os.environ['PATH']}"}
    jobs = [
        subprocess.Popen(
            ["bash", str(script), "scans", "out", str(tiny_model)],
            cwd=tmp_path,
            env={**ENVIRONMENT, **of_slurm, "SLURM_ARRAY_TASK_ID": str(task)},
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        for task in (1, 2, 3)
    ]
    told = [job.communicate(timeout=120)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0, 0], told
    assert sorted(re.search(r"(\d) of \d scans segmented", err)[1] for err in told) == ["2", "2", "3"]
    assert any("Table: " in err for err in told)
    command = Command(tmp_path / "scans", tmp_path / "out", tiny_model)
    assert sorted(command.records) == [row["scan"] for row in rows(command.out / "cohort.tsv")] == list("0123456")
    assert len(command.stamps()) == 7


@posix
def test_a_name_too_long_for_its_record_is_told_before_any_work(tmp_path, sample_file, tiny_model, capfd):
    """It could not even be recorded as failed, and the cohort would end at it each time."""
    scans, out = tmp_path / "scans", tmp_path / "out"
    (scans / "site").mkdir(parents=True)
    for name in ("a", "site/" + "x" * 251):  # with ".nii" as long as a name can be
        (scans / f"{name}.nii").symlink_to(sample_file)
    assert main(["cohort", str(scans), "-o", str(out), "-m", str(tiny_model), "--device", "cpu"]) == 2
    assert "the name is longer than the disk allows" in capfd.readouterr().err
    assert not [path for path in out.rglob("*") if path.is_file()]


def test_a_path_too_long_for_windows_is_told_before_any_work(tmp_path, sample_file, tiny_model, monkeypatch, capfd):
    scans, out, touch = tmp_path / "scans", tmp_path / "out", Path.touch
    (scans / "site").mkdir(parents=True)
    for name in ("a.nii", f"site/{'x' * (230 - len(str(out)))}.nii"):
        shutil.copy(sample_file, scans / name)

    def touched(path, *arguments, **options):
        if len(str(path)) > 259:
            raise FileNotFoundError(errno.ENOENT, "The system cannot find the path specified")
        touch(path, *arguments, **options)

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(Path, "touch", touched)
    assert main(["cohort", str(scans), "-o", str(out), "-m", str(tiny_model), "--device", "cpu"]) == 2
    assert "its path is longer than Windows allows" in capfd.readouterr().err
    assert not [path for path in out.rglob("*") if path.is_file()]


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

"""Whole cohorts: their tables, records and formats, in parts, with crashes and long names."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path, PureWindowsPath

import psutil
import pytest
from cohort_command import ENVIRONMENT, Command, rows

from dicom_writer import Volume, write_series
from SESegmentationCohort import processes, records
from SESegmentationCohort.records import Record, Records
from SESegmentationCohort.run import WorkDistribution, run_cohort
from SESegmentationCohort.settings import CohortSettings
from SESegmentationLib.cli import main
from SESegmentationLib.errors import DeviceError

DOCUMENT = Path(__file__).parents[2] / "docs" / "cohorts.md"
posix = pytest.mark.skipif(os.name == "nt", reason="there are no such signals")


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

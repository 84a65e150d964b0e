"""Any name of a file, any output stream: nothing is misread, nothing acts on the terminal, no result is called lost."""

from __future__ import annotations

import csv
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from SESegmentationLib import cli
from SESegmentationLib.cli import show
from SESegmentationLib.cli.file_jobs import case_name, plan_jobs
from SESegmentationLib.errors import UsageError
from SESegmentationLib.files import OutputFiles
from SESegmentationLib.files.json_files import to_json
from SESegmentationLib.inference.device import choose_device
from SESegmentationLib.io.writing import write_image
from SESegmentationLib.plain_text import printable
from SESegmentationLib.report import check_report_name, write_report

LIBRARY = Path(__file__).parents[2] / "SESegmentation"
posix = pytest.mark.skipif(os.name == "nt", reason="names are text there, and streams other ones")
IMAGE = sitk.GetImageFromArray(np.arange(60, dtype=np.uint8).reshape(3, 4, 5))


def command(arguments: list, shell: str = "", **changes: str) -> subprocess.CompletedProcess:
    """``sesegment`` with its streams led by a shell."""
    call = [sys.executable, "-m", "SESegmentationLib.cli", *arguments]
    quoted = ["bash", "-c", f'"$@" {shell}; exit ${{PIPESTATUS[0]}}', "bash", *call] if shell else call
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY), **changes}
    return subprocess.run(quoted, env=environment, capture_output=True, timeout=200, check=False)


# --- names


NAME = st.binary(min_size=1, max_size=20).map(lambda name: name.translate(None, b"\0/")).filter(lambda n: n.strip(b"."))


@posix
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(NAME, min_size=2, max_size=2), ending=st.sampled_from([".nii.gz", ".NRRD", ".seg.nrrd", ".Nii"]))
def test_images_and_reports_of_any_name_are_written(tmp_path_factory, names, ending):
    folder, name = (os.fsdecode(part) for part in names)
    path = tmp_path_factory.mktemp("names") / folder / f"{name}{ending}"
    with OutputFiles() as files:
        write_image(files.begin(path), IMAGE)
        write_report(files.begin(path.with_name("report.json")), {"input": str(path)})
        write_report(files.begin(path.with_name("report.csv")), failed(str(path)))
    assert json.loads(path.with_name("report.json").read_text(encoding="utf-8"))["input"] == str(path)
    plain = shutil.copy(path, path.parents[1] / f"image{ending.lower()}")
    assert (sitk.GetArrayFromImage(sitk.ReadImage(str(plain))) == sitk.GetArrayFromImage(IMAGE)).all()
    assert len(list(path.parent.iterdir())) == 3


def failed(name: str) -> list[dict]:
    return [{"input": name, "error": {"cause": "Cause.", "remedy": "Remedy."}}]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_a_name_is_no_formula_of_a_spreadsheet(tmp_path, start):
    write_report(tmp_path / "r.csv", failed(f"{start}cmd|'/c calc'!A1.nii"))
    with open(tmp_path / "r.csv", encoding="utf-8-sig", newline="") as file:
        cell = next(csv.DictReader(file))["input"]
    assert cell == f"'{start}cmd|'/c calc'!A1.nii"


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=30))
def test_no_text_acts_on_a_terminal(text):
    for shown in (printable(text), to_json({"a": text}, indent=None)):
        assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    assert json.loads(to_json({"a": text}))["a"] == text
    to_json({"a": text}).encode("utf-8")
    to_json({"a": text}, encoding="latin-1").encode("ascii")


@pytest.mark.parametrize("name", ["[red]a[/red]", "[/]", ":smile:", "[link=x]a", "\x1b]0;title\x07", "a\x1b[2Jb"])
def test_what_is_printed_of_names_is_no_markup(capfd, name):
    structure = {"value": 1, "name": name, "voxels": 1, "volume_ml": 1.0, "confidence": 1.0, "expected_dice": 0.5}
    finding = {"code": "a", "message": f"{name} is odd.", "consequence": ""}
    show.print_segmentation(
        {
            "input": name, "output": f"{name}.nii", "model": {"name": name, "version": "1"}, "structures": [structure],
            "findings": [finding], "timings_s": {"a": 1.0}, "device": "cpu",
        }
    )  # fmt: skip
    with show.ProgressBar(name) as progress:
        progress(name, 0.5, None)
    out, err = capfd.readouterr()
    assert out.count(printable(name)) >= 3
    assert printable(name) in err
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", out + err)


@posix
def test_a_volume_of_any_name_is_segmented_and_told(tiny_model, sample_file, tmp_path):
    """The whole command: bytes that are no text in the folder's name, brackets and escapes in the file's."""
    folder = os.path.join(os.fsencode(tmp_path), b"f\xe9\xff")
    os.mkdir(folder)
    out = os.path.join(folder, b"[red]\x1b[31m=1.nii.gz")
    report = os.path.join(folder, b"r\xff.json")
    done = command(
        ["run", sample_file, "-m", tiny_model, "-o", out, "--report", report, "--picture", folder + b"/p.png"]
    )
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"[red]\\x1b[31m=1.nii.gz" in done.stdout
    assert sorted(os.listdir(folder)) == sorted([os.path.basename(out), b"p.png", b"r\xff.json"])
    assert os.fsencode(json.loads(Path(os.fsdecode(report)).read_text(encoding="utf-8"))["output"]) == out


# --- what results are called


def test_equal_names_of_several_folders_get_their_folders(tmp_path):
    sources = [f"sub-{n}/{part}/T1w.nii.gz" for n in (1, 2) for part in ("anat", "rest")] + ["sub-1/anat/T2w.nii"]
    jobs = plan_jobs([tmp_path / source for source in sources], tmp_path / "out")
    assert [job.output.name for job in jobs] == [
        "sub-1_anat_T1w.nii.gz", "sub-1_rest_T1w.nii.gz", "sub-2_anat_T1w.nii.gz", "sub-2_rest_T1w.nii.gz",
        "T2w.nii.gz",
    ]  # fmt: skip
    jobs = plan_jobs([Path("x/a.nii"), Path("y/A_0000.mha"), Path("x/a.nii")], tmp_path / "out")
    assert [job.output.name for job in jobs] == ["x_a.nii.gz", "y_A.nii.gz"]
    with pytest.raises(UsageError, match="would both be written"):
        plan_jobs([Path("x/a.nii"), Path("y/a.nii"), Path("z/x_a.nii")], tmp_path / "out")


def test_equal_names_of_one_folder_get_their_endings(tmp_path):
    jobs = plan_jobs([Path("x/a.nii"), Path("x/a.mha"), Path("x/b.nii.gz")], tmp_path / "out")
    assert [job.output.name for job in jobs] == ["a_nii.nii.gz", "a_mha.nii.gz", "b.nii.gz"]


def test_a_link_keeps_its_own_name(tmp_path, monkeypatch):
    """As in annexed datasets, where the content is called by its hash."""
    (tmp_path / "annex").mkdir()
    (tmp_path / "annex" / "SHA256E-s1--0a.nii.gz").touch()
    (tmp_path / "sub-01_T1w.nii.gz").symlink_to("annex/SHA256E-s1--0a.nii.gz")
    (tmp_path / "series").symlink_to("annex")
    monkeypatch.chdir(tmp_path)
    assert case_name(Path("sub-01_T1w.nii.gz")) == "sub-01_T1w"
    assert case_name(Path("series")) == "series"
    assert case_name(Path("annex/.")) == case_name(Path("annex/../annex")) == "annex"


@pytest.mark.parametrize("ending", [".NII.GZ", ".SEG.NRRD", ".Nii", ".nii.GZ"])
def test_endings_may_be_in_capitals(tmp_path, ending):
    assert [job.output for job in plan_jobs([Path("a.NRRD")], tmp_path / f"x{ending}")] == [tmp_path / f"x{ending}"]


def test_devices_may_be_in_capitals():
    assert choose_device("CPU") == choose_device(" Cpu ") == choose_device("cpu")


@pytest.mark.parametrize("name", ["r.xlsx", "r.txt", "r", "r.nii.gz", "json"])
def test_a_report_of_an_unknown_type_is_refused(name):
    with pytest.raises(UsageError, match="neither in .json nor in .csv"):
        check_report_name(Path(name))
    check_report_name(Path("R.JSON"))
    check_report_name(Path("R.Csv"))


# --- streams


@posix
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_any_encoding_of_the_output_will_do(encoding):
    models = command(["models", "--json"], PYTHONIOENCODING=encoding)
    assert models.returncode == 0, models.stderr
    assert json.loads(models.stdout.decode(encoding))
    for arguments in (["models"], ["run", "é/ü.nii".encode(), "-o", "x", "-m", "€".encode()]):
        done = command(arguments, PYTHONIOENCODING=encoding)
        (done.stdout + done.stderr).decode(encoding)
        assert b"Unexpected" not in done.stderr
        assert b"Traceback" not in done.stderr
    assert done.returncode == 3


@posix
@pytest.mark.parametrize("shell", [">&- 2>&- <&-", "2>&1 | head -c 1", "> /dev/full"])
def test_a_finished_result_is_no_failure_where_only_printing_fails(tiny_model, sample_file, tmp_path, shell):
    if "/dev/full" in shell and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    for name in ("a.nii.gz", "b.nii.gz"):
        shutil.copy(sample_file, tmp_path / name)
    call = ["run", tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", "-m", tiny_model, "-o", tmp_path / "out"]
    done = command(call, shell)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "b.nii.gz"]
    for path in (tmp_path / "out").iterdir():
        sitk.ReadImage(str(path))
    assert b"Traceback" not in done.stderr
    assert b"Unexpected" not in done.stderr


@posix
def test_what_could_only_be_printed_and_was_not_is_told():
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    done = command(["models", "--json"], "> /dev/full")
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[0] == "What was printed is lost: No space left on device."
    assert command(["models", "--json"], "| head -c 1").stderr == b""


#: prints as the command does in a console of Windows; what C libraries print is suppressed
IN_A_CONSOLE = """
import os
from SESegmentationLib.cli import replace_standard_streams, say, warn
os.name = "nt"
replace_standard_streams()
os.write(2, b"what a library prints\\n")
say("a result")
warn("an error \\N{GREEK SMALL LETTER ALPHA} \\udcff")
"""


@posix
def test_a_console_of_windows_shows_what_is_printed_and_not_what_libraries_print():
    console, end = os.openpty()
    call = [sys.executable, "-c", IN_A_CONSOLE]
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY), "PYTHONUTF8": "1"}
    try:
        assert subprocess.run(call, env=environment, stdin=end, stdout=end, stderr=end, check=False).returncode == 0
        assert os.read(console, 1000).decode().split("\r\n") == ["a result", "an error α \\udcff", ""]
    finally:
        os.close(console)
        os.close(end)


def test_a_console_of_windows_obeys_escapes(monkeypatch):
    changes = []

    def mode_of(console, mode):
        mode._obj.value = 3
        return console.value == 40

    def change(console, mode):
        changes.append((console.value, mode))

    kernel = SimpleNamespace(GetConsoleMode=mode_of, SetConsoleMode=change)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(get_osfhandle=lambda number: 10 * number))
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    for number in (4, 5):  # the latter is none
        cli._obey_escapes(number)
    assert changes == [(40, 3 | 4)]


def test_warnings_of_libraries_are_not_printed(tmp_path):
    """pydicom, for example, warns of a PatientID that is too long, wherever it is looked at."""
    code = (
        "from SESegmentationLib import cli; import warnings; cli.replace_standard_streams({}); warnings.warn('strange')"
    )
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY)}
    for options, quiet, printed in (([], True, False), ([], False, True), (["-W", "default"], True, True)):
        call = [sys.executable, *options, "-c", code.format(quiet)]
        done = subprocess.run(call, env=environment, capture_output=True, timeout=100, check=True)
        assert (b"strange" in done.stderr) == printed

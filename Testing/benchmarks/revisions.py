"""Two revisions of the program compared: results, messages, exit codes, time, memory. Run by ``make bench-revisions``.

Every command is run by both, in turn, on the volumes of ``../shared/data``. Label maps have to be the same byte for
byte; what differs is printed, and ends the run with exit code 1. Times and memory are medians; read the ratios. A
revision of which the weights differ gives other label maps, of course.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk
from run import Measured, watched

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"


@dataclass(frozen=True)
class Case:
    """One command that both revisions run.

    Attributes:
        name: for the table.
        arguments: of ``sesegment``; OUT stands for a folder of its own.
        repeats: how often it is timed; 0: it is run once, for its results alone.
    """

    name: str
    arguments: tuple[str, ...]
    repeats: int = 0


def cases(quick: bool) -> Iterator[Case]:
    """The commands, for what is there of the data."""
    head = ROOT / "SESegmentation" / "Resources" / "SampleData" / "SESegmentationHead.nii.gz"
    crops = sorted((DATA / "hippocampus" / "imagesTr").glob("*_0000.nii.gz"))[:4]
    for number, crop in enumerate(crops):
        yield Case(f"crop {number + 1}", run(crop, "hippocampus-t1"), 5 if number == 0 else 0)
    for crop in crops[:1]:
        labels = crop.parents[1] / "labelsTr" / crop.name.replace("_0000", "")
        corrected = ("--corrected", str(labels), "--slices", "j:15,20")
        yield Case("crop, one view", run(crop, "hippocampus-t1", "--fast", output="x.seg.nrrd"))
        yield Case("crop, ROI", run(crop, "hippocampus-t1", "--roi", str(labels)))
        yield Case("crop, refined", ("refine", *run(crop, "hippocampus-t1", *corrected)[1:]))
    for scan in sorted((DATA / "abdomen-mr" / "imagesTr").glob("*.nii.gz"))[:1]:
        yield Case("abdomen", run(scan, "abdomen-mr", "--accept-licence"), 5)
    yield Case("no such file", run(Path("absent.nii.gz"), "hippocampus-t1"))
    yield Case("no such model", run(head, "absent"))
    yield Case("unknown ending", run(head, "hippocampus-t1", output="x.stl"))
    yield Case("head for a model of crops", run(head, "hippocampus-t1"))
    yield Case("head", run(head, "brain-mr"), 3)
    if not quick:
        for volume in sorted((DATA / "volumes").glob("t*.nii.gz")):
            if "aparc" not in volume.name:
                yield Case(volume.name, run(volume, "brain-mr", "--fast"))


def run(volume: Path, model: str, *options: str, output: str = "x.nii.gz") -> tuple[str, ...]:
    """The arguments that segment a volume."""
    return ("run", str(volume), "--model", model, "--output", f"OUT/{output}", *options)


@dataclass(frozen=True)
class Outcome:
    """What a command gave: exit code, messages without times and folders, and the label maps by their voxels."""

    code: int
    messages: str
    labels: dict[str, str]


def outcome_of(tree: Path, case: Case) -> tuple[Outcome, Measured]:
    """Run a command by the program in ``tree``."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            argument.replace("OUT", folder, 1) if argument.startswith("OUT") else argument
            for argument in case.arguments
        ]
        environment = {**os.environ, "PYTHONPATH": str(tree / "SESegmentation"), "OMP_NUM_THREADS": "2"}
        measured = watched([sys.executable, "-m", "SESegmentationLib.cli", *arguments], environment, folder)
        text = measured.output.replace(folder, "OUT").replace(str(tree), "TREE").replace(str(ROOT), "TREE")
        text = re.sub(r"\d+(\.\d+)? s\b", "# s", text)
        maps = {path.name: _digest(path) for path in sorted(Path(folder).glob("x.*"))}
        return Outcome(measured.code, text, maps), measured


def _digest(path: Path) -> str:
    image = sitk.ReadImage(str(path))
    place = repr((image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()))
    return hashlib.sha256(place.encode() + sitk.GetArrayFromImage(image).tobytes()).hexdigest()[:16]


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """A folder with the files of a revision; of a folder, itself."""
    if Path(revision).is_dir():
        yield Path(revision).resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", tree, revision], check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", tree], check=True)


def main() -> int:
    """Compare; 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", help="a revision, or a folder with one")
    parser.add_argument("--quick", action="store_true", help="without the ten heads")
    options = parser.parse_args()
    differing = 0
    with checked_out(options.before) as before:
        trees = (before, ROOT)
        for case in cases(options.quick):
            measured: tuple[list[Measured], list[Measured]] = ([], [])
            outcomes: list[Outcome] = []
            for turn in range(max(case.repeats, 1)):
                for which in (0, 1) if turn % 2 == 0 else (1, 0):
                    outcome, measurement = outcome_of(trees[which], case)
                    measured[which].append(measurement)
                    if turn == 0:
                        outcomes.append(outcome)
            differing += _tell(case, *outcomes)
            if case.repeats:
                for what in ("seconds", "peak_mb"):
                    old, new = (statistics.median(getattr(each, what) for each in runs) for runs in measured)
                    print(f"    {what}: {old:.2f} -> {new:.2f}, ratio {new / old:.3f}", flush=True)
    print(f"{differing} commands differ.")
    return int(differing > 0)


def _tell(case: Case, old: Outcome, new: Outcome) -> bool:
    same = old == new
    print(f"{case.name}: {'the same' if same else 'differs'}", flush=True)
    if old.code != new.code:
        print(f"    exit code {old.code} -> {new.code}")
    if old.labels != new.labels:
        print(f"    label maps {old.labels} -> {new.labels}")
    if old.messages != new.messages:
        print(f"    before:\n{old.messages}\n    after:\n{new.messages}")
    return not same


if __name__ == "__main__":
    sys.exit(main())

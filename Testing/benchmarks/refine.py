"""Do a few corrected slices improve the slices that nobody corrected? By ``make bench-refine``.

Corrections are simulated as clinicians make them: slices of one plane or of several, chosen by their errors, their
doubt, their place; drawn exactly, coarsely, or a single stroke in each; see
:mod:`SESegmentationTraining.learnt_correction`. Cases are those that the model's training kept out for test,
each as it is, under one shift (bias field, noise, low contrast, thick slices, another contrast; in turn), and under two
at once. Measured is the mean Dice of the structures on all slices that were not corrected, before and after, with 95 %
confidence intervals by bootstrap over cases. "Regained" is the share of the Dice missing to 1 that is regained; "worse"
the share of volumes that lose more than 0.01.

With --pair other scans are measured, with labels of which those that the model does not have count as background. Of a
model that learns from synthesised images, such images of its validation cases are measured.
With --compare, recalibration of SE blocks is measured too: with the guard of hidden slices, and without it, which was
the default before. Slices count as right as a whole but for single strokes, as `sesegment refine --slices` takes them;
with --edits-only, only what was changed in them does, as the panel asks.

    python Testing/benchmarks/refine.py             the table, from Resources/refine.json where it is
    python Testing/benchmarks/refine.py --measure   measured again: table, Resources/refine.json and its plot
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from kept import HIPPOCAMPUS, Kept, arguments, opened, read_figures, write_figures
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import bootstrap

from SESegmentationLib.geometry import AXES, Slices
from SESegmentationLib.inference.crops import Crop
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.io.reading import read_label_volume, read_volume
from SESegmentationLib.models import ModelPackage, find_model, sha256_of
from SESegmentationLib.refine.corrections import Corrections
from SESegmentationLib.refine.cross_validation import recalibrate_cross_validated
from SESegmentationLib.refine.learnt_correction import weights_for
from SESegmentationLib.refine.recalibration import RecalibrationSettings
from SESegmentationLib.refine.refinement import refine
from SESegmentationLib.result import SegmentationResult, SegmentOptions
from SESegmentationTraining.calibration import SHIFTS
from SESegmentationTraining.dataset import Case
from SESegmentationTraining.mistakes import shifted
from SESegmentationTraining.simulated_corrections import Slice, choose_slices, simulate_correction

#: test cases that are measured
CASES = 40
#: of these, with the two kinds of recalibration, which take long: where --compare asks for them
COMPARED_CASES = 10
#: numbers of corrected slices; recalibration is measured with one of them
CORRECTED = (1, 2, 4, 8)
COMPARED = 2
METHODS = ("learnt correction", "cross-validated recalibration", "recalibration")
VOLUMES = ("as they are", "one shift", "two shifts")
#: axis of patients across the slices of a plane: x, y or z
ACROSS = {"sagittal": 0, "coronal": 1, "axial": 2}
console = Console(width=130)


@dataclass(frozen=True)
class Habit:
    """How somebody corrects.

    Attributes:
        name: in words.
        policy: how slices are chosen.
        plane: in which they lie.
        manner: what is changed in them.
    """

    name: str
    policy: str
    plane: str = "coronal"
    manner: str = "exact"


HABITS = (
    Habit("most wrong, coronal", "wrong"),
    Habit("most wrong, axial", "wrong", "axial"),
    Habit("most wrong, sagittal", "wrong", "sagittal"),
    Habit("most doubtful", "doubtful"),
    Habit("neighbours", "neighbours"),
    Habit("evenly spread", "spread"),
    Habit("mixed planes", "mixed"),
    Habit("one structure", "wrong", manner="one structure"),
    Habit("drawn coarsely", "wrong", manner="coarse"),
    Habit("single strokes", "wrong", manner="stroke"),
)
#: numbers of slices and habits of a quick measurement
QUICK_CORRECTED = (2, 4)
QUICK_HABITS = ("most wrong, coronal", "most doubtful", "neighbours", "evenly spread", "mixed planes", "single strokes")
#: those with which recalibration is measured
COMPARED_HABITS = ("most doubtful", "neighbours", "evenly spread")


@dataclass(frozen=True)
class Trial:
    """One refinement to be measured.

    Attributes:
        case: name.
        shifts: under which the volume is.
        habit: name of the :class:`Habit`.
        corrected: number of slices.
        method: one of ``METHODS``.
        edits_only: of whatever slices only what was changed counts as right, as the panel asks.
    """

    case: str
    shifts: tuple[str, ...]
    habit: str
    corrected: int
    method: str = METHODS[0]
    edits_only: bool = False


class Remembering(Engine):
    """An engine that segments the volume at hand once, however often it is asked."""

    def __init__(self, package: ModelPackage) -> None:
        super().__init__(package, "cpu")
        self._known: tuple[SegmentationResult, list[tuple[Crop, torch.Tensor]]] | None = None

    def forget(self) -> None:
        """Another volume is at hand."""
        self._known = None

    def segment(self, image: sitk.Image, options: SegmentOptions = SegmentOptions(), **others) -> SegmentationResult:
        """As of any engine."""
        if self._known is None:
            seen: list[tuple[Crop, torch.Tensor]] = []
            result = super().segment(image, SegmentOptions(doubt=True), observe=lambda *crop: seen.append(crop))
            self._known = result, seen
        result, seen = self._known
        for crop in seen if others.get("observe") else ():
            others["observe"](*crop)
        return result


class Bench:
    """Measures trials, each once.

    Args:
        package: the model.
        cases: by name.
    """

    def __init__(self, package: ModelPackage, cases: dict[str, Case]) -> None:
        self.engine = Remembering(package)
        self.values = [label.value for label in package.card.labels]
        self.cases = cases
        self.kept = Kept("refine", package)
        #: tell those of the learnt correction from others, as its card does
        weights = weights_for(package.card.name)
        self.weights = "-".join(sha256_of(path)[:12] for path in (weights, weights.with_suffix(".json")))
        self._volume = lru_cache(1)(self._read)

    def measure(self, trial: Trial) -> dict[str, float]:
        """Dice on the slices not corrected, "before" and "after"; seconds that it takes beside the segmentation."""
        return self.kept.get(json.dumps(asdict(trial) | {"by": self.weights}), lambda: self._measure(trial))

    def _measure(self, trial: Trial) -> dict[str, float]:
        image, truth, own, doubt = self._volume(trial.case, trial.shifts)
        habit = next(habit for habit in HABITS if habit.name == trial.habit)
        axis = axis_across(image, habit.plane)
        chosen = choose_slices(habit.policy, own, truth, doubt, trial.corrected, axis)
        made = simulate_correction(own, truth, chosen, habit.manner)
        before = self._dice(own, truth, ~made.seen)
        if not made.edited.any():  # who finds nothing to correct asks for nothing
            return {"before": before, "after": before, "seconds": 0.0, "cpu_seconds": 0.0}
        labels = sitk.GetImageFromArray(made.labels)
        labels.CopyInformation(image)
        started, cpu_started = time.monotonic(), time.process_time()
        whole = habit.manner != "stroke" and not trial.edits_only
        after = self._refined(trial.method, image, labels, named(chosen), whole)
        seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
        after = self._dice(sitk.GetArrayFromImage(after), truth, ~made.seen)
        return {"before": before, "after": after, "seconds": seconds, "cpu_seconds": cpu_seconds}

    def _refined(
        self, method: str, image: sitk.Image, labels: sitk.Image, slices: list[Slices], whole: bool
    ) -> sitk.Image:
        if method == METHODS[0]:
            return refine(self.engine, image, labels, slices, whole_slices=whole).result.labels
        corrections = Corrections.in_slices(labels, slices)
        settings, options = RecalibrationSettings(), SegmentOptions()
        arguments = (self.engine, image, corrections, slices, settings, options, None, lambda share: None)
        adapted = recalibrate_cross_validated(*arguments, cross_validated=method == METHODS[1])
        networks = None if adapted is None else adapted.networks(self.engine.package)
        return Engine(self.engine.package, "cpu", networks).segment(image).labels

    def _read(self, name: str, shifts: tuple[str, ...]) -> tuple[sitk.Image, np.ndarray, np.ndarray, np.ndarray]:
        """Volume, truth, the model's own labels and its doubt."""
        image, truth = read_volume(self.cases[name].image), read_label_volume(self.cases[name].label)
        image = shifted(image, shifts, seed=zlib.crc32(name.encode()))
        self.engine.forget()
        own = self.engine.segment(image, SegmentOptions(doubt=True))
        arrays = [sitk.GetArrayFromImage(each) for each in (truth, own.labels, own.doubt)]
        known = np.where(np.isin(arrays[0], self.values), arrays[0], 0)
        return image, known.astype(arrays[1].dtype), *arrays[1:]

    def _dice(self, labels: np.ndarray, truth: np.ndarray, where: np.ndarray) -> float:
        pairs = [((labels == value) & where, (truth == value) & where) for value in self.values]
        return float(np.mean([2 * (a & b).sum() / max(a.sum() + b.sum(), 1) for a, b in pairs]))


def axis_across(image: sitk.Image, plane: str) -> int:
    """The axis of an image's array (k, j, i) that lies most across a plane."""
    directions = np.abs(np.reshape(image.GetDirection(), (3, 3)))
    return 2 - int(directions[ACROSS[plane]].argmax())


def named(chosen: Sequence[Slice]) -> list[Slices]:
    """Slices by the letters of their axes."""
    letters = {axis: letter for letter, axis in AXES.items()}
    axes = dict.fromkeys(axis for axis, _ in chosen)
    return [Slices(letters[axis], tuple(sorted(number for a, number in chosen if a == axis))) for axis in axes]


def volumes(names: Sequence[str]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Kind, case and shifts of every volume: the shifts, and the pairs of them, in turn."""
    single = list(SHIFTS)
    pairs = [(one, other) for one in single for other in single if one != other]
    for number, name in enumerate(names):
        yield VOLUMES[0], name, ()
        yield VOLUMES[1], name, (single[number % len(single)],)
        yield VOLUMES[2], name, pairs[(7 * number) % len(pairs)]


def trials(names: Sequence[str], compare: bool, quick: bool, edits_only: bool = False) -> Iterator[tuple[str, Trial]]:
    """Everything that is measured, each with the kind of its volume."""
    habits = QUICK_HABITS if quick else [habit.name for habit in HABITS]
    for kind, name, shifts in volumes(names):
        for habit in habits:
            for corrected in QUICK_CORRECTED if quick else CORRECTED:
                yield kind, Trial(name, shifts, habit, corrected, edits_only=edits_only)
    for kind, name, shifts in volumes(names[:COMPARED_CASES] if compare else []):
        for habit in COMPARED_HABITS:
            for method in METHODS[1:]:
                yield kind, Trial(name, shifts, habit, COMPARED, method)


def regained(before: np.ndarray, after: np.ndarray, axis: int = -1) -> np.ndarray:
    """Share of the missing Dice that is regained, over all cases together."""
    return (after - before).sum(axis) / (1 - before).sum(axis)


def gain(before: np.ndarray, after: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean change of the Dice."""
    return (after - before).mean(axis)


def with_interval(statistic, entries: Sequence[dict[str, float]]) -> dict[str, float]:
    """A statistic of "before" and "after", and its 95 % confidence interval by bootstrap over cases."""
    pair = tuple(np.array([entry[key] for entry in entries]) for key in ("before", "after"))
    value = float(statistic(*pair))
    if len(entries) < 2 or np.ptp(pair[1] - pair[0]) == 0:
        return {"mean": value, "low": value, "high": value}
    found = bootstrap(
        pair, statistic, paired=True, vectorized=True, method="percentile", n_resamples=5000, rng=0
    ).confidence_interval
    return {"mean": value, "low": float(found.low), "high": float(found.high)}


def summarise(entries: Sequence[dict[str, float]]) -> dict:
    """Figures of several trials of one kind."""
    change = np.array([entry["after"] - entry["before"] for entry in entries])
    cases = [
        [entry for entry in entries if entry["case"] == case] for case in {entry["case"]: None for entry in entries}
    ]
    by_case = [{key: float(np.mean([entry[key] for entry in case])) for key in ("before", "after")} for case in cases]
    return {
        "volumes": len(entries),
        "before": float(np.mean([entry["before"] for entry in entries])),
        "after": float(np.mean([entry["after"] for entry in entries])),
        "gain": with_interval(gain, by_case),
        "regained": with_interval(regained, by_case),
        "worse": float((change < -0.01).mean()),
        "cpu_seconds": float(np.mean([entry["cpu_seconds"] for entry in entries])),
    }


def figures(bench: Bench, measured: Sequence[tuple[str, Trial]]) -> list[dict]:
    """The rows of the table: by method, kind of volume, habit ("all" together too) and number of slices."""
    groups: dict[tuple, list[dict[str, float]]] = {}
    for kind, trial in measured:
        for habit in ("all", trial.habit):
            groups.setdefault((trial.method, kind, habit, trial.corrected), []).append(
                {"case": trial.case, **bench.measure(trial)}
            )
    order = {"all": -1} | {habit.name: number for number, habit in enumerate(HABITS)}
    ranked = sorted(groups, key=lambda key: (METHODS.index(key[0]), VOLUMES.index(key[1]), order[key[2]], key[3]))
    keys = ("method", "volumes_are", "habit", "corrected")
    return [dict(zip(keys, key, strict=True)) | summarise(groups[key]) for key in ranked]


def print_rows(rows: Sequence[dict]) -> None:
    """The table."""
    table = Table(title="Mean Dice on the slices that nobody corrected; 95 % confidence intervals over cases")
    for column in ("volumes", "corrected", "slices", "n", "before", "after", "gain", "regained", "worse", "CPU s"):
        table.add_column(column)
    method = None
    for row in rows:
        if row["method"] != method:
            method = row["method"]
            table.add_section()
            table.add_row(f"[bold]{method}")
        table.add_row(
            row["volumes_are"],
            row["habit"],
            str(row["corrected"]),
            str(row["volumes"]),
            f"{row['before']:.3f}",
            f"{row['after']:.3f}",
            _interval(row["gain"], "+.3f"),
            _interval(row["regained"], ".0%"),
            f"{row['worse']:.0%}",
            f"{row['cpu_seconds']:.1f}",
        )
    console.print(table)


def _interval(entry: dict[str, float], form: str) -> str:
    return f"{entry['mean']:{form}} ({entry['low']:{form}} to {entry['high']:{form}})"


def plot(rows: Sequence[dict], path: Path) -> None:
    """What is regained by the number of corrected slices, for each kind of volume: all habits, and each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(VOLUMES), figsize=(13, 4.4), layout="constrained", sharey=True)
    for axes, kind in zip(panels, VOLUMES, strict=True):
        shown = [row for row in rows if row["method"] == METHODS[0] and row["volumes_are"] == kind]
        for name in ("all", *(habit.name for habit in HABITS)):
            chosen = [row for row in shown if row["habit"] == name]
            if not chosen:  # a quick measurement
                continue
            counts = [row["corrected"] for row in chosen]
            means = [100 * row["regained"]["mean"] for row in chosen]
            if name == "all":
                low, high = ([100 * row["regained"][end] for row in chosen] for end in ("low", "high"))
                axes.fill_between(counts, low, high, color="black", alpha=0.12, linewidth=0)
                axes.plot(counts, means, "o-", color="black", linewidth=2, label="all", zorder=3)
            else:
                axes.plot(counts, means, "-", linewidth=1, label=name)
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set(title=kind, xlabel="corrected slices", xticks=CORRECTED)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("missing Dice regained (%)")
    panels[-1].legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Print, or measure, print, write and plot."""
    parser = arguments(__doc__, CASES)
    parser.add_argument("--compare", action="store_true", help="measure recalibration too, cross-validated and not")
    parser.add_argument("--quick", action="store_true", help="two and four slices, chosen in six ways")
    parser.add_argument("--edits-only", action="store_true", help="only what was changed is right, as the panel asks")
    parser.add_argument("--pair", nargs=2, type=Path, action="append", metavar=("IMAGE", "LABELS"), default=[])
    chosen = parser.parse_args()
    path = chosen.output / ("refine.json" if chosen.model == HIPPOCAMPUS else f"refine-{Path(chosen.model).name}.json")
    content = None if chosen.measure else read_figures(path, chosen.model, "bench-refine")
    if content is None:
        torch.set_num_threads(1)
        pairs = [Case(image.name, image, labels) for image, labels in chosen.pair]
        package, cases = (find_model(chosen.model), pairs) if pairs else opened(chosen)
        names = [case.name for case in cases]
        bench = Bench(package, dict(zip(names, cases, strict=True)))
        measured = list(trials(names, chosen.compare, chosen.quick, chosen.edits_only))
        for _, trial in track(measured, "measuring", console=console):
            bench.measure(trial)
        rows = figures(bench, measured)
        content = write_figures(path, package, cases, {"recalibration": asdict(RecalibrationSettings()), "rows": rows})
        plot(rows, path.with_suffix(".png"))
    print_rows(content["rows"])


if __name__ == "__main__":
    main()

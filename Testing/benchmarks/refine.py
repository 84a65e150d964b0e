"""Proof of recalibration: do a few corrected slices improve the slices that nobody corrected? By ``make bench-refine``.

Corrections are simulated: of each volume the slices with the most doubt get the true labels. Cases are those that the
model's training kept out for test, each as it is and under one shift (bias field, noise, low contrast, thick slices,
another contrast; in turn). Compared are sets of parameters that learn, and learning nothing. Measured is the mean Dice
of the structures on all slices that were not corrected, before and after, with 95 % confidence intervals by bootstrap
over cases. "Regained" is the share of the Dice missing to 1 that is regained.

    python Testing/benchmarks/refine.py             the table, from Resources/refine.json where it is
    python Testing/benchmarks/refine.py --measure   measured again: table, Resources/refine.json and its plot
    python Testing/benchmarks/refine.py --choose    the settings tried on validation cases, best first; with
                                                    --corrected 1 those for a single slice
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from kept import Kept, arguments, opened, read_figures, write_figures
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import bootstrap

from SESegmentationLib.inference.doubt import doubtful_slices
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.inference.reading import read_label_volume, read_volume
from SESegmentationLib.models import ModelPackage
from SESegmentationLib.refine.corrections import AXES, Corrections, Slices
from SESegmentationLib.refine.parameters import PARAMETER_SETS
from SESegmentationLib.refine.recalibration import Settings
from SESegmentationLib.refine.refinement import refine
from SESegmentationLib.training.calibration import recipe_of
from SESegmentationLib.training.dataset import Case, find_cases
from SESegmentationLib.training.shifts import SHIFTS, shift_volume
from SESegmentationLib.training.splits import split_by_recipe

#: test cases that are measured
CASES = 30
#: numbers of corrected slices; the sets of parameters are compared with one of them
CORRECTED = (1, 2, 4)
COMPARED = 2
#: corrected slices of one axis are at least this far apart, in slices: neighbours tell the same
APART = 4
#: what is tried on validation cases
CHANGES = (
    {"anchor": 0.1},
    {"anchor": 0.0},
    {"anchor": 0.3},
    {"anchor": 1.0},
    {"steps": 30, "volumetric_steps": 10},
    {"batch": 24},
)
#: the sets of parameters in words
SETS = {"se": "SE blocks", "classifier": "classifier", "all": "all weights"}
console = Console(width=120)


@dataclass(frozen=True)
class Trial:
    """One refinement to be measured.

    Attributes:
        case: name.
        shift: or None.
        corrected: number of slices.
        settings: how to learn.
    """

    case: str
    shift: str | None
    corrected: int
    settings: Settings

    @property
    def key(self) -> str:
        """Tells the trial from all others."""
        return json.dumps([self.case, self.shift, self.corrected, asdict(self.settings)])


class Bench:
    """Measures trials, each once.

    Args:
        package: the model.
        cases: by name.
    """

    def __init__(self, package: ModelPackage, cases: dict[str, Case]) -> None:
        self.engine = Engine(package, device="cpu")
        self.values = [label.value for label in package.card.labels]
        self.cases = cases
        self.kept = Kept("refine", package)

    def measure(self, trial: Trial) -> dict[str, float]:
        """Dice on the slices not corrected, "before" and "after"; "seconds", "cpu_seconds" of the whole refinement."""
        return self.kept.get(trial.key, lambda: self._measure(trial))

    def _measure(self, trial: Trial) -> dict[str, float]:
        image, truth, slices = self._volume(trial.case, trial.shift)
        chosen = slices[: trial.corrected]
        started, cpu_started = time.monotonic(), time.process_time()
        refined = refine(self.engine, image, truth, chosen, settings=trial.settings)
        seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
        elsewhere = ~Corrections.in_slices(truth, chosen).known
        before, after = (self._dice(result.labels, truth, elsewhere) for result in (refined.own, refined.result))
        return {"before": before, "after": after, "seconds": seconds, "cpu_seconds": cpu_seconds}

    @cache  # noqa: B019  one bench lives as long as the program
    def _volume(self, name: str, shift: str | None) -> tuple[sitk.Image, sitk.Image, list[Slices]]:
        """Volume, truth, and its slices with the most doubt."""
        image, truth = read_volume(self.cases[name].image), read_label_volume(self.cases[name].label)
        if shift:
            image = shift_volume(image, shift, seed=int(name[-3:]))
        doubt = sitk.GetArrayFromImage(self.engine.segment(image, doubt=True).doubt)
        letters = {axis: letter for letter, axis in AXES.items()}
        worst = doubtful_slices(doubt, max(CORRECTED), apart=APART)
        return image, truth, [Slices(letters[entry.axis], (entry.number,)) for entry in worst]

    def _dice(self, labels: sitk.Image, truth: sitk.Image, where: np.ndarray) -> float:
        ours, theirs = (sitk.GetArrayFromImage(image)[where] for image in (labels, truth))
        pairs = [(ours == value, theirs == value) for value in self.values]
        return float(np.mean([2 * (a & b).sum() / max(a.sum() + b.sum(), 1) for a, b in pairs]))


def volumes(names: Sequence[str]) -> list[tuple[str, str | None]]:
    """Every case as it is, and under one shift, the shifts in turn."""
    shifts = list(SHIFTS)
    return [(name, shift) for n, name in enumerate(names) for shift in (None, shifts[n % len(shifts)])]


def trials(names: Sequence[str]) -> Iterator[Trial]:
    """Everything that is measured: first what is shipped, then what it is compared with."""
    for corrected in (COMPARED, *(number for number in CORRECTED if number != COMPARED)):
        for name, shift in volumes(names):
            yield Trial(name, shift, corrected, Settings.of(slices=corrected))
    for parameters in PARAMETER_SETS:
        if parameters != Settings().parameters:
            for name, shift in volumes(names):
                yield Trial(name, shift, COMPARED, Settings.of(parameters))


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
    return {
        "volumes": len(entries),
        "before": float(np.mean([entry["before"] for entry in entries])),
        "after": float(np.mean([entry["after"] for entry in entries])),
        "gain": with_interval(gain, entries),
        "regained": with_interval(regained, entries),
        "cpu_seconds": float(np.mean([entry["cpu_seconds"] for entry in entries])),
    }


def figures(bench: Bench, names: Sequence[str]) -> list[dict]:
    """The rows of the table: by set of parameters, number of slices, and shift ("as they are", "shifted", each)."""
    rows = []
    kinds = {(trial.settings.parameters, trial.corrected): trial.settings for trial in trials(names)}
    for (parameters, corrected), settings in kinds.items():
        measured: dict[str, list[dict[str, float]]] = {"as they are": [], "shifted": []} | {s: [] for s in SHIFTS}
        for name, shift in volumes(names):
            entry = bench.measure(Trial(name, shift, corrected, settings))
            measured["as they are" if shift is None else "shifted"].append(entry)
            if shift:
                measured[shift].append(entry)
        rows += [
            {"parameters": parameters, "corrected": corrected, "volumes_are": kind, **summarise(entries)}
            for kind, entries in measured.items()
            if entries
        ]
    return rows


def print_rows(rows: Sequence[dict]) -> None:
    """The table."""
    table = Table(title="Mean Dice on the slices that nobody corrected; 95 % confidence intervals over cases")
    for column in ("learn", "slices", "volumes", "n", "before", "after", "gain", "regained", "CPU s"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            SETS[row["parameters"]],
            str(row["corrected"]),
            row["volumes_are"],
            str(row["volumes"]),
            f"{row['before']:.3f}",
            f"{row['after']:.3f}",
            _interval(row["gain"], "+.3f"),
            _interval(row["regained"], ".0%"),
            f"{row['cpu_seconds']:.1f}",
            end_section=row["volumes_are"] == list(SHIFTS)[-1],
        )
    console.print(table)


def _interval(entry: dict[str, float], form: str) -> str:
    return f"{entry['mean']:{form}} ({entry['low']:{form}} to {entry['high']:{form}})"


def plot(rows: Sequence[dict], path: Path) -> None:
    """Two panels: what different sets of parameters regain, and what more corrected slices do."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = ["as they are", "shifted", *SHIFTS]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.8), layout="constrained", width_ratios=(3, 2))
    sets = list(dict.fromkeys(row["parameters"] for row in rows))
    for number, parameters in enumerate(sets):
        chosen = {
            row["volumes_are"]: row for row in rows if (row["parameters"], row["corrected"]) == (parameters, COMPARED)
        }
        _bars(left, [chosen[kind]["regained"] for kind in kinds if kind in chosen], number, len(sets), SETS[parameters])
    left.set_xticks(range(len(kinds)), [kind.replace(" ", "\n", 1) for kind in kinds])
    left.set_title(f"{COMPARED} corrected slices, by what learns")
    left.set_ylabel("missing Dice regained (%)")
    left.axhline(30, color="grey", linewidth=0.8, linestyle="--")
    left.legend(frameon=False)
    shipped = Settings().parameters
    for kind, colour in (("as they are", "#4c72b0"), ("shifted", "#c44e52")):
        chosen = sorted(
            (row["corrected"], row["before"], row["after"], row["gain"])
            for row in rows
            if (row["parameters"], row["volumes_are"]) == (shipped, kind)
        )
        counts, before, after, gains = zip(*chosen, strict=True)
        low = [b + g["low"] for b, g in zip(before, gains, strict=True)]
        high = [b + g["high"] for b, g in zip(before, gains, strict=True)]
        right.fill_between(counts, low, high, color=colour, alpha=0.2, linewidth=0)
        right.plot(counts, after, "o-", color=colour, label=f"{kind}, refined")
        right.plot(counts, before, "o:", color=colour, label=f"{kind}, before")
    right.set_xticks(CORRECTED)
    right.set_xlabel("corrected slices")
    right.set_ylabel("mean Dice on the other slices")
    right.set_title(f"More corrections ({SETS[shipped]} learn)")
    right.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _bars(axes, entries: Sequence[dict[str, float]], number: int, count: int, label: str) -> None:
    width = 0.8 / count
    places = np.arange(len(entries)) + (number - (count - 1) / 2) * width
    means = 100 * np.array([entry["mean"] for entry in entries])
    reach = 100 * np.array([[e["mean"] - e["low"] for e in entries], [e["high"] - e["mean"] for e in entries]])
    axes.bar(places, means, width, yerr=np.maximum(reach, 0), capsize=2, label=label, error_kw={"linewidth": 0.8})


def choose(bench: Bench, names: Sequence[str], corrected: int) -> None:
    """Try settings on validation cases, and print what they regain, best first."""
    rows = []
    tried = [replace(Settings.of(each, corrected), **changes) for each in PARAMETER_SETS for changes in CHANGES]
    for settings in dict.fromkeys(tried):
        entries = [bench.measure(Trial(name, shift, corrected, settings)) for name, shift in volumes(names)]
        shifted = [entry for entry, (_, shift) in zip(entries, volumes(names), strict=True) if shift]
        unchanged = [entry for entry, (_, shift) in zip(entries, volumes(names), strict=True) if not shift]
        rows.append((settings, summarise(shifted), summarise(unchanged)))
        print(settings, f"{rows[-1][1]['regained']['mean']:.3f}", f"{rows[-1][2]['gain']['mean']:+.4f}", flush=True)
    table = Table(title=f"{corrected} corrected slices, {len(names)} validation cases")
    for column in ("settings", "shifted: regained", "as they are: gain", "CPU s"):
        table.add_column(column)
    for settings, shifted, unchanged in sorted(rows, key=lambda row: -row[1]["regained"]["mean"]):
        table.add_row(
            ", ".join(f"{key} {value}" for key, value in asdict(settings).items()),
            _interval(shifted["regained"], ".0%"),
            _interval(unchanged["gain"], "+.3f"),
            f"{shifted['cpu_seconds']:.1f}",
        )
    console.print(table)


def main() -> None:
    """Print, or measure, print, write and plot."""
    parser = arguments(__doc__, CASES)
    parser.add_argument("--choose", action="store_true", help="try settings on the validation cases instead")
    parser.add_argument("--corrected", type=int, default=COMPARED, help="slices that --choose corrects")
    chosen = parser.parse_args()
    path = chosen.output / "refine.json"
    content = None if chosen.measure or chosen.choose else read_figures(path, chosen.model, "bench-refine")
    if content is None:
        torch.set_num_threads(1)
        package, cases = opened(chosen)
        if chosen.choose:
            known = {case.name: case for case in find_cases(chosen.dataset)}
            names = split_by_recipe(list(known), recipe_of(package)).validation
            choose(Bench(package, known), names, chosen.corrected)
            return
        names = [case.name for case in cases]
        bench = Bench(package, dict(zip(names, cases, strict=True)))
        for trial in track(list(trials(names)), "measuring", console=console):
            bench.measure(trial)
        settings = {parameters: asdict(Settings.of(parameters)) for parameters in PARAMETER_SETS}
        rows = figures(bench, names)
        entries = {"settings": settings, "shipped": Settings().parameters, "rows": rows}
        content = write_figures(path, package, cases, entries)
        plot(rows, path.with_suffix(".png"))
    print_rows(content["rows"])


if __name__ == "__main__":
    main()

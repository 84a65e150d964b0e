"""What doubt is worth: whether the expected Dice ranks results, and whether the worst-ranked slices hold the errors.

By ``make bench-doubt``. Measured on the cases that the model's training kept out for test, each as it is and under
every shift (bias field, noise, low contrast, thick slices, another contrast), by the engine as users have it. The line
from confidence to expected Dice was measured on other cases, those for validation (``training.calibration``).

- Spearman's correlation of expected and true Dice, over cases and structures.
- Share of the wrong voxels in the 20 % of slices with the most doubt: of all slices of each volume along each axis; of
  those that hold a structure in truth or result, since the others make it easy; and of the latter of all volumes
  together. Beside each stands what the best ranking possible would reach, by the wrong voxels themselves.

    python Testing/benchmarks/doubt.py             the table and its plot, from Resources/doubt.json where it is
    python Testing/benchmarks/doubt.py --measure   measured again
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from kept import Kept, arguments, opened, read_figures, write_figures
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import bootstrap, spearmanr

from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.io.reading import read_label_volume, read_volume
from SESegmentationLib.models import ModelPackage
from SESegmentationLib.models.sections import expected_dice
from SESegmentationLib.result import SegmentOptions
from SESegmentationTraining.calibration import SHIFTS, shift_volume
from SESegmentationTraining.dataset import Case

#: test cases that are measured
CASES = 40
#: share of slices that are looked at
WORST = 0.2
#: what is aimed at
AIMED_CORRELATION, AIMED_SHARE = 0.6, 0.5
AXES = "kji"
console = Console(width=120)


def measure(engine: Engine, case: Case, shift: str | None) -> dict[str, Any]:
    """One volume: confidence and Dice of every structure, doubt and wrong voxels of every slice."""
    image, truth = read_volume(case.image), sitk.GetArrayFromImage(read_label_volume(case.label))
    if shift:
        image = shift_volume(image, shift, seed=int(case.name[-3:]))
    structures = []
    for fast in (True, False):  # the last result stays
        result = engine.segment(image, SegmentOptions(fast=fast, doubt=True))
        found = sitk.GetArrayFromImage(result.labels)
        for structure in result.structures:
            ours, theirs = found == structure.label.value, truth == structure.label.value
            dice = 2 * (ours & theirs).sum() / max(ours.sum() + theirs.sum(), 1)
            entry = {"value": structure.label.value, "fast": fast, "confidence": structure.confidence}
            structures.append(entry | {"dice": float(dice)})
    doubt, wrong, there = sitk.GetArrayFromImage(result.doubt), found != truth, (found > 0) | (truth > 0)
    slices = {}
    for axis, name in enumerate(AXES):
        across = tuple({0, 1, 2} - {axis})
        sums = {"doubt": doubt.sum(axis=across, dtype=np.float64), "wrong": wrong.sum(axis=across)}
        slices[name] = {key: np.round(values, 2).tolist() for key, values in sums.items()}
        slices[name]["holds"] = there.any(axis=across).tolist()
    return {"case": case.name, "shift": shift, "structures": structures, "slices": slices}


def share_in_worst(ranking: np.ndarray, wrong: np.ndarray) -> float:
    """Share of the wrong voxels in the ``WORST`` share of slices that a ranking puts first."""
    count = round(WORST * len(ranking))
    return float(wrong[np.argsort(-ranking, kind="stable")[:count]].sum() / max(wrong.sum(), 1))


def slice_shares(volumes: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Shares of wrong voxels in the worst slices, ranked by doubt ("share") and at best ("best"), by what is ranked."""
    stacks = [
        tuple(np.array(entry["slices"][axis][key], float) for key in ("doubt", "wrong", "holds"))
        for entry in volumes
        for axis in AXES
    ]
    holding = [(doubt[holds > 0], wrong[holds > 0]) for doubt, wrong, holds in stacks]
    together = [tuple(np.concatenate(parts) for parts in zip(*holding, strict=True))]
    ranked = {"volume": [stack[:2] for stack in stacks], "structures": holding, "together": together}
    return {
        name: {
            "share": _weighted([(share_in_worst(*pair), pair[1].sum()) for pair in pairs]),
            "best": _weighted([(share_in_worst(pair[1], pair[1]), pair[1].sum()) for pair in pairs]),
        }
        for name, pairs in ranked.items()
    }


def _weighted(shares: Sequence[tuple[float, float]]) -> float:
    """Mean of shares, each of so many wrong voxels."""
    return float(sum(share * wrong for share, wrong in shares) / max(sum(wrong for _, wrong in shares), 1))


def dice_pairs(package: ModelPackage, volumes: Sequence[dict[str, Any]], fast: bool) -> list[dict[str, Any]]:
    """Expected and true Dice of every structure, whatever the card's present calibration."""
    views = 1 if fast else len(package.card.views)
    return [
        {
            "case": entry["case"],
            "shift": entry["shift"],
            "value": structure["value"],
            "expected": expected_dice(package.card.calibration, structure["value"], structure["confidence"], views),
            "dice": structure["dice"],
        }
        for entry in volumes
        for structure in entry["structures"]
        if structure["fast"] == fast
    ]


def correlation(pairs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Spearman's, with its 95 % confidence interval, and the mean absolute error.

    The bootstrap is over cases: structures of one case, and the case under several shifts, are not independent.
    """
    expected, dice = (np.array([pair[key] for pair in pairs]) for key in ("expected", "dice"))
    names = np.array([pair["case"] for pair in pairs])
    of_cases = [np.flatnonzero(names == name) for name in dict.fromkeys(names.tolist())]

    def spearman(cases: np.ndarray) -> float:
        chosen = np.concatenate([of_cases[case] for case in cases])
        return spearmanr(expected[chosen], dice[chosen]).statistic

    every = np.arange(len(of_cases))
    interval = bootstrap(
        (every,), spearman, vectorized=False, method="percentile", n_resamples=1000, rng=0
    ).confidence_interval
    return {
        "n": len(pairs),
        "spearman": float(spearman(every)),
        "low": float(interval.low),
        "high": float(interval.high),
        "mean_error": float(np.abs(expected - dice).mean()),
    }


def figures(package: ModelPackage, volumes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All figures, and the points of the plot."""
    kinds = {
        "as they are": [entry for entry in volumes if entry["shift"] is None],
        "shifted": [entry for entry in volumes if entry["shift"] is not None],
        "all": list(volumes),
    }
    shifts = {name: [entry for entry in volumes if entry["shift"] == name] for name in SHIFTS}
    points = dice_pairs(package, volumes, fast=False)
    return {
        "expected_dice": {
            f"{name}{', --fast' if fast else ''}": correlation(dice_pairs(package, those, fast))
            for fast in (False, True)
            for name, those in kinds.items()
        },
        "slices": {name: slice_shares(those) for name, those in (kinds | shifts).items()},
        "points": [point | {key: round(point[key], 4) for key in ("expected", "dice")} for point in points],
        "curves": {name: curve(those) for name, those in kinds.items() if name != "all"},
    }


def curve(volumes: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Share of the wrong voxels in the worst 0, 5, ... 100 % of all slices of each volume, by doubt and at best."""
    shares = np.linspace(0, 1, 21)
    stacks = [
        tuple(np.array(entry["slices"][axis][key]) for key in ("doubt", "wrong")) for entry in volumes for axis in AXES
    ]
    held = {"doubt": np.zeros(len(shares)), "best": np.zeros(len(shares))}
    for doubt, wrong in stacks:
        for name, ranking in (("doubt", doubt), ("best", wrong)):
            seen = np.concatenate([[0], wrong[np.argsort(-ranking, kind="stable")].cumsum()])
            held[name] += np.interp(shares * len(wrong), np.arange(len(seen)), seen)
    total = max(sum(wrong.sum() for _, wrong in stacks), 1)
    return {name: (seen / total).round(4).tolist() for name, seen in held.items()}


def print_figures(content: dict[str, Any]) -> None:
    """The three tables."""
    points = content["points"]
    values = sorted({point["value"] for point in points})
    table = Table(title="Mean Dice by shift", caption="structures by their label's value")
    for column in ("volumes", *map(str, values)):
        table.add_column(column)
    for shift in (None, *SHIFTS):
        found = [[p["dice"] for p in points if (p["shift"], p["value"]) == (shift, value)] for value in values]
        table.add_row(shift or "as they are", *(f"{np.mean(dice):.3f}" if dice else "" for dice in found))
    console.print(table)
    table = Table(title=f"Expected and true Dice, by structure (aim: Spearman ≥ {AIMED_CORRELATION})")
    for column in ("volumes", "structures", "Spearman (95 % interval)", "mean error", ""):
        table.add_column(column)
    for name, entry in content["expected_dice"].items():
        table.add_row(
            name,
            str(entry["n"]),
            f"{entry['spearman']:.2f} ({entry['low']:.2f} to {entry['high']:.2f})",
            f"{entry['mean_error']:.3f}",
            _reached(entry["spearman"] >= AIMED_CORRELATION),
        )
    console.print(table)
    table = Table(title=f"Share of the wrong voxels in the worst {WORST:.0%} of slices (aim: ≥ {AIMED_SHARE:.0%})")
    table.caption = "second figure: what the best ranking possible would reach"
    for column in ("volumes", "all slices of a volume", "those of its structures", "those of all volumes together"):
        table.add_column(column)
    for name, entry in content["slices"].items():
        shares = [
            f"{entry[key]['share']:.0%} of {entry[key]['best']:.0%}" for key in ("volume", "structures", "together")
        ]
        table.add_row(name, *shares)
    console.print(table)


def _reached(reached: bool) -> str:
    return "reached" if reached else "not reached"


def plot(content: dict[str, Any], path: Path) -> None:
    """Expected against true Dice, and the wrong voxels that the worst slices hold."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawing, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    for shift in (None, *SHIFTS):
        those = [point for point in content["points"] if point["shift"] == shift]
        label = shift or "as they are"
        left.plot([p["expected"] for p in those], [p["dice"] for p in those], ".", markersize=5, alpha=0.7, label=label)
    left.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--")
    left.set_xlabel("expected Dice")
    left.set_ylabel("true Dice")
    found = content["expected_dice"]["all"]
    left.set_title(f"Structures of {len(content['cases'])} cases: Spearman {found['spearman']:.2f}")
    left.legend(frameon=False, fontsize=8)
    shares = np.linspace(0, 100, 21)
    for (name, held), colour in zip(content["curves"].items(), ("#4c72b0", "#c44e52"), strict=True):
        right.plot(shares, 100 * np.array(held["doubt"]), color=colour, label=name)
        right.plot(shares, 100 * np.array(held["best"]), ":", color=colour, label=f"{name}, best possible")
    right.plot([0, 100], [0, 100], color="grey", linewidth=0.8, linestyle="--", label="by chance")
    right.axvline(100 * WORST, color="grey", linewidth=0.8)
    right.set_xlabel("worst-ranked slices looked at (%)")
    right.set_ylabel("wrong voxels seen (%)")
    right.set_title("Slices of each volume ranked by doubt")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=110)
    pyplot.close(drawing)


def main() -> None:
    """Print, or measure, print, write and plot."""
    chosen = arguments(__doc__, CASES).parse_args()
    path = chosen.output / "doubt.json"
    content = None if chosen.measure else read_figures(path, chosen.model, "bench-doubt")
    if content is None:
        torch.set_num_threads(1)
        package, cases = opened(chosen)
        if not package.card.calibration:
            raise SystemExit(
                f"{package.card.name} is not calibrated. Run: sesegment measure calibration "
                f"{package.path} --dataset {chosen.dataset} --write"
            )
        engine, kept = Engine(package, "cpu"), Kept("doubt", package)
        planned = [(case, shift) for case in cases for shift in (None, *SHIFTS)]
        volumes = [
            kept.get(f"{case.name} {shift}", lambda c=case, s=shift: measure(engine, c, s))
            for case, shift in track(planned, "measuring", console=console)
        ]
        content = write_figures(path, package, cases, figures(package, volumes))
        plot(content, path.with_suffix(".png"))
    print_figures(content)


if __name__ == "__main__":
    main()

"""Results of a comparison: Dice by case and structure, costs, and tests against the baseline.

Dice of a case is first averaged over the seeds, so that every case counts once in a test: networks of several seeds
are not independent patients.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import false_discovery_control, wilcoxon

from .plan import Comparison, Plan, Run

Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Gain:
    """A variant against the baseline, over cases.

    Attributes:
        mean: of the Dice gained.
        low, high: 95 % confidence interval of it, by bootstrap over cases.
        p: of Wilcoxon's signed-rank test for pairs, two-sided.
        adjusted: p adjusted for the number of tests of the comparison (Benjamini and Hochberg).
    """

    mean: float
    low: float
    high: float
    p: float
    adjusted: float


@dataclass(frozen=True)
class VariantResult:
    """One variant of one network.

    Attributes:
        network, variant: names.
        dice: (cases, structures), mean over the seeds.
        by_seed: (seeds,) mean Dice of each seed.
        parameters: learnt numbers.
        ahead: in how many seeds its mean Dice is above the baseline's; 0 for the baseline.
        added: share of the baseline's parameters by which these are more.
        multiply_adds: of one slice.
        slice_ms: milliseconds for one slice, median over the runs on the machine that did most.
        step_ms: milliseconds for one step of training, median over the same.
        curve: (points, 2) steps and mean Dice of validation slices, mean over the runs.
        gain: over the baseline of the same network; None for the baseline.
    """

    network: str
    variant: str
    dice: np.ndarray
    by_seed: np.ndarray
    ahead: int
    parameters: int
    added: float
    multiply_adds: int
    slice_ms: float
    step_ms: float
    curve: np.ndarray
    gain: Gain | None = None

    @property
    def cases(self) -> np.ndarray:
        """(cases,) mean Dice over the structures."""
        return self.dice.mean(axis=1)


@dataclass(frozen=True)
class ComparisonResult:
    """The result of a comparison.

    Attributes:
        comparison: as planned.
        structures: names.
        seeds: whose runs are all there; only these count.
        done, planned: numbers of runs.
        entries: networks and variants in the plan's order; none if no seed is complete.
        results: the runs that count.
    """

    comparison: Comparison
    structures: list[str]
    seeds: list[int]
    done: int
    planned: int
    entries: list[VariantResult]
    results: list[Mapping[str, Any]]


def outcome_of(plan: Plan, comparison: Comparison, results: Results) -> ComparisonResult:
    """Put the results of a comparison together."""
    runs = plan.runs_of(comparison)
    missing = {run.seed for run in runs if run.key not in results}
    seeds = [seed for seed in plan.seeds if seed not in missing]
    counted = [run for run in runs if run.seed in seeds]
    used = [results[key] for key in dict.fromkeys(run.key for run in counted)]
    machine = usual_machine(used) if used else ""

    def of(network: str, variant: str) -> list[Run]:
        return [run for run in counted if (run.network, run.variant) == (network, variant)]

    entries = [
        _entry(network, variant, of(network, variant), results, machine)
        for network in comparison.networks
        for variant in comparison.variants
        if seeds
    ]
    return ComparisonResult(
        comparison,
        list(used[0]["labels"]) if used else [],
        seeds,
        sum(run.key in results for run in runs),
        len(runs),
        _tested(entries, comparison.baseline),
        used,
    )


def usual_machine(results: Sequence[Mapping[str, Any]]) -> str:
    """The machine that did most of the runs, in words; only its times are compared with each other."""
    return Counter(result["machine"] for result in results).most_common(1)[0][0]


def _entry(network: str, variant: str, runs: Sequence[Run], results: Results, machine: str) -> VariantResult:
    by_seed: dict[int, dict[str, list[float]]] = {}
    for run in runs:  # every fold has cases of its own
        by_seed.setdefault(run.seed, {}).update(results[run.key]["dice"])
    cases = sorted(next(iter(by_seed.values())))
    dice = np.array([[found[case] for case in cases] for found in by_seed.values()])
    mine = [results[run.key] for run in runs]
    timed = [result for result in mine if result["machine"] == machine]
    steps = [result["milliseconds_per_step"] for result in timed if result["milliseconds_per_step"]]
    return VariantResult(
        network,
        variant,
        dice.mean(axis=0),
        dice.mean(axis=(1, 2)),
        0,
        mine[0]["parameters"],
        0.0,
        mine[0]["multiply_adds"],
        float(np.median([result["milliseconds_per_slice"] for result in timed])) if timed else float("nan"),
        float(np.median(steps)) if steps else float("nan"),
        np.mean([result["curve"] for result in mine], axis=0),
    )


def _tested(entries: Sequence[VariantResult], baseline: str) -> list[VariantResult]:
    """Entries with what they add to the baseline of their network."""
    bases = {entry.network: entry for entry in entries if entry.variant == baseline}
    others = [entry for entry in entries if entry.variant != baseline]
    gains = compare_pairs([(entry.cases, bases[entry.network].cases) for entry in others])
    by_entry = {(entry.network, entry.variant): gain for entry, gain in zip(others, gains, strict=True)}
    return [
        replace(
            entry,
            ahead=int((entry.by_seed > bases[entry.network].by_seed).sum()),
            added=entry.parameters / bases[entry.network].parameters - 1,
            gain=by_entry.get((entry.network, entry.variant)),
        )
        for entry in entries
    ]


def compare_pairs(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Gain]:
    """Test each pair (ours, theirs) of Dice by case; p-values are adjusted for all of them."""
    values = [1.0 if np.array_equal(ours, theirs) else float(wilcoxon(ours, theirs).pvalue) for ours, theirs in pairs]
    adjusted = false_discovery_control(values) if values else []
    return [
        Gain(float((ours - theirs).mean()), *_interval(ours - theirs), value, float(both))
        for (ours, theirs), value, both in zip(pairs, values, adjusted, strict=True)
    ]


def _interval(differences: np.ndarray) -> tuple[float, float]:
    """95 % confidence interval of the mean, by the percentiles of 5000 resamples."""
    random = np.random.default_rng(0)
    means = random.choice(differences, (5000, len(differences))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)

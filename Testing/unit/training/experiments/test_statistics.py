"""What runs say together: against plain arithmetic and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from SESegmentationTraining.experiments.statistics import compare_pairs, outcome_of


def dice_of(results, runs):
    """(seeds, cases, structures)."""
    return np.array([[results[run.key]["dice"][case] for case in sorted(results[run.key]["dice"])] for run in runs])


def test_seeds_are_averaged_and_pairs_of_cases_tested(plan, made_up):
    planned = plan()
    comparison = planned.comparisons[1]
    results = made_up(planned)
    outcome = outcome_of(planned, comparison, results)
    assert (outcome.done, outcome.planned, outcome.seeds) == (6, 6, [1, 2])
    by_variant = {
        variant: dice_of(results, [run for run in planned.runs_of(comparison) if run.variant == variant])
        for variant in comparison.variants
    }
    p = {}
    for entry in outcome.entries:
        expected = by_variant[entry.variant]
        assert np.allclose(entry.dice, expected.mean(0))
        assert np.allclose(entry.by_seed, expected.mean((1, 2)))
        assert np.allclose(entry.cases, expected.mean((0, 2)))
        if entry.variant != "none":
            theirs = by_variant["none"].mean((0, 2))
            p[entry.variant] = wilcoxon(entry.cases, theirs).pvalue
            assert entry.gain.p == pytest.approx(p[entry.variant])
            assert entry.gain.mean == pytest.approx(entry.cases.mean() - theirs.mean())
            assert entry.gain.low < entry.gain.mean < entry.gain.high
        assert entry.ahead == sum(expected.mean((1, 2)) > by_variant["none"].mean((1, 2)))
    # Benjamini and Hochberg: of two, the smaller one counts twice, and no more than the larger one
    gains = {entry.variant: entry.gain for entry in outcome.entries if entry.gain}
    low, high = sorted(p, key=p.get)
    assert gains[high].adjusted == pytest.approx(p[high])
    assert gains[low].adjusted == pytest.approx(min(2 * p[low], p[high]))


def test_costs_are_relative_to_the_baseline(plan, made_up):
    planned = plan()
    outcome = outcome_of(planned, planned.comparisons[0], made_up(planned))
    none, recalibrated = outcome.entries
    assert none.gain is None
    assert (none.added, none.parameters) == (0, 1004)
    assert recalibrated.added == pytest.approx(recalibrated.parameters / none.parameters - 1)
    assert none.step_ms == pytest.approx(21.5)  # of seeds 1 and 2
    assert none.curve.tolist() == [[3, 0.4], [6, pytest.approx(0.515)]]


def test_times_of_different_machines_are_not_mixed(plan, made_up):
    planned = plan()
    results = made_up(planned)
    runs = planned.runs_of(planned.comparisons[0])
    slow = next(run for run in runs if run.seed == 2 and run.variant == "scSE")
    results[slow.key] |= {"machine": "snail", "milliseconds_per_step": 9000.0, "milliseconds_per_slice": 900.0}
    none, recalibrated = outcome_of(planned, planned.comparisons[0], results).entries
    assert (recalibrated.step_ms, recalibrated.slice_ms) == (pytest.approx(21.0), pytest.approx(1.5))  # of seed 1 only
    assert none.step_ms == pytest.approx(21.5)


def test_only_complete_seeds_count(plan, made_up):
    planned = plan()
    comparison = planned.comparisons[0]
    results = made_up(planned)
    lacking = next(run for run in planned.runs_of(comparison) if run.seed == 2 and run.variant == "scSE")
    del results[lacking.key]
    outcome = outcome_of(planned, comparison, results)
    assert (outcome.done, outcome.planned, outcome.seeds) == (3, 4, [1])
    assert all(len(entry.by_seed) == 1 for entry in outcome.entries)
    assert {result["description"]["recipe"]["fit"]["seed"] for result in outcome.results} == {1}
    assert outcome_of(planned, comparison, {}).entries == []


def test_the_cases_of_all_folds_count_together(plan, made_up):
    planned = plan(("test = 2", "folds = 3"))
    results = made_up(planned, cases=11)
    outcome = outcome_of(planned, planned.comparisons[0], results)
    assert outcome.entries[0].dice.shape == (11, 2)
    assert outcome.planned == 2 * 2 * 3


def test_equal_dice_is_no_difference():
    same = np.array([0.5, 0.6, 0.7])
    (gain,) = compare_pairs([(same, same.copy())])
    assert (gain.mean, gain.low, gain.high, gain.p, gain.adjusted) == (0, 0, 0, 1, 1)
    assert compare_pairs([]) == []


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(5, 30))
def test_the_interval_holds_the_mean_and_turns_round_with_the_pair(seed, cases):
    random = np.random.default_rng(seed)
    ours, theirs = random.uniform(0, 1, (2, cases))
    there, back = compare_pairs([(ours, theirs), (theirs, ours)])
    assert there.low <= there.mean <= there.high
    assert (back.mean, back.p) == (pytest.approx(-there.mean), pytest.approx(there.p))
    assert there.p <= there.adjusted <= 1

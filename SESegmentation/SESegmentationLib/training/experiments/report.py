"""Tables and plots of plans, from the results that are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...files import OutputFiles
from .plan import Plan
from .plots import plot_outcome
from .statistics import Outcome, Results, outcome_of
from .tables import plan_table, plot_name


def write_report(plan: Plan, results: Results, folder: Path) -> list[Outcome]:
    """Write ``<plan>.md``, and a plot for each comparison that has results, to ``folder``; needs no data.

    Returns:
        What came of each comparison.

    Raises:
        UsageError: the plan is not valid, or the folder cannot be written to.
    """
    outcomes = [outcome_of(plan, comparison, results) for comparison in plan.comparisons]
    with OutputFiles() as files:
        files.write(folder / f"{plan.name}.md", plan_table(plan, outcomes))
        for outcome in outcomes:
            if outcome.entries:
                title = f"{plan.title}: {outcome.comparison.title}"
                files.write(folder / plot_name(plan, outcome), plot_outcome(outcome, title))
    return outcomes


def summary(plan: Plan, outcomes: Sequence[Outcome]) -> list[str]:
    """A line for each comparison: how much is done, and every variant's mean Dice."""
    lines = []
    for outcome in outcomes:
        several = len(outcome.comparison.networks) > 1
        dice = ", ".join(
            f"{f'{entry.network} ' if several else ''}{entry.variant} {entry.cases.mean():.3f}"
            for entry in outcome.entries
        )
        lines.append(
            f"{plan.name}, {outcome.comparison.name}: {outcome.done} of {outcome.planned} runs. {dice}".rstrip()
        )
    return lines

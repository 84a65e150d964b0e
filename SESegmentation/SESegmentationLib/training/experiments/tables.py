"""The results of a plan as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from .plan import Plan
from .statistics import Entry, Outcome, usual_machine

#: with more structures than this they get a table of their own
MOST_COLUMNS = 5


def plan_table(plan: Plan, outcomes: Sequence[Outcome]) -> str:
    """All of a plan: what was run, and a section for each comparison."""
    parts = [f"# {plan.title}", *([plan.notes] if plan.notes else []), _provenance(plan, outcomes)]
    parts += [_section(plan, outcome) for outcome in outcomes]
    return "\n\n".join(parts) + "\n"


def plot_name(plan: Plan, outcome: Outcome) -> str:
    """File name of a comparison's plot."""
    return f"{plan.name}-{outcome.comparison.name}.png"


def _provenance(plan: Plan, outcomes: Sequence[Outcome]) -> str:
    """What was done, on what, and how to do it again."""
    again = f"    sesegment experiment {plan.name} --data DATA -o DIR"
    used = {result["key"]: result for outcome in outcomes for result in outcome.results}
    if not used:
        return f"Not run yet. To run it:\n\n{again}"
    some = next(iter(used.values()))
    recipe, split = some["description"]["recipe"], some["split"]
    data = recipe["data"]
    phases = ", ".join(
        f"{phase['steps']} steps of {phase['batch']} slices of {phase['size'][0]} x {phase['size'][1]} pixels"
        for phase in recipe["phases"]
    )
    spacing = " x ".join(f"{length:g}" for length in recipe["card"]["spacing"])
    test = f"{len(split['test'])} for test" if not data.get("folds") else f"{data['folds']} folds for test"
    lines = [
        f"- Data: `{some['description']['dataset']}`, {recipe['card']['views'][0]['plane']} slices, {spacing} mm; "
        f"{len(split['training'])} cases for training, {len(split['validation'])} for validation, {test}.",
        f"- Training: {phases}.",
        f"- {len(used)} runs, {sum(result['hours'] for result in used.values()):.2f} hours, "
        f"{_listed(result['machine'] for result in used.values())}, {_listed(r['date'] for r in used.values())}; "
        + ", ".join(f"{name} {number}" for name, number in some["versions"].items())
        + ".",
        f"- Every run with its data, split, seed, machine and versions is in `results.json`. Made by\n\n{again}",
    ]
    return "\n".join(lines)


def _listed(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))


def _section(plan: Plan, outcome: Outcome) -> str:
    comparison = outcome.comparison
    parts = [f"## {comparison.title}"]
    if outcome.done < outcome.planned:
        parts.append(f"{outcome.done} of {outcome.planned} runs are done; only seeds that are complete count below.")
    if not outcome.entries:
        return "\n\n".join(parts)
    cases = len(outcome.entries[0].dice)
    seeds = f"seed{'s' if len(outcome.seeds) > 1 else ''} {', '.join(map(str, outcome.seeds))}"
    parts.append(
        f"Protocol: {comparison.protocol}. Dice in three dimensions: mean ± standard deviation over {cases} cases, "
        f"each the mean over {seeds}. Gain over {comparison.baseline!r} with its 95 % confidence interval; p of "
        "Wilcoxon's test for pairs of cases, adjusted for the number of tests: it takes these trainings as given. How "
        "much trainings differ show the standard deviation of the seeds' means, and in how many seeds a variant is "
        f"ahead. Times: of {usual_machine(outcome.results)}."
    )
    few = len(outcome.structures) <= MOST_COLUMNS
    parts.append(_main_table(outcome, outcome.structures if few else []))
    if not few:
        parts.append(_structure_table(outcome))
    parts.append(f"![{comparison.title}]({plot_name(plan, outcome)})")
    return "\n\n".join(parts)


def _main_table(outcome: Outcome, structures: Sequence[str]) -> str:
    several = len(outcome.comparison.networks) > 1
    head = [
        *(["network"] if several else []),
        "variant",
        "Dice",
        "std of seeds",
        *structures,
        "gain",
        "p",
        "seeds ahead",
    ]
    head += ["parameters", "added", "M multiply-adds", "ms a slice", "ms a training step"]
    rows = []
    for entry in outcome.entries:
        row = [*([entry.network] if several else []), entry.variant, _spread(entry.cases), _between(entry)]
        row += [_spread(entry.dice[:, index]) for index, _ in enumerate(structures)]
        row += _gain(entry)
        row += [
            f"{entry.parameters:,}",
            f"{entry.added:+.2%}" if entry.gain else "",
            f"{entry.multiply_adds / 1e6:.1f}",
        ]
        row += [f"{entry.slice_ms:.2f}", f"{entry.step_ms:.1f}"]
        rows.append(row)
    return _markdown(head, rows)


def _structure_table(outcome: Outcome) -> str:
    several = len(outcome.comparison.networks) > 1
    head = ["structure", *(f"{e.network} {e.variant}" if several else e.variant for e in outcome.entries)]
    rows = [
        [name, *(_spread(entry.dice[:, index]) for entry in outcome.entries)]
        for index, name in enumerate(outcome.structures)
    ]
    return _markdown(head, rows)


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():.3f} ± {values.std(ddof=1) if len(values) > 1 else 0:.3f}"


def _between(entry: Entry) -> str:
    return f"{entry.by_seed.std(ddof=1):.3f}" if len(entry.by_seed) > 1 else ""


def _gain(entry: Entry) -> list[str]:
    if entry.gain is None:
        return ["", "", ""]
    gain = entry.gain
    p = f"{gain.adjusted:.3f}" if gain.adjusted >= 0.001 else "< 0.001"
    return [f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})", p, f"{entry.ahead} of {len(entry.by_seed)}"]


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

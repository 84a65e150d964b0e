"""The results of plans as Markdown tables and plots."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from SESegmentationLib.files import OutputFiles

from .plan import Plan
from .statistics import ComparisonResult, Results, VariantResult, outcome_of, usual_machine

COLOURS = ("#7f7f7f", "#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3")
MARKERS, STYLES = "osD^v", ("-", "--", ":", "-.", (0, (1, 3)))
#: with more structures than this they get a table of their own
MOST_COLUMNS = 5


def plot_outcome(outcome: ComparisonResult, title: str) -> bytes:
    """Draw a comparison that has entries; the content of a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    boxes, costs, curves = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    figure.suptitle(title)
    _boxes(boxes, outcome)
    _costs(costs, outcome)
    _curves(curves, outcome)
    for axes in (boxes, costs, curves):
        axes.spines[["top", "right"]].set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return content.getvalue()


def _colour(entry: VariantResult, outcome: ComparisonResult) -> str:
    return COLOURS[list(outcome.comparison.variants).index(entry.variant) % len(COLOURS)]


def _place(entry: VariantResult, outcome: ComparisonResult) -> int:
    return outcome.comparison.networks.index(entry.network)


def _name(entry: VariantResult, outcome: ComparisonResult) -> str:
    return f"{entry.network} {entry.variant}" if len(outcome.comparison.networks) > 1 else entry.variant


def _boxes(axes, outcome: ComparisonResult) -> None:
    """A box for each variant over cases, networks beside each other."""
    variants = len(outcome.comparison.variants)
    places = [n + n // variants for n in range(len(outcome.entries))]
    drawn = axes.boxplot(
        [entry.cases for entry in outcome.entries],
        positions=places,
        widths=0.7,
        patch_artist=True,
        showmeans=True,
        meanprops={"marker": "d", "markerfacecolor": "white", "markeredgecolor": "black", "markersize": 5},
        medianprops={"color": "black"},
        flierprops={"markersize": 3},
    )
    for box, entry in zip(drawn["boxes"], outcome.entries, strict=True):
        box.set_facecolor(_colour(entry, outcome))
        box.set_alpha(0.75)
    axes.set_xticks(places, [entry.variant for entry in outcome.entries], rotation=45 if len(places) > 6 else 0)
    if len(outcome.comparison.networks) > 1:
        for n, network in enumerate(outcome.comparison.networks):
            middle = n * (variants + 1) + (variants - 1) / 2
            axes.text(middle, 1.01, network, transform=axes.get_xaxis_transform(), ha="center", va="bottom")
    axes.set_ylabel(f"Dice, mean of {len(outcome.structures)} structures")
    count = len(outcome.seeds)
    axes.set_xlabel(f"{len(outcome.entries[0].dice)} cases, each the mean over {count} seed{'s'[: count - 1]}; ◇ mean")


def _costs(axes, outcome: ComparisonResult) -> None:
    """Mean Dice against parameters; bars reach from the worst to the best seed."""
    for entry in outcome.entries:
        mean = entry.by_seed.mean()
        reach = [[mean - entry.by_seed.min()], [entry.by_seed.max() - mean]]
        axes.errorbar(
            entry.parameters / 1000,
            mean,
            yerr=reach,
            fmt=MARKERS[_place(entry, outcome) % len(MARKERS)],
            color=_colour(entry, outcome),
            capsize=3,
            label=_name(entry, outcome),
        )
    axes.set_xlabel("parameters (thousands)")
    axes.set_ylabel("mean Dice; bars: lowest and highest seed")
    axes.legend(frameon=False, fontsize=8)


def _curves(axes, outcome: ComparisonResult) -> None:
    """Dice of validation slices over the training."""
    for entry in outcome.entries:
        if np.size(entry.curve):
            axes.plot(
                *np.transpose(entry.curve),
                color=_colour(entry, outcome),
                linestyle=STYLES[_place(entry, outcome) % len(STYLES)],
                label=_name(entry, outcome),
            )
    axes.set_xlabel("training steps")
    axes.set_ylabel("mean Dice of validation slices")
    if axes.lines:
        axes.legend(frameon=False, fontsize=8)


def plan_table(plan: Plan, outcomes: Sequence[ComparisonResult]) -> str:
    """All of a plan: what was run, and a section for each comparison."""
    parts = [f"# {plan.title}", *([plan.notes] if plan.notes else []), _provenance(plan, outcomes)]
    parts += [_section(plan, outcome) for outcome in outcomes]
    return "\n\n".join(parts) + "\n"


def plot_name(plan: Plan, outcome: ComparisonResult) -> str:
    """File name of a comparison's plot."""
    return f"{plan.name}-{outcome.comparison.name}.png"


def _provenance(plan: Plan, outcomes: Sequence[ComparisonResult]) -> str:
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


def _section(plan: Plan, outcome: ComparisonResult) -> str:
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


def _main_table(outcome: ComparisonResult, structures: Sequence[str]) -> str:
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


def _structure_table(outcome: ComparisonResult) -> str:
    several = len(outcome.comparison.networks) > 1
    head = ["structure", *(f"{e.network} {e.variant}" if several else e.variant for e in outcome.entries)]
    rows = [
        [name, *(_spread(entry.dice[:, index]) for entry in outcome.entries)]
        for index, name in enumerate(outcome.structures)
    ]
    return _markdown(head, rows)


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():.3f} ± {values.std(ddof=1) if len(values) > 1 else 0:.3f}"


def _between(entry: VariantResult) -> str:
    return f"{entry.by_seed.std(ddof=1):.3f}" if len(entry.by_seed) > 1 else ""


def _gain(entry: VariantResult) -> list[str]:
    if entry.gain is None:
        return ["", "", ""]
    gain = entry.gain
    p = f"{gain.adjusted:.3f}" if gain.adjusted >= 0.001 else "< 0.001"
    return [f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})", p, f"{entry.ahead} of {len(entry.by_seed)}"]


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_plan_report(plan: Plan, results: Results, folder: Path) -> list[ComparisonResult]:
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


def summary(plan: Plan, outcomes: Sequence[ComparisonResult]) -> list[str]:
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

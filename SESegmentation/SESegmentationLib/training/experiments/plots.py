"""Plots of a comparison: Dice of the cases, Dice against parameters, learning curves."""

from __future__ import annotations

import io

import numpy as np

from .statistics import Entry, Outcome

COLOURS = ("#7f7f7f", "#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3")
MARKERS, STYLES = "osD^v", ("-", "--", ":", "-.", (0, (1, 3)))


def plot_outcome(outcome: Outcome, title: str) -> bytes:
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


def _colour(entry: Entry, outcome: Outcome) -> str:
    return COLOURS[list(outcome.comparison.variants).index(entry.variant) % len(COLOURS)]


def _place(entry: Entry, outcome: Outcome) -> int:
    return outcome.comparison.networks.index(entry.network)


def _name(entry: Entry, outcome: Outcome) -> str:
    return f"{entry.network} {entry.variant}" if len(outcome.comparison.networks) > 1 else entry.variant


def _boxes(axes, outcome: Outcome) -> None:
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


def _costs(axes, outcome: Outcome) -> None:
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


def _curves(axes, outcome: Outcome) -> None:
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

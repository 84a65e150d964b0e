"""``sesegment experiment``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import check_writable, refuse_overwriting
from .show import ProgressBar, console, duration
from .streams import say


def run_experiments(
    plans: Sequence[str], output: Path, data: Path, device: str, workers: int | None, report_only: bool
) -> None:
    """Do what is missing of ``plans``, then write tables and plots of all that is there to ``output``.

    Args:
        plans: names or files.
        output: folder of results; what is there is not done again.
        data: folder that holds the datasets.
        device: "auto", "cpu" or "cuda".
        workers: processes.
        report_only: do nothing but tables and plots.

    Raises:
        SegmentationError: plan, data, output or device cannot be used, or runs failed.
    """
    from ..training.dataset import dataset_paths
    from ..training.experiments.plan import Plan, Run
    from ..training.experiments.report import summary, write_report
    from ..training.experiments.results import RESULTS_NAME, gather_results, read_results, result_path
    from ..training.experiments.schedule import do_runs

    loaded = [Plan.load(plan) for plan in plans]
    written = [output / RESULTS_NAME, *(output / f"{plan.name}.md" for plan in loaded)]
    datasets = [path for plan in loaded for path in dataset_paths(data / plan.dataset)]
    refuse_overwriting([*map(Path, plans), *datasets], written)
    for path in (*written, result_path(output, "run")):
        check_writable(path)
    results = read_results(output) if report_only else gather_results(output)
    runs = {run.key: run for plan in loaded for run in plan.runs()}
    missing = [run for key, run in runs.items() if key not in results]

    def finished(run: Run, result: Mapping[str, Any]) -> None:
        dice, seconds = np.mean(list(result["dice"].values())), 3600 * result["hours"]
        with progress.paused():
            say(f"{run.title}: Dice {dice:.3f} ({duration(seconds)})")

    try:
        if missing and not report_only:
            with ProgressBar() as progress:
                do_runs(missing, data, output, device, workers, progress, finished)
    finally:  # what was done is to be seen, whatever came then
        results = read_results(output) if report_only else gather_results(output)
        lines = [line for plan in loaded for line in summary(plan, write_report(plan, results, output))]
    for line in [*lines, f"Tables and plots are in {output}."]:
        console().print(line, soft_wrap=True)

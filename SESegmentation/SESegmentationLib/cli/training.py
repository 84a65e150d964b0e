"""The commands of the training package, where it is installed; elsewhere they say that it is not."""

from __future__ import annotations

import importlib.util

import typer

from ..errors import DependencyError

PACKAGE = "SESegmentationTraining"
COMMANDS = ("train", "experiment", "evaluate", "measure", "prepare")


def add_training_commands(app: typer.Typer) -> None:
    """Add commands for training and measuring to ``app``."""
    if importlib.util.find_spec(PACKAGE) is not None:
        from SESegmentationTraining.commands import add_commands

        add_commands(app)
        return
    for name in COMMANDS:
        app.command(
            name,
            help="Not installed here: it is part of the training package.",
            add_help_option=False,
            context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        )(_refuse)


def _refuse() -> None:
    raise DependencyError(
        "Training and measuring are not installed here.",
        "Install them from the project's folder: pip install '.[train]'",
    )

"""The commands of other packages, and what stands in for those that are not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import typer

from ..errors import DependencyError

#: packages whose module ``commands`` adds these commands, with the name of their extra dependencies
PACKAGES = {
    "SESegmentationTraining": ("train", ("train", "experiment", "evaluate", "measure", "prepare")),
    "SESegmentationServer": ("serve", ("serve",)),
    "SESegmentationCohort": ("serve", ("cohort",)),
}


def add_package_commands(app: typer.Typer) -> None:
    """Add the commands of installed packages to ``app``; those of others get a command that says what to install."""
    for package, (extra, commands) in PACKAGES.items():
        if importlib.util.find_spec(package) is not None:
            importlib.import_module(f"{package}.commands").add_commands(app)
            continue
        for name in commands:
            app.command(
                name,
                help=f"Not installed here: it is part of the package {package}.",
                add_help_option=False,
                context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
            )(_refusal(package, extra))


def _refusal(package: str, extra: str) -> Callable[[], None]:
    """The command of a package that is not installed; it raises DependencyError."""

    def refuse() -> None:
        raise DependencyError(
            f"The package {package} is not installed here.",
            f"Install it from the project's folder: pip install '.[{extra}]'",
        )

    return refuse

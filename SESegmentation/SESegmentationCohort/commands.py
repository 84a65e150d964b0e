"""The command of the cohort and its options; what it does is imported when it is called."""

from __future__ import annotations

import typer


def add_commands(app: typer.Typer) -> None:
    """Add it to ``app``."""

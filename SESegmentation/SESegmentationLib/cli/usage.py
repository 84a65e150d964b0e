"""Commands whose usage line names their arguments as the list of arguments below it does.

Typer puts required ones into braces there, which read as if they were to be typed.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand


class Command(TyperCommand):
    """A command without braces in its usage line."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words of the usage line after the command's name."""
        return [piece.translate({ord("{"): None, ord("}"): None}) for piece in super().collect_usage_pieces(ctx)]


class Commands(typer.Typer):
    """A group of such commands."""

    def command(self, name: str | None = None, *, cls: type[TyperCommand] | None = None, **options: Any) -> Any:
        """A decorator that adds a function as a command."""
        return super().command(name, cls=cls or Command, **options)

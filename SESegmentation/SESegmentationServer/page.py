"""The page of a server: its queue and its models, without a script."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from SESegmentationLib import __version__
from SESegmentationLib.models import ModelCard

if TYPE_CHECKING:
    from .board import Board


@cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("queue.html")


def page_html(board: Board, cards: Mapping[str, ModelCard], user: str) -> str:
    """The page for a user; of other users' jobs it shows only the number."""
    jobs = [(job, board.state_of(job), *board.outlook(job)) for job in board.jobs_of(user)]
    return _template().render(
        version=__version__,
        user=user,
        waiting=len(board.queue),
        running=board.running,
        slots=board.queue.slots,
        seconds=board.queue.seconds_until_free(),
        jobs=jobs,
        models=[cards[name] for name in sorted(cards)],
    )

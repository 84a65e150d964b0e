"""A private Ray on this computer, closed to other users, which leaves no files. Servers and cohorts start it."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from SESegmentationLib.files import staging_folder
from SESegmentationLib.files.staging import remove_leftovers
from SESegmentationLib.plain_text import first_line

#: characters of the folder for temporary files: a socket's path has room for 107, of which Ray takes most
_LONGEST_PLACE = 20


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A private folder for all that Ray writes, removed at the end, with any that killed processes left."""
    place = Path(tempfile.gettempdir())
    if len(str(place)) > _LONGEST_PLACE and Path("/tmp").is_dir():
        place = Path("/tmp")
    remove_leftovers(place)
    with staging_folder(place, private=True) as folder:
        yield folder


def restrict_to_this_process() -> None:
    """Restrict a Ray that is started here to this process; call it before Ray is imported."""
    os.environ["RAY_AUTH_MODE"] = "token"  # another user of this computer could have it run code
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # nodes listen on the loopback address alone
    os.environ["AUTOSCALER_METRIC_PORT"] = os.environ["DASHBOARD_METRIC_PORT"] = "0"  # any that is free


def start_local_ray(folder: Path, **options: Any) -> None:
    """Start Ray here and connect to it, after :func:`restrict_to_this_process`; errors as of :func:`connect`.

    Args:
        folder: see :func:`private_folder`.
        options: of ``ray.init``.
    """
    connect(
        "local",  # else it would join a running cluster, or the one in RAY_ADDRESS
        include_dashboard=False,
        _temp_dir=str(folder / "ray"),  # Ray's default folder is open to all users
        **options,
    )


def connect(address: str, **options: Any) -> None:
    """Connect to Ray, quietly; ``options`` are those of ``ray.init``.

    Raises:
        ConnectionError: Ray failed, with what it says.
    """
    import ray

    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # when a start takes too long, Ray raises Exception itself
        raise ConnectionError(first_line(str(error), type(error).__name__)) from error

"""Lanes on a Ray cluster: one actor for each GPU, or for each group of cores that segments a scan.

An actor that is lost with its node is started again where there is room; its cases have gone to others by then.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from SESegmentationLib.errors import (
    DependencyError,
    SegmentationError,
    UsageError,
    WorkerError,
    install_advice,
)
from SESegmentationLib.plain_text import first_line
from SESegmentationServer.local_ray import connect, private_folder, restrict_to_this_process, start_local_ray

from .cases import CohortCase
from .dispatch import AT_ONCE, Lane, LaneLostError
from .processes import cores, threads
from .runner import CaseOutcome, CaseRunner
from .settings import CohortSettings

LOCAL = "local"
#: interval in s of checks whether a lost actor is back
_LOOK_S = 1.0
#: time in s within which a computer has to answer
_CONNECT_S = 10.0


@contextlib.contextmanager
def cluster(address: str) -> Iterator[None]:
    """Be connected to a Ray cluster; "local" starts one of this computer's own, which nobody else can use.

    Raises:
        DependencyError: Ray is not installed.
        UsageError: there is no cluster at this address.
        SegmentationError: Ray does not start on this computer.
    """
    if importlib.util.find_spec("ray") is None:
        raise DependencyError("Spreading a cohort over a cluster needs Ray, which is not installed.", _advice())
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    if address == LOCAL:
        restrict_to_this_process()
    import ray

    with contextlib.ExitStack() as opened:
        try:
            if address == LOCAL:
                start_local_ray(opened.enter_context(private_folder()), num_cpus=cores())
            else:
                _check_reachable(address)
                connect(address)
        except (OSError, OverflowError, ValueError) as error:
            why = first_line(str(error), type(error).__name__)
            if address == LOCAL:
                raise SegmentationError(
                    f"Ray cannot start on this computer: {why}.",
                    "Close other programs, or leave out --ray: without it Ray is not needed.",
                ) from error
            raise UsageError(
                f"The Ray cluster {address} cannot be used: {why}.",
                "Start one by ray start, or choose --ray local; see docs/cohorts.md.",
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Check that something listens at HOST:PORT, as Ray itself would wait long; OSError if nothing does."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()


def _advice() -> str:
    return install_advice('"ray[serve]"') + ". Without --ray it is not needed."


def cluster_lanes(settings: CohortSettings, workers: int | None, small: bool) -> list[Lane]:
    """The lanes of the cluster that is connected.

    Args:
        settings: of the cohort; the device "auto" is a GPU where the cluster has any.
        workers: how many lanes; None for as many as there is room for.
        small: the scans are so small that one core per scan is faster than a whole node.

    Raises:
        UsageError: a GPU is wanted, and there is none.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus, device = int(sum(node.get("GPU", 0) for node in nodes)), settings.device.strip().lower()
    if device.startswith("cuda") and not gpus:
        raise UsageError("The Ray cluster has no GPU.", "Choose the device auto or cpu.")
    if gpus and device != "cpu":
        count = workers or gpus
        share = gpus / count if count > gpus else 1
        return [_Actor(replace(settings, device="cuda"), {}, 1, share) for _ in range(count)]
    settings = replace(settings, device="cpu")
    of_nodes = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if not of_nodes:
        raise UsageError("The Ray cluster has no processor to compute on.", "Start its nodes with --num-cpus.")
    if workers:
        each = max(1, sum(of_nodes) // workers)
        sizes = [min(each, max(of_nodes))] * workers
    else:
        sizes = [1] * sum(of_nodes) if small else of_nodes
    return [_Actor(settings, threads(size), size, 0) for size in sizes]


class _Remote:
    """What runs on a node: a runner, made when it is first asked, so that its failures can be reported."""

    def __init__(self, settings: CohortSettings, environment: Mapping[str, str]) -> None:
        self._arguments = settings, environment
        self._runner: CaseRunner | None = None
        self._making = threading.Lock()

    def ready(self) -> SegmentationError | None:
        try:
            with self._making:
                self._runner = self._runner or CaseRunner(*self._arguments)
        except SegmentationError as error:
            return error
        return None

    def run(self, case: CohortCase) -> CaseOutcome | SegmentationError:
        if error := self.ready():
            return error
        assert self._runner is not None
        return self._runner.run(case)


class _Actor:
    """A lane on a node of the cluster, wherever there is room for it."""

    def __init__(self, settings: CohortSettings, environment: Mapping[str, str], cpus: float, gpus: float) -> None:
        import ray

        options: dict[str, Any] = {
            "num_cpus": cpus,
            "num_gpus": gpus,
            "max_restarts": -1,
            "max_concurrency": AT_ONCE + 1,
        }
        self._actor: Any = ray.remote(**options)(_Remote).remote(settings, dict(environment))

    def start(self) -> None:
        import ray
        from ray.exceptions import ActorDiedError, RayError

        error: SegmentationError | None
        try:
            error = ray.get(self._actor.ready.remote())
        except ActorDiedError as died:
            raise WorkerError(
                f"Ray has given up a process: {first_line(str(died), type(died).__name__)}.",
                "See the log of that process in Ray's logs; then go on with --resume.",
            ) from died
        except RayError as unavailable:
            time.sleep(_LOOK_S)
            raise LaneLostError from unavailable
        if error:
            raise error

    def run(self, case: CohortCase) -> CaseOutcome | SegmentationError:
        import ray
        from ray.exceptions import RayError

        try:
            return ray.get(self._actor.run.remote(case))
        except RayError as error:
            raise LaneLostError from error

    def close(self) -> None:
        import ray

        with contextlib.suppress(Exception):
            ray.kill(self._actor)

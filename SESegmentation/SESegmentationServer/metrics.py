"""The server's metrics for Prometheus. Users are counted, not named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

if TYPE_CHECKING:
    from .board import Board


class _Collector:
    """Reads the board at each request."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterator[Metric]:
        queue = self._board.queue
        yield GaugeMetricFamily("sesegment_jobs_waiting", "Jobs that wait.", len(queue))
        yield GaugeMetricFamily("sesegment_jobs_running", "Jobs that run.", queue.running)
        yield GaugeMetricFamily("sesegment_users", "Users who have jobs.", self._board.users)
        yield GaugeMetricFamily("sesegment_slots", "Small jobs that can run at once.", queue.slots)
        ended = CounterMetricFamily("sesegment_jobs_ended", "Jobs that have ended, by outcome.", labels=["outcome"])
        for outcome, count in self._board.finished.items():
            ended.add_metric([outcome], count)
        yield ended
        yield CounterMetricFamily("sesegment_replicas_lost", "Replicas that were lost in a job.", self._board.lost)
        rates = GaugeMetricFamily(
            "sesegment_seconds_per_megavoxel", "Run time of finished jobs.", labels=["kind", "model"]
        )
        for kind, rate in queue.estimates.rates.items():
            rates.add_metric(list(kind), rate)
        yield rates


def metrics_text(board: Board) -> tuple[bytes, str]:
    """The text, and its media type."""
    registry = CollectorRegistry()
    registry.register(_Collector(board))
    return generate_latest(registry), CONTENT_TYPE_LATEST

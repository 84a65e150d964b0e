"""Jobs sent to a server by the client's own code, and what becomes of them."""

from __future__ import annotations

import time

import numpy as np

from contract_server import ContractServer
from SESegmentationLib.client import FailureEvent, ResultEvent
from SESegmentationLib.client.remote import Patience, RemoteSegmenter
from SESegmentationLib.client.servers import Server, server_at
from SESegmentationLib.errors import ServerError
from SESegmentationLib.worker.messages import ACCEPTED, RESULT


def events_of(server: Server | str, job, until=lambda event: False, **patience) -> list:
    """All that becomes of a job; it is cancelled as soon as an event is such."""
    server = server if isinstance(server, Server) else server_at(server)
    events, end = [], time.monotonic() + 30
    with RemoteSegmenter(server, Patience(**patience)) as segmenter:
        handle = segmenter.submit(job)
        while not events or not isinstance(events[-1], ResultEvent | FailureEvent):
            assert time.monotonic() < end, events
            time.sleep(0.002)
            for event in segmenter.poll():
                assert event.job == handle.number
                events.append(event)
                if until(event):
                    handle.cancel()
        assert handle.finished
    return events


def error_of(server, job, kind=ServerError, **patience):
    (*_, last) = events_of(server, job, **patience)
    assert isinstance(last, FailureEvent) and type(last.error) is kind, last
    for line in (last.error.cause, last.error.remedy):
        assert line and "\n" not in line and "Traceback" not in line
    return last.error


def jobs_asked(server: ContractServer) -> list[str]:
    return [method for method, path in server.asked if path.startswith("/v1/jobs/")]


def short_result(frame, publish):
    """Gives back the voxels that were sent, as labels."""
    publish({"type": ACCEPTED})
    value = {"geometry": frame.header["value"]["images"]["image"]}
    labels = frame.arrays[0].astype(np.uint16)
    publish({"type": RESULT, "kind": frame.header["kind"], "value": value}, [labels])

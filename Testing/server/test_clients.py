"""Clients of a real server, by TLS and with a token: the panel's stories again, the command line, lines that break."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from pathlib import Path

import pytest

from serving import served

sys.path.insert(0, str(Path(__file__).parents[1] / "panel"))

from panel_clicks import click, type_text  # noqa: E402
from panel_fixtures import *  # noqa: E402, F403
from test_corrections_story import crop, test_two_neighbouring_slices_improve_the_others  # noqa: E402, F401
from test_review_story import reviewed, test_from_segment_to_report  # noqa: E402, F401
from test_story import (  # noqa: E402, F401
    story,
    test_from_the_sample_to_a_scene_that_is_loaded_again,
    test_it_goes_on_where_the_event_loop_keeps_the_lock,
)

from SESegmentationLib.cli import main  # noqa: E402
from SESegmentationLib.client import ResultEvent, SegmentJob, remote, servers, wait_for  # noqa: E402
from SESegmentationLib.client.remote import RemoteSegmenter  # noqa: E402
from SESegmentationLib.client.servers import server_at  # noqa: E402
from SESegmentationLib.io.reading import read_volume  # noqa: E402

pytestmark = pytest.mark.usefixtures("no_own_servers")
MODEL = "hippocampus-t1"
open_local_story = open_story  # noqa: F405 (another fixture has its name here)


@pytest.fixture(scope="module")
def server(random_model):
    """A server of its own: it has the random model, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SESEGMENTATION_MODELS", str(random_model.parent))
        with served(["alice"], tls=True) as running:
            yield running


@pytest.fixture
def open_story(open_local_story, server, dialogs):  # noqa: F811
    """As the fixture of that name; then the server is chosen, by clicks, and the scan may be sent there."""

    def open_it(model):
        opened = open_local_story(model)
        ui = opened.ui
        click(ui.serverSection)
        ui.placeSelector.currentIndex = 1
        type_text(ui.serverEdit, server.url)
        type_text(ui.tokenEdit, server.tokens["alice"])
        ui.certificateEdit.currentPath = str(server.authority)
        click(ui.serverSection)
        dialogs.answer(True)
        return opened

    yield open_it
    assert server.ask("GET", "/v1/jobs", "alice").json() == {"jobs": []}  # all was fetched, or cancelled, and forgotten


@pytest.fixture
def sample(tmp_path):
    """A file with a small volume."""
    from drawn_hippocampus import write_sample

    path = tmp_path / "sample.nii.gz"
    write_sample(path)
    return path


def test_the_command_line_gives_the_same_bytes_here_and_there(server, sample, tmp_path, monkeypatch):
    monkeypatch.setenv(servers.TOKEN_VARIABLE, server.tokens["alice"])
    there = ["--server", server.url, "--server-certificate", str(server.authority)]
    for name, where in (("here", ["--device", "cpu"]), ("there", there)):
        outputs = ["-o", f"{tmp_path / name}.seg.nrrd", "--attention", f"{tmp_path / name}.nii.gz"]
        assert main(["run", str(sample), "-m", MODEL, "--accept-licence", *outputs, *where]) == 0
    for ending in (".seg.nrrd", ".nii.gz"):
        assert (tmp_path / f"here{ending}").read_bytes() == (tmp_path / f"there{ending}").read_bytes()
    assert main(["doctor", *there]) == 0


class BadLine:
    """Carries bytes to a port, and breaks each connection after some bytes from there, as often as it was told.

    Args:
        port: to which it leads.
        breaks: after how many bytes.
    """

    def __init__(self, port: int, breaks: list[int]) -> None:
        self.breaks = breaks
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._port))
            for source, target, counts in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._carry, args=(source, target, counts), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        left = self.breaks.pop(0) if counts and self.breaks else None
        with contextlib.suppress(OSError):
            while (data := source.recv(2000)) and (left is None or left > 0):
                target.sendall(data)
                left = None if left is None else left - len(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def test_lines_that_break_cost_nothing_but_time(server, sample):
    """In the handshake of TLS, between messages and in the result."""
    job, told = SegmentJob(read_volume(sample), MODEL), []
    servers.AddressBook().set_token(server.url, server.tokens["alice"])
    with RemoteSegmenter(server_at(server.url, server.authority)) as segmenter:
        whole = wait_for(segmenter, job, lambda *progress: None)
    line = BadLine(int(server.url.rpartition(":")[2]), [10**9, 9000, 100, 4500, 12_000])
    url = f"https://127.0.0.1:{line.port}"
    servers.AddressBook().set_token(url, server.tokens["alice"])
    with RemoteSegmenter(server_at(url, server.authority)) as segmenter:
        segmenter._client.request("GET", "/healthz").close()
        result = wait_for(segmenter, job, lambda *progress: told.append(progress))
    line.close()
    assert isinstance(result, ResultEvent) and not line.breaks
    assert [a.tobytes() for a in result.arrays] == [a.tobytes() for a in whole.arrays]
    assert any(phase == remote.RECONNECTING for phase, *_ in told)

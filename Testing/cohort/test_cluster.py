"""A cohort on a Ray cluster of two nodes, of which one is killed in the middle."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from SESegmentationCohort.cluster import cluster
from SESegmentationLib.errors import SegmentationError

ray = pytest.importorskip("ray", reason="needs ray (extra serve)")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
LIBRARY = Path(__file__).parents[2] / "SESegmentation"


@pytest.fixture
def two_nodes(monkeypatch) -> Iterator:
    """A cluster of this computer's own, with one core a node."""
    from ray.cluster_utils import Cluster

    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    folder = tempfile.mkdtemp(prefix="c", dir="/tmp")  # paths of sockets must be short
    monkeypatch.setenv("RAY_TMPDIR", folder)  # it writes there too which cluster is the current one
    common = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=common)
    try:
        cluster.add_node(**common)
        yield cluster
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_node_that_is_killed_loses_no_scan(two_nodes, make_command, real_crops):
    command = make_command(real_crops, "hippocampus-t1")
    process = command.start("--ray", two_nodes.address)
    until = time.monotonic() + 120
    while len(command.stamps()) < 5 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    two_nodes.remove_node(list(two_nodes.worker_nodes)[0], allow_graceful=False)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert len(command.stamps()) == len(command.records) == len(real_crops)
    assert {record.state for record in command.records.values()} == {"segmented"}
    assert (command.out / "failures.tsv").read_text(encoding="utf-8").splitlines() == ["input\tcode\tcause\tremedy"]
    assert not command.hidden()
    code, err = command.run("--resume", "--workers", 1)
    assert code == 0
    assert f"{len(real_crops)} of them before" in err


def test_a_cluster_that_is_not_there_is_told(make_command, real_crops):
    command = make_command(real_crops[:1], "hippocampus-t1")
    code, err = command.run("--ray", "127.0.0.1:1")
    assert code == 2
    assert "127.0.0.1:1 cannot be used" in err
    assert not command.stamps()


def test_ray_that_does_not_start_here_is_told(monkeypatch):
    """Ray raises Exception itself when a node takes too long."""

    def fail(*_arguments, **_options):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(os, "environ", dict(os.environ))  # it is prepared for Ray's processes
    monkeypatch.setattr(ray, "init", fail)
    with (
        pytest.raises(SegmentationError, match=r"Ray cannot start on this computer: .* timed out") as told,
        cluster("local"),
    ):
        pass
    assert "leave out --ray" in told.value.remedy


LOOK = """
import contextlib, os, pathlib, psutil
from SESegmentationCohort.cluster import cluster

before = set(pathlib.Path("/tmp").glob(".sesegment-*"))
with cluster("local"):
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    print("address", connection.laddr.ip)
    for folder in set(pathlib.Path("/tmp").glob(".sesegment-*")) - before:
        print("mode", oct(folder.stat().st_mode & 0o777))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes as Linux shows them")
def test_a_cluster_of_this_computers_own_is_closed_to_others():
    """Also where the user has another cluster: it is not joined."""
    environment = os.environ | {"PYTHONPATH": str(LIBRARY), "TMPDIR": "/tmp", "RAY_ADDRESS": "127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-c", LOOK], env=environment, capture_output=True, encoding="utf-8", timeout=200
    )
    assert done.returncode == 0, done.stderr
    told = [line.split() for line in done.stdout.splitlines()]
    addresses = {value for name, value in told if name == "address"}
    assert addresses and addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert {value for name, value in told if name == "mode"} == {"0o700"}

"""How a server starts, and that nothing is left of it: neither processes, nor files, nor an open door."""

from __future__ import annotations

import datetime
import errno
import os
import re
import signal
import socket
import sys
import threading
import time

import psutil
import pytest

from serving import end, free_port, served
from SESegmentationLib.cli import main
from SESegmentationLib.errors import UsageError
from SESegmentationLib.worker.messages import RESULT
from SESegmentationServer import serving
from SESegmentationServer.settings import ServerSettings
from SESegmentationServer.tokens import TokenStore

ray = pytest.importorskip("ray")


def start(tmp_path, *options: str) -> int:
    return main(["serve", "--tokens", str(tmp_path / "tokens.json"), *options])


def test_others_are_not_let_in_without_tls_and_a_token(tmp_path, capsys):
    for name in ("certificate.pem", "key.pem"):
        (tmp_path / name).write_text("PEM")
    tls = ["--certificate", str(tmp_path / "certificate.pem"), "--key", str(tmp_path / "key.pem")]
    for host in ("0.0.0.0", "::", "192.0.2.7", "example.org"):
        assert start(tmp_path, "--host", host) == 2
        assert "--certificate and --key" in capsys.readouterr().err
        assert start(tmp_path, "--host", host, *tls) == 2
        assert "sesegment serve token add" in capsys.readouterr().err
    TokenStore(tmp_path / "tokens.json").add("alice")
    assert start(tmp_path, "--host", "0.0.0.0") == 2
    assert "--certificate and --key" in capsys.readouterr().err


def test_what_it_cannot_start_with_is_told(tmp_path, capsys):
    (tmp_path / "tokens.json").write_text("damaged", encoding="utf-8")
    assert start(tmp_path) == 1
    assert f"tokens {tmp_path / 'tokens.json'} cannot be read" in capsys.readouterr().err
    (tmp_path / "tokens.json").unlink()
    assert start(tmp_path, "--certificate", str(tmp_path / "no.pem")) == 2
    assert "Give both" in capsys.readouterr().err
    assert start(tmp_path, "--certificate", str(tmp_path / "no.pem"), "--key", str(tmp_path / "no.pem")) == 2
    assert "cannot be read" in capsys.readouterr().err
    (tmp_path / "no.pem").write_text("nothing")
    assert start(tmp_path, "--certificate", str(tmp_path / "no.pem"), "--key", str(tmp_path / "no.pem")) == 2
    assert "no certificate and key" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert start(tmp_path, "--port", str(taken.getsockname()[1])) == 2
    cause, remedy = capsys.readouterr().err.splitlines()
    assert "cannot listen" in cause and "was killed less than 15 s ago" in remedy


@pytest.mark.parametrize("host", ["::1", "a..b", "ä" * 70], ids=["IPv6", "empty part", "long part"])
def test_an_address_that_the_system_does_not_know_is_told(monkeypatch, host):
    """Without IPv6 there is no such socket; names that no network can have are a ValueError or a TypeError."""
    if host == "::1":

        def refuse(*_arguments):
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

        monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(UsageError, match="cannot listen on") as told:
        serving._check_address(ServerSettings(host=host, port=free_port() if host != "::1" else 8399))
    assert "--host" in told.value.remedy


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows ends the programs of a console that is closed")
@pytest.mark.parametrize("nohup", [False, True])
def test_a_terminal_that_is_closed_ends_the_server_in_order(monkeypatch, nohup):
    """Otherwise the processes and files of Ray would stay."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    ended = threading.Event()
    try:
        with serving._signals(ended):
            handler = signal.getsignal(signal.SIGHUP)
            if nohup:
                assert handler == signal.SIG_IGN
            else:
                assert callable(handler)
                handler(signal.SIGHUP, None)
                assert ended.is_set()
        assert signal.getsignal(signal.SIGHUP) == (signal.SIG_IGN if nohup else signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("days", "message"), [((-9, -2), "has expired"), ((2, 9), "not yet valid"), ((-9, 9), None)])
@pytest.mark.parametrize("chain", [True, False])
def test_a_certificate_that_clients_would_refuse_for_its_dates_is_told(tmp_path, capsys, days, message, chain):
    import trustme

    begin, end_of_it = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(day) for day in days)
    authority = trustme.CA()
    own = authority.issue_cert("gpu.example.org", not_before=begin, not_after=end_of_it)
    for pem in (*own.cert_chain_pems, *[authority.cert_pem] * chain):
        pem.write_to_path(str(tmp_path / "certificate.pem"), append=True)
    own.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    files = ("--certificate", str(tmp_path / "certificate.pem"), "--key", str(tmp_path / "key.pem"))
    with socket.socket() as taken:  # what is looked at next
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert start(tmp_path, "--port", str(taken.getsockname()[1]), *files) == 2
    told = capsys.readouterr().err
    assert (message or "cannot listen") in told
    assert ("Renew the certificate" in told) is (message is not None)


def test_without_ray_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(serving, "find_spec", lambda name: None if name == "ray" else object())
    assert start(tmp_path, "--port", str(free_port())) == 1
    told = capsys.readouterr().err
    assert "Ray Serve" in told
    assert "pip install" in told


@pytest.mark.parametrize("options", [(), ("--address", "127.0.0.1:1")])
@pytest.mark.parametrize("failure", [Exception, ray.exceptions.RaySystemError, RuntimeError])
def test_ray_that_does_not_start_is_told(tmp_path, capsys, monkeypatch, options, failure):
    """Ray raises Exception itself when a node takes too long."""

    def fail(*_arguments, **_options):
        raise failure("The current node timed out during startup.\nSee its logs.")

    monkeypatch.setattr(os, "environ", dict(os.environ))  # it is prepared for Ray's processes
    monkeypatch.setattr(ray, "init", fail)
    assert start(tmp_path, "--port", str(free_port()), *options) == 1
    cause, remedy = capsys.readouterr().err.splitlines()[-2:]
    assert re.search(r"Ray cannot start the server: .*The current node timed out during startup\.$", cause)
    assert "Close other programs" in remedy


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes as Linux shows them")
def test_on_this_computer_it_needs_no_configuration_and_leaves_nothing(small_job):
    import grpc

    with served() as server:
        assert server.do(small_job, None)[-1].header["type"] == RESULT
        for host in ("evil.example", "evil.example:80"):  # a page whose name leads here
            assert server.ask("GET", "/v1/server", headers={"Host": host}).status_code == 421
        token = server.store.add("alice")  # from now on it asks for it
        assert server.ask("GET", "/v1/server").status_code == 401
        assert server.ask("GET", "/v1/server", token).status_code == 200
        server.store.revoke("alice")
        assert server.ask("GET", "/v1/server").status_code == 401

        private = [path for path in (server.folder / "t").iterdir() if path.is_dir()]
        assert [path.stat().st_mode & 0o777 for path in private] == [0o700]
        processes = psutil.Process(server.process.pid).children(recursive=True)
        for address in _listening([psutil.Process(server.process.pid), *processes]):
            if address.ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
                with grpc.insecure_channel(f"127.0.0.1:{address.port}") as channel, pytest.raises(grpc.RpcError) as no:
                    call = channel.unary_unary(
                        "/ray.serve.ASGIService/HandleRequest", lambda sent: sent, lambda received: received
                    )
                    call(b"", timeout=10)
                assert no.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert end(server) == 0
        assert server.lines[0].startswith("Starting")
        assert _gone(processes)
        assert list((server.folder / "t").iterdir()) == []


def _listening(processes: list[psutil.Process]) -> list:
    return [
        connection.laddr
        for process in processes
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]


def _gone(processes: list[psutil.Process], seconds: float = 10.0) -> bool:
    until = time.monotonic() + seconds
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True

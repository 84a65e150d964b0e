"""Tokens: only hashes are kept, what changes counts at once, and nothing is lost."""

from __future__ import annotations

import json
import os
import re
import stat

import pytest
from fastapi import Request

from SESegmentationLib.cli import main
from SESegmentationLib.errors import SegmentationError, UsageError
from SESegmentationLib.files import OutputError
from SESegmentationServer.gate import LOCAL_USER, Gate
from SESegmentationServer.refusals import RefusalError
from SESegmentationServer.settings import ServerSettings
from SESegmentationServer.tokens import TokenStore


@pytest.fixture
def store(tmp_path):
    return TokenStore(tmp_path / "configuration" / "tokens.json")


def test_a_token_names_its_user_and_is_kept_nowhere(store):
    alice, bob = store.add("alice"), store.add("bob")
    assert store.user_of(alice) == "alice"
    assert store.user_of(bob) == "bob"
    for wrong in ("", alice[:-1], alice + "a", alice.swapcase(), "\ud800", "alice"):
        assert store.user_of(wrong) is None
    text = store.path.read_text(encoding="utf-8")
    assert alice not in text
    assert bob not in text
    if os.name == "posix":
        assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


def test_what_another_process_changes_counts_at_once(store):
    token = store.add("alice")
    other = TokenStore(store.path)
    assert other.user_of(token) == "alice"
    store.revoke("alice")
    assert other.user_of(token) is None
    assert other.user_of(store.add("alice")) == "alice"
    assert other.user_of(token) is None


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "../x", "a" * 65, "é", "-a"])
def test_a_name_is_a_plain_word(store, name):
    with pytest.raises(UsageError):
        store.add(name)
    assert not store.path.exists()


def test_a_user_has_one_token_and_only_an_own_one_is_revoked(store):
    store.add("alice")
    with pytest.raises(UsageError, match="alice already has a token"):
        store.add("alice")
    with pytest.raises(UsageError, match="bob has no token"):
        store.revoke("bob")


def test_on_a_full_disk_the_old_tokens_stay(store, monkeypatch):
    token = store.add("alice")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for change in (lambda: store.add("bob"), lambda: store.revoke("alice")):
        with pytest.raises(OutputError, match="tokens.json cannot be written: the disk .* is full"):
            change()
    assert store.user_of(token) == "alice"
    assert sorted(path.name for path in store.path.parent.iterdir()) == ["tokens.json", "tokens.json.lock"]


DAMAGED = [
    *("", "[]", '{"tokens": [{"name": "a"}]}', '{"tokens": 3}', "\xff", "[" * 100_000),
    *(
        json.dumps({"tokens": [{"name": name, "sha256": digest, "added": "2026-11-29"}]})
        for name, digest in (("anna", "ä" * 64), ("anna", ""), ("", "0" * 64))
    ),
]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_file_lets_nobody_in(store, text):
    store.path.parent.mkdir()
    store.path.write_bytes(text.encode("latin-1"))
    with pytest.raises(SegmentationError, match="cannot be read"):
        store.user_of("")


@pytest.mark.parametrize("text", DAMAGED)
@pytest.mark.parametrize("some", [True, False])
def test_a_file_that_is_damaged_while_the_server_runs_is_told_without_its_path(store, caplog, text, some):
    token = store.add("anna")
    good = store.path.read_text(encoding="utf-8")
    if not some:
        store.path.unlink()
    gate = Gate(ServerSettings(tokens=store.path))
    store.path.write_bytes(text.encode("latin-1"))
    for sent in (token, "another", "", token):
        with pytest.raises(RefusalError) as refused:
            gate.user_of(request(sent))
        assert refused.value.status == 503
        assert "sesegment serve token list" in refused.value.error.remedy
        assert str(store.path.parent) not in str(refused.value.to_dict())
    assert gate.knows("anna" if some else LOCAL_USER)  # their jobs stay
    (logged,) = caplog.messages  # requests do not fill the disk
    assert re.fullmatch(r"The file of tokens cannot be read: \w.*\.", logged)
    store.path.write_text(good, encoding="utf-8")
    assert gate.user_of(request(token)) == "anna"
    assert not gate.knows("bob")


def request(token: str) -> Request:
    """As it comes from a client of this computer."""
    headers = [(b"host", b"127.0.0.1"), (b"authorization", f"Bearer {token}".encode())]
    return Request({"type": "http", "method": "GET", "path": "/v1/server", "query_string": b"", "headers": headers})


def test_by_the_command(tmp_path, capsys):
    tokens = ["--tokens", str(tmp_path / "tokens.json")]
    assert main(["serve", "token", "add", "alice", *tokens]) == 0
    token = capsys.readouterr().out.strip()
    assert TokenStore(tmp_path / "tokens.json").user_of(token) == "alice"
    assert main(["serve", "token", "list", *tokens]) == 0
    assert capsys.readouterr().out.startswith("alice 20")
    assert main(["serve", "token", "revoke", "alice", *tokens]) == 0
    assert main(["serve", "token", "revoke", "alice", *tokens]) == 2
    assert "alice has no token" in capsys.readouterr().err

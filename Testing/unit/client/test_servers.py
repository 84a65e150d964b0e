"""Addresses of servers, and what is kept for each: certificate, token, consent."""

from __future__ import annotations

import json
import os
import sys
import threading
import types
from functools import partial

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from SESegmentationLib.client import servers
from SESegmentationLib.client.servers import AddressBook, server_at
from SESegmentationLib.errors import UsageError
from SESegmentationLib.files import OutputError, locking

URL = "https://gpu.hospital.org:8399"


@pytest.fixture(autouse=True)
def own_settings(tmp_path, monkeypatch):
    """Nothing of this computer's user."""
    monkeypatch.setattr(servers, "servers_file", lambda: tmp_path / "settings" / "servers.json")
    monkeypatch.delenv(servers.TOKEN_VARIABLE, raising=False)


@pytest.fixture
def keyring(monkeypatch):
    """The package keyring with a backend; what it holds, and whether it works."""
    kept = {}

    def checked():
        if kept.get("broken"):
            raise OSError("the keyring is locked")
        return kept

    package = types.ModuleType("keyring")
    package.get_keyring = lambda: types.SimpleNamespace(priority=kept.get("priority", 5))
    package.get_password = lambda *key: checked().get(key)
    package.set_password = lambda service, user, token: checked().update({(service, user): token})
    monkeypatch.setitem(sys.modules, "keyring", package)
    return kept


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("gpu.hospital.org", "https://gpu.hospital.org:8399"),
        (" https://gpu.hospital.org/ ", "https://gpu.hospital.org:8399"),
        ("gpu:443", "https://gpu:443"),
        ("127.0.0.1", "http://127.0.0.1:8399"),
        ("localhost:9000", "http://localhost:9000"),
        ("https://localhost:9000", "https://localhost:9000"),
        ("[::1]:9", "http://[::1]:9"),
        ("::1", "http://[::1]:8399"),
        ("2001:db8::5", "https://[2001:db8::5]:8399"),
        ("https://gate.hospital.org/seg/", "https://gate.hospital.org:8399/seg"),
    ],
)
def test_addresses(address, url):
    assert server_at(address).url == url


@pytest.mark.parametrize(
    "address",
    ["", "  ", "http://gpu.hospital.org", "http://10.0.0.7:8399", "https://me:secret@gpu", "https://gpu?token=a"]
    + [
        "ftp://gpu",
        "https://",
        "gpu:port",
        "gpu:99999",
        "gpu:0",
        "https://gpu:0/seg",
        "two words",
        "https://g\tpu",
        "file:///etc/passwd",
        "http://[::1",
    ],
)
def test_addresses_to_which_nothing_is_sent(address):
    with pytest.raises(UsageError) as caught:
        server_at(address)
    assert caught.value.remedy and "secret" not in caught.value.cause


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400)
@given(st.text() | st.from_regex(r"[a-z]{0,5}:?/{0,3}[^/]{0,20}(:\d{0,6})?(/.*)?"))
def test_any_text_is_an_address_that_is_safe_or_none(text):
    try:
        server = server_at(text)
    except UsageError as error:
        assert error.remedy and len(error.cause) < 700
        return
    assert server.is_here or server.url.startswith("https://")
    assert server_at(server.url) == server


def test_a_token_is_never_on_its_way_unencrypted_off_this_computer(monkeypatch):
    sent = []
    monkeypatch.setattr(requests.Session, "request", lambda *arguments, **options: sent.append(arguments))
    for address in ("http://gpu.hospital.org:8399", "http://192.168.0.9"):
        with pytest.raises(UsageError, match="not encrypted"):
            server_at(address)
    assert sent == []


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_tokens_are_in_the_keyring_where_there_is_one(keyring, monkeypatch):
    book = AddressBook()
    assert book.token(URL) == "" == book.token_place(URL)
    assert book.set_token(URL, " s3cret ")
    assert keyring == {("SESegmentation", URL): "s3cret"} and not book.path.exists()
    assert server_at(URL).token() == "s3cret" and book.token_place(URL) == "keyring"
    assert server_at("other.org").token() == ""
    monkeypatch.setenv(servers.TOKEN_VARIABLE, "from-outside")
    assert server_at(URL).token() == "from-outside" and book.token_place(URL) == "environment"


@pytest.mark.parametrize("state", [{"priority": 0}, {"broken": True}, None])
def test_without_a_keyring_tokens_are_in_a_file_that_only_the_user_reads(keyring, monkeypatch, state):
    if state is None:
        monkeypatch.setitem(sys.modules, "keyring", None)
    else:
        keyring.update(state)
    book, before = AddressBook(), os.umask(0)
    try:
        assert not book.set_token(URL, "s3cret")
    finally:
        os.umask(before)
    assert book.token(URL) == "s3cret" and book.token_place(URL) == "file"
    if os.name == "posix":
        assert book.path.stat().st_mode & 0o777 == 0o600
    keyring.clear()
    monkeypatch.setitem(sys.modules, "keyring", keyring_module := sys.modules["keyring"])
    if keyring_module is not None:  # one is there again: the token moves into it
        assert book.set_token(URL, "another") and "s3cret" not in book.path.read_text(encoding="utf-8")


def test_the_real_package_says_here_that_it_has_no_keyring_or_keeps_one():
    pytest.importorskip("keyring")
    found = servers._keyring()
    assert found is None or found.get_keyring().priority >= 1


@pytest.mark.parametrize("token", ["", " ", "two words", "Umlaut-\u00e4", "line\nline", "x" * 600])
def test_what_is_no_token_is_refused(keyring, token):
    with pytest.raises(UsageError):
        AddressBook().set_token(URL, token)
    assert keyring == {}


def test_consent_is_kept_for_each_server_and_scan(monkeypatch):
    book = AddressBook()
    monkeypatch.setattr(servers, "_MOST_SCANS", 3)
    book.set_consent(URL, "a")
    assert book.has_consent(URL, "a") and not book.has_consent(URL, "b")
    assert not book.has_consent("https://other.org:8399", "a")
    for scan in "bcad":
        book.set_consent(URL, scan)
    assert [scan for scan in "abcd" if AddressBook().has_consent(URL, scan)] == ["a", "c", "d"]


def test_certificates_are_kept_and_checked(tmp_path):
    book = AddressBook()
    book.set_certificate(URL, tmp_path / "ca.pem")
    with pytest.raises(UsageError, match="There is no certificate"):
        server_at(URL)
    (tmp_path / "ca.pem").write_text("no certificate", encoding="utf-8")
    with pytest.raises(UsageError, match="holds no certificate"):
        server_at(URL)
    book.set_certificate(URL, None)
    assert server_at(URL).certificate is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"servers": 7}', "\xff"])
def test_a_damaged_file_is_told_and_left(content):
    path = AddressBook().path
    path.parent.mkdir(parents=True)
    path.write_bytes(content.encode("latin-1"))
    for use in (lambda book: book.token(URL), lambda book: book.set_consent(URL, "a")):
        with pytest.raises(UsageError, match=r"servers\.json cannot be read"):
            use(AddressBook())
    assert path.read_bytes() == content.encode("latin-1")


@pytest.mark.parametrize("entry", [7, None, [], {"certificate": 3, "token": [], "scans": "a"}, {"scans": [1, None]}])
def test_odd_entries_count_as_none(entry, monkeypatch):
    monkeypatch.setattr(servers, "_keyring", lambda: None)
    path = AddressBook().path
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"servers": {URL: entry}}), encoding="utf-8")
    book = AddressBook()
    assert (book.token(URL), book.certificate(URL), book.has_consent(URL, "a")) == ("", None, False)
    book.set_consent(URL, "a")
    assert book.has_consent(URL, "a")


def test_a_file_that_cannot_be_written_is_told_and_whole(monkeypatch):
    book = AddressBook()
    book.set_consent(URL, "a")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(servers.os, "replace", full)
    with pytest.raises(OutputError, match="servers.json cannot be written: the disk .* is full"):
        book.set_consent(URL, "b")
    assert sorted(os.listdir(book.path.parent)) == ["servers.json", "servers.json.lock"]
    assert AddressBook().has_consent(URL, "a")


def test_what_is_changed_at_the_same_time_is_kept(monkeypatch):
    """The panel and the command line: the second one begins while the first is about to write."""
    write, others = servers.write_private, []

    def write_late(path, text):
        if not others:
            others.append(threading.Thread(target=AddressBook().set_consent, args=(URL, "b")))
            others[0].start()
            others[0].join(0.3)
        write(path, text)

    monkeypatch.setattr(servers, "write_private", write_late)
    AddressBook().set_consent(URL, "a")
    others[0].join()
    assert [scan for scan in "ab" if AddressBook().has_consent(URL, scan)] == ["a", "b"]


def test_a_file_that_another_program_holds_is_told(monkeypatch):
    filelock = pytest.importorskip("filelock")
    monkeypatch.setattr(servers, "changing", partial(locking.changing, longest_wait=0.01))
    book = AddressBook()
    book.set_consent(URL, "a")
    held = filelock.FileLock(f"{book.path}.lock", thread_local=False)
    holder = threading.Thread(target=held.acquire)
    holder.start()
    holder.join()
    with pytest.raises(UsageError, match="changed by another program"):
        book.set_consent(URL, "b")
    held.release()
    book.set_consent(URL, "b")
    assert book.has_consent(URL, "b")


def test_without_the_package_filelock_settings_are_kept_all_the_same(monkeypatch):
    monkeypatch.setitem(sys.modules, "filelock", None)
    AddressBook().set_consent(URL, "a")
    assert AddressBook().has_consent(URL, "a")

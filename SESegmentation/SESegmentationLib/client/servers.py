"""Servers that segment: what is stored for each by this user (address, certificate, token, consent).

Tokens are kept in the system's keyring where the Python package keyring is installed and has one, else in the file
that holds the rest, which only this user can read.
"""

from __future__ import annotations

import contextlib
import importlib
import ipaddress
import json
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import UsageError
from ..files import changing, write_private
from ..files.json_files import read_json
from ..models import user_models_folder
from ..plain_text import fault_of

#: environment variable with the token of a server, used instead of a stored one
TOKEN_VARIABLE = "SESEGMENTATION_TOKEN"
#: service name under which the keyring holds tokens; the user name is the address
SERVICE = "SESegmentation"
PORT = 8399
#: scans for which consent is remembered, per server
_MOST_SCANS = 2000
_LONGEST_TOKEN = 512
#: backends of keyrings with a lower priority are not recommended: none at all, or a file without a password
_RECOMMENDED = 1.0
_EXAMPLE = "Write it like https://gpu.hospital.org:8399."


@dataclass(frozen=True)
class Server:
    """Where a server is, and how its certificate is checked; see :func:`server_at`.

    Attributes:
        url: with "http" (this computer only) or "https", without "/" at its end.
        certificate: PEM file of certificates to trust, its own or its authority's; None: those trusted by default.
    """

    url: str
    certificate: Path | None = None

    @property
    def name(self) -> str:
        """Host and port, for messages."""
        return urlsplit(self.url).netloc

    @property
    def is_here(self) -> bool:
        """Whether it is on this computer."""
        return _is_loopback(urlsplit(self.url).hostname or "")

    def token(self) -> str:
        """The token of this user; empty where there is none. May ask the user to unlock the keyring.

        Raises:
            UsageError: what the environment or the file holds is no token.
        """
        token = os.environ.get(TOKEN_VARIABLE, "").strip() or AddressBook().token(self.url)
        if token and not _is_token(token):  # errors about what cannot be sent would quote it
            raise UsageError(
                f"The token stored for the server {self.name} is not valid.",
                f"Store the one that its owner gave, in the panel or in the variable {TOKEN_VARIABLE}.",
            )
        return token


def server_at(address: str, certificate: Path | None = None) -> Server:
    """The server with this address.

    Args:
        address: host, host and port, IPv6 address, or URL. Without a port it is 8399, without "http://" or "https://"
            the latter, except on this computer.
        certificate: see :class:`Server`; None: what the address book says.

    Raises:
        UsageError: it is no address, or one to which nothing may be sent; the certificate cannot be used.
    """
    url = url_of(address)
    certificate = certificate or AddressBook().certificate(url)
    if certificate is None:
        return Server(url)
    try:
        ssl.create_default_context(cafile=certificate)
    except FileNotFoundError as error:
        raise UsageError(f"There is no certificate {certificate}.", "Choose the file that the owner gave.") from error
    except (OSError, ValueError) as error:  # ssl.SSLError is one
        remedy = "Ask the server's owner for its certificate in the format PEM."
        raise UsageError(f"{certificate} holds no certificate.", remedy) from error
    return Server(url, certificate)


def url_of(address: str) -> str:
    """The URL of a server; see :func:`server_at`, whose errors it raises."""
    text = address.strip()
    if not text:
        raise UsageError("No address of a server is given.", _EXAMPLE)
    if _is_ipv6(text):
        text = f"[{text}]"
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        host, port = parts.hostname or "", PORT if parts.port is None else parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", PORT
    scheme = parts.scheme or ("http" if _is_loopback(host) else "https")
    odd = fault_of(text) or any(character.isspace() for character in text)
    if odd or not host or not port or scheme not in ("http", "https"):
        raise UsageError(f"{text[:80]!r} is not an address of a server.", _EXAMPLE)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError("The address of a server may hold only host, port and path.", _EXAMPLE)
    if scheme == "http" and not _is_loopback(host):
        raise UsageError(
            f"The connection to {text[:80]} is not encrypted: others could read the scan and the token.",
            "Write https:// before the host; the server needs a certificate for it.",
        )
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{parts.path.rstrip('/')}"


def _is_token(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_TOKEN and text.isascii() and text.isprintable() and " " not in text


def _is_ipv6(text: str) -> bool:
    """Whether it is an IPv6 address alone, which URLs hold in brackets."""
    try:
        return ipaddress.IPv6Address(text).scope_id is None
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def servers_file() -> Path:
    """The file in which this user's servers are kept. It need not exist."""
    return user_models_folder().parent / "servers.json"


class AddressBook:
    """What this user has for each server, by its address as :func:`server_at` gives it.

    UsageError comes from every method where the file is damaged or cannot be read, OutputError where it cannot be
    written. The panel and the command line may change it at the same time: neither loses what the other wrote.

    Attributes:
        path: of the file.
    """

    def __init__(self) -> None:
        self.path = servers_file()

    def certificate(self, url: str) -> Path | None:
        """The PEM file to trust; None where there is none."""
        known = self._entry(url).get("certificate")
        return Path(known) if isinstance(known, str) and known else None

    def set_certificate(self, url: str, certificate: Path | None) -> None:
        """Remember which file to trust."""
        self._change(url, certificate=None if certificate is None else os.path.abspath(certificate))

    def token(self, url: str) -> str:
        """The token that is stored; empty where there is none."""
        if (keyring := _keyring()) is not None:
            with contextlib.suppress(Exception):  # each system has errors of its own; the file may have one
                if token := keyring.get_password(SERVICE, url):
                    return token
        token = self._entry(url).get("token")
        return token if isinstance(token, str) else ""

    def set_token(self, url: str, token: str) -> bool:
        """Store a token; returns whether the keyring holds it. If not, it is in the file, and the user should know.

        Raises:
            UsageError: it is no token.
        """
        token = token.strip()
        if not _is_token(token):
            raise UsageError("This is not a token.", "Copy the one that the server's owner gave, and nothing else.")
        if (keyring := _keyring()) is not None:
            with contextlib.suppress(Exception):
                keyring.set_password(SERVICE, url, token)
                self._change(url, token=None)
                return True
        self._change(url, token=token)
        return False

    def token_place(self, url: str) -> str:
        """Where the token comes from: "environment", "keyring" or "file"; empty where there is none."""
        if os.environ.get(TOKEN_VARIABLE, "").strip():
            return "environment"
        return "file" if self._entry(url).get("token") else "keyring" if self.token(url) else ""

    def has_consent(self, url: str, scan: str) -> bool:
        """Whether the user agreed that this scan, known by a hash of it, is sent to the server."""
        return scan in self._scans(url)

    def set_consent(self, url: str, scan: str) -> None:
        """Remember that the user agreed to it."""
        with changing(self.path):
            others = [known for known in self._scans(url) if known != scan]
            self._write(url, scans=[*others, scan][-_MOST_SCANS:])

    def _scans(self, url: str) -> list[str]:
        scans = self._entry(url).get("scans")
        return [scan for scan in scans if isinstance(scan, str)] if isinstance(scans, list) else []

    def _entry(self, url: str) -> dict[str, Any]:
        entry = self._read().get(url)
        return entry if isinstance(entry, dict) else {}

    def _change(self, url: str, **changes: Any) -> None:
        with changing(self.path):
            self._write(url, **changes)

    def _write(self, url: str, **changes: Any) -> None:
        """Write what there is with the changes of an entry; called while no other process changes the file."""
        servers, before = self._read(), self._entry(url)
        after = {key: value for key, value in (before | changes).items() if value is not None}
        if after != before:
            write_private(self.path, json.dumps({"servers": servers | {url: after}}, indent=1) + "\n")

    def _read(self) -> dict[str, Any]:
        try:
            return dict(read_json(self.path)["servers"])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"The list of servers {self.path} cannot be read.", "Fix or delete this file.") from error


def _keyring() -> Any | None:
    """The package keyring; None where it is not installed, or has nowhere to keep anything safely."""
    try:
        keyring = importlib.import_module("keyring")
        return keyring if keyring.get_keyring().priority >= _RECOMMENDED else None
    except Exception:  # of the backends as well, whatever they are
        return None

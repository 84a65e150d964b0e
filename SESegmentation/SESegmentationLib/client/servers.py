"""Servers that segment: what this user has for each (address, certificate, token, consent), and requests to them.

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
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from ..errors import ERRORS_BY_CODE, SegmentationError, ServerError, UsageError, fault_of, plain
from ..files.json_files import parse_json, read_json
from ..models import user_models_folder
from ..worker.messages import check_version

#: the token of a server, before any that is stored
TOKEN_VARIABLE = "SESEGMENTATION_TOKEN"
#: under which the keyring holds tokens, with the address as the user's name
SERVICE = "SESegmentation"
FRAMES = "application/x-sesegmentation-frames"
#: read and written at once, in bytes
BLOCK = 1 << 18
#: until a server answers a call, or takes a block; until it gives a sign of life of a job that it has, in s
CONNECT_SECONDS, SILENCE_SECONDS = 10.0, 20.0
PORT = 8399
#: scans of each server that are remembered as agreed to
_MOST_SCANS = 2000
_LONGEST_TOKEN = 512
#: backends of keyrings with a lower priority are not recommended: none at all, or a file without a password
_RECOMMENDED = 1.0
#: a busy server, or one behind a proxy that does not reach it just now
_TRANSIENT = (429, 502, 503, 504)
_LARGEST_JSON = 1 << 20
_EXAMPLE = "Write it like https://gpu.hospital.org:8399."


@dataclass(frozen=True)
class Server:
    """Where a server is, and how its certificate is checked; see :func:`server_at`.

    Attributes:
        url: with "http" (this computer only) or "https", without "/" at its end.
        certificate: PEM file of certificates to trust, its own or its authority's; None: those that are trusted anyway.
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
        """The token of this user; empty where there is none. May ask the user to unlock the keyring."""
        return os.environ.get(TOKEN_VARIABLE, "").strip() or AddressBook().token(self.url)


def server_at(address: str, certificate: Path | None = None) -> Server:
    """The server with this address.

    Args:
        address: host, host and port, or URL. Without a port it is 8399, without "http://" or "https://" the latter,
            except on this computer.
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
        raise UsageError("There is no address of a server.", _EXAMPLE)
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        host, port = parts.hostname or "", parts.port or PORT
    except ValueError:
        parts, host, port = urlsplit(""), "", PORT
    scheme = parts.scheme or ("http" if _is_loopback(host) else "https")
    odd = fault_of(text) or any(character.isspace() for character in text)
    if odd or not host or scheme not in ("http", "https"):
        raise UsageError(f"{text[:80]!r} is no address of a server.", _EXAMPLE)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError("The address of a server holds more than host, port and path.", _EXAMPLE)
    if scheme == "http" and not _is_loopback(host):
        raise UsageError(
            f"The way to {text[:80]} is not encrypted: others could read the scan and the token.",
            "Write https:// before the host; the server needs a certificate for it.",
        )
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{parts.path.rstrip('/')}"


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

    UsageError comes from every method where the file is damaged, or cannot be read or written.

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
        """Store a token; whether the keyring holds it. Otherwise the user should know that it is in the file.

        Raises:
            UsageError: it is no token.
        """
        token = token.strip()
        if not 0 < len(token) <= _LONGEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
            raise UsageError("This is no token.", "Copy the one that the server's owner gave, and nothing else.")
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
        others = [known for known in self._scans(url) if known != scan]
        self._change(url, scans=[*others, scan][-_MOST_SCANS:])

    def _scans(self, url: str) -> list[str]:
        scans = self._entry(url).get("scans")
        return [scan for scan in scans if isinstance(scan, str)] if isinstance(scans, list) else []

    def _entry(self, url: str) -> dict[str, Any]:
        entry = self._read().get(url)
        return entry if isinstance(entry, dict) else {}

    def _change(self, url: str, **changes: Any) -> None:
        servers, before = self._read(), self._entry(url)
        after = {key: value for key, value in (before | changes).items() if value is not None}
        if after != before:
            self._write(servers | {url: after})

    def _read(self) -> dict[str, Any]:
        try:
            return dict(read_json(self.path)["servers"])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"The list of servers {self.path} cannot be read.", "Mend or delete this file.") from error

    def _write(self, servers: dict[str, Any]) -> None:
        """Write the file whole, readable by this user alone."""
        temporary = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=".servers-")  # with mode 0600
            with open(handle, "w", encoding="utf-8") as file:
                json.dump({"servers": servers}, file, indent=1)
            os.replace(temporary, self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary or "")
            cause = f"The list of servers {self.path} cannot be written: {error.strerror or error}."
            raise UsageError(cause, "See to its folder and disk.") from error


def _keyring() -> Any | None:
    """The package keyring; None where it is not installed, or has nowhere to keep anything safely."""
    try:
        keyring = importlib.import_module("keyring")
        return keyring if keyring.get_keyring().priority >= _RECOMMENDED else None
    except Exception:  # of the backends as well, whatever they are
        return None


class LostError(Exception):
    """A server cannot be reached just now, or takes nothing.

    Attributes:
        error: what to tell the user if that lasts.
        wait: how long the server asks to wait, in s; None where it was not the server that answered.
    """

    def __init__(self, error: SegmentationError, wait: float | None = None) -> None:
        super().__init__(error.cause)
        self.error = error
        self.wait = wait


class UnknownJobError(ServerError):
    """A server knows no such job, or no such path at all."""


class Link:
    """Requests to one server. Nothing is sent on to another address.

    Attributes:
        server: which.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._session = requests.Session()
        self._session.trust_env = not server.is_here  # a proxy leads away from this computer
        self._token: str | None = None

    def close(self) -> None:
        """Close connections that are idle."""
        self._session.close()

    def request(
        self, method: str, path: str, body: Iterable[memoryview] | None = None, signed: bool = True
    ) -> requests.Response:
        """The answer to a request, with its content still to be read.

        Args:
            method, path: of HTTP.
            body: of a known length.
            signed: send the token.

        Raises:
            LostError: the server cannot be reached just now.
            SegmentationError: it knows no such job (UnknownJobError), refuses, or cannot be trusted.
        """
        try:
            response = self._session.request(
                method,
                f"{self.server.url}{path}",
                data=body,  # type: ignore[arg-type]
                headers={"Accept-Encoding": "identity"} | ({} if body is None else {"Content-Type": FRAMES}),
                auth=self._sign if signed else lambda request: request,  # or requests looks into .netrc
                timeout=(CONNECT_SECONDS, SILENCE_SECONDS),
                allow_redirects=False,
                stream=True,
                verify=str(self.server.certificate or "") or True,
            )
        except (requests.RequestException, OSError) as error:
            raise self._failure(error) from error
        if response.status_code in (200, 204):
            return response
        with response:
            raise self._refusal(response)

    def introduction(self) -> dict[str, Any]:
        """What the server tells of itself: version, models, limits and queue.

        Raises:
            SegmentationError: it cannot be reached or trusted, refuses, or speaks another version.
        """
        try:
            with self.request("GET", "/v1/server") as response:
                introduction = _json_of(response)
        except LostError as lost:
            raise lost.error from lost
        check_version(introduction, self.server.name)
        return introduction

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Put the token into the header, where there is one."""
        self._token = self._token if self._token is not None else self.server.token()
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def _failure(self, error: Exception) -> Exception:
        """What it means that there is no answer."""
        name, text = self.server.name, str(error)
        if "CERTIFICATE_VERIFY_FAILED" in text or "doesn't match" in text:
            reasons = {
                "expired": "it has expired",
                "match": "it is not for this address",
                "valid for": "it is not for it",
            }
            reason = next((reason for word, reason in reasons.items() if word in text), "its issuer is not known here")
            return ServerError(
                f"The certificate of the server {name} cannot be trusted: {reason}.",
                "Ask the server's owner for the file of its certificate, and choose it.",
            )
        if isinstance(error, requests.exceptions.SSLError) and ("WRONG_VERSION" in text or "HTTP_REQUEST" in text):
            return ServerError(f"The server {name} does not encrypt (TLS).", "Ask its owner for the right address.")
        cause = f"The server {name} cannot be reached."
        if isinstance(error, requests.exceptions.Timeout):
            cause = f"The server {name} does not answer."
        elif "NameResolution" in text or "getaddrinfo" in text or "Name or service" in text:
            cause = f"No computer is called as in the address {name}."
        return LostError(ServerError(cause, "Check its address, whether it runs, and the network of this computer."))

    def _refusal(self, response: requests.Response) -> Exception:
        """What a status other than success means."""
        status, name, told = response.status_code, self.server.name, _json_of(response)
        cause, remedy = (plain(str(told.get(key, "")))[:400] for key in ("cause", "remedy"))
        if status == 401:
            self._token = None  # it may be another one next time
            remedy = f"Ask its owner for a token, and store it in the panel or in the variable {TOKEN_VARIABLE}."
            return ServerError(cause or f"The server {name} does not accept the token.", remedy)
        if status == 404 and response.request.method != "PUT":
            return UnknownJobError(
                f"What answers at {self.server.url} is no SESegmentation server.", "Check the address."
            )
        kind = ERRORS_BY_CODE.get(str(told.get("code")), ServerError)
        error = kind(
            cause or f"The server {name} refuses (status {status}).", remedy or "Check its address; or ask its owner."
        )
        if status not in _TRANSIENT:
            return error
        wait = response.headers.get("Retry-After", "")
        return LostError(error, (float(wait) if wait.isdecimal() and len(wait) < 6 else 0.0) if cause else None)


def _json_of(response: requests.Response) -> dict[str, Any]:
    """The JSON object in an answer; an empty one where there is none."""
    content = bytearray()
    try:
        for block in response.iter_content(BLOCK):
            content += block
            if len(content) > _LARGEST_JSON:
                return {}
        found = parse_json(bytes(content), _LARGEST_JSON)
    except (requests.RequestException, OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

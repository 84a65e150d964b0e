"""Requests to one server, and what goes through them: the body of a job, and the stream of what becomes of it."""

from __future__ import annotations

import math
import re
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPSConnection

from ..errors import ERRORS_BY_CODE, InputError, SegmentationError, ServerError
from ..files.json_files import parse_json
from ..plain_text import plain
from ..worker.messages import check_version, write_frame
from .servers import TOKEN_VARIABLE, Server

FRAMES = "application/x-sesegmentation-frames"
#: read and written at once, in bytes
BLOCK = 1 << 18
#: timeouts in s: until a server answers or takes a block; until the next sign of life of a running job
CONNECT_SECONDS, SILENCE_SECONDS = 10.0, 20.0
#: how long the introduction of a server is cached, in s
INTRODUCED_SECONDS = 10.0
#: a server that is busy at the moment, or has no memory for another upload
_BUSY = (429, 502, 503, 504, 507)
#: where it is not the server that answers: it is just starting, or a proxy does not reach it
_STANDS_IN = (404, 429, *range(500, 511))
#: and where a network asks its users to sign in, or something else lies at the address
_ELSEWHERE = (*range(300, 400), 511)
_LARGEST_JSON = 1 << 20
#: words in OpenSSL's and Python's messages about a certificate, with the reason and the remedy
_DISTRUST = (
    (("expired",), "it has expired", "Ask the server's owner to renew it; check the date of this computer."),
    (("not yet valid",), "it is not valid yet", "Check the date of this computer; else ask the server's owner."),
    (
        ("match", "valid for"),
        "it is not for this address",
        "Write the address with the name for which the certificate is: ask the server's owner.",
    ),
)
_UNKNOWN_ISSUER = (
    "its issuer is not known here",
    "Ask the server's owner for the file of its certificate, and choose it.",
)
#: OpenSSL's name of a failure; a connection that ends is none
_OF_TLS = re.compile(r"\[SSL: (?!UNEXPECTED_EOF)(?:TLSV1_ALERT_|SSLV3_ALERT_)?(\w+)\]")
#: a proxy that is wrong, cannot be reached, or refuses; a protocol of proxies that is not supported here
_OF_PROXIES = (
    requests.exceptions.ProxyError,
    requests.exceptions.InvalidProxyURL,
    requests.exceptions.InvalidSchema,
)


class LostError(Exception):
    """A server cannot be reached at the moment, or is too busy.

    Attributes:
        error: what to tell the user if that lasts.
        wait: how long the server asks to wait, in s; None where it was not the server that answered.
    """

    def __init__(self, error: SegmentationError, wait: float | None = None) -> None:
        super().__init__(error.cause)
        self.error = error
        self.wait = wait


class UnknownJobError(ServerError):
    """A server knows no such job."""


class _Connection(HTTPSConnection):
    """Reads the answer of a server that refuses an upload before it has read all of it, as plain HTTP does too.

    Sending fails then; urllib3 looks for the answer where the pipe is broken, and not after an error of TLS.
    """

    def send(self, data: Any) -> None:
        connected = self.sock is not None
        try:
            super().send(data)
        except ssl.SSLError as error:
            if not connected:  # the certificate, or the protocol
                raise
            raise BrokenPipeError(str(error)) from error


class _Pool(HTTPSConnectionPool):
    ConnectionCls = _Connection


_POOLS = {"http": HTTPConnectionPool, "https": _Pool}


class _Adapter(HTTPAdapter):
    """Has these connections used, through proxies too."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)  # type: ignore[no-untyped-call]
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*arguments, **options)  # type: ignore[no-untyped-call]
        manager.pool_classes_by_scheme = _POOLS
        return manager


class HttpClient:
    """Requests to one server. Nothing is sent on to another address.

    Attributes:
        server: which.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._session = requests.Session()
        self._session.mount("https://", _Adapter())
        self._session.trust_env = not server.is_here  # a proxy leads away from this computer
        self._token: str | None = None
        self._introduction: dict[str, Any] = {}
        self._introduced = -math.inf

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

    def introduction(self, seconds: float = 0.0) -> dict[str, Any]:
        """What the server tells of itself: version, models, limits and queue.

        Args:
            seconds: up to this age, in s, its last answer is used again.

        Raises:
            SegmentationError: it cannot be reached or trusted, refuses, or speaks another version.
        """
        if time.monotonic() - self._introduced < seconds:
            return self._introduction
        try:
            with self.request("GET", "/v1/server") as response:
                introduction = _json_of(response)
        except LostError as lost:
            raise lost.error from lost
        check_version(introduction, self.server.name)
        self._introduction, self._introduced = introduction, time.monotonic()
        return introduction

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Put the token into the header, where there is one."""
        self._token = self._token if self._token is not None else self.server.token()
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def _failure(self, error: Exception) -> Exception:
        """The error for a request without an answer."""
        name, text = self.server.name, str(error)
        if "CERTIFICATE_VERIFY_FAILED" in text or "doesn't match" in text:
            known = (advice for words, *advice in _DISTRUST if any(word in text for word in words))
            reason, remedy = next(known, _UNKNOWN_ISSUER)
            return ServerError(f"The certificate of the server {name} cannot be trusted: {reason}.", remedy)
        if not isinstance(error, requests.RequestException) and "certificate bundle" in text:
            return ServerError(
                f"The file of certificates for checking the server {name} was not found.",
                "Choose the server's certificate again, or correct the variable REQUESTS_CA_BUNDLE.",
            )
        if isinstance(error, _OF_PROXIES):
            return LostError(
                ServerError(
                    f"The proxy that this computer uses does not lead to the server {name}.",
                    "For a server in your own network, name its host in the variable NO_PROXY; else correct the proxy.",
                )
            )
        if isinstance(error, requests.exceptions.SSLError) and ("WRONG_VERSION" in text or "HTTP_REQUEST" in text):
            return ServerError(f"The server {name} does not encrypt (TLS).", "Ask its owner for the right address.")
        if isinstance(error, requests.exceptions.SSLError) and (found := _OF_TLS.search(text)):
            return LostError(
                ServerError(
                    f"No encrypted connection to the server {name} comes about: {found[1].lower().replace('_', ' ')}.",
                    "A proxy or security software may be in between, or one side is too old: ask the server's owner.",
                )
            )
        cause = f"The server {name} cannot be reached."
        if isinstance(error, requests.exceptions.Timeout):
            cause = f"The server {name} does not answer."
        elif "NameResolution" in text or "getaddrinfo" in text or "Name or service" in text:
            cause = f"There is no computer with the name in the address {name}."
        return LostError(
            ServerError(cause, "Check its address, whether it is running, and the network of this computer.")
        )

    def _refusal(self, response: requests.Response) -> Exception:
        """The error for a status other than success."""
        status, name, body = response.status_code, self.server.name, _json_of(response)
        cause, remedy = (plain(str(body.get(key, "")))[:400] for key in ("cause", "remedy"))
        if status == 401:
            self._token = None  # it may be another one next time
            remedy = f"Ask its owner for a token, and store it in the panel or in the variable {TOKEN_VARIABLE}."
            return ServerError(cause or f"The server {name} does not accept the token.", remedy)
        if not cause:
            return self._refusal_of_another(status)
        if status == 404 and response.request.method != "PUT":
            return UnknownJobError(cause, remedy)
        error = ERRORS_BY_CODE.get(str(body.get("code")), ServerError)(cause, remedy or "Ask its owner.")
        if status not in _BUSY:
            return error
        wait = response.headers.get("Retry-After", "")
        return LostError(error, float(wait) if wait.isdecimal() and len(wait) < 6 else 0.0)

    def _refusal_of_another(self, status: int) -> Exception:
        """The error for a status without the server's cause: a proxy answers, or something else at its address."""
        name = self.server.name
        if status == 413:
            return InputError(
                f"The volume is larger than what a proxy before the server {name} lets through.",
                "Segment a part of it (in Slicer: Crop Volume), or have the limit of the proxy raised.",
            )
        if status in _ELSEWHERE:
            return ServerError(
                f"The address of the server {name} leads to another page (status {status}).",
                "Sign in to this network in a browser, if it asks for that; else check the address.",
            )
        if status in _STANDS_IN:
            return LostError(
                ServerError(
                    f"What answers at {self.server.url} is not an SESegmentation server (status {status}).",
                    "If the server is just starting, wait a minute; else check the address.",
                )
            )
        return ServerError(
            f"The server {name} refuses (status {status}).",
            "Check its address; a proxy or firewall may refuse it: ask the owner of the server.",
        )


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


class Body:
    """A frame as the body of a request: its length is known, and its blocks are views of the arrays themselves.

    Args:
        header, arrays: of the frame.
        on_block: called with the share (0 to 1) that was sent, before each block; may raise.
    """

    def __init__(self, header: dict[str, Any], arrays: Sequence[np.ndarray], on_block: Callable[[float], None]) -> None:
        self._pieces: list[memoryview] = []
        write_frame(self, header, arrays)
        self._on_block = on_block

    def write(self, data: memoryview) -> int:
        """Called by :func:`.write_frame`."""
        self._pieces.append(data)
        return len(data)

    def __len__(self) -> int:
        return sum(map(len, self._pieces))

    def __iter__(self) -> Iterator[memoryview]:
        sent, length = 0, len(self)
        for piece in self._pieces:
            for begin in range(0, len(piece), BLOCK):
                block = piece[begin : begin + BLOCK]
                self._on_block(sent / length)
                yield block
                sent += len(block)


class Stream:
    """What a server sends, for :func:`.read_frame`.

    Attributes:
        ended: whether that was all.
    """

    def __init__(self, response: requests.Response) -> None:
        self._raw = response.raw
        self.ended = False

    def readinto(self, buffer: memoryview) -> int:
        try:
            block = self._raw.read(min(len(buffer), BLOCK), decode_content=False)
        except Exception as error:  # urllib3's own
            raise ConnectionError(str(error)) from error
        buffer[: len(block)] = block
        self.ended = not block
        return len(block)

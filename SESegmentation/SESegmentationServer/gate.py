"""Who may make requests of a server, and how often and how large they may be."""

from __future__ import annotations

import base64
import binascii
import contextlib
import logging
import time

from fastapi import Request
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from SESegmentationLib.errors import SegmentationError, ServerError

from .refusals import RefusalError, full, too_large
from .settings import ServerLimits, ServerSettings
from .tokens import TokenStore

_log = logging.getLogger(__name__)

#: the user of all requests where no token is required
LOCAL_USER = "local"
_OPEN_PATHS = ("/healthz", "/readyz", "/auth/", "/auth/token")
#: MONAI Label's paths that volumes are sent to
_FORM_PATHS = ("/infer/", "/session/")
#: paths with something to look at, for which a browser asks its user for a token
_PAGE_PATHS = ("/", "/metrics")


class Gate:
    """Authenticates requests and limits their rate."""

    def __init__(self, settings: ServerSettings) -> None:
        self._store = TokenStore(settings.tokens)
        self._open = settings.loopback and not self._store.entries()
        self._limits = settings.limits
        self._hosts = {"localhost", "127.0.0.1", "::1", settings.host}
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._requests = RateLimitItemPerMinute(settings.limits.requests_per_minute)
        self._failures = RateLimitItemPerMinute(settings.limits.wrong_tokens_per_minute)
        self._fault = ""  # of the file of tokens, as it was logged

    async def admit(self, request: Request) -> None:
        """Let a request in, with its user as ``request.state.user``; RefusalError where it may not be made."""
        if request.url.path not in _OPEN_PATHS:
            request.state.user = self.user_of(request)
        if request.url.path.startswith(_FORM_PATHS) and request.method in ("POST", "PUT"):
            if "content-length" not in request.headers:
                raise RefusalError(411, ServerError("The request does not state its size.", "Send Content-Length."))
            check_size(request, self._limits)

    @property
    def asks(self) -> bool:
        """Whether it requires tokens."""
        return not self._open

    def user_of(self, request: Request) -> str:
        """The user who makes the request.

        Raises:
            RefusalError: the token is missing or unknown, the file of tokens cannot be read, or the user or an address
                with wrong tokens exceeds its rate.
        """
        user = self._known(request)
        if not self._limiter.hit(self._requests, "user", user):
            raise self._too_often(self._requests, "user", user)
        return user

    def knows(self, user: str) -> bool:
        """Whether a user still has a token; while the file of tokens cannot be read, nobody has lost theirs."""
        try:
            return user == LOCAL_USER if self._open else any(entry.name == user for entry in self._store.entries())
        except SegmentationError as error:
            self._log(error)
            return True

    def _known(self, request: Request) -> str:
        token = _token_of(request)
        try:
            if self._store.entries():
                self._open = False  # for good: a revoked token does not open the server to all
            user = self._store.user_of(token) if token and not self._open else None
            self._fault = ""
        except SegmentationError as error:
            self._log(error)
            raise RefusalError(
                503,
                ServerError(
                    "The server cannot check tokens at the moment.",
                    "Tell the owner of the server, who sees why by: sesegment serve token list",
                ),
                {"Retry-After": "5"},
            ) from error
        if self._open:
            if request.url.hostname not in self._hosts:  # a page of another site that has its name lead here
                raise RefusalError(421, ServerError("The server is not known by this name.", "Use 127.0.0.1."))
            return LOCAL_USER
        if user is not None:
            return user
        address = request.client.host if request.client else ""
        # a right token is let in whatever others do from the same address: it is too long to be guessed
        if token and not self._limiter.hit(self._failures, "address", address):
            raise self._too_often(self._failures, "address", address)
        scheme = "Basic" if request.url.path in _PAGE_PATHS else "Bearer"
        raise RefusalError(
            401,
            ServerError(
                "The server does not know this token." if token else "The server asks for a token.",
                "Ask the owner of the server for a token, who makes it by: sesegment serve token add NAME",
            ),
            {"WWW-Authenticate": f'{scheme} realm="SESegmentation"'},
        )

    def _log(self, error: SegmentationError) -> None:
        """Log why the file of tokens cannot be read, without its path, and once: requests must not fill the disk."""
        fault = error.cause.replace(f" {self._store.path}", "")
        if fault != self._fault:
            _log.error("%s", fault)
        self._fault = fault

    def _too_often(self, limit: RateLimitItemPerMinute, *who: str) -> RefusalError:
        reset = self._limiter.get_window_stats(limit, *who).reset_time
        return full("The server has received too many requests.", max(1, round(reset - time.time())), 429)


def _token_of(request: Request) -> str:
    """The token of a request: a bearer token, or the password that a browser has asked for."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    if scheme.lower() == "basic" and request.url.path in _PAGE_PATHS:
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    return ""


def check_size(request: Request, limits: ServerLimits) -> int:
    """The bytes of an upload, 0 where it does not state them; refuses one that is too large before it is sent."""
    length = request.headers.get("content-length", "")
    size = int(length) if length.isascii() and length.isdecimal() and len(length) < 20 else 0
    if size > limits.upload_bytes + limits.header_bytes:
        raise too_large(limits.upload_bytes)
    return size

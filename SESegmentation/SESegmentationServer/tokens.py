"""The tokens that identify users to a server: only their hashes are kept, in a file that only its owner can read."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from SESegmentationLib.errors import SegmentationError, UsageError
from SESegmentationLib.files import changing, write_private
from SESegmentationLib.files.json_files import read_json
from SESegmentationLib.models import user_models_folder

#: the environment variable that names another file
ENVIRONMENT_VARIABLE = "SESEGMENTATION_TOKENS"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")
_BYTES = 32  # random bytes in a token


@dataclass(frozen=True)
class TokenEntry:
    """A token as it is kept.

    Attributes:
        name: of the user.
        sha256: of the token, 64 hexadecimal digits; unsalted, as a random token cannot be found from its hash.
        added: day, for example "2026-11-29".
    """

    name: str
    sha256: str
    added: str


def tokens_file() -> Path:
    """The user's file of tokens, beside the user's models. It need not exist."""
    given = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(given) if given else user_models_folder().parent / "server-tokens.json"


class TokenStore:
    """A file of tokens. What others change in it counts at once.

    Args:
        path: of the file; None: the user's own.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or tokens_file()
        self._stamp: tuple[int, int, int] | None = None
        self._entries: list[TokenEntry] = []

    def add(self, name: str) -> str:
        """Make a token for a user, and return it; only its hash is stored.

        Raises:
            UsageError: the name is not valid, or has a token already.
            SegmentationError: the file cannot be read or written.
        """
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot be a user's name.", "Use letters, digits and the characters . _ @ - (at most 64)."
            )
        token = secrets.token_urlsafe(_BYTES)
        with changing(self.path):
            entries = self.entries()
            if any(entry.name == name for entry in entries):
                remedy = f"Revoke it first: sesegment serve token revoke {name}"
                raise UsageError(f"{name} already has a token.", remedy)
            self._write([*entries, TokenEntry(name, _hash(token), time.strftime("%Y-%m-%d"))])
        return token

    def revoke(self, name: str) -> None:
        """Forget a user's token; UsageError where there is none."""
        with changing(self.path):
            entries = self.entries()
            left = [entry for entry in entries if entry.name != name]
            if len(left) == len(entries):
                raise UsageError(f"{name} has no token.", "See who has: sesegment serve token list")
            self._write(left)

    def entries(self) -> list[TokenEntry]:
        """All of them, as the file is now.

        Raises:
            SegmentationError: it cannot be read, or holds something else.
        """
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._stamp, self._entries = None, []
            return []
        except OSError as error:
            raise self._unreadable(error.strerror or str(error)) from error
        stamp = status.st_mtime_ns, status.st_size, status.st_ino
        if stamp != self._stamp:
            try:
                content = read_json(self.path)
                entries = [
                    TokenEntry(str(one["name"]), str(one["sha256"]), str(one["added"])) for one in content["tokens"]
                ]
                if not all(_NAME.fullmatch(one.name) and _HASH.fullmatch(one.sha256) for one in entries):
                    raise ValueError("no name, or no SHA-256")
            except OSError as error:
                raise self._unreadable(error.strerror or str(error)) from error
            except (ValueError, KeyError, TypeError) as error:
                raise self._unreadable("it holds something else") from error
            self._stamp, self._entries = stamp, entries
        return self._entries

    def user_of(self, token: str) -> str | None:
        """The user of a token, or None. Takes the same time however much of a wrong token is right (timing attacks)."""
        digest = _hash(token)
        found = None
        for entry in self.entries():
            if hmac.compare_digest(entry.sha256, digest):
                found = entry.name
        return found

    def _unreadable(self, why: str) -> SegmentationError:
        return SegmentationError(
            f"The file of tokens {self.path} cannot be read: {why}.", "Repair it, or remove it and make new tokens."
        )

    def _write(self, entries: list[TokenEntry]) -> None:
        text = json.dumps({"tokens": [asdict(entry) for entry in entries]}, indent=1) + "\n"
        write_private(self.path, text)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()

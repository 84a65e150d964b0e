"""Volumes that clients of MONAI Label have sent for later requests: in memory, and not for long."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import SimpleITK as sitk

from SESegmentationLib.errors import InputError

#: a session that nobody asks for is forgotten after so many seconds
SESSION_SECONDS = 600.0
#: sessions of one user at a time
SESSIONS = 4
#: interval in s of looking for those that are to be forgotten
LOOK_SECONDS = 5.0


@dataclass
class _Session:
    """A volume that a user has uploaded for later requests."""

    user: str
    volume: sitk.Image
    until: float


class Sessions:
    """Volumes that users have sent, in memory; a user sees only their own.

    Args:
        clock: tells the time in s.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: dict[str, _Session] = {}

    def add(self, user: str, volume: sitk.Image) -> str:
        """Keep a volume, and return its session's ID. If a user has too many, the oldest is dropped."""
        self.clear()
        own = [name for name, session in self._sessions.items() if session.user == user]
        for name in own[: max(0, len(own) - SESSIONS + 1)]:
            del self._sessions[name]
        name = str(uuid.uuid4())
        self._sessions[name] = _Session(user, volume, self._clock() + SESSION_SECONDS)
        return name

    def get(self, user: str, name: str) -> sitk.Image:
        """The volume of a session; InputError where the user has no such session."""
        self.clear()
        session = self._sessions.get(name)
        if session is None or session.user != user:
            raise InputError("There is no such session, or it is too old.", "Send the volume again.")
        session.until = self._clock() + SESSION_SECONDS
        return session.volume

    def remove(self, user: str, name: str) -> None:
        """Forget a session; InputError as :meth:`get`."""
        self.get(user, name)
        del self._sessions[name]

    async def watch(self, known: Callable[[str], bool]) -> None:
        """Forget what is to be forgotten, whether or not anybody makes a request; runs for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.clear(known)

    def clear(self, known: Callable[[str], bool] = lambda user: True) -> None:
        """Forget sessions that are too old, and those of users who are no longer known."""
        now = self._clock()
        for name, session in list(self._sessions.items()):
            if session.until < now or not known(session.user):
                del self._sessions[name]

    def __len__(self) -> int:
        return len(self._sessions)

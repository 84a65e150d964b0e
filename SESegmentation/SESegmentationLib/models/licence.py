"""The licence of a model: the terms under which its weights may be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..files.json_files import Fields

#: SPDX identifier of weights whose terms follow from data that their user trained them on
OWN_DATA = "LicenseRef-training-data"


@dataclass(frozen=True)
class Licence:
    """Terms under which the weights may be used.

    Attributes:
        spdx: SPDX identifier, for example "CC-BY-SA-4.0".
        name: the licence in words.
        free: whether any use, commercial use included, is allowed.
        attribution: who must be named.
        url: where the text stands.
    """

    spdx: str
    name: str
    free: bool
    attribution: str = ""
    url: str = ""

    @property
    def asks_consent(self) -> bool:
        """Whether the user must accept terms; for the user's own models nobody has stated any."""
        return not self.free and self.spdx != OWN_DATA

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any], where: str = "licence") -> Licence:
        """Read "licence" of model.json; ModelError where that fails."""
        fields = Fields(entry, where)
        return cls(
            spdx=fields.text("spdx"),
            name=fields.text("name"),
            free=fields.flag("free"),
            attribution=fields.text("attribution", ""),
            url=fields.text("url", ""),
        )

    def to_dict(self) -> dict[str, Any]:
        """The licence as it stands in model.json."""
        return {
            "spdx": self.spdx,
            "name": self.name,
            "free": self.free,
            "attribution": self.attribution,
            "url": self.url,
        }

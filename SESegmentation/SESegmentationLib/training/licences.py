"""The licence of a model as far as that of its training data tells."""

from __future__ import annotations

import re
from typing import Any

from ..models.card import OWN_DATA

#: licences by how they begin, without punctuation: SPDX identifier, name, whether any use is allowed. The first counts
_KNOWN = (
    ("cc0", "CC0-1.0", "Creative Commons Zero 1.0", True),
    ("cc by nc sa", "CC-BY-NC-SA-4.0", "Creative Commons Attribution-NonCommercial-ShareAlike 4.0", False),
    ("cc by nc nd", "CC-BY-NC-ND-4.0", "Creative Commons Attribution-NonCommercial-NoDerivatives 4.0", False),
    ("cc by nc", "CC-BY-NC-4.0", "Creative Commons Attribution-NonCommercial 4.0", False),
    ("cc by nd", "CC-BY-ND-4.0", "Creative Commons Attribution-NoDerivatives 4.0", False),
    ("cc by sa", "CC-BY-SA-4.0", "Creative Commons Attribution-ShareAlike 4.0", True),
    ("cc by", "CC-BY-4.0", "Creative Commons Attribution 4.0", True),
    ("apache", "Apache-2.0", "Apache License 2.0", True),
    ("mit", "MIT", "MIT License", True),
)


def data_licence(stated: str) -> dict[str, Any]:
    """The "licence" entry of a card for a model trained on data under the licence ``stated``, as their owner writes it.

    What is not stated or not known here is not taken for free: whoever passes the model on must say.
    """
    words = " ".join(re.split(r"[^a-z0-9]+", stated.lower())).strip()
    words = words.replace("creative commons ", "cc ").replace("attribution ", "by ").replace("ccby", "cc by")
    version = re.search(r"\d\.\d", stated)
    for beginning, spdx, name, free in _KNOWN:
        if re.match(rf"{beginning}\b", words):
            if version and spdx.startswith("CC-BY"):
                spdx, name = (text.replace("4.0", version[0]) for text in (spdx, name))
            url = f"https://spdx.org/licenses/{spdx}.html"
            attribution = f"Trained on data under {stated}."
            return {"spdx": spdx, "name": name, "free": free, "attribution": attribution, "url": url}
    about = f"The training data's licence: {stated}." if stated else "The licence of the training data is not stated."
    return {
        "spdx": OWN_DATA,
        "name": "As the training data allow",
        "free": False,
        "attribution": f"{about} Say what holds before you pass this model on.",
    }

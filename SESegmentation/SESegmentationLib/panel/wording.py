"""Numbers and names of the program in the user's words."""

from __future__ import annotations

import html
from collections.abc import Sequence

from slicer.i18n import tr as _

from ..mrml import ACCEPTED, CORRECTED, TO_CHECK

_SIDES = ("left ", "right ")


def duration(seconds: float) -> str:
    """A rough time: "less than 1 s", "12 s", "3 min"."""
    if seconds < 1:
        return _("less than 1 s")
    if seconds < 90:
        return _("{number} s").format(number=round(seconds))
    if seconds < 5400:
        return _("{number} min").format(number=round(seconds / 60))
    return _("{number} h").format(number=round(seconds / 3600))


def about(seconds: float) -> str:
    """A rough time as an estimate: "less than 1 s", "about 12 s"."""
    return duration(seconds) if seconds < 1 else _("about {time}").format(time=duration(seconds))


def device_name(device: str) -> str:
    """What the user knows a device as: "CPU" for "cpu"."""
    known = {"auto": _("Automatic"), "cpu": _("CPU"), "cuda": _("NVIDIA GPU (CUDA)"), "mps": _("Apple GPU (MPS)")}
    return known.get(device, device)


def phase_name(phase: str) -> str:
    """What the engine is doing, for the line under the progress bar."""
    known = {
        "load": _("Loading the model"),
        "prepare": _("Preparing the volume"),
        "locate": _("Looking for the region"),
        "restore": _("Bringing the result to the volume's grid"),
        "measure": _("Measuring"),
        "segment": _("Segmenting as before"),
        "learn": _("Learning from the corrected slices"),
        "look": _("Seeing what the network looks at"),
        "segment again": _("Segmenting with what was learnt"),
    }
    if phase in known:
        return known[phase]
    plane, *number = phase.split(" ")
    if plane in ("axial", "coronal", "sagittal"):
        return _("Segmenting {plane} slices").format(plane=plane) + "".join(f" ({n})" for n in number)
    if plane == "volume":
        return _("Segmenting the whole volume") + "".join(f" ({n})" for n in number)
    return _("Segmenting: {target}").format(target=phase)


def progress_line(phase: str, seconds_left: float | None) -> str:
    """Phase and time left in one line."""
    if seconds_left is None:
        return f"{phase_name(phase)}…"
    return _("{phase}… {time} left").format(phase=phase_name(phase), time=about(seconds_left))


def state_name(state: str) -> str:
    """How far the review of a structure is, for the list."""
    return {TO_CHECK: _("to check"), CORRECTED: _("corrected"), ACCEPTED: _("accepted")}[state]


def as_rich_text(text: str) -> str:
    """A text for where Qt takes for rich text what looks like it: names in a scene may hold any markup."""
    return f"<span>{html.escape(text)}</span>"


def slice_names(slices: str) -> str:
    """Slices such as "k:12,17 j:3" for a message: "k 12, 17; j 3"."""
    return "; ".join(entry.replace(":", " ").replace(",", ", ") for entry in slices.split())


def structure_list(names: Sequence[str]) -> str:
    """Names of structures, each pair of sides as one: "hippocampus (left, right), brain stem"."""
    there = set(names)
    words: list[str] = []
    for name in names:
        side = next((side for side in _SIDES if name.startswith(side)), "")
        rest = name.removeprefix(side)
        if not side or not all(other + rest in there for other in _SIDES):
            words.append(name)
        elif side == _SIDES[0]:
            words.append(_("{structure} (left, right)").format(structure=rest))
    return ", ".join(words)

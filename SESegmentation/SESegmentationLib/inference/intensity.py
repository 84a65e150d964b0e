"""Intensities of a volume normalised as in training.

A recipe is the "intensity" entry of a model card:

- ``{"type": "zscore", "clip": [0.5, 99.5]}``: clip at percentiles (optional), then mean 0 and standard deviation 1;
- ``{"type": "percentile", "lower": 0.5, "upper": 99.5}``: these percentiles to 0 and 1, clipped;
- ``{"type": "window", "lower": -160, "upper": 240}``: these intensities to 0 and 1, clipped (HU in CT).

``"foreground"`` says from which voxels mean, standard deviation and (upper) percentile are computed: "all" (the
default), "nonzero" (for stripped images, whose background is 0), or "bright" (those above the mean, so that the share
of air does not matter).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import ModelError

_FOREGROUNDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "all": lambda array: array,
    "nonzero": lambda array: array[array != 0],
    "bright": lambda array: array[array > array.mean(dtype=np.float64)],
}
_REMEDY = "Correct the intensity entry of model.json: its types are zscore, percentile and window."


def normalise(array: np.ndarray, recipe: Mapping[str, Any]) -> np.ndarray:
    """Normalise the intensities of one volume.

    Args:
        array: intensities, any shape and real type; left as it is.
        recipe: "intensity" of a model card, see the module's description.

    Returns:
        float32 array of the same shape.

    Raises:
        ModelError: a recipe of unknown type or with impossible values.
    """
    array = np.asarray(array, dtype=np.float32)
    kind = recipe.get("type")
    try:
        if kind == "zscore":
            return _zscore(array, recipe)
        if kind == "percentile":
            # the darkest voxels are outside any foreground, so the lower percentile is that of all voxels
            low = np.percentile(array, recipe["lower"])
            high = np.percentile(_foreground(array, recipe), recipe["upper"])
            return _to_unit(array, low, high)
        if kind == "window":
            return _to_unit(array, float(recipe["lower"]), float(recipe["upper"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"The intensity recipe {dict(recipe)} cannot be used: {error}.", _REMEDY) from error
    raise ModelError(f"There is no intensity recipe of type {kind!r}.", _REMEDY)


def _foreground(array: np.ndarray, recipe: Mapping[str, Any]) -> np.ndarray:
    chosen = _FOREGROUNDS[recipe.get("foreground", "all")](array)
    return chosen if chosen.size else array


def _zscore(array: np.ndarray, recipe: Mapping[str, Any]) -> np.ndarray:
    chosen = _foreground(array, recipe)
    if recipe.get("clip"):
        low, high = np.percentile(chosen, recipe["clip"])
        array, chosen = np.clip(array, low, high), np.clip(chosen, low, high)
    mean, deviation = chosen.mean(dtype=np.float64), chosen.std(dtype=np.float64)
    return ((array - mean) / (deviation or 1.0)).astype(np.float32)


def _to_unit(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map ``low`` to 0 and ``high`` to 1, clipped; if they coincide (few bright voxels), the extremes."""
    if high <= low:
        low, high = float(array.min()), float(array.max())
    extent = max(float(high) - float(low), float(np.finfo(np.float32).tiny))
    scaled = (array - np.float32(low)) / np.float32(extent)
    return np.clip(scaled, 0, 1, out=scaled)

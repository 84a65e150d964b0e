"""How the volumes of a structure are spread over a batch, and which of them lie outside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: least distance of an outlier from the median, in robust standard deviations (Iglewicz and Hoaglin, "How to Detect and
#: Handle Outliers", 1993); fewest scans among which outliers are looked for
OUTLYING, FEWEST = 3.5, 10
_AXIS = 8.0  # robust standard deviations from the median that a strip shows at most, to each side


class Spread:
    """Spread of a structure's volumes over a batch, as its strip on the page shows it.

    Args:
        volumes: in ml, of the scans in which the structure was found.
    """

    def __init__(self, volumes: Sequence[float]) -> None:
        self._volumes = np.asarray(volumes, float)
        self.median = float(np.median(self._volumes)) if volumes else 0.0
        deviations = np.abs(self._volumes - self.median)
        # where most volumes are equal, the mean absolute deviation stands in
        scale = 1.4826 * np.median(deviations) or 1.2533 * deviations.mean() if volumes else 0.0
        self._scale, self._is_enough = float(scale), len(volumes) >= FEWEST
        reach = _AXIS * self._scale
        low, high = (self._volumes.min(), self._volumes.max()) if volumes else (0.0, 0.0)
        self._low, self._high = max(low, self.median - reach), min(high, self.median + reach)

    def deviation(self, ml: float) -> float:
        """Distance from the median in robust standard deviations; 0 in a batch too small to tell."""
        return float(ml - self.median) / self._scale if self._scale and self._is_enough else 0.0

    def place(self, ml: float) -> float:
        """Position of a volume on the strip, in per cent of its width; volumes beyond its ends lie at these."""
        width = self._high - self._low
        return float(np.clip((ml - self._low) / width, 0, 1)) * 96 + 2 if width else 50.0

    @property
    def usual(self) -> tuple[float, float] | None:
        """Ends of the range without outliers on the strip, in per cent; None in a batch too small to tell."""
        reach = OUTLYING * self._scale
        return (self.place(self.median - reach), self.place(self.median + reach)) if self._is_enough else None

    @property
    def ticks(self) -> list[float]:
        """Where on the strip there are volumes."""
        return sorted({round(self.place(ml), 1) for ml in self._volumes})

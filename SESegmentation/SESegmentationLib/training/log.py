"""The log of a fit: JSON lines, and TensorBoard events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..files import write_whole


class Log:
    """The course of a fit as JSON lines in ``<name>.log.jsonl``, and as TensorBoard events where that is installed.

    A ``with`` block, at whose end everything is on disk.

    Args:
        folder: where the file and a folder ``tensorboard/<name>`` are written.
        name: of the fit.
        step: where the fit goes on; what a killed run logged beyond is taken back, since it is done again.
    """

    def __init__(self, folder: Path, name: str, step: int = 0) -> None:
        self._path = folder / f"{name}.log.jsonl"
        self._take_back(step)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._board = None
        else:
            self._board = SummaryWriter(str(folder / "tensorboard" / name), purge_step=step + 1)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self._board:
            self._board.close()

    def write(self, entry: dict[str, Any]) -> None:
        """Append one line; numbers go to TensorBoard under their keys, at the entry's "step"."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if self._board:
            for key, value in entry.items():
                if key != "step" and isinstance(value, int | float):
                    self._board.add_scalar(key, value, entry["step"])

    def _take_back(self, step: int) -> None:
        """Drop the entries beyond ``step``, and a last line that a kill cut off."""
        if not self._path.exists():
            return
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        write_whole(self._path, "".join(kept))

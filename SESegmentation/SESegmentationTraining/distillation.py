"""Knowledge distillation: a smaller model learns the probabilities of a larger, trained one as well as the labels.

Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015 (arXiv 1503.02531). What is
learnt is not only where a boundary was drawn but how sure one can be of it: labels drawn by hand err by a voxel here
and there, and networks that learn those errors by heart do worse.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from SESegmentationLib.errors import UsageError
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.models.card import ModelCard
from SESegmentationLib.models.store import ModelPackage
from SESegmentationLib.progress import Progress, no_progress

from .dataset import Split


class Teacher:
    """A trained model whose probabilities are learnt.

    Args:
        package: the model.
        card: of the model to be trained.
        split: its cases.
        device: where the teacher runs.

    Raises:
        ModelError: it is damaged.
        UsageError: it works on another grid, on other intensities or labels, or has learnt from cases that are to stay
            unseen.
    """

    def __init__(self, package: ModelPackage, card: ModelCard, split: Split, device: torch.device) -> None:
        own = package.card
        alike = own.spacing == card.spacing and own.intensity == card.intensity
        if not alike or [label.value for label in own.labels] != [label.value for label in card.labels]:
            raise UsageError(
                f"The teacher {own.name} differs from {card.name} in spacing, intensity or labels.",
                "Train the teacher with the same entries in [card], or choose another one.",
            )
        seen = sorted(set(split.test) - set(own.training.get("test_cases", [])))
        if seen:
            raise UsageError(
                f"The teacher {own.name} may have learnt from cases that are kept out for test: {', '.join(seen[:5])}.",
                "Train both with the same split_seed and test in [data].",
            )
        #: for the student's card
        self.record = package.record
        self._predictor = Engine(package, str(device)).predictor

    def soft_targets(self, images: Sequence[np.ndarray], progress: Progress = no_progress) -> list[np.ndarray]:
        """The probability of each structure in each image.

        Args:
            images: (k, j, i), normalised.

        Returns:
            Arrays (C - 1, k, j, i) float16, the background left out.
        """
        found = []
        for index, image in enumerate(images):
            progress(f"ask the teacher about case {index + 1} of {len(images)}", index / len(images), None)
            seen = self._predictor.predict(image.astype(np.float32), self._predictor.views)
            found.append(seen.probabilities[1:].cpu().numpy())
        return found

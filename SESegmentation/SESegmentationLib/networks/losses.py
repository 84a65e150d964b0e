"""Dice, and the losses made of it and of cross-entropy, with the weighting of the paper's protocol.

Source: Roy, Navab, Wachinger, IEEE TMI 2019, section IV; median-frequency balancing: Badrinarayanan et al., TPAMI 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def merge_pairs(logits: Tensor, pairs: Sequence[tuple[int, int]], merged: Tensor) -> Tensor:
    """Merge left and right in some images of a batch.

    In those images the probability of each pair is summed into its first channel and the second one becomes
    impossible, so that a target with left in place of right is compared with the sum.

    Args:
        logits: (N, C, H, W).
        pairs: channels (left, right).
        merged: (N,) bool, the images concerned.

    Returns:
        Log-probabilities up to a constant, (N, C, H, W).
    """
    if not pairs or not bool(merged.any()):
        return logits
    left, right = (torch.tensor(side, device=logits.device) for side in zip(*pairs, strict=True))
    part = logits[merged]
    joined = torch.logaddexp(part[:, left], part[:, right])
    part = part.index_copy(1, left, joined).index_fill(1, right, torch.finfo(part.dtype).min)
    return logits.index_put((merged.nonzero().flatten(),), part)


def merge_target(target: Tensor, pairs: Sequence[tuple[int, int]], merged: Tensor) -> Tensor:
    """Channel indices (N, H, W) with right replaced by left in the images that do not distinguish them."""
    if not pairs or not bool(merged.any()):
        return target
    table = torch.arange(256, device=target.device)
    for left, right in pairs:
        table[right] = left
    return torch.where(merged.view(-1, *[1] * (target.dim() - 1)), table[target], target)


def overlap_and_size(predicted: Tensor, target: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """For each class, the voxels in both, and the sum of the voxels in each; Dice is twice their ratio.

    Args:
        predicted, target: class indices, of the same shape.

    Returns:
        Overlap and size, each (C,) int64.
    """
    overlap = torch.bincount(target[predicted == target].long(), minlength=classes)
    size = torch.bincount(predicted.flatten().long(), minlength=classes)
    return overlap, size + torch.bincount(target.flatten().long(), minlength=classes)


def mean_dice(predicted: Tensor, target: Tensor) -> float:
    """Mean Dice over the classes, without background, that occur in either; 1 if none does.

    Args:
        predicted, target: class indices, of the same shape.
    """
    classes = int(torch.maximum(predicted.max(), target.max())) + 1
    overlap, size = (counts[1:].double() for counts in overlap_and_size(predicted, target, classes))
    there = size > 0
    return float((2 * overlap[there] / size[there]).mean()) if there.any() else 1.0


def smoothed_dice(overlap: Tensor, size: Tensor) -> Tensor:
    """Dice from :func:`overlap_and_size`, (2 overlap + 1) / (size + 1): 1 where a class is in neither."""
    return (2 * overlap + 1) / (size + 1)


def soft_dice_loss(probabilities: Tensor, target: Tensor) -> Tensor:
    """1 - mean Dice over the classes that occur in the batch, background included.

    Classes that do not occur are left to the cross-entropy: their Dice is 0 whatever the network says.

    Args:
        probabilities: (N, C, H, W), after the softmax.
        target: (N, H, W) channel indices.
    """
    classes = probabilities.shape[1]
    flat = probabilities.movedim(1, -1).reshape(-1, classes)
    index = target.flatten()
    predicted = flat.sum(0)
    truth = torch.bincount(index, minlength=classes).to(flat.dtype)
    overlap = torch.zeros_like(predicted).index_add(0, index, flat.gather(1, index[:, None])[:, 0])
    return 1 - smoothed_dice(overlap, predicted + truth)[truth > 0].mean()


def segmentation_loss(
    logits: Tensor,
    target: Tensor,
    class_weights: Tensor | None = None,
    pixel_weights: Tensor | None = None,
    dice_weight: float = 1.0,
) -> Tensor:
    """Cross-entropy plus soft Dice.

    Args:
        logits: (N, C, H, W) float.
        target: (N, H, W) channel indices; volumes have one axis more, here and in the logits.
        class_weights: (C,) for the cross-entropy.
        pixel_weights: (N, H, W) factor on the cross-entropy of each pixel.
        dice_weight: factor on the Dice loss.
    """
    log_probabilities = F.log_softmax(logits.float(), dim=1)
    entropy = F.nll_loss(log_probabilities, target, reduction="none")
    weights = torch.ones_like(entropy)
    if class_weights is not None:
        weights = weights * class_weights[target]
    if pixel_weights is not None:
        weights = weights * pixel_weights
    mean = (entropy * weights).sum() / weights.sum().clamp(min=1e-6)
    return mean + dice_weight * soft_dice_loss(log_probabilities.exp(), target) if dice_weight else mean


def distillation_loss(logits: Tensor, soft_target: Tensor) -> Tensor:
    """Cross-entropy plus Dice, 1:1, with probabilities as the target.

    The soft Dice loss of :func:`soft_dice_loss` is least where all probabilities are 0 or 1, whatever the target; this
    one, which is the same for targets of 0 and 1, is least at the target (Wang, Popordanoska et al., "Dice Semimetric
    Losses", MICCAI 2023, equation 6).

    Args:
        logits: (N, C, H, W) float; volumes have one axis more.
        soft_target: like ``logits``, adding up to 1 over C.
    """
    log_probabilities = F.log_softmax(logits.float(), dim=1)
    entropy = -(soft_target * log_probabilities).sum(1).mean()
    sides = [0, *range(2, logits.dim())]
    predicted, apart = log_probabilities.exp(), (log_probabilities.exp() - soft_target).abs().sum(sides)
    size = predicted.sum(sides) + soft_target.sum(sides)
    dice = (size - apart + 1) / (size + 1)
    return entropy + 1 - dice[soft_target.sum(sides) > 1].mean()


def median_frequency_weights(counts: Tensor) -> Tensor:
    """Weights (C,) of the classes: median frequency over own frequency; 0 for a class that never occurs.

    Args:
        counts: (C,) voxels per class, any integer or float type.
    """
    frequency = counts.double() / counts.double().sum().clamp(min=1)
    present = frequency > 0
    weights = torch.zeros_like(frequency)
    if present.any():
        weights[present] = frequency[present].quantile(0.5) / frequency[present]
    return weights.float()


def boundary_weights(target: Tensor, weight: float = 2.0) -> Tensor:
    """1 + ``weight`` on pixels with a neighbour of another class in the slice's own plane, 1 elsewhere.

    Args:
        target: (N, H, W); boundaries are looked for within each (H, W), never across N.
    """
    padded = F.pad(target[:, None].float(), (1, 1, 1, 1), mode="replicate")[:, 0].to(target.dtype)
    centre = padded[:, 1:-1, 1:-1]
    boundary = torch.zeros_like(centre, dtype=torch.bool)
    for rows, columns in ((slice(0, -2), slice(1, -1)), (slice(2, None), slice(1, -1))):
        boundary |= padded[:, rows, columns] != centre
        boundary |= padded[:, columns, rows] != centre
    return 1 + weight * boundary.float()

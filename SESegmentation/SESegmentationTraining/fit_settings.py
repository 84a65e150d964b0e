"""How networks are fitted: optimiser, loss, validation, checkpoints; the table [fit] of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

#: what ``optimizer`` may be
OPTIMIZERS = ("adamw", "sgd")


@dataclass(frozen=True)
class Fit:
    """How the optimiser is run.

    Attributes:
        seed: of initialisation, order and augmentation.
        optimizer: "adamw", or "sgd" with plain momentum, the paper's protocol.
        momentum: of "sgd".
        learning_rate: peak; cosine decay to a hundredth over all phases after a linear warm-up.
        step_decays: instead of that decay, how often the rate is divided by ten, at equal distances (as in the paper).
        weight_decay: of the optimiser.
        warmup: steps, no more than each network is trained for.
        average: decay of the moving average of the weights, which is what is kept; 0 keeps the last weights.
        bf16: autocast to bfloat16, where the hardware has it.
        rare_share: share of slabs centred on a slice that holds a label drawn uniformly.
        class_balance: exponent of median frequency over its own as the weight of a class in the cross-entropy: 1 is the
            paper's protocol, 0 none; between, rare classes are found without being drawn too large.
        boundary: extra weight of the cross-entropy at boundaries within a slice (the paper's protocol: 2).
        dice: weight of the soft Dice loss beside the cross-entropy, which has 1.
        frozen: how the names of the parameters begin that keep the values they start with.
        validate_every: steps between validations, where cases are kept out for them; 0 for none.
        validation_batches: batches per validation.
        checkpoint_seconds: time between checkpoints.
        minutes: time limit for all networks together; a machine that needs longer skips steps; 0 for no limit.
    """

    seed: int = 0
    optimizer: str = "adamw"
    momentum: float = 0.95
    learning_rate: float = 2e-3
    step_decays: int = 0
    weight_decay: float = 1e-4
    warmup: int = 100
    average: float = 0.998
    bf16: bool = True
    rare_share: float = 0.5
    class_balance: float = 0.0
    boundary: float = 0.0
    dice: float = 1.0
    frozen: tuple[str, ...] = ()
    validate_every: int = 500
    validation_batches: int = 20
    checkpoint_seconds: float = 60.0
    minutes: float = 0.0

"""Training of the correction network, on mistakes of real networks and simulated corrections.

The mistakes are those that ``sesegment prepare mistakes`` wrote, of one model or of several. The output folder gets
checkpoints, and at the end weights and card, named after the recipe. What was done before is resumed.
"""

from __future__ import annotations

import json
import math
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from SESegmentationLib.errors import InputError, SegmentationError, UsageError, reason_of
from SESegmentationLib.files import write_whole
from SESegmentationLib.inference.device import fast_precision
from SESegmentationLib.networks.correction import CorrectionNetwork
from SESegmentationLib.networks.losses import smoothed_dice
from SESegmentationLib.networks.quantisation import to_eight_bits
from SESegmentationLib.progress import Progress, no_progress
from SESegmentationLib.refine.learnt_correction import FOLDER, LearntCorrection

from .begun import begin_correction, digests, learn_from
from .correction_examples import CorrectionExamples, Example
from .fit import load_checkpoint, save_checkpoint
from .mistakes import MistakesRecord, SegmentedCase, load_cases
from .processes import machine_words
from .ranges import HEAVIEST, MOST_PIXELS
from .recipe import converted

RECIPES = Path(__file__).parent / "corrections"
#: edge of the smallest cubes to train on in bfloat16: for smaller ones oneDNN returns uninitialised memory as gradients
#: of the innermost maps, sometimes NaN (seen with PyTorch 2.13, cubes of 16)
SMALLEST_FAST = 32
#: entries of a recipe that may be changed after a training was begun
_CHANGEABLE = ("steps", "least_gain", "second_pass_from", "adapts_from")


@dataclass(frozen=True)
class CorrectionRecipe:
    """How the network is trained.

    Attributes:
        name: of the network.
        start: weights of another network that it begins as, in :data:`.FOLDER`; empty: none.
        any_model: it shall serve structures of any model: it sees them turned and mirrored in all ways, with voxels of
            many sizes and changed intensities. Otherwise mostly as they lie in the scans.
        channels: of the network, by level.
        steps: of the optimiser.
        batch: examples a step.
        size: edge of an example, in voxels.
        rate: of learning at first; it falls to 0 as a cosine.
        plain_share: of examples of volumes as they are; the others are shifted.
        harm: weight of the loss of Dice, where the present result was better.
        settled: share of the steps after which the statistics of batch norms no longer change.
        least_gain: in Dice; structures of which less is expected are left as they are.
        seed: of all randomness.
        second_pass_from: in Dice; where so much is expected, what was corrected is corrected once more; None: nowhere.
        adapts_from: divergence of a scan's statistics from those of the model's training from which on its batch norms
            are adapted, see :func:`.batch_norms.divergence`; None: never.
    """

    name: str
    any_model: bool
    channels: tuple[int, ...]
    steps: int
    batch: int
    size: int
    rate: float
    plain_share: float
    harm: float
    settled: float
    least_gain: float
    seed: int
    start: str = ""
    second_pass_from: float | None = None
    adapts_from: float | None = None

    @classmethod
    def load(cls, name: str) -> CorrectionRecipe:
        """Read a recipe, by name or path; UsageError where there is none, InputError where it cannot be used."""
        path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
        try:
            recipe = converted({"name": path.stem, **tomllib.loads(path.read_text(encoding="utf-8"))}, cls)
            _check(recipe)
        except FileNotFoundError:
            names = ", ".join(sorted(shipped.stem for shipped in RECIPES.glob("*.toml")))
            raise UsageError(f"There is no recipe {name}.", f"Give a .toml file or one of: {names}.") from None
        except (OSError, ValueError) as error:
            raise InputError(
                f"The recipe {path} cannot be used: {reason_of(error)}.", "Compare it with a recipe that is shipped."
            ) from error
        return recipe


def _check(recipe: CorrectionRecipe) -> None:
    """Raise ValueError for a number that makes no sense."""
    smallest = 2 ** len(recipe.channels)
    checks = (
        (len(recipe.channels) > 1 and min(recipe.channels) > 0, "channels are numbers above 0, at least two"),
        (recipe.steps > 0, "steps are above 0"),
        (0 < recipe.batch <= MOST_PIXELS, f"batch is above 0, at most {MOST_PIXELS}"),
        (
            smallest <= recipe.size <= MOST_PIXELS,
            f"size is at least {smallest}, for as many levels, at most {MOST_PIXELS}",
        ),
        (0 <= recipe.rate <= 1, "rate is a number from 0 to 1"),
        (0 <= recipe.harm <= HEAVIEST, f"harm is a number from 0 to {HEAVIEST:g}"),
        (abs(recipe.least_gain) <= 1, "least_gain is a number from -1 to 1"),
        (0 <= recipe.plain_share <= 1 and 0 <= recipe.settled <= 1, "plain_share and settled are numbers from 0 to 1"),
    )
    for valid, problem in checks:
        if not valid:
            raise ValueError(problem)


def correction_loss(logits: Tensor, expected: Tensor, example: Example, harm: float) -> Tensor:
    """The loss: errors outside the corrected slices, harm done there, and the error of the predicted gain.

    Args:
        logits: (N, D, H, W) after the correction.
        expected: (N,) gain in Dice that the network predicts.
        example: what it saw, and the truth.
        harm: weight of Dice lost.
    """
    counts, truth = example.counts, example.truth
    own = (example.base > 0.5).float()
    size = _total((truth + own) * counts) / 2 + 50
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    after = torch.sigmoid(logits)
    # the present result, softened like a network's output, so that more certainty alone is no gain
    soft = (2 * own - 1) * 0.4 + 0.5
    before = _dice(soft, truth, counts)
    lost = F.relu(before - _dice(after, truth, counts))
    done = _dice((after.detach() > 0.5).float(), truth, counts) - _dice(own, truth, counts)
    idea = F.smooth_l1_loss(10 * expected, 10 * done, beta=0.2)
    return (
        (_total(entropy * counts) / size).mean() + (1 - _dice(after, truth, counts)).mean() + harm * lost.mean() + idea
    )


def _total(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1)


def _dice(found: Tensor, truth: Tensor, counts: Tensor) -> Tensor:
    """Dice of each example where it counts."""
    return smoothed_dice(_total(found * truth * counts), _total(found * counts) + _total(truth * counts))


def train_correction(
    mistakes: Sequence[tuple[Path, float]], recipe: CorrectionRecipe, output: Path, progress: Progress = no_progress
) -> Path:
    """Train the network and write it; the weights' file.

    Args:
        mistakes: folders of them, and the share of each among the examples.
        recipe: how it is trained.
        output: folder, for checkpoints too.
        progress: called with the fraction and seconds left; may raise to cancel.

    Raises:
        InputError: mistakes, or a checkpoint, cannot be used.
        ModelError: the network that it begins as cannot be loaded.
        UsageError: ``output`` holds a training with another recipe, on other mistakes or from other weights.
        SegmentationError: the loss is no longer finite; the last checkpoint before it stays.
    """
    records = [MistakesRecord.load(folder) for folder, _ in mistakes]
    groups = [(share, _cases(folder)) for folder, share in mistakes]
    files = {
        f"--mistakes {number} {path}": digest
        for number, (folder, _) in enumerate(mistakes, start=1)
        for path, digest in digests(folder.glob("*.npz"), folder).items()
    }
    begin_correction(output, _settings(recipe, records, [share for share, _ in groups]), files)
    learn_from(output, {recipe.start: FOLDER / f"{recipe.start}.safetensors"} if recipe.start else {})
    torch.manual_seed(recipe.seed)
    network = CorrectionNetwork(recipe.channels)
    if recipe.start:
        started = LearntCorrection.load(FOLDER / f"{recipe.start}.safetensors")
        network.load_state_dict(started.network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=1e-4)
    path = output / "checkpoint.safetensors"
    state: dict[str, Any] = {"step": 0, "seconds": 0.0}
    if path.exists():
        state = load_checkpoint(path, {"network": network}, optimizer)
    seed = recipe.seed + int(state["step"])
    examples = CorrectionExamples(groups, recipe.size, recipe.plain_share, seed, recipe.any_model)
    sums: dict[str, float] = {}
    seconds = float(state["seconds"])
    begin = time.monotonic() - seconds
    fast = fast_precision(torch.device("cpu")) == torch.bfloat16 and recipe.size >= SMALLEST_FAST
    with ThreadPoolExecutor(1) as beside:  # the next examples are drawn while these are learnt from
        drawn = beside.submit(examples.draw, recipe.batch)
        for step in range(int(state["step"]), recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = _rate(recipe, step)
            _set_training_mode(network, step < recipe.settled * recipe.steps)
            example = drawn.result()
            drawn = beside.submit(examples.draw, recipe.batch)
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                maps = network.body(example.inputs)
            logits, expected = network.outputs(maps.float(), example.inputs, example.base)
            loss = correction_loss(logits, expected, example, recipe.harm)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 2.0)
            optimizer.step()
            _note(sums, loss, logits, expected, example)
            seconds = time.monotonic() - begin
            if (step + 1) % 50 == 0 or step + 1 == recipe.steps:
                if not math.isfinite(sums["loss"]):
                    raise SegmentationError(
                        f"The training diverged: by step {step + 1} the loss is not finite.",
                        "Lower rate in the recipe, and run the command again.",
                    )
                with (output / "log.jsonl").open("a", encoding="utf-8") as log:
                    count = sums.pop("count")
                    means = {key: round(value / count, 4) for key, value in sums.items()}
                    log.write(json.dumps({"step": step + 1, **means}) + "\n")
                sums.clear()
                state = {"step": step + 1, "seconds": seconds}
                save_checkpoint(path, {"network": network}, optimizer, state)
            progress("learning", (step + 1) / recipe.steps, seconds / (step + 1) * (recipe.steps - step - 1))
    names = [sorted({case.case for case in cases}) for _, cases in groups]
    return write_correction(output, network, recipe, records, names, seconds)


def _settings(recipe: CorrectionRecipe, records: Sequence[MistakesRecord], shares: Sequence[float]) -> dict[str, Any]:
    """What a training must go on with, as JSON gives it back."""
    learnt_by = {key: value for key, value in asdict(recipe).items() if key not in _CHANGEABLE}
    return json.loads(
        json.dumps({"recipe": learnt_by, "mistakes": [asdict(record) for record in records], "shares": list(shares)})
    )


def _cases(folder: Path) -> list[SegmentedCase]:
    """The mistakes of a folder; InputError where there are none, or one is damaged."""
    cases = [case for path in sorted(folder.glob("*.npz")) for case in load_cases(path)]
    if not cases:
        raise InputError(f"There are no mistakes of a model in {folder}.", "Make them: sesegment prepare mistakes.")
    return cases


def write_correction(
    output: Path,
    network: CorrectionNetwork,
    recipe: CorrectionRecipe,
    records: Sequence[MistakesRecord],
    learnt_from: Sequence[Sequence[str]],
    seconds: float,
) -> Path:
    """Write weights of 8 bits and their card, which names data, licences and cases; the weights' file.

    Args:
        records: whose mistakes were learnt from.
        learnt_from: names of the cases, of each of them.
    """
    path = output / f"{recipe.name}.safetensors"
    halved = {key: value.half() if value.is_floating_point() else value for key, value in network.state_dict().items()}
    write_whole(path, save({key: value.contiguous() for key, value in to_eight_bits(halved).items()}))
    card = {
        "format": 2,
        "channels": list(recipe.channels),
        "least_gain": recipe.least_gain,
        "second_pass_from": recipe.second_pass_from,
        "adapts_from": recipe.adapts_from,
        "learnt_from": [
            {
                "model": f"{record.model} {record.version}",
                "data": record.data,
                "licence": record.licence,
                "cases": list(cases),
                "split": asdict(record.split),
            }
            for record, cases in zip(records, learnt_from, strict=True)
        ],
        "recipe": asdict(recipe),
        "hours": round(seconds / 3600, 2),
        "machine": machine_words(torch.device("cpu")),
        "date": time.strftime("%Y-%m-%d"),
    }
    write_whole(path.with_suffix(".json"), json.dumps(card, indent=1) + "\n")
    return path


def _rate(recipe: CorrectionRecipe, step: int) -> float:
    warm = min((step + 1) / 100, 1.0)
    return recipe.rate * warm * max((1 + math.cos(math.pi * step / recipe.steps)) / 2, 0.01)


def _set_training_mode(network: nn.Module, learning: bool) -> None:
    network.train()
    if not learning:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eval()


@torch.no_grad()
def _note(sums: dict[str, float], loss: Tensor, logits: Tensor, expected: Tensor, example: Example) -> None:
    """Add to the sums what the log tells of some steps."""
    before = _dice((example.base > 0.5).float(), example.truth, example.counts)
    after = _dice((logits > 0).float(), example.truth, example.counts)
    means = {
        "loss": float(loss.detach()),
        "before": float(before.mean()),
        "after": float(after.mean()),
        "worse": float((after < before - 0.01).float().mean()),
        "idea": float((expected - (after - before)).abs().mean()),
        "count": 1.0,
    }
    for key, value in means.items():
        sums[key] = sums.get(key, 0.0) + value

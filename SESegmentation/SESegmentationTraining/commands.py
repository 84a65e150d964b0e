"""The commands for training and measuring, and their options; what they do is imported when they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from SESegmentationLib.cli.shared_options import AsJson
from SESegmentationLib.cli.usage import Command, Commands

measure_app = Commands(help="Measure a model on cases that its training kept out.", no_args_is_help=True)
prepare_app = Commands(help="Prepare data for training.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model, or its folder.")]
Dataset = Annotated[Path, typer.Option(help="Folder that the model was trained on.")]
RecipeName = Annotated[str, typer.Option(help="A recipe's name, or a TOML file.")]
OwnRecipe = Annotated[
    str | None, typer.Option(help="A recipe's name, or a TOML file, where the model's card does not name it.")
]
Volumes = Annotated[int, typer.Option(min=1, help="How often each validation case is used.")]


def add_commands(app: typer.Typer) -> None:
    """Add all of them to ``app``."""
    for command in (train, experiment, evaluate):
        app.command()(command)
    app.add_typer(measure_app, name="measure")
    app.add_typer(prepare_app, name="prepare")


def train(
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET", help="Folder in nnU-Net's layout: imagesTr, labelsTr, dataset.json.")
    ],
    recipe: Annotated[
        str, typer.Option(help="auto: chosen by examining the dataset; else a recipe's name, or a TOML file.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the model; a training there is resumed.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Minutes that --recipe auto may take on this machine (60).")
    ] = None,
) -> None:
    """Train a model. An interrupted run continues where it stopped; under torchrun several processes share the work.

    Finally the model is measured on the cases kept out for test, and the results are reported.
    """
    from .command_line import train_package

    train_package(dataset, recipe, output, device, minutes)


def experiment(
    plans: Annotated[list[str], typer.Argument(metavar="PLAN", help="Plans by name, or TOML files.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of results, tables and plots; finished runs in it are kept.")
    ],
    data: Annotated[Path, typer.Option(help="Folder that holds the datasets of the plans.")] = Path(),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[int | None, typer.Option(help="Parallel runs; by default one per GPU, or one.")] = None,
    report: Annotated[bool, typer.Option("--report", help="Only make tables and plots of the finished runs.")] = False,
) -> None:
    """Compare networks: train and test all variants of a plan. An interrupted experiment is continued."""
    from .command_line import run_experiments

    run_experiments(plans, output, data, device, workers, report)


def evaluate(
    predictions: Annotated[Path, typer.Argument(metavar="SEGMENTATIONS", help="Folder of segmentations, or one file.")],
    references: Annotated[
        Path, typer.Argument(metavar="REFERENCES", help="Folder of reference labels with the same names, or one file.")
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Take the names of the labels from this model.")
    ] = None,
    resample: Annotated[
        bool, typer.Option("--resample", help="Bring segmentations on another grid to that of their reference.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare segmentations with references: Dice, 95 % Hausdorff distance and mean surface distance per label.

    Structures of a .seg.nrrd are identified by name and code, those of a label map by value.
    A structure that is in neither file of a pair does not count for that pair, with --model or without.
    A pair that cannot be compared does not stop the others; the exit code is that of the first failure.
    """
    from .command_line import evaluate_predictions

    raise typer.Exit(evaluate_predictions(predictions, references, model, as_json, resample))


class ImageAndLabels:
    """The two values of ``--pair``."""


def _pair(values: tuple[str, str]) -> tuple[Path, Path]:
    return Path(values[0]), Path(values[1])


class _WithPairs(Command):
    """A command whose repeatable option ``--pair`` takes two values each time, for which typer has no type."""

    def __init__(self, *arguments: Any, params: list[Any] | None = None, **options: Any) -> None:
        for parameter in params or ():
            if parameter.name == "pair":
                parameter.nargs = 2
        super().__init__(*arguments, params=params, **options)


@measure_app.command(cls=_WithPairs)
def accuracy(
    model: Model,
    dataset: Annotated[
        Path | None,
        typer.Option(help="Folder that the model was trained on: its test cases, or else imagesTs and labelsTs."),
    ] = None,
    pair: Annotated[
        list[ImageAndLabels] | None,
        typer.Option(parser=_pair, metavar="IMAGE LABELS", help="Volume of your own with its labels; repeatable."),
    ] = None,
    data: Annotated[str, typer.Option(help="Description of the data, for the card.")] = "",
    apart: Annotated[
        list[int] | None,
        typer.Option(
            metavar="VALUE",
            help="A structure that the references define in another way: shown, but not in the mean; repeatable.",
        ),
    ] = None,
    others: Annotated[
        bool, typer.Option("--others", help="Structures that the model lacks count as background.")
    ] = False,
    resample: Annotated[
        bool, typer.Option("--resample", help="Bring labels on another grid to that of their image.")
    ] = False,
    write: Annotated[bool, typer.Option("--write", help="Write the figures into the card and its README.")] = False,
) -> None:
    """Dice and distances on cases that the model never saw. All cases are checked before the first is segmented."""
    from .accuracy import measure_accuracy

    pairs = cast(list[tuple[Path, Path]], pair or [])
    measure_accuracy(model, dataset, pairs, data, apart or [], others, resample, write)


@measure_app.command()
def calibration(
    model: Model,
    dataset: Dataset,
    recipe: OwnRecipe = None,
    write: Annotated[bool, typer.Option("--write", help="Write the curves into the card and its README.")] = False,
) -> None:
    """The expected Dice at each confidence, from validation cases as they are and under shifts."""
    from .calibration import measure_calibration

    measure_calibration(model, dataset, recipe, write)


@measure_app.command()
def crossvalidation(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the model, and of its folder.")],
    recipe: RecipeName,
    dataset: Annotated[Path, typer.Option(help="Folder in nnU-Net's layout.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for folds and final model.")],
    folds: Annotated[int, typer.Option(help="Number of folds.")] = 5,
    only: Annotated[
        list[int] | None,
        typer.Option(
            metavar="K",
            help="Do only this fold, counted from 0, and no final model; repeatable, to share work among processes.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    data: Annotated[str, typer.Option(help="Description of the data, for the card.")] = "",
    write: Annotated[
        Path | None, typer.Option(metavar="PACKAGE", help="Write the figures into this model instead of training one.")
    ] = None,
) -> None:
    """Measure every case by weights that never saw it; then train one model on all of them."""
    from .crossvalidation import measure_crossvalidation

    measure_crossvalidation(name, recipe, dataset, output, folds, only or [], device, data, write)


@measure_app.command()
def view_weights(
    model: Model,
    dataset: Dataset,
    recipe: RecipeName,
    volumes: Volumes = 1,
    write: Annotated[bool, typer.Option("--write", help="Write the best weights into the card.")] = False,
) -> None:
    """How much each view should count: the Dice on validation cases with every combination of weights."""
    from .tuning import measure_view_weights

    measure_view_weights(model, dataset, recipe, volumes, write)


@measure_app.command()
def logit_adjustment(
    model: Model,
    dataset: Dataset,
    recipe: RecipeName,
    value: Annotated[list[int], typer.Option(help="Label value of a structure; repeatable.")],
    volumes: Volumes = 1,
    write: Annotated[bool, typer.Option("--write", help="Write the best factor into the weights.")] = False,
) -> None:
    """The best factor for the probabilities of structures that are segmented too large or too small."""
    from .tuning import measure_logit_adjustment

    measure_logit_adjustment(model, dataset, recipe, value, volumes, write)


@measure_app.command()
def intracranial(
    model: Model,
    dataset: Annotated[Path, typer.Option(help="Folder of label maps that the model was trained on.")],
    recipe: OwnRecipe = None,
    volumes: Annotated[int, typer.Option(min=1, help="Contrasts of each validation head.")] = 4,
    write: Annotated[bool, typer.Option("--write", help="Write the error into the card.")] = False,
) -> None:
    """The error of the intracranial volume, on synthesised heads whose volume is known."""
    from .accuracy import measure_intracranial_volume

    measure_intracranial_volume(model, dataset, recipe, volumes, write)


@measure_app.command(cls=_WithPairs)
def repeatability(
    model: Model,
    pair: Annotated[
        list[ImageAndLabels] | None,
        typer.Option(parser=_pair, metavar="EARLIER LATER", help="Two scans of a patient; repeatable."),
    ] = None,
    scan: Annotated[list[Path] | None, typer.Option(help="A scan to simulate two rescans of; repeatable.")] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="Folder that the model was trained on: its test cases are scans, too.")
    ] = None,
    data: Annotated[str, typer.Option(help="Description of the data, for the card.")] = "",
    write: Annotated[bool, typer.Option("--write", help="Write the figures into the card and its README.")] = False,
) -> None:
    """How much volumes differ between two scans of an unchanged patient."""
    from .repeatability import measure_repeatability

    measure_repeatability(model, cast(list[tuple[Path, Path]], pair or []), scan or [], dataset, data, write)


@prepare_app.command()
def malc(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder of the challenge's unpacked archive.")],
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="Folder to write.")],
) -> None:
    """Write the MICCAI 2012 Multi-Atlas Labelling Challenge as a dataset for the recipe malc."""
    from .preparation import prepare_malc

    prepare_malc(source, dataset)


@prepare_app.command()
def visceral(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder of the volumes and of a file for each structure.")
    ],
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="Folder to write.")],
    test: Annotated[bool, typer.Option("--test", help="These cases are for test only.")] = False,
) -> None:
    """Write VISCERAL as a dataset for the recipe visceral."""
    from .preparation import prepare_visceral

    prepare_visceral(source, dataset, test)


@prepare_app.command()
def cross_contrast(
    model: Model,
    reference: Annotated[Path, typer.Argument(metavar="SCAN", help="Scan to segment.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder in nnU-Net's layout; cases are added.")],
    same: Annotated[
        list[Path] | None, typer.Option(metavar="SCAN", help="Another scan on the same grid; repeatable.")
    ] = None,
) -> None:
    """Label all scans of a patient with the result of a model on one of them."""
    from .preparation import label_scans

    for name in label_scans(model, reference, same or [], output):
        print(name)


@prepare_app.command()
def gallery(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="Folder that is trained on.")],
    recipe: RecipeName,
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture, .png or .jpg.")],
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the random slices.")] = 0,
) -> None:
    """Draw training examples of a recipe: slices beside their targets."""
    from .preparation import write_gallery

    write_gallery(dataset, recipe, output, seed)


@prepare_app.command()
def mistakes(
    model: Model,
    dataset: Annotated[Path, typer.Option(help="Folder that the model was trained on.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the mistakes; existing ones are kept.")],
    group: Annotated[str, typer.Option(help="Cases to segment: training, validation or test.")] = "training",
    fold: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="FOLD FOLDS", help="For a model of a cross-validation: its fold, and number of folds."),
    ] = None,
    recipe: OwnRecipe = None,
) -> None:
    """Segment a model's own cases, as they are and under shifts: a network can learn to correct its mistakes."""
    from SESegmentationLib.models import find_model
    from SESegmentationLib.progress import note_if_interrupted

    from .mistakes import collect_mistakes
    from .processes import percent_printer

    with note_if_interrupted("Run the same command again to go on: volumes that are done are kept."):
        files = collect_mistakes(find_model(model), dataset, output, group, fold, recipe, percent_printer())
    print(len(files), "volumes")


@prepare_app.command()
def corrections(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for all output; a training in it is resumed.")],
    mistakes: Annotated[
        list[str], typer.Option(metavar="DIR[=SHARE]", help="Mistakes of a model, and their share; repeatable.")
    ],
    recipe: Annotated[str, typer.Option(help="A recipe's name, or a TOML file.")] = "any-model",
) -> None:
    """Train the network that carries corrections to other slices, on mistakes of models."""
    from SESegmentationLib.progress import note_if_interrupted

    from .begun import GO_ON
    from .learnt_correction import CorrectionRecipe, train_correction
    from .mistakes import with_share
    from .processes import percent_printer

    shared = [with_share(entry) for entry in mistakes]
    with note_if_interrupted(GO_ON):
        path = train_correction(shared, CorrectionRecipe.load(recipe), output, percent_printer())
    print(path)

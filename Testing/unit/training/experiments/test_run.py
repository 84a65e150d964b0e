"""One run: trained and tested for real, kept, resumed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from SESegmentationLib.errors import CancelledError, InputError, UsageError
from SESegmentationLib.inference.predictor import Predictor
from SESegmentationLib.networks import build_network
from SESegmentationTraining.evaluation import compare
from SESegmentationTraining.experiments.results import read_results, refuse_other_data, result_path
from SESegmentationTraining.experiments.run import Runner, _data_of, dice_of
from SESegmentationTraining.recipe import NetworkChanges
from SESegmentationTraining.training_plan import draft_card

CPU = torch.device("cpu")


@pytest.fixture
def runner(blobs_folder, tmp_path):
    """A runner that keeps its results in ``tmp_path / "kept"``."""
    return Runner(blobs_folder.parent, tmp_path / "kept", CPU)


def without_times(result):
    return {key: value for key, value in result.items() if key not in ("hours", *TIMES)}


TIMES = ("milliseconds_per_slice", "milliseconds_per_step")


def test_a_run_is_trained_tested_and_written_down(runner, plan, blobs_folder):
    run = plan(("steps = 6", "steps = 90"), ("channels = 4, blocks = 2", "channels = 8, blocks = 3")).runs()[1]
    result = runner(run)
    assert (
        result
        == read_results(runner.folder)[run.key]
        == json.loads(result_path(runner.folder, run.key).read_text(encoding="utf-8"))
    )
    assert result["labels"] == ["left blob", "right blob"]
    split = result["split"]
    assert {len(split[part]) for part in ("validation", "training")} == {1}
    assert sorted(result["dice"]) == sorted(split["test"])
    assert not set(split["test"]) & set(split["training"] + split["validation"])
    assert np.mean(list(result["dice"].values())) > 0.6, "nothing was learnt"
    assert [step for step, _ in result["curve"]] == list(range(3, 91, 3))
    network = build_network(draft_card(run.recipe).networks["coronal"])
    assert result["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert result["se_parameters"] == sum(p.numel() for name, p in network.named_parameters() if ".se." in name) > 0
    assert min(result["multiply_adds"], *(result[time] for time in TIMES)) > 0
    assert {"torch", "python", "SESegmentation"} <= result["versions"].keys()
    assert "CPU" in result["machine"]
    left = [path.name for path in runner.folder.rglob("*") if path.is_file()]
    assert left == [f"{run.key}.json"], "what a run works with is left"


@pytest.mark.parametrize("protocol", ["modern", "paper"])
def test_a_killed_run_ends_as_an_uninterrupted_one(runner, plan, tmp_path, protocol):
    changes = [("average = 0", "checkpoint_seconds = 0, average = 0")]
    if protocol == "paper":
        changes.append(('protocol = "modern"', 'protocol = "paper"'))
    run = plan(*changes).runs()[1]
    assert run.recipe.fit.optimizer == ("sgd" if protocol == "paper" else "adamw")
    steps = 0

    def kill(*_):
        nonlocal steps
        steps += 1
        if steps == 4:
            raise CancelledError("Killed.")

    with pytest.raises(CancelledError):
        runner(run, kill)
    assert not read_results(runner.folder)
    seen = []
    resumed = Runner(runner.data, runner.folder, CPU)(run, lambda *report: seen.append(report[1]))
    assert len([fraction for fraction in seen if fraction <= 0.9]) == 2, "it was not resumed"
    whole = Runner(runner.data, tmp_path / "whole", CPU)(run)
    assert without_times(resumed) == without_times(whole)


def test_data_is_loaded_once_for_runs_that_share_it(runner, plan):
    first, second = plan().runs()[:2]
    runner(first)
    source = runner._source
    runner(second)
    assert runner._source is source
    changed = plan(("shift_mm = 2", "shift_mm = 4")).runs()[0]
    runner(changed)
    assert runner._source is not source


def test_networks_that_see_other_images_share_no_data(plan, tmp_path):
    run = plan().runs()[0]
    card = draft_card(run.recipe)
    other = replace(run.recipe, networks={"axial": NetworkChanges(augmentation={"noise": 0.5})})
    assert _data_of(other, tmp_path, card) != _data_of(run.recipe, tmp_path, card)


def test_runs_that_share_data_end_as_runs_that_do_not(runner, plan, tmp_path):
    first, second = plan().runs()[:2]
    runner(first)
    shared = runner(second)
    alone = Runner(runner.data, tmp_path / "alone", CPU)(second)
    assert without_times(shared) == without_times(alone)


@pytest.fixture
def own_runner(blobs_folder, tmp_path):
    """A runner as ``runner``, whose data may be changed."""
    shutil.copytree(blobs_folder, tmp_path / "data" / blobs_folder.name)
    return Runner(tmp_path / "data", tmp_path / "kept", CPU)


def test_results_of_other_images_or_labels_are_not_taken_for_those_of_the_present(own_runner, plan, blobs_folder):
    """A label that was corrected, of a case for test, and a case that was added: the key of the run is the same."""
    run, data = plan().runs()[0], own_runner.data
    result = own_runner(run)
    results = {run.key: result}
    folder = data / blobs_folder.name
    refuse_other_data(own_runner.folder, results, [run], data)
    refuse_other_data(own_runner.folder, results, [run], data / "elsewhere")  # there is nothing to compare with
    refuse_other_data(own_runner.folder, {}, [run], data)
    changed, other = (folder / "labelsTr" / f"{name}.nii.gz" for name in result["split"]["test"])
    before = changed.read_bytes()
    shutil.copyfile(other, changed)
    with pytest.raises(UsageError, match=rf"than those in .*: \S+{changed.name} changed since") as refused:
        refuse_other_data(own_runner.folder, results, [run], data)
    assert "results.json" in refused.value.remedy and "--report" in refused.value.remedy
    changed.write_bytes(before)
    for part, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        shutil.copyfile(folder / part / f"blob_0{ending}", folder / part / f"blob_9{ending}")
    with pytest.raises(UsageError, match=r"blob_9\S*, \S*blob_9\S* changed since"):
        refuse_other_data(own_runner.folder, results, [run], data)
    del result["contents"]  # as of a version that did not record it
    with pytest.raises(UsageError, match="there are other cases now"):
        refuse_other_data(own_runner.folder, results, [run], data)


def test_an_unfinished_run_goes_on_with_its_own_data_only(own_runner, plan, blobs_folder):
    run = plan(("average = 0", "checkpoint_seconds = 0, average = 0")).runs()[0]

    def kill(*_):
        raise CancelledError("Killed.")

    with pytest.raises(CancelledError):
        own_runner(run, kill)
    labels = own_runner.data / blobs_folder.name / "labelsTr"
    corrected = sitk.ReadImage(str(labels / "blob_0.nii.gz"))
    corrected[0, 0, 0] = 17
    sitk.WriteImage(corrected, str(labels / "blob_0.nii.gz"))
    again = Runner(own_runner.data, own_runner.folder, CPU)
    with pytest.raises(UsageError, match=r"begun with other images or labels: \S+blob_0.nii.gz changed since"):
        again(run)
    shutil.copyfile(blobs_folder / "labelsTr" / "blob_0.nii.gz", labels / "blob_0.nii.gz")
    assert Runner(own_runner.data, own_runner.folder, CPU)(run)["key"] == run.key


def test_dice_is_that_of_the_evaluation(plan):
    run = plan().runs()[0]
    card = draft_card(run.recipe)
    torch.manual_seed(3)
    predictor = Predictor(card, {"coronal": build_network(card.networks["coronal"]).eval()}, CPU)
    random = np.random.default_rng(0)
    image = random.random((12, 14, 16), dtype=np.float32)
    labels = random.integers(0, 3, (12, 14, 16), dtype=np.uint8)
    found = predictor.predict(image, predictor.views).votes[0].numpy()
    assert len(np.unique(found)) > 1
    expected = [
        compare(sitk.GetImageFromArray(found), sitk.GetImageFromArray(labels), channel).dice for channel in (1, 2)
    ]
    assert dice_of(predictor, image, labels) == pytest.approx(expected, abs=1e-4)


def test_missing_data_is_said_with_a_remedy(plan, tmp_path):
    with pytest.raises(InputError) as refused:
        Runner(tmp_path / "nowhere", tmp_path, CPU)(plan().runs()[0])
    assert "--data" in refused.value.remedy


def test_a_run_without_cases_for_test_is_refused(runner, plan):
    with pytest.raises(UsageError, match="no cases are kept out"):
        runner(plan(("test = 2", "test = 0")).runs()[0])

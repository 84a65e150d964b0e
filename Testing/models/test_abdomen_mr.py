"""abdomen-mr, the shipped weights: they work on the scans they learnt from; accuracy on others is in the card."""

from __future__ import annotations

import pytest
import SimpleITK as sitk

from SESegmentationLib.cli import main
from SESegmentationLib.errors import UsageError
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.models import verify_package
from SESegmentationTraining.evaluation import compare

CASE = "chaos_021"


@pytest.fixture(scope="module")
def package(shipped_weights):
    return verify_package(shipped_weights / "abdomen-mr")


def test_the_card_states_a_cross_validation_and_the_terms(package):
    accuracy, training = package.card.accuracy, package.card.training
    assert accuracy["folds"] == 5
    assert accuracy["cases"] == 15
    assert training["cases"] == {"training": 15, "validation": 0, "test": 0}
    assert not package.card.licence.free
    assert "NonCommercial" in (package.path / "LICENSE").read_text(encoding="utf-8")


def test_four_organs_on_their_sides(package, shared_data):
    image = read_volume(shared_data / "abdomen-mr" / "imagesTr" / f"{CASE}_0000.nii.gz")
    reference = sitk.ReadImage(str(shared_data / "abdomen-mr" / "labelsTr" / f"{CASE}.nii.gz"))
    result = Engine(package, "cpu").segment(image)
    found = {structure.label.name: structure for structure in result.structures}
    for structure in found.values():
        dice = compare(result.labels, reference, structure.label.value).dice
        assert dice > 0.85, f"{structure.label.name} {dice} on a scan that was in the training"
        assert 0.6 < structure.expected_dice < 1
    # x runs to the patient's left
    assert found["liver"].centre_lps[0] < found["spleen"].centre_lps[0]
    assert found["right kidney"].centre_lps[0] < found["left kidney"].centre_lps[0]


def test_the_command_line_asks_for_consent(package, shared_data, tmp_path, capsys):
    volume = shared_data / "abdomen-mr" / "imagesTr" / f"{CASE}_0000.nii.gz"
    call = ["run", str(volume), "--model", str(package.path), "-o", str(tmp_path / "out.nii.gz"), "--device", "cpu"]
    assert main(call) == UsageError.exit_code
    assert "--accept-licence" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main([*call, "--accept-licence"]) == 0
    assert sitk.ReadImage(str(tmp_path / "out.nii.gz")).GetSize() == sitk.ReadImage(str(volume)).GetSize()

"""hippocampus-t1, the shipped weights: accuracy on crops kept out of the training, and both sides of a whole head."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.models import verify_package
from SESegmentationTraining import accuracy


@pytest.fixture(scope="module")
def engine(shipped_weights):
    return Engine(verify_package(shipped_weights / "hippocampus-t1"), "cpu")


def test_accuracy_on_cases_kept_out(engine, shared_data):
    cases = accuracy.test_cases(engine.package, shared_data / "hippocampus")
    assert len(cases) == 40
    measured = accuracy.measure(engine.package, cases[:12])
    for value, least in (("1", 0.88), ("2", 0.86)):
        mean = measured["labels"][value]["dice"]["mean"]
        assert mean >= least
        assert mean == pytest.approx(engine.card.accuracy["labels"][value]["dice"]["mean"], abs=0.03)


def test_no_coronal_slice_holds_both_parts(engine, shared_data):
    case = accuracy.test_cases(engine.package, shared_data / "hippocampus")[0]
    labels = engine.segment(read_volume(case.image)).labels
    # the crops' slices are coronal along j
    anterior, posterior = ((sitk.GetArrayFromImage(labels) == value).any((0, 2)) for value in (1, 2))
    assert anterior.any()
    assert posterior.any()
    assert not (anterior & posterior).any()


def test_a_head_gives_four_structures_on_both_sides(engine, shared_data):
    image = read_volume(shared_data / "volumes" / "t1-head-lia-256.nii.gz")
    result = engine.segment(image)
    found = {structure.label.name: structure for structure in result.structures}
    assert len(found) == 4
    for name, structure in found.items():
        assert 0.5 < structure.volume_ml < 4, name
        assert ("left" in name) == (structure.centre_lps[0] > np.mean([s.centre_lps[0] for s in found.values()]))
    for side in ("left", "right"):
        anterior, posterior = (
            next(s for n, s in found.items() if side in n and part in n) for part in ("anterior", "posterior")
        )
        assert anterior.centre_lps[1] < posterior.centre_lps[1], "y runs to the back"
    assert set(np.unique(sitk.GetArrayFromImage(result.labels))) == {0, 1, 2, 3, 4}

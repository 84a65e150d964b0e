"""The README of a package says what its card says, and nothing about what the card leaves out."""

from __future__ import annotations

import pytest

from SESegmentationLib.models import ModelCard
from SESegmentationLib.models.readme import render_readme

FIGURES = {"dice": {"mean": 0.9, "std": 0.02, "n": 4}, "hausdorff95_mm": {"mean": 1.25, "std": 0.5, "n": 4}}
WHOLE = {
    "data": "crops",
    "cases": 4,
    "labels": {"1": FIGURES, "2": FIGURES},
    "not_in_mean": [2],
    "mean_dice": 0.9,
    "command": "python -m measure",
}


def rendered(card_dict, **entries):
    weights = {"file": "model.safetensors", "sha256": "0" * 64}
    return render_readme(ModelCard.from_dict(card_dict | {"format": 1, "weights": weights} | entries))


def test_figures_stand_in_a_table(card_dict):
    text = rendered(card_dict, accuracy=WHOLE)
    assert "crops: 4 cases kept out of the training, mean ± standard deviation." in text
    assert "| anterior hippocampus | 0.900 ± 0.020 | 1.25 ± 0.50 | - |" in text
    assert "| posterior hippocampus (not in the mean) |" in text
    assert "Mean Dice over the structures: **0.900**." in text
    assert "Measured with `python -m measure`." in text


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("data", "crops"),
        ("cases", "kept out"),
        ("labels", "| Structure |"),
        ("mean_dice", "Mean Dice"),
        ("command", "Measured with"),
    ],
)
def test_what_the_card_leaves_out_is_left_out(card_dict, missing, said):
    assert said in rendered(card_dict, accuracy=WHOLE)
    text = rendered(card_dict, accuracy={key: entry for key, entry in WHOLE.items() if key != missing})
    assert said not in text
    assert "None" not in text


def test_cases_of_untold_data_are_still_counted(card_dict):
    accuracy = {key: entry for key, entry in WHOLE.items() if key != "data"}
    assert "\n4 cases kept out" in rendered(card_dict, accuracy=accuracy)


def test_views_of_one_plane_are_told_apart(card_dict):
    assert "coronal (3 slices, weight 1)" in rendered(card_dict)
    views = [card_dict["views"][0], card_dict["views"][0] | {"network": "coronal"}]
    assert "axial 'axial' (3 slices, weight 1), axial 'coronal' (3 slices, weight 1)" in rendered(
        card_dict, views=views
    )


def test_when_a_view_is_left_out_is_told(card_dict):
    assert "left out" not in rendered(card_dict)
    told = "; a view is left out for one of which it finds less than 50 % of what another view finds of it |"
    assert told in rendered(card_dict, missed_below=0.5)


def test_a_model_that_was_not_measured_says_so(card_dict):
    assert "Not measured yet." in rendered(card_dict, accuracy={})


def test_a_training_and_a_link_that_are_not_told_are_not_there(card_dict):
    text = rendered(card_dict)
    assert "## Training" not in text
    assert text.endswith("## Licence\n\nApache License 2.0.\n")
    linked = card_dict["licence"] | {"url": "https://licence.org", "attribution": "By us."}
    text = rendered(card_dict, licence=linked, training={"seed": 1, "cases": {"training": 2}, "test_cases": ["a"]})
    assert "| **seed** | 1 |\n| **cases** | training: 2 |" in text
    assert "test cases" not in text
    assert text.endswith("[Apache License 2.0](https://licence.org). By us.\n")


def test_what_the_expected_dice_rests_on(card_dict):
    curves = {"views": {"1": {"confidence": [0.5, 1.0], "dice": [0.4, 0.9]}}}
    text = rendered(card_dict, calibration=curves | {"data": "crops under shifts", "command": "python -m calibrate"})
    assert "of each structure, as it was on crops under shifts.\n\nMeasured with `python -m calibrate`." in text
    assert "to be expected of each structure.\n\n" in rendered(card_dict, calibration=curves)
    assert "Expected Dice" not in rendered(card_dict, calibration={})


def test_the_least_change_is_given_as_median_and_range(card_dict):
    repeatability = {"data": "crops drawn twice", "pairs": 4, "within_scan_sd": {"1": 0.01, "2": 0.02}}
    assert "exceeds noise: 4.2 % (median over the structures; 2.8 to 5.5 %), from 4 pairs of scans." in rendered(
        card_dict, repeatability=repeatability
    )

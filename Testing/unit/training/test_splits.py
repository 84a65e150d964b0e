"""Which cases are kept out of a training."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from SESegmentationLib.errors import InputError, UsageError
from SESegmentationTraining.dataset import fold_of_cases, split_by_recipe, split_cases

names = st.lists(st.text("abc123", min_size=1, max_size=4), min_size=3, max_size=30, unique=True)


@given(names=names, validation=st.integers(0, 10), test=st.integers(0, 10), seed=st.integers(0, 99), data=st.data())
def test_splits_are_disjoint_complete_and_the_same_for_any_order(names, validation, test, seed, data):
    if len(names) <= validation + test:
        with pytest.raises(InputError, match="too few"):
            split_cases(names, validation, test, seed)
        return
    split = split_cases(names, validation, test, seed)
    assert sorted([*split.training, *split.validation, *split.test]) == sorted(names)
    assert (len(split.validation), len(split.test)) == (validation, test)
    assert split_cases(data.draw(st.permutations(names)), validation, test, seed) == split


def test_another_seed_splits_otherwise():
    assert split_cases([str(n) for n in range(50)], 5, 20, 1) != split_cases([str(n) for n in range(50)], 5, 20, 2)


def test_a_split_is_the_same_on_every_computer():
    split = split_cases([f"case_{n}" for n in range(8)], 2, 3, 2019)
    assert split.test == ["case_4", "case_7", "case_0"]
    assert split.validation == ["case_5", "case_3"]


@given(names=names, folds=st.integers(2, 6), validation=st.integers(0, 3), seed=st.integers(0, 99))
def test_every_case_is_for_test_in_one_fold(names, folds, validation, seed):
    largest = -(-len(names) // folds)
    if len(names) < folds or len(names) - largest <= validation:
        with pytest.raises(InputError, match="too few"):
            [fold_of_cases(names, validation, folds, fold, seed) for fold in range(folds)]
        return
    splits = [fold_of_cases(names, validation, folds, fold, seed) for fold in range(folds)]
    assert sorted(name for split in splits for name in split.test) == sorted(names)
    for split in splits:
        assert sorted([*split.training, *split.validation, *split.test]) == sorted(names)
        assert len(split.validation) == validation
        assert largest - 1 <= len(split.test) <= largest


def test_folds_keep_the_slices_of_a_patient_together():
    names = [f"p{patient}_{number}" for patient in range(7) for number in range(3)]
    for fold in range(3):
        split = fold_of_cases(names, 1, 3, fold, 5, r"(p\d)_")
        patients = [{name[:2] for name in part} for part in (split.training, split.validation, split.test)]
        assert sum(map(len, patients)) == 7


def test_a_recipe_asks_for_a_fold(blobs_recipe):
    recipe = blobs_recipe(data={"folds": 2, "fold": 1, "validation": 0, "test": 3})
    names = [f"case_{number}" for number in range(4)]
    assert split_by_recipe(names, recipe) == fold_of_cases(names, 0, 2, 1, recipe.data.split_seed)
    with pytest.raises(UsageError, match="fold is below folds"):
        blobs_recipe(data={"folds": 2, "fold": 2})

"""Results on disk: whole, compact, damaged."""

from __future__ import annotations

import json

import pytest

from SESegmentationLib.errors import InputError
from SESegmentationTraining.experiments.results import (
    RESULTS_NAME,
    gather_results,
    read_results,
    result_path,
    write_results,
    write_run,
)


def test_results_are_read_as_they_were_written(plan, made_up, tmp_path):
    results = made_up(plan())
    write_results(tmp_path, results.values())
    assert read_results(tmp_path) == results


def test_what_runs_share_is_written_once(plan, made_up, tmp_path):
    results = made_up(plan())
    write_results(tmp_path, results.values())
    content = json.loads((tmp_path / RESULTS_NAME).read_text(encoding="utf-8"))
    assert len(content["runs"]) == len(results)
    assert len(content["shared"]) == 6  # split, contents, versions, labels, card, data
    assert (tmp_path / RESULTS_NAME).read_text(encoding="utf-8").count("abacus") == len(results)


def test_single_runs_are_added_to_those_together(plan, made_up, tmp_path):
    results = made_up(plan())
    first, *others = results.values()
    write_results(tmp_path, others)
    write_run(result_path(tmp_path, first["key"]), first)
    assert read_results(tmp_path) == results


def test_single_runs_are_gathered_and_unfinished_ones_left(plan, made_up, tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    results = made_up(plan())
    first, second, *others = results.values()
    write_results(folder, others)
    for result in (first, second):
        write_run(result_path(folder, result["key"]), result)
    unfinished = result_path(folder, "0123").with_suffix(".unfinished")
    unfinished.mkdir()
    assert gather_results(folder) == read_results(folder) == results
    assert sorted(path.name for path in folder.rglob("*")) == [unfinished.name, RESULTS_NAME, "runs"]
    unfinished.rmdir()
    write_run(result_path(folder, first["key"]), first)
    assert gather_results(folder) == results
    assert [path.name for path in folder.iterdir()] == [RESULTS_NAME]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": "another"}'])
def test_a_damaged_run_counts_as_not_done(tmp_path, content):
    path = result_path(tmp_path, "0123")
    path.parent.mkdir()
    path.write_text(content, encoding="utf-8")
    assert read_results(tmp_path) == {}


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"shared": {}, "runs": [{"key": "a", "split": "b"}]}'])
def test_a_damaged_file_of_results_is_not_overwritten_but_said(tmp_path, content):
    (tmp_path / RESULTS_NAME).write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as refused:
        read_results(tmp_path)
    assert refused.value.remedy


def test_there_may_be_no_results(tmp_path):
    assert read_results(tmp_path) == {}

"""Output files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from SESegmentationLib.errors import UsageError
from SESegmentationLib.files import (
    OutputError,
    OutputFiles,
    check_writable,
    same_content,
    staging,
    write_private,
    write_whole,
)
from SESegmentationLib.models import add_model


def test_files_appear_together_at_the_end(tmp_path):
    first, second = tmp_path / "new" / "a.nii.gz", tmp_path / "b.json"
    with OutputFiles() as files:
        files.begin(first).write_text("1", encoding="utf-8")
        temporary = files.begin(second)
        assert temporary.name == "b.json"
        temporary.write_text("2", encoding="utf-8")
        assert not first.exists()
        assert not second.exists()
    assert (first.read_text(encoding="utf-8"), second.read_text(encoding="utf-8")) == ("1", "2")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.nii.gz", "b.json", "new"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_remains_of_what_was_interrupted(tmp_path, error):
    kept = tmp_path / "kept.json"
    kept.write_text("old", encoding="utf-8")
    with pytest.raises(error), OutputFiles() as files:
        files.begin(kept).write_text("new", encoding="utf-8")
        files.begin(tmp_path / "other.json")
        raise error
    assert kept.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [kept]


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UsageError, match="is a folder"):
        check_writable(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="file is not a folder") as caught:
        check_writable(tmp_path / "file" / "a.json")
    assert caught.value.remedy == "Name a folder, or a file in one."


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="everything is writable for root")
def test_an_unwritable_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="cannot be written to"):
        check_writable(tmp_path / "a.json")


def test_paths_of_the_same_content_are_told_from_others(tmp_path):
    for folder, voxels in (("one", b"12"), ("copy", b"12"), ("other", b"13")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "scan.mhd").write_text("ElementDataFile = scan.raw", encoding="utf-8")
        (tmp_path / folder / "scan.raw").write_bytes(voxels)
    one, copy, other = (tmp_path / name for name in ("one", "copy", "other"))
    for below in (".", "scan.mhd"):
        assert same_content(one / below, one / below) and same_content(one / below, copy / below)
        assert not same_content(one / below, other / below)
    (one / "link").symlink_to(other / "scan.raw")
    assert same_content(one / "link", other / "scan.raw")
    assert not same_content(one, copy)  # it has one file more now
    assert not same_content(one / "scan.mhd", one) and not same_content(one, one / "absent")


@pytest.fixture
def shut_out(monkeypatch):
    """As on Windows: folders of the mode 0o700, what is made in them, and what is moved from there.

    Python gives such folders an access that is not inherited; what is moved keeps its own.
    """
    shut, mkdir, replace = set(), os.mkdir, os.replace

    def made(path, mode=0o777, **options):
        mkdir(path, mode, **options)
        if mode == 0o700 or any(str(folder) in shut for folder in Path(path).parents):
            shut.add(str(path))

    def moved(source, target):
        replace(source, target)
        if any(str(folder) in shut for folder in (Path(source), *Path(source).parents)):
            shut.add(str(target))

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "mkdir", made)
    monkeypatch.setattr(os, "replace", moved)
    return shut


def test_others_may_read_on_windows_what_is_written_into_a_folder_of_theirs(tmp_path, tiny_model, shut_out):
    write_whole(tmp_path / "report.json", "{}")
    add_model(tiny_model, tmp_path / "models")
    assert not shut_out
    write_private(tmp_path / "tokens.json", "{}")
    assert str(tmp_path / "tokens.json") in shut_out


def held(monkeypatch, times: int) -> list[int]:
    """Another program holds what is moved, so often."""
    replace, tries = os.replace, []

    def refuse(source, target):
        tries.append(len(tries))
        if len(tries) <= times:
            raise PermissionError(errno.EACCES, "The process cannot access the file")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    return tries


def test_a_file_that_a_virus_scanner_looks_at_is_put_in_place_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert not held(monkeypatch, 3)
    write_whole(tmp_path / "a.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    monkeypatch.setattr(staging, "PATIENCE_S", 0.1)
    held(monkeypatch, 1000)
    with pytest.raises(OutputError, match="cannot access"):
        write_whole(tmp_path / "b.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_other_systems_say_at_once_what_may_not_be(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    tries = held(monkeypatch, 3)
    with pytest.raises(OutputError, match="cannot access"):
        write_whole(tmp_path / "a.json", "{}")
    assert len(tries) == 1


@pytest.mark.parametrize("name", ["a:b.json", "a.json.", "NUL"])
def test_names_of_which_windows_makes_something_else_are_refused_before_the_work(tmp_path, monkeypatch, name):
    """A colon leads to another stream of the file before it, dots at the end are dropped, some names are devices."""
    touch = Path.touch

    def touched(path, *arguments, **options):
        kept = path.name.partition(":")[0].rstrip(".")
        if kept != "NUL":
            touch(path.with_name(kept), *arguments, **options)

    monkeypatch.setattr(Path, "touch", touched)
    check_writable(tmp_path / "a-b.json")
    with pytest.raises(UsageError, match="cannot be the name of a file") as caught:
        check_writable(tmp_path / name)
    assert "another name" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_path_too_long_for_windows_is_refused_before_the_work(tmp_path, monkeypatch):
    """It tells then that there is no such folder."""
    monkeypatch.setattr(sys, "platform", "win32")
    touch = Path.touch

    def touched(path, *arguments, **options):
        if len(str(path)) > 259:
            raise FileNotFoundError(errno.ENOENT, "The system cannot find the path specified")
        touch(path, *arguments, **options)

    monkeypatch.setattr(Path, "touch", touched)
    folder = tmp_path / ("x" * (230 - len(str(tmp_path))))
    check_writable(folder / "a.nii")
    with pytest.raises(UsageError, match="its path is longer than Windows allows"):
        check_writable(folder / "a name of some more letters.nii")


def test_a_result_that_is_open_in_another_program_on_windows_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "PATIENCE_S", 0.0)

    def refuse(source, target):
        error = PermissionError(errno.EACCES, "Access is denied")
        error.winerror = 5
        raise error

    (tmp_path / "a.json").write_text("old", encoding="utf-8")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match="open in another program") as caught:
        write_whole(tmp_path / "a.json", "new")
    assert "Close it there" in caught.value.remedy
    with pytest.raises(OutputError, match="Access is denied"):
        write_whole(tmp_path / "b.json", "new")
    assert [(path.name, path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()] == [("a.json", "old")]

"""Which scans make up a cohort: folders, BIDS datasets, DICOM series and lists; and its parts."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_writer import Volume, write_series
from SESegmentationCohort import cases
from SESegmentationCohort.cases import Cohort, CohortCase, find_cohort, parse_shard, read_list
from SESegmentationCohort.records import Records
from SESegmentationLib.errors import InputError, UsageError
from SESegmentationLib.models import ModelPackage, find_model


@pytest.fixture(scope="session")
def package(tiny_model: Path) -> ModelPackage:
    return find_model(tiny_model)


def touched(*paths: Path) -> None:
    """Files that only their names tell of."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def found(source: Path, package: ModelPackage, out: Path | None = None) -> dict[str, Path]:
    return {case.name: case.source for case in find_cohort(source, package, out or source / "out").cases}


def test_a_folder_with_folders_in_it(tmp_path, package):
    names = ["a_0000.nii.gz", "siteA/a.nii.gz", "siteA/deep/b.mha", "siteB/a.nrrd", "siteB/c.nii", "siteB/c.mha"]
    others = ["siteA/a.json", "siteA/a.seg.nrrd", ".hidden/x.nii.gz", "siteA/.x.nii.gz", "out/a.nii.gz"]
    touched(*(tmp_path / name for name in names + others))
    (tmp_path / "linked").symlink_to(tmp_path / "siteA" / "deep")
    (tmp_path / "siteA" / "round").symlink_to(tmp_path)
    cases = found(tmp_path, package)
    assert set(cases) == {"a", "siteA/a", "linked/b", "siteB/a", "siteB/c_nii", "siteB/c_mha"}
    assert cases["siteA/a"] == tmp_path / "siteA" / "a.nii.gz"


def test_results_of_another_cohort_are_no_scans(tmp_path, package):
    touched(tmp_path / "a.nii.gz", tmp_path / "brain" / "a.nii.gz", tmp_path / "records" / "a.nii.gz")
    Records(tmp_path / "brain").fail("a", "a.nii.gz", "brain-mr", "", None, InputError("It is cut off.", ""), 1.0)
    cohort = find_cohort(tmp_path, package, tmp_path / "out")
    assert {case.name for case in cohort.cases} == {"a", "records/a"}
    assert cohort.skipped == [f"The folder {tmp_path / 'brain'} is skipped: it holds the results of a cohort."]


def test_the_name_of_a_scan_does_not_change_when_others_come(tmp_path, package):
    touched(tmp_path / "site1" / "scan.nii.gz")
    before = found(tmp_path, package)
    touched(tmp_path / "site2" / "scan.nii.gz", tmp_path / "scan.nii.gz")
    assert before.items() <= found(tmp_path, package).items()


def test_a_bids_dataset(tmp_path, package):
    anatomy = tmp_path / "sub-01" / "ses-2" / "anat"
    touched(
        anatomy / "sub-01_ses-2_T1w.nii.gz", anatomy / "sub-01_ses-2_FLAIR.nii.gz", tmp_path / "derivatives" / "x.nii"
    )
    assert list(found(tmp_path, package)) == ["sub-01/ses-2/anat/sub-01_ses-2_T1w"]


def test_dicom_series_and_what_is_wrong_with_them(tmp_path, package, sample_file):
    import SimpleITK as sitk

    volume = Volume.of(sitk.DICOMOrient(sitk.ReadImage(str(sample_file)), "LPS"))
    for number, modality in enumerate(("MR", "MR", "CT")):
        write_series(volume, tmp_path / "pacs" / f"{number}", modality=modality)
    touched(tmp_path / "pacs" / "lost" / "broken.dcm", tmp_path / "pacs" / "volume.nii.gz")
    cohort = find_cohort(tmp_path / "pacs", package, tmp_path / "out")
    series = [case for case in cohort.cases if case.series]
    assert len(series) == 2
    assert all(case.name == case.series and len(case.files) == len(volume.voxels) for case in series)
    assert len({case.content() for case in series}) == 2
    assert "it is CT, not MR" in cohort.skipped[0]
    faults = [case for case in cohort.cases if case.fault]
    assert [case.name for case in faults] == ["lost/broken"]
    assert "broken.dcm" in faults[0].fault[0]
    assert "volume" in {case.name for case in cohort.cases}


def test_lists(tmp_path, package):
    touched(tmp_path / "a.nii.gz", tmp_path / "site" / "b.nii.gz", tmp_path / "site" / "c.nii.gz")
    text = tmp_path / "list.txt"
    text.write_text("\ufeff# a remark\na.nii.gz\n\nsite\nmissing.nii.gz\na.nii.gz\n", encoding="utf-8")
    assert set(found(text, package, tmp_path / "out")) == {"a", "site/b", "site/c", "missing"}
    table = tmp_path / "list.tsv"
    table.write_text("age\timage\tname\n70\ta.nii.gz\tfirst\n71\tsite/b.nii.gz\t\n", encoding="utf-8")
    assert set(found(table, package, tmp_path / "out")) == {"first", "b"}
    table = tmp_path / "list.csv"
    table.write_text(f'path,age\r\n"{tmp_path / "a.nii.gz"}",70\r\n', encoding="utf-8")
    assert set(found(table, package, tmp_path / "out")) == {"a"}
    table.write_text("image;age;name;\nsite/b.nii.gz;70,5;x;\n;;;\na, b.nii;71;;\n", encoding="utf-8")
    assert found(table, package, tmp_path / "out") == {
        "x": tmp_path / "site" / "b.nii.gz",
        "a, b": tmp_path / "a, b.nii",
    }
    text.write_text("a\u2028b.nii\r\n", encoding="utf-8")
    assert set(found(text, package, tmp_path / "out")) == {"a\u2028b"}


def test_a_name_leads_to_no_other_drive_on_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "PurePath", PureWindowsPath)
    (tmp_path / "a.csv").write_text("path,name\nx.nii,C:x\n", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be the name of a result"):
        read_list(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.tsv", b"file\tage\nx\t1\n", "it has no column path or image"),
        ("a.txt", b"\xff\xfe\x00x", "it is not UTF-8 text"),
        ("a.csv", b"path,name\nx.nii,../../x\n", "cannot be the name of a result"),
        ("a.csv", b"path,name\nx.nii,/etc/x\n", "cannot be the name of a result"),
        ("a.csv", b"path,name\nx.nii,.\n", "cannot be the name of a result"),
        ("a.csv", b"path,name\nx.nii,a\0b\n", "cannot be the name of a result"),
        ("a.txt", b"x\0.nii\n", "is not a path"),
        ("a.csv", b"path,age\n/data/Doe, Jane/x.nii,70\n", "line 2 has more columns than the first line"),
        ("a.tsv", b"name\tpath\na\tx.nii\nb\t\n", "line 3 has nothing in the column path"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_list(tmp_path / name)


def test_what_is_refused(tmp_path, package):
    with pytest.raises(InputError, match="no file or folder"):
        find_cohort(tmp_path / "absent", package, tmp_path / "out")
    touched(tmp_path / "scans" / "notes.txt")
    with pytest.raises(InputError, match="no scan that tiny-t1 can segment"):
        find_cohort(tmp_path / "scans", package, tmp_path / "out")
    touched(tmp_path / "scans" / "a.nii.gz")
    for out in (tmp_path / "scans", tmp_path):
        with pytest.raises(UsageError, match="results would lie among them"):
            find_cohort(tmp_path / "scans", package, out)
    table = tmp_path / "list.tsv"
    for other in ("x", "./X", "X/.", "X//"):  # also where the two are in different parts of the cohort
        table.write_text(f"path\tname\na.nii\tX\nb.nii\t{other}\n", encoding="utf-8")
        with pytest.raises(UsageError, match=r"would both be written to"):
            find_cohort(table, package, tmp_path / "out")


@given(count=st.integers(0, 60), parts=st.integers(1, 80))
def test_parts_are_disjoint_and_together_all(count, parts):
    cohort = Cohort([CohortCase(f"{number:03}", Path(f"{number}")) for number in range(count)])
    shards = [cohort.shard(number, parts).cases for number in range(1, parts + 1)]
    assert sorted((case for shard in shards for case in shard), key=lambda case: case.name) == cohort.cases
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", "", "1/2/3", "٣/٣"])
def test_what_is_no_part(text):
    with pytest.raises(UsageError, match="does not name a part"):
        parse_shard(text)

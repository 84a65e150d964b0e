"""``sesegment refine``: corrected slices in, a better segmentation out, and nothing for wrong use."""

from __future__ import annotations

import csv
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from drawn_hippocampus import draw_sample
from SESegmentationLib.cli import main
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.models import ModelPackage, sha256_of
from SESegmentationLib.models.store import _PACKAGE
from SESegmentationLib.refine.adapted import AdaptedParameters
from SESegmentationLib.refine.recalibration import RecalibrationSettings
from SESegmentationTraining.mistakes import shifted


def refine(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``sesegment refine``."""
    capfd.readouterr()
    code = main(["refine", *map(str, arguments)])
    return code, *capfd.readouterr()


def array_in(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_a_result_on_the_models_grid_is_refined_there(tiny_model, sample_file, tmp_path, capfd):
    """Of thick slices the result lies on the grid of the model, not on that of the volume."""
    image = sitk.ReadImage(str(sample_file))
    thick = sitk.Resample(
        image,
        (image.GetSize()[0], image.GetSize()[1], image.GetSize()[2] // 3),
        sitk.Transform(3, sitk.sitkIdentity),
        sitk.sitkLinear,
        image.GetOrigin(),
        (*image.GetSpacing()[:2], 3 * image.GetSpacing()[2]),
        image.GetDirection(),
    )
    volume, labels, out = tmp_path / "thick.nii.gz", tmp_path / "labels.seg.nrrd", tmp_path / "out.seg.nrrd"
    sitk.WriteImage(thick, str(volume))
    assert main(["run", str(volume), "--model", str(tiny_model), "-o", str(labels), "--grid", "auto"]) == 0
    found = sitk.ReadImage(str(labels))
    assert found.GetSize()[2] > thick.GetSize()[2]
    code, _, err = refine(capfd, volume, "-m", tiny_model, "--corrected", labels, "--slices", "k:14,20", "-o", out)
    assert code == 0, err
    assert sitk.ReadImage(str(out)).GetSize() == found.GetSize()


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def result_file(tiny_model, sample_file, tmp_path_factory) -> Path:
    """What ``sesegment run`` made of the sample."""
    path = tmp_path_factory.mktemp("result") / "result.nii.gz"
    assert main(["run", str(sample_file), "--model", str(tiny_model), "-o", str(path)]) == 0
    return path


@pytest.fixture
def corrected(result_file, tmp_path) -> Path:
    """The result with the truth in the slices k:14 and k:20."""
    labels = sitk.ReadImage(str(result_file))
    array, truth = sitk.GetArrayFromImage(labels), sitk.GetArrayFromImage(draw_sample().labels)
    array[[14, 20]] = truth[[14, 20]]
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(labels)
    folder = tmp_path / "corrected"
    folder.mkdir()
    sitk.WriteImage(image, str(folder / "labels.nii.gz"))
    return folder / "labels.nii.gz"


@pytest.fixture
def out(tmp_path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_everything(capfd, tiny_model, sample_file, result_file, corrected, out, monkeypatch):
    """Slices as they were left, report, adapted parameters that can be used again."""
    monkeypatch.setattr(
        "SESegmentationLib.refine.recalibration.RecalibrationSettings", partial(RecalibrationSettings, steps=3)
    )
    monkeypatch.setattr("SESegmentationLib.refine.cross_validation.LEAST_GAIN", -1.0)
    model, given = sha256_of(tiny_model / "model.safetensors"), corrected.read_bytes()
    code, printed, err = refine(
        capfd, sample_file, "--model", tiny_model, "--corrected", corrected, "--slices", "k:14,20",
        "-o", out / "a.seg.nrrd", "--report", out / "r.json", "--recalibrate", "--adapted", out / "p.safetensors",
        "--device", "cpu",
    )  # fmt: skip
    assert code == 0, err
    assert files_in(out) == ["a.seg.nrrd", "p.safetensors", "r.json"]
    tags = sitk.ReadImage(str(out / "a.seg.nrrd")).GetMetaData("Segment0_Tags")
    assert "SegmentAlgorithmType:SEMIAUTOMATIC|" in tags and "Status:notstarted|" in tags
    assert "Corrected in the slices k:14,20" in printed
    before, left, after = array_in(result_file), array_in(corrected), array_in(out / "a.seg.nrrd")
    assert (after[[14, 20]] == left[[14, 20]]).all()
    elsewhere = np.delete(after, [14, 20], axis=0)
    assert (elsewhere != np.delete(before, [14, 20], axis=0)).any(), "nothing was learnt"
    assert sha256_of(tiny_model / "model.safetensors") == model
    assert corrected.read_bytes() == given

    report = json.loads((out / "r.json").read_text(encoding="utf-8"))
    assert report["refinement"]["slices"] == ["k:14,20"]
    assert report["refinement"]["corrected"] == str(corrected)
    assert report["refinement"]["batch_norms_adapted"] is False
    for structure in report["structures"]:
        had, has = before == structure["value"], after == structure["value"]
        changed = (had ^ has)[[14, 20]].sum()
        assert structure["voxels"] == has.sum()
        assert structure["gained_voxels"] == (has & ~had).sum()
        assert structure["lost_voxels"] == (had & ~has).sum()
        assert structure["corrected_voxels"] == changed > 0
        assert structure["corrected_share"] == pytest.approx(changed / has.sum(), abs=1e-4)

    package = ModelPackage.from_folder(tiny_model)
    adapted = AdaptedParameters.load(out / "p.safetensors")
    assert report["refinement"]["adapted_parameters"] == adapted.count > 0
    again = Engine(package, "cpu", adapted.networks(package)).segment(read_volume(sample_file)).labels
    assert (np.delete(sitk.GetArrayFromImage(again), [14, 20], axis=0) != np.delete(before, [14, 20], axis=0)).any()


def test_it_says_that_recalibration_showed_no_gain(capfd, tiny_model, sample_file, corrected, out, monkeypatch):
    no_gain = "SESegmentationLib.refine.refinement.recalibrate_cross_validated"
    monkeypatch.setattr(no_gain, lambda *arguments, **options: None)
    given = ("-m", tiny_model, "--corrected", corrected, "-o", out / "a.nii.gz", "--recalibrate", "--device", "cpu")
    code, _, err = refine(capfd, sample_file, *given, "--adapted", out / "p.safetensors")
    assert code == 0 and files_in(out) == ["a.nii.gz"]
    assert "not recalibrated" in err and f"{out / 'p.safetensors'} was not written" in err


def test_where_no_gain_is_expected_it_says_so(capfd, tiny_model, sample_file, result_file, out):
    """The model's own result, in which nothing was corrected: it comes back as it was."""
    code, printed, err = refine(
        capfd, sample_file, "-m", tiny_model, "--corrected", result_file, "--slices", "k:14", "-o", out / "a.nii.gz"
    )
    assert code == 0, err
    assert "Nothing else was changed, because" in printed
    assert (array_in(out / "a.nii.gz") == array_in(result_file)).all()


def test_a_scan_that_differs_from_those_of_the_training_is_adapted_to(capfd, shared_data, out, tmp_path, monkeypatch):
    """By hippocampus-t1, of a case that its training kept for validation; told in words and in the report."""
    monkeypatch.setenv("SESEGMENTATION_MODELS", str(_PACKAGE.parents[1] / "weights"))
    data = shared_data / "hippocampus"
    image = read_volume(data / "imagesTr" / "hippocampus_049_0000.nii.gz")
    truth = data / "labelsTr" / "hippocampus_049.nii.gz"
    told = {}
    adapted = {
        "batch_norms_adapted": "batch norms were adapted to it",
        "contrast_reversed": "bright and dark exchanged",
    }
    volumes = {
        "plain": image,
        "batch_norms_adapted": shifted(image, ("bias field", "thick slices"), 1),
        "contrast_reversed": shifted(image, ("other contrast",), 1),
    }
    for name, volume in volumes.items():
        path, report = tmp_path / f"{name}.nii.gz", out / f"{name}.json"
        sitk.WriteImage(volume, str(path))
        given = ("-m", "hippocampus-t1", "--corrected", truth, "--slices", "j:15,30", "--report", report)
        code, printed, err = refine(capfd, path, *given, "-o", out / f"{name}.seg.nrrd")
        assert code == 0, err
        said = " ".join(printed.split())
        told[name] = [key for key, words in adapted.items() if words in said]
        refinement = json.loads(report.read_text(encoding="utf-8"))["refinement"]
        assert [key for key in adapted if refinement[key]] == told[name]
    assert told == {"plain": [], **{key: [key] for key in adapted}}


def test_slices_are_found_where_none_is_named(capfd, tiny_model, sample_file, corrected, out):
    code, printed, err = refine(
        capfd, sample_file, "-m", tiny_model, "--corrected", corrected, "-o", out / "a.nii.gz", "--json"
    )
    assert code == 0, err
    assert json.loads(printed)["refinement"]["slices"] == ["k:14,20"]


def test_terms_that_are_not_free_must_be_accepted(capfd, tiny_model, sample_file, corrected, out, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "paid")
    card = json.loads((model / "model.json").read_text(encoding="utf-8"))
    card["licence"]["free"] = False
    (model / "model.json").write_text(json.dumps(card), encoding="utf-8")
    arguments = [sample_file, "-m", model, "--corrected", corrected, "-o", out / "a.nii.gz", "--device", "cpu"]
    code, _, err = refine(capfd, *arguments)
    assert code == 2
    assert "--accept-licence" in err
    assert files_in(out) == []
    assert refine(capfd, *arguments, "--accept-licence")[0] == 0


def test_several_axes_and_a_table(capfd, tiny_model, sample_file, corrected, out):
    code, _, err = refine(
        capfd, sample_file, "-m", tiny_model, "--corrected", corrected, "--slices", "k:14", "--slices", "i:9",
        "-o", out, "--report", out / "r.csv",
    )  # fmt: skip
    assert code == 0, err
    assert files_in(out) == ["r.csv", "sample.nii.gz"]
    left, after = array_in(corrected), array_in(out / "sample.nii.gz")
    assert (after[14] == left[14]).all()
    assert (after[:, :, 9] == left[:, :, 9]).all()
    with (out / "r.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["anterior hippocampus", "posterior hippocampus"]
    for row in rows:
        assert int(row["voxels"]) == (after == int(row["value"])).sum()
        assert float(row["corrected_share"]) > 0
        assert row["weights_sha256"] == sha256_of(tiny_model / "model.safetensors")


def test_a_segmentation_of_slicer_is_written_and_read(capfd, tiny_model, sample_file, corrected, out):
    """A .seg.nrrd that this program wrote can be corrected, and refined again."""
    arguments = ["-m", tiny_model, "--slices", "k:14,20"]
    code, _, err = refine(
        capfd, sample_file, *arguments, "--corrected", corrected, "-o", out / "a.seg.nrrd", "--low-memory"
    )
    assert code == 0, err
    code, _, err = refine(capfd, sample_file, *arguments, "--corrected", out / "a.seg.nrrd", "-o", out / "b.seg.nrrd")
    assert code == 0, err
    labels = sitk.ReadImage(str(out / "b.seg.nrrd"))
    assert labels.GetMetaData("Segment0_Name") or labels.GetMetaData("Segment1_Name")
    assert (sitk.GetArrayFromImage(labels)[[14, 20]] == array_in(corrected)[[14, 20]]).all()


def test_a_region_limits_it(capfd, tiny_model, sample_file, corrected, out):
    volume = sitk.ReadImage(str(sample_file))
    inside = np.zeros(volume.GetSize()[::-1], np.uint8)
    inside[10:24, 5:45, 5:30] = 1
    region = sitk.GetImageFromArray(inside)
    region.CopyInformation(volume)
    sitk.WriteImage(region, str(out / "roi.nii.gz"))
    code, _, err = refine(
        capfd, sample_file, "-m", tiny_model, "--corrected", corrected, "--slices", "k:14", "-o", out / "a.nii.gz",
        "--roi", out / "roi.nii.gz",
    )  # fmt: skip
    assert code == 0, err
    after = array_in(out / "a.nii.gz")
    assert not after[:10].any()
    assert not after[24:].any()
    assert (after[14] == array_in(corrected)[14]).all()


@pytest.mark.parametrize(
    ("slices", "says"),
    [
        ("k:36", "no slice k:36: along k the volume has 36 slices"),
        ("j:50", "no slice j:50"),
        ("x:3", "'x:3' does not name slices"),
        ("12", "'12' does not name slices"),
        ("k:", "'k:' does not name slices"),
    ],
)
def test_slices_that_there_are_not_are_refused(capfd, tiny_model, sample_file, corrected, out, slices, says):
    assert says in refused(capfd, 2, tiny_model, sample_file, corrected, out, "--slices", slices)


@pytest.mark.parametrize("kind", ["values", "size", "spacing", "origin", "unchanged", "text", "absent"])
def test_labels_that_cannot_be_used_are_refused(capfd, tiny_model, sample_file, result_file, corrected, out, kind):
    labels = sitk.ReadImage(str(corrected))
    says = "differ in size, spacing, origin or direction"
    slices = ["--slices", "k:14"]
    if kind == "values":
        labels, says = labels * 7, "values that the model does not have: 7"
    elif kind == "size":
        labels = labels[:, :, 1:]
    elif kind == "spacing":
        labels.SetSpacing((1, 1, 1.1))
    elif kind == "origin":
        labels.SetOrigin((0, 0, 5))
    elif kind == "unchanged":
        labels, says, slices = sitk.ReadImage(str(result_file)), "No slice is corrected", []
    sitk.WriteImage(labels, str(corrected))
    if kind == "text":
        corrected.write_text("no labels", encoding="utf-8")
        says = str(corrected)
    elif kind == "absent":
        corrected.unlink()
        says = str(corrected)
    assert says in refused(capfd, 2, tiny_model, sample_file, corrected, out, *slices)


def test_wrong_use_is_refused(capfd, tiny_model, sample_file, corrected, out):
    assert ".safetensors" in refused(
        capfd, 2, tiny_model, sample_file, corrected, out, "--recalibrate", "--adapted", out / "p.bin"
    )
    assert "--recalibrate" in refused(
        capfd, 2, tiny_model, sample_file, corrected, out, "--adapted", out / "p.safetensors"
    )
    assert "nothing" in refused(capfd, 3, "nothing", sample_file, corrected, out)
    given = corrected.read_bytes()
    for option in ("-o", "--report"):
        other = ["-o", out / "a.nii.gz"] if option != "-o" else []
        code, _, err = refine(capfd, sample_file, "-m", tiny_model, "--corrected", corrected, *other, option, corrected)
        assert code == 2, err
        assert "would be overwritten" in err
    assert corrected.read_bytes() == given
    code, _, err = refine(capfd, sample_file, "-m", tiny_model, "-o", out / "a.nii.gz")
    assert code == 2
    assert "--corrected" in err


def test_one_volume_at_a_time(capfd, tiny_model, sample_file, corrected, tmp_path, out):
    volumes = tmp_path / "volumes"
    volumes.mkdir()
    for name in ("a", "b"):
        (volumes / f"{name}_0000.nii.gz").write_bytes(sample_file.read_bytes())
    code, _, err = refine(capfd, volumes, "-m", tiny_model, "--corrected", corrected, "-o", out)
    assert code == 2
    assert "one is refined at a time" in err
    assert files_in(out) == []


def test_cancelling_leaves_nothing(capfd, tiny_model, sample_file, corrected, out, monkeypatch):
    from SESegmentationLib.refine import refinement

    def interrupt(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(refinement, "propagate", interrupt)
    code, _, err = refine(
        capfd,
        sample_file,
        "-m",
        tiny_model,
        "--corrected",
        corrected,
        "-o",
        out / "a.nii.gz",
        "--report",
        out / "r.json",
    )
    assert code == 1
    assert err.splitlines()[0] == "Cancelled."
    assert files_in(out) == []


def refused(capfd, code: int, model: object, volume: Path, corrected: Path, out: Path, *options: object) -> str:
    """Assert exit code, a line of cause and one of remedy, and that nothing is written; the two lines."""
    arguments = (volume, "--model", model, "--corrected", corrected, "-o", out / "new" / "a.nii.gz", *options)
    found, printed, err = refine(capfd, *arguments)
    assert (found, printed) == (code, ""), err
    assert len(err.splitlines()) == 2, err
    assert "Traceback" not in err
    assert [name for name in files_in(out) if name != "new"] == []
    return err


#: steps of refining in which memory may run out, each with how Python, ITK or PyTorch says so
STEPS = {
    "SESegmentationLib.inference.model_grid.on_grid_of": RuntimeError("itk::ERROR: std::bad_alloc"),
    "SESegmentationLib.refine.corrections.Corrections.in_slices": MemoryError(),
    "SESegmentationLib.refine.refinement.propagate": RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    "SESegmentationLib.refine.refinement._relabelled": RuntimeError("itk::ERROR: std::bad_alloc"),
    "SESegmentationLib.worker.process.pack_refinement": MemoryError(),
    "SESegmentationLib.cli.refine.write_result": RuntimeError("itk::ERROR: std::bad_alloc"),
}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.rpartition(".")[2])
def test_no_memory_at_any_step_is_exit_code_4(capfd, tiny_model, sample_file, corrected, out, monkeypatch, step):
    def fail(*_arguments: object, **_options: object) -> None:
        raise STEPS[step]

    nothing_carried = lambda learnt, card, seen, labels, *_: (labels, {})  # noqa: E731 (a quick substitute)
    monkeypatch.setattr("SESegmentationLib.refine.refinement.propagate", nothing_carried)
    monkeypatch.setattr(step, fail)
    code, printed, err = refine(
        capfd, sample_file, "-m", tiny_model, "--corrected", corrected, "--slices", "k:14", "-o", out / "a.nii.gz",
        "--report", out / "r.json",
    )  # fmt: skip
    cause, remedy = err.splitlines()
    assert (code, printed) == (4, "")
    assert "not enough memory" in cause and "close other programs" in remedy.lower()
    assert files_in(out) == []

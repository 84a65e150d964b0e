"""Parts of the panel that need no window: words, memory, records, the doctor's process."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from panel_clicks import wait
from panel_fakes import card_dict, make_result

from harness import application
from SESegmentationLib.geometry import Geometry, Slices
from SESegmentationLib.models import ModelCard
from SESegmentationLib.mrml import image_from_volume_node
from SESegmentationLib.panel import DoctorProcess, UserSettings
from SESegmentationLib.panel.computer import SettingsStore
from SESegmentationLib.panel.dependencies import explain_failure
from SESegmentationLib.panel.messages import (
    about,
    phase_name,
    progress_line,
    rough_duration,
    slice_names,
    structure_list,
)
from SESegmentationLib.panel.result_record import ResultRecord
from SESegmentationLib.result import Finding


class DictSettings(dict, SettingsStore):
    """Settings that last as long as the test; values come back as text, as from a file."""

    def value(self, key, default=None):
        return self.get(key, default)

    def setValue(self, key, value):
        self[key] = str(value)


@pytest.fixture
def card():
    weights = {"file": "model.safetensors", "sha256": "0" * 64}
    return ModelCard.from_dict(card_dict() | {"weights": weights})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "less than 1 s"), (1, "1 s"), (89.4, "89 s"), (91, "2 min"), (5399, "90 min"), (5400, "2 h")],
)
def test_durations(seconds, text):
    assert rough_duration(seconds) == text
    assert about(seconds) == (text if seconds < 1 else f"about {text}")


def test_phases_and_progress():
    assert phase_name("axial") == "Segmenting axial slices" and phase_name("axial 2") == "Segmenting axial slices (2)"
    assert phase_name("left hippocampus") == "Segmenting: left hippocampus"
    assert progress_line("load", None) == "Loading the model…"
    assert progress_line("locate", 12.3) == "Looking for the region… about 12 s left"


def test_sides_are_named_once():
    names = ["left hippocampus", "right hippocampus", "brain stem", "left kidney"]
    assert structure_list(names) == "hippocampus (left, right), brain stem, left kidney"


def test_slices_are_named_by_the_plane_that_is_nearest():
    slices = [Slices("i", (4,)), Slices("j", (2, 9)), Slices("k", (0,))]
    as_stored = Geometry((8, 8, 8), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    assert slice_names(slices, as_stored) == "sagittal 4; coronal 2, 9; axial 0"
    turn = np.reshape(sitk.VersorTransform((1, 2, 3), np.radians(25)).GetMatrix(), (3, 3))
    permuted = turn @ np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]])  # i to the back, j to the feet, k to the right
    oblique = replace(as_stored, direction=tuple(permuted.ravel()))
    assert slice_names(slices, oblique) == "coronal 4; axial 2, 9; sagittal 0"


def test_memory_keeps_speed_by_model_device_and_mode(card):
    settings = DictSettings()
    memory = UserSettings(settings)
    assert memory.expected_seconds("m", "cpu", False, 10) is None
    memory.remember_seconds("m", "cpu", False, 100, 5)
    assert UserSettings(settings).expected_seconds("m", "cpu", False, 200) == 10
    assert memory.expected_seconds("m", "cpu", True, 200) is None
    memory.remember_seconds("m", "cpu", True, 0, 5)
    assert memory.expected_seconds("m", "cpu", True, 200) is None
    settings["SESegmentation/SecondsPerMl/m/cpu/full"] = "spoilt"
    assert memory.expected_seconds("m", "cpu", False, 200) is None


def test_record_survives_saving_and_spoilt_ones_are_no_record(card):
    import numpy as np

    volume = slicer.util.addVolumeFromArray(np.zeros((12, 12, 12), np.int16))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert ResultRecord.read(node) is None and ResultRecord.read(None) is None
    result = make_result(image_from_volume_node(volume), card, [Finding("a", "b", "c")])
    record = ResultRecord.of_result(result, "head")
    record.write(node)
    assert ResultRecord.read(node) == record and not record.structures[1].found
    assert (record.seconds, record.device, record.model_version) == (2.0, "cpu", "1.0.0")
    text = node.GetAttribute("SESegmentation.Result")
    earlier = json.loads(text)  # as records were written that held no voxels and no slices
    earlier["structures"] = [
        {key: value for key, value in entry.items() if key not in ("voxels", "doubtful")}
        for entry in earlier["structures"]
    ]
    node.SetAttribute("SESegmentation.Result", json.dumps(earlier))
    labels = result.labels
    assert ResultRecord.read(node).labels == record.labels
    for measured in zip(ResultRecord.read(node).with_volumes(labels).structures, record.structures, strict=True):
        assert len({(s.voxels, s.volume_ml, s.confidence, s.doubtful_lps, s.found) for s in measured}) == 1
    for spoilt in ("{", "[]", "{}", json.dumps(json.loads(text) | {"newer": 1})):
        node.SetAttribute("SESegmentation.Result", spoilt)
        assert ResultRecord.read(node) is None
    node.RemoveAttribute("SESegmentation.Result")
    assert not ResultRecord.exists(node)


def test_the_last_line_of_pip_is_told_where_nothing_is_known():
    error = explain_failure("Collecting torch\n  ERROR: it rains.\n\n", ["torch>=2.2"])
    assert error.cause == "PyTorch could not be installed: ERROR: it rains."
    assert explain_failure("", ["torch"]).cause.endswith("no reason was given.")


def test_doctor_looks_at_the_workers_python():
    doctor = DoctorProcess()
    assert doctor.poll() is None
    doctor.start()
    doctor.start()  # the first one is dropped
    found = []
    wait(lambda: found.extend(doctor.poll() or []) or found)
    assert {"Python", "numpy", "SimpleITK", "torch", "memory", "disk"} <= {check.name for check in found}
    assert {check.status for check in found} <= {"ok", "warning", "error"}
    doctor.close()


def test_doctor_without_python_or_with_one_that_says_nothing(monkeypatch, tmp_path):
    from SESegmentationLib.panel import computer

    doctor = DoctorProcess()
    monkeypatch.setattr(computer, "find_python", lambda: str(tmp_path / "none"))
    doctor.start()
    assert "cannot be started" in doctor.poll()[0].finding
    silent = tmp_path / "python"
    silent.write_text(f"#!{sys.executable}\n", encoding="utf-8")
    silent.chmod(0o755)
    monkeypatch.setattr(computer, "find_python", lambda: str(silent))
    doctor.start()
    made = []
    assert application.wait_until(lambda: made.extend(doctor.poll() or ()) or made, 20)
    (check,) = made
    assert check.status == "error" and "exit code 0" in check.finding

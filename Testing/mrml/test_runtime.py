"""The stand-in itself: it is like the application where it must be, and notices faults."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Annotated, Optional

import numpy as np
import pytest
import slicer
import vtk
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper

from harness import packages, runtime
from harness.faults import faults


def add_volume(name="volume", shape=(4, 5, 6)):
    return slicer.util.addVolumeFromArray(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), name=name)


def test_slicer_has_no_names_that_the_application_lacks():
    assert not hasattr(slicer, "arrayFromVolume")
    assert hasattr(slicer.util, "arrayFromVolume")
    assert slicer.vtkMRMLScene is not None


def test_every_test_has_its_own_scene(scene):
    assert slicer.app.mrmlScene() is scene
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
    add_volume()


@pytest.mark.parametrize("again", range(2))
def test_scene_is_empty_again(scene, again):
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
    add_volume()


def test_new_nodes_appear_in_the_subject_hierarchy(scene):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    node = add_volume()
    item = hierarchy.GetItemByDataNode(node)
    assert item and hierarchy.GetItemParent(item) == hierarchy.GetSceneItemID()
    scene.RemoveNode(node)
    assert hierarchy.GetNumberOfItems() == 0


def test_volume_file_round_trip(tmp_path):
    node = add_volume()
    assert slicer.util.saveNode(node, str(tmp_path / "a.nrrd"))
    loaded = slicer.util.loadVolume(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(loaded), slicer.util.arrayFromVolume(node))


@pytest.mark.parametrize("name", ["scene.mrb", "scene.mrml"])
def test_scene_file_round_trip(scene, tmp_path, name):
    node = add_volume("kept")
    if name.endswith(".mrml"):  # a .mrml holds no data: each node has its own file
        slicer.util.saveNode(node, str(tmp_path / "kept.nrrd"))
    assert slicer.util.saveScene(str(tmp_path / name))
    scene.Clear(False)
    slicer.util.loadScene(str(tmp_path / name))
    assert slicer.util.getNode("kept").GetImageData().GetDimensions() == (6, 5, 4)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    assert hierarchy.GetItemByDataNode(slicer.util.getNode("kept"))


def test_vtk_errors_and_exceptions_in_observers_are_faults(scene):
    node = add_volume()
    node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: 1 / 0)
    node.Modified()
    assert "ZeroDivisionError" in "".join(faults.take())
    storage = scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName("/nowhere/a.nrrd")
    storage.ReadData(node)
    assert "/nowhere/a.nrrd" in "".join(faults.take())


class Side(enum.Enum):
    LEFT = 1
    RIGHT = 2


@parameterNodeWrapper
class Parameters:
    volume: slicer.vtkMRMLScalarVolumeNode
    output: Optional[slicer.vtkMRMLSegmentationNode]  # noqa: UP045 - both spellings are in use
    size: Annotated[float, WithinRange(0, 10)] = 2.5
    count: int
    device: Annotated[str, Choice(["auto", "cpu"])] = "auto"
    side: Side = Side.RIGHT
    folder: Path
    fast: bool = True


def make_parameters(scene):
    return Parameters(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))


def test_parameters_have_defaults(scene):
    parameters = make_parameters(scene)
    assert (parameters.volume, parameters.output, parameters.size, parameters.count) == (None, None, 2.5, 0)
    assert (parameters.device, parameters.side, parameters.folder, parameters.fast) == (
        "auto",
        Side.RIGHT,
        Path(),
        True,
    )


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("size", 11.0, ValueError),
        ("device", "tpu", ValueError),
        ("count", 1.5, TypeError),
        ("fast", "yes", TypeError),
        ("volume", "volume", TypeError),
    ],
)
def test_parameters_refuse_what_the_application_refuses(scene, name, value, error):
    with pytest.raises(error):
        setattr(make_parameters(scene), name, value)


def test_parameters_are_saved_with_the_scene(scene, tmp_path):
    parameters = make_parameters(scene)
    parameters.volume = add_volume("chosen")
    parameters.size, parameters.side, parameters.fast, parameters.folder = 4.0, Side.LEFT, False, Path("a/b")
    parameters.parameterNode.SetName("parameters")
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    scene.Clear(False)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    restored = Parameters(slicer.util.getNode("parameters"))
    assert restored.volume.GetName() == "chosen"
    assert (restored.size, restored.side, restored.fast, restored.folder) == (4.0, Side.LEFT, False, Path("a/b"))


def test_parameters_fall_back_to_defaults_after_the_scene_was_closed(scene):
    parameters = Parameters(slicer.vtkMRMLScriptedModuleNode())
    parameters.size = 3.0
    parameters.parameterNode.UnsetAllParameters()
    assert parameters.size == 2.5


def test_packages_can_be_missing_and_installing_can_fail(tmp_path):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# what is needed\nnumpy>=1.20\nsafetensors>=0.4\n", encoding="utf-8")
    entries = slicer.packaging.load_requirements(requirements)
    packages.environment.missing.add("safetensors")
    assert not slicer.packaging.pip_check(entries)
    packages.environment.failure = OSError("offline")
    with pytest.raises(OSError, match="offline"):
        slicer.packaging.pip_install("safetensors>=0.4")
    packages.environment.failure = None
    slicer.packaging.pip_install("safetensors>=0.4")
    assert slicer.packaging.pip_check(entries)
    assert packages.environment.commands == ["safetensors>=0.4", "safetensors>=0.4"]


def test_a_fresh_start_forgets_what_was_missing_and_what_failed():
    packages.environment.missing.add("safetensors")
    packages.environment.failure = OSError("offline")
    with pytest.raises(OSError, match="offline"):
        slicer.packaging.pip_install("safetensors>=0.4")
    runtime.start()
    assert slicer.packaging.pip_check("safetensors>=0.4") and packages.environment.commands == []
    slicer.packaging.pip_install("numpy")


def test_sample_data_from_a_file(tmp_path):
    import SampleData

    slicer.util.saveNode(add_volume(), str(tmp_path / "sample.nrrd"))
    checksum = f"SHA256:{slicer.util.computeChecksum('SHA256', str(tmp_path / 'sample.nrrd'))}"
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="Tests",
        sampleName="Small",
        uris=(tmp_path / "sample.nrrd").as_uri(),
        fileNames="sample.nrrd",
        nodeNames="Small",
        checksums=checksum,
    )
    node = SampleData.SampleDataLogic().downloadSample("Small")
    assert node.GetName() == "Small"
    assert json.dumps([source.sampleName for source in slicer.modules.sampleDataSources["Tests"]]) == '["Small"]'

"""Loading and saving files as ``slicer.util`` asks the application to do it, through MRML storage nodes."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import slicer
import vtk

#: file type: (node class, endings of file names), longest endings first
FILE_TYPES = {
    "SegmentationFile": ("vtkMRMLSegmentationNode", (".seg.nrrd", ".seg.nhdr")),
    "SceneFile": ("", (".mrml", ".mrb")),
    "VolumeFile": ("vtkMRMLScalarVolumeNode", (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd")),
    "SequenceFile": ("vtkMRMLSequenceNode", (".seq.nrrd",)),
    "ModelFile": ("vtkMRMLModelNode", (".vtk", ".vtp", ".stl", ".ply", ".obj")),
    "MarkupsFile": ("vtkMRMLMarkupsROINode", (".mrk.json",)),
    "TransformFile": ("vtkMRMLTransformNode", (".h5", ".tfm", ".txt")),
    "ColorTableFile": ("vtkMRMLColorTableNode", (".ctbl",)),
}
#: what a MRML storage node makes itself; the others read into a node that is there
_SCENE_KEYS = {".mrb", ".mrml"}


class CoreIOManager:
    """What ``slicer.app.coreIOManager()`` returns."""

    def __init__(self, scene: slicer.vtkMRMLScene) -> None:
        self._scene = scene

    def fileType(self, path: str) -> str:
        """The type of a file by its name, "NoFile" where it is unknown."""
        for file_type, (_, endings) in FILE_TYPES.items():
            if str(path).lower().endswith(endings):
                return file_type
        return "NoFile"

    def fileWriterFileType(self, node: slicer.vtkMRMLNode) -> str:
        """The type under which a node is saved."""
        for file_type, (node_class, _) in FILE_TYPES.items():
            if node_class and node.IsA(node_class):
                return file_type
        return "NoFile"

    def loadNodes(
        self,
        file_type: str,
        properties: dict[str, Any],
        loaded: vtk.vtkCollection | None = None,
        messages: slicer.vtkMRMLMessageCollection | None = None,
    ) -> bool:
        """Load a file; the node is put into ``loaded``, what went wrong into ``messages``."""
        path = properties["fileName"]
        if file_type not in FILE_TYPES:
            return False
        if file_type == "SceneFile":
            return self._load_scene(path, bool(properties.get("clear")))
        if file_type == "VolumeFile":
            options = 1 if properties.get("labelmap") else 0
            name = properties.get("name") or base_name(path)  # made unique by the logic
            node = slicer.modules.volumes.logic().AddArchetypeVolume(path, name, options)
        else:
            node = self._read(FILE_TYPES[file_type][0], path, properties.get("name") or base_name(path), messages)
        if node is not None and loaded is not None:
            loaded.AddItem(node)
        return node is not None

    def saveNodes(
        self, file_type: str, properties: dict[str, Any], messages: slicer.vtkMRMLMessageCollection | None = None
    ) -> bool:
        """Save the node ``properties["nodeID"]``, or the scene, as the file ``properties["fileName"]``."""
        path = str(properties["fileName"])
        if file_type == "SceneFile":
            return self._save_scene(path)
        node = self._scene.GetNodeByID(properties["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode(path)
        storage = node.GetStorageNode()
        storage.SetFileName(path)
        storage.SetUseCompression(int(properties.get("useCompression", 1)))
        written = bool(storage.WriteData(node))
        if messages is not None:
            messages.AddMessages(storage.GetUserMessages())
        return written

    def _read(
        self, node_class: str, path: str, name: str, messages: slicer.vtkMRMLMessageCollection | None
    ) -> slicer.vtkMRMLNode | None:
        node = self._scene.AddNewNodeByClass(node_class, self._scene.GenerateUniqueName(name))
        node.AddDefaultStorageNode(path)
        if not node.GetStorageNode().ReadData(node):
            if messages is not None:
                messages.AddMessages(node.GetStorageNode().GetUserMessages())
            self._scene.RemoveNode(node)
            return None
        if hasattr(node, "CreateDefaultDisplayNodes"):
            node.CreateDefaultDisplayNodes()
        return node

    def _load_scene(self, path: str, clear: bool) -> bool:
        if not path.endswith(".mrb"):
            self._scene.SetURL(path)
            return bool(self._scene.Connect() if clear else self._scene.Import())
        logic = slicer.app.applicationLogic()
        logic.SetTemporaryPath(tempfile.mkdtemp(prefix="scene-", dir=slicer.app.temporaryPath))
        return bool(logic.OpenSlicerDataBundle(path, tempfile.mkdtemp(prefix="scene-", dir=slicer.app.temporaryPath)))

    def _save_scene(self, path: str) -> bool:
        if path.endswith(".mrml"):
            self._scene.SetRootDirectory(os.path.dirname(path))
            return bool(self._scene.Commit(path))
        if path.endswith(".mrb"):
            return bool(self._scene.WriteToMRB(path))
        return bool(slicer.app.applicationLogic().SaveSceneToSlicerDataBundleDirectory(path))


def base_name(path: str) -> str:
    """The file's name without folder and ending, as nodes are named after it."""
    name = os.path.basename(str(path))
    for _, endings in FILE_TYPES.values():
        for ending in sorted(endings, key=len, reverse=True):
            if name.lower().endswith(ending):
                return name[: -len(ending)]
    return name

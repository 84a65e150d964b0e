"""Fixtures of the tests on real MRML: a fresh scene for each, and no fault that goes unseen."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import vtk

sys.path.insert(0, str(Path(__file__).parents[1]))
slicer = pytest.importorskip("slicer", reason="needs slicer-core (extra 'test')")

from harness import runtime, services  # noqa: E402
from harness.faults import faults  # noqa: E402

services.publish()  # test modules import them at file scope


@pytest.fixture(autouse=True)
def scene() -> Iterator[slicer.vtkMRMLScene]:
    """A fresh scene; the test fails on any VTK error and on any exception in an observer."""
    runtime.start()
    faults.take()
    yield slicer.mrmlScene
    runtime.stop()
    found = faults.take()
    assert not found, "\n".join(found)


@pytest.fixture(scope="session")
def make_volume() -> Callable[..., slicer.vtkMRMLScalarVolumeNode]:
    """Function that puts a volume into the scene.

    Voxels (k, j, i), or their number along (i, j, k); spacing in mm; origin in RAS; axes as columns in RAS; name.
    """

    def make(
        voxels: np.ndarray | None = None,
        size: Sequence[int] = (7, 6, 5),
        spacing: Sequence[float] = (1.0, 1.5, 2.0),
        origin: Sequence[float] = (-3.0, 4.0, 5.0),
        directions: np.ndarray | None = None,
        name: str = "volume",
    ) -> slicer.vtkMRMLScalarVolumeNode:
        if voxels is None:
            voxels = np.arange(np.prod(size), dtype=np.int16).reshape(size[::-1])
        node = slicer.util.addVolumeFromArray(voxels, name=name)
        node.SetSpacing(*map(float, spacing))
        node.SetOrigin(*map(float, origin))
        node.SetIJKToRASDirections(*np.ravel(np.eye(3) if directions is None else directions).tolist())
        return node

    return make


@pytest.fixture(scope="session")
def make_transform() -> Callable[..., slicer.vtkMRMLLinearTransformNode]:
    """Function that puts a linear transform (4 x 4, to its parent) into the scene, and nodes under it."""

    def make(matrix: np.ndarray, *nodes: slicer.vtkMRMLTransformableNode) -> slicer.vtkMRMLLinearTransformNode:
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "transform")
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.asarray(matrix, float)))
        for node in nodes:
            node.SetAndObserveTransformNodeID(transform.GetID())
        return transform

    return make


@pytest.fixture(scope="session")
def bend() -> Callable[..., slicer.vtkMRMLBSplineTransformNode]:
    """Function that puts nodes under a transform that bends space."""

    def make(*nodes: slicer.vtkMRMLTransformableNode) -> slicer.vtkMRMLTransformNode:
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "warp")
        points, moved = vtk.vtkPoints(), vtk.vtkPoints()
        for corner in ((0, 0, 0), (30, 0, 0), (0, 30, 0), (0, 0, 30), (30, 30, 30)):
            points.InsertNextPoint(corner)
            moved.InsertNextPoint(corner[0] + 3.0 * (sum(corner) == 90), corner[1], corner[2])
        spline = vtk.vtkThinPlateSplineTransform()
        spline.SetSourceLandmarks(points)
        spline.SetTargetLandmarks(moved)
        spline.SetBasisToR()
        transform.SetAndObserveTransformToParent(spline)
        for node in nodes:
            node.SetAndObserveTransformNodeID(transform.GetID())
        return transform

    return make

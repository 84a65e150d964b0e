"""Fixtures for tests of the panel: a freshly started stand-in for each, and no fault that goes unseen.

A test file elsewhere that imports them (``app`` among them) has the stand-in for its tests as well.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TESTING = Path(__file__).parents[1]
sys.path[:0] = [str(TESTING), str(Path(__file__).parent)]
slicer = pytest.importorskip("slicer", reason="needs slicer-core (extra 'test')")
pytest.importorskip("PySide6", reason="needs PySide6-Essentials (extra 'test')")

from PySide6 import QtCore  # noqa: E402

from harness import application  # noqa: E402
from harness import dialogs as harness_dialogs  # noqa: E402
from harness.faults import faults  # noqa: E402

application.start()  # test modules import qt, ctk and the widget classes of slicer at file scope

import panel_clicks as clicks  # noqa: E402
import panel_fakes as fakes  # noqa: E402
from panel_fakes import MODULE, ROOT  # noqa: E402

#: makes a whole model with random weights; in a process of its own, because torch stays out of this one
_MAKE_MODEL = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from SESegmentationLib.models import write_package
from SESegmentationLib.networks import build_network
from conftest import make_card
card, folder = make_card(), Path(sys.argv[1])
torch.manual_seed(3)
networks = {name: build_network(network) for name, network in card["networks"].items()}
tensors = {f"{name}.{key}": value.contiguous() for name, n in networks.items() for key, value in n.state_dict().items()}
save_file(tensors, folder / "tensors")
write_package(folder / card["name"], card, folder / "tensors")
"""


def _library() -> dict[str, Any]:
    """The loaded modules of all packages of the extension."""
    packages = {path.parent.name for path in (ROOT / "SESegmentation").glob("*/__init__.py")}
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in packages}


@pytest.fixture(autouse=True)
def app() -> Iterator[Any]:
    """``slicer.app``, freshly started; the test fails on an exception in a slot or observer, and on a VTK error."""
    app = application.start()
    faults.take()
    library = _library()
    yield app
    application.stop()
    for name in _library():  # a reloaded module has reloaded it, while tests and fakes hold the first one
        del sys.modules[name]
    sys.modules.update(library)
    unused = harness_dialogs.dialogs.reset()
    found = faults.take()
    assert not found, "\n".join(found)
    assert not unused, f"no dialog asked for the answers {unused}"


@pytest.fixture
def dialogs() -> harness_dialogs.Dialogs:
    """The dialogs shown so far, and the answers to the next."""
    return harness_dialogs.dialogs


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder with models that the panel sees, with one whose weights are no weights."""
    from SESegmentationLib.models import store

    folder = tmp_path / "models"
    monkeypatch.setattr(store, "search_path", lambda: [folder])
    fakes.make_package(folder)
    return folder


@pytest.fixture
def segmenter() -> fakes.FakeSegmenter:
    """What stands behind the panel in ``widget``."""
    return fakes.FakeSegmenter()


@pytest.fixture
def doctor() -> fakes.FakeDoctor:
    """The checks of ``widget``."""
    return fakes.FakeDoctor()


@pytest.fixture
def widget(
    models: Path,
    segmenter: fakes.FakeSegmenter,
    doctor: fakes.FakeDoctor,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Any:
    """The opened module, with fakes for what segments and what checks the computer.

    Jobs are made when they are read from the scene, so that a busy computer changes no test's course.
    """
    import SESegmentationLib.panel

    application.load_module(MODULE)
    from SESegmentationLib.panel import run_control

    if "slow_copy" not in request.fixturenames:
        monkeypatch.setattr(run_control, "_in_thread", fakes.made_at_once)
    logic = sys.modules["SESegmentation"].SESegmentationLogic
    monkeypatch.setattr(logic, "createSegmenter", lambda self: segmenter)
    monkeypatch.setattr(SESegmentationLib.panel, "DoctorProcess", lambda: doctor)
    return application.open_module("SESegmentation")


@pytest.fixture
def make_volume() -> Callable[..., slicer.vtkMRMLScalarVolumeNode]:
    """Function that puts a volume into the scene: voxels along (i, j, k), name."""

    def make(size: tuple[int, int, int] = (20, 18, 16), name: str = "head") -> slicer.vtkMRMLScalarVolumeNode:
        voxels = np.random.default_rng(0).normal(100, 20, size[::-1]).astype(np.int16)
        node = slicer.util.addVolumeFromArray(voxels, name=name)
        application.process_events()
        return node

    return make


@pytest.fixture
def choices(widget: Any) -> Any:
    """The choices of the present scene."""
    return widget.logic.getParameterNode()


@pytest.fixture
def move() -> Callable[..., None]:
    """Puts nodes under a new transform that shifts to the right, in mm."""
    return lambda millimetres, *nodes: clicks.transform_under({(0, 3): millimetres}, *nodes)


@pytest.fixture
def segment(
    widget: Any, segmenter: fakes.FakeSegmenter, make_volume: Callable[..., Any]
) -> Callable[..., slicer.vtkMRMLSegmentationNode]:
    """Function that segments a volume by a click and returns the node that is shown.

    Findings and the corner of the blocks are those of :func:`panel_fakes.make_result`; ``change`` alters structures.
    """

    def run(volume: Any = None, findings: Any = (), corner: int = 2, **change: Any) -> Any:
        choices = widget.logic.getParameterNode()  # anew: the scene may have been loaded again
        choices.inputVolume = volume or choices.inputVolume or make_volume()
        clicks.click(widget.ui.segmentButton)
        result = fakes.make_result(segmenter.jobs[-1].image, widget.panel.models.card, findings, corner)
        structures = [replace(structure, **change) for structure in result.structures]
        segmenter.succeed(replace(result, structures=structures))
        clicks.wait(lambda: not widget.panel.run.running)
        return choices.resultSegmentation

    return run


@pytest.fixture
def recalibrate(widget: Any, segmenter: fakes.FakeSegmenter) -> Callable[[int], None]:
    """Function that recalibrates by a click and brings about a proposal."""

    def run(grow: int = 1) -> None:
        clicks.click(widget.ui.recalibrateButton)
        assert widget.panel.run.running, widget.panel.messages.shown
        segmenter.succeed_refinement(fakes.make_refined(segmenter.jobs[-1], widget.panel.models.card, grow))
        clicks.wait(lambda: not widget.panel.run.running)

    return run


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a whole model package with random weights."""
    folder = tmp_path_factory.mktemp("models")
    paths = [str(ROOT / "SESegmentation"), str(TESTING / "unit")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run([sys.executable, "-c", _MAKE_MODEL, str(folder)], env=environment, check=True, timeout=120)
    return folder / "tiny-t1"


@pytest.fixture(scope="session")
def real_model(random_model: Path) -> Path:
    """Folder of the trained model; of one with random weights where it is absent."""
    trained = ROOT / "weights" / "hippocampus-t1"
    return trained if (trained / "model.safetensors").is_file() else random_model


@pytest.fixture
def open_story(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Any]:
    """Function that opens the module with the only model in a folder, and a real worker behind it."""
    from panel_story import Story

    from SESegmentationLib.client.local import LocalSegmenter

    def open_it(model: Path) -> Story:
        from SESegmentationLib.models import store

        monkeypatch.setattr(store, "search_path", lambda: [model.parent])
        segmenters = []

        def create(self: Any) -> LocalSegmenter:
            segmenters.append(LocalSegmenter())
            return segmenters[-1]

        application.load_module(MODULE)
        monkeypatch.setattr(sys.modules["SESegmentation"].SESegmentationLogic, "createSegmenter", create)
        story = Story(application.open_module("SESegmentation"), segmenters)
        story.choices.model = model.name
        return story

    return open_it


@pytest.fixture
def locked_events() -> Callable[[], None]:
    """A step of an event loop that keeps Python's lock while it waits, as Slicer's does: no other thread runs in it."""
    library = next(Path(QtCore.__file__).parent.glob("Qt/lib/libQt6Core.so*"), None)
    if library is None:
        pytest.skip("only Linux has this library of Qt")
    name = "_ZN16QCoreApplication13processEventsE6QFlagsIN10QEventLoop17ProcessEventsFlagEEi"
    process_events = getattr(ctypes.PyDLL(str(library)), name)
    return lambda: process_events(4, 20)  # waits for more events, 20 ms at most

"""What the panel refers to is right after scenes were closed, imported, imported on top, and deletions undone.

The parameter node wrapper is the stand-in's, written after the behaviour of Slicer's ``wrapper.py``: it keeps node
references and reads them again only when the parameter node says that it was modified, which it does in the middle of
an import, before the nodes that it refers to are there. MRML is the real one.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

TESTING = Path(__file__).parents[1]
sys.path[:0] = [str(TESTING), str(TESTING / "panel")]
slicer = pytest.importorskip("slicer", reason="needs slicer-core (extra 'test')")

from panel_clicks import click, wait  # noqa: E402
from panel_fakes import make_result  # noqa: E402
from panel_fixtures import *  # noqa: E402, F403

from harness import application  # noqa: E402

REFERENCES = ("inputVolume", "outputSegmentation", "resultSegmentation")


def save_scene(path):
    assert slicer.util.saveScene(str(path))
    return str(path)


def names(choices):
    nodes = [getattr(choices, name) for name in REFERENCES]
    return [node.GetName() if node is not None else None for node in nodes]


@pytest.fixture
def saved(segment, choices, make_volume, tmp_path):
    """Files of two scenes, each of two volumes; the second one is chosen, and its result is the output as well."""
    paths = []
    for scene in ("first", "second"):
        slicer.mrmlScene.Clear(False)
        application.process_events()
        make_volume(name=f"{scene}: another")
        choices.outputSegmentation = segment(make_volume(name=f"{scene}: head"))
        paths.append(save_scene(tmp_path / f"{scene}.mrb"))
    slicer.mrmlScene.Clear(False)
    return paths


def expected(scene):
    return [f"{scene}: head", f"{scene}: head tiny-t1", f"{scene}: head tiny-t1"]


def segment_again(widget, segmenter):
    """Segment, and see that the result goes where it did before."""
    before = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    click(widget.ui.segmentButton)
    segmenter.succeed(make_result(segmenter.jobs[-1].image, widget.panel.models.card))
    wait(lambda: not widget.panel.run.running)
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == before


@pytest.mark.parametrize("opened", [[0], [0, 1], [1, 0]])
def test_scenes_that_are_opened_one_after_the_other(widget, segmenter, saved, opened):
    for number in opened:  # at once, before the panel had a turn
        slicer.util.loadScene(saved[number])
    application.process_events()
    assert names(widget.panel._choices) == expected(("first", "second")[opened[-1]])
    assert widget.ui.volumeSelector.currentNode() is widget.panel._choices.inputVolume
    assert widget.ui.structureTable.rowCount == 2
    segment_again(widget, segmenter)


def test_a_scene_that_is_added_to_another(widget, segmenter, saved):
    slicer.util.loadScene(saved[0])
    application.process_events()
    slicer.mrmlScene.SetURL(unpacked(saved[1]))
    slicer.mrmlScene.Import()  # its nodes get other IDs, because theirs are taken
    application.process_events()
    assert names(widget.panel._choices) == expected("second")
    segment_again(widget, segmenter)


def unpacked(bundle):
    """The scene's own file in a bundle."""
    folder = Path(bundle).with_suffix("")
    zipfile.ZipFile(bundle).extractall(folder)
    return str(next(folder.rglob("*.mrml")))


@pytest.mark.parametrize("state", ["ImportState", "RestoreState"])
def test_nothing_is_read_while_the_scene_is_being_read(widget, choices, segmenter, make_volume, state, monkeypatch):
    make_volume()
    click(widget.ui.segmentButton)
    segmenter.progress("axial", 0.5)
    scene = slicer.mrmlScene
    shown = widget.ui.progressBar.value
    scene.StartState(getattr(scene, state))
    assert widget.panel._choices is None and widget._parameterNode is None
    read = []
    monkeypatch.setattr(type(choices), "getValue", lambda wrapper, name: read.append(name))
    # what users and Qt do meanwhile, where a progress dialog lets events through
    widget.enter()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    widget.logic.getParameterNode().parameterNode.Modified()
    widget.panel.on_entered()
    segmenter.succeed(make_result(segmenter.jobs[-1].image, widget.panel.models.card))
    application.wait_until(lambda: False, 0.2)
    widget.ui.segmentButton.click()
    assert read == [] and widget.panel._choices is None
    assert widget.ui.progressBar.value == shown and widget.panel.messages.shown == []
    monkeypatch.undo()
    scene.EndState(getattr(scene, state))
    wait(lambda: not widget.panel.run.running)  # the result has waited
    assert names(choices)[0] == "head" and choices.resultSegmentation.GetName() == "head tiny-t1"
    assert widget.panel.messages.shown == [] and node is not choices.resultSegmentation


def test_the_panel_stays_as_it_is_while_a_scene_is_added(widget, segment, make_volume):
    segment(make_volume())
    widget.ui.structureTable.setCurrentCell(0, 0)
    chosen = widget.panel.result.review.current
    scene = slicer.mrmlScene
    scene.StartState(scene.ImportState)
    scene.EndState(scene.ImportState)
    application.process_events()
    assert chosen is not None and widget.panel.result.review.current == chosen


@pytest.mark.parametrize("removed", ["inputVolume", "outputSegmentation"])
def test_deletions_that_are_undone(widget, choices, segmenter, segment, make_volume, removed):
    other = make_volume(name="other")
    choices.outputSegmentation = segment(make_volume())
    scene = slicer.mrmlScene
    node = getattr(choices, removed)
    node.SetUndoEnabled(True)
    scene.SetUndoOn()
    scene.SaveStateForUndo()
    scene.RemoveNode(node)
    application.process_events()
    assert getattr(widget.panel._choices, removed) is (other if removed == "inputVolume" else None)
    scene.Undo()
    application.process_events()
    node = scene.GetFirstNodeByName("head" if removed == "inputVolume" else "head tiny-t1")
    assert node is not None and names(widget.panel._choices) == names(widget.logic.getParameterNode())
    assert getattr(widget.panel._choices, removed) is not node  # MRML forgets references to what is removed
    selector = {"inputVolume": widget.ui.volumeSelector, "outputSegmentation": widget.ui.outputSelector}[removed]
    selector.setCurrentNode(node)
    assert getattr(widget.panel._choices, removed) is node
    click(widget.ui.segmentButton)
    segmenter.succeed(make_result(segmenter.jobs[-1].image, widget.panel.models.card))
    wait(lambda: not widget.panel.run.running)
    assert widget.panel.messages.shown == []


def test_one_wrapper_serves_a_parameter_node(widget):
    """Slicer's wrapper goes on observing its node: one made at every visit of the module would slow it down."""
    shown = widget._parameterNode
    for _ in range(3):
        widget.parent.exit()
        widget.parent.enter()
    assert widget._parameterNode is shown

"""Scenes come from anyone: what they keep of this module is used whole and within bounds, or told once and left out."""

from __future__ import annotations

import base64
import json
import struct
import sys
import tracemalloc
import zlib
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TESTING = Path(__file__).parents[1]
sys.path[:0] = [str(TESTING), str(TESTING / "panel")]
slicer = pytest.importorskip("slicer", reason="needs slicer-core (extra 'test')")

from panel_clicks import click, draw  # noqa: E402
from panel_fakes import MODULE  # noqa: E402
from panel_fixtures import *  # noqa: E402, F403

from harness import application  # noqa: E402
from harness.faults import faults  # noqa: E402
from SESegmentationLib.adapted_notes import AdaptedNotes  # noqa: E402
from SESegmentationLib.errors import InputError, SegmentationError  # noqa: E402
from SESegmentationLib.mrml import EditRecord, adapted_parameters, check_output_grid, find_corrected_slices  # noqa: E402
from SESegmentationLib.panel.reports import scene_report  # noqa: E402
from SESegmentationLib.panel.result_record import RECORD_ATTRIBUTE, ResultRecord  # noqa: E402

OWN, CORRECTED = "SESegmentation.Own", "SESegmentation.Corrected"
#: each example goes through the whole panel
EXAMPLES = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
HOSTILE = st.one_of(
    st.sampled_from(
        [None, True, -1, 0, 0.5, 2**40, 10**400, 1e308, float("nan"), float("inf"), "", "x" * 5000, "\x1b[2J", "\x00"]
    ),
    st.sampled_from(["../../..", "<img src='file://host/share'>", [], {}, [[]], [1, 2], [None] * 3, ["a"] * 9]),
    st.text(max_size=12),
    st.lists(st.integers() | st.floats() | st.text(max_size=3), max_size=4),
)


def paths(value, path=()):
    """The places in a JSON value."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from paths(child, (*path, key))


@st.composite
def mutated(draw, value):
    """A JSON value of which up to three places are other than they should be, removed, or there a second time."""
    value = deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        places = list(paths(value))[1:]
        if not places:
            break
        *parents, key = draw(st.sampled_from(places))
        parent = value
        for step in parents:
            parent = parent[step]
        action = draw(st.sampled_from(["replace", "replace", "remove", "more"]))
        if action == "replace":
            parent[key] = draw(HOSTILE)
        elif action == "remove":
            del parent[key]
        elif isinstance(parent, dict):
            parent[draw(st.text(max_size=5))] = draw(HOSTILE)
        else:
            parent += [parent[key]] * draw(st.sampled_from([1, 3, 2000]))
    return value


def use(widget, node):
    """All that a user does with the segmentation on show; nothing may fail but in words."""
    panel = widget.panel
    for row in range(min(widget.ui.structureTable.rowCount, 3)):
        widget.ui.structureTable.setCurrentCell(row, 0)
    panel.on_entered()
    widget.ui.adaptedCheckBox.click()
    for button in (widget.ui.recalibrateButton, widget.ui.attentionCheckBox, widget.ui.correctButton):
        button.click()
        panel.run.abandon()
        panel._pending = None
    for ask in (
        scene_report,
        find_corrected_slices,
        lambda node: check_output_grid(node, widget.panel._choices.inputVolume, (1, 1, 1)),
    ):
        try:
            ask(node)
        except SegmentationError as error:
            assert error.cause and error.remedy
    assert not [message.text for message in panel.messages.shown if "Unexpected" in message.text]
    assert faults.take() == []


@pytest.fixture
def corrected(widget, segment, choices):
    """A result with a corrected slice, segmented again."""
    choices.outputSegmentation = node = segment()
    draw(node, k=10)
    segment(corner=4)
    draw(node, k=11)
    assert [str(entry) for entry in find_corrected_slices(node)] == ["k:10,11"]
    return node


def test_hostile_records(widget, corrected):
    valid = json.loads(corrected.GetAttribute(RECORD_ATTRIBUTE))

    @EXAMPLES
    @given(record=mutated(valid))
    def check(record):
        corrected.SetAttribute(RECORD_ATTRIBUTE, json.dumps(record))
        use(widget, corrected)
        read = ResultRecord.read(corrected)
        if read is not None:
            assert ResultRecord.read(corrected) == read and len(json.dumps(record)) < 2**20

    check()


def test_hostile_notes_of_edits(widget, corrected):
    valid = json.loads(corrected.GetAttribute(OWN))

    @EXAMPLES
    @given(own=mutated(valid), slices=st.sampled_from(["k:10", "", "k:10,9999999", "q:1", "k:" + "1," * 40000, "\x00"]))
    def check(own, slices):
        corrected.SetAttribute(OWN, json.dumps(own))
        corrected.SetAttribute(CORRECTED, slices)
        use(widget, corrected)

    check()
    corrected.SetAttribute(OWN, json.dumps(valid))
    corrected.SetAttribute(CORRECTED, "k:9999")
    with pytest.raises(InputError, match="cannot be used"):  # corrections might be lost
        check_output_grid(corrected, widget.panel._choices.inputVolume, (1, 1, 1))


@EXAMPLES
@given(data=st.data())
def test_hostile_networks(data):
    size = 28
    entry = {"dtype": "F32", "shape": [7], "data_offsets": [0, size]}
    notes = {"format": "sesegmentation-adapted-1", "weights_sha256": "a" * 64, "more": "text"}
    header = json.dumps(data.draw(mutated({"__metadata__": notes, "axial.classifier.bias": entry}))).encode()
    length = data.draw(st.sampled_from([len(header)] * 4 + [0, 2**63, len(header) - 1, len(header) + 28]))
    read = AdaptedNotes.read(struct.pack("<Q", length) + header + bytes(size))
    assert read is None or (len(read.weights_sha256) == 64 and read.count == 7)


def bomb(size, declared):
    """An entry of the notes of edits, of few characters, whose voxels would fill ``size`` bytes."""
    code = {"value": "1", "scheme": "SCT", "meaning": "x"}
    label = {"value": 1, "name": "x", "category": code, "type": code, "color": [1, 2, 3]}
    values = base64.b64encode(zlib.compress(bytes(size))).decode()
    return {
        "structures": [label], "size": declared, "spacing": [1, 1, 1], "origin": [0, 0, 0],
        "direction": [1, 0, 0, 0, 1, 0, 0, 0, 1], "type": "|u1", "values": values,
    }  # fmt: skip


@pytest.mark.parametrize("notes", [
    "[" * 100_000, "9" * 10_000, '[{"a":' * 50_000, "[" + "1," * 100_000 + "1]",
    json.dumps([bomb(2**28, [10, 10, 10])]), json.dumps([bomb(2**28, [2**10, 2**9, 2**9])]),
    json.dumps([bomb(2**24, [2**8] * 3)] * 10), json.dumps([bomb(10**6, [8192] * 3)]),
    json.dumps([bomb(1000, [10] * 3) | {"direction": [0] * 9}]),
])  # fmt: skip
def test_little_text_takes_little_memory(widget, notes):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.SetAttribute(OWN, notes)
    node.SetAttribute(RECORD_ATTRIBUTE, notes)
    text = notes.encode()
    tracemalloc.start()
    with pytest.raises(InputError, match="cannot be used"):
        EditRecord.read(node)
    assert ResultRecord.read(node) is None
    assert AdaptedNotes.read(struct.pack("<Q", len(text)) + text) is None
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


def test_what_is_wrong_is_told_once(widget, corrected, recalibrate, tmp_path):
    recalibrate()
    click(widget.ui.acceptChangesButton)
    (text,) = slicer.util.getNodesByClass("vtkMRMLTextNode")
    text.SetText("nothing")
    corrected.SetAttribute(RECORD_ATTRIBUTE, "{}")
    corrected.SetAttribute(OWN, "{}")
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(False)
    for _ in range(2):
        slicer.util.loadScene(str(tmp_path / "scene.mrb"))
        application.process_events()
        told = [message.text for message in widget.panel.messages.shown]
        assert len(told) == 3 and all("head tiny-t1" in text and "cannot be used" in text for text in told)
    click(widget.ui.segmentButton)  # into the segmentation whose corrections are not known
    assert [message.level for message in widget.panel.messages.shown] == ["error"]
    assert "no correction is lost" in widget.panel.messages.shown[0].remedy
    widget.ui.outputSelector.setCurrentNode(None)
    click(widget.ui.segmentButton)
    assert widget.panel.run.running and widget.panel.messages.shown == []


@pytest.mark.parametrize("name, value", [
    ("device", "quantum"), ("opacity", "abc"), ("opacity", "nan"), ("opacity", "-7"), ("fast", "perhaps"),
    ("model", "x" * 10_000), ("model", "\x1b]0;"), ("keepWarm", ""),
])  # fmt: skip
def test_choices_that_mean_nothing(models, segmenter, name, value):
    """They are in the scene before the module is opened; the other choices are kept."""
    application.load_module(MODULE)
    logic = sys.modules["SESegmentation"].SESegmentationLogic()
    node = super(type(logic), logic).getParameterNode()
    node.SetParameter("lowMemory", "True")
    node.SetParameter(name, value)
    widget = application.open_module("SESegmentation")
    choices = widget.logic.getParameterNode()
    assert choices.lowMemory and getattr(choices, name) == choices.default(name).value
    (message,) = widget.panel.messages.shown
    assert name in message.text


def test_references_to_nodes_of_another_kind(widget, segment, segmenter, make_volume, tmp_path):
    node, scene = segment(), slicer.mrmlScene
    text = scene.AddNewNodeByClass("vtkMRMLTextNode", "letter")
    parameters = widget._parameterNode.parameterNode
    for role in ("inputVolume", "region", "outputSegmentation", "resultSegmentation", "adaptedFrom"):
        parameters.SetNodeReferenceID(role, text.GetID())
    for role in (node.GetReferenceImageGeometryReferenceRole(), "SESegmentation.Volume"):
        node.SetNodeReferenceID(role, text.GetID())
    assert faults.take()  # the selectors of this scene, which no import has checked, cannot show it
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    scene.Clear(False)
    faults.take()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    application.process_events()
    (message,) = widget.panel.messages.shown
    assert "inputVolume" in message.text and widget.panel._choices.inputVolume.GetName() == "head"
    widget.ui.resultSelector.setCurrentNode(scene.GetFirstNodeByName("head tiny-t1"))
    use(widget, widget.panel.result.node)


def test_nodes_of_the_user_are_neither_changed_nor_removed(widget, segment, choices, make_volume):
    """A scene may say that they are this module's own maps, tables and networks."""
    node = choices.outputSegmentation = segment()
    volume, scene = make_volume(name="the user's"), slicer.mrmlScene
    text, table = (scene.AddNewNodeByClass(f"vtkMRML{kind}Node", "the user's") for kind in ("Text", "Table"))
    text.SetText("a letter")
    table.AddColumn().SetName("a column")
    voxels = slicer.util.arrayFromVolume(volume).copy()
    for role in ("SESegmentation.Doubt", "SESegmentation.Attention"):
        node.SetNodeReferenceID(role, volume.GetID())
    node.SetNodeReferenceID("SESegmentation.Adapted", text.GetID())
    node.SetNodeReferenceID("SESegmentation.Report", table.GetID())
    widget.panel.refresh()
    click(widget.ui.doubtCheckBox)
    click(widget.ui.tableButton)
    segment(corner=4)
    click(widget.ui.undoButton)
    assert all(scene.IsNodePresent(kept) for kept in (volume, text, table))
    assert (slicer.util.arrayFromVolume(volume) == voxels).all() and text.GetText() == "a letter"
    assert table.GetNumberOfColumns() == 1 and adapted_parameters(node) is None


def test_names_are_no_markup(widget, segment, make_volume):
    import qt  # there is none before the stand-in was started

    volume = make_volume(name="<img src='file://host/share'>")
    node = segment(volume)
    node.SetName("<b>name</b>")
    assert widget.ui.resultLabel.textFormat == widget.ui.previewLabel.textFormat == qt.Qt.PlainText
    record = json.loads(node.GetAttribute(RECORD_ATTRIBUTE))
    assert "<" not in record["volume"] and ResultRecord.read(node) is not None
    record["structures"][0]["label"]["name"] = "<img src='x'>"
    node.SetAttribute(RECORD_ATTRIBUTE, json.dumps(record))
    assert ResultRecord.read(node) is None

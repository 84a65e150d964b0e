"""Where it is computed: the choice of a server, consent, its checks, and a segmentation on one."""

from __future__ import annotations

import ssl

import numpy as np
import pytest
import qt
import slicer
import trustme
from panel_clicks import click, reload_module, type_text, wait

from contract_server import ContractServer
from SESegmentationLib.client import servers
from SESegmentationLib.client.remote import RemoteSegmenter
from SESegmentationLib.errors import CancelledError
from SESegmentationLib.panel import server as section
from SESegmentationLib.panel.messages import phase_name

pytestmark = pytest.mark.usefixtures("no_own_servers")


@pytest.fixture
def server():
    """It refuses whoever has no token; nothing is ever done by it."""
    server = ContractServer({}, token="right", work=lambda frame, publish: None)
    yield server
    server.stop()


def choose_server(ui, server):
    click(ui.serverSection)
    ui.placeSelector.currentIndex = 1
    type_text(ui.serverEdit, server.url)
    type_text(ui.tokenEdit, server.token)
    ui.serverEdit.setFocus()


def shown(widget):
    return [(message.level, message.text) for message in widget.panel.server.messages]


def test_this_computer_is_chosen_until_the_user_chooses_a_server(widget, server):
    ui = widget.ui
    assert ui.serverSection.collapsed and ui.serverSection.text == "Where it is computed: this computer"
    click(ui.serverSection)
    assert not ui.serverEdit.isVisible() and not ui.checkServerButton.isVisible()
    ui.placeSelector.currentIndex = 1
    assert ui.serverEdit.isVisible() and ui.serverSection.text == "Where it is computed: a server"
    type_text(ui.serverEdit, server.url)
    ui.tokenEdit.setFocus()
    ui = reload_module().ui
    assert ui.placeSelector.currentIndex == 1 and ui.serverEdit.text == server.url
    assert ui.serverSection.text == "Where it is computed: a server"
    ui.placeSelector.currentIndex = 0
    assert reload_module().ui.serverSection.text == "Where it is computed: this computer"


def test_the_token_is_stored_and_shown_to_nobody(widget, server):
    ui = widget.ui
    choose_server(ui, server)
    assert ui.tokenEdit.text == "" and ui.tokenEdit.echoMode == qt.QLineEdit.Password
    ((level, text),) = shown(widget)
    assert level == "warning" and "no keyring" in text and "servers.json" in text
    assert servers.AddressBook().token(server.url) == "right"
    assert server.asked == []
    type_text(ui.tokenEdit, "two words")
    ui.serverEdit.setFocus()
    assert shown(widget) == [("error", "This is not a token.")] and ui.tokenEdit.text == "two words"
    assert servers.AddressBook().token(server.url) == "right"


def test_checks_of_the_server(widget, server, models):
    ui = widget.ui
    choose_server(ui, server)
    click(ui.checkServerButton)
    assert ui.checkServerButton.text == "Checking…" and not ui.checkServerButton.enabled
    wait(lambda: ui.checkServerButton.enabled)
    found = {text.partition(":")[0]: level for level, text in shown(widget)}
    assert found["server"] == found["version"] == "information" and found["token"] == "warning"
    server.token = "another"
    click(ui.checkServerButton)
    wait(lambda: ui.checkServerButton.enabled)
    assert shown(widget)[-1] == ("error", "server: The server does not know this token.")
    type_text(ui.serverEdit, "http://gpu.hospital.org")
    click(ui.checkServerButton)
    ((level, text),) = shown(widget)
    assert level == "error" and "not encrypted" in text
    assert server.uploads == []


def test_nothing_leaves_without_consent_which_counts_for_scan_and_server(widget, server, make_volume, dialogs, choices):
    ui = widget.ui
    make_volume()
    choose_server(ui, server)
    asked = len(server.asked)
    dialogs.answer(False)
    click(ui.segmentButton)
    assert not widget.panel.run.running and len(server.asked) == asked
    ((message),) = widget.panel.messages.shown
    assert message.level == "information" and message.text.startswith("Nothing was sent to 127.0.0.1")
    (dialog,) = dialogs.shown
    for words in (server.url.removeprefix("http://"), "voxels", "position", "options", "face", "names, dates"):
        assert words in dialog.text

    def segment(*answers):
        before = len(dialogs.shown)
        dialogs.answer(*answers)
        click(ui.segmentButton)
        wait(lambda: not widget.panel.run.running)
        assert "has no model tiny-t1" in widget.panel.messages.shown[0].text  # so far it came
        return len(dialogs.shown) - before

    assert segment(True) == 1
    assert segment() == 0
    first = choices.inputVolume
    choices.inputVolume = make_volume(name="another")
    slicer.util.arrayFromVolume(choices.inputVolume)[:] += 1
    assert segment(True) == 1
    choices.inputVolume = first
    assert segment() == 0
    other = ContractServer({}, work=lambda frame, publish: None)
    try:
        type_text(ui.serverEdit, other.url)
        assert segment(True) == 1
    finally:
        other.stop()
    assert server.uploads == []
    assert "head" not in servers.AddressBook().path.read_text(encoding="utf-8")


def test_a_server_that_is_chosen_while_packages_are_installed_asks_too(widget, server, make_volume, dialogs):
    choose_server(widget.ui, server)
    widget.ui.placeSelector.currentIndex = 0
    waiting, done = [], []
    widget.panel.server.begin(make_volume(), waiting.append, lambda: done.append(True))
    widget.ui.placeSelector.currentIndex = 1
    dialogs.answer(False, True)
    with pytest.raises(CancelledError):
        waiting[0]()
    assert done == []
    waiting[0]()
    assert done == [True] and len(dialogs.shown) == 2


def test_a_server_needs_no_packages_here(widget, server, make_volume, dialogs):
    from harness import packages

    packages.environment.missing.add("torch")
    make_volume()
    choose_server(widget.ui, server)
    dialogs.answer(True)
    click(widget.ui.segmentButton)
    wait(lambda: not widget.panel.run.running)
    assert len(dialogs.shown) == 1 and "has no model" in widget.panel.messages.shown[0].text


def test_the_place_can_be_changed_back_and_forth(widget, server, segmenter, segment, dialogs):
    segment()
    assert len(segmenter.jobs) == 1
    choose_server(widget.ui, server)
    assert not segmenter.closed and segmenter.released
    dialogs.answer(True)
    click(widget.ui.segmentButton)
    assert segmenter.closed and isinstance(widget.panel.run._segmenter, RemoteSegmenter)
    wait(lambda: not widget.panel.run.running)
    widget.ui.placeSelector.currentIndex = 0
    segment()
    assert len(segmenter.jobs) == 2


def test_a_certificate_that_is_chosen_later_counts(widget, make_volume, models, dialogs, tmp_path):
    """It is remembered for its server, also for the command line."""
    context, authority = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), trustme.CA()
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    server, ui = ContractServer({}, context=context), widget.ui
    try:
        make_volume()
        choose_server(ui, server)
        dialogs.answer(True)
        found = []
        for path in ("", str(tmp_path / "ca.pem"), ""):
            ui.certificateEdit.currentPath = path
            click(ui.segmentButton)
            wait(lambda: not widget.panel.run.running)
            found += [message.text.partition(" model ")[0] for message in widget.panel.messages.shown]
            known = servers.AddressBook().certificate(server.url)
            assert str(known or "") == path
        name = server.url.removeprefix("https://")
        unknown = f"The certificate of the server {name} cannot be trusted: its issuer is not known here."
        assert found == [unknown, f"The server {name} has no", unknown]
        ui.certificateEdit.currentPath = str(tmp_path / "absent.pem")
        click(ui.segmentButton)
        assert widget.panel.messages.shown[0].text.startswith("There is no certificate")
    finally:
        server.stop()


def test_an_address_that_is_none_is_told(widget, make_volume):
    make_volume()
    widget.ui.placeSelector.currentIndex = 1
    click(widget.ui.segmentButton)
    assert widget.panel.messages.shown[0].text == "No address of a server is given."


def test_times_are_remembered_by_place(widget, choices, segment, server):
    segment()
    assert "here" in widget.ui.modelSummaryLabel.text
    choose_server(widget.ui, server)
    assert "time known after the first" in widget.ui.modelSummaryLabel.text
    memory = widget.panel._settings
    memory.remember_seconds("tiny-t1", widget.panel.server.device("auto"), False, 1.0, 4.0)
    widget.panel.refresh()
    assert "on the server" in widget.ui.modelSummaryLabel.text


def test_what_a_server_does_is_told():
    assert phase_name("queue 3") == "Waiting for the server, number 3 in its queue"
    assert phase_name("sending") == "Sending the scan to the server"
    assert "connecting again" in phase_name("connecting again")


def test_consent_knows_a_scan_by_its_voxels_and_spacing(make_volume):
    one, same = make_volume(), make_volume(name="copy")
    assert section.scan_hash(one) == section.scan_hash(same)
    same.SetSpacing(1, 1, 2)
    assert section.scan_hash(one) != section.scan_hash(same)
    other = slicer.util.addVolumeFromArray(np.zeros((3, 4, 5), np.float32))
    assert section.scan_hash(other) not in (section.scan_hash(one), section.scan_hash(same))

"""The panel as a whole: what each click does, and how the parts are connected."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import qt
import slicer
from slicer.i18n import tr as _

from ..client import ResultEvent, Segmenter
from ..errors import InputError, SegmentationError
from ..models import ModelPackage
from .choices import Choices, Inputs
from .computer import ComputerSection, Doctor, UserSettings
from .dependencies import Dependencies
from .earlier_corrections import EarlierCorrections
from .installation import Installation
from .messages import INFORMATION, ActionRunner, Message, device_name, explain_error
from .model_chooser import AddModel, ModelChooser, ModelSource, PackageDialogs
from .patient_network import PatientNetwork
from .recalibration import Recalibration
from .reports import save_page, save_report, scene_report, show_changes, show_table
from .requests import AttentionRequest, Pending, RefineRequest, SegmentRequest, SegmentRun
from .result_view import ResultView
from .run_control import RunControl
from .scene_reading import use_scene_data
from .scene_results import SceneResults
from .segment_editor import open_segment_editor
from .server import ServerSection
from .written_result import WrittenResult

#: a request about a result in the scene
_Request = TypeVar("_Request", RefineRequest, AttentionRequest)


class Panel:
    """Wires the parts; has no widgets of its own.

    Args:
        ui: the widgets of SESegmentation.ui by name.
        make_segmenter: creates the segmenter of this computer when it is first needed.
        models: where models come from.
        dependencies: finds and installs missing Python packages.
        doctor: checks this computer.
        settings: what is remembered on this computer.
        package_dialogs: ask for a model to add.

    Example::

        settings = UserSettings(qt.QSettings())
        panel = Panel(ui, LocalSegmenter, InstalledModels(), installer, DoctorProcess(), settings, FileDialogs())
        panel.set_choices(parameter_node)
    """

    def __init__(
        self,
        ui: Any,
        make_segmenter: Callable[[], Segmenter],
        models: ModelSource,
        dependencies: Dependencies,
        doctor: Doctor,
        settings: UserSettings,
        package_dialogs: PackageDialogs,
    ) -> None:
        self._ui = ui
        self._choices: Choices | None = None
        self._settings = settings
        self._pending: Pending | None = None
        self._scene_results = SceneResults()
        self._actions = ActionRunner(
            ui, lambda: self._choices is not None, lambda: self.installation.log or self.run.log
        )
        self.messages = self._actions.messages
        self.models = ModelChooser(ui, models, settings, self._on_model_chosen)
        self._add_model = AddModel(ui, models, package_dialogs, self._on_model_added, self._actions.show_error)
        self.inputs = Inputs(ui, lambda: self._choices, lambda: self.models.card)
        self.patient = PatientNetwork(ui, lambda: self._choices, lambda: self.models.card)
        self.server = ServerSection(ui, settings, make_segmenter, self._on_place_changed)
        self.run = RunControl(ui, self.server.make_segmenter, self._on_segment, lambda: self._choices is not None)
        self.installation = Installation(ui, dependencies, self._actions, self.run)
        self.recalibration = Recalibration(
            ui,
            self._scene_results,
            lambda write: self._actions.run(lambda: self._show_written(write())),
            self._on_proposal,
        )
        self.result = ResultView(
            ui, self._scene_results, self._show_actions, lambda: self._actions.run(self._request_attention)
        )
        self.computer = ComputerSection(ui, doctor, settings)
        for button, action in (
            (ui.addModelButton, self._add_model.ask),
            (ui.correctButton, self._correct),
            (ui.recalibrateButton, self._recalibrate),
            (ui.saveReportButton, self._save_report),
            (ui.savePageButton, self._save_page),
            (ui.tableButton, self._show_table),
            (ui.changesButton, self._show_changes),
            (ui.takeOverButton, self._take_over),
        ):
            self._actions.on_click(button, action)
        self._show_actions()

    @property
    def _scene_choices(self) -> Choices:
        """The choices of the scene; actions and results wait while there is none."""
        if self._choices is None:
            raise RuntimeError("there is no scene")
        return self._choices

    def set_choices(self, choices: Choices | None) -> None:
        """Show the choices of a scene, None while there is none."""
        self._choices = choices
        devices = self._ui.deviceSelector  # filled anew with the bare values
        for row in range(devices.count):
            devices.setItemText(row, device_name(devices.itemText(row)))
        self.inputs.choose_volume()
        self.refresh()

    def pause(self) -> None:
        """Neither read nor write the scene until choices are set again: it is being loaded."""
        self._choices = None

    def refresh(self) -> None:
        """Show what the choices are now."""
        choices = self._choices
        self.models.choose(choices.model if choices else "")
        self.inputs.refresh()
        self.patient.refresh()
        self.result.show(choices.resultSegmentation if choices else None)
        if choices is not None:
            self.result.set_opacity(choices.opacity)
            self.models.set_expected_seconds(self._expected_seconds(), self.server.is_chosen)
            if not choices.keepWarm:
                self.run.release()

    def on_entered(self) -> None:
        """The panel is shown again: segments may have been edited meanwhile."""
        if self._choices is None:
            return
        self.inputs.choose_volume()
        self.refresh_models()
        self.result.review.mark_corrected()

    def refresh_models(self) -> None:
        """List the installed models anew."""
        self.models.refresh()
        self.refresh()

    def on_scene_closing(self) -> None:
        """The scene is about to be cleared: drop results that are still under way for it."""
        self.run.abandon()
        self._pending = None
        self.recalibration.discard()
        self.set_choices(None)
        self._actions.clear()

    def on_scene_read(self, reset_choices: list[str]) -> None:
        """A scene was read into this one; ``reset_choices`` names parameters of it that could not be used."""
        if self._choices is not None:
            for message in use_scene_data(reset_choices):
                self.messages.add(message)
        self.on_nodes_changed()

    def on_nodes_changed(self) -> None:
        """Nodes have come into the scene (they may not be complete yet) or have left it."""
        if self._choices is None:
            return
        removed = self._pending.removed_node() if self._pending is not None and self.run.running else ""
        if removed:
            self.run.abandon()
            self._pending = None
            self._actions.show_error(
                InputError(
                    _("{name} was removed while the computation needed it.").format(name=removed),
                    _("Load it again, or choose another volume, and click Segment."),
                )
            )
        if self.recalibration.node is not None and not slicer.mrmlScene.IsNodePresent(self.recalibration.node):
            self.recalibration.discard()
        self.refresh()
        qt.QTimer.singleShot(0, self.inputs.choose_volume)

    def close(self) -> None:
        """End everything; the panel cannot be used afterwards."""
        self._choices = None
        self.installation.close()
        self.run.close()
        self._add_model.close()
        self.computer.close()
        self.server.close()
        self.inputs.close()
        self.result.close()

    def _on_segment(self) -> None:
        if self.installation.running:
            self.installation.cancel()
        else:
            self._actions.run(self._start)

    def _start(self) -> None:
        volume = self._read_request(self.models.require_package()).check()
        self.server.begin(volume, self.installation.ensure, self._segment)

    def _segment(self) -> None:
        request = self._read_request(self.models.require_package())  # it may have been changed meanwhile
        self._scene_choices.model = request.package.card.name
        self.recalibration.discard()
        run = SegmentRun(request, request.frames())
        self.run.start(
            run.next_job,
            partial(self._on_segmented, run),
            partial(self._on_segmentation_failed, run),
            len(run.frames),
        )
        self._pending = run
        self._show_actions()

    def _correct(self) -> None:
        structure = self.result.review.current
        if structure is None:
            raise InputError(_("No structure is chosen."), _("Click one in the list."))
        self.result.review.jump()
        open_segment_editor(self.result.node, structure.label)
        self.recalibration.discard()  # it took long to make, and stays where there is nothing to correct

    def _recalibrate(self) -> None:
        self.result.review.mark_corrected()
        self.recalibration.discard()
        self._start_request(RefineRequest, self._on_refined)

    def _request_attention(self) -> None:
        self._start_request(AttentionRequest, self._on_attention)

    def _start_request(self, kind: type[_Request], on_result: Callable[[_Request, ResultEvent], None]) -> None:
        """Send the worker a request about the result on show."""
        self.installation.require_none()  # a server needs no packages here
        node = self.result.node
        inputs = kind.read(node, self._scene_choices, self._settings).inputs

        def begin() -> None:
            if not slicer.mrmlScene.IsNodePresent(node):
                raise InputError(
                    _("The scene was closed during the installation."), _("Load a volume and click Segment.")
                )
            request = kind.read(node, self._scene_choices, self._settings)  # it may have been edited meanwhile
            self.run.start(lambda: request.make_job, partial(on_result, request), self._on_request_failed)
            self._pending = request
            self._show_actions()

        self.server.begin(inputs.volume, self.installation.ensure, begin)

    def _save_report(self) -> None:
        path = save_report(scene_report(self.result.node))
        if path is not None:
            self._inform(_("The report was saved as {path}.").format(path=path))

    def _save_page(self) -> None:
        saved = _("The page was saved as {path}.")
        save_page(self.result.node, self.installation, lambda path: self._inform(saved.format(path=path)))

    def _show_table(self) -> None:
        show_table(self.result.node, scene_report(self.result.node))

    def _show_changes(self) -> None:
        self._inform(show_changes(self.result.node, self._ui.earlierSelector.currentNode()))

    def _take_over(self) -> None:
        self.result.review.mark_corrected()
        self.recalibration.discard()
        start = EarlierCorrections.read(self.result.node, self._ui.earlierSelector.currentNode(), self._settings)
        if not self.recalibration.propose_earlier(start):
            self._inform(_("The corrections of {name} would change nothing here.").format(name=start.earlier))

    def _read_request(self, package: ModelPackage) -> SegmentRequest:
        """The request described by the present choices."""
        choices = self._scene_choices
        return SegmentRequest(
            volume=choices.inputVolume,
            package=package,
            every_frame=choices.everyFrame,
            region=choices.region,
            output=choices.outputSegmentation,
            device=choices.device,
            fast=choices.fast,
            low_memory=choices.lowMemory,
            adapted=self.patient.parameters,
        )

    def _on_segmented(self, run: SegmentRun, event: ResultEvent) -> None:
        request = run.request
        try:
            result = event.segmentation()
            written = self._scene_results.write(result, run.target(), request.adapted)
        except Exception as error:
            self._on_segmentation_failed(run, error)
            return
        run.frames.pop(0)
        run.output_id = written.node.GetID()
        if not run.frames:
            self._pending = None
        device, seconds = self.server.device(request.device), sum(result.timings.values())
        self._settings.remember_seconds(result.model.name, device, request.fast, request.volume_ml, seconds)
        self._show_written(written)

    def _show_written(self, written: WrittenResult) -> None:
        """Show a written result, and say which parts of the segmentation were replaced or left unchanged."""
        for remark in written.remarks():
            self._inform(remark)
        self._scene_choices.resultSegmentation = written.node
        self.refresh()

    def _on_refined(self, request: RefineRequest, event: ResultEvent) -> None:
        self._pending = None
        self._scene_choices.resultSegmentation = request.node
        self.refresh()
        try:
            reason = self.recalibration.propose(request, event.refinement())
        except Exception as error:
            self._actions.show_error(error)
            return
        if reason is not None:
            text = _("Your corrections are kept; nothing else was changed, because {reason}.")
            self._inform(text.format(reason=reason))

    def _on_attention(self, request: AttentionRequest, event: ResultEvent) -> None:
        self._pending = None
        try:
            low, high = request.show(event.attention())
            self._scene_choices.resultSegmentation = request.inputs.node  # the map lies over this one
            text = _("Gate of the last decoder: {low:.4f} (dark) to {high:.4f} (bright); 1 lets all features pass.")
            self._inform(text.format(low=low, high=high))
        except Exception as error:
            self._actions.show_error(error)
        self.refresh()

    def _on_request_failed(self, error: SegmentationError) -> None:
        self._pending = None
        self._actions.show_error(error)
        self.refresh()

    def _on_proposal(self, changes: dict[int, tuple[int, int]] | None) -> None:
        self.result.review.show_changes(changes)
        self._show_actions()

    def _show_actions(self) -> None:
        """Enable the actions that are possible for the result on show."""
        node, ui = self.result.node, self._ui
        self.recalibration.follow(node)
        has_result = self.result.record is not None
        ui.correctButton.enabled = has_result and self.result.review.current is not None
        for button in (ui.recalibrateButton, ui.takeOverButton):
            button.enabled = has_result and not self.run.running and self.recalibration.node is None
        self.patient.refresh()
        self.result.overlays.set_attention_available(has_result and not self.run.running)
        for button in (ui.saveReportButton, ui.savePageButton, ui.tableButton, ui.changesButton):
            button.enabled = has_result

    def _on_segmentation_failed(self, run: SegmentRun, error: Exception) -> None:
        """The segmentation under way ends here; frames that are done stay."""
        self._pending = None
        self.run.abandon()
        self._actions.show_error(run.explain(explain_error(error)))
        self.refresh()

    def _on_model_chosen(self, name: str) -> None:
        if self._choices is not None:
            self._choices.model = name  # refresh() follows, as after any other choice

    def _on_place_changed(self) -> None:
        self.run.make_another()
        self.refresh()

    def _on_model_added(self, package: ModelPackage) -> None:
        card = package.card
        self.models.show_added(card.name)
        self._on_model_chosen(card.name)
        self._inform(_("{model} {version} was added.").format(model=card.title, version=card.version))

    def _inform(self, text: str) -> None:
        self.messages.add(Message(INFORMATION, text))

    def _expected_seconds(self) -> float | None:
        if self.models.package is None:
            return None
        request = self._read_request(self.models.package)
        if not request.volume_ml:
            return None
        device = self.server.device(request.device)
        return self._settings.expected_seconds(request.package.card.name, device, request.fast, request.volume_ml)

"""The panel as a whole: what happens at which click, and how the parts hear of each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..client import ResultEvent, Segmenter
from ..errors import CancelledError, InputError, SegmentationError
from ..models import ModelPackage
from .choices import Choices, Inputs
from .computer import ComputerMemory, ComputerSection, Doctor
from .dependencies import Dependencies
from .installation import Installation
from .messages import INFORMATION, Attempts, Message, device_name, slice_names, unexpected
from .model_chooser import AddModel, ModelChooser, ModelSource, PackageDialogs
from .recalibration import PatientNetwork, Recalibration
from .requests import AttentionRequest, RefineRequest, Request
from .result_record import save_report, scene_report, show_table
from .result_view import ResultView
from .review import open_segment_editor
from .run_control import RunControl
from .scene_results import SceneResults, Written, unusable_notes


@dataclass
class _Run:
    """The segmentation under way.

    Attributes:
        request: what was asked for.
        frames: of a sequence, still to be done, the one at hand first; [None] for a volume.
        output_id: the segmentation that holds the frames before; None while there were none.
    """

    request: Request
    frames: list[int | None]
    output_id: str | None = None
    count: int = 0

    def __post_init__(self) -> None:
        self.count = len(self.frames)

    def lost(self) -> str:
        """The name of the volume if it has left the scene; empty while it is there."""
        volume = self.request.volume
        return "" if slicer.mrmlScene.IsNodePresent(volume) else volume.GetName()


class Panel:
    """Wires the parts; has no widgets of its own.

    Args:
        ui: the widgets of SESegmentation.ui by name.
        make_segmenter: makes what segments, when it is first needed.
        models: where models come from.
        dependencies: sees to the Python packages of the worker.
        doctor: checks this computer.
        memory: what is remembered on this computer.
        package_dialogs: ask for a model to add.

    Example::

        memory = ComputerMemory(qt.QSettings())
        panel = Panel(ui, LocalSegmenter, InstalledModels(), installer, DoctorProcess(), memory, FileDialogs())
        panel.set_choices(parameter_node)
    """

    def __init__(
        self,
        ui: Any,
        make_segmenter: Callable[[], Segmenter],
        models: ModelSource,
        dependencies: Dependencies,
        doctor: Doctor,
        memory: ComputerMemory,
        package_dialogs: PackageDialogs,
    ) -> None:
        self._ui = ui
        self._choices: Choices | None = None
        self._memory = memory
        self._current: _Run | RefineRequest | AttentionRequest | None = None
        self._scene_results = SceneResults()
        self._attempts = Attempts(ui, lambda: self._choices is not None, lambda: self.installation.log or self.run.log)
        self.messages = self._attempts.messages
        self.models = ModelChooser(ui, models, memory, self._on_model_chosen)
        self._add_model = AddModel(ui, models, package_dialogs, self._on_model_added, self._attempts.failed)
        self.inputs = Inputs(ui, lambda: self._choices, lambda: self.models.card)
        self.patient = PatientNetwork(ui, lambda: self._choices, lambda: self.models.card)
        self.run = RunControl(ui, make_segmenter, self._on_segment, lambda: self._choices is not None)
        self.installation = Installation(ui, dependencies, self._attempts, self.run.release)
        self.recalibration: Recalibration | None = None
        self.result = ResultView(ui, self._scene_results, self._show_actions, lambda: self._attempts.make(self._attend))
        self.recalibration = Recalibration(
            ui,
            self._scene_results,
            lambda write: self._attempts.make(lambda: self._tell_written(write())),
            self._on_proposal,
        )
        self.computer = ComputerSection(ui, doctor, memory)
        for button, action in (
            (ui.addModelButton, self._add_model.ask),
            (ui.correctButton, self._correct),
            (ui.recalibrateButton, self._recalibrate),
            (ui.saveReportButton, self._save_report),
            (ui.tableButton, self._show_table),
        ):
            self._attempts.on_click(button, action)
        self._show_actions()

    def set_choices(self, choices: Choices | None) -> None:
        """Show the choices of a scene, None while there is none."""
        self._choices = choices
        devices = self._ui.deviceSelector  # filled anew with the bare values
        for row in range(devices.count):
            devices.setItemText(row, device_name(devices.itemText(row)))
        self.inputs.choose_volume()
        self.refresh()

    def pause(self) -> None:
        """Read nothing of the scene, and write nothing into it, until choices are set again: it is being read."""
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
            self.models.set_expected_seconds(self._expected_seconds())
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
        """Look again which models are installed."""
        self.models.refresh()
        self.refresh()

    def on_scene_closing(self) -> None:
        """The scene is about to be emptied: what runs for it has no place to go to."""
        self.run.abandon()
        self._current = None
        self.recalibration.drop()
        self.set_choices(None)
        self._attempts.clear()

    def on_scene_read(self, left_out: list[str]) -> None:
        """A scene was read into this one; ``left_out`` names choices of it that cannot be used."""
        if self._choices is not None:
            for message in unusable_notes(left_out):
                self.messages.add(message)
        self.on_nodes_changed()

    def on_nodes_changed(self) -> None:
        """Nodes have come into the scene (they may not be complete yet) or have left it."""
        if self._choices is None:
            return
        lost = self._current.lost() if self.run.running else ""
        if lost:
            self.run.abandon()
            self._current = None
            self._attempts.failed(
                InputError(
                    _("The volume {lost} was removed while it was segmented.").format(lost=lost),
                    _("Load it again, or choose another volume, and click Segment."),
                )
            )
        if self.recalibration.node is not None and not slicer.mrmlScene.IsNodePresent(self.recalibration.node):
            self.recalibration.drop()
        self.refresh()
        qt.QTimer.singleShot(0, self.inputs.choose_volume)

    def close(self) -> None:
        """End everything; the panel is not used any more."""
        self._choices = None
        self.installation.close()
        self.run.close()
        self._add_model.close()
        self.computer.close()
        self.inputs.close()
        self.result.close()

    def _on_segment(self) -> None:
        if self.installation.running:
            self.installation.cancel()
        else:
            self._attempts.make(self._start)

    def _start(self) -> None:
        self._read_request(self.models.require_package()).check()
        self.installation.ensure(self._segment)

    def _segment(self) -> None:
        request = self._read_request(self.models.require_package())  # it may have been changed meanwhile
        self._choices.model = request.package.card.name
        self.recalibration.drop()
        run = _Run(request, request.frames())
        self.run.start(lambda: request.job(run.frames[0]), self._on_result, self._on_failure, len(run.frames))
        self._current = run
        self._show_actions()

    def _correct(self) -> None:
        structure = self.result.review.current
        if structure is None:
            raise InputError(_("No structure is chosen."), _("Click one in the list."))
        self.recalibration.drop()
        self.result.review.jump()
        open_segment_editor(self.result.node, structure.label)

    def _recalibrate(self) -> None:
        node = self.result.node
        self.result.review.mark_corrected()
        self.recalibration.drop()
        self._ask_about(node, RefineRequest, self._on_refined)

    def _attend(self) -> None:
        self._ask_about(self.result.node, AttentionRequest, self._on_attention)

    def _ask_about(
        self,
        node: slicer.vtkMRMLSegmentationNode,
        kind: type[RefineRequest] | type[AttentionRequest],
        on_result: Callable[[ResultEvent], None],
    ) -> None:
        """Ask the worker something about a result."""
        kind.read(node, self._choices, self._memory)

        def begin() -> None:
            if not slicer.mrmlScene.IsNodePresent(node):
                raise InputError(
                    _("The scene was closed during the installation."), _("Load a volume and click Segment.")
                )
            request = kind.read(node, self._choices, self._memory)  # it may have been edited meanwhile
            self.run.start(lambda: request.job, on_result, self._on_question_failure)
            self._current = request
            self._show_actions()

        self.installation.ensure(begin)

    def _save_report(self) -> None:
        node = self.result.node
        path = save_report(scene_report(node), node.GetName())
        if path is not None:
            self.messages.add(Message(INFORMATION, _("The report is in {path}.").format(path=path)))

    def _show_table(self) -> None:
        show_table(self.result.node, scene_report(self.result.node))

    def _read_request(self, package: ModelPackage) -> Request:
        """What the choices ask for."""
        choices = self._choices
        return Request(
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

    def _on_result(self, event: ResultEvent) -> None:
        run, request = self._current, self._current.request
        try:
            result = event.segmentation()
            written = self._scene_results.write(result, request.target(run.frames[0], run.output_id), request.adapted)
        except SegmentationError as error:
            self._on_failure(error)
            return
        except Exception as error:
            self._on_failure(unexpected(error))
            return
        run.frames.pop(0)
        run.output_id = written.node.GetID()
        if not run.frames:
            self._current = None
        seconds = sum(result.timings.values())
        self._memory.remember_seconds(result.model.name, request.device, request.fast, request.volume_ml, seconds)
        self._tell_written(written)

    def _tell_written(self, written: Written) -> None:
        """Show a result that was written, and say what of the segmentation was left as it was."""
        if written.spared:
            text = _("Marked completed and left as they are: {names}.").format(names=", ".join(written.spared))
            self.messages.add(Message(INFORMATION, text))
        if written.kept:
            text = _("Corrected slices, left as they are: {slices}.").format(slices=slice_names(written.kept))
            self.messages.add(Message(INFORMATION, text))
        self._choices.resultSegmentation = written.node
        self.refresh()

    def _on_refined(self, event: ResultEvent) -> None:
        request, self._current = self._current, None
        self._choices.resultSegmentation = request.node
        self.refresh()
        try:
            reason = self.recalibration.propose(request, event.refinement())
        except Exception as error:
            self._attempts.failed(error)
            return
        if reason is not None:
            text = _("Your corrections are kept; nothing else was changed, because {reason}.").format(reason=reason)
            self.messages.add(Message(INFORMATION, text))

    def _on_attention(self, event: ResultEvent) -> None:
        request, self._current = self._current, None
        try:
            low, high = request.show(event.attention())
            text = _("Gate of the last decoder: {low:.4f} (dark) to {high:.4f} (bright); 1 lets all features pass.")
            self.messages.add(Message(INFORMATION, text.format(low=low, high=high)))
        except Exception as error:
            self._attempts.failed(error)
        self.refresh()

    def _on_question_failure(self, error: SegmentationError) -> None:
        self._current = None
        self._attempts.failed(error)
        self.refresh()

    def _on_proposal(self, changes: dict[int, tuple[int, int]] | None) -> None:
        self.result.review.show_changes(changes)
        self._show_actions()

    def _show_actions(self) -> None:
        """Offer what can be done with the result on show."""
        if self.recalibration is None:  # still being set up
            return
        node, ui = self.result.node, self._ui
        if self.recalibration.node is not None and self.recalibration.node is not node:
            self.recalibration.drop()
        there = self.result.record is not None
        ui.correctButton.enabled = there and self.result.review.current is not None
        ui.recalibrateButton.enabled = there and not self.run.running and self.recalibration.node is None
        self.patient.refresh()
        self.result.overlays.let_attend(there and not self.run.running)
        ui.saveReportButton.enabled = ui.tableButton.enabled = there

    def _on_failure(self, error: SegmentationError) -> None:
        """The segmentation under way comes to nothing more; frames that are done stay."""
        run, self._current = self._current, None
        self.run.abandon()
        if run.output_id is not None:
            kept = _("{done} of {count} frames are done and kept.").format(
                done=run.count - len(run.frames), count=run.count
            )
            remedy = kept if isinstance(error, CancelledError) else f"{error.remedy} {kept}"
            error = type(error)(error.cause, remedy)
        self._attempts.failed(error)
        self.refresh()

    def _on_model_chosen(self, name: str) -> None:
        if self._choices is not None:
            self._choices.model = name  # the panel hears of it as of any other choice

    def _on_model_added(self, package: ModelPackage) -> None:
        card = package.card
        self.models.show_added(card.name)
        self._on_model_chosen(card.name)
        text = _("{model} {version} was added.").format(model=card.title, version=card.version)
        self.messages.add(Message(INFORMATION, text))

    def _expected_seconds(self) -> float | None:
        if self.models.package is None:
            return None
        request = self._read_request(self.models.package)
        if not request.volume_ml:
            return None
        return self._memory.expected_seconds(request.package.card.name, request.device, request.fast, request.volume_ml)

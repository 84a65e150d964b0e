"""The panel as a whole: what happens at which click, and how the parts hear of each other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..client import ResultEvent, Segmenter
from ..errors import CancelledError, InputError, SegmentationError
from ..models import ModelPackage
from .choices import Choices
from .computer import ComputerSection, Doctor
from .correction import open_segment_editor
from .inputs import Inputs
from .install import Dependencies
from .memory import ComputerMemory
from .messages import ERROR, INFORMATION, Message, MessageList
from .model_chooser import ModelChooser, ModelSource
from .recalibration import Recalibration, RefineRequest
from .report import save_report, scene_report, show_table
from .request import Request
from .result_view import ResultView
from .run_control import RunControl
from .scene_results import SceneResults, Written
from .wording import device_name, slice_names


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

    Example::

        panel = Panel(ui, LocalSegmenter, InstalledModels(), installer, DoctorProcess(), ComputerMemory(qt.QSettings()))
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
    ) -> None:
        self._ui = ui
        self._choices: Choices | None = None
        self._dependencies = dependencies
        self._memory = memory
        self._current: _Run | RefineRequest | None = None
        self._busy = False
        self._scene_results = SceneResults()
        self.messages = MessageList(ui.messageFrame)
        self.models = ModelChooser(ui, models, memory, self._on_model_chosen)
        self.inputs = Inputs(ui, lambda: self._choices, lambda: self.models.card)
        self.run = RunControl(ui, make_segmenter, self._on_segment)
        self.recalibration: Recalibration | None = None
        self.result = ResultView(ui, self._scene_results, self._show_actions)
        self.recalibration = Recalibration(
            ui,
            self._scene_results,
            lambda write: self._do(lambda: self._tell_written(write())),
            self._on_proposal,
        )
        self.computer = ComputerSection(ui, doctor, memory)
        for button, action in (
            (ui.correctButton, self._correct),
            (ui.recalibrateButton, self._recalibrate),
            (ui.saveReportButton, self._save_report),
            (ui.tableButton, self._show_table),
        ):
            self._connect(button, action)
        self._show_actions()
        ui.logButton.connect("toggled(bool)", self._on_log)
        ui.logButton.visible = ui.logText.visible = False

    def _connect(self, button: Any, action: Callable[[], None]) -> None:
        button.connect("clicked(bool)", lambda: self._do(action))

    def set_choices(self, choices: Choices | None) -> None:
        """Show the choices of a scene, None while there is none."""
        self._choices = choices
        devices = self._ui.deviceSelector  # filled anew with the bare values
        for row in range(devices.count):
            devices.setItemText(row, device_name(devices.itemText(row)))
        self.inputs.choose_volume()
        self.refresh()

    def refresh(self) -> None:
        """Show what the choices are now."""
        choices = self._choices
        self.models.choose(choices.model if choices else "")
        self.inputs.refresh()
        self.result.show(choices.resultSegmentation if choices else None)
        if choices is not None:
            self.result.set_opacity(choices.opacity)
            self.models.set_expected_seconds(self._expected_seconds())
            if not choices.keepWarm:
                self.run.release()

    def on_entered(self) -> None:
        """The panel is shown again: segments may have been edited meanwhile."""
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
        self._clear_messages()

    def on_nodes_changed(self) -> None:
        """Nodes have come into the scene (they may not be complete yet) or have left it."""
        lost = self._current.lost() if self.run.running else ""
        if lost:
            self.run.abandon()
            self._current = None
            self._show_error(
                InputError(
                    f"The volume {lost} was removed while it was segmented.",
                    "Load it again, or choose another volume, and click Segment.",
                )
            )
        if self.recalibration.node is not None and not slicer.mrmlScene.IsNodePresent(self.recalibration.node):
            self.recalibration.drop()
        self.refresh()
        qt.QTimer.singleShot(0, self.inputs.choose_volume)

    def close(self) -> None:
        """End everything; the panel is not used any more."""
        self._choices = None
        self.run.close()
        self.computer.close()
        self.inputs.close()
        self.result.close()

    def _on_segment(self) -> None:
        self._do(self._start)

    def _do(self, action: Callable[[], None]) -> None:
        """Do what a click asks for; what is in the way of it is told."""
        if self._busy or self._choices is None:  # Slicer handles events while it installs packages
            return
        self._busy = True
        try:
            self._clear_messages()
            action()
        except SegmentationError as error:
            self._show_error(error)
        except Exception as error:
            self._show_error(_unexpected(error))
        finally:
            self._busy = False

    def _start(self) -> None:
        self._read_request(self.models.require_package()).check()
        self._install()
        if self._choices is None:
            raise InputError("The scene was closed during the installation.", "Load a volume and click Segment.")
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
            raise InputError("No structure is chosen.", "Click one in the list.")
        self.recalibration.drop()
        self.result.review.jump()
        open_segment_editor(self.result.node, structure.label)

    def _recalibrate(self) -> None:
        node = self.result.node
        self.result.review.mark_corrected()
        self.recalibration.drop()
        RefineRequest.read(node, self._choices)
        self._install()
        if self._choices is None or not slicer.mrmlScene.IsNodePresent(node):
            raise InputError("The scene was closed during the installation.", "Load a volume and click Segment.")
        request = RefineRequest.read(node, self._choices)  # it may have been edited meanwhile
        self.run.start(lambda: request.job, self._on_refined, self._on_refine_failure)
        self._current = request
        self._show_actions()

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
        )

    def _install(self) -> None:
        if not self._dependencies.missing():
            return
        self._ui.segmentButton.enabled = False
        try:
            self._dependencies.ensure()
        finally:
            self._ui.segmentButton.enabled = True

    def _on_result(self, event: ResultEvent) -> None:
        run, request = self._current, self._current.request
        try:
            result = event.segmentation()
            written = self._scene_results.write(result, request.target(run.frames[0], run.output_id))
        except SegmentationError as error:
            self._on_failure(error)
            return
        except Exception as error:
            self._on_failure(_unexpected(error))
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
            self.recalibration.propose(request, event.refinement())
        except SegmentationError as error:
            self._show_error(error)
        except Exception as error:
            self._show_error(_unexpected(error))

    def _on_refine_failure(self, error: SegmentationError) -> None:
        self._current = None
        self._show_error(error)
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
        self._show_error(error)
        self.refresh()

    def _on_model_chosen(self, name: str) -> None:
        if self._choices is not None:
            self._choices.model = name  # the panel hears of it as of any other choice

    def _expected_seconds(self) -> float | None:
        if self.models.package is None:
            return None
        request = self._read_request(self.models.package)
        if not request.volume_ml:
            return None
        return self._memory.expected_seconds(request.package.card.name, request.device, request.fast, request.volume_ml)

    def _show_error(self, error: SegmentationError) -> None:
        self.messages.add(Message.of_error(error))
        self._ui.logButton.visible = self.messages.shown[-1].level == ERROR and bool(self.run.log)

    def _clear_messages(self) -> None:
        self.messages.clear()
        self._ui.logButton.checked = False
        self._ui.logButton.visible = False

    def _on_log(self, shown: bool) -> None:
        self._ui.logText.visible = shown
        self._ui.logText.setPlainText(self.run.log if shown else "")


def _unexpected(error: Exception) -> SegmentationError:
    """What to tell the user of a fault of this program; the error log gets all of it."""
    logging.exception("SESegmentation")
    return SegmentationError(
        f"Unexpected failure: {type(error).__name__}: {error}",
        "Try again; if it fails again, report it with the error log (View menu).",
    )

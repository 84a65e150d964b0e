"""Takes the pictures of the README: ``make screenshots``.

The panel is the module's own, in a stand-in for Slicer's window; the views are drawn by Slicer's core. The sample is
segmented by the model that the documentation speaks of, in a worker process, as in the application.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT / "SESegmentation")]

from PySide6 import QtGui  # noqa: E402

from harness import application, dialogs, packages, views  # noqa: E402
from harness.faults import faults  # noqa: E402

FOLDER = ROOT / "Resources" / "screenshots"
MODEL, HEAD_MODEL = "hippocampus-t1", "brain-mr"
PANEL_WIDTH = 400  # pixels
HEAD_PANEL_WIDTH = 460  # Slicer makes its panel as wide as what it holds; structures in pairs need this
VIEW_SIZE = 360
COLORS = 255  # of a picture; keeps the files small
SECONDS = 120
CORRECTED = 18  # the axial slice that is corrected
# where the camera of the 3-D view stands: right, anterior, superior
VIEW_FROM, HEAD_FROM = (-1.0, -0.4, 0.6), (-1.0, 0.6, 0.3)
SETTLING = 12  # rounds of events until layouts within layouts have their sizes
MAXIMUM = 16777215  # QWIDGETSIZE_MAX


def main() -> int:
    """Take all pictures; 1 where that fails."""
    if why := views.why_no_rendering():
        print(f"There can be no pictures here: {why}.", file=sys.stderr)
        return 1
    FOLDER.mkdir(parents=True, exist_ok=True)
    with started() as widget:
        take(widget)
        take_window(widget)
    found = faults.take()
    print(*found, sep="\n", file=sys.stderr)
    return 1 if found else 0


@contextmanager
def started() -> Iterator[Any]:
    """The module in the stand-in, with the sample loaded and on show."""
    import slicer

    application.start()
    for view in all_views():
        view.size = (VIEW_SIZE, VIEW_SIZE)
    application.load_module(ROOT / "SESegmentation" / "SESegmentation.py")
    volume = sys.modules["SampleData"].SampleDataLogic().downloadSample("SESegmentationHippocampus")
    for view in all_views()[:-1]:
        view.node.SetDimensions(*view.size, 1)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    widget = application.open_module("SESegmentation")
    try:
        yield widget
    finally:
        for view in all_views():
            view.close()
        application.stop()


def take(widget: Any) -> None:
    """Click through a segmentation and take a picture of each state."""
    import slicer

    ui, run = widget.ui, widget.panel.run
    choices = widget.logic.getParameterNode()
    choices.model = MODEL
    save(panel_picture(), "panel-idle")
    ui.serverSection.collapsed = False
    ui.placeSelector.setCurrentIndex(1)
    save(panel_picture(), "panel-server")
    ui.placeSelector.setCurrentIndex(0)
    ui.serverSection.collapsed = True

    from SESegmentationLib.panel import installation

    packages.environment.missing.add("torch")
    python = packages.environment.python_slicer("print('ConnectTimeoutError'); sys.exit(1)")  # as behind a firewall
    installation.find_python = lambda: python
    dialogs.dialogs.answer(True)
    ui.segmentButton.click()
    application.wait_until(lambda: not widget.panel.installation.running, SECONDS)
    save(panel_picture(), "panel-error")
    packages.environment.reset()

    ui.segmentButton.click()
    if not application.wait_until(lambda: ui.progressBar.value > 20 or not run.running, SECONDS):
        raise TimeoutError("The segmentation makes no progress.")
    save(panel_picture(), "panel-running")
    if not application.wait_until(lambda: not run.running, SECONDS):
        raise TimeoutError("The segmentation does not end.")
    ui.show3DButton.click()
    ui.structureTable.setCurrentCell(0, 0)
    save(panel_picture(), "panel-result")

    slicer.util.resetSliceViews()
    *slices, three_d = all_views()
    three_d.look_from(*VIEW_FROM)
    three_d._renderer.GetActiveCamera().Zoom(1.25)
    save(np.hstack([view.picture() for view in slices]), "slice-views")
    save(three_d.picture(), "3d-view")
    take_review(widget)


def take_window(widget: Any) -> None:
    """The whole window with a real head: what a newcomer sees first."""
    import slicer

    slicer.mrmlScene.Clear(0)
    volume = sys.modules["SampleData"].SampleDataLogic().downloadSample("SESegmentationHead")
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    slicer.util.selectModule("SESegmentation")
    choices = widget.logic.getParameterNode()
    choices.inputVolume, choices.model = volume, HEAD_MODEL
    ui, run = widget.ui, widget.panel.run
    ui.segmentButton.click()
    if not application.wait_until(lambda: not run.running, SECONDS):
        raise TimeoutError("The segmentation of the head does not end.")
    ui.show3DButton.click()
    ui.structureTable.setCurrentCell(0, 0)
    slicer.util.resetSliceViews()
    three_d = all_views()[-1]
    three_d.look_from(*HEAD_FROM)
    three_d._renderer.GetActiveCamera().Zoom(1.25)
    save(window_picture(), "window")


def take_review(widget: Any) -> None:
    """Go on from a result: look where it is doubtful, correct, recalibrate, report."""
    import slicer

    from drawn_hippocampus import draw_sample
    from harness.segment_editor import paint

    ui, run, node = widget.ui, widget.panel.run, widget.panel.result.node
    volume = widget.logic.getParameterNode().inputVolume
    slices = all_views()[:-1]
    ui.nextButton.click()
    ui.doubtCheckBox.click()
    save(panel_picture(), "panel-review")
    save(np.hstack([view.picture() for view in slices]), "review-doubt")
    ui.doubtCheckBox.click()
    ui.attentionCheckBox.click()
    if not application.wait_until(lambda: not run.running, SECONDS):
        raise TimeoutError("What the network looks at is not told.")
    node.GetDisplayNode().SetOpacity2DFill(0.0)  # outlines alone, or the map is hidden where it matters
    save(np.hstack([view.picture() for view in slices]), "review-attention")
    node.GetDisplayNode().SetOpacity2DFill(0.5)
    ui.attentionCheckBox.click()

    ui.correctButton.click()
    truth = sitk.GetArrayFromImage(draw_sample().labels)
    slicer.util.setSliceViewerLayers(background=volume)
    for value in (1, 2):
        inside = np.zeros(truth.shape, bool)
        inside[CORRECTED] = truth[CORRECTED] == value
        rest = np.zeros(truth.shape, bool)
        rest[CORRECTED] = ~inside[CORRECTED]
        paint(node, f"Segment_{value}", rest, volume, erase=True)
        paint(node, f"Segment_{value}", inside, volume)
    axial = slices[0].node
    axial.SetSliceOffset(volume.GetOrigin()[2] + CORRECTED * volume.GetSpacing()[2])
    save(np.hstack([view.picture() for view in slices]), "review-correction")
    slicer.util.selectModule("SESegmentation")

    ui.recalibrateButton.click()
    if not application.wait_until(lambda: not run.running, SECONDS):
        raise TimeoutError("The recalibration does not end.")
    save(panel_picture(), "panel-proposal")
    save(np.hstack([view.picture() for view in slices]), "review-proposal")
    ui.acceptChangesButton.click()
    save(np.hstack([view.picture() for view in slices]), "review-accepted")
    ui.acceptButton.click()
    ui.tableButton.click()
    save(panel_picture(), "panel-accepted")
    save(table_picture(slicer.util.getNode("* report")), "report-table")


def table_picture(node: Any) -> np.ndarray:
    """The columns of a table node that a reader looks at first."""
    import qt

    columns = ["name", "volume_ml", "surface_mm2", "confidence", "expected_dice", "corrected_share", "state", "model"]
    columns += ["version", "device", "seconds"]
    widget = qt.QTableWidget(node.GetNumberOfRows(), len(columns))
    widget.setHorizontalHeaderLabels(columns)
    for column, name in enumerate(columns):
        values = node.GetTable().GetColumnByName(name)
        for row in range(node.GetNumberOfRows()):
            widget.setItem(row, column, qt.QTableWidgetItem(values.GetVariantValue(row).ToString()))
    widget.resizeColumnsToContents()
    width = sum(widget.columnWidth(column) for column in range(len(columns))) + 40
    widget.setFixedSize(width, 36 + 34 * node.GetNumberOfRows())
    return pixels(widget.grab())


def all_views() -> list[views.View]:
    """Axial, coronal, sagittal and 3-D."""
    import slicer

    manager = slicer.app.layoutManager()
    return [manager.sliceWidget(name)._view for name in views.SLICE_VIEWS] + [manager.threeDWidget(0)._view]


def panel_picture() -> np.ndarray:
    """The module's panel alone, as high as it needs to be."""
    import slicer

    panel = slicer.app._window._area.widget()
    for _ in range(SETTLING):
        panel.setFixedSize(PANEL_WIDTH, panel.layout().totalHeightForWidth(PANEL_WIDTH))
        application.process_events()
    picture = pixels(panel.grab())
    panel.setMinimumSize(0, 0)
    panel.setMaximumSize(MAXIMUM, MAXIMUM)
    return picture


def window_picture() -> np.ndarray:
    """The whole window: the panel, and the views beside it."""
    import qt
    import slicer

    from harness.behaviour_application import picture_label

    window = slicer.app._window
    middle = qt.QWidget()
    grid = qt.QGridLayout(middle)
    grid.setContentsMargins(0, 0, 0, 0)
    grid.setSpacing(2)
    axial, coronal, sagittal, three_d = (picture_label(view.picture()) for view in all_views())
    for place, label in zip(((0, 0), (1, 0), (1, 1), (0, 1)), (axial, coronal, sagittal, three_d), strict=True):
        grid.addWidget(label, *place)
    window.setCentralWidget(middle)
    window._area.setMinimumWidth(HEAD_PANEL_WIDTH)
    window.resize(HEAD_PANEL_WIDTH + 2 * VIEW_SIZE + 20, 2 * VIEW_SIZE + 30)
    for _ in range(SETTLING):
        application.process_events()
    return pixels(window.grab())


def pixels(pixmap: Any) -> np.ndarray:
    """A ``QPixmap`` as (height, width, 3), uint8."""
    image = pixmap.toImage().convertToFormat(QtGui.QImage.Format_RGB888)
    rows = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
    return rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3).copy()  # the QImage ends here


def save(picture: np.ndarray, name: str) -> None:
    """Write a picture into the folder of screenshots."""
    image = Image.fromarray(picture).quantize(COLORS, dither=Image.Dither.NONE)
    path = FOLDER / f"{name}.png"
    image.save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {image.width} x {image.height}, {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    sys.exit(main())

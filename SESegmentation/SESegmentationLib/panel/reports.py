"""Outputs of a result in the scene: its report, a table, a page, and its changes since an earlier result."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import qt
import SimpleITK as sitk
import slicer
import vtk
from slicer.i18n import tr as _

from SESegmentationExport.comparison import COLUMNS as COMPARISON_COLUMNS
from SESegmentationExport.comparison import Change, compare_reports, noise_of, other_options

from ..errors import InputError, ModelError, UsageError
from ..files import OutputFiles
from ..models import find_model
from ..mrml import (
    add_companion_node,
    check_volume_node,
    check_voxels,
    companion_node,
    edited_voxels,
    find_corrected_slices,
    find_segment,
    image_from_volume_node,
    label_map,
    result_grid,
    review_state,
    source_volume,
)
from ..report import (
    COLUMNS,
    intracranial_entry,
    size_and_spacing,
    structure_entry,
    surfaces_mm2,
    table_rows,
    versions,
    write_report,
)
from .dependencies import OF_PAGES
from .installation import Installation
from .result_record import ResultRecord

#: role of the table that belongs to a segmentation
_TABLE_ROLE = "SESegmentation.Report"
#: role of the table with the changes since an earlier result
_CHANGES_ROLE = "SESegmentation.Changes"
#: of that table: the last column says in words what changed
CHANGE_COLUMNS = (*COMPARISON_COLUMNS[:-1], "change")
#: what some systems do not allow in names of files, while names in DICOM often hold it: "3: T2/FLAIR"
_NOT_IN_FILE_NAMES = re.compile(r'[\x00-\x1f<>:"/\\|?*]+')


def _result_in_scene(node: slicer.vtkMRMLSegmentationNode) -> tuple[ResultRecord, sitk.Image, sitk.Image]:
    """Record, volume and labels of a segmentation as it is now; InputError as of :func:`scene_report`."""
    record = ResultRecord.read(node)
    if record is None:
        raise InputError(_("There is no result to report."), _("Click Segment first."))
    volume = source_volume(node)
    check_volume_node(volume)
    check_voxels(node)
    image = image_from_volume_node(volume)
    labels = label_map(node, record.labels, result_grid(node, volume))
    return record.with_volumes(labels), image, labels


def scene_report(node: slicer.vtkMRMLSegmentationNode) -> dict[str, Any]:
    """The report of a segmentation, in the same form as the command line's.

    Raises:
        InputError: it is no result of this module, is made of surfaces now, or its volume is gone.
    """
    return _report(node, *_result_in_scene(node))


def _report(
    node: slicer.vtkMRMLSegmentationNode, record: ResultRecord, image: sitk.Image, labels: sitk.Image
) -> dict[str, Any]:
    surfaces, edited = surfaces_mm2(labels), edited_voxels(node, record.labels)
    structures = []
    for structure in record.structures:
        segment = find_segment(node.GetSegmentation(), structure.label)
        corrected = structure.corrected + edited[structure.label.value]
        structures.append(
            structure_entry(structure, structure.voxels, surfaces, record.intracranial)
            | {
                "corrected_voxels": corrected,
                "corrected_share": round(corrected / max(structure.voxels, 1), 4),
                "state": review_state(segment) if segment is not None else "deleted",
            }
        )
    return {
        "input": source_volume(node).GetName(),
        "output": node.GetName(),
        "date": record.date,
        "volume": size_and_spacing(image),
        "grid": size_and_spacing(labels),
        "model": {
            "name": record.model,
            "version": record.model_version,
            "weights_sha256": record.weights_sha256,
            "licence": record.licence,
            "attribution": record.attribution,
            "adapted_parameters": record.adapted,
        },
        "options": {"fast": record.fast, "region": record.region is not None},
        "device": record.device,
        "intracranial": intracranial_entry(record.intracranial),
        "structures": structures,
        "corrected_slices": [str(entry) for entry in find_corrected_slices(node)],
        "findings": [finding.to_dict() for finding in record.findings],
        "timings_s": {"total": round(record.seconds, 3)},
        "versions": versions(),
    }


def show_table(node: slicer.vtkMRMLSegmentationNode, report: dict[str, Any]) -> slicer.vtkMRMLTableNode:
    """Put a report into the scene as a table beside the segmentation (one each), and show it."""
    return _show_rows(node, (_TABLE_ROLE, "report"), COLUMNS, table_rows(report))


def show_changes(node: slicer.vtkMRMLSegmentationNode, earlier: slicer.vtkMRMLSegmentationNode | None) -> str:
    """Put the changes since an earlier result into the scene as a table beside the segmentation, and show it.

    Volumes are those of both segmentations as they are now, after edits.

    Returns:
        How differently the scans were segmented, if they were; and which changes are larger than the noise.

    Raises:
        InputError: one of them is no result of this module, or its volume is gone.
        UsageError: no earlier result is chosen, it is this one, or they are of different models.
    """
    earlier = require_earlier(node, earlier)
    before, now = scene_report(earlier), scene_report(node)
    try:
        package = find_model(now["model"]["name"])
        known = package.card.weights_sha256 == now["model"]["weights_sha256"]
        noise = noise_of(package if known else None, before, now)
    except ModelError:  # the model is not here any more
        noise = {}
    changes = compare_reports(before, now, noise, days=None)
    rows = [change.to_dict() | {"change": change.words()} for change in changes]
    _show_rows(node, (_CHANGES_ROLE, "change"), CHANGE_COLUMNS, rows)
    doubts = [f"{finding.message} {finding.consequence}" for finding in other_options(before, now)]
    return " ".join([*doubts, _larger_changes(changes)])


def _larger_changes(changes: Sequence[Change]) -> str:
    larger = [f"{change.name} {change.words()}" for change in changes if change.exceeds_noise]
    if not any(change.exceeds_noise is not None for change in changes):
        return _("The noise was not measured for this model: any change may be noise.")
    if larger:
        return _("Changed by more than noise: {names}.").format(names="; ".join(larger))
    return _("No structure changed by more than noise.")


def require_earlier(
    node: slicer.vtkMRMLSegmentationNode, earlier: slicer.vtkMRMLSegmentationNode | None
) -> slicer.vtkMRMLSegmentationNode:
    """The earlier result; UsageError where none is chosen, or it is the same."""
    if earlier is None or earlier is node:
        raise UsageError(_("No earlier result is chosen."), _("Choose the segmentation of an earlier scan."))
    return earlier


def _show_rows(
    node: slicer.vtkMRMLSegmentationNode,
    table_of: tuple[str, str],
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
) -> slicer.vtkMRMLTableNode:
    """Show rows as a table that belongs to a segmentation; ``table_of``: its role, and the suffix of its name."""
    role, suffix = table_of
    table = companion_node(node, role, "vtkMRMLTableNode")
    if table is None:
        table = add_companion_node(node, role, "vtkMRMLTableNode", f"{node.GetName()} {suffix}")
    table.RemoveAllColumns()
    table.SetUseColumnTitleAsColumnHeader(True)
    for name in columns:
        values = [row[name] for row in rows]
        numeric = all(isinstance(value, (int, float)) for value in values)
        column = vtk.vtkDoubleArray() if numeric else vtk.vtkStringArray()
        column.SetName(name)
        for value in values:
            column.InsertNextValue(value if numeric else "" if value is None else str(value))
        table.AddColumn(column)
    slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpTableView)
    logic = slicer.app.applicationLogic()
    logic.GetSelectionNode().SetActiveTableID(table.GetID())
    logic.PropagateTableSelection()
    return table


def save_report(report: dict[str, Any]) -> Path | None:
    """Ask for a file, CSV or JSON, and write a report there; None where the user cancels.

    Raises:
        UsageError, OutputError: it cannot be written.
    """
    kinds = {".csv": _("Table (*.csv)"), ".json": _("Complete report (*.json)")}
    file = _ask_for_file(_("Save report"), report["output"], kinds)
    if file is not None:
        with OutputFiles() as files:
            write_report(files.begin(file), report)
    return file


def save_page(
    node: slicer.vtkMRMLSegmentationNode, installation: Installation, on_saved: Callable[[Path], None]
) -> None:
    """Ask for a file, HTML or PDF, and write the page about a segmentation there; nothing where the user cancels.

    Args:
        node: the segmentation.
        installation: installs the packages that make the page, if the user agrees; the page is written afterwards.
        on_saved: called with the file once it is written.

    Raises:
        DependencyError: a package is not installed.
        UsageError: there is no such folder.
        InputError, OutputError: as of :func:`scene_report`, or it cannot be written.
    """
    from SESegmentationExport.page import write_page  # slow to import

    file = _ask_for_file(_("Save page"), node.GetName(), {".html": _("Web page (*.html)"), ".pdf": _("PDF (*.pdf)")})
    if file is None:
        return

    def write() -> None:
        record, image, labels = _result_in_scene(node)
        with OutputFiles() as files:
            write_page(files, file, _report(node, record, image, labels), image, labels, record.labels)
        on_saved(file)

    installation.ensure(write, OF_PAGES[file.suffix.lower()])


def _ask_for_file(title: str, name: str, kinds: Mapping[str, str]) -> Path | None:
    """Ask where to save; None where the user cancels.

    Args:
        title: of the dialog.
        name: suggested, without its ending.
        kinds: file extensions, with their names in the dialog; the first is the default.

    Raises:
        UsageError: there is no such folder.
    """
    usual, filters = next(iter(kinds)), ";;".join(kinds.values())
    suggested = _NOT_IN_FILE_NAMES.sub("_", name) + usual
    path = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, suggested, filters)
    if not path:
        return None
    file = Path(path) if Path(path).suffix.lower() in kinds else Path(f"{path}{usual}")
    if file != Path(path) and file.exists():  # the dialog has not asked about this one
        question = _("{file} exists already. Replace it?").format(file=file.name)
        if not slicer.util.confirmOkCancelDisplay(question, title):
            return None
    if not file.parent.is_dir():  # probably a typing mistake: no folder is created
        raise UsageError(
            _("{file} cannot be written: {reason}.").format(file=file.name, reason=os.strerror(errno.ENOENT)),
            _("Choose another folder, or close the file elsewhere."),
        )
    return file

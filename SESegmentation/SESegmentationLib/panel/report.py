"""The report of a result as it is in the scene, edits included: as a file, and as a table beside the segmentation."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import qt
import slicer
import vtk
from slicer.i18n import tr as _

from ..errors import InputError, UsageError
from ..files import OutputFiles
from ..mrml import (
    check_volume_node,
    edited_voxels,
    find_corrections,
    find_segment,
    image_from_volume_node,
    label_map,
    made_node,
    place_beside,
    refer_to_made,
    result_grid,
    review_state,
)
from ..report import (
    COLUMNS,
    intracranial_entry,
    intracranial_share,
    size_and_spacing,
    surfaces_mm2,
    table_rows,
    versions,
    write_report,
)
from .correction import result_volume
from .result_record import ResultRecord

_TABLE_ROLE = "SESegmentation.Report"


def scene_report(node: slicer.vtkMRMLSegmentationNode) -> dict[str, Any]:
    """The report of a segmentation, of the same form as that of the command line.

    Raises:
        InputError: it is no result of this module, or its volume is gone.
    """
    record = ResultRecord.read(node)
    if record is None:
        raise InputError(_("There is no result to report."), _("Click Segment first."))
    volume = result_volume(node)
    check_volume_node(volume)
    image = image_from_volume_node(volume)
    labels = label_map(node, record.labels, result_grid(node, image))
    record = record.measured(labels)
    voxel_ml = float(np.prod(labels.GetSpacing())) / 1000
    surfaces, edited = surfaces_mm2(labels), edited_voxels(node, record.labels)
    structures = []
    for structure in record.structures:
        label, segment = structure.label, find_segment(node.GetSegmentation(), structure.label)
        voxels = round(structure.volume_ml / voxel_ml)
        corrected = structure.corrected + edited[label.value]
        structures.append(
            {
                "value": label.value,
                "name": label.name,
                "code": label.type.to_dict(),
                "voxels": voxels,
                "volume_ml": round(structure.volume_ml, 4),
                "intracranial_share": intracranial_share(structure.volume_ml, record.intracranial),
                "surface_mm2": round(surfaces.get(label.value, 0.0), 2),
                "confidence": round(structure.confidence, 4),
                "expected_dice": None if structure.expected_dice is None else round(structure.expected_dice, 4),
                "corrected_voxels": corrected,
                "corrected_share": round(corrected / max(voxels, 1), 4),
                "state": review_state(segment) if segment is not None else "deleted",
            }
        )
    return {
        "input": volume.GetName(),
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
        "device": record.device,
        "intracranial": intracranial_entry(record.intracranial),
        "structures": structures,
        "corrected_slices": [str(entry) for entry in find_corrections(node)],
        "findings": [vars(finding) for finding in record.findings],
        "timings_s": {"total": round(record.seconds, 3)},
        "versions": versions(),
    }


def show_table(node: slicer.vtkMRMLSegmentationNode, report: dict[str, Any]) -> slicer.vtkMRMLTableNode:
    """Put a report into the scene as a table beside the segmentation (one each), and show it."""
    table, scene = made_node(node, _TABLE_ROLE, "vtkMRMLTableNode"), node.GetScene()
    if table is None:
        table = scene.AddNewNodeByClass("vtkMRMLTableNode", scene.GenerateUniqueName(f"{node.GetName()} report"))
        refer_to_made(node, _TABLE_ROLE, table)
        place_beside(table, node)
    table.RemoveAllColumns()
    table.SetUseColumnTitleAsColumnHeader(True)
    rows = table_rows(report)
    for name in COLUMNS:
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


def save_report(report: dict[str, Any], name: str) -> Path | None:
    """Ask for a file, CSV or JSON, and write a report there; None where the user changes their mind.

    Raises:
        UsageError, OutputError: it cannot be written.
    """
    path = qt.QFileDialog.getSaveFileName(
        slicer.util.mainWindow(), _("Save report"), f"{name}.csv", _("Table (*.csv);;All of it (*.json)")
    )
    if not path:
        return None
    file = Path(path) if Path(path).suffix.lower() in (".csv", ".json") else Path(f"{path}.csv")
    if not file.parent.is_dir():  # typed wrong: none is made for that
        raise UsageError(
            _("{file} cannot be written: {reason}.").format(file=file.name, reason=os.strerror(errno.ENOENT)),
            _("Choose another folder, or close the file elsewhere."),
        )
    with OutputFiles() as files:
        write_report(files.begin(file), report)
    return file

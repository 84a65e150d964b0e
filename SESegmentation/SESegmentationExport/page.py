"""A page about one patient's scan, as self-contained HTML or as PDF: pictures, volumes and expected Dice."""

from __future__ import annotations

import base64
import io
import textwrap
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from SESegmentationLib.files import OutputFiles
from SESegmentationLib.geometry import Geometry
from SESegmentationLib.io.volume_image import voxels_of
from SESegmentationLib.models import Label
from SESegmentationLib.report import readable, without_folders
from SESegmentationLib.result import SegmentationResult
from SESegmentationLib.structure_rows import (
    NONE,
    StructureRow,
    asymmetry,
    find_rows,
    signed_percent,
    significant,
    traffic_light,
)

from . import Export, file_per_volume, require_packages, templates

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

ENDINGS = (".html", ".pdf")
PURPOSE = "For research. Not a medical device: not to be used for diagnosis or treatment."
#: structures that are shown by themselves: the least certain ones
CLOSE_UPS = 2
#: pixels of a slice's longer side in pictures of all structures and of a single one
_PIXELS, _FEWER_PIXELS = 420, 260
_QUALITY = 85  # of WebP
_NOT_FOUND = "not found"
_CERTAINTY = (
    "Expected Dice is the overlap with the truth that was measured, on cases kept out of the training, where the "
    "networks agreed as they do here; confidence is shown where a model has no calibration for it."
)
#: matplotlib's settings and caches are those of the process
_drawing = threading.Lock()


class Pages(Export):
    """A page for each volume.

    Args:
        path: a file that ends in ``.html`` or ``.pdf``, for one volume only, or a folder, for pages in HTML.
        names: of the volumes.

    Raises:
        UsageError: it is neither.
        DependencyError: a package is not installed.
    """

    def __init__(self, path: Path, names: Mapping[Path, str]) -> None:
        self._files = file_per_volume("--page", path, names, ENDINGS, "{}.html")
        self.outputs = list(self._files.values())
        for file in self.outputs[:1]:
            require_packages_for(file)

    def take(
        self, files: OutputFiles, volume: Path, image: sitk.Image, result: SegmentationResult, report: Mapping[str, Any]
    ) -> None:
        """Write the page of one volume."""
        labels = [structure.label for structure in result.structures]
        write_page(files, self._files[volume], report, image, result.labels, labels)


def require_packages_for(path: Path) -> None:
    """Raise DependencyError where a package that a page is made by is not installed."""
    require_packages("A page", "pillow", "matplotlib" if path.suffix.lower() == ".pdf" else "jinja2")


def write_page(
    files: OutputFiles,
    path: Path,
    report: Mapping[str, Any],
    image: sitk.Image,
    label_map: sitk.Image,
    labels: Sequence[Label],
) -> None:
    """Write the page of one scan.

    Args:
        files: outputs, whole or not at all.
        path: ends in ``.html`` or ``.pdf``.
        report: of the scan, see :func:`SESegmentationLib.report.build_report`; the panel's has states, too.
        image: the volume.
        label_map: the segmentation; it may lie on another grid.
        labels: of the report's structures, in their order.

    Raises:
        DependencyError: a package is not installed.
        OutputError: the file cannot be written.
    """
    require_packages_for(path)
    page = Page.of(report, labels, draw_pictures(report, image, label_map, labels))
    files.write(path, as_pdf(page) if path.suffix.lower() == ".pdf" else as_html(page))


@dataclass(frozen=True)
class Row:
    """One row of the table: a structure, or left and right of a pair; numbers are texts, empty where unknown.

    ``certainty`` is the expected Dice, or the confidence, and ``light`` the colour of its traffic light; ``state`` is
    that of the review in the panel.
    """

    name: str
    color: str
    region: str
    volumes: tuple[str, ...]
    shares: tuple[str, ...]
    asymmetry: str
    certainty: str
    light: str
    state: str


@dataclass(frozen=True)
class Page:
    """Content of a page: the table, warnings with consequences, names and texts of the provenance, titled pictures."""

    title: str
    intracranial: str
    certainty: str
    rows: tuple[Row, ...]
    findings: tuple[tuple[str, str], ...]
    provenance: tuple[tuple[str, str], ...]
    pictures: tuple[tuple[str, Image], ...]

    @classmethod
    def of(cls, report: Mapping[str, Any], labels: Sequence[Label], pictures: Sequence[tuple[str, Image]]) -> Page:
        """The page of a report; ``labels`` are those of its structures, in their order."""
        source, known = Path(report["input"]), report["intracranial"]
        measure = _measure(report)
        return cls(
            title=readable(source.name),
            intracranial=f"{known['volume_ml']:.0f} ± {known['error_ml']:.0f} ml" if known else "",
            certainty="Expected Dice (%)" if measure == "expected_dice" else "Confidence (%)",
            rows=tuple(_row(row, report["structures"], labels, measure) for row in find_rows(labels)),
            findings=tuple(
                (without_folders(finding["message"], source), without_folders(finding["consequence"], source))
                for finding in report["findings"]
            ),
            provenance=tuple(_provenance(report)),
            pictures=tuple(pictures),
        )

    @property
    def paired(self) -> bool:
        """Whether there are left and right structures."""
        return any(len(row.volumes) == 2 for row in self.rows)

    @property
    def note(self) -> str:
        """What the columns of the table mean."""
        sides = "Two numbers are left / right. Asymmetry is the difference of left and right over their mean. "
        return (sides if self.paired else "") + _CERTAINTY


def _measure(report: Mapping[str, Any]) -> str:
    """The measure of certainty that is shown, expected Dice or confidence, as in the panel."""
    found = [entry for entry in report["structures"] if entry["voxels"]]
    return "expected_dice" if any(entry["expected_dice"] is not None for entry in found) else "confidence"


def _row(row: StructureRow, entries: Sequence[Mapping[str, Any]], labels: Sequence[Label], measure: str) -> Row:
    members = [entries[index] for index in row.members]
    numbers = [entry[measure] if entry["voxels"] else None for entry in members]
    known = [number for number in numbers if number is not None]
    shares = [entry["intracranial_share"] for entry in members]
    percent = asymmetry(*(entry["volume_ml"] for entry in members)) if row.is_pair else None
    return Row(
        name=readable(row.name),
        color=_hex(labels[row.members[0]].color),
        region=row.region,
        volumes=tuple(significant(e["volume_ml"], 2) if e["voxels"] else _NOT_FOUND for e in members),
        shares=()
        if None in shares
        else tuple(significant(100 * s, 3) if e["voxels"] else NONE for s, e in zip(shares, members, strict=True)),
        asymmetry=signed_percent(percent) if row.is_pair else "",
        certainty=" / ".join(NONE if number is None else str(round(100 * number)) for number in numbers),
        light=_hex(traffic_light(min(known))) if known else "",
        state=" / ".join(dict.fromkeys(_state(entry) for entry in members if "state" in entry)),
    )


def _state(entry: Mapping[str, Any]) -> str:
    if not entry["corrected_voxels"]:
        return entry["state"]
    corrected = f"{100 * entry['corrected_share']:.0f} % corrected"
    return corrected if entry["state"] == "corrected" else f"{entry['state']}, {corrected}"


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _provenance(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    model, versions = report["model"], report["versions"]
    yield "Scan", f"{readable(Path(report['input']).name)}, {_grid(report['volume'])}"
    if report["grid"] != report["volume"]:
        yield "Grid of the result", _grid(report["grid"])
    if report["output"]:
        yield "Segmentation", readable(Path(report["output"]).name)
    yield "Model", f"{model['name']} {model['version']}, weights SHA-256 {model['weights_sha256']}"
    if model.get("adapted_parameters"):
        yield "Recalibrated", f"{model['adapted_parameters']} parameters, on corrected slices of this patient"
    if report.get("corrected_slices"):
        yield "Corrected slices", ", ".join(report["corrected_slices"])
    yield "Terms of the weights", ". ".join(text for text in (model["licence"], model["attribution"]) if text)
    seconds = sum(report["timings_s"].values())
    yield "Segmented", f"{report['date']}, in {seconds:.0f} s on {report['device']}"
    yield "Programs", ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def _grid(entry: Mapping[str, Any]) -> str:
    size, spacing = entry["size"], entry["spacing_mm"]
    return f"{' × '.join(map(str, size))} voxels of {' × '.join(f'{mm:.4g}' for mm in spacing)} mm"


def draw_pictures(
    report: Mapping[str, Any], image: sitk.Image, label_map: sitk.Image, labels: Sequence[Label]
) -> list[tuple[str, Image]]:
    """Three slices with all structures, and three with each of the least certain ones."""
    from SESegmentationLib.io.drawing import draw_slices

    pictures = [("All structures, outlined", draw_slices(image, label_map, labels, _PIXELS))]
    measure, grid, values = _measure(report), Geometry.of(label_map), voxels_of(label_map)
    what = "expected Dice" if measure == "expected_dice" else "confidence"
    pairs = zip(report["structures"], labels, strict=True)
    found = [(entry[measure], label) for entry, label in pairs if entry["voxels"] and entry[measure] is not None]
    for number, label in sorted(found, key=lambda one: one[0])[: CLOSE_UPS if len(labels) > 1 else 0]:
        alone = grid.image(np.where(values == label.value, values, values.dtype.type(0)))
        title = f"{readable(label.name)}: {what} {round(100 * number)} %"
        pictures.append((title, draw_slices(image, alone, [label], _FEWER_PIXELS)))
    return pictures


def as_html(page: Page) -> str:
    """The page as one HTML file."""
    pictures = []
    for title, picture in page.pictures:
        content = io.BytesIO()
        picture.save(content, format="WebP", quality=_QUALITY)
        pictures.append((title, base64.b64encode(content.getvalue()).decode("ascii")))
    return templates().get_template("page.html").render(page=page, pictures=pictures, purpose=PURPOSE)


def as_pdf(page: Page) -> bytes:
    """The page as PDF: sheets of A4."""
    from matplotlib.backends.backend_pdf import PdfPages

    content = io.BytesIO()
    metadata = {"Title": page.title, "Subject": PURPOSE, "Creator": "SESegmentation"}
    with _drawing, PdfPages(content, metadata=metadata) as sheets:
        for figure in draw_sheets(page):
            sheets.savefig(figure)
    return content.getvalue()


#: size and margin of a sheet, height of a line, right edges of the columns of numbers and left edge of the last, in mm
_WIDTH, _HEIGHT, _MARGIN, _LINE = 210.0, 297.0, 16.0, 4.6
_RIGHT_EDGES = (72.0, 90.0, 114.0, 132.0, 154.5)
_MIDLINE, _REVIEW = (72.0, 81.0, *_RIGHT_EDGES[2:]), 159.0  # of no side: between left and right
_GREY = "#59616c"


class _Sheets:
    """Sheets of paper that are filled line by line from the top; lengths in mm."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []
        self.y = 0.0

    def need(self, height: float) -> bool:
        """Begin a new sheet if there is less room than this; returns whether it did."""
        if self.figures and self.y - height > _MARGIN + 6:
            return False
        from matplotlib.figure import Figure

        self.figures.append(Figure(figsize=(_WIDTH / 25.4, _HEIGHT / 25.4)))
        self.y = _HEIGHT - _MARGIN
        return True

    def text(self, x: float, text: str, size: float = 8.5, **style: Any) -> None:
        """Write a text at x on the current line; "$" is not read as a formula."""
        self.figures[-1].text(x / _WIDTH, self.y / _HEIGHT, text, size=size, va="top", parse_math=False, **style)

    def paragraph(self, text: str, **style: Any) -> None:
        """Write a text of any length, line by line."""
        for line in textwrap.wrap(text, 104):
            self.need(_LINE)
            self.text(_MARGIN, line, **style)
            self.y -= _LINE

    def heading(self, text: str) -> None:
        """Write a heading that stays with what follows."""
        self.need(5 * _LINE)
        self.y -= 2
        self.text(_MARGIN, text, size=11, weight="bold")
        self.y -= 6

    def pictures(self, titled: Sequence[tuple[str, Image]]) -> None:
        """Put pictures of one size side by side over the whole width, each under its title."""
        if not titled:
            return
        width = (_WIDTH - 2 * _MARGIN - 4 * (len(titled) - 1)) / len(titled)
        height = width * titled[0][1].height / titled[0][1].width
        self.need(height + _LINE + 5)
        self.y -= 2
        for number, (title, picture) in enumerate(titled):
            x = _MARGIN + number * (width + 4)
            self.text(x, title, weight="bold")
            box = x / _WIDTH, (self.y - _LINE - height) / _HEIGHT, width / _WIDTH, height / _HEIGHT
            axes = self.figures[-1].add_axes(box, frameon=False, xticks=[], yticks=[])
            axes.imshow(np.asarray(picture), interpolation="none", aspect="auto")
        self.y -= _LINE + height + 3


def draw_sheets(page: Page) -> list[Figure]:
    """The sheets of the page."""
    sheets = _Sheets()
    sheets.need(0)
    for line in textwrap.wrap(page.title, 46) or [""]:
        sheets.text(_MARGIN, line, size=15, weight="bold")
        sheets.y -= 8
    sheets.paragraph(PURPOSE, color="#b02a2a")
    sheets.pictures(page.pictures[:1])
    if page.findings:
        sheets.heading("Warnings")
        for message, consequence in page.findings:
            sheets.paragraph(f"{message} {consequence}")
    _draw_table(sheets, page)
    sheets.pictures(page.pictures[1:])
    sheets.heading("Provenance")
    for name, text in page.provenance:
        sheets.paragraph(f"{name}: {text}")
    style: dict[str, Any] = {"y": (_MARGIN - 6) / _HEIGHT, "size": 7, "color": _GREY, "parse_math": False}
    for number, figure in enumerate(sheets.figures, start=1):
        figure.text(_MARGIN / _WIDTH, s=f"{_cut(page.title, 60)} · {PURPOSE}", **style)
        figure.text(1 - _MARGIN / _WIDTH, s=f"{number} of {len(sheets.figures)}", ha="right", **style)
    return sheets.figures


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _draw_table(sheets: _Sheets, page: Page) -> None:
    sheets.heading("Structures" + (f" (intracranial volume {page.intracranial})" if page.intracranial else ""))
    sides = ("Left (ml)", "Right (ml)") if page.paired else ("", "Volume (ml)")
    share = "Share (%)" if page.intracranial else ""
    titles = (*sides, share, "Asym. (%)" if page.paired else "", page.certainty.replace("Expected", "Exp."))

    def head() -> None:
        for edge, title in zip(_RIGHT_EDGES, titles, strict=False):
            sheets.text(edge, title, ha="right", color=_GREY)
        if any(row.state for row in page.rows):
            sheets.text(_REVIEW, "Review", color=_GREY)
        sheets.y -= _LINE

    head()
    region = ""
    for row in page.rows:
        if sheets.need(3 * _LINE):
            head()
        if row.region != region:
            region = row.region
            sheets.text(_MARGIN, region, weight="bold")
            sheets.y -= _LINE
        sheets.text(_MARGIN, "\u25a0", color=row.color)
        sheets.text(_MARGIN, "\u25a1", color=_GREY)
        sheets.text(_MARGIN + 4, _cut(row.name, 30))
        cells = (*(row.volumes if len(row.volumes) == 2 else ("", *row.volumes)), " / ".join(row.shares))
        edges = _MIDLINE if page.paired and len(row.volumes) == 1 else _RIGHT_EDGES
        for edge, text in zip(edges, (*cells, row.asymmetry, row.certainty), strict=False):
            sheets.text(edge, text, ha="right")
        if row.light:
            sheets.text(_RIGHT_EDGES[4] + 1, "\u25cf", color=row.light)
        for line in textwrap.wrap(row.state, 28) or [""]:
            sheets.text(_REVIEW, line, size=7)
            sheets.y -= _LINE
    sheets.paragraph(page.note, color=_GREY)

"""The page of one patient's scan, by ``sesegment run --page``: what it says in HTML and PDF, and what it does not."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

from browser import NoBrowserError, chromium
from SESegmentationExport import page as pages
from SESegmentationExport.page import PURPOSE, Page, as_html, as_pdf, draw_pictures, draw_sheets
from SESegmentationLib.cli import main
from SESegmentationLib.geometry import Geometry
from SESegmentationLib.models.labels import brain_labels

pytest.importorskip("jinja2", reason="needs the extra 'export'")
pytest.importorskip("matplotlib", reason="needs the extra 'export'")
LABELS = list(brain_labels())
STRANGE = '<script>document.title = "x"</script> $x_2$'


def entry(number: int, label, ml: float | None = None, dice: float | None = 0.9, **more) -> dict:
    """A structure of a report."""
    ml = 1.0 + number if ml is None else ml
    return {
        "value": label.value,
        "name": label.name,
        "voxels": round(1000 * ml),
        "volume_ml": ml,
        "intracranial_share": ml / 1500,
        "confidence": 0.8,
        "expected_dice": dice,
    } | more


@pytest.fixture
def report() -> dict:
    """A report of a brain."""
    by_name = {label.name: number for number, label in enumerate(LABELS)}
    structures = [entry(number, label) for number, label in enumerate(LABELS)]
    structures[by_name["left hippocampus"]] |= {"volume_ml": 3.0, "intracranial_share": 0.002, "expected_dice": 0.615}
    structures[by_name["right hippocampus"]] |= {"volume_ml": 4.0, "intracranial_share": 4 / 1500}
    structures[by_name["left amygdala"]] |= {"voxels": 0, "volume_ml": 0.0, "intracranial_share": 0.0}
    structures[by_name["brain stem"]] |= {"expected_dice": None}
    return {
        "input": "/data/Anna Doe/scan_T1w.nii.gz",
        "output": "/data/Anna Doe/out/scan.nii.gz",
        "date": "2026-01-02T03:04:05+00:00",
        "volume": {"size": [10, 20, 30], "spacing_mm": [1.0, 1.0, 5.0]},
        "grid": {"size": [10, 20, 150], "spacing_mm": [1.0, 1.0, 1.0]},
        "model": {
            "name": "m",
            "version": "1.2.3",
            "weights_sha256": "ab" * 32,
            "licence": "MIT",
            "attribution": "A, B",
        },
        "device": "cpu",
        "intracranial": {"volume_ml": 1500.0, "error_ml": 30.0},
        "structures": structures,
        "findings": [{"message": f"In /data/Anna Doe/scan_T1w.nii.gz: {STRANGE}", "consequence": "It is doubtful."}],
        "timings_s": {"a": 1.5, "b": 2.5},
        "versions": {"SESegmentation": "0.1.0", "torch": None},
    }


def texts_of(page: Page) -> list[str]:
    """All that is written on the sheets of a PDF."""
    return [text.get_text() for figure in draw_sheets(page) for text in figure.texts]


def cells_of(html: str) -> dict[str, list[str]]:
    """Cells of the table by name of the structure."""
    rows = re.findall(r'<tr><th scope="row">(.*?)</tr>', html, re.DOTALL)
    plain = [[re.sub("<[^>]*>", "", cell).strip() for cell in re.split("</t[hd]>", row)[:-1]] for row in rows]
    return {row[0]: row[1:] for row in plain}


def test_the_table_as_html_and_as_pdf(report):
    page = Page.of(report, LABELS, [])
    cells = cells_of(as_html(page))
    asymmetry = f"\u2212{100 * (4 - 3) / 3.5:.1f}"
    assert cells["hippocampus"] == ["3.00", "4.00", "0.200 / 0.267", asymmetry, "62 / 90"]
    assert cells["amygdala"][:2] == ["not found", cells["amygdala"][1]] and cells["amygdala"][3:] == [
        "\u2013",
        "\u2013 / 90",
    ]
    assert cells["brain stem"][-1] == "\u2013" and cells["brain stem"][2] == ""
    assert len(cells) == 4 + 14
    texts = texts_of(page)
    place = texts.index("hippocampus")
    assert texts[place + 1 : place + 6] == cells["hippocampus"]
    lights = {row.name: row.light for row in page.rows}
    assert (lights["hippocampus"], lights["brain stem"]) == ("#d0342c", "")
    for text in (as_html(page), "\n".join(texts)):
        for told in ("scan_T1w.nii.gz", PURPOSE, "1500 ± 30 ml", "ab" * 32, "m 1.2.3", "MIT. A, B", "4 s on cpu"):
            assert told in text
        assert not re.search("Anna|/data|None", text)


def test_confidence_and_one_column_where_a_model_has_no_more(report):
    stem = next(label for label in LABELS if label.name == "brain stem")
    single = report | {"structures": [entry(0, stem, dice=None, intracranial_share=None)], "intracranial": None}
    html = as_html(Page.of(single, [stem], []))
    assert cells_of(html) == {"brain stem": ["1.00", "80"]}
    assert "Confidence (%)</th>" in html and "Left" not in html and "intracranial" not in html.split("<body>")[1]
    assert "Volume (ml)" in texts_of(Page.of(single, [stem], []))


def test_many_structures_and_long_texts_stay_on_sheets(report):
    labels = LABELS + [replace(LABELS[0], value=900 + n, name=f"nucleus {n} " * 8) for n in range(60)]
    review = {"state": "accepted", "corrected_voxels": 9, "corrected_share": 0.1}
    report["structures"] = [entry(n, label, **review) for n, label in enumerate(labels)]
    report["findings"] *= 60
    page = Page.of(report | {"input": "/data/" + "long_name_" * 30}, labels, [])
    sheets = draw_sheets(page)
    assert len(sheets) > 2
    for figure in sheets:
        figure.canvas.draw()
        for text in figure.texts:
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0, text.get_text()
    assert sum(text.get_text() == "Left (ml)" for figure in sheets for text in figure.texts) >= 2, "headings again"
    assert as_pdf(page).count(b"/Type /Page ") == len(sheets)


def test_close_ups_of_the_least_certain(report):
    array = np.zeros((30, 20, 10), np.uint8)
    for number, label in enumerate(LABELS[:20]):
        array[number + 2, 5:9, 4:8] = label.value
    labels = Geometry((10, 20, 30), (1.0,) * 3, (0.0,) * 3, tuple(np.eye(3).ravel())).image(array)
    for number, structure in enumerate(report["structures"]):
        structure["expected_dice"] = 0.9 - number / 100
    report["structures"][25]["voxels"] = 0
    pictures = draw_pictures(report, labels, labels, LABELS)
    assert [title for title, _ in pictures] == [
        "All structures, outlined",
        *(f"{LABELS[number].name}: expected Dice {round(90 - number)} %" for number in (31, 30)),
    ]
    assert all(picture.getextrema() != ((0, 0),) * 3 for _, picture in pictures)


def test_nothing_of_a_text_is_run_and_nothing_is_asked_of_the_network(report, tmp_path):
    path = tmp_path / "page.html"
    report["structures"][0]["name"] = STRANGE
    path.write_text(
        as_html(Page.of(report | {"input": f"/data/{STRANGE.replace('/', '')}"}, LABELS, [])), encoding="utf-8"
    )
    try:
        with chromium() as browser:
            tab = browser.new_page(viewport={"width": 800, "height": 600})
            trouble = []
            tab.on("request", lambda request: trouble.append(request.url) if request.url.startswith("http") else None)
            tab.on("console", lambda message: trouble.append(message.text))
            tab.goto(path.as_uri())
            assert tab.title() == STRANGE.replace("/", "") and trouble == []
            assert STRANGE in tab.inner_text("ul")
            assert tab.evaluate("document.body.scrollWidth <= innerWidth")
    except NoBrowserError as error:
        pytest.skip(str(error))


def test_pages_of_a_run(tiny_model, sample_file, tmp_path, capfd):
    folder = tmp_path / "John Doe"
    folder.mkdir()
    for name in "ab":
        shutil.copy(sample_file, folder / f"{name}.nii.gz")
    common = ["-m", tiny_model, "-o", tmp_path / "out", "--device", "cpu", "--json", "--page"]
    assert main(["run", *map(str, [folder, *common, tmp_path / "pages"])]) == 0
    first = json.loads(capfd.readouterr().out)[0]
    html = (tmp_path / "pages" / "a.html").read_text(encoding="utf-8")
    assert cells_of(html)["anterior hippocampus"][0] == pages.significant(first["structures"][0]["volume_ml"], 2)
    assert html.count('src="data:image/webp') == 3 and (tmp_path / "pages" / "b.html").exists()
    assert not re.search("John Doe|/tmp", html)
    assert main(["run", *map(str, [folder / "a.nii.gz", *common, tmp_path / "a.PDF"])]) == 0
    assert (tmp_path / "a.PDF").read_bytes().startswith(b"%PDF-")


def test_without_its_package_nothing_is_begun(tiny_model, sample_file, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    options = ["-m", tiny_model, "-o", tmp_path / "out.nii.gz", "--page", tmp_path / "a.pdf"]
    assert main(["run", *map(str, [sample_file, *options])]) == 1
    assert "matplotlib" in (told := capfd.readouterr().err) and "pip install" in told
    assert not (tmp_path / "out.nii.gz").exists()

"""The sheet of a batch in headless Chromium: keys, marks, order, pictures."""

from __future__ import annotations

import json

import pytest

from benchmarks.sheet import synthetic_scans
from browser import NoBrowserError, chromium
from SESegmentationExport import sheet

COUNT = 40


@pytest.fixture(scope="module")
def scans():
    scans = synthetic_scans(COUNT, structures=3)
    for number, scan in enumerate(scans):
        scan["structures"][0]["expected_dice"] = 0.9 - number / 100
        for structure in scan["structures"][1:]:
            structure["expected_dice"] = 0.95
    for structure, ml in zip(scans[7]["structures"][:2], (900.0, 0.001), strict=True):
        structure["volume_ml"] = ml
    scans[3] |= {"error": {"cause": "It is damaged.", "remedy": "Copy it again."}, "structures": [], "picture": None}
    scans[5]["name"] = '<img src=x onerror="document.title = 1">'
    scans[5]["findings"] = [{"message": "</script><script>document.title = 1</script>", "consequence": "{{ 1 }}"}]
    return scans


@pytest.fixture(scope="module")
def browser():
    try:
        with chromium() as found:
            yield found
    except NoBrowserError as error:
        pytest.skip(str(error))


@pytest.fixture
def tab(browser, scans, tmp_path):
    """The page in a tab of a new profile; what it asked the network for and complained of must be nothing."""
    path = tmp_path / sheet.PAGE
    path.write_text(sheet.page(scans), encoding="utf-8")
    context = browser.new_context(viewport={"width": 1400, "height": 800}, accept_downloads=True)
    tab = context.new_page()
    trouble = []
    tab.on("request", lambda request: trouble.append(request.url) if request.url.startswith("http") else None)
    tab.on("console", lambda message: trouble.append(message.text))
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.goto(path.as_uri())
    yield tab
    assert trouble == []
    context.close()


def names(tab) -> list[str]:
    """Scans as they are seen from top to bottom."""
    return tab.evaluate(
        """[...document.querySelectorAll(".scan")].filter(row => !row.hidden)
           .sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top)
           .map(row => row.querySelector("h2").textContent)"""
    )


def current(tab) -> str:
    return tab.inner_text("[aria-current] h2")


def test_worst_come_first_and_the_order_can_be_chosen(tab, scans):
    assert names(tab)[0] == scans[3]["name"], "what was not segmented"
    assert names(tab)[1:4] == [scans[number]["name"] for number in (39, 38, 37)], "then the lowest expected Dice"
    assert "It is damaged." in tab.inner_text(".failure")
    tab.select_option("#sort", "outliers")
    assert names(tab)[0] == scans[7]["name"]
    assert tab.locator(".scan", has_text=scans[7]["name"]).locator(".outlier").count() == 2
    tab.select_option("#sort", "name")
    assert names(tab)[1:] == sorted(scan["name"] for scan in scans if scan is not scans[5])
    assert current(tab) == names(tab)[0], "keys go on from the top"
    tab.keyboard.press("j")
    assert current(tab) == names(tab)[1], "and in the order that is seen"


def test_keys_mark_and_go_on(tab, scans):
    first, second, third, fourth = names(tab)[:4]
    for key, expected in (("p", second), ("l", third), ("f", fourth), ("k", third), ("ArrowDown", fourth)):
        tab.keyboard.press(key)
        assert current(tab) == expected
    tab.keyboard.press("Control+p")
    marked = 'article[data-mark="{}"] h2'
    assert [tab.inner_text(marked.format(mark)) for mark in sheet.MARKS] == [first, second, third]
    assert tab.inner_text("#count") == f"3 of {COUNT} marked, not saved"
    tab.select_option("#show", "look again")
    assert names(tab) == [second]
    tab.keyboard.press("u")
    assert tab.inner_text("#count") == f"2 of {COUNT} marked, not saved"
    tab.select_option("#show", "unmarked")
    assert len(names(tab)) == COUNT - 2
    button = tab.locator(".scan:not([hidden])").first.get_by_role("button", name="fail")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert button.get_attribute("aria-pressed") == "false"


def test_marks_are_saved_read_back_and_kept(tab, scans, tmp_path):
    first, second = names(tab)[:2]
    for key in "fp":
        tab.keyboard.press(key)
    with tab.expect_download() as download:
        tab.keyboard.press("s")
    saved = tmp_path / "marks.json"
    download.value.save_as(saved)
    assert download.value.suggested_filename == "marks.json"
    assert tab.inner_text("#count") == f"2 of {COUNT} marked"
    marks = sheet.read_marks(saved)
    assert [(mark["name"], mark["mark"]) for mark in marks] == [(first, "fail"), (second, "pass")]
    by_name = {scan["name"]: scan for scan in scans}
    assert [mark["sha256"] for mark in marks] == [by_name[name]["sha256"] for name in (first, second)]
    assert {mark["model"] for mark in marks} == {"synthetic"}
    tab.keyboard.press("p")
    tab.once("dialog", lambda dialog: dialog.accept())  # asks before marks are lost that were not saved
    tab.reload()
    assert tab.inner_text("#count") == f"3 of {COUNT} marked, not saved", "marks outlive the page"
    tab.evaluate("localStorage.clear(); unsaved = false")
    tab.reload()
    assert tab.inner_text("#count") == f"0 of {COUNT} marked"
    tab.set_input_files("#open", saved)
    tab.get_by_text(f"2 of {COUNT} marked").wait_for()
    assert tab.inner_text('article[data-mark="pass"] h2') == second
    content = json.loads(saved.read_text(encoding="utf-8"))
    saved.write_text(json.dumps(content | {"format": "another"}), encoding="utf-8")
    with tab.expect_event("dialog") as dialog:
        tab.once("dialog", lambda shown: shown.accept())
        tab.set_input_files("#open", saved)
    assert "holds no marks" in dialog.value.message


def test_pictures_are_decoded_when_their_row_comes_near(tab):
    tab.locator(".scan > img[src]").nth(3).wait_for()
    assert tab.locator(".scan > img[src]").count() < COUNT / 2
    last = tab.locator(".scan > img").last
    last.scroll_into_view_if_needed()
    tab.locator(".scan:last-child > img[src]").wait_for()
    assert last.evaluate("async image => { await image.decode(); return image.naturalWidth; }") == 3 * sheet.PIXELS
    width = last.bounding_box()["width"]
    last.click()
    assert last.bounding_box()["width"] > width, "it is enlarged"


def test_names_and_findings_are_text(tab, scans):
    assert scans[5]["name"] in names(tab)
    assert tab.title() != "1"
    assert "</script><script>document.title = 1</script>" in tab.evaluate("document.querySelector('main').textContent")

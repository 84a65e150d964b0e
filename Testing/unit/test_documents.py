"""What the documents name exists: commands and their options, targets of make, files, links and measured figures."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections import defaultdict
from pathlib import Path
from statistics import mean, median
from xml.etree import ElementTree

import pytest
import typer

from SESegmentationExport.comparison import COLUMNS as COMPARISON_COLUMNS
from SESegmentationLib.cli.app import app
from SESegmentationLib.models import find_model
from SESegmentationLib.models.sections import least_change
from SESegmentationLib.report import COLUMNS as REPORT_COLUMNS
from SESegmentationServer.settings import ServerLimits

ROOT = Path(__file__).parents[2]
UI = ROOT / "SESegmentation" / "Resources" / "UI" / "SESegmentation.ui"
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "weights/*/*.md", "Resources/experiments/*.md", "Testing/harness/*.md")
    for path in ROOT.glob(pattern)
)
#: what is called so in Slicer, not in the panel
OF_SLICER = {
    "Edit > Application Settings > Modules > Additional module paths",
    "PyTorch",
    "Resample Scalar/Vector/DWI Volume",
    "SESegmentation",
    "Sample Data",
    "Segmentations",
    "Show 3D",
}
#: commands of other programs that documents tell to type, with the options they use there
OF_OTHERS = {"-B", "-v", "--extra-index-url", "--gpus", "--nv", "--user"}
COMMAND = typer.main.get_command(app)
FENCE = re.compile(r"^ *```\w*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def code_lines(text: str) -> list[str]:
    """Lines of the fenced blocks, without what is said beside them."""
    return [re.split(r"\s{3,}|\s+#", line.strip())[0] for block in FENCE.findall(text) for line in block.splitlines()]


def inline_code(text: str) -> list[str]:
    """What stands between backticks in sentences and tables, each in one line."""
    found = re.findall(r"`([^`]+)`", FENCE.sub("", text))
    return [" ".join(code.replace("\\|", "|").split()) for code in found]


def options_of(command) -> set[str]:
    """Of a command and all commands below it."""
    own = {option for parameter in command.params for option in parameter.opts}
    return own.union({"--help", "-h"}, *(options_of(each) for each in getattr(command, "commands", {}).values()))


def command_and_rest(line: str):
    """The command that ``line`` names, and the words behind it.

    Raises:
        KeyError: there is no such command.
    """
    command, words = COMMAND, shlex.split(line)[1:]
    while getattr(command, "commands", None) and words and not words[0].startswith("-"):
        command = command.commands[words.pop(0)]
    return command, words


def options_of_benchmarks() -> set[str]:
    """Of the scripts in Testing/benchmarks, which are no commands of ``sesegment``."""
    scripts = "".join(map(text_of, (ROOT / "Testing" / "benchmarks").glob("*.py")))
    return set(re.findall(r"add_argument\(\s*[\"'](--[\w-]+)", scripts))


def faults_of_commands(text: str) -> list[str]:
    """Commands of ``sesegment`` in a document that do not exist, do not take these options, or lack what they need."""
    faults = []
    known = options_of(COMMAND) | options_of_benchmarks() | OF_OTHERS
    whole = code_lines(text)
    for line in [*whole, *inline_code(text)]:
        if line.startswith("-") and line.split()[0].split("=")[0] not in known:
            faults.append(line)
        if not line.startswith("sesegment "):
            continue
        try:
            command, words = command_and_rest(line)
        except KeyError:
            faults.append(line)
            continue
        options = {word.strip("[]").split("=")[0] for word in words if re.match(r"\[?--?[a-z]", word)}
        if options - options_of(command):
            faults.append(line)
        elif line in whole and "…" not in line:
            try:
                command.make_context("sesegment", words)
            except Exception as error:
                faults.append(f"{line}: {type(error).__name__}")
    return faults


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip("# ").lower()).replace(" ", "-")


def faults_of_links(path: Path, text: str) -> list[str]:
    """Links of a document to files and headings that do not exist."""
    faults = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, place = link.partition("#")
        target = path.parent / name if name else path
        if re.match(r"https?:", link):
            continue
        if not target.exists() or (place and place not in map(anchor, re.findall(r"^#.*", text_of(target), re.M))):
            faults.append(link)
    return faults


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_document_names_exists(path):
    text = text_of(path)
    assert faults_of_commands(text) == []
    assert faults_of_links(path, text) == []
    targets = re.findall(r"^([\w. -]+):(?!=)", text_of(ROOT / "Makefile").replace("\\\n", " "), re.M)
    known = {target for line in targets for target in line.split()} | {"bench-doubt", "bench-refine"}
    assert {line.split()[1] for line in inline_code(text) if line.startswith("make ")} <= known
    files = [each.as_posix() for folder in ("SESegmentation", "Testing") for each in (ROOT / folder).rglob("*.py")]
    modules = {code.split()[0] for code in inline_code(text) if re.match(r"[\w/]+\.py\b", code)}
    assert [name for name in modules if not any(file.endswith(f"/{name}") for file in files)] == []


def test_the_checks_find_what_they_must():
    commands = (
        "```\nsesegment refine head.nii.gz --corrected labels.nii.gz\nsesegment run a.nii.gz -m X -o b.nii.gz   ok\n```"
        "\n`sesegment paint`, `sesegment run --colour` and `--sheets`, but `sesegment run --fast`, `--sheet DIR`"
    )
    assert faults_of_commands(commands) == [
        "sesegment refine head.nii.gz --corrected labels.nii.gz: MissingParameter",
        "sesegment paint",
        "sesegment run --colour",
        "--sheets",
    ]
    links = "[a](#here) [b](no.md) [c](README.md#models) [d](README.md#modules) [e](https://a.org/b)\n# Here"
    assert faults_of_links(ROOT / "x.md", links.replace("(#here)", "(README.md#try-it)")) == [
        "no.md",
        "README.md#modules",
    ]


def test_messages_name_commands_that_exist():
    sources = "".join(text_of(path) for path in (ROOT / "SESegmentation").rglob("*.py"))
    named = set(re.findall(r"[Rr]un: (sesegment [a-z ]+)|by: (sesegment [a-z ]+)|with: (sesegment [a-z ]+)", sources))
    lines = {next(filter(None, each)).strip() for each in named}
    assert len(lines) > 3
    for line in lines:
        command_and_rest(line)


@pytest.mark.parametrize("name", ["clinicians-guide", "it-departments", "troubleshooting"])
def test_what_is_in_the_panel_is_called_by_its_name(name):
    """Names of buttons, boxes, sections and modules are bold or in italics."""
    panel = [
        *(ROOT / "SESegmentation" / "SESegmentationLib" / "panel").glob("*.py"),
        *(ROOT / "SESegmentation").glob("*.py"),
    ]
    shown = text_of(UI).replace("&amp;", "") + "".join(map(text_of, panel))
    text = " ".join(text_of(ROOT / "docs" / f"{name}.md").split())
    bold, rest = re.findall(r"\*\*([^*]+)\*\*", text), re.sub(r"\*\*[^*]+\*\*", "", text)
    italic = [words for words in re.findall(r"\*([^*]+)\*", rest) if not words.endswith(".")]  # no sentence
    assert len(bold) + len(italic) > 0
    named = {*bold, *italic} - OF_SLICER - {"expected Dice", "keyring"}
    assert sorted(label for label in named if label not in shown) == []


def test_the_guide_names_every_button_and_box_of_the_panel():
    guide = " ".join(text_of(ROOT / "docs" / "clinicians-guide.md").split())
    labels = [
        re.sub(r" \(\w\)$", "", text.text.replace("&", ""))  # without its key
        for widget in ElementTree.parse(UI).iter("widget")
        if widget.get("class") in ("QPushButton", "QCheckBox")
        for text in widget.findall("property[@name='text']/string")
    ]
    assert len(labels) > 20
    assert [label for label in labels if f"**{label}**" not in guide] == []


@pytest.mark.parametrize("name", ["run", "refine", "cohort", "dicom", "compare", "evaluate", "doctor"])
def test_every_option_is_documented(name):
    documents = "".join(text_of(ROOT / "docs" / file) for file in ("command-line.md", "cohorts.md"))
    words = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", documents))
    options = [p.opts for p in COMMAND.commands[name].params if p.param_type_name == "option"]
    assert [each for each in options if not words.intersection(each) and "--help" not in each] == []


def test_every_command_is_documented():
    documents = " ".join("".join(map(text_of, (ROOT / "docs").glob("*.md"))).split())

    def paths(command, path):
        for name, each in getattr(command, "commands", {}).items():
            yield from paths(each, f"{path} {name}")
        if not getattr(command, "commands", {}):
            yield path

    assert [path for path in paths(COMMAND, "sesegment") if path not in documents] == []


def test_every_recipe_and_plan_is_documented():
    training = ROOT / "SESegmentation" / "SESegmentationTraining"
    names = [path.stem for folder in ("recipes", "plans") for path in (training / folder).glob("*.toml")]
    text = text_of(ROOT / "docs" / "training.md")
    assert len(names) > 10
    assert sorted(name for name in names if f"`{name}`" not in text) == []


def test_keys_of_the_sheet_are_documented():
    template = ROOT / "SESegmentation" / "SESegmentationExport" / "templates" / "sheet.html"
    keys = set(re.findall(r"<kbd>\w+</kbd>", text_of(template)))
    assert len(keys) > 5
    assert keys == set(re.findall(r"<kbd>\w+</kbd>", text_of(ROOT / "docs" / "command-line.md")))


def test_columns_of_reports_are_documented():
    text = text_of(ROOT / "docs" / "command-line.md")
    assert [name for name in (*REPORT_COLUMNS, *COMPARISON_COLUMNS) if f"`{name}`" not in text] == []


def test_routes_and_limits_of_the_server_are_as_told():
    text = " ".join(text_of(ROOT / "docs" / "server.md").split())
    known = set()
    for source in map(text_of, (ROOT / "SESegmentation" / "SESegmentationServer").glob("*.py")):
        prefix = re.search(r'APIRouter\(prefix="([^"]*)"', source)
        routes = re.findall(r'@router\.\w+\("([^"]*)"', source)
        known |= {re.sub(r"{\w+}", "{}", f"{prefix[1] if prefix else ''}{route}") for route in routes}
    told = re.findall(r"`(?:(?:GET|PUT|DELETE) )?(/(?:[a-z][\w/{}]*)?)(?:\?after=n)?`", text)
    assert {"/v1/server", "/infer/{model}"} <= set(told)
    assert [
        path for path in told if path not in ("/segment", "/tmp") and re.sub(r"{\w+}", "{}", path) not in known
    ] == []
    limits = ServerLimits()
    for told in (
        f"{limits.upload_bytes >> 30} GB per volume",
        f"{limits.upload_seconds / 60:.0f} minutes per upload and {limits.silence_seconds:.0f} s of silence",
        f"{limits.jobs_per_user} jobs (`--jobs-per-user`) and {limits.requests_per_minute:,} requests a minute "
        f"per user, {limits.jobs} jobs in all",
        f"After {limits.wrong_tokens_per_minute} wrong tokens",
        f"or {limits.keep_seconds:.0f} s (`--keep`) after the client is gone",
    ):
        assert told in text


def test_the_layers_are_those_that_are_checked():
    contract = tomllib.loads(text_of(ROOT / "pyproject.toml"))["tool"]["importlinter"]["contracts"][0]
    table = re.search(r"\| layer \|.*?\n\n", text_of(ROOT / "docs" / "architecture.md"), re.DOTALL)
    told = [name for row in re.findall(r"^\| (`.*?) \|", table[0], re.M) for name in re.findall(r"`(\w+)`", row)]
    checked = [sorted(re.findall(r"\w+", layer)) for layer in contract["layers"]]
    assert sorted(told) == sorted(name for layer in checked for name in layer)
    places = [next(n for n, layer in enumerate(checked) if name in layer) for name in told]
    assert places == sorted(places)


# --- figures ----------------------------------------------------------------------------------------------------------


def cards() -> dict[str, object]:
    return {path.name: find_model(path).card for path in (ROOT / "weights").iterdir() if path.is_dir()}


def test_the_readme_gives_the_figures_of_the_cards():
    rows = re.findall(r"^\| `([\w-]+)` \|.*?\|(.*?)\|", text_of(ROOT / "README.md"), re.M)
    measured = text_of(ROOT / "docs" / "measurements.md")
    shipped = cards()
    assert {name for name, _ in rows} == set(shipped)
    for name, cell in rows:
        dice = [entry["dice"] for entry in shipped[name].accuracy["labels"].values()]
        known = {f"{shipped[name].accuracy['mean_dice']:.3f}", *(f"{each['mean']:.3f}" for each in dice)}
        known |= {f"{each['mean']:.3f} ± {each['std']:.3f}" for each in dice}
        for figure in re.findall(r"\d\.\d{3}(?: ± \d\.\d{3})?", cell):
            assert figure in known or figure in measured, (name, figure)


def test_the_least_changes_are_those_of_the_cards():
    text = " ".join(text_of(ROOT / "docs" / "command-line.md").split())
    told = {}
    for name, card in cards().items():
        found = [least_change(card.repeatability, label.value) for label in card.labels]
        told[name] = sorted(100 * each for each in found if each is not None)
    brain, hippocampus, abdomen = (told[name] for name in ("brain-mr", "hippocampus-t1", "abdomen-mr"))
    assert f"`brain-mr` is {median(brain):.1f} % ({brain[0]:.1f} to {brain[-1]:.1f} %)" in text
    assert f"`hippocampus-t1` are {hippocampus[0]:.1f} and {hippocampus[1]:.1f} %" in text
    assert f"`abdomen-mr` {abdomen[0]:.1f} to {abdomen[-1]:.1f} %" in text
    labels = {label.name: label.value for label in cards()["brain-mr"].labels}
    rows = re.findall(
        r"^\| left / right ([\w ]+) \|.*\| ([\d.]+) / ([\d.]+) % \|", text_of(ROOT / "docs/command-line.md"), re.M
    )
    assert rows
    for structure, *percents in rows:
        for side, percent in zip(("left", "right"), percents, strict=True):
            least = least_change(cards()["brain-mr"].repeatability, labels[f"{side} {structure}"])
            assert f"{100 * least:.1f}" == percent, (side, structure)


def test_what_corrections_bring_is_what_was_measured():
    rows = json.loads(text_of(ROOT / "Resources" / "refine.json"))["rows"]
    kinds = ("as they are", "one shift", "two shifts")
    found = {
        (row["corrected"], row["volumes_are"]): row
        for row in rows
        if row["habit"] == "all" and row["method"] == "learnt correction"
    }
    text = text_of(ROOT / "docs" / "measurements.md")
    for corrected in (1, 2, 4, 8):
        shares = [{key: round(100 * v) for key, v in found[corrected, kind]["regained"].items()} for kind in kinds]
        cells = [f"{share['mean']} % ({share['low']} to {share['high']})" for share in shares]
        assert f"| {corrected} | {' | '.join(cells)} |" in text
    kept, one, two = (round(100 * found[2, kind]["regained"]["mean"]) for kind in kinds)
    worse = sum(row["worse"] * row["volumes"] for row in found.values())
    assert f"of {sum(row['volumes'] for row in found.values()):,} refined volumes {worse:.0f} lost" in text
    share = f"{100 * worse / sum(row['volumes'] for row in found.values()):.1f} %"
    for path in (ROOT / "README.md", UI):
        said = " ".join(text_of(path).split())
        assert f"{kept} % of the" in said and f"{one} to {two} %" in said and f"{share} of volumes" in said


def test_how_far_to_trust_a_result_is_what_was_measured():
    doubt = json.loads(text_of(ROOT / "Resources" / "doubt.json"))
    text = " ".join(text_of(ROOT / "docs" / "measurements.md").split())
    dice = defaultdict(list)
    for point in doubt["points"]:
        dice[point["shift"]].append(point["dice"])
    loss = {shift: mean(dice[None]) - mean(each) for shift, each in dice.items() if shift}
    mild = sorted(loss.pop(shift) for shift in ("noise", "bias field", "low contrast"))
    assert f"low contrast cost it {mild[0]:.3f} to {mild[-1]:.3f} Dice" in text
    assert f"another contrast {min(loss.values()):.2f} to {max(loss.values()):.2f}" in text
    expected, slices = doubt["expected_dice"], doubt["slices"]["all"]["volume"]
    assert f"Spearman {expected['all']['spearman']:.2f}" in text
    assert f"weakly ({expected['as they are']['spearman']:.2f})" in text
    assert f"holds {100 * slices['share']:.0f} % of its wrong voxels" in text
    assert f"would reach {100 * slices['best']:.0f} %" in text

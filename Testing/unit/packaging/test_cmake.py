"""The extension as Slicer's build makes it: CMake configures, builds and installs it against a stand-in for Slicer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
STAND_IN = Path(__file__).with_name("slicer")
PACKAGE = Path("lib/Slicer-5.12/qt-scripted-modules")

pytestmark = pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")


def files_of_the_project() -> list[str]:
    """Every file that is or will be committed, relative to the root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    if listed.returncode:
        pytest.skip("needs a git checkout")
    return [path for path in sorted(set(listed.stdout.split("\0"))) if path and (ROOT / path).is_file()]


def place_in_package(path: str) -> str | None:
    """Where a file of the project has to be in the package; None if it does not belong there."""
    if path.startswith(tuple(f"SESegmentation/SESegmentation{name}/" for name in ("Cohort", "Server", "Training"))):
        return None
    if path.startswith("SESegmentation/") and not path.endswith("/CMakeLists.txt"):
        return path.removeprefix("SESegmentation/")
    return f"Resources/{path}" if path.startswith("weights/") else None


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, tiny_model) -> Path:
    """A copy of the project with one more model."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in files_of_the_project():
        if place_in_package(path) or "/" not in path or path.endswith("CMakeLists.txt"):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, folder / path)
    shutil.copytree(tiny_model, folder / "weights" / tiny_model.name)
    return folder


@pytest.fixture(scope="module")
def build(checkout, tmp_path_factory) -> Path:
    """The build tree."""
    folder = tmp_path_factory.mktemp("build")
    # nothing is compiled: CMake need not look for compilers that work
    forced = [f"-DCMAKE_{language}_COMPILER_FORCED=ON" for language in ("C", "CXX")]
    compilers = [f"-DCMAKE_{language}_COMPILER={sys.executable}" for language in ("C", "CXX")]
    run_cmake("-S", checkout, "-B", folder, f"-DSlicer_DIR={STAND_IN}", *compilers, *forced)
    run_cmake("--build", folder)
    return folder


@pytest.fixture(scope="module")
def package(build, tmp_path_factory) -> Path:
    """The installed package."""
    folder = tmp_path_factory.mktemp("package")
    run_cmake("--install", build, "--prefix", folder)
    return folder / PACKAGE


def run_cmake(*arguments) -> None:
    done = subprocess.run(["cmake", *map(str, arguments)], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_file_is_in_the_package_and_nothing_else(checkout, package):
    wanted = {place_in_package(path.relative_to(checkout).as_posix()) for path in checkout.rglob("*") if path.is_file()}
    found = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    missing = sorted(wanted - {None} - found)
    assert not missing, "not in SESegmentation/CMakeLists.txt (update_lists.py puts them there):\n  " + "\n  ".join(
        missing
    )
    assert found <= wanted, f"not files of the project: {sorted(found - wanted)}"


def test_no_leftover_of_an_editor_or_a_merge_is_a_file_of_the_project():
    leftovers = (".orig", ".rej", ".bak", ".swp", ".tmp", "~", ".pyc")
    assert [path for path in files_of_the_project() if path.endswith(leftovers)] == []


def test_lists_are_sorted():
    lines = (ROOT / "SESegmentation" / "CMakeLists.txt").read_text(encoding="utf-8").splitlines()
    for name in ("SCRIPTS", "RESOURCES"):
        first = lines.index(f"set(MODULE_PYTHON_{name}") + 1
        listed = lines[first : lines.index("  )", first)]
        listed = [line for line in listed if line != "  ${MODULE_NAME}.py"]
        assert listed == sorted(set(listed))


@pytest.mark.parametrize("place", ["build", "package"])
def test_the_installed_module_finds_its_models(request, place, checkout, tmp_path):
    folder = request.getfixturevalue(place)
    folder = folder / PACKAGE if place == "build" else folder
    code = (
        "import json, SESegmentationLib.models as m;"
        "print(json.dumps([str(p.path) for p in m.list_models()] + [str(p.path) for p in m.damaged_models()]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(folder), "XDG_DATA_HOME": str(tmp_path), "HOME": str(tmp_path)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    environment.pop("SESEGMENTATION_MODELS", None)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    names = sorted(path.name for path in (checkout / "weights").iterdir() if (path / "model.json").is_file())
    assert "tiny-t1" in names
    assert sorted(json.loads(done.stdout)) == [str(folder / "Resources" / "weights" / name) for name in names]


def test_a_model_that_arrives_later_is_built_without_changing_a_list(checkout, build, tiny_model):
    later = checkout / "weights" / "later"
    shutil.copytree(tiny_model, later)
    try:
        run_cmake("--build", build)
        assert (build / PACKAGE / "Resources" / "weights" / "later" / "model.json").is_file()
    finally:
        shutil.rmtree(later)
        shutil.rmtree(build / PACKAGE / "Resources" / "weights" / "later", ignore_errors=True)


def test_the_module_tests_itself_in_slicer(build):
    assert (build / "tests.txt").read_text(encoding="utf-8").split() == ["SESegmentation.py"]


def test_what_the_extensions_manager_shows(build):
    lines = (build / "extension.txt").read_text(encoding="utf-8").splitlines()
    said = dict(line.split("=", 1) for line in lines)
    assert said["CATEGORY"] == "Segmentation" and said["DEPENDS"] == "PyTorch"
    assert said["RECOMMENDS"] == "QuantitativeReporting" and "segmentation" in said["KEYWORDS"].split()
    module = (ROOT / "SESegmentation" / "SESegmentation.py").read_text(encoding="utf-8")
    assert f'parent.contributors = ["{said["CONTRIBUTORS"]}"]' in module
    assert f"name: {said['CONTRIBUTORS']}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    raw = said["HOMEPAGE"].replace("https://github.com/", "https://raw.githubusercontent.com/") + "/main/"
    assert said["ICONURL"].startswith(raw)
    assert (ROOT / said["ICONURL"].removeprefix(raw)).is_file()
    for url in said["SCREENSHOTURLS"].split():
        path = Path(url.removeprefix(raw))
        assert url.startswith(raw) and path.parent == Path("Resources/screenshots")
        assert f'"{path.stem}")' in (ROOT / "Testing" / "harness" / "screenshots.py").read_text(encoding="utf-8")


def test_catalogue_entry_agrees_with_the_extension(build):
    """The fields that Slicer's schema for catalogue entries, version 1.0.2, knows; it allows no others."""
    entry = json.loads((ROOT / "SESegmentation.json").read_text(encoding="utf-8"))
    said = (build / "extension.txt").read_text(encoding="utf-8")
    assert entry.pop("$schema").endswith("/slicer-extension-catalog-entry-schema-v1.0.2.json#")
    assert entry.pop("dicom_support_rule") == ""  # the module opens no kind of DICOM object that Slicer does not
    assert f"HOMEPAGE={entry.pop('scm_url').removesuffix('.git')}\n" in said
    assert f"CATEGORY={entry.pop('category')}\n" in said
    assert f"DEPENDS={' '.join(entry.pop('build_dependencies'))}\n" in said
    assert entry == {"scm_type": "git", "scm_revision": "main", "build_subdirectory": ".", "tier": 1}

"""Stand-ins for Slicer's Python packages: pip behind PythonSlicer, ``slicer.packaging``, the PyTorch extension.

Nothing is installed, but all can go well or wrong. A test says with :data:`environment` what is missing, what pip
prints and how it ends. Only what the application itself looks at is changed: ``importlib.metadata.version``.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tempfile
import time
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer
import slicer.util
from packaging.requirements import Requirement

from .launcher import write_launcher

__all__ = ["Requirement", "load_requirements", "pip_check", "pip_ensure", "pip_install", "pip_uninstall"]

_installed_version = importlib.metadata.version
#: the Python behind the launcher, of which only ``-m pip`` and the like are asked
_PYTHON = """#!{python} -IS
import json, pathlib, sys, time
folder = pathlib.Path({folder!r})
arguments = [entry for entry in sys.argv[1:] if entry != "-m"]
with open(folder / "started", "a") as file:
    file.write(json.dumps(arguments) + "\\n")
exec((folder / "pip.py").read_text())
with open(folder / "succeeded", "a") as file:
    file.write(json.dumps(arguments) + "\\n")
"""


@dataclass
class Environment:
    """The Python packages as a test wants them.

    Attributes:
        missing: names of distributions that count as not installed.
        versions: versions of those that are there, where they differ from the real ones.
        replaced: versions that packages have once anything was installed.
        failure: raised by the next installations within this program; None lets them succeed.
        seconds: how long an installation within this program stops the window.
    """

    missing: set[str] = field(default_factory=set)
    versions: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    failure: Exception | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._within: list[str] = []
        self._folder: Path | None = None

    def python_slicer(self, pip: str = "") -> str:
        """A PythonSlicer whose pip does what this program says; its packages are there if it ends with success.

        Args:
            pip: for example ``print("Collecting torch"); time.sleep(1); sys.exit(1)``.
        """
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(dir=slicer.app.temporaryPath))
        (self._folder / "pip.py").write_text(pip, encoding="utf-8")
        real = self._folder / "python-real"
        real.write_text(_PYTHON.format(python=sys.executable, folder=str(self._folder)), encoding="utf-8")
        real.chmod(0o755)
        return str(write_launcher(self._folder, str(real)))

    @property
    def commands(self) -> list[str]:
        """Arguments of every installation that was begun."""
        return self._within + self._recorded("started")

    def version(self, name: str) -> str:
        """What ``importlib.metadata.version`` says."""
        done = self._recorded("succeeded")
        if name in self.missing and not any(f"{name}>" in entry or f"{name}<" in entry for entry in done):
            raise importlib.metadata.PackageNotFoundError(name)
        if done and name in self.replaced:
            return self.replaced[name]
        return self.versions.get(name) or _installed_version(name)

    def install(self, *arguments: str) -> None:
        """What pip would do with these arguments, within this program: no turn of the event loop meanwhile."""
        self._within.append(" ".join(arguments))
        time.sleep(self.seconds)
        if self.failure is not None:
            raise self.failure
        self.missing -= {Requirement(entry).name for entry in arguments if not _is_option(entry)}

    def reset(self) -> None:
        """As at the start: all is there, nothing fails."""
        self.__init__()

    def _recorded(self, name: str) -> list[str]:
        path = self._folder and self._folder / name
        if path is None or not path.is_file():
            return []
        return [" ".join(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


environment = Environment()
importlib.metadata.version = environment.version


def _is_option(argument: str) -> bool:
    return argument.startswith("-") or "/" in argument or "\\" in argument


def load_requirements(path: str | Path) -> list[Requirement]:
    """The requirements of a requirements.txt; options (lines with a dash) are skipped."""
    lines = (line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def pip_check(req: Any) -> bool:
    """Whether all requirements are met."""
    return all(_installed(requirement) for requirement in _requirements(req))


def _installed(requirement: Requirement) -> bool:
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    try:
        return importlib.metadata.version(requirement.name) in requirement.specifier  # never a pre-release
    except importlib.metadata.PackageNotFoundError:
        return False


def _requirements(value: Any) -> list[Requirement]:
    if isinstance(value, str):
        value = value.split()
    return [Requirement(entry) if isinstance(entry, str) else entry for entry in value]


def pip_ensure(
    requirements: Any,
    constraints: Any = None,
    skip_packages: list[str] | None = None,
    prompt_install: bool = True,
    prompt_restart: bool = True,
    requester: str | None = None,
    skip_in_testing: bool = True,
    show_progress: bool = True,
) -> None:
    """Ask for and install what is missing. RuntimeError where the user declines, CalledProcessError where pip fails."""
    missing = [requirement for requirement in _requirements(requirements) if not _installed(requirement)]
    if not missing or (skip_in_testing and slicer.app.testingEnabled()):
        return
    question = f"{len(missing)} Python packages need to be installed."
    if prompt_install and not slicer.util.confirmOkCancelDisplay(
        question, f"{requester} - Install Python Packages", detailedText="\n".join(map(str, missing))
    ):
        raise RuntimeError("User declined package installation")
    pip_install([str(requirement) for requirement in missing], constraints=constraints)


def pip_install(
    requirements: str | list[str],
    constraints: Any = None,
    no_deps_requirements: Any = None,
    skip_packages: list[str] | None = None,
    blocking: bool = True,
    show_progress: bool = True,
    requester: str | None = None,
    parent: Any = None,
    logCallback: Any = None,
    completedCallback: Any = None,
) -> None:
    """Install; CalledProcessError where pip fails (in blocking mode)."""
    arguments = requirements.split() if isinstance(requirements, str) else list(requirements)
    try:
        environment.install(*arguments)
    except Exception:
        if blocking:
            if show_progress and not slicer.app.testingEnabled():  # a pop-up, before the caller can tell of it
                slicer.util.errorDisplay("Package installation failed.", windowTitle="Installation Failed")
            raise
        completedCallback(1)
        return
    if not blocking and completedCallback is not None:
        completedCallback(0)


def pip_uninstall(requirements: str | list[str], **options: Any) -> None:
    """Uninstall."""
    environment.missing |= {requirement.name for requirement in _requirements(requirements)}


class PyTorchUtilsLogic:
    """Logic of the PyTorch extension."""

    @staticmethod
    def torchInstalled() -> bool:
        return "torch" not in environment.missing

    def installTorch(
        self,
        askConfirmation: bool = False,
        forceComputationBackend: str | None = None,
        torchVersionRequirement: str | None = None,
        torchvisionVersionRequirement: str | None = None,
    ) -> types.ModuleType | None:
        """Install torch, with no turn of the event loop meanwhile. Returns it, or None where the user declines."""
        requirement = f"torch{torchVersionRequirement or ''}"
        if askConfirmation and not slicer.util.confirmOkCancelDisplay(
            f"PyTorch will be downloaded and installed using light-the-torch (ltt install {requirement})."
        ):
            return None
        environment.install(requirement)
        return types.ModuleType("torch")

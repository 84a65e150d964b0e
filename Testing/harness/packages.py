"""Stand-ins for ``slicer.packaging`` and the PyTorch extension: nothing is installed, but all can go well or wrong.

A test says with :data:`environment` what is missing and how an installation ends.
"""

from __future__ import annotations

import importlib.metadata
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer
import slicer.util
from packaging.requirements import Requirement

__all__ = ["Requirement", "load_requirements", "pip_check", "pip_ensure", "pip_install", "pip_uninstall"]


@dataclass
class Environment:
    """The Python packages as a test wants them.

    Attributes:
        missing: names of distributions that count as not installed.
        failure: raised by the next installations; None lets them succeed.
        commands: arguments of every installation so far.
    """

    missing: set[str] = field(default_factory=set)
    failure: Exception | None = None
    commands: list[str] = field(default_factory=list)

    def install(self, *arguments: str) -> None:
        """What pip would do with these arguments."""
        self.commands.append(" ".join(arguments))
        if self.failure is not None:
            raise self.failure
        self.missing -= {Requirement(entry).name for entry in arguments if not _is_option(entry)}

    def reset(self) -> None:
        """As at the start: all is there, nothing fails."""
        self.__init__()


environment = Environment()


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
    if requirement.name in environment.missing:
        return False
    try:
        return requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)
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
        """Install torch. Returns it, or None where the user declines."""
        requirement = f"torch{torchVersionRequirement or ''}"
        if askConfirmation and not slicer.util.confirmOkCancelDisplay(
            f"PyTorch will be downloaded and installed using light-the-torch (ltt install {requirement})."
        ):
            return None
        environment.install(requirement)
        return types.ModuleType("torch")

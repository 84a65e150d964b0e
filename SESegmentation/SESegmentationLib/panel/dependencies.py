"""The Python packages that a segmentation needs: which are missing, asking for them, and why installing failed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import slicer
from slicer.i18n import tr as _

from ..errors import DependencyError

TORCH = "torch"
#: the packages that make pages about results, by file extension of the page
OF_PAGES = {".html": ("jinja2>=3.1", "pillow>=10"), ".pdf": ("matplotlib>=3.8", "pillow>=10")}
TORCH_VERSION = ">=2.2"
#: finds the build of torch that fits the graphics driver; the extension PyTorch uses it too, but blocks the window
CHOOSER = "light-the-torch>=0.5"
#: for a torch before 2.3
OLD_NUMPY = "numpy<2"
_WHEELS = (
    "on a computer with internet and the same Slicer run: PythonSlicer -m pip download {packages} -d FOLDER; "
    "copy the folder here and choose it under This computer."
)
_NO_VERSION = ("No matching distribution", "Could not find a version", "Requires-Python")


@dataclass(frozen=True)
class InstallationPlan:
    """An installation that the user has agreed to.

    Attributes:
        requirements: what is to be installed.
        folder: of wheels to install from; empty for the internet.
        commands: arguments of ``python -m``, one after the other.
    """

    requirements: list[str]
    folder: str
    commands: list[list[str]]


class Dependencies(Protocol):
    """The packages that the worker, or something else, needs."""

    def missing(self, wanted: Sequence[str] | None = None) -> list[str]:
        """The requirements in ``wanted``, or those of the worker if it is None, that are not met."""

    def ask(self, missing: list[str]) -> InstallationPlan:
        """Ask whether to install; DependencyError if that is impossible or the user declines."""


class DependencyInstaller:
    """Installs torch with light-the-torch and the rest with pip, or everything from a folder of wheels.

    Args:
        requirements_file: requirements.txt with everything except torch.
        wheels_folder: returns the folder of wheels; empty to use the internet.
    """

    def __init__(self, requirements_file: str | Path, wheels_folder: Callable[[], str]) -> None:
        self._requirements_file = Path(requirements_file)
        self._wheels_folder = wheels_folder

    def missing(self, wanted: Sequence[str] | None = None) -> list[str]:
        """Requirements that are not met. Takes a few ms; nothing is imported."""
        if wanted is not None:
            return [entry for entry in wanted if not _is_met(entry)]
        lines = self._requirements_file.read_text(encoding="utf-8").splitlines()
        requirements = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if _gets_old_torch():
            requirements.append(OLD_NUMPY)
        return [entry for entry in (TORCH + TORCH_VERSION, *requirements) if not _is_met(entry)]

    def ask(self, missing: list[str]) -> InstallationPlan:
        """Ask whether to install what is missing.

        Raises:
            DependencyError: there are no wheels, or the user declined; the remedy says how to proceed.
        """
        folder = self._wheels_folder()
        if folder and not any(Path(folder).glob("*.whl")):
            raise DependencyError(
                _("There are no wheels in {folder}.").format(folder=folder),
                _("Choose another folder under This computer, or clear the field to install from the internet."),
            )
        if not slicer.util.confirmOkCancelDisplay(_question(missing, folder), _("Install Python packages")):
            one = _("{packages} is needed, but you chose not to install it.")
            several = _("{packages} are needed, but you chose not to install them.")
            raise DependencyError(
                (one if len(missing) == 1 else several).format(packages=_(" and ").join(map(_shown, missing))),
                _("Click again to be asked again, or install them yourself in Slicer's Python."),
            )
        return InstallationPlan(missing, folder, _commands(missing, folder))


def loaded_versions() -> dict[str, str]:
    """Versions on disk of the packages that this program has loaded; if one changes later, a restart is needed."""
    names = {name.partition(".")[0] for name in list(sys.modules)}
    return {name: version for name in names if (version := _version(name)) is not None}


def _commands(missing: list[str], folder: str) -> list[list[str]]:
    if folder:
        return [["pip", "install", "--no-index", "--find-links", folder, *missing]]
    others = [requirement for requirement in missing if _name(requirement) != TORCH]
    commands = []
    if len(others) < len(missing):
        if importlib.util.find_spec("light_the_torch") is None:
            commands.append(["pip", "install", CHOOSER])
        commands.append(["light_the_torch", "install", TORCH + TORCH_VERSION])
    return [*commands, ["pip", "install", *others]] if others else commands


def _gets_old_torch() -> bool:
    """Whether the installed torch, or the only one available for this system, was built for NumPy 1."""
    version = _version(TORCH)
    if version is not None:
        return _release(version) < (2, 3)
    return platform.system() == "Darwin" and platform.machine() == "x86_64"


def _is_met(requirement: str) -> bool:
    """Whether a package is installed in a version within the bound, if any; pre-releases count."""
    version = _version(_name(requirement))
    if version is None:
        return False
    bound = re.search(r"(>=|<)\s*([\d.]+)", requirement)
    if bound is None:
        return True
    at_least = _release(version) >= _release(bound[2])
    return at_least if bound[1] == ">=" else not at_least


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None


def _release(version: str) -> tuple[int, ...]:
    number = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, number[0].split("."))) if number else ()


def _name(requirement: str) -> str:
    return re.split(r"[<>=!~;\[ ]", requirement, maxsplit=1)[0]


def _shown(requirement: str) -> str:
    """The name that users know."""
    name = _name(requirement)
    return "PyTorch" if name == TORCH else name


def _question(missing: list[str], folder: str) -> str:
    sizes = "\n".join(f"- {requirement}: {_size(_name(requirement))}" for requirement in missing)
    source = (
        _("They are installed from {folder}; nothing is downloaded.").format(folder=folder)
        if folder
        else _("They are downloaded from the internet into Slicer's Python; your images stay on this computer.")
    )
    restart = _(" As NumPy is replaced, Slicer must be restarted afterwards.") if OLD_NUMPY in missing else ""
    return _("These Python packages are needed:\n\n{sizes}\n\n{source}{restart} Install them now?").format(
        sizes=sizes, source=source, restart=restart
    )


def _size(package: str) -> str:
    """The download size of a package with its dependencies, in words."""
    if package != TORCH:
        return _("about 20 MB") if package in (_name(OLD_NUMPY), "matplotlib") else _("about 1 MB")
    if shutil.which("nvidia-smi"):
        return _("about 3 GB, with support for the NVIDIA GPU")
    return _("about 150 MB") if platform.system() == "Darwin" else _("about 250 MB")


@dataclass(frozen=True)
class _Reason:
    """One cause of a failure, recognised by phrases that pip, urllib3 or the operating system print."""

    phrases: tuple[str, ...]
    cause: str
    remedy: str


#: the more specific first: behind a proxy, pip reports a failed connection too; without a connection, no version too
_REASONS = (
    _Reason(
        ("ProxyError", "Cannot connect to proxy", "Tunnel connection failed", "407 Proxy"),
        "The proxy of your network blocked the download.",
        "Ask your network administrator for its address, set it in the environment variable HTTPS_PROXY, restart "
        f"Slicer and click again. Or do without: {_WHEELS}",
    ),
    _Reason(
        ("CERTIFICATE_VERIFY_FAILED", "SSLError", "SSLCertVerificationError"),
        "The connection is not trusted: your network probably inspects encrypted connections.",
        "Ask your network administrator for its certificate, set the environment variable PIP_CERT to its file, "
        f"restart Slicer and click again. Or do without: {_WHEELS}",
    ),
    _Reason(
        (
            "getaddrinfo failed",
            "Name or service not known",
            "Temporary failure in name resolution",
            "nodename nor servname",
            "Network is unreachable",
            "Failed to establish a new connection",
            "ConnectTimeoutError",
            "ReadTimeoutError",
            "Connection refused",
        ),
        "The internet cannot be reached.",
        f"Connect this computer and click again. Or do without: {_WHEELS}",
    ),
    _Reason(
        ("No space left on device", "not enough space", "Errno 28", "WinError 112"),
        "The disk is full.",
        "Free some space (PyTorch takes up to 6 GB) and click again.",
    ),
    _Reason(
        ("Permission denied", "Access is denied", "WinError 5", "Errno 13", "Read-only file system"),
        "Slicer's folder cannot be written.",
        "Close other Slicer windows, start Slicer as a user who may write its folder, and click again.",
    ),
    _Reason(
        _NO_VERSION,
        "There is no version of it for this Slicer and this system.",
        f"Use Slicer 5.10 or newer on a 64-bit system. Or do without the internet: {_WHEELS}",
    ),
)


def explain_failure(output: str, packages: list[str], folder: str = "") -> DependencyError:
    """The error to show to the user.

    Args:
        output: what was printed.
        packages: what was to be installed.
        folder: of wheels, if it was installed from one.
    """
    names = _(" and ").join(map(_shown, packages))
    wanted = " ".join(f'"{package}"' for package in packages)  # quoted: a shell would redirect at >
    if folder and any(phrase in output for phrase in _NO_VERSION):
        return DependencyError(
            _("The folder {folder} lacks a wheel that fits this Slicer.").format(folder=folder),
            _sentence(_WHEELS.format(packages=wanted)),
        )
    for reason in _REASONS:
        if any(phrase in output for phrase in reason.phrases):
            return DependencyError(
                _("{names} could not be installed. {cause}").format(names=names, cause=_(reason.cause)),
                _(reason.remedy).format(packages=wanted),
            )
    return DependencyError(
        _("{names} could not be installed: {line}").format(names=names, line=_last_line(output)),
        _(
            "Try again. If it fails again, read pip's output in the log "
            "below, or install PyTorch with the module PyTorch Util, which blocks the window "
            "meanwhile. Or do without the internet: {wheels}"
        ).format(wheels=_WHEELS.format(packages=wanted)),
    )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{lines[-1].rstrip('.')}." if lines else "no reason was given."

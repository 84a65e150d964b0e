"""The Python packages that a segmentation needs and Slicer has not: asking for them once, and installing them."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import inspect
import io
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import slicer
from slicer.i18n import tr as _

from ..errors import DependencyError, SegmentationError
from .install_failures import explain_failure

TORCH = "torch"
TORCH_VERSION = ">=2.2"
_REQUESTER = "SESegmentation"
_NOT_INSTALLED = "Nothing was installed."


class Dependencies(Protocol):
    """Sees to it that what the worker needs is there."""

    def missing(self) -> list[str]:
        """Requirements that are not met."""

    def ensure(self) -> None:
        """Ask for what is missing and install it; DependencyError where it is missing still."""


class DependencyInstaller:
    """Installs torch through the PyTorch extension, the rest by pip; or everything from a folder of wheels.

    Args:
        requirements_file: requirements.txt with everything except torch.
        wheels_folder: gives the folder of wheels, empty where the internet is to be used.
    """

    def __init__(self, requirements_file: str | Path, wheels_folder: Callable[[], str]) -> None:
        self._requirements_file = Path(requirements_file)
        self._wheels_folder = wheels_folder

    def missing(self) -> list[str]:
        """Requirements that are not met. Takes a few ms; nothing is imported."""
        lines = self._requirements_file.read_text(encoding="utf-8").splitlines()
        requirements = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        return [entry for entry in (TORCH + TORCH_VERSION, *requirements) if not _is_met(entry)]

    def ensure(self) -> None:
        """Ask for what is missing and install it. Slicer shows the progress of pip; that takes minutes.

        Raises:
            DependencyError: the user declined, or it failed; the remedy says how to go on.
        """
        missing = self.missing()
        if not missing:
            return
        folder = self._wheels_folder()
        if folder and not any(Path(folder).glob("*.whl")):
            raise DependencyError(
                f"There are no wheels in {folder}.",
                "Choose another folder under This computer, or empty the field to install from the internet.",
            )
        if not slicer.util.confirmOkCancelDisplay(_question(missing, folder), _("Install Python packages")):
            raise DependencyError(
                f"{' and '.join(map(_name, missing))} are needed and were not installed, as you chose.",
                "Click Segment to be asked again, or install them yourself in Slicer's Python.",
            )
        with _printed() as printed:
            try:
                self._install(missing, folder)
            except SegmentationError:
                raise
            except Exception as error:
                raise explain_failure(error, printed.getvalue(), missing, folder) from error
        importlib.invalidate_caches()
        still = self.missing()
        if still:
            raise explain_failure(
                RuntimeError("the installation ended without them"), printed.getvalue(), still, folder
            )

    def _install(self, missing: list[str], folder: str) -> None:
        if folder:
            slicer.util.pip_install(["--no-index", "--find-links", folder, *missing])
            return
        others = [requirement for requirement in missing if _name(requirement) != TORCH]
        if len(others) < len(missing):
            _install_torch()
        if others:
            _install_others(others)


def _slicer_packaging() -> ModuleType | None:
    """Slicer's own module for Python packages; None before Slicer 5.12."""
    try:
        return importlib.import_module("slicer.packaging")
    except ImportError:
        return None


def _is_met(requirement: str) -> bool:
    packaging = _slicer_packaging()
    if packaging is not None:
        return packaging.pip_check(requirement)
    try:  # the version is left to the worker
        importlib.metadata.version(_name(requirement))
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _install_torch() -> None:
    try:
        import PyTorchUtils
    except ImportError:
        raise DependencyError(
            f"Slicer's extension PyTorch is missing; it chooses the PyTorch that fits this computer. {_NOT_INSTALLED}",
            "Install it in the Extensions Manager (View menu), restart Slicer and click Segment. "
            "Without internet, choose a folder of wheels under This computer.",
        ) from None
    install = PyTorchUtils.PyTorchUtilsLogic().installTorch
    options = _known_options(install, askConfirmation=False, torchVersionRequirement=TORCH_VERSION)
    if install(**options) is None:
        raise RuntimeError("the PyTorch extension installed nothing")


def _install_others(requirements: list[str]) -> None:
    packaging = _slicer_packaging()
    if packaging is not None:
        packaging.pip_ensure(
            requirements, **_known_options(packaging.pip_ensure, prompt_install=False, requester=_REQUESTER)
        )
    else:
        slicer.util.pip_install(requirements)


def _known_options(function: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """Those of ``options`` that this version of ``function`` takes."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in known}


def _name(requirement: str) -> str:
    return re.split(r"[<>=!~;\[ ]", requirement, maxsplit=1)[0]


def _question(missing: list[str], folder: str) -> str:
    sizes = "\n".join(f"- {requirement}: {_size(_name(requirement))}" for requirement in missing)
    source = (
        _("They are taken from {folder}; nothing is downloaded.").format(folder=folder)
        if folder
        else _("They are downloaded from the internet into Slicer's Python; your images stay on this computer.")
    )
    return _("To segment, these Python packages are needed:\n\n{sizes}\n\n{source} Install them now?").format(
        sizes=sizes, source=source
    )


def _size(package: str) -> str:
    """What a package and all it needs takes to download."""
    if package != TORCH:
        return _("about 1 MB")
    if shutil.which("nvidia-smi"):
        return _("about 3 GB, because the NVIDIA GPU is supported")
    return _("about 100 MB") if platform.system() == "Darwin" else _("about 250 MB")


class _Tee(io.StringIO):
    """Keeps what is printed and prints it as well."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(text)
        return super().write(text)

    def flush(self) -> None:
        self._stream.flush()


@contextlib.contextmanager
def _printed() -> Iterator[io.StringIO]:
    """What is printed meanwhile: Slicer prints pip's output, and gives it to nobody."""
    tee = _Tee(sys.stdout)
    with contextlib.redirect_stdout(tee):
        yield tee

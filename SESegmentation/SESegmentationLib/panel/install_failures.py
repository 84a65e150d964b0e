"""Why an installation of Python packages failed, read from what pip printed, and what the user can do."""

from __future__ import annotations

import re
from dataclasses import dataclass

from slicer.i18n import tr as _

from ..errors import DependencyError


@dataclass(frozen=True)
class _Reason:
    """One reason, recognised by phrases of pip, urllib3 and the systems."""

    phrases: tuple[str, ...]
    cause: str
    remedy: str


_WHEELS = (
    "on a computer with internet and the same Slicer run: PythonSlicer -m pip download {packages} -d FOLDER; "
    "copy the folder here and choose it under This computer."
)
_NO_VERSION = ("No matching distribution", "Could not find a version", "Requires-Python")
#: the more telling ones first: behind a proxy, pip reports a failed connection as well, and without one no version
_REASONS = (
    _Reason(
        ("ProxyError", "Cannot connect to proxy", "Tunnel connection failed", "407 Proxy"),
        "The proxy of your network did not let the download through.",
        "Ask who runs the network for its address, set it in the environment variable HTTPS_PROXY, restart Slicer and "
        f"click Segment. Or do without: {_WHEELS}",
    ),
    _Reason(
        ("CERTIFICATE_VERIFY_FAILED", "SSLError", "SSLCertVerificationError"),
        "The connection is not trusted: your network probably inspects encrypted connections.",
        "Ask who runs the network for its certificate, set the environment variable PIP_CERT to its file, restart "
        f"Slicer and click Segment. Or do without: {_WHEELS}",
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
        f"Connect this computer and click Segment. Or do without: {_WHEELS}",
    ),
    _Reason(
        ("No space left on device", "not enough space", "Errno 28", "WinError 112"),
        "The disk is full.",
        "Free some space (PyTorch takes up to 6 GB) and click Segment.",
    ),
    _Reason(
        ("Permission denied", "Access is denied", "WinError 5", "Errno 13", "Read-only file system"),
        "Slicer's folder cannot be written.",
        "Close other Slicer windows, start Slicer as a user who may write its folder, and click Segment.",
    ),
    _Reason(
        _NO_VERSION,
        "There is no version of it for this Slicer and this system.",
        f"Use Slicer 5.10 or newer on a 64-bit system. Or do without the internet: {_WHEELS}",
    ),
)


def explain_failure(output: str, packages: list[str], folder: str = "") -> DependencyError:
    """What to tell the user.

    Args:
        output: what was printed.
        packages: what was to be installed.
        folder: of wheels, if it was installed from one.
    """
    names = " and ".join(re.split(r"[<>=!~;\[ ]", package, maxsplit=1)[0] for package in packages)
    wanted = " ".join(f'"{package}"' for package in packages)  # a shell would take > for its own
    if folder and any(phrase in output for phrase in _NO_VERSION):
        return DependencyError(
            _("The folder {folder} lacks a wheel that fits this Slicer.").format(folder=folder),
            _sentence(_WHEELS.format(packages=wanted)),
        )
    for reason in _REASONS:
        if any(phrase in output for phrase in reason.phrases):
            return DependencyError(
                _("{names} could not be installed. {cause}").format(names=names, cause=_(reason.cause)),
                reason.remedy.format(packages=wanted),
            )
    return DependencyError(
        _("{names} could not be installed: {line}").format(names=names, line=_last_line(output)),
        _(
            "Click Segment to try again. If it fails again, look at what pip says in the log "
            "below, or install PyTorch in the module PyTorch Util, which stops the window "
            "meanwhile. Or do without the internet: {wheels}"
        ).format(wheels=_WHEELS.format(packages=wanted)),
    )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{lines[-1].rstrip('.')}." if lines else "no reason was given."

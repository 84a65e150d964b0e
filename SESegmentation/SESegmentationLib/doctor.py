"""Checks of this computer: what a segmentation needs, what is present, and what to do about the rest.

Needs only the standard library, so that it works before anything is installed. torch is queried in a separate process,
so that a crash or hang on import becomes a finding.

``python -m SESegmentationLib.doctor`` prints the findings without any other package.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # "python -m", and an empty entry of PYTHONPATH, look in the working folder first
    sys.path[:] = [folder for folder in sys.path if folder not in ("", os.getcwd())]
    if sys.version_info < (3, 11):  # noqa: UP036 (what follows needs it; Slicer 5.8 has 3.9)
        sys.exit("error: This Python is too old. Use Slicer 5.10 or newer, or Python 3.11 or newer.")

import ctypes
import importlib.metadata
import importlib.util
import io
import json
import platform
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import ModelError, SegmentationError, install_advice
from .memory import available_gigabytes
from .models import damaged_models, list_models, user_models_folder, verify_weights
from .plain_text import counted

OK, WARNING, ERROR = "ok", "warning", "error"
MINIMUM_PYTHON = (3, 11)
WANTED = "Slicer 5.10 or newer, or Python 3.11 or newer"
MINIMUM_TORCH = (2, 2)
REQUIRED = ("numpy", "SimpleITK", "safetensors", "pydicom", "nibabel")
MEMORY_GB = 4.0  # what a whole head takes
DISK_GB = 2.0  # what torch for CPUs and the results take
LONG_PATH = 200  # characters; Windows ends at 260, files inside need the rest
TORCH_SECONDS = 120.0

# run by another interpreter: prints one JSON object on its last line
_ASK_TORCH = """
import json, torch
try:
    torch.ones(1).numpy()
    numpy = ""
except RuntimeError:
    import numpy
    numpy = numpy.__version__
cuda = torch.cuda.is_available()
mps = getattr(torch.backends, "mps", None)
devices = []
if cuda:
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        devices.append({"name": torch.cuda.get_device_name(index), "free_gb": free / 1e9, "total_gb": total / 1e9})
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "devices": devices,
                  "mps": bool(mps and mps.is_available()), "unfit_numpy": numpy, "threads": torch.get_num_threads()}))
"""


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        status: "ok", "warning" (works, with a drawback) or "error" (segmentation will fail).
        finding: one sentence.
        remedy: what to do; empty where nothing is to be done.
    """

    name: str
    status: str
    finding: str
    remedy: str = ""


def examine(python: str = sys.executable) -> list[Check]:
    """All checks.

    Args:
        python: the interpreter that runs the segmentations; in Slicer, PythonSlicer.
    """
    return [
        check_python(),
        *check_packages(),
        *check_torch(python),
        check_driver(),
        check_memory(),
        check_disk(),
        *check_paths(),
        *check_models(),
    ]


def examine_server(address: str, certificate: Path | None = None) -> list[Check]:
    """The checks of a server: connection, certificate, version, token, models and queue.

    Args:
        address, certificate: see :func:`.client.servers.server_at`.
    """
    from .client.http_client import HttpClient, LostError
    from .client.servers import AddressBook, server_at

    checks: list[Check] = []
    try:
        server = server_at(address, certificate)
        client = HttpClient(server)
        client.request("GET", "/healthz", signed=False).close()
        way = "It is on this computer." if server.is_here else "The connection is encrypted, its certificate trusted."
        checks.append(Check("server", OK, f"{server.url} answers. {way}"))
        introduction = client.introduction()
        checks.append(Check("version", OK, f"Version {introduction['version']}, which fits this program."))
        place = AddressBook().token_place(server.url)
        finding = f"The token of the {place} is accepted." if place else "There is none, and none is needed."
        checks.append(Check("token", OK, finding))
        if place == "file":
            remedy = install_advice("keyring") + ", and store the token again."
            checks[-1] = Check("token", WARNING, "The token is kept in a file, as there is no keyring.", remedy)
        theirs = {str(model["name"]): str(model["version"]) for model in introduction["models"]}
        queue = introduction["queue"]
        counts = f"{int(queue['running'])} running, {int(queue['waiting'])} waiting"
        wait = "not known" if queue["seconds"] is None else f"about {float(queue['seconds']):.0f} s"
    except LostError as lost:
        return [*checks, Check("server", ERROR, lost.error.cause, lost.error.remedy)]
    except SegmentationError as error:
        return [*checks, Check("server", ERROR, error.cause, error.remedy)]
    except (KeyError, TypeError, ValueError):
        return [*checks, Check("server", ERROR, "Its answer cannot be read.", "Tell the server's owner.")]
    for card in (package.card for package in list_models()):
        name, there = f"model {card.name}", theirs.get(card.name)
        finding = f"The server has version {there}, this computer {card.version}." if there else "The server has none."
        remedy = "Ask the server's owner to install this version, or do without this model there."
        fits = there == card.version
        checks.append(Check(name, OK, f"Version {there}.") if fits else Check(name, WARNING, finding, remedy))
    return [*checks, Check("queue", OK, f"{counts}; the wait for another is {wait}.")]


def worst(checks: list[Check]) -> str:
    """The worst status of ``checks``."""
    statuses = {check.status for check in checks}
    return next((status for status in (ERROR, WARNING) if status in statuses), OK)


def check_python() -> Check:
    """The version of Python."""
    found = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}."
    if sys.version_info < MINIMUM_PYTHON:
        return Check("Python", ERROR, found, f"Use {WANTED}.")
    if sys.maxsize <= 2**32:
        return Check("Python", ERROR, f"{found} It is a 32-bit Python.", "Use a 64-bit Python.")
    return Check("Python", OK, found)


def check_packages() -> list[Check]:
    """The Python packages besides torch that a segmentation needs."""
    checks = []
    for package in REQUIRED:
        try:
            checks.append(Check(package, OK, f"{package} {importlib.metadata.version(package)}."))
        except importlib.metadata.PackageNotFoundError:
            if _importable(package):  # Slicer has SimpleITK without its metadata
                checks.append(Check(package, OK, f"{package} is there."))
            else:
                checks.append(Check(package, ERROR, f"{package} is not installed.", install_advice(package)))
    return checks


def check_torch(python: str = sys.executable) -> list[Check]:
    """The version of torch and the devices it can use, as queried from the interpreter ``python``."""
    if python == sys.executable and not _importable("torch"):
        return [Check("torch", ERROR, "torch is not installed.", install_advice("torch"))]
    try:
        answer = subprocess.run(
            [python, "-P", "-c", _ASK_TORCH],  # a torch.py in the working folder is not torch
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_absolute(os.environ.get("PYTHONPATH", "")))},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TORCH_SECONDS,
            stdin=subprocess.DEVNULL,
        )
        found = json.loads(answer.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        remedy = "Restart the computer; if that does not help, reinstall torch."
        return [Check("torch", ERROR, f"torch did not answer within {TORCH_SECONDS:.0f} s.", remedy)]
    except OSError as error:
        return [Check("torch", ERROR, f"{python} cannot be started: {error.strerror}.", "Reinstall Python.")]
    except (IndexError, ValueError):
        lines = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        return [
            Check("torch", ERROR, f"torch cannot be imported: {lines[-1]}.", install_advice("--force-reinstall torch"))
        ]
    if tuple(int(number) for number in found["version"].split(".")[:2]) < MINIMUM_TORCH:
        wanted = ".".join(map(str, MINIMUM_TORCH))
        remedy = install_advice(f'"torch>={wanted}"')
        return [Check("torch", ERROR, f"torch {found['version']} is too old.", remedy)]
    if found["unfit_numpy"]:  # torch before 2.3 was built for NumPy 1; macOS on x86_64 gets no newer one
        pin = install_advice('"numpy<2"')
        finding = f"torch {found['version']} cannot work with NumPy {found['unfit_numpy']}."
        return [Check("torch", ERROR, finding, f"{pin}; then restart Slicer.")]
    checks = [Check("torch", OK, f"torch {found['version']}, {counted(found['threads'], 'thread')}.")]
    for device in found["devices"]:
        finding = f"{device['name']}: {device['free_gb']:.1f} of {device['total_gb']:.1f} GB free."
        if device["free_gb"] < MEMORY_GB:
            remedy = "Close programs that use the GPU, or choose low memory or the device cpu."
            checks.append(Check("GPU", WARNING, finding, remedy))
        else:
            checks.append(Check("GPU", OK, finding))
    if found["mps"]:
        checks.append(Check("GPU", OK, "Apple's GPU can be used."))
    elif not found["devices"]:
        build = f"built for CUDA {found['cuda']}, finds no GPU it can use" if found["cuda"] else "built without CUDA"
        if _find_program("nvidia-smi"):
            remedy = (
                "Install a torch built for CUDA and a driver that is new enough for it; until then the CPU is used."
            )
            checks.append(Check("GPU", WARNING, f"There is an NVIDIA driver, but this torch is {build}.", remedy))
        else:
            checks.append(Check("GPU", OK, f"No GPU is used (torch is {build}); the CPU does the work."))
    return checks


def check_driver() -> Check:
    """The NVIDIA driver."""
    program = _find_program("nvidia-smi")
    if program is None:
        return Check("driver", OK, "There is no NVIDIA driver; the CPU is used.")
    try:
        query = [program, "--query-gpu=driver_version,name", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, encoding="utf-8", errors="replace", timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        answer = None
    if answer is None or answer.returncode != 0 or not answer.stdout.strip():
        return Check("driver", WARNING, "The NVIDIA driver does not answer.", "Restart, or reinstall the driver.")
    version, name = answer.stdout.strip().splitlines()[0].split(", ", 1)
    return Check("driver", OK, f"NVIDIA driver {version} for {name}.")


def check_memory() -> Check:
    """Main memory that is free."""
    total, free = memory_gb()
    if total is None:
        return Check(
            "memory", WARNING, "The size of the memory is not known.", "Close other programs if memory runs out."
        )
    finding = f"{free:.1f} of {total:.1f} GB memory free."
    if free < MEMORY_GB:
        remedy = "Close other programs, or choose low memory for segmenting."
        return Check("memory", WARNING, finding, remedy)
    return Check("memory", OK, finding)


def check_disk() -> Check:
    """Disk space for temporary and result files."""
    folder = Path(tempfile.gettempdir())
    try:
        free = shutil.disk_usage(folder).free / 1e9
    except OSError as error:
        return Check("disk", ERROR, f"{folder} cannot be read: {error.strerror}.", "Set TMPDIR to another folder.")
    finding = f"{free:.1f} GB free in {folder}."
    return Check("disk", OK, finding) if free >= DISK_GB else Check("disk", WARNING, finding, "Free some disk space.")


def check_paths() -> list[Check]:
    """Folders whose names or permissions can cause trouble."""
    program = Path(__file__).resolve().parent
    return [
        check_path("program folder", program),
        check_path("data folder", user_models_folder(), writable=True),
        check_path("temporary folder", Path(tempfile.gettempdir()), writable=True),
    ]


def check_path(name: str, path: Path, writable: bool = False) -> Check:
    """One folder: non-ASCII characters, length and, where wanted, whether files can be made in it."""
    if writable and (problem := _write_problem(path)):
        remedy = "Make the folder writable, or set the variable XDG_DATA_HOME, LOCALAPPDATA or TMPDIR to another."
        return Check(name, WARNING, f"{path} cannot be written to: {problem}.", remedy)
    if not str(path).isascii():
        remedy = "If files cannot be read, use folders with the letters a to z, digits and '-' only."
        return Check(name, WARNING, f"{path} has characters outside ASCII.", remedy)
    if len(str(path)) > LONG_PATH:
        return Check(
            name, WARNING, f"{path} is longer than {LONG_PATH} characters.", "Use a folder nearer to the root."
        )
    return Check(name, OK, f"{path}.")


def check_models() -> list[Check]:
    """All models on the search path, their weights compared with the hash in the card."""
    checks = []
    for package in list_models():
        name = f"model {package.card.name}"
        try:
            verify_weights(package)
            digest = package.card.weights_sha256[:12]
            checks.append(Check(name, OK, f"Version {package.card.version}, SHA-256 {digest}… in {package.path}."))
        except ModelError as error:
            checks.append(Check(name, ERROR, error.cause, error.remedy))
    checks += [
        Check(f"model {model.path.name}", ERROR, model.error.cause, model.error.remedy) for model in damaged_models()
    ]
    if not checks:
        remedy = f"Put a model package into {user_models_folder()}."
        checks.append(Check("models", ERROR, "No model is installed.", remedy))
    return checks


def memory_gb() -> tuple[float | None, float]:
    """Total and free main memory in GB (10^9 bytes); None and 0 where the system does not say."""
    if sys.platform == "win32":
        return _windows_memory()
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (OSError, ValueError):
        return None, 0.0
    # macOS frees cached memory on demand: half is a fair guess
    free = total / 2 if sys.platform == "darwin" else available_gigabytes()
    return (None, 0.0) if free is None else (total, free)


def _windows_memory() -> tuple[float | None, float]:
    class Status(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
            (name, ctypes.c_ulonglong)
            for name in ("total", "free", "page_total", "page_free", "virtual_total", "virtual_free", "extended")
        ]

    status = Status(length=ctypes.sizeof(Status))
    if sys.platform != "win32" or not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None, 0.0
    return status.total / 1e9, status.free / 1e9


def _write_problem(folder: Path) -> str | None:
    """Why no file can be made in ``folder`` (where it is absent, in the nearest folder above it); None if one can."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _find_program(name: str) -> str | None:
    """Where a program is on the search path; None where it is not, or only in the working folder."""
    found = shutil.which(name, path=os.pathsep.join(_absolute(os.environ.get("PATH", os.defpath))))
    return found if found and Path(found).is_absolute() else None  # Windows looks in the working folder, too


def _absolute(folders: str) -> list[str]:
    """Those of a search path that are the same wherever the program runs; an empty one is the working folder."""
    return [folder for folder in folders.split(os.pathsep) if os.path.isabs(folder)]


def _importable(package: str) -> bool:
    """Whether ``package`` can be found, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def main() -> int:
    """Print the findings (``--json``: as JSON); 1 where one of them is an error."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a code page of Windows has not every letter of a path
        sys.stdout.reconfigure(errors="backslashreplace")
    checks = examine()
    if "--json" in sys.argv[1:]:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        for check in checks:
            print(f"{check.status:8} {check.name}: {check.finding}" + (f" {check.remedy}" if check.remedy else ""))
    return 1 if worst(checks) == ERROR else 0


if __name__ == "__main__":
    sys.exit(main())

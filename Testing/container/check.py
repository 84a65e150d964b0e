"""Builds the container and has it segment a series, without network and as a user without name.

Run by ``make container-test``. Where docker has no daemon, the steps of the Dockerfile are run in namespaces of this
computer, as root on Linux: on a layer over its root folder, so that paths are the container's and nothing is changed.
Python and pip's settings are then this computer's, and PyTorch comes from where pip finds it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
import SimpleITK as sitk

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT / "SESegmentation")]

from dicom_writer import Volume, write_series  # noqa: E402

IMAGE = "sesegment:test"
INPUT, OUTPUT = "/app/data/input_data", "/app/data/output_data"
#: what the container is asked: its default command, with fewer views
COMMAND = ["dicom", "--fast"]
_NOBODY = "65532"


@dataclass
class Steps:
    """What a Dockerfile says, as far as ours goes.

    Attributes:
        arguments: ARG, by name.
        labels: LABEL, by name.
        environment: ENV, by name.
        work: (instruction, what it says, working folder) of COPY and RUN.
        folder: the last WORKDIR.
        entry: ENTRYPOINT.
        command: CMD.
        user: USER.
    """

    arguments: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    work: list[tuple[str, str, str]] = field(default_factory=list)
    folder: str = "/"
    entry: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    user: str = "root"

    @classmethod
    def read(cls, path: Path) -> Steps:
        """Read a Dockerfile; ValueError for an instruction that is not known here."""
        steps = cls()
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
        for line in "\n".join(lines).replace("\\\n", " ").splitlines():
            word, _, said = line.strip().partition(" ")
            steps._take(word, said.strip())
        return steps

    def _take(self, word: str, said: str) -> None:
        if word == "ARG":
            name, _, value = said.partition("=")
            self.arguments[name] = value
        elif word in ("ENV", "LABEL"):
            pairs = dict(pair.split("=", 1) for pair in shlex.split(said))
            (self.environment if word == "ENV" else self.labels).update(pairs)
        elif word in ("COPY", "RUN"):
            self.work.append((word, said, self.folder))
        elif word == "WORKDIR":
            self.folder = said
        elif word in ("ENTRYPOINT", "CMD"):
            setattr(self, "entry" if word == "ENTRYPOINT" else "command", json.loads(said))
        elif word == "USER":
            self.user = said
        elif word not in ("", "FROM"):
            raise ValueError(f"{word} is not known here")


def by_docker(source: Path, target: Path) -> int:
    """Build the image, and run it on a folder; its exit code."""
    subprocess.run(["docker", "build", "--tag", IMAGE, str(ROOT)], check=True)
    run = ["docker", "run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", "--user", _NOBODY]
    mounts = ["--volume", f"{source}:{INPUT}:ro", "--volume", f"{target}:{OUTPUT}"]
    return subprocess.run([*run, *mounts, IMAGE, *COMMAND]).returncode


def by_steps(source: Path, target: Path, scratch: Path) -> int:
    """Run the Dockerfile's steps, and what it starts, over the root folder of this computer; the exit code of that."""
    steps = Steps.read(ROOT / "Dockerfile")
    context = scratch / "context"
    context.mkdir()
    for part in _context():
        into = context / part
        into.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, into, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / part, into)
    for name in ("upper", "work", "root"):
        (scratch / name).mkdir()
    script = ["set -eu", f"cd {scratch}", "mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root"]
    script += ["mount -t proc proc root/proc", "mount --rbind /dev root/dev", "mount -t tmpfs tmpfs root/mnt"]
    script += [f"mkdir -p root/mnt/context root{INPUT} root{OUTPUT}", "mount --bind context root/mnt/context"]
    # a user without name must come to this computer's Python, and to nothing of the checkout
    script += ["chmod a+x root/root", f"mount -t tmpfs tmpfs root{ROOT}"]
    arguments = " ".join(f"{name}={value}" for name, value in (steps.arguments | {"TORCH_INDEX": "none"}).items())
    for word, said, folder in steps.work:
        script.append(f"mkdir -p root{folder}")
        if word == "RUN":
            script.append(f"env {arguments} chroot root sh -c {shlex.quote(f'cd {folder} && {said}')}")
            continue
        *parts, into = said.split()
        for part in parts:
            whole = os.path.normpath(os.path.join(folder, into, Path(part).name if into.endswith("/") else ""))
            script += [f"mkdir -p root{os.path.dirname(whole)}", f"cp -r context/{part} root{whole}"]
    script += [f"mount --bind {source} root{INPUT}", f"mount -o remount,bind,ro root{INPUT}"]
    script += [f"mount --bind {target} root{OUTPUT}", f"chmod 777 {target}", f"mkdir -p root{steps.folder}"]
    environment = " ".join(shlex.quote(f"{name}={value}") for name, value in steps.environment.items())
    started = shlex.join([*steps.entry, *COMMAND])
    user = f"setpriv --reuid {_NOBODY} --regid {_NOBODY} --clear-groups --no-new-privs"
    inside = f"cd {steps.folder} && exec {user} env -i {environment} {started}"
    script.append(f"exec unshare --net chroot root sh -c {shlex.quote(inside)}")
    here = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    unshare = ["unshare", "--mount", "--pid", "--fork", "sh", "-c"]
    return subprocess.run([*unshare, "\n".join(script)], env=here).returncode


def _context() -> list[str]:
    """What the Dockerfile may copy, by .dockerignore."""
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return [line[1:] for line in ignored if line.startswith("!")]


def main() -> int:
    """Build, run and look at what came out; 0 where all is well."""
    if shutil.which("docker") and not subprocess.run(["docker", "info"], capture_output=True).returncode:
        how = "docker"
    elif sys.platform == "linux" and os.geteuid() == 0 and shutil.which("unshare"):
        how = "steps"
    else:
        print("Skipped: there is neither a docker daemon nor root on Linux.")
        return 0
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        scratch.chmod(0o755)
        source, target = scratch / "in", scratch / "out"
        target.mkdir()
        target.chmod(0o777)
        head = sitk.ReadImage(str(ROOT / "SESegmentation/Resources/SampleData/SESegmentationHead.nii.gz"))
        coarse = sitk.BinShrink(sitk.DICOMOrient(head, "LPS"), [2, 2, 2])
        uid = write_series(Volume.of(coarse), source, BodyPartExamined="BRAIN", SeriesDescription="t1")
        code = by_docker(source, target) if how == "docker" else by_steps(source, target, scratch)
        files = sorted(file.name for file in target.iterdir())
        wanted = [f"{uid}_brain-mr.{kind}.dcm" for kind in ("seg", "sr")]
        print(f"{how}: exit code {code}, {files}")
        if code or files != wanted:
            return 1
        segmentation = pydicom.dcmread(target / wanted[0])
        groups = segmentation.PerFrameFunctionalGroupsSequence
        found = {group.SegmentIdentificationSequence[0].ReferencedSegmentNumber for group in groups}
        print(f"{len(found)} of {len(segmentation.SegmentSequence)} structures found")
        return 0 if segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == uid and len(found) > 25 else 1


if __name__ == "__main__":
    sys.exit(main())

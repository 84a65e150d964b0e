"""The checks of this computer, made by the Python that runs the worker, while the window stays responsive."""

from __future__ import annotations

import json
import subprocess
import tempfile

from slicer.i18n import tr as _

from ..client.processes import OWN_GROUP, end_group, find_python, worker_environment
from ..doctor import ERROR, Check
from ..errors import SegmentationError

_AGAIN = "Check again; if it fails again, install SESegmentation anew."


class DoctorProcess:
    """Runs ``python -m SESegmentationLib.doctor`` in a process of its own.

    Example::

        doctor = DoctorProcess()
        doctor.start()
        # now and then, from a timer
        checks = doctor.poll()   # None as long as it is at work
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._output = None
        self._error: SegmentationError | None = None

    def start(self) -> None:
        """Begin; what was under way is dropped."""
        self.close()
        self._error = None
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  (close() closes it)
        try:
            self._process = subprocess.Popen(
                [find_python(), "-m", "SESegmentationLib.doctor", "--json"],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.DEVNULL,
                env=worker_environment(),
                **OWN_GROUP,
            )
        except SegmentationError as error:
            self._error = error
        except OSError as error:
            self._error = SegmentationError(
                _("Python cannot be started: {reason}.").format(reason=error.strerror or error), _AGAIN
            )

    def poll(self) -> list[Check] | None:
        """The checks; None until they are made."""
        if self._error is not None:
            return [Check("Python", ERROR, self._error.cause, self._error.remedy)]
        if self._process is None or self._process.poll() is None:
            return None
        self._output.seek(0)
        try:
            return [Check(**entry) for entry in json.loads(self._output.read())]
        except (ValueError, TypeError):
            finding = f"The checks ended with exit code {self._process.returncode}."
            return [Check("Python", ERROR, finding, _AGAIN)]
        finally:
            self.close()

    def close(self) -> None:
        """Stop."""
        if self._process is not None:
            if self._process.poll() is None:
                end_group(self._process)
                self._process.wait()
            self._process = None
        if self._output is not None:
            self._output.close()
            self._output = None

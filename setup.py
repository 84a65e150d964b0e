"""Installs the models and the networks for corrections, which lie outside the packages; all else is in pyproject.toml.

An editable installation uses them where they are.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

#: folders of the project, and where SESegmentationLib looks for them once it is installed
DATA = {"weights": "weights", "SESegmentation/Resources/Correction": "Correction"}


class BuildWithData(build_py):
    """Copies the packages, and the data into one of them."""

    def run(self) -> None:
        """Copy both into the folder of what is built."""
        super().run()
        if not self.editable_mode:
            for source, target in DATA.items():
                shutil.copytree(source, Path(self.build_lib, "SESegmentationLib", target), dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithData})

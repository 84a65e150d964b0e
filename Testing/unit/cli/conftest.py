"""Calling the command in this process, as a user does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from SESegmentationLib.cli import main


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Function that gives exit code, stdout and stderr of ``sesegment run`` with its arguments."""

    def called(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(["run", *map(str, arguments)])
        return code, *capfd.readouterr()

    return called


@pytest.fixture
def refused(run: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """Function that asserts that ``sesegment run`` ends with a code, one line of cause and one of remedy; the lines."""

    def called(code: int, *arguments: object) -> str:
        found, out, err = run(*arguments)
        lines = err.splitlines()
        assert (found, out) == (code, ""), err
        assert len(lines) == 2, err
        assert "Traceback" not in err
        return err

    return called

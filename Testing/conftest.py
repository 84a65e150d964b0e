"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

# how long an example takes depends on what else the computer does
hypothesis.settings.register_profile("untimed", hypothesis.settings.default, deadline=None)
hypothesis.settings.load_profile("untimed")

#: real volumes, beside the checkout; not part of the project because of their licences
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real volumes; the test is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the real volumes in {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def shipped_weights() -> Path:
    """Folder of the models that the project ships."""
    return Path(__file__).resolve().parents[1] / "weights"


@pytest.fixture
def no_own_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers, tokens and consent of this computer's user are not seen, and a keyring neither."""
    from SESegmentationLib.client import servers

    monkeypatch.setattr(servers, "servers_file", lambda: tmp_path / "settings" / "servers.json")
    monkeypatch.setattr(servers, "_keyring", lambda: None)
    monkeypatch.delenv(servers.TOKEN_VARIABLE, raising=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no core waits for one at the end."""
    items.sort(key=lambda item: item.path.name not in ("test_brain_mr.py", "test_runs.py", "test_server.py"))

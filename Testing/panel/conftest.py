"""The panel's tests have the fixtures of :mod:`panel_fixtures`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from panel_fixtures import *  # noqa: E402, F403

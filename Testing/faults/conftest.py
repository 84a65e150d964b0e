"""The small model and volume of the unit tests, for the tests of faults."""

import importlib.util
from pathlib import Path

_SPEC = importlib.util.spec_from_file_location("unit_fixtures", Path(__file__).parents[1] / "unit" / "conftest.py")
_UNIT = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_UNIT)

card_dict, tiny_model, sample_file = _UNIT.card_dict, _UNIT.tiny_model, _UNIT.sample_file

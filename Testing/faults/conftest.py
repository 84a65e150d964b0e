"""The small models, volumes and datasets of the unit tests, for the tests of faults."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def _fixtures(path: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location("fixtures", Path(__file__).parents[1] / "unit" / path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


_models, _training = _fixtures("conftest.py"), _fixtures("training/conftest.py")
card_dict, make_random_model = _models.card_dict, _models.make_random_model
tiny_model, sample_file = _models.tiny_model, _models.sample_file
blobs_folder, blobs_recipe, blobs_entries = _training.blobs_folder, _training.blobs_recipe, _training.blobs_entries

sys.path.insert(0, str(Path(__file__).parent))  # the modules that make faulty files

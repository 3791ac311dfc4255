"""The artificial person of the motion tests, here too."""

import importlib.util
from pathlib import Path

from tests.distill.material import material  # noqa: F401

_path = Path(__file__).parents[1] / "motion" / "conftest.py"
_spec = importlib.util.spec_from_file_location("artificial_person", _path)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
person, talk, clips, _one_thread = _module.person, _module.talk, _module.clips, _module._one_thread

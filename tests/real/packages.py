"""Real photographs, videos and voices that packages ship (the extra `real`); a test is skipped where its package is absent."""

from importlib.util import find_spec
from pathlib import Path

import pytest


def shipped(package, file):
    """Path of a package's file, without importing the package."""
    spec = find_spec(package)
    path = (
        Path(spec.submodule_search_locations[0], file) if spec and spec.submodule_search_locations else None
    )
    if path is None or not path.is_file():
        pytest.skip(f"{package} with its {file} is not installed: pip install 'audioavatar[real]'")
    return path

"""On PYTHONPATH of a clone's stages: an editable install finds `avatar_core` in the checkout it was made from, whatever the folder;
without its finder, Python finds the clone's."""

import sys

sys.meta_path[:] = [
    finder for finder in sys.meta_path if "avatar_core" not in getattr(finder, "known_source_files", ())
]

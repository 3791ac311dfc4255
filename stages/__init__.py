"""DVC: one module a stage, files and parameters in, files and numbers out. How it is done is in `avatar_core/`."""

import os

# Read when torch is imported. Threads that wait for each other sleep; spinning, the default, takes the cores from what else runs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

"""DVC: one module a stage, files and parameters in, files and numbers out. How it is done is in `avatar_core/`."""

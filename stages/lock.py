"""`python -m stages.lock BEFORE AFTER`: whether two dvc.lock files hold the same outputs, byte for byte.

Outputs alone are compared: dependencies and parameters may differ, as they do when code has only been moved.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from avatar_core.errors import UserError


def differing_outputs(before: Path, after: Path) -> list[str]:
    """Sorted paths of the outputs whose md5 differ, or that only one of the files has."""
    a, b = _outputs(before), _outputs(after)
    return sorted(path for path in a.keys() | b.keys() if a.get(path) != b.get(path))


def _outputs(path: Path) -> dict[str, str]:
    try:
        stages = yaml.safe_load(path.read_text())["stages"]
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", ())}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: expected a dvc.lock, found {type(error).__name__}: {error}") from None


def main() -> int:
    """Print the outputs that differ; exit code 1 if any do."""
    if len(sys.argv) != 3:
        print("usage: python -m stages.lock BEFORE AFTER", file=sys.stderr)
        return 2
    try:
        differing = differing_outputs(*map(Path, sys.argv[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(differing) or "the same outputs, byte for byte")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())

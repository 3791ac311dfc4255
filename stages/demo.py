"""The end of `make demo`: an unseen person says an unseen sentence. `python -m stages.demo` after `dvc repro`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from avatar_core.errors import UserError
from avatar_core.io.catalog import read_catalog
from avatar_core.speak.maker import TRAINED

SENTENCE = "Good evening! My name is of no importance, but people may remember my voice: every move you see came from it alone."
OUT = Path("demo/talking.mp4")


def main() -> None:
    """Drive the first test identity with a sentence that no script holds; print where everything is."""
    people = [row for row in read_catalog(Path("data/identities/catalog.parquet")) if row["split"] == "test"]
    if not people:
        raise UserError("params.yaml: identities.test: expected an unseen person for the demo, found none")
    person = people[0]["id"]
    portrait = Path("data/identities/portraits") / f"{person}.png"
    command = ["speak", "--portrait", str(portrait), "--text", SENTENCE, "--out", str(OUT)]
    command += ["--model", str(TRAINED)]
    print(f"avatar {' '.join(command[:3])} --text ... --out {OUT}", flush=True)
    code = subprocess.run([sys.executable, "-m", "avatar_core.cli", *command]).returncode
    if code:
        sys.exit(code)
    print(f"\nunseen person, unseen sentence: {OUT.resolve()}")
    print(f"everything that was made:       {Path('data/reports/index.html').resolve()}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

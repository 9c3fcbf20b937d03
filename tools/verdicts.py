"""The last line of `make book`: how many rows of its ledger hold and fail, and which fail.

python tools/verdicts.py _build/claims.json

It always leaves with status 0: the book is whole and there to be read, every failing row is marked in it, and of true
rows one in 16 000 fails by chance. What stops at a failing row is `make test`.
"""

import json
import sys
from pathlib import Path


def line(ledger: dict) -> str:
    """The line for the contents of a ``claims.json``; it begins with the sign of the scorecard."""
    rows = ledger["claims"]
    failing = [f"{row['chapter']}: {row['id']} {row['part']}" for row in rows if row["verdict"] != "holds"]
    made = f"PRESET={ledger['preset']} SEED={ledger['seed']} DEVICE={ledger['device']}"
    if not rows:
        return f"✗ The book has no measured row ({made})."
    if not failing:
        return f"✓ All {len(rows)} measured rows hold ({made})."
    verb = "FAILS" if len(failing) == 1 else "FAIL"
    held = len(rows) - len(failing)
    return f"✗ {len(failing)} of {len(rows)} measured rows {verb}, {held} hold ({made}): {'; '.join(failing)}"


def main(path: Path) -> None:
    said = line(json.loads(path.read_text("utf8")))
    red = sys.stdout.isatty() and said.startswith("✗")
    sys.stdout.reconfigure(encoding="utf8")
    print(f"\033[1;31m{said}\033[0m" if red else said)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

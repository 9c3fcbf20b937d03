"""The last line of `make book`: how many rows of its ledger are confirmed, agree and fail, and which fail.

python tools/verdicts.py _build/claims.json

It always leaves with status 0: the book is whole and there to be read, every failing row is marked in it, and of true
rows one in 16 000 fails by chance. What stops at a failing row is `make test`.
"""

import json
import sys
from pathlib import Path


def line(ledger: dict) -> str:
    """The line for the contents of a ``claims.json``; it begins with the sign of the scorecard.

    Checks of the code are counted only if they fail.
    """
    rows = [row for row in ledger["claims"] if row["counted"] or row["verdict"] == "fails"]
    failing = [
        f"{row['chapter']}: {row['id']} {row['part']}" for row in rows if row["verdict"] not in ("confirmed", "agrees")
    ]
    confirmed = sum(row["verdict"] == "confirmed" for row in rows)
    agree = len(rows) - len(failing) - confirmed
    made = f"PRESET={ledger['preset']} SEED={ledger['seed']} DEVICE={ledger['device']}"
    if not rows:
        return f"✗ The book has no measured row ({made})."
    if not failing:
        return f"✓ No measured row fails: {confirmed} of {len(rows)} confirmed, {agree} agree ({made})."
    verb = "FAILS" if len(failing) == 1 else "FAIL"
    return (
        f"✗ {len(failing)} of {len(rows)} measured rows {verb}, {confirmed} confirmed, {agree} agree ({made}): "
        + "; ".join(failing)
    )


def main(path: Path) -> None:
    said = line(json.loads(path.read_text("utf8")))
    red = sys.stdout.isatty() and said.startswith("✗")
    sys.stdout.reconfigure(encoding="utf8")
    print(f"\033[1;31m{said}\033[0m" if red else said)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

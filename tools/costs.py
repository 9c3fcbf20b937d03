"""Record what a build took, and say it in the README.

python tools/costs.py _build/claims.json

replaces the rows of the build's preset in ``benchmarks/build.csv`` (cores of the machine, preset, chapter, seconds on
one core, peak memory in GiB) and writes what follows from them between two marks of ``README.md``.
"""

import csv
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "benchmarks" / "build.csv"
README = ROOT / "README.md"
HEAD = ["cores", "preset", "chapter", "seconds", "GiB"]
MARKS = "<!-- costs: written by tools/costs.py -->\n", "<!-- end of costs -->\n"


def rows(ledger: dict, cores: int) -> list[list[str]]:
    """The rows of one build; memory that the system did not tell stays empty."""
    found = []
    for chapter, seconds in ledger["seconds"].items():
        memory = ledger["memory"][chapter]
        gib = "" if memory is None else f"{memory / 2**30:.2f}"
        found.append([str(cores), ledger["preset"], chapter, f"{seconds:.0f}", gib])
    return found


def read(path: Path) -> list[list[str]]:
    """The rows of ``build.csv``, without its head; none if it is not there."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf8") as file:
        return list(csv.reader(file))[1:]


def merged(old: list[list[str]], new: list[list[str]]) -> list[list[str]]:
    presets = {row[1] for row in new}
    return sorted([row for row in old if row[1] not in presets] + new, key=lambda row: row[1])


def words(found: list[list[str]]) -> str:
    """A sentence for each preset."""
    lines = []
    for preset in sorted({row[1] for row in found}):
        mine = [row for row in found if row[1] == preset]
        seconds, memory = [float(row[3]) for row in mine], [float(row[4]) for row in mine if row[4]]
        most = f"no page needs more than {max(memory):.1f} GiB of memory" if memory else "memory was not measured"
        lines.append(
            f"At `{preset}` the {len(mine)} pages with code take {sum(seconds) / 60:.1f} minutes of one core together, "
            f"the longest\n{max(seconds) / 60:.1f}; {most} (measured by `make book` on {mine[0][0]} cores).\n"
        )
    return "".join(lines) or "Not measured yet: `make book`, then `python tools/costs.py _build/claims.json`.\n"


def put(readme: str, text: str) -> str:
    """The README with ``text`` between the marks."""
    before, rest = readme.split(MARKS[0])
    return before + MARKS[0] + text + MARKS[1] + rest.split(MARKS[1])[1]


def main(ledger: Path) -> None:
    found = merged(read(TABLE), rows(json.loads(ledger.read_text("utf8")), os.cpu_count()))
    with TABLE.open("w", newline="", encoding="utf8") as file:
        csv.writer(file, lineterminator="\n").writerows([HEAD, *found])
    README.write_text(put(README.read_text("utf8"), words(found)), "utf8")
    print(words(found), end="")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

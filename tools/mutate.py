"""Would a wrong theorem turn the build red? Run the chapters with theories that are wrong by twice their resolution.

python tools/mutate.py LEDGER.json [NUMBER]

From a ledger of this preset and seed (_build/ledgers/..., see `make audit`), one confirmed row of each of NUMBER claims
(30) is drawn, from as many chapters as there are. Each chapter is then executed with the theories of its drawn rows
shifted by twice their resolution, towards the side where the measurement lies: the harder one to notice. The script
prints what became of each row, and leaves with status 1 if one does not fail.
"""

import json
import os
import random
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, zip_longest
from pathlib import Path

import nbformat
from nbclient import NotebookClient

import book_cache
from deeplimits import claims, runtime, tables

SHIFT = """
from deeplimits import claims
shifts, keep = {shifts!r}, claims.Ledger._keep

def shifted(self, id, part, theory, *rest):
    return keep(self, id, part, theory + shifts[id, part] if (id, part) in shifts else theory, *rest)

claims.Ledger._keep = shifted
"""


def draw(ledger: dict, number: int) -> dict[str, list[dict]]:
    """Rows by chapter: one of a claim, in turn from each chapter, until there are ``number``."""
    chosen, rng = defaultdict(dict), random.Random(ledger["seed"])
    rows = [r for r in ledger["claims"] if r["counted"] and r["verdict"] == "confirmed" and r["false_alarm"]]
    rows = [r for r in rows if r["theory"][0] == r["theory"][1] and r["resolution"] > r["allowance"]]
    for r in rng.sample(rows, len(rows)):
        chosen[r["chapter"]].setdefault(r["id"], r)
    turns = zip_longest(*(list(rows.values()) for rows in chosen.values()))
    drawn = [r for r in chain.from_iterable(turns) if r is not None][:number]
    return {chapter: [r for r in drawn if r["chapter"] == chapter] for chapter in {r["chapter"] for r in drawn}}


def execute(chapter: str, rows: list[dict]) -> list[dict]:
    """The records of a chapter whose theories are shifted for ``rows``."""
    path = book_cache.ROOT / "chapters" / f"{chapter}.md"
    notebook = book_cache.read(path)
    shifts = {(r["id"], r["part"]): (2 if r["distance"] > 0 else -2) * r["resolution"] for r in rows}
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SHIFT.format(shifts=shifts)))
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return [record for out in outputs for record in out.get("data", {}).get(claims.MIME, [])]


def main(path: Path, number: int = 30) -> int:
    ledger, run = json.loads(path.read_text("utf8")), runtime.current()
    if (ledger["preset"], ledger["seed"]) != (run.preset, run.seed):
        sys.exit(
            f"{path} is of PRESET={ledger['preset']} SEED={ledger['seed']}, and the environment asks for "
            f"{run.preset} and {run.seed}; set DEEPLIMITS_PRESET and DEEPLIMITS_SEED"
        )
    book_cache.prepare_kernels()
    drawn, alive = draw(ledger, number), []
    print("| chapter | claim | theory | shifted by | measured | verdict |\n|:--|:--|--:|--:|--:|:--|")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for chapter, records in zip(drawn, pool.map(execute, drawn, drawn.values()), strict=True):
            found = {(r["id"], r["part"]): r for r in records}
            for r in drawn[chapter]:
                now = found[r["id"], r["part"]]
                alive += [r] * (now["verdict"] != "fails")
                shift = now["theory"][0] - r["theory"][0]
                cells = [chapter, f"{r['id']} {r['part']}", f"{r['theory'][0]:.4g}", f"{shift:+.2g}"]
                cells += [f"{r['measured']:.4g}", tables.SIGNS[now["verdict"]]]
                print(f"| {' | '.join(cells)} |", flush=True)
    total = sum(map(len, drawn.values()))
    print(f"{total - len(alive)} of {total} wrong theories are found")
    return int(bool(alive) or not total)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))

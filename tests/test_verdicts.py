"""The last line of ``make book``, and the seeds that ``make`` draws."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import verdicts

ROOT = Path(__file__).resolve().parents[1]
GOOD = {"chapter": "scaling/stability", "id": "M-03", "part": "outputs, β = 1/2", "verdict": "confirmed"}
GOOD |= {"counted": True}
WIDE = GOOD | {"verdict": "agrees"}
FAILS = GOOD | {"chapter": "phase/phase-diagram", "id": "C12", "part": "variance; S = 1", "verdict": "fails"}


def ledger(*rows: dict) -> dict:
    return {"preset": "standard", "seed": 7, "device": "cpu", "claims": list(rows)}


def test_no_row_fails():
    said = verdicts.line(ledger(GOOD, WIDE, GOOD))
    assert said == "✓ No measured row fails: 2 of 3 confirmed, 1 agree (PRESET=standard SEED=7 DEVICE=cpu)."


def test_failing_rows_are_counted_and_named():
    said = verdicts.line(ledger(GOOD, FAILS, WIDE, GOOD))
    assert said.startswith("✗ 1 of 4 measured rows FAILS, 2 confirmed, 1 agree (PRESET=standard SEED=7")
    assert said.endswith(": phase/phase-diagram: C12 variance; S = 1")
    both = verdicts.line(ledger(FAILS, FAILS | {"id": "C9"}, GOOD))
    assert both.startswith("✗ 2 of 3 measured rows FAIL, 1 confirmed, 0 agree") and "C12" in both and "C9" in both


def test_checks_of_the_code_count_only_if_they_fail():
    code = {"counted": False}
    assert verdicts.line(ledger(GOOD, GOOD | code)).startswith("✓ No measured row fails: 1 of 1 confirmed, 0 agree")
    assert verdicts.line(ledger(GOOD, FAILS | code)).startswith("✗ 1 of 2")


def test_a_verdict_that_is_none_of_the_three_counts_as_failing():
    assert verdicts.line(ledger(GOOD | {"verdict": "holds"})).startswith("✗ 1 of 1")


def test_a_book_without_rows_is_not_good():
    assert verdicts.line(ledger()).startswith("✗")


def test_it_is_one_line_with_status_0_for_the_book_is_there_to_be_read(tmp_path):
    file = tmp_path / "claims.json"
    file.write_text(json.dumps(ledger(GOOD, FAILS)), "utf8")
    command = [sys.executable, ROOT / "tools" / "verdicts.py", file]
    done = subprocess.run(command, capture_output=True, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.decode("utf8") == verdicts.line(ledger(GOOD, FAILS)) + "\n"


def make(*arguments: str) -> str:
    """What make says, without the variables of a make that runs these tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "-C", ROOT, "--no-print-directory", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


@needs_make
def test_the_line_is_the_last_thing_that_make_book_does():
    assert "tools/verdicts.py _build/claims.json" in make("-n", "book").splitlines()[-1]


@needs_make
def test_a_new_seed_is_drawn_once_and_told():
    """Two seeds of 32 bits are equal with probability 2e-10."""
    told = [make("-n", "book", "SEED=new", "PRESET=smoke").splitlines()[0] for _ in range(2)]
    found = [re.fullmatch(r"SEED=new drew (\d+); to repeat it: make book PRESET=smoke SEED=\1", line) for line in told]
    assert all(found) and found[0][1] != found[1][1]
    assert make("-s", "help", "SEED=3").count("drew") == 0

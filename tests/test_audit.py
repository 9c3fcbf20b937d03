"""The audit of the ledger: each of its five questions is green for an honest ledger and red for a planted one."""

import json
import subprocess
import sys
from math import inf
from pathlib import Path

import numpy as np
import pytest

import audit
from deeplimits import claims
from deeplimits.claims import Ledger, Rival
from deeplimits.statistics import Estimate

IDS = [f"T{i}" for i in range(40)]


@pytest.fixture(autouse=True)
def small_registry(monkeypatch):
    known = {i: claims.Claim(i, "p", "beyond", "c", "t", "s", "src", Rival("nothing")) for i in IDS}
    monkeypatch.setattr(claims, "registry", lambda: known)


def measured(value, error, quantity="constant"):
    return Estimate(value, error, 100, 0, lambda z: (value - z * error, value + z * error), quantity)


def honest(seed=0, size=0.003, spread=1.0) -> list[dict]:
    """Two rows for each of forty claims, n = 2 and n = 3: theories 1 and 1.5, normal errors, the rival 2."""
    rng, ledger = np.random.default_rng(seed), Ledger("c")
    for id in IDS:
        for n, theory in ((2, 1.0), (3, 1.5)):
            value = theory + spread * size * rng.standard_normal()
            ledger.record(id, f"n = {n}: mean", theory, measured(value, size), rival=2.0)
    return [r.json() for r in ledger.records.values()]


def asked(rows: list[dict], preset="standard") -> dict[str, audit.Answer]:
    return {answer.question: answer for answer in audit.audit([{"preset": preset, "seed": 3, "claims": rows}])}


def red(rows: list[dict], preset="standard") -> set[str]:
    return {question for question, answer in asked(rows, preset).items() if answer.red}


def planted(theory, estimate, part="planted", id="T0", **fields) -> list[dict]:
    """An honest ledger and one row more."""
    ledger = Ledger("c")
    ledger.record(id, part, theory, estimate, **fields)
    return [*honest(), *(r.json() for r in ledger.records.values())]


def test_an_honest_ledger_is_green():
    assert red(honest()) == set()
    assert "80 rows of 40 claims" in asked(honest())["calibration"].said


def test_exchange():
    """An allowance as large as the difference between two predictions lets them be exchanged."""
    fields = {"allowance": 0.1, "why": "our choice: it had to be something", "resolution": 0.02, "rival": 9.0}
    rows = planted(1.08, measured(1.04, 0.001), "H = 0.5: exponent", **fields)
    rows += planted(1.0, measured(1.04, 0.001), "H = 0.3: exponent", **fields)[-1:]
    assert red(rows) == {"exchange"}
    assert "H = 0.5: exponent and H = 0.3: exponent" in asked(rows)["exchange"].red[0]
    # closer than twice their resolution: nobody has promised to tell them apart
    rows[-1] |= {"theory": [1.05, 1.05]}
    assert red(rows) == set() and "1 closer" in asked(rows)["exchange"].said


def test_a_rival_must_be_excluded():
    rows = planted(1.0, measured(1.0, 0.004), id="T1", rival=1.041)
    rows = [r for r in rows if r["id"] != "T1" or r["part"] == "planted"]
    assert red(rows) == set()
    rows[-1] |= {"interval_5": [0.9, 1.05]}
    assert red(rows) == {"rivals"} and red(rows, "smoke") == set()
    assert "T1: no row excludes its rival" in asked(rows)["rivals"].red[0]


def test_a_rival_must_be_asked_for_and_lie_far_enough():
    unasked = [r | {"rival": None} if r["id"] == "T2" else r for r in honest()]
    assert red(unasked) == {"rivals"} and red(unasked, "smoke") == {"rivals"}
    coarse = [r | {"resolution": 0.6} if r["id"] == "T2" else r for r in honest()]
    assert "above half the distance" in asked(coarse)["rivals"].red[0] and red(coarse, "smoke") == set()


def test_a_rival_must_be_excluded_at_every_seed():
    ledgers = [{"preset": "standard", "seed": s, "claims": honest(s)} for s in (0, 1)]
    assert not any(answer.red for answer in audit.audit(ledgers))
    for r in ledgers[1]["claims"]:
        r["interval_5"] = [0.0, 9.0] if r["id"] == "T2" else r["interval_5"]
    assert [answer.question for answer in audit.audit(ledgers) if answer.red] == ["rivals"]


@pytest.mark.parametrize(("spread", "said"), [(2.0, "too small"), (0.3, "too good")])
def test_calibration(spread, said):
    """Errors half as large as they should be are found, and errors three times too large."""
    rows = honest(spread=spread)
    assert "calibration" in red(rows) and any(said in line for line in asked(rows)["calibration"].red)


def test_calibration_finds_a_row_that_is_sure_of_something_else():
    assert red(planted(1.0, measured(1.01, 0.001), rival=2.0)) == {"calibration"}


def test_calibration_is_rarely_red_by_chance():
    """Its two tests of 200 honest ledgers have false-alarm rates near 1e-4."""
    assert not any("calibration" in red(honest(seed)) for seed in range(200))


def test_allowances():
    row = planted(1.0, measured(1.015, 0.001), rival=2.0, allowance=0.01, why="1/L")
    assert red(row) == {"allowances"} and "saved by its resolution" in asked(row)["allowances"].red[0]
    used = planted(1.0, measured(1.011, 0.001), rival=2.0, allowance=0.01, why="our choice: a guess")
    notes = asked(used)["allowances"].notes
    assert red(used) == set() and "used 90% of its allowance" in notes[0] and "our choice" in notes[1]
    idle = planted(1.0, measured(1.0, 0.0001), rival=2.0, allowance=0.01, why="1/L")
    assert "less than a quarter" in asked(idle)["allowances"].notes[0]


def test_survivors():
    """Rows too wide to catch a shift of twice what they allow are listed; too many of them are red."""
    wide = [r | {"interval": [0.0, 9.0], "verdict": "agrees"} for r in honest()[:4]]
    rows = honest()[4:] + wide
    assert red(rows) == set() and len(asked(rows)["survivors"].notes) == 4
    rows = honest()[10:] + [r | {"interval": [0.0, 9.0], "verdict": "agrees"} for r in honest()[:10]]
    assert red(rows) == {"survivors"} and red(rows, "smoke") == set()


def test_an_inequality_survives_unless_it_excludes_a_rival():
    empty = planted((-inf, 0.7), measured(0.0, 0.01))
    assert any("planted" in line for line in asked(empty)["survivors"].notes)
    sharp = planted((-inf, 0.7), measured(0.0, 0.01), rival=0.7)
    assert asked(sharp)["survivors"].notes == []


def test_command(tmp_path):
    """It reads the real registry, where these claims are unknown; an empty ledger is green, none is an error."""
    file = tmp_path / "claims.json"
    file.write_text(json.dumps({"preset": "smoke", "seed": 0, "claims": []}), "utf8")
    script = Path(audit.__file__)
    done = subprocess.run([sys.executable, script, file], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("✓") == 5
    for arguments, said in ([[], "name a ledger"], [[tmp_path / "no.json"], "no.json is not there"]):
        done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
        assert done.returncode == 1 and said in done.stderr

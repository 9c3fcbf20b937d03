"""What no single row of the ledger can say: five questions to all of them, from `_build/claims.json` alone.

python tools/audit.py LEDGER.json [LEDGER.json ...]

1. exchange: rows of a claim that differ in their numbers only predict the same quantity for other parameters. Two whose
   theories differ by twice their resolution must fail when these are exchanged.
2. rivals: each claim names one; a row excludes it, with an allowance and a resolution of at most half the distance.
3. calibration: where theory is exact, its distance in standard errors is standard normal over all rows: errors that are
   too small show, and so does agreement that is too good.
4. allowances: none is exceeded, with only the resolution to save the row; those that are nearly used up, beyond what
   chance explains, or hardly used are listed, and so are those that are our choice.
5. survivors: rows that would also stand by a theory shifted by twice allowance and resolution; inequalities stand alone
   if they exclude no rival.

Several ledgers, of several seeds, are asked together. Leaves with status 1 if an answer is red. What needs the size of
the default preset is not asked of `smoke`: that rivals are far enough and excluded, that at most one random row in
twenty survives.
"""

import json
import re
import sys
from collections import defaultdict
from itertools import combinations
from math import isnan, sqrt
from pathlib import Path

import numpy as np
from scipy import stats

from deeplimits import claims
from deeplimits.statistics import false_alarm
from deeplimits.verdict import HOLD, REJECT, again, apart, excludes, numbers, widen

LISTED = 12  # lines of a list, unless something is wrong
SURVIVORS = 0.05  # share of the counted random rows


class Answer:
    """What one question found: ``red`` lines turn the audit red, ``notes`` are for the reader."""

    def __init__(self, question: str):
        self.question, self.said, self.red, self.notes = question, "", [], []

    def __str__(self) -> str:
        lines = [f"{'✗' if self.red else '✓'} {self.question}: {self.said}"]
        lines += [f"    ✗ {line}" for line in self.red] + [f"    {line}" for line in self.notes[:LISTED]]
        more = len(self.notes) - LISTED
        return "\n".join(lines + [f"    and {more} more"] * (more > 0))


def exchange(rows: list[dict]) -> Answer:
    answer, families = Answer("exchange"), defaultdict(list)
    for r in rows:
        if r["counted"] and is_value(r) and r["verdict"] == "confirmed":
            pattern = re.sub(r"[\d.,/]+", "#", r["part"])
            families[r["seed"], r["chapter"], r["id"], pattern].append(r)
    asked, close = 0, 0
    for a, b in (pair for family in families.values() for pair in combinations(family, 2)):
        apart_by = abs(numbers(a["theory"])[0] - numbers(b["theory"])[0])
        survive = again(a, theory=b["theory"]) != "fails" and again(b, theory=a["theory"]) != "fails"
        line = f"{name(a)} and {b['part']}: exchanged predictions pass"
        if apart_by >= 2 * max(a["resolution"], b["resolution"]) and apart_by > 0:
            asked += 1
            answer.red += [line] * survive
        elif apart_by > 0:
            close += survive
    answer.said = f"{asked} pairs told apart, {close} closer than twice their resolution and not told apart"
    return answer


def rivals(rows: list[dict], small: bool) -> Answer:
    answer, excluded = Answer("rivals"), 0
    counted = [r for r in rows if r["counted"]]
    for id in dict.fromkeys(r["id"] for r in counted):
        mine = [r for r in counted if r["id"] == id]
        named = [r for r in mine if r["rival"] is not None]
        sharp = [r for r in named if not is_value(r) or r["allowance"] + r["resolution"] <= to_rival(r) / 2]
        good = {r["seed"] for r in sharp if excludes(r)} >= {r["seed"] for r in mine}
        excluded += good
        if claims.registry()[id].rival is None and claims.registry()[id].kind != "note":
            answer.red.append(f"{id}: claims.toml names no rival")
        elif not named and claims.registry()[id].kind != "note":
            answer.red.append(f"{id}: no row asks for its rival")
        elif named and not sharp:
            said = f"{id}: allowance and resolution are above half the distance to the rival in every row"
            (answer.notes if small else answer.red).append(said)
        elif named and not good:
            (answer.notes if small else answer.red).append(f"{id}: no row excludes its rival at {REJECT:.0f} se")
    answer.said = f"excluded at {REJECT:.0f} standard errors in {excluded} claims"
    return answer


def calibration(rows: list[dict]) -> Answer:
    answer = Answer("calibration")
    exact = [r for r in rows if r["counted"] and is_value(r) and not r["allowance"] and r["false_alarm"]]
    exact = [r for r in exact if r["quantity"] in ("constant", "exponent") and not isnan(float(r["distance"]))]
    z = np.array([float(r["distance"]) for r in exact])
    answer.red += [f"{name(r)}: {float(r['distance']):.1f} se from a theory without allowance" for r in exact
                   if abs(float(r["distance"])) > REJECT]  # fmt: skip
    groups = defaultdict(list)  # rows of one claim may share their runs
    for r, x in zip(exact, z, strict=True):
        groups[r["seed"], r["id"]].append(x)
    if len(groups) < 10:
        answer.said = f"{len(groups)} claims with an exact theory, too few to ask"
        return answer
    # Mean square and its error from whole claims, so that rows with common runs do not count as many.
    sums = np.array([[np.square(g).sum(), len(g)] for g in groups.values()])
    square = sums[:, 0].sum() / len(z)
    error = sqrt(((sums[:, 0] - square * sums[:, 1]) ** 2).sum()) / len(z)
    error = max(error, sqrt(2 / len(z)))
    off = stats.kstest(z, "norm").statistic
    bound = stats.kstwo.isf(false_alarm(HOLD), len(groups))
    answer.said = (
        f"{len(z)} rows of {len(groups)} claims, mean square {square:.2f} (1 give or take {HOLD * error:.2f}), "
        f"Kolmogorov distance {off:.3f} (at most {bound:.3f})"
    )
    if abs(square - 1) > HOLD * error:
        answer.red.append("errors are too small" if square > 1 else "agreement is too good: errors are too large")
    if off > bound:
        answer.red.append("the distances are not standard normal")
    return answer


def allowances(rows: list[dict]) -> Answer:
    answer = Answer("allowances")
    mine = [r for r in rows if r["counted"] and r["allowance"]]
    nearly, idle = [], []
    for r in mine:
        allowed = widen(numbers(r["theory"]), r["allowance"])
        if apart(numbers(r["interval"]), allowed):
            answer.red.append(f"{name(r)}: outside its allowance, saved by its resolution only")
        if not is_value(r):
            continue
        low, high = (x - numbers(r["theory"])[0] for x in numbers(r["interval"]))
        away = abs(float(r["measured"]) - numbers(r["theory"])[0])
        used = max(away - (high - low) / 4, 0) / r["allowance"]  # beyond two standard errors
        nearly += [f"{name(r)}: used {used:.0%} of its allowance"] * (used > 0.75)
        idle += [f"{name(r)}: needs less than a quarter"] * (max(-low, high) < r["allowance"] / 4)
    ours = [f"{name(r)}: {r['why']}" for r in mine if r["why"].startswith("our choice")]
    answer.notes = nearly + idle + ours
    answer.said = (
        f"{len(mine)} rows have one, {len(nearly)} used more than three quarters of it, {len(idle)} hardly any, "
        f"{len(ours)} are our choice"
    )
    return answer


def survivors(rows: list[dict], small: bool) -> Answer:
    answer = Answer("survivors")
    counted = [r for r in rows if r["counted"]]
    random = [r for r in counted if r["false_alarm"]]
    alive = [r for r in counted if survives(r)]
    answer.said = f"{len(counted) - len(alive)} of {len(counted)} counted rows would have caught a shifted theory"
    lines = [f"{name(r)}: {r['verdict']}, measured {r['measured']:.4g}, theory {r['theory']}" for r in alive]
    share = sum(bool(r["false_alarm"]) for r in alive) / max(len(random), 1)
    if share > SURVIVORS and not small:
        answer.red.append(f"{share:.1%} of the random rows survive, more than {SURVIVORS:.0%}")
    answer.notes = lines
    return answer


def survives(r: dict) -> bool:
    """Whether a row would stand by a theory shifted by twice allowance and resolution, either way."""
    if not is_value(r):
        return not excludes(r)
    shift, (theory, _) = 2 * (r["allowance"] + r["resolution"]), numbers(r["theory"])
    return any(again(r, theory=[theory + s, theory + s]) != "fails" for s in (-shift, shift) if shift)


def audit(ledgers: list[dict]) -> list[Answer]:
    """The five answers for the contents of one or more ``claims.json``."""
    rows = [r | {"seed": ledger["seed"]} for ledger in ledgers for r in ledger["claims"]]
    small = any(ledger["preset"] == "smoke" for ledger in ledgers)
    return [exchange(rows), rivals(rows, small), calibration(rows), allowances(rows), survivors(rows, small)]


def is_value(r: dict) -> bool:
    return r["theory"][0] == r["theory"][1]


def to_rival(r: dict) -> float:
    low, high = numbers(r["rival"])
    theory = numbers(r["theory"])[0]
    return max(low - theory, theory - high, 0.0)


def name(r: dict) -> str:
    return f"{r['chapter']}, seed {r['seed']}: {r['id']} {r['part']}"


def main(paths: list[Path]) -> int:
    if not paths:
        sys.exit("name a ledger, such as _build/claims.json, which `make book` writes")
    for path in paths:
        if not path.is_file():
            sys.exit(f"{path} is not there: `make book` writes _build/claims.json, `make audit` one for each seed")
    sys.stdout.reconfigure(encoding="utf8")
    answers = audit([json.loads(path.read_text("utf8")) for path in paths])
    print(*answers, sep="\n")
    return int(any(answer.red for answer in answers))


if __name__ == "__main__":
    sys.exit(main([Path(argument) for argument in sys.argv[1:]]))

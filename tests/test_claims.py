"""The ledger: what a record keeps, what it refuses, what its tables hand on."""

import json
import re
from math import inf, isnan, nan

import pytest
import torch

from deeplimits import claims, statistics
from deeplimits.claims import Ledger, Rival


def measured(value, error=1.0, diverged=0, quantity="constant"):
    return statistics.Estimate(value, error, 100, diverged, lambda z: (value - z * error, value + z * error), quantity)


def recorded(theory, estimate, part="part", id="M-03", **fields):
    ledger = Ledger("scaling/stability")
    ledger.record(id, part, theory, estimate, **fields)
    return ledger.records[id, part]


@pytest.mark.parametrize(
    ("theory", "estimate", "fields", "expected"),
    [
        (10.0, measured(10.0, 0.04), {}, "confirmed"),  # 2 % of 10 by default
        (10.0, measured(10.0, 0.06), {}, "agrees"),
        (10.0, measured(10.3, 0.06), {}, "fails"),
        (10.0, measured(10.3, 0.06), {"allowance": 0.2, "why": "1/L"}, "agrees"),
        (10.0, measured(10.0, 0.04), {"printed": 10.19}, "agrees"),
        (10.0, measured(10.0, 0.04), {"printed": 10.21}, "confirmed"),
        (10.0, measured(10.0, 0.04, diverged=1), {}, "fails"),
        (-0.5, measured(-0.5, 0.012, quantity="exponent"), {}, "confirmed"),
        (-0.5, measured(-0.5, 0.013, quantity="exponent"), {}, "agrees"),
        ((0.0, inf), measured(4.1), {}, "confirmed"),
        ((0.0, inf), measured(3.9), {}, "agrees"),
        ((0.0, inf), measured(-4.1), {}, "fails"),
        (0.0, statistics.exact(0.0), {}, "confirmed"),
        (0.0, measured(nan), {"resolution": 1.0}, "fails"),
    ],
)
def test_verdict(theory, estimate, fields, expected):
    assert recorded(theory, estimate, **fields).verdict == expected


def test_false_alarm_rate_of_a_true_claim(generator):
    """At 4 standard errors a true claim fails about once in 16 000: never in 300 here (chance 2 %)."""
    x = torch.empty(300, 500, dtype=torch.float64).normal_(generator=generator)
    assert "fails" not in {recorded(0.0, statistics.mean(row), resolution=0.1).verdict for row in x}


def test_power_against_a_departure_of_twice_the_resolution(generator):
    """A confirmed row whose theory is wrong by twice its resolution fails: always, not often."""
    x = torch.empty(300, 10_000, dtype=torch.float64).normal_(1, 0.2, generator=generator)
    rows = [recorded(1.0, statistics.mean(row)) for row in x]
    assert {row.verdict for row in rows} == {"confirmed"}
    assert {recorded(1.04, row.measured, resolution=0.02).verdict for row in rows} == {"fails"}


@pytest.mark.parametrize(
    ("theory", "fields", "message"),
    [
        (0.0, {}, "M-03 part has no resolution: 2 % of a theory of 0 is nothing; pass resolution="),
        (1.0, {"allowance": 0.1}, "has an allowance, or a resolution above 0.02, without a reason; pass why="),
        (1.0, {"resolution": 0.03}, "has an allowance, or a resolution above 0.02, without a reason; pass why="),
        (
            1.0,
            {"allowance": -0.1, "why": "x"},
            "allowance of M-03 part must be a finite number, zero or more",
        ),
        (
            1.0,
            {"resolution": inf, "why": "x"},
            "resolution of M-03 part must be a finite number, zero or more",
        ),
        (1.0, {"rival": 1.0}, "the rival of M-03 part lies in its theory"),
        ((0.0, inf), {"rival": 1.0}, "the rival of M-03 part lies in its theory"),
        ((0.0, inf), {"rival": (-1.0, 1.0)}, "the rival of M-03 part lies in its theory"),
        (nan, {}, "theory must be a number or a range"),
        ((1.0, 0.0), {}, "theory must be a number or a range"),
        (1.0, {"printed": (0.0, nan)}, "printed must be a number or a range"),
    ],
)
def test_a_record_that_says_nothing_is_refused(theory, fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        recorded(theory, measured(1.0), **fields)


def test_a_strict_inequality_may_have_its_edge_for_a_rival():
    assert recorded((0.0, inf), measured(10.0), rival=0.0).rival == (0.0, 0.0)
    assert recorded((0.0, inf), measured(10.0), rival=(-inf, 0.0)).rival == (-inf, 0.0)


def test_unknown_ids_and_bare_numbers_are_refused():
    with pytest.raises(KeyError, match="unknown claim id 'M-99'"):
        recorded(0.0, measured(0.0), id="M-99")
    with pytest.raises(TypeError, match="measured must be of type Estimate, got float"):
        recorded(0.0, 0.0)


def test_the_registry_hands_its_rival_to_the_rows_that_it_names(monkeypatch):
    claim = claims.Claim("M-03", "p", "beyond", "c", "t", "s", "src", Rival("the weak rate", -1.0, "power"))
    monkeypatch.setattr(claims, "registry", lambda: {"M-03": claim})
    assert recorded(-0.5, measured(-0.5), part="power of L").rival == (-1.0, -1.0)
    assert recorded(-0.5, measured(-0.5), part="constant").rival is None
    assert recorded(-0.5, measured(-0.5), part="power of L", rival=-2.0).rival == (-2.0, -2.0)


def test_the_distance_is_a_standard_normal_score_even_for_few_runs(generator):
    """Of 2000 means of three normal runs the scores have variance 1 ± 0.13 (4 standard errors); of t it is infinite."""
    x = torch.empty(2000, 3, dtype=torch.float64).normal_(generator=generator)
    scores = torch.tensor([recorded(0.0, statistics.mean(row), resolution=1.0).away((0.0, 0.0)) for row in x])
    assert abs(scores.var() - 1) < 0.13
    assert recorded(10.0, measured(13.0)).away((10.0, 10.0)) == pytest.approx(3.0, abs=1e-6)
    assert recorded(10.0, measured(7.0)).away((10.0, inf)) == pytest.approx(-3.0, abs=1e-6)
    assert recorded((0.0, inf), measured(7.0)).away((0.0, inf)) == 0
    assert isnan(recorded(1.0, statistics.exact(1.0)).away((1.0, 1.0)))


def test_recording_again_replaces():
    ledger = Ledger("scaling/stability")
    for value in (1.0, 100.0):
        ledger.record("M-03", "part", 1.0, measured(value))
    assert [r.verdict for r in ledger.records.values()] == ["fails"]


def test_checks_of_the_code_are_kept_and_not_counted():
    ledger = Ledger("scaling/stability")
    ledger.check("M-03", "algebra", 1.0, statistics.exact(1 + 1e-15), allowance=1e-12, why="rounding")
    ledger.check("M-03", "wrong", 1.0, statistics.exact(1.1))
    good, bad = (r.json() for r in ledger.records.values())
    assert not good["counted"] and good["verdict"] == "confirmed" and bad["verdict"] == "fails"


def test_only_the_summary_carries_the_records_and_they_are_strict_json():
    ledger = Ledger("scaling/stability")
    ledger.record("M-03", "a", (-inf, 1.0), measured(nan))
    ledger.record("M-04", "b", 0.0, statistics.exact(0.0), printed=(1.0, inf))
    ledger.record("M-04", "c", 10.0, measured(10.3, 0.1), rival=20.0)
    assert claims.MIME not in ledger.show("M-03")._repr_mimebundle_()
    a, b, c = json.loads(json.dumps(ledger.table()._repr_mimebundle_()[claims.MIME], allow_nan=False))
    assert (a["id"], a["part"], a["verdict"]) == ("M-03", "a", "fails")
    assert a["theory"] == ["-inf", 1.0] and a["measured"] == "nan"
    assert a["false_alarm"] == pytest.approx(6.33e-5, rel=1e-3)
    assert b["printed"] == [1.0, "inf"] and b["false_alarm"] == 0.0 and b["verdict"] == "confirmed"
    assert c["distance"] == pytest.approx(3, abs=1e-6) and c["rival_distance"] == pytest.approx(-37, abs=1e-3)


def test_a_row_is_shown_once_until_it_is_recorded_again():
    ledger = Ledger("scaling/stability")

    def parts(table):
        return [r["part"] for r in table.records]

    for part in ("a", "b"):
        ledger.record("M-03", part, 0.0, statistics.exact(0.0))
    ledger.record("M-04", "c", 0.0, statistics.exact(0.0))
    assert parts(ledger.show("M-03")) == ["a", "b"]
    ledger.record("M-03", "d", 0.0, statistics.exact(0.0))
    assert parts(ledger.show("M-03", "M-04")) == ["c", "d"]
    assert parts(ledger.show("M-03")) == ["a", "b", "d"]  # nothing new: everything
    ledger.record("M-03", "b", 0.0, statistics.exact(0.0))
    assert parts(ledger.show("M-03")) == ["b"]
    assert len(ledger.table().records) == 4


def test_registry_is_whole():
    """The numbered claims of the sources are all there, and each names what else could be true."""
    found = claims.registry()
    sheets = {
        *(f"H-{i:02}" for i in range(1, 24)), "H-07b", *(f"E{i}" for i in range(1, 46)),
        *(f"M-{i:02}" for i in range(1, 22)), *(f"C{i}" for i in range(1, 13)),
    }  # fmt: skip
    assert set(found) >= sheets
    for claim in found.values():
        assert claim.paper in ("marion", "hayou", "chizat") and claim.kind in claims.KINDS
        assert claim.statement.count("$") % 2 == 0 and claim.title and claim.source
        assert claim.kind != "correction" or claim.id.startswith("E")
        assert claim.kind == "note" or claim.rival, f"{claim.id} names no rival"

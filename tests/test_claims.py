"""The verdict: what makes it hold, and everything that must turn it red."""

import json
from math import inf, nan

import numpy as np
import pytest
import torch

from deeplimits import claims, statistics
from deeplimits.claims import Ledger


def measured(value, error=1.0, diverged=0):
    return statistics.Estimate(value, error, 100, diverged, lambda z: (value - z * error, value + z * error))


def recorded(predicted, estimate, printed=None, part="part", inside=False):
    ledger = Ledger("scaling/stability")
    ledger.record("M-03", part, predicted, estimate, printed=printed, inside=inside)
    return ledger.records["M-03", part]


def verdict(predicted, estimate, printed=None):
    return recorded(predicted, estimate, printed).verdict


@pytest.mark.parametrize(
    ("predicted", "estimate", "printed", "expected"),
    [
        (10.0, measured(13.9), None, "holds"),
        (10.0, measured(14.1), None, "fails"),
        (10.0, measured(5.9), None, "fails"),
        ((-inf, 10.0), measured(13.9), None, "holds"),
        ((-inf, 10.0), measured(14.1), None, "fails"),
        ((-inf, 10.0), measured(-1000.0), None, "holds"),
        ((10.0, inf), measured(5.9), None, "fails"),
        ((0.0, 0.5), statistics.proportion(torch.ones(100, dtype=torch.bool)), None, "fails"),
        (0.0, statistics.exact(0.0), None, "holds"),
        (0.0, statistics.exact(1e-300), None, "fails"),
        (10.0, measured(10.0, diverged=1), None, "fails"),
        (10.0, measured(nan), None, "fails"),
        (0.0, measured(0.0, nan), None, "fails"),
        (10.0, measured(10.0), 15.1, "holds"),  # the printed value is rejected at more than 5 standard errors
        (10.0, measured(10.0), 14.9, "fails"),  # not enough power: the correction is not shown
        (10.0, measured(10.0), (4.0, 4.9), "holds"),
        (10.0, measured(10.0), (4.0, 5.1), "fails"),
        (20.0, measured(10.0), 0.0, "fails"),  # rejecting the printed value does not prove our own
    ],
)
def test_verdict(predicted, estimate, printed, expected):
    assert verdict(predicted, estimate, printed) == expected


@pytest.mark.parametrize(
    ("predicted", "estimate", "expected"),
    [
        ((0.0, inf), measured(4.1), "holds"),
        ((0.0, inf), measured(3.9), "fails"),  # its interval reaches beyond 0
        ((0.0, inf), measured(0.0), "fails"),  # no effect is not a positive effect
        ((-inf, 0.0), measured(0.0), "fails"),
        ((-inf, 0.0), measured(-4.1), "holds"),
        ((0.0, inf), statistics.exact(0.0), "fails"),  # strict
        ((-5.0, 5.0), measured(0.5), "holds"),
        ((-5.0, 5.0), measured(1.5), "fails"),
        ((0.0, inf), measured(nan), "fails"),
        ((0.0, inf), measured(10.0, diverged=1), "fails"),
    ],
)
def test_strict_inequality_wants_the_whole_interval(predicted, estimate, expected):
    assert recorded(predicted, estimate, inside=True).verdict == expected


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        ((9.0, 11.0), True),  # the interval of `measured` is 6 ... 14
        ((5.9, 14.0), False),
        (10.0, False),  # no allowance
        ((6.5, inf), False),
    ],
)
def test_an_interval_wider_than_the_allowance_is_said_to_be_wide(predicted, expected):
    record = recorded(predicted, measured(np.float64(10.0)))  # as SciPy returns them
    assert record.wide == json.loads(json.dumps(record.json()))["wide"] == expected
    assert record.row()[0] == ("✓ holds, wide" if expected else "✓ holds")


def test_strict_inequality_is_shown_and_kept():
    record = recorded((0.0, inf), measured(10.0), inside=True)
    assert record.row()[1] == "> 0" and record.json()["inside"] is True
    assert recorded((-inf, 0.0), measured(-10.0), inside=True).row()[1] == "< 0"
    assert recorded((1.0, 2.0), measured(1.5, 0.01), inside=True).row()[1] == "1 < … < 2"
    assert recorded((0.0, inf), measured(10.0)).json()["inside"] is False
    with pytest.raises(ValueError, match="with inside=True predicted must be a range"):
        recorded(1.0, measured(1.0), inside=True)


def test_false_alarm_rate_of_a_true_claim(generator):
    """At 4 standard errors a true claim fails about once in 16 000: never in 300 here (chance 2 %)."""
    x = torch.empty(300, 500, dtype=torch.float64).normal_(generator=generator)
    assert {verdict(0.0, statistics.mean(row)) for row in x} == {"holds"}


def test_unknown_ids_and_bare_numbers_are_refused():
    ledger = Ledger("scaling/stability")
    with pytest.raises(KeyError, match="unknown claim id 'M-99'"):
        ledger.record("M-99", "part", predicted=0.0, measured=measured(0.0))
    with pytest.raises(TypeError, match="measured must be of type Estimate, got float"):
        ledger.record("M-03", "part", predicted=0.0, measured=0.0)
    for bad in [(1.0, 0.0), nan, (0.0, nan)]:
        with pytest.raises(ValueError, match="a prediction must be a number or a range"):
            ledger.record("M-03", "part", predicted=bad, measured=measured(0.0))


def test_recording_again_replaces():
    ledger = Ledger("scaling/stability")
    for value in (0.0, 100.0):
        ledger.record("M-03", "part", predicted=0.0, measured=measured(value))
    assert [r.verdict for r in ledger.records.values()] == ["fails"]


def test_only_the_summary_carries_the_records_and_they_are_strict_json():
    ledger = Ledger("scaling/stability")
    ledger.record("M-03", "a", predicted=(-inf, 1.0), measured=measured(nan))
    ledger.record("M-04", "b", predicted=0.0, measured=statistics.exact(0.0), printed=(1.0, inf))
    assert claims.MIME not in ledger.show("M-03")._repr_mimebundle_()
    bundle = ledger.table()._repr_mimebundle_()
    records = json.loads(json.dumps(bundle[claims.MIME], allow_nan=False))
    assert [(r["id"], r["part"], r["verdict"]) for r in records] == [("M-03", "a", "fails"), ("M-04", "b", "holds")]
    assert records[0]["prediction"] == ["-inf", 1.0] and records[0]["measured"] == "nan"
    assert records[1]["printed"] == [1.0, "inf"] and records[1]["false_alarm"] == 0.0
    assert records[0]["false_alarm"] == pytest.approx(6.33e-5, rel=1e-3)


def test_rows_show_as_many_digits_as_the_interval_deserves():
    ledger = Ledger("scaling/stability")
    ledger.record("M-03", "a", predicted=0.62889, measured=measured(0.62611, 0.00141))
    ledger.record("M-03", "b", predicted=(-inf, 4.0), measured=measured(0.5, 0.1), printed=9.0)
    ledger.record("M-03", "c", predicted=(2.0, inf), measured=measured(1e9, 1.0, diverged=3))
    ledger.record("M-03", "d", predicted=0.0, measured=statistics.exact(0.0))
    a, b, c, d = (r.row() for r in ledger.records.values())
    assert a == ["✓ holds", "0.62889", "0.6261", "0.6205 … 0.6318", "100"]
    assert b == ["✓ holds", "≤ 4 (printed: 9.000)", "0.50", "0.10 … 0.90", "100"]
    assert c[:2] == ["✗ fails", "≥ 2"] and c[4] == "100 (3 diverged)"
    assert d[1:4] == ["0", "0", "exact"]


def test_a_bar_in_a_label_does_not_break_the_table():
    ledger = Ledger("scaling/stability")
    ledger.record("M-03", "mean of |p|", 0.0, measured(0.0))
    (row,) = ledger.show("M-03")._repr_markdown_().splitlines()[2:]
    assert "mean of \\|p\\|" in row and row.replace("\\|", "").count("|") == 7


def test_a_range_narrower_than_its_digits_is_shown_as_a_number():
    assert recorded((0.56249, 0.56251), measured(0.5625)).row()[1] == "0.5625"


def test_a_rounded_zero_has_no_sign():
    assert recorded(-1e-9, measured(-1e-9, 0.01)).row()[1:4] == ["0.0000", "0.000", "−0.040 … 0.040"]


def test_one_line_a_claim_says_whether_all_its_measurements_hold():
    ledger = Ledger("scaling/stability")
    for part, value in [("a", 0.0), ("b", 100.0)]:
        ledger.record("M-03", part, 0.0, measured(value))
    ledger.record("M-04", "a", 0.0, measured(0.0))
    m03, m04 = ledger.verdicts().data.splitlines()[2:]
    assert m03.startswith("| **M-03** ") and m03.endswith("| ✗ fails | 2 |") and m04.endswith("| ✓ holds | 1 |")


def test_tables_render_and_link():
    ledger = Ledger("scaling/stability")
    ledger.record("M-03", "β = 1/2, L = 10", predicted=0.0, measured=measured(0.0))
    record = ledger.records["M-03", "β = 1/2, L = 10"]
    assert record.anchor == "claim-m-03-1-2-l-10"
    assert f'<span id="{record.anchor}">' in ledger.show("M-03")._repr_markdown_()
    assert f'href="#{record.anchor}"' in ledger.table()._repr_markdown_()
    assert len(ledger.show("M-04").records) == 0 and "M-03 β = 1/2" in repr(ledger.table())


def test_registry_is_whole():
    found = claims.registry()
    sheets = {
        *(f"H-{i:02}" for i in range(1, 24)), "H-07b", *(f"E{i}" for i in range(1, 46)),
        *(f"M-{i:02}" for i in range(1, 22)), *(f"C{i}" for i in range(1, 13)),
    }  # fmt: skip
    assert set(found) == sheets
    for claim in found.values():
        assert claim.paper in ("marion", "hayou", "chizat") and claim.kind in claims.KINDS
        assert claim.statement.count("$") % 2 == 0 and claim.title and claim.source
        assert claim.kind != "correction" or claim.id.startswith("E")


def test_a_row_is_shown_once_until_it_is_recorded_again():
    ledger = Ledger("scaling/stability")

    def parts(table):
        return [r.part for r in table.records]

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

"""How records are shown: one line a claim, rows folded, numbers to the digits that they have."""

from math import inf, nan

import pytest

from deeplimits import statistics
from deeplimits.claims import Ledger
from deeplimits.tables import between, bound, cells, line, name, number, rival


def measured(value, error=1.0, diverged=0):
    return statistics.Estimate(value, error, 100, diverged, lambda z: (value - z * error, value + z * error))


def row(theory, estimate, part="part", **more):
    """A record as JSON."""
    ledger = Ledger("scaling/stability")
    more = more if estimate.quantity == "exact" else {"resolution": 1.0, "why": "to be seen"} | more
    ledger.record("M-03", part, theory, estimate, **more)
    return ledger.records["M-03", part].json()


@pytest.mark.parametrize(
    ("x", "digits", "expected"),
    [
        (0.62889, 4, "0.6289"),
        (-0.5, 2, "−0.50"),
        (0.0, 4, "0"),
        (1e-15, 5, "1e−15"),  # its own digits, where so few decimals would show a zero
        (-3.2e-9, 4, "−3.2e−9"),
        (3.25e-9, 11, "3.25e−9"),
        (0.0004, 2, "0.0004"),
        (1234567.0, 0, "1.235e6"),
        (123.4, -1, "123"),
        (inf, 3, "∞"),
        (-inf, 3, "−∞"),
        (nan, 3, "NaN"),
    ],
)
def test_number(x, digits, expected):
    assert number(x, digits) == expected


@pytest.mark.parametrize(("x", "expected"), [(-1e-9, "0.000"), (0.0004, "0.000"), (-0.0006, "−0.001")])
def test_a_measured_number_has_no_more_digits_than_its_interval(x, expected):
    assert number(x, 3, rounded=True) == expected


def test_ranges():
    assert between((1.0, 2.0), 3) == "1 … 2" and between((1e-15, 2e-15), 3) == "1e−15 … 2e−15"
    assert between((-inf, 4.0), 3) == "≤ 4" and between((0.56249, 0.562492), 4) == "0.5625"
    assert bound((0.0, inf)) == "> 0" and bound((-inf, -2.0)) == "< −2" and bound((1.0, 2.0)) == "1 < … < 2"


def test_cells_have_the_digits_that_the_interval_deserves():
    shown = cells(row(0.62889, measured(0.62611, 0.00141), resolution=0.012578))
    assert shown == [
        *("✓ confirmed", "0.62889", "", "± 0.013", "0.6261", "0.6205 … 0.6318", "−2.0 se", "100"),
    ]
    shown = cells(row((2.0, inf), measured(1e9, 1.0, diverged=3), resolution=0.0))
    assert shown[:2] == ["✗ fails", "> 2"] and shown[-1] == "100 (3 diverged)"
    shown = cells(row(0.25, measured(0.24, 0.01), printed=0.5, rival=(0.4, inf)))
    assert shown[1] == "0.2500 (printed: 0.5000) (rival: ≥ 0.4)"


def test_no_zero_stands_beside_what_is_not_zero():
    assert cells(row(0.0, statistics.exact(1e-15), allowance=5e-15, why="rounding"))[1:6] == [
        *("0", "± 5e−15", "", "1.000e−15", "exact"),
    ]
    assert cells(row(1e-15, statistics.exact(0.0), allowance=2e-15, why="rounding"))[1] == "1.000e−15"
    assert cells(row(1e-9, measured(0.003, 0.01)))[1:6] == ["1e−9", "", "± 1", "0.003", "−0.037 … 0.043"]


def test_the_line_of_a_claim():
    rows = [row(1.0, measured(1.0, 0.1), "a", rival=2.0), row(1.0, measured(1.0, 0.1), "b", rival=(9.0, inf))]
    assert rival(rows) == "closest rival 10.0 se away"
    assert line(rows) == '<span class="confirmed">✓ confirmed</span>, 2 of 2, closest rival 10.0 se away'
    assert name(rows[0]).startswith('<a class="claim" href="../scorecard.html#m-03"><b>M-03</b> ')
    rows.append(row(1.0, measured(1.0, 0.3), "c"))
    assert line(rows) == '<span class="agrees">≈ agrees</span>, 2 of 3, closest rival 10.0 se away'
    assert line(rows[2:]) == '<span class="agrees">≈ agrees</span>, 0 of 1'
    assert rival([row(1.0, statistics.exact(1.0), rival=2.0)]) == "rival excluded"


def test_rows_are_folded_and_colour_their_verdict():
    ledger = Ledger("scaling/stability")
    ledger.record("M-03", "mean of |p|, L = 10", 0.0, measured(0.0), resolution=9.0, why="few runs")
    ledger.check("M-03", "sum", 1.0, statistics.exact(1.0))
    text = ledger.show("M-03")._repr_markdown_()
    assert text.startswith('<div class="claim"><a class="claim"') and text.endswith("</details></div>")
    assert '\n<details class="verdict"><summary><span class="agrees">' in text
    assert '| <span id="claim-m-03-mean-of-p-l-10"></span>mean of \\|p\\|, L\u00a0=\u00a010 |' in text
    assert all(f'<span class="confirmed">{said}</span> |' in text for said in ("✓ confirmed", "code check"))
    assert "± 9 [1]" in text and "1. few runs" in text
    again = ledger.table()._repr_markdown_()
    assert '<details class="verdict again">' in again and 'href="#claim-m-03-mean-of-p-l-10"' in again

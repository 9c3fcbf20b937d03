"""The verdict: what confirms, what merely agrees, what must turn red."""

from math import inf, nan

import pytest

from deeplimits.verdict import again, decide, default_resolution, excludes, of_claim

VALUE = (10.0, 10.0)


def around(x: float, half: float) -> tuple[float, float]:
    return x - half, x + half


@pytest.mark.parametrize(
    ("value", "error", "allowance", "resolution", "printed", "expected"),
    [
        (10.0, 1.0, 0.0, 4.1, None, "confirmed"),
        (10.0, 1.0, 0.0, 3.9, None, "agrees"),  # too wide to have caught a departure of 3.9
        (10.0, 1.0, 2.0, 2.1, None, "confirmed"),
        (14.1, 1.0, 0.0, 100.0, None, "confirmed"),  # within the resolution: the distance to theory says the rest
        (14.1, 1.0, 0.0, 5.0, None, "fails"),
        (14.1, 1.0, 0.2, 5.0, None, "agrees"),
        (5.9, 1.0, 0.0, 5.0, None, "fails"),
        (10.0, 1.0, 0.0, 4.1, (15.1, 15.1), "confirmed"),  # what is printed is rejected at more than 5
        (10.0, 1.0, 0.0, 4.1, (14.9, 14.9), "agrees"),  # not enough power: the correction is not shown
        (10.0, 1.0, 0.0, 4.1, (4.0, 5.1), "agrees"),
        (20.0, 1.0, 0.0, 4.1, (0.0, 0.0), "fails"),  # to reject what is printed does not prove our own
        (nan, 1.0, 0.0, 4.1, None, "fails"),
        (10.0, nan, 0.0, 4.1, None, "fails"),
    ],
)
def test_verdict_on_a_value(value, error, allowance, resolution, printed, expected):
    near, far = around(value, 4 * error), around(value, 5 * error)
    assert decide(near, far, VALUE, allowance, resolution, printed) == expected


@pytest.mark.parametrize(
    ("near", "theory", "expected"),
    [
        ((0.1, 8.1), (0.0, inf), "confirmed"),
        ((-0.1, 7.9), (0.0, inf), "agrees"),  # its interval is there for an effect of zero, too
        ((0.0, 8.0), (0.0, inf), "agrees"),  # strict
        ((-8.0, -0.1), (0.0, inf), "fails"),
        ((-8.0, -0.1), (-inf, 0.0), "confirmed"),
        ((1.0, 2.0), (0.9, 2.1), "confirmed"),
        ((1.0, 2.2), (0.9, 2.1), "agrees"),
        ((0.0, 0.0), (0.0, inf), "agrees"),
    ],
)
def test_verdict_on_an_inequality(near, theory, expected):
    assert decide(near, near, theory, 0.0, 0.0) == expected


def test_an_exact_number_is_confirmed_or_fails():
    assert decide((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), 0.0, 0.0) == "confirmed"
    assert decide((1e-300, 1e-300), (1e-300, 1e-300), (0.0, 0.0), 0.0, 0.0) == "fails"
    assert decide((1e-13, 1e-13), (1e-13, 1e-13), (0.0, 0.0), 1e-12, 0.0) == "confirmed"


def test_what_a_row_promises_by_default():
    assert default_resolution("exponent", (-0.5, -0.5)) == 0.05
    assert default_resolution("distance", (0.0, 0.0)) == 0.01
    assert default_resolution("share", (0.5, 0.5)) == 0.02
    assert default_resolution("share", (0.05, 0.05)) == pytest.approx(0.01)
    assert default_resolution("share", (0.95, 0.95)) == pytest.approx(0.01)
    assert default_resolution("share", (0.0, 0.0)) == 0.02
    assert default_resolution("constant", (-3.0, -3.0)) == pytest.approx(0.06)
    assert default_resolution("exact", (3.0, 3.0)) == 0
    assert default_resolution("constant", (0.0, inf)) == 0


def record(**changed) -> dict:
    return {
        "theory": [1.0, 1.0], "allowance": 0.0, "resolution": 0.1, "printed": None, "rival": [1.5, 1.5],
        "interval": [0.95, 1.05], "interval_5": [0.94, 1.06], "diverged": 0, "counted": True, "verdict": "confirmed",
    } | changed  # fmt: skip


def test_a_record_is_judged_again_with_other_words():
    assert again(record()) == "confirmed"
    assert again(record(), theory=[1.2, 1.2]) == "fails"
    assert again(record(), resolution=0.01) == "agrees"
    assert again(record(diverged=1)) == "fails"
    assert again(record(interval=["nan", "nan"], interval_5=["nan", "nan"])) == "fails"


def test_a_claim_is_confirmed_if_all_its_rows_are_and_one_excludes_the_rival():
    unsure = record(rival=[1.055, 1.055])
    assert excludes(record()) and not excludes(unsure) and not excludes(record(rival=None))
    assert of_claim([record(), record(rival=None)]) == "confirmed"
    assert of_claim([unsure, record(rival=None)]) == "agrees"
    assert of_claim([record(), record(verdict="agrees")]) == "agrees"
    assert of_claim([record(), record(verdict="fails")]) == "fails"
    assert of_claim([record(counted=False)]) == of_claim([]) == "open"
    assert of_claim([record(), record(counted=False, verdict="fails")]) == "fails"
    assert of_claim([record(), record(counted=False, verdict="agrees")]) == "confirmed"

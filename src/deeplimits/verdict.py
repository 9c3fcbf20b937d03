"""The one place that decides: from intervals, theory, allowance and resolution to a verdict.

Everything here works on plain numbers and on records as JSON (what ``_build/claims.json`` holds), so that chapters,
scorecard and audit decide alike. A range is (low, high); a value is a range of length zero.

- **confirmed**: the interval of 4 standard errors lies within theory give or take allowance and resolution, and that of
  5 excludes what is printed. A statement that is wrong by more than the resolution would have been rejected;
- **agrees**: the interval of 4 meets theory give or take the allowance, but is too wide to confirm, or does not exclude
  what is printed;
- **fails**: neither.
"""

from math import isnan

Range = tuple[float, float]
VERDICTS = ("confirmed", "agrees", "fails")
HOLD, REJECT = 4.0, 5.0  # standard errors: to stand by theory; to reject what is printed, or a rival


def decide(
    near: Range, far: Range, theory: Range, allowance: float, resolution: float, printed: Range | None = None
) -> str:
    """The verdict on a measurement with the intervals ``near``, of 4 standard errors, and ``far``, of 5.

    A range for ``theory`` is open: an interval that ends on its edge is not inside. NaN always fails.
    """
    if any(map(isnan, (*near, *far))):
        return "fails"
    rejects = printed is None or apart(far, printed)
    if rejects and within(near, widen(theory, allowance + resolution)):
        return "confirmed"
    return "agrees" if not apart(near, widen(theory, allowance)) else "fails"


def again(record: dict, **changed) -> str:
    """The verdict on a record, as JSON, with some of its fields changed: what a wrong statement would have got."""
    r = record | changed
    if r["diverged"]:
        return "fails"
    printed = None if r["printed"] is None else numbers(r["printed"])
    return decide(
        numbers(r["interval"]), numbers(r["interval_5"]), numbers(r["theory"]), r["allowance"], r["resolution"], printed
    )


def excludes(record: dict) -> bool:
    """Whether a record excludes its rival at 5 standard errors."""
    return record["rival"] is not None and apart(numbers(record["interval_5"]), numbers(record["rival"]))


def of_claim(records: list[dict]) -> str:
    """The verdict on a claim from its records; ``open`` if it has none that counts.

    ``confirmed`` if all are and at least one excludes the rival, ``fails`` if one fails, else ``agrees``.
    """
    counted = [r for r in records if r["counted"]]
    if any(r["verdict"] == "fails" for r in records):
        return "fails"
    if not counted:
        return "open"
    return (
        "confirmed" if all(r["verdict"] == "confirmed" for r in counted) and any(map(excludes, counted)) else "agrees"
    )


def default_resolution(quantity: str, theory: Range) -> float:
    """What a record promises to catch if it does not say: by what kind of number is estimated.

    Exponents 0.05, Kolmogorov distances 0.01, shares 0.02 (20 % of the value where that is below 0.1), means and
    other constants 2 % of the value. Numbers without sampling error, and inequalities, need none.
    """
    low, high = theory
    if low != high or quantity == "exact":
        return 0.0
    rare = min(low, 1 - low)
    return {
        "exponent": 0.05,
        "distance": 0.01,
        "share": 0.2 * rare if 0 < rare < 0.1 else 0.02,
        "constant": 0.02 * abs(low),
    }[quantity]


def numbers(x: list) -> Range:
    """A range of a record's JSON, where infinities and NaN are strings, as floats."""
    return float(x[0]), float(x[1])


def widen(x: Range, by: float) -> Range:
    """``x`` with both ends moved outwards."""
    return x[0] - by, x[1] + by


def within(a: Range, b: Range) -> bool:
    """Whether ``a`` lies inside ``b``, which is open unless it is a single number."""
    return (b[0] < a[0] and a[1] < b[1]) or a == b


def apart(a: Range, b: Range) -> bool:
    """Whether ``a`` and ``b`` have no point in common."""
    return a[1] < b[0] or b[1] < a[0]

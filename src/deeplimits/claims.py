"""Claims of the papers, their measurements, and the ledger that compares the two.

A claim is a row of the registry ``claims.toml``. A chapter opens a :class:`Ledger`, records for each
claim a prediction and an estimate, and ends with ``ledger.table()``; the verdict is computed here:

    a record holds if no run diverged, the measurement's interval at 4 standard errors meets the
    prediction, and, where the source prints something else, the interval at 5 misses what is printed.

A row that holds is marked "wide" if its interval is wider than the allowance in its prediction: it has little power.

``inside=True`` is for strict inequalities, such as signs: the interval at 4 standard errors must lie strictly
inside the prediction. (An interval that only meets it is there for an effect of exactly zero, too.)

``ledger.table()`` also hands the records, as JSON of type :data:`MIME`, to whoever reads the executed
notebook; the book's scorecard is made from them.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from math import floor, inf, isfinite, isnan, log10
from types import MappingProxyType

from IPython.display import Markdown

from deeplimits.checks import instance, one_of
from deeplimits.statistics import Estimate, false_alarm

MIME = "application/vnd.deeplimits.claims+json"
KINDS = ("theorem", "figure", "correction", "beyond")
HOLD, REJECT = 4.0, 5.0  # standard errors: to stand by a prediction, to reject what is printed
SIGNS = {"holds": "✓ holds", "fails": "✗ fails"}
Range = tuple[float, float]


@dataclass(frozen=True)
class Claim:
    """One row of the registry. ``statement`` is Markdown with LaTeX between dollar signs."""

    id: str
    paper: str
    kind: str
    chapter: str
    title: str
    statement: str
    source: str


@cache
def registry() -> Mapping[str, Claim]:
    """All claims of the book by id, in the order of ``claims.toml``."""
    rows = tomllib.loads(files("deeplimits").joinpath("claims.toml").read_text("utf8"))
    claims = {id: Claim(id, **row) for id, row in rows.items()}
    for claim in claims.values():
        one_of(f"kind of {claim.id} in claims.toml", claim.kind, KINDS)
    return MappingProxyType(claims)


@dataclass(frozen=True)
class Record:
    """One measurement of one claim. ``part`` tells apart the measurements of the same claim."""

    claim: Claim
    part: str
    chapter: str
    prediction: Range
    measured: Estimate
    printed: Range | None
    inside: bool = False

    @property
    def verdict(self) -> str:
        """``holds`` or ``fails``, by the rule in the module's docstring. NaN never holds."""
        m = self.measured
        agree = _within if self.inside else _meets
        good = m.diverged == 0 and agree(m.interval(HOLD), self.prediction)
        if self.printed is not None:
            good = good and _apart(m.interval(REJECT), self.printed)
        return "holds" if good else "fails"

    @property
    def wide(self) -> bool:
        """Whether the interval is wider than the range predicted, where that has two ends.

        Such a row holds, but could not have told a departure as large as the allowance.
        """
        (a, b), (low, high) = self.prediction, self.measured.interval(HOLD)
        return not self.inside and -inf < a < b < inf and bool(high - low > b - a)

    @property
    def anchor(self) -> str:
        return "claim-" + re.sub(r"[^a-z0-9]+", "-", f"{self.claim.id} {self.part}".lower()).strip("-")

    def json(self) -> dict:
        """The record as plain JSON values; infinities and NaN become strings."""
        m, c = self.measured, self.claim
        return {
            "id": c.id,
            "part": self.part,
            "chapter": self.chapter,
            "kind": c.kind,
            "statement": c.statement,
            "source": c.source,
            "prediction": [_plain(x) for x in self.prediction],
            "inside": self.inside,
            "printed": None if self.printed is None else [_plain(x) for x in self.printed],
            "measured": _plain(m.value),
            "standard_error": _plain(m.standard_error),
            "interval": [_plain(x) for x in m.interval(HOLD)],
            "samples": m.samples,
            "diverged": m.diverged,
            "false_alarm": 0.0 if _is_exact(m) else false_alarm(HOLD),
            "verdict": self.verdict,
            "wide": self.wide,
            "anchor": self.anchor,
        }

    def row(self) -> list[str]:
        """Cells of the claim table after the claim: verdict, predicted, measured, interval, runs."""
        m = self.measured
        low, high = m.interval(HOLD)
        # as many decimals as show two digits of the interval's half-width, or four digits of an exact number
        scale = abs(m.value) * 1e-2 if _is_exact(m) else (high - low) / 2
        digits = min(max(0, 1 - floor(log10(scale))), 6) if 1e-9 < scale < inf else 4
        predicted = _range(self.prediction, digits + 1)
        if self.inside:
            predicted = predicted.replace("≤", "<").replace("≥", ">").replace("…", "< … <")
        if self.printed is not None:
            predicted += f" (printed: {_range(self.printed, digits + 1)})"
        interval = "exact" if _is_exact(m) else f"{_number(low, digits)} … {_number(high, digits)}"
        runs = f"{m.samples:,}".replace(",", " ") + (f" ({m.diverged} diverged)" if m.diverged else "")
        sign = SIGNS[self.verdict] + (", wide" if self.wide and self.verdict == "holds" else "")
        return [sign, predicted, _number(m.value, digits), interval, runs]


@dataclass
class Ledger:
    """The measurements of one chapter, in the order in which they were recorded."""

    chapter: str
    records: dict[tuple[str, str], Record] = field(default_factory=dict)
    shown: set[tuple[str, str]] = field(default_factory=set)

    def record(
        self,
        id: str,
        part: str,
        predicted: float | Range,
        measured: Estimate,
        *,
        printed: float | Range | None = None,
        inside: bool = False,
    ) -> None:
        """Compare ``measured`` with ``predicted``, and with what the source printed if that is different.

        A range (low, high) stands for an inequality; ``(-inf, b)`` is a bound from above. With ``inside`` the
        inequality is strict, and the whole interval of 4 standard errors must lie in the range. ``printed`` is what the
        source prints, or what its formula gives as the chapter says it reads it. Recording the same ``id`` and
        ``part`` again replaces the record, as rerunning a cell should.

        Raises KeyError if ``id`` is not in the registry, TypeError if ``measured`` is no Estimate, ValueError if
        nothing can lie inside ``predicted``.
        """
        if id not in registry():
            raise KeyError(f"unknown claim id {id!r}: it must be one of the tables of claims.toml; add it there first")
        instance("measured", measured, Estimate, "make one with deeplimits.statistics")
        claim, predicted, printed = registry()[id], _as_range(predicted), _as_range(printed)
        if inside and predicted[0] == predicted[1]:
            raise ValueError(f"with inside=True predicted must be a range (low, high), got {predicted[0]}; widen it")
        self.shown.discard((id, part))
        self.records[id, part] = Record(claim, part, self.chapter, predicted, measured, printed, inside)

    def show(self, *ids: str) -> "Table":
        """The rows of ``ids`` recorded since they were last shown, to be the last expression of a cell.

        So each row stands in one place of a chapter. If there is no new one, all rows of ``ids``.
        """
        asked = [key for key in self.records if key[0] in ids]
        fresh = [key for key in asked if key not in self.shown] or asked
        self.shown.update(fresh)
        return Table([self.records[key] for key in fresh])

    def verdicts(self) -> Markdown:
        """One line a claim: its title, how many measurements it has, and whether all of them hold."""
        lines = ["| claim | verdict | measurements |", "|:--|:--|--:|"]
        for claim in dict.fromkeys(r.claim for r in self.records.values()):
            rows = [r for r in self.records.values() if r.claim == claim]
            verdict = "fails" if any(r.verdict == "fails" for r in rows) else "holds"
            lines.append(f"| **{claim.id}** {claim.title} | {SIGNS[verdict]} | {len(rows)} |")
        return Markdown("\n".join(lines))

    def table(self) -> "Table":
        """All rows of the chapter, linked to where they stand, with the JSON from which the scorecard is made."""
        return Table(list(self.records.values()), summary=True)


@dataclass(frozen=True)
class Table:
    """Records as a Markdown table; the summary at a chapter's end also carries them as JSON."""

    records: list[Record]
    summary: bool = False

    def _repr_markdown_(self) -> str:
        lines = ["| claim | verdict | predicted | measured | interval | runs |", "|:--|:--|--:|--:|:-:|--:|"]
        for r in self.records:
            part = re.sub(" ([=<]) ", "\u00a0\\1\u00a0", r.part)  # "d = 40" stays on one line
            part = part.replace("|", "\\|")  # a bar would end the cell
            name = f"**{r.claim.id}** {part}"
            name = f'<a href="#{r.anchor}">{name}</a>' if self.summary else f'<span id="{r.anchor}"></span>{name}'
            lines.append(f"| {' | '.join([name, *r.row()])} |")
        return "\n".join(lines)

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        bundle = {"text/plain": repr(self), "text/markdown": self._repr_markdown_()}
        return bundle | ({MIME: [r.json() for r in self.records]} if self.summary else {})

    def __repr__(self) -> str:
        return "\n".join(f"{r.claim.id} {r.part}: {' | '.join(r.row())}" for r in self.records)


def _meets(a: Range, b: Range) -> bool:
    return a[0] <= b[1] and b[0] <= a[1]


def _within(a: Range, b: Range) -> bool:
    return b[0] < a[0] and a[1] < b[1]


def _apart(a: Range, b: Range) -> bool:
    return a[1] < b[0] or b[1] < a[0]


def _as_range(x: float | Range | None) -> Range | None:
    if x is None:
        return None
    low, high = x if isinstance(x, tuple) else (x, x)
    if isnan(low) or isnan(high) or low > high:
        raise ValueError(f"a prediction must be a number or a range (low, high), got {x!r}; order the ends")
    return float(low), float(high)


def _is_exact(m: Estimate) -> bool:
    low, high = m.interval(HOLD)
    return low == high


def _number(x: float, digits: int) -> str:
    if not isfinite(x):
        return {inf: "∞", -inf: "−∞"}.get(x, "NaN")
    if not x:
        return "0"
    text = f"{x:.2e}" if abs(x) >= 1e6 else f"{x:.{digits}f}"
    return text.replace("-", "−" if float(text) else "")  # no minus in front of a rounded zero


def _range(r: Range, digits: int) -> str:
    low, high = r
    if low == high:
        return _number(low, digits)
    low, high = (f"{x:.4g}".replace("-", "−") if isfinite(x) else _number(x, 0) for x in r)
    if low == high:  # to the digits shown
        return low
    return f"≤ {high}" if r[0] == -inf else f"≥ {low}" if r[1] == inf else f"{low} … {high}"


def _plain(x: float) -> float | str:
    return float(x) if isfinite(x) else str(float(x))

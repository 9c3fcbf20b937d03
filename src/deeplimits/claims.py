"""Claims of the papers, their measurements, and the ledger that compares the two.

A claim is a row of the registry ``claims.toml``. A chapter opens a :class:`Ledger`, records for each claim what theory
says and what was measured, and ends with ``ledger.table()``. A record carries

- ``theory``: a value, or an open range for an inequality, such as (0, inf) for a sign;
- ``allowance``: how far the truth may lie from theory at this finite size, and ``why``;
- ``resolution``: the departure that the row promises to catch;
- ``printed``: what the source prints, where that is something else;
- ``rival``: the nearest other thing that could be true, as the registry names it.

The verdict, confirmed, agrees or fails, is computed in ``verdict``. Algebra, a function against itself, seeds against
seeds are no evidence: ``ledger.check`` keeps them, folded and not counted.

``ledger.table()`` also hands the records, as JSON of type :data:`MIME`, to whoever reads the executed notebook; the
scorecard and the audit are made from them.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from math import copysign, isfinite, isnan
from types import MappingProxyType

from deeplimits.checks import instance, one_of
from deeplimits.statistics import Estimate, false_alarm
from deeplimits.tables import MIME, Table
from deeplimits.verdict import HOLD, REJECT, Range, again, apart, default_resolution

__all__ = ["KINDS", "MIME", "Claim", "Ledger", "Record", "Rival", "registry"]
FAR = 37.0  # standard errors: beyond, probabilities are below what a float holds
KINDS = ("theorem", "figure", "correction", "beyond", "note")


@dataclass(frozen=True)
class Rival:
    """The nearest other thing that could be true: in words, and its value where it is the same for all rows.

    ``value`` goes to the records whose part begins with ``part``; other records name the number themselves.
    """

    what: str
    value: float | list[float] | None = None
    part: str = ""


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
    rival: Rival | None = None


@cache
def registry() -> Mapping[str, Claim]:
    """All claims of the book by id, in the order of ``claims.toml``."""
    rows = tomllib.loads(files("deeplimits").joinpath("claims.toml").read_text("utf8"))
    claims = {}
    for id, row in rows.items():
        rival = row.pop("rival", None)
        claims[id] = Claim(id, **row, rival=rival and Rival(**rival))
        one_of(f"kind of {id} in claims.toml", claims[id].kind, KINDS)
    return MappingProxyType(claims)


@dataclass(frozen=True)
class Record:
    """One measurement of one claim. ``part`` tells apart the measurements of the same claim."""

    claim: Claim
    part: str
    chapter: str
    theory: Range
    measured: Estimate
    allowance: float
    why: str
    resolution: float
    printed: Range | None
    rival: Range | None
    counted: bool = True

    @property
    def verdict(self) -> str:
        """``confirmed``, ``agrees`` or ``fails``, see ``verdict.decide``."""
        return self.json()["verdict"]

    @property
    def anchor(self) -> str:
        name = re.sub("[-−](?=[0-9])", "minus ", self.part.lower())
        return f"claim-{self.claim.id.lower()}-" + re.sub(r"[^a-z0-9]+", "-", name).strip("-")

    def json(self) -> dict:
        """The record as plain JSON values; infinities and NaN become strings."""
        m, c = self.measured, self.claim
        record = {
            "id": c.id,
            "part": self.part,
            "chapter": self.chapter,
            "paper": c.paper,
            "kind": c.kind,
            "title": c.title,
            "counted": self.counted,
            "quantity": m.quantity,
            "theory": _plain(*self.theory),
            "allowance": self.allowance,
            "why": self.why,
            "resolution": self.resolution,
            "default_resolution": default_resolution(m.quantity, self.theory),
            "printed": self.printed and _plain(*self.printed),
            "rival": self.rival and _plain(*self.rival),
            "measured": _plain(m.value)[0],
            "standard_error": _plain(m.standard_error)[0],
            "interval": _plain(*m.interval(HOLD)),
            "interval_5": _plain(*m.interval(REJECT)),
            "samples": m.samples,
            "diverged": m.diverged,
            "false_alarm": false_alarm(HOLD) if self.random else 0.0,
            "distance": _plain(self.away(self.theory))[0],
            "rival_distance": _plain(self.away(self.rival))[0],
            "anchor": self.anchor,
        }
        return record | {"verdict": again(record)}

    @property
    def random(self) -> bool:
        """Whether the measurement has a sampling error."""
        low, high = self.measured.interval(HOLD)
        return low != high

    def away(self, value: Range | None) -> float:
        """How far ``value`` lies from the estimate: the z at which interval(z) reaches it, negative if it lies above.

        For many runs that is the distance in standard errors; for few it is on the same scale, that of a standard
        normal. At most ``FAR``; 0 inside a range, NaN for None or without a sampling error.
        """
        m = self.measured
        if value is None or not self.random or not isfinite(m.value):
            return float("nan")
        low, high = 0.0, FAR
        for _ in range(30):
            z = (low + high) / 2
            low, high = (z, high) if apart(m.interval(z), value) else (low, z)
        return copysign(low, m.value - value[0]) if low > 1e-6 else 0.0


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
        theory: float | Range,
        measured: Estimate,
        *,
        allowance: float = 0.0,
        why: str = "",
        resolution: float | None = None,
        printed: float | Range | None = None,
        rival: float | Range | None = None,
    ) -> None:
        """Compare ``measured`` with ``theory``, with what the source printed if that is different, and with a rival.

        A range (low, high) stands for a strict inequality; ``(-inf, b)`` is a bound from above. ``allowance`` and
        ``resolution`` are absolute. Without ``resolution`` it is what this kind of number promises by default, see
        ``verdict.default_resolution``. ``why`` says from what the allowance follows, and why the resolution is larger
        than the default, if it is. Recording the same ``id`` and ``part`` again replaces the record, as rerunning a
        cell should.

        Raises KeyError if ``id`` is not in the registry, TypeError if ``measured`` is no Estimate, ValueError if a
        field is missing, impossible, or says nothing.
        """
        self._keep(id, part, theory, measured, allowance, why, resolution, printed, rival, True)

    def check(
        self, id: str, part: str, theory: float | Range, measured: Estimate, *, allowance: float = 0.0, why: str = ""
    ) -> None:
        """As :meth:`record`, for an identity or a comparison of code with code: shown folded, and not counted."""
        self._keep(id, part, theory, measured, allowance, why or "a check of the code", None, None, None, False)

    def _keep(self, id, part, theory, measured, allowance, why, resolution, printed, rival, counted) -> None:
        if id not in registry():
            raise KeyError(f"unknown claim id {id!r}: it must be one of the tables of claims.toml; add it there first")
        instance("measured", measured, Estimate, "make one with deeplimits.statistics")
        claim, theory = registry()[id], _as_range("theory", theory)
        name, default = f"{id} {part}", default_resolution(measured.quantity, theory)
        allowance = _amount(f"allowance of {name}", allowance)
        resolution = default if resolution is None else _amount(f"resolution of {name}", resolution)
        if theory[0] == theory[1] and not resolution and measured.quantity != "exact":
            raise ValueError(f"{name} has no resolution: 2 % of a theory of 0 is nothing; pass resolution=")
        if (allowance or 0 < default * (1 + 1e-9) < resolution) and not why:
            raise ValueError(
                f"{name} has an allowance, or a resolution above {default:.3g}, without a reason; pass why="
            )
        if rival is None and counted and claim.rival and claim.rival.part and part.startswith(claim.rival.part):
            rival = claim.rival.value if isinstance(claim.rival.value, float | int) else tuple(claim.rival.value)
        printed, rival = _as_range("printed", printed), _as_range("rival", rival)
        if rival is not None and (rival == theory or (not apart(rival, theory) and _overlap(rival, theory))):
            raise ValueError(f"the rival of {name} lies in its theory {theory}; name what would be true instead")
        self.shown.discard((id, part))
        self.records[id, part] = Record(
            claim, part, self.chapter, theory, measured, allowance, why, resolution, printed, rival, counted
        )

    def show(self, *ids: str) -> Table:
        """The rows of ``ids`` recorded since they were last shown, to be the last expression of a cell.

        So each row stands in one place of a chapter. Without a new one, all rows of ``ids``, linked to their places.
        """
        asked = [key for key in self.records if key[0] in ids]
        fresh = [key for key in asked if key not in self.shown]
        self.shown.update(fresh)
        return Table([self.records[key].json() for key in fresh or asked], again=not fresh)

    def table(self) -> Table:
        """A line for each claim of the chapter, its rows folded, with the JSON from which the scorecard is made."""
        return Table([r.json() for r in self.records.values()], again=True, summary=True)


def _as_range(name: str, x: float | Range | None) -> Range | None:
    if x is None:
        return None
    low, high = x if isinstance(x, tuple) else (x, x)
    if isnan(low) or isnan(high) or low > high:
        raise ValueError(f"{name} must be a number or a range (low, high), got {x!r}; order the ends")
    return float(low), float(high)


def _amount(name: str, x: float) -> float:
    if not (isfinite(x) and x >= 0):
        raise ValueError(f"the {name} must be a finite number, zero or more, got {x!r}; pass its size without a sign")
    return float(x)


def _overlap(a: Range, b: Range) -> bool:
    """Whether two ranges share more than an end."""
    return a[0] < b[1] and b[0] < a[1]


def _plain(*values: float) -> list[float | str]:
    return [float(x) if isfinite(x) else str(float(x)) for x in values]

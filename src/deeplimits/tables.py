"""Records of claims as they are shown: one line a claim, its rows folded beneath.

A :class:`Table` works on records as JSON, so the scorecard shows them as the chapters do.
"""

import re
from dataclasses import dataclass
from html import escape
from math import floor, inf, isfinite, isnan, log10

from deeplimits.verdict import Range, excludes, numbers, of_claim

MIME = "application/vnd.deeplimits.claims+json"
SIGNS = {"confirmed": "✓ confirmed", "agrees": "≈ agrees", "fails": "✗ fails", "open": "open"}
HEAD = [
    "| measurement | verdict | theory | allowance | resolution | measured | interval | from theory | runs |",
    "|:--|:--|--:|--:|--:|--:|:-:|--:|--:|",
]


@dataclass(frozen=True)
class Table:
    """Records as Markdown; the summary at a chapter's end also carries them as JSON.

    ``again`` says that the rows have a place of their own elsewhere on the page, to which they are linked.
    """

    records: list[dict]
    again: bool = False
    summary: bool = False

    def _repr_markdown_(self) -> str:
        blocks = []
        for id in dict.fromkeys(r["id"] for r in self.records):
            rows = [r for r in self.records if r["id"] == id]
            blocks.append(_folded(rows, self.again))
        return "\n\n".join(blocks)

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        bundle = {"text/plain": repr(self), "text/markdown": self._repr_markdown_()}
        return bundle | ({MIME: self.records} if self.summary else {})

    def __repr__(self) -> str:
        return "\n".join(f"{r['id']} {r['part']}: {' | '.join(cells(r))}" for r in self.records)


def name(record: dict) -> str:
    """A claim's id and title, linked to its entry on the scorecard, as HTML."""
    id, title = record["id"], escape(record["title"])
    return f'<a class="claim" href="../scorecard.html#{id.lower()}"><b>{id}</b> {title}</a>'


def line(rows: list[dict]) -> str:
    """What became of a claim, as HTML: its verdict, how many of its rows are confirmed, and how far its rival is."""
    counted = [r for r in rows if r["counted"]]
    if not counted:
        fine = all(r["verdict"] != "fails" for r in rows)
        said = "passed" if fine else sign("fails", "✗ failed")
        return f"{len(rows)} code check{'s' * (len(rows) > 1)}, {said}"
    good = sum(r["verdict"] == "confirmed" for r in counted)
    return ", ".join(filter(None, [sign(of_claim(rows)), f"{good} of {len(counted)}", rival(rows)]))


def sign(verdict: str, text: str = "") -> str:
    """A verdict as HTML, to be coloured by its name."""
    return f'<span class="{verdict}">{text or SIGNS[verdict]}</span>'


def rival(rows: list[dict]) -> str:
    """How far the rival is from the row that excludes it by the least; empty if none does."""
    found = [abs(float(r["rival_distance"])) for r in rows if r["counted"] and excludes(r)]
    random = [away for away in found if not isnan(away)]  # without a sampling error there is nothing to count in
    return f"closest rival {_errors(min(random))} away" if random else "rival excluded" if found else ""


def _folded(rows: list[dict], linked: bool) -> str:
    """The claim's name, and an HTML fold with a Markdown table in it; reasons for allowances stand below, each once.

    ``linked`` rows are shown again, and lead to the fold where they were shown first.
    """
    reasons = list(dict.fromkeys(r["why"] for r in rows if r["why"] and r["counted"]))
    kind = "verdict again" if linked else "verdict"
    fold = f'<details class="{kind}"><summary>{line(rows)}</summary>'
    lines = [f'<div class="claim">{name(rows[0])}', fold, "", *HEAD]  # a link in a summary could not be told from it
    for r in rows:
        part = re.sub(" ([=<]) ", "\u00a0\\1\u00a0", r["part"]).replace("|", "\\|")  # a bar would end the cell
        place = f'<a href="#{r["anchor"]}">{part}</a>' if linked else f'<span id="{r["anchor"]}"></span>{part}'
        shown = cells(r)
        shown[0] = sign(r["verdict"], shown[0])
        if r["why"] in reasons:
            shown[2 if r["allowance"] else 3] += f" [{reasons.index(r['why']) + 1}]"
        lines.append(f"| {' | '.join([place, *shown])} |")
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join([*lines, "", *notes, "", "</details></div>"])


def cells(r: dict) -> list[str]:
    """Cells of a row after its name: verdict, theory, allowance, resolution, measured, interval, distance, runs."""
    value, exact = float(r["measured"]), not r["false_alarm"]
    low, high = numbers(r["interval"])
    theory = numbers(r["theory"])
    # as many digits as show two of the interval's half-width; four of an exact number, or of what it is compared with
    scale = 1e-2 * (abs(value) or abs(theory[0])) if exact else (high - low) / 2
    digits = 1 - floor(log10(scale)) if 0 < scale < inf else 4
    shown = number(theory[0], digits + 1) if theory[0] == theory[1] else bound(theory)
    if r["printed"] is not None:
        shown += f" (printed: {between(numbers(r['printed']), digits + 1)})"
    if r["rival"] is not None:
        shown += f" (rival: {between(numbers(r['rival']), digits + 1)})"
    interval = "exact" if exact else " … ".join(number(x, digits, rounded=True) for x in (low, high))
    runs = f"{r['samples']:,}".replace(",", " ") + (f" ({r['diverged']} diverged)" if r["diverged"] else "")
    said = SIGNS[r["verdict"]] if r["counted"] else "code check" if r["verdict"] != "fails" else "✗ code check"
    away, measured = _errors(float(r["distance"])), number(value, digits, rounded=not exact)
    return [said, shown, _size(r["allowance"]), _size(r["resolution"]), measured, interval, away, runs]


def number(x: float, digits: int, rounded: bool = False) -> str:
    """``x`` to so many decimals, or in powers of ten where these would be too many, or show none of its own digits.

    A ``rounded`` number has no more digits than these: it may be shown as 0.00.
    """
    if not isfinite(x):
        return {inf: "∞", -inf: "−∞"}.get(x, "NaN")
    if not x:
        return "0"
    size, decimals = floor(log10(abs(x))), min(max(digits, 0), 12)
    if size >= 6 or (size < -4 and digits > 5):
        text = _powers(f"{x:.{min(max(size + digits, 0), 3)}e}")
    else:
        text = f"{x:.{decimals}f}"
        if not float(text) and not rounded:
            text = _powers(f"{x:.2g}")
    return text.replace("-", "−" if float(text) else "")  # no minus in front of a rounded zero


def between(r: Range, digits: int) -> str:
    """A closed range, a bound with equality, or a number."""
    low, high = r
    if low == high:
        return number(low, digits)
    low, high = (_powers(f"{x:.4g}").replace("-", "−") if isfinite(x) else number(x, 0) for x in r)
    if low == high:  # to the digits shown
        return low
    return f"≤ {high}" if r[0] == -inf else f"≥ {low}" if r[1] == inf else f"{low} … {high}"


def bound(r: Range) -> str:
    """An open range, as the inequality that it is."""
    return between(r, 4).replace("≤", "<").replace("≥", ">").replace("…", "< … <")


def _size(x: float) -> str:
    return f"± {_powers(f'{x:.2g}')}".replace("-", "−") if x else ""


def _powers(text: str) -> str:
    """1e-05 as 1e-5, and 1e+06 as 1e6."""
    return re.sub(r"e([+-])0*(\d+)", r"e\1\2", text).replace("e+", "e")


def _errors(x: float) -> str:
    return "" if isnan(x) else f"{x:.1f} se".replace("-", "−") if abs(x) < 36.9 else "over 36 se"

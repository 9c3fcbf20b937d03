"""The forest plot of the scorecard: every counted row that has a value as theory, on one scale.

The scale is (measured - theory) / (allowance + resolution): an interval of 4 standard errors between -1 and 1 is
confirmed. Plain HTML and SVG with positions in percent, so the plot has the width of the page, and a claim whose row
is hidden leaves no gap.
"""

from collections.abc import Callable
from html import escape

from deeplimits import claims
from deeplimits.tables import cells
from deeplimits.verdict import numbers
from ledger import Chapter

EDGE = 2.0  # what lies beyond is shown at the edge, as an arrow
PITCH = 7  # pixels from row to row
SHAPES = """<svg class="shapes" width="0" height="0" aria-hidden="true"><defs>
<circle id="forest-confirmed" r="2.6"/>
<circle id="forest-agrees" r="2.5" fill="none" stroke-width="1.2"/>
<path id="forest-fails" d="M-3-3L3 3M-3 3L3-3" stroke-width="1.6"/>
<rect id="forest-exact" x="-2.2" y="-2.2" width="4.4" height="4.4"/>
<path id="forest-low" d="M0 0l6-3.2v6.4z"/>
<path id="forest-high" d="M0 0l-6-3.2v6.4z"/>
</defs></svg>"""


def position(record: dict) -> tuple[float, float, float]:
    """Low end, value and high end of a row on the scale of the plot; a row that is not finite lies beyond the edge.

    A row that promises equality has no scale: it stands at 0 if it is equal, and beyond the edge if not.
    """
    theory, promise = numbers(record["theory"])[0], record["allowance"] + record["resolution"]
    low, high = numbers(record["interval"])
    places = []
    for x in (low, float(record["measured"]), high):
        away = x - theory
        places.append(away / promise if promise else 0.0 if away == 0 else away * float("inf"))
    return tuple(x if x == x else float("inf") for x in places)


def percent(x: float) -> str:
    """Where ``x`` stands between the edges, at most."""
    return f"{50 + 50 * min(max(x / EDGE, -1), 1):.4g}%"


def dot(record: dict, address: str, y: int) -> str:
    """One row as a linked SVG group: its interval, its mark by verdict, arrows where it is cut off."""
    low, value, high = position(record)
    shown = dict(zip(("verdict", "theory", "", "", "measured", "interval"), cells(record), strict=False))
    title = f"{record['id']} {record['part']}: {shown['verdict']}, measured {shown['measured']} ({shown['interval']})"
    title += f", theory {shown['theory']}"
    mark = "exact" if record["verdict"] == "confirmed" and not record["false_alarm"] else record["verdict"]
    parts = [f'<use href="#forest-{mark}" x="{percent(value)}" y="{y}"/>'] if abs(value) <= EDGE else []
    if low != high:
        parts.insert(0, f'<line x1="{percent(low)}" x2="{percent(high)}" y1="{y}" y2="{y}"/>')
    if low < -EDGE:
        parts.append(f'<use href="#forest-low" x="0%" y="{y}"/>')
    if high > EDGE:
        parts.append(f'<use href="#forest-high" x="100%" y="{y}"/>')
    return (
        f'<a href="{address}" class="{record["verdict"]}" data-chapter="{record["chapter"]}" tabindex="-1" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>{"".join(parts)}</a>'
    )


def plot(chapters: list[Chapter], place: Callable[[Chapter, str], str]) -> str:
    """The plot as HTML; ``place`` gives the address of an anchor in a chapter."""
    lines, drawn, left = [], 0, 0
    for claim in claims.registry().values():
        rows = [(c, r) for c in chapters for r in c.records if r["id"] == claim.id and r["counted"]]
        valued = [(c, r) for c, r in rows if numbers(r["theory"])[0] == numbers(r["theory"])[1]]
        drawn, left = drawn + len(valued), left + len(rows) - len(valued)
        if not valued:
            continue
        dots = [dot(r, place(c, r["anchor"]), PITCH * n + 9) for n, (c, r) in enumerate(valued)]
        name = f'<a href="#{claim.id.lower()}" title="{escape(claim.title)}">{claim.id}</a>'
        height = PITCH * (len(valued) - 1) + 18
        lines.append(
            f'<div data-claim="{claim.id.lower()}">{name}<svg height="{height}">\n' + "\n".join(dots) + "</svg></div>"
        )
    marks = "".join(f'<span style="left:{percent(x)}">{text}</span>' for x, text in ((-1, "−1"), (0, "0"), (1, "1")))
    axis = f'<div class="axis"><span>claim</span><div>{marks}</div></div>'
    caption = (
        f"{drawn} rows with a value as theory, from 0 (theory) to 1 (all that allowance and resolution leave it); "
        f"{left} {'inequality has' if left == 1 else 'inequalities have'} no such scale and are not drawn."
    )
    return (
        f'{SHAPES}<figure class="forest"><div class="box" tabindex="0" role="region" aria-label="Forest plot">{axis}'
        + "\n".join(lines)
        + f"</div><figcaption><p>{caption}</p></figcaption></figure>"
    )

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
    counted = [(chapter, r) for chapter in chapters for r in chapter.records if r["counted"]]
    valued = [(chapter, r) for chapter, r in counted if len(set(numbers(r["theory"]))) == 1]
    lines = []
    for claim in claims.registry().values():
        dots = [(place(chapter, r["anchor"]), r) for chapter, r in valued if r["id"] == claim.id]
        if dots:
            lines.append(line(claim, dots))
    marks = "".join(f'<span style="left:{percent(x)}">{text}</span>' for x, text in ((-1, "−1"), (0, "0"), (1, "1")))
    left = len(counted) - len(valued)
    caption = (
        f"The {len(valued)} rows with a value as theory: 0 is theory, 1 all that allowance and resolution leave. "
        f"Not drawn, for want of such a scale: {left} inequalities."
    )
    return "\n".join(
        [
            f'{SHAPES}<figure class="forest"><div class="box" tabindex="0" role="region" aria-label="Forest plot">',
            f'<div class="axis"><span>claim</span><div>{marks}</div></div>',
            *lines,
            f"</div><figcaption><p>{caption}</p></figcaption></figure>",
        ]
    )


def line(claim: claims.Claim, dots: list[tuple[str, dict]]) -> str:
    """A claim's rows, one beneath the other, beside a link to its entry."""
    name = f'<a href="#{claim.id.lower()}" title="{escape(claim.title)}">{claim.id}</a>'
    shapes = [dot(record, address, PITCH * number + 9) for number, (address, record) in enumerate(dots)]
    svg = "\n".join([f'<svg height="{PITCH * len(dots) + 11}">', *shapes, "</svg>"])
    return f'<div data-claim="{claim.id.lower()}">{name}{svg}</div>'

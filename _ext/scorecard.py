"""The scorecard: counts, a forest plot, a filter, and an entry for each claim, made from the ledger.

``{scorecard}`` gives the counts, ``{scorecard} marion`` the entries of that paper's claims; with ``:verdict: agrees``
only those with that verdict. ``{forest}`` gives the filter and the plot. The fields by which the script
``scorecard.js`` filters stand in the entry, in the element with its anchor.
"""

from collections.abc import Callable
from html import escape
from math import ceil

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

import forest
from deeplimits import claims
from deeplimits.checks import one_of
from deeplimits.tables import SIGNS, rival, sign
from deeplimits.verdict import apart, numbers, widen
from ledger import VERDICTS, Chapter, all_records, link, tested, verdict

PAPERS = {"marion": "Marion, Fermanian, Biau and Vert", "hayou": "Hayou", "chizat": "Chizat"}
Place = Callable[[Chapter, str], str]  # the address of an anchor in a chapter
NAMES = SIGNS | {"note": "note"}


def plural(number: int, word: str, words: str = "") -> str:
    return f"{number} {word if number == 1 else words or word + 's'}"


def summary(chapters: list[Chapter], place: Place) -> str:
    """How many claims and rows have which verdict, what the rows promise, and how many would fail by chance alone."""
    found = {id: verdict(chapters, id) for id in claims.registry()}
    counts = {name: list(found.values()).count(name) for name in VERDICTS}
    corrections = [id for id, claim in claims.registry().items() if claim.kind == "correction"]
    corrected = sum(found[id] == "confirmed" for id in corrections)
    records = all_records(chapters)
    rows = [r for r in records if r["counted"]]
    random = [r for r in rows if r["false_alarm"]]
    good = sum(r["verdict"] == "confirmed" for r in random)
    chosen = sum(r["allowance"] > 0 and "our choice" in r["why"] for r in rows)
    share = f", that is {100 * good / len(random):.1f} %" if random else ""
    rate = scientific(max((r["false_alarm"] for r in random), default=0.0))
    lines = [
        f"Of the {len(found)} claims of this book: **{counts['confirmed']} confirmed**, "
        f"{counts['agrees']} in agreement, **{counts['fails']} failing**, {counts['open']} open (not tested yet) "
        f"and {plural(counts['note'], 'note')}, for which no experiment is needed. Of the "
        f"{plural(len(corrections), 'correction')} of what a source prints, {corrected} confirmed.",
        f"The verdicts rest on {plural(len(rows), 'row')}: {len(rows) - len(random)} exact and {len(random)} random. "
        f"Of the random ones **{good} confirmed**{share}. Allowances that are our choice: {chosen}. "
        f"Not counted: {plural(len(records) - len(rows), 'check')} of the code.",
        f"A random row of a true claim fails by chance with probability {rate}, so this build is expected to raise "
        f"{scientific(sum(r['false_alarm'] for r in random))} false alarms in all.",
    ]
    return "\n\n".join([*lines, unconfirmed(chapters, place)])


def unconfirmed(chapters: list[Chapter], place: Place) -> str:
    """An HTML fold with the rows that are not confirmed, linked, each with what it would cost to confirm it."""
    lines = []
    for chapter in chapters:
        for r in chapter.records:
            if r["verdict"] == "fails" or (r["counted"] and r["verdict"] != "confirmed"):
                row = f'<a href="{place(chapter, r["anchor"])}">{r["id"]} {escape(r["part"])}</a>'
                lines.append(f"<li>{row}, in <i>{escape(chapter.title)}</i>: {sign(r['verdict'])}{cost(r)}</li>")
    if not lines:
        return "Every counted row is confirmed."
    head = f"<summary>{plural(len(lines), 'row is', 'rows are')} not confirmed</summary>"
    return "\n".join([f'<details class="verdict">{head}<ul>', *lines, "</ul></details>"])


def cost(r: dict) -> str:
    """By how many times the runs an agreeing row would be confirmed, if its value stayed where it is."""
    if r["verdict"] != "agrees" or not r["false_alarm"]:
        return ""
    value, (low, high), far = float(r["measured"]), numbers(r["interval"]), numbers(r["interval_5"])
    edges = widen(numbers(r["theory"]), r["allowance"] + r["resolution"])
    needs = [(high - low) / 2 / max(min(value - edges[0], edges[1] - value), 1e-300)]
    if r["printed"] is not None and not apart(far, numbers(r["printed"])):
        a, b = numbers(r["printed"])
        needs.append((far[1] - far[0]) / 2 / max(a - value, value - b, 1e-300))
    times = ceil(max(needs) ** 2) if max(needs) < 1e3 else 0
    return f"; about {times} times the runs would confirm it" if times > 1 else "; its value lies too far off for that"


def scientific(x: float) -> str:
    """A small number as TeX, 6.3e-05 as $6.3 \\times 10^{-5}$."""
    digits, exponent = f"{x:.1e}".split("e")
    return f"${digits} \\times 10^{{{int(exponent)}}}$" if x else "0"


def entries(chapters: list[Chapter], paper: str, wanted: str | None = None) -> str:
    """A list-table of the paper's claims; in a list-table the | of a formula does no harm."""
    lines = ["* - Claim", "  - Statement"]
    for claim in claims.registry().values():
        found = verdict(chapters, claim.id)
        if claim.paper == paper and wanted in (None, found):
            lines += entry(claim, found, tested(chapters, claim.id))
    if len(lines) == 2:
        return f"No claim of this paper has the verdict *{wanted}*."
    return "```{list-table}\n:header-rows: 1\n:widths: 15 85\n:class: scorecard\n\n" + "\n".join(lines) + "\n```"


def entry(claim: claims.Claim, found: str, places: list[tuple[Chapter, list[dict]]]) -> list[str]:
    """The row of a claim, as lines of a list-table: what it says, what became of it, and where."""
    records = [r for _, records in places for r in records]
    counted = [r for r in records if r["counted"]]
    fields = {"paper": claim.paper, "kind": claim.kind, "verdict": found}
    fields["chapter"] = " ".join(chapter.key for chapter, _ in places) or claim.chapter
    data = " ".join(f'data-{name}="{value}"' for name, value in fields.items())
    good = f"{sum(r['verdict'] == 'confirmed' for r in counted)} of {plural(len(counted), 'row')}"
    where = [
        f"{{ref}}`{chapter.title} <{chapter.key}#{rows[0]['anchor']}>` ({plural(len(rows), 'row')})"
        for chapter, rows in places
    ]
    rivals = f"Rival: {claim.rival.what}; {rival(counted) or 'not excluded'}. " if claim.rival else ""
    place = f"Tested in: {', '.join(where)}" if where else f"To be tested in: {claim.chapter}" * (found != "note")
    return [
        f'* - <span class="entry" id="{claim.id.lower()}" {data}></span>**{claim.id}**\\',
        f"    {claim.kind}\\",
        f"    {sign(found, NAMES[found])}" + f"\\\n    {good}" * bool(counted),
        f"  - **{claim.title}.** {' '.join(claim.statement.split())}",
        "",
        f"    {rivals}Source: {claim.source}. {place}",
    ]


def filters(chapters: list[Chapter]) -> str:
    """Four lists to choose from, hidden until the script that serves them runs."""
    tests = {chapter.key: chapter.title for chapter in chapters if chapter.records}
    lists = {
        "paper": PAPERS,
        "kind": {kind: kind for kind in claims.KINDS},
        "chapter": tests | {c.chapter: c.chapter for c in claims.registry().values() if c.chapter not in tests},
        "verdict": {name: NAMES[name] for name in VERDICTS},
    }
    boxes = []
    for name, values in lists.items():
        options = "".join(f'<option value="{value}">{escape(text)}</option>' for value, text in values.items())
        boxes.append(f'<label>{name} <select name="{name}"><option value="">all</option>{options}</select></label>')
    return f'<form class="filter" hidden>{"".join(boxes)}<output></output></form>'


class Scorecard(SphinxDirective):
    """``{scorecard}``, ``{scorecard} PAPER`` and its option ``verdict``."""

    optional_arguments = 1
    option_spec = {"verdict": str}  # noqa: RUF012

    def run(self):
        chapters, wanted = self.env.app.ledger, self.options.get("verdict")
        self.env.note_reread()  # its text depends on other pages
        try:
            if wanted is not None:
                one_of("the verdict of {scorecard}", wanted, VERDICTS)
            if not self.arguments:
                return self.parse_text_to_nodes(summary(chapters, places(self.env)))
            paper = one_of("the paper of {scorecard}", self.arguments[0], PAPERS)
        except ValueError as error:
            raise self.error(str(error)) from None
        return self.parse_text_to_nodes(entries(chapters, paper, wanted))


class Forest(SphinxDirective):
    """``{forest}``: the filter, and the plot of all rows that have a value as theory."""

    def run(self):
        chapters = self.env.app.ledger
        self.env.note_reread()
        return [nodes.raw("", filters(chapters) + forest.plot(chapters, places(self.env)), format="html")]


def places(env) -> Place:
    """The addresses of anchors in chapters, as written on the page that is read."""
    return lambda chapter, anchor: link(env.app, env.docname, chapter.page, anchor)


def setup(app) -> dict:
    app.add_directive("scorecard", Scorecard)
    app.add_directive("forest", Forest)
    return {"parallel_read_safe": False, "parallel_write_safe": True}

"""The ledger of claims: collected from the executed chapters, written to claims.json, shown as a scorecard.

A chapter's claim tables carry their records as JSON beside the Markdown that is shown. They are read
here from the cache of executed chapters, so the ledger is complete whichever chapters ran today.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

import book_cache
from deeplimits import claims, runtime

SIGNS = {"holds": "✓ holds", "fails": "✗ fails", "open": "open"}


@dataclass(frozen=True)
class Chapter:
    """An executed page: its Sphinx name, its title, what it took, seconds and bytes, and its claim records."""

    page: str
    title: str
    seconds: float
    memory: float
    records: list[dict]

    @property
    def key(self) -> str:
        return self.page.removeprefix("chapters/")


def read_chapter(page: str, path: Path) -> Chapter | None:
    """The chapter at ``path``, or None for a page without code; raises if it has not been executed."""
    notebook = book_cache.read(path)
    if notebook is None:
        return None
    found = book_cache.executed(notebook)
    if found is None:
        raise ExtensionError(f"{page} has not been executed; run the chapters first, as `make book` does")
    title = re.search(r"^# (.+)$", path.read_text("utf8"), re.MULTILINE)
    outputs = [out for cell in found[0].cells for out in cell.get("outputs", [])]
    records = [record for out in outputs for record in out.get("data", {}).get(claims.MIME, [])]
    return Chapter(page, title[1] if title else page, found[1], found[2], records)


def check(chapters: list[Chapter]) -> None:
    """Raise if a record is of an unknown claim, says another chapter than its own, or comes twice."""
    for chapter in chapters:
        seen = set()
        for record in chapter.records:
            name = f"{chapter.page}: claim {record['id']!r}, part {record['part']!r}"
            if record["id"] not in claims.registry():
                raise ExtensionError(f"{name} is not in claims.toml; add it there or correct the id")
            if record["chapter"] != chapter.key:
                raise ExtensionError(f"{name} is recorded for chapter {record['chapter']!r}, not {chapter.key!r}")
            if (record["id"], record["part"]) in seen:
                raise ExtensionError(f"{name} is recorded twice; give each measurement its own part")
            seen.add((record["id"], record["part"]))


def as_json(chapters: list[Chapter]) -> str:
    """The text of claims.json: settings, seconds, and the records in the registry's order."""
    run, order = runtime.current(), list(claims.registry())
    records = [record for chapter in chapters for record in chapter.records]
    ledger = {
        "preset": run.preset,
        "seed": run.seed,
        "device": str(run.device),
        "seconds": {chapter.key: round(chapter.seconds, 2) for chapter in chapters},
        "claims": sorted(records, key=lambda record: order.index(record["id"])),
    }
    return json.dumps(ledger, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def collect(app, env, docnames) -> None:
    """Read all executed chapters before Sphinx reads the first page."""
    found = [read_chapter(page, Path(env.doc2path(page))) for page in sorted(env.found_docs)]
    app.ledger = [chapter for chapter in found if chapter]
    check(app.ledger)


def label(app, env) -> None:
    """Make the place of each record a reference target: {ref}`text <scaling/stability#claim-m-03-outputs>`."""
    for chapter in app.ledger:
        for record in chapter.records:
            name = f"{chapter.key}#{record['anchor']}"
            env.domains["std"].anonlabels[name] = (chapter.page, record["anchor"])


def write(app, exception) -> None:
    """Write claims.json beside the finished HTML, all of it or none."""
    if exception is None and app.builder.name == "html":
        target = Path(app.outdir).with_name("claims.json")
        draft = target.with_suffix(".part")
        draft.write_text(as_json(app.ledger), "utf8")
        draft.replace(target)


def tested(chapters: list[Chapter], id: str) -> list[tuple[Chapter, list[dict]]]:
    """The chapters that measure a claim, each with its records of it."""
    found = [(chapter, [r for r in chapter.records if r["id"] == id]) for chapter in chapters]
    return [(chapter, records) for chapter, records in found if records]


def verdict(chapters: list[Chapter], id: str) -> str:
    """``holds`` if all records of the claim hold, ``fails`` if one fails, ``open`` if there is none."""
    verdicts = {record["verdict"] for _, records in tested(chapters, id) for record in records}
    return "open" if not verdicts else "holds" if verdicts == {"holds"} else "fails"


def summary(chapters: list[Chapter]) -> str:
    """How many claims hold, fail and are open, and how many would fail by chance alone."""
    verdicts = [verdict(chapters, id) for id in claims.registry()]
    counts = {name: verdicts.count(name) for name in SIGNS}
    rates = [record["false_alarm"] for chapter in chapters for record in chapter.records]
    random = [rate for rate in rates if rate > 0]
    wide = sum(record["wide"] for chapter in chapters for record in chapter.records)
    return (
        f"Of the {len(verdicts)} claims of this book **{counts['holds']} hold**, **{counts['fails']} fail** "
        f"and {counts['open']} are open, that is, not tested yet. The verdicts rest on {len(rates)} measurements; "
        f"{len(rates) - len(random)} of them are exact and {len(random)} are random. "
        f"A random check of a true claim fails by chance with probability {scientific(max(random, default=0.0))}, "
        f"so this build is expected to raise {scientific(sum(random))} false alarms in all. "
        f"{wide} measurements are wide."
    )


def scientific(x: float) -> str:
    """A small number as TeX, 6.3e-05 as $6.3 \\times 10^{-5}$."""
    digits, exponent = f"{x:.1e}".split("e")
    return f"${digits} \\times 10^{{{int(exponent)}}}$" if x else "0"


def rows(chapters: list[Chapter], paper: str) -> str:
    """A list-table of the paper's claims; in a list-table the | of a formula does no harm."""
    lines = ["* - Claim", "  - Statement"]
    for claim in claims.registry().values():
        if claim.paper != paper:
            continue
        places = []
        for chapter, records in tested(chapters, claim.id):
            number = f"{len(records)} measurement{'s' if len(records) > 1 else ''}"
            places.append(f"{{ref}}`{chapter.title} <{chapter.key}#{records[0]['anchor']}>` ({number})")
        where = f"Tested in: {', '.join(places)}" if places else f"To be tested in: {claim.chapter}"
        lines += [
            f"* - **{claim.id}**\\",
            f"    {claim.kind}\\",
            f"    {SIGNS[verdict(chapters, claim.id)]}",
            f"  - **{claim.title}.** {' '.join(claim.statement.split())}",
            "",
            f"    Source: {claim.source}. {where}",
        ]
    return "```{list-table}\n:header-rows: 1\n:widths: 15 85\n:class: scorecard\n\n" + "\n".join(lines) + "\n```"


class Scorecard(SphinxDirective):
    """``{scorecard}`` gives the counts, ``{scorecard} marion`` the table of that paper's claims."""

    optional_arguments = 1

    def run(self):
        chapters = self.env.app.ledger
        self.env.note_reread()  # its text depends on other pages
        return self.parse_text_to_nodes(rows(chapters, self.arguments[0]) if self.arguments else summary(chapters))


def setup(app) -> dict:
    app.add_directive("scorecard", Scorecard)
    app.connect("env-before-read-docs", collect)
    app.connect("env-updated", label)
    app.connect("build-finished", write)
    return {"parallel_read_safe": False, "parallel_write_safe": True}

"""The ledger of claims: collected from the executed chapters, and written to claims.json.

A chapter's claim tables carry their records as JSON beside the Markdown that is shown. They are read
here from the cache of executed chapters, so the ledger is complete whichever chapters ran today.
``scorecard``, ``forest`` and ``costs`` show it.
"""

import json
import re
from dataclasses import dataclass
from math import isnan
from pathlib import Path

from sphinx.errors import ExtensionError

import book_cache
from deeplimits import claims, runtime
from deeplimits.verdict import of_claim

SCORECARD = "chapters/scorecard"
VERDICTS = ("confirmed", "agrees", "fails", "open", "note")


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
    """The text of claims.json: settings, seconds, bytes (null if unknown), and the records in the registry's order."""
    run, order = runtime.current(), list(claims.registry())
    ledger = {
        "preset": run.preset,
        "seed": run.seed,
        "device": str(run.device),
        "seconds": {chapter.key: round(chapter.seconds, 2) for chapter in chapters},
        "memory": {chapter.key: None if isnan(chapter.memory) else int(chapter.memory) for chapter in chapters},
        "claims": sorted(all_records(chapters), key=lambda record: order.index(record["id"])),
    }
    return json.dumps(ledger, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def all_records(chapters: list[Chapter]) -> list[dict]:
    return [record for chapter in chapters for record in chapter.records]


def tested(chapters: list[Chapter], id: str) -> list[tuple[Chapter, list[dict]]]:
    """The chapters that measure a claim, each with its records of it."""
    found = [(chapter, [r for r in chapter.records if r["id"] == id]) for chapter in chapters]
    return [(chapter, records) for chapter, records in found if records]


def verdict(chapters: list[Chapter], id: str) -> str:
    """One of VERDICTS: that of all records of the claim; a note that nothing measures is not open."""
    found = of_claim([record for _, records in tested(chapters, id) for record in records])
    return "note" if found == "open" and claims.registry()[id].kind == "note" else found


def link(app, page: str, target: str, anchor: str) -> str:
    """The address of an anchor on the page ``target``, as written on ``page``; a book on one page has only anchors."""
    uri = app.builder.get_relative_uri(page, target)
    return f"#{anchor}" if app.builder.name == "singlehtml" else f"{uri}#{anchor}"


def collect(app, env, docnames) -> None:
    """Read all executed chapters, in the order of the book, before Sphinx reads the first page."""
    pages = sorted(env.found_docs, key=list(app.config.external_site_map).index)
    found = [read_chapter(page, Path(env.doc2path(page))) for page in pages]
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


def setup(app) -> dict:
    app.connect("env-before-read-docs", collect)
    app.connect("env-updated", label)
    app.connect("build-finished", write)
    return {"parallel_read_safe": False, "parallel_write_safe": True}

"""The ledger of claims in the built book: whole, on the pages of the chapters, and on the scorecard."""

from collections import Counter
from urllib.parse import urlsplit

import pytest

from deeplimits import claims
from pages import LEDGER, PAGES, RECORDS, SCORECARD, every_page, parse

ROWS = "details.verdict:not(.again) tbody tr"  # a summary at a chapter's end shows its rows again
FIELDS = {
    *("id", "part", "chapter", "paper", "kind", "title", "counted", "quantity", "theory", "allowance", "why"),
    *("resolution", "default_resolution", "printed", "rival", "measured", "standard_error", "interval", "interval_5"),
    *("samples", "diverged", "false_alarm", "distance", "rival_distance", "anchor", "verdict"),
}
chapters = pytest.mark.parametrize("chapter", sorted({record["chapter"] for record in RECORDS}))


def test_ledger_says_how_it_was_made():
    assert set(LEDGER) == {"preset", "seed", "device", "seconds", "memory", "claims"}
    assert RECORDS, "no chapter recorded a claim"
    assert LEDGER["seconds"].keys() == LEDGER["memory"].keys()
    assert all(size is None or 2**20 < size < 2**40 for size in LEDGER["memory"].values())


def test_every_record_is_of_a_known_claim():
    assert {record["id"] for record in RECORDS} <= set(claims.registry())


def test_every_record_tells_the_whole_story():
    assert [(r["id"], r["part"]) for r in RECORDS if set(r) != FIELDS] == []
    assert {r["verdict"] for r in RECORDS} <= {"confirmed", "agrees", "fails"}


def test_no_row_fails():
    failing = [
        f"{r['chapter']}: {r['id']} {r['part']}: theory {r['theory']} ± {r['allowance']}, "
        f"measured {r['measured']} in {r['interval']}"
        for r in RECORDS
        if r["verdict"] == "fails"
    ]
    assert failing == []


@chapters
def test_a_chapter_shows_each_row_in_a_fold_and_again_in_its_summary(chapter):
    """The summary leads to the folds, so each row has an anchor of its own. A chapter may show a row twice."""
    page, anchors = parse(f"chapters/{chapter}.html"), [r["anchor"] for r in RECORDS if r["chapter"] == chapter]
    assert len(set(anchors)) == len(anchors)
    assert {tag["id"] for tag in page.select(f"{ROWS} td:first-child [id]")} == set(anchors)
    assert len(page.select(f"{ROWS} td:first-child [id]")) == len(page.select(ROWS)) >= len(anchors)
    again = page.select("details.verdict.again tbody tr td:first-child a")
    assert sorted(tag["href"].removeprefix("#") for tag in again) == sorted(anchors)


@every_page
def test_few_verdict_rows_are_unfolded(page):
    """A row of a table with a verdict in it that is no entry of the scorecard; a closed fold hides its rows."""
    rows = [row for row in parse(page).select("tr") if row.select(".confirmed, .agrees, .fails")]
    hidden = [row for row in rows if row.find_parent("details", open=False) or row.select(".entry")]
    assert len(rows) - len(hidden) <= 25
    assert not parse(page).select("details.verdict[open]")


def test_scorecard_lists_every_claim_under_its_anchor():
    shown = {tag["id"]: tag.parent.strong.get_text() for tag in parse(SCORECARD).select("table.scorecard .entry")}
    assert shown == {id.lower(): id for id in claims.registry()}


def test_every_counted_row_with_a_value_is_in_the_plot():
    dots = Counter(tag["href"].split("/", 1)[1] for tag in parse(SCORECARD).select(".forest svg a"))
    valued = [r for r in RECORDS if r["counted"] and r["theory"][0] == r["theory"][1]]
    assert sorted(dots.values()) == sorted(Counter(f"{r['chapter']}.html#{r['anchor']}" for r in valued).values())
    assert sum(dots.values()) == len(valued)


def test_rows_that_are_not_confirmed_are_listed():
    listed = [tag.get_text() for tag in parse(SCORECARD).select("details.verdict li > a")]
    wanted = [f"{r['id']} {r['part']}" for r in RECORDS if r["verdict"] == "fails" or not_confirmed(r)]
    assert sorted(listed) == sorted(wanted)


def not_confirmed(record: dict) -> bool:
    return record["counted"] and record["verdict"] != "confirmed"


def test_ids_in_the_text_are_links_with_the_title_of_the_claim():
    ids = {id.lower() for id in claims.registry()}
    found = [tag for page in PAGES for tag in parse(page).select("article a[href*='#']:not(.claim)")]
    found = [tag for tag in found if urlsplit(tag["href"]).path.endswith("scorecard.html")]
    found = [tag for tag in found if urlsplit(tag["href"]).fragment in ids]
    for tag in found:
        assert tag["title"] == claims.registry()[tag.get_text()].title
        assert tag["href"].endswith(f"#{tag.get_text().lower()}")
        assert not tag.find_parent(["code", "pre", "h1", "h2", "h3", "h4"])
    assert len({tag.get_text() for tag in found}) > len(claims.registry()) // 2


def test_the_environment_page_has_the_cost_of_each_chapter():
    cells = [[td.get_text() for td in row.select("td")] for row in parse("chapters/environment.html").select("tr")]
    costs = {row[0]: row[1:] for row in cells if len(row) == 3}
    assert len(costs) == len(LEDGER["seconds"]) + 1
    assert costs["all; the largest"][0] == f"{sum(LEDGER['seconds'].values()):.0f}"

"""The scorecard as a tool, in a browser and from a file: filter, anchors, folds; and without scripts."""

import pytest

from browser import MISSING, chromium, find_chromium
from pages import RECORDS, SCORECARD, SITE

pytestmark = pytest.mark.skipif(find_chromium() is None, reason=MISSING)
ADDRESS = (SITE / SCORECARD).as_uri()
SHOWN = """() => { const all = (what) => [...document.querySelectorAll(what)]; return {
  entries: all(".entry").filter((e) => e.closest("tr").offsetParent).map((e) => e.id),
  dots: all(".forest svg a").filter((a) => a.getClientRects().length).length,
  rows: all(".forest [data-claim]").filter((e) => e.offsetParent).map((e) => e.dataset.claim),
  says: document.querySelector("form.filter output").textContent,
}}"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def shown(browser):
    """What is to be seen at the scorecard's address with something behind it."""
    context = browser.new_context()
    tab = context.new_page()

    def look(behind):
        tab.goto(ADDRESS + behind, wait_until="load")
        return tab.evaluate(SHOWN)

    look.tab = tab
    yield look
    context.close()


def drawn(records):
    return [r for r in records if r["counted"] and r["theory"][0] == r["theory"][1]]


def test_without_a_filter_everything_shows(shown):
    found = shown("")
    assert found["dots"] == len(drawn(RECORDS))
    assert f"{len(found['entries'])} of {len(found['entries'])} claims" in found["says"]


@pytest.mark.parametrize("name", ["paper", "kind"])
def test_rows_and_dots_are_filtered_together(shown, name):
    for value in {r[name] for r in RECORDS}:
        found = shown(f"?{name}={value}")
        mine = [r for r in drawn(RECORDS) if r[name] == value]
        assert found["dots"] == len(mine) and set(found["rows"]) == {r["id"].lower() for r in mine}
        assert {r["id"].lower() for r in RECORDS if r[name] == value} <= set(found["entries"])
        assert not {r["id"].lower() for r in RECORDS if r[name] != value} & set(found["entries"])


def test_a_chapter_shows_its_own_rows_only(shown):
    chapter = RECORDS[0]["chapter"]
    found = shown(f"?chapter={chapter}")
    assert found["dots"] == len([r for r in drawn(RECORDS) if r["chapter"] == chapter])
    assert {r["id"].lower() for r in RECORDS if r["chapter"] == chapter} <= set(found["entries"])


def test_choosing_is_kept_in_the_address(shown):
    shown("#m-02")
    shown.tab.select_option("select[name=verdict]", "confirmed")
    shown.tab.select_option("select[name=kind]", "theorem")
    assert shown.tab.url == f"{ADDRESS}?kind=theorem&verdict=confirmed#m-02"
    found = shown.tab.evaluate(SHOWN)
    shown.tab.reload()
    assert shown.tab.evaluate(SHOWN) == found and len(found["entries"]) < 102
    shown.tab.select_option("select[name=verdict]", "")
    shown.tab.select_option("select[name=kind]", "")
    assert shown.tab.url == f"{ADDRESS}#m-02"


def test_an_unknown_value_is_named_with_those_there_are(shown):
    everything = shown("")["entries"]
    found = shown("?verdict=holds&colour=red")
    assert 'No verdict is called "holds"; there are confirmed, agrees, fails, open, note.' in found["says"]
    assert 'There is no filter "colour"; there are paper, kind, chapter, verdict.' in found["says"]
    assert found["entries"] == everything


def test_without_scripts_everything_shows_and_no_filter(browser):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(ADDRESS)
    assert not tab.locator("form.filter").is_visible()
    assert tab.locator("table.scorecard tr:visible .entry").count() == tab.locator(".entry").count() > 0
    assert tab.locator(".forest svg a").count() == len(drawn(RECORDS))
    context.close()


def test_a_dot_leads_to_its_row_and_opens_the_fold(shown):
    shown("")
    dot = shown.tab.locator(".forest svg a").first
    anchor = dot.get_attribute("href").split("#")[1]
    dot.dispatch_event("click")
    shown.tab.wait_for_url("**#" + anchor)
    row = shown.tab.locator(f"#{anchor}")
    row.wait_for(state="attached")
    assert row.evaluate("(e) => e.closest('details').open")


@pytest.mark.parametrize("width", [390, 1400])
def test_open_folds_scroll_in_their_own_box(shown, width):
    shown.tab.set_viewport_size({"width": width, "height": 900})
    for chapter in sorted({r["chapter"] for r in RECORDS})[:3]:
        shown.tab.goto((SITE / f"chapters/{chapter}.html").as_uri())
        shown.tab.evaluate("() => document.querySelectorAll('details.verdict').forEach((d) => (d.open = true))")
        assert shown.tab.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0

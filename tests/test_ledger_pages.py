"""The pages made from the ledger: claims.json, the scorecard, its plot, and links from ids in the text."""

import json
import re
from dataclasses import replace
from math import inf, nan
from types import SimpleNamespace

import pytest
from docutils import nodes
from docutils.utils import new_document
from sphinx.errors import ExtensionError

import claim_links
import forest
import ledger as pages
import scorecard
from deeplimits import claims, statistics
from deeplimits.claims import Ledger, Rival
from ledger import Chapter

FIRST = Ledger("scaling/stability")
SECOND = Ledger("scaling/gradients")


def measured(value, error=1.0):
    return statistics.Estimate(value, error, 100, 0, lambda z: (value - z * error, value + z * error))


def chapter(*rows: tuple, of: Ledger = FIRST, memory: float = nan) -> Chapter:
    """A page with rows (id, part, theory, estimate, other fields of a record)."""
    ledger = Ledger(of.chapter)
    for id, part, theory, estimate, more in rows:
        keep = ledger.check if more == "check" else ledger.record
        keep(id, part, theory, estimate, **({} if more == "check" else more))
    records = [record.json() for record in ledger.records.values()]
    return Chapter(f"chapters/{ledger.chapter}", f"On {ledger.chapter} & more", 6.25, memory, records)


SHARP = ("M-03", "a < b", 1.0, measured(1.0, 0.004), {"rival": 2.0})
WIDE = ("M-05", "p", 1.0, measured(1.0, 0.009), {})
WRONG = ("M-06", "q", 1.0, measured(2.0, 0.01), {"allowance": 0.1, "why": "our choice: it looks like it"})
EXACT = ("M-03", "sum", 1.0, statistics.exact(1.0), {"rival": 3.0})
BOUND = ("M-03", "sign", (0.0, inf), measured(9.0), {"rival": 0.0})
BOOK = [
    chapter(SHARP, WIDE, WRONG, EXACT, BOUND, memory=2.0**30),
    chapter(("M-08", "sum", 0.0, statistics.exact(0.0), "check"), of=SECOND),
]


def place(chapter: Chapter, anchor: str) -> str:
    return f"{chapter.key}.html#{anchor}"


@pytest.fixture
def note(monkeypatch):
    """A registry of two claims, a note and one with a rival in words."""
    known = claims.registry()
    named = replace(known["M-03"], rival=Rival("the other | one"))
    few = {"M-03": named, "M-05": replace(known["M-05"], kind="note"), "M-07": known["M-07"]}
    monkeypatch.setattr(claims, "registry", lambda: few)


def test_the_ledger_file_has_settings_costs_and_all_records():
    found = json.loads(pages.as_json(BOOK))
    assert list(found) == ["preset", "seed", "device", "seconds", "memory", "claims"]
    assert found["seconds"] == {"scaling/stability": 6.25, "scaling/gradients": 6.25}
    assert found["memory"] == {"scaling/stability": 2**30, "scaling/gradients": None}
    assert [r["id"] for r in found["claims"]] == ["M-03", "M-03", "M-03", "M-05", "M-06", "M-08"]


def test_records_of_an_unknown_claim_another_chapter_or_the_same_part_are_refused():
    pages.check(BOOK)
    (sharp, *_), key = BOOK[0].records, "chapters/scaling/stability"
    for bad, said in [
        ([sharp | {"id": "M-99"}], "is not in claims.toml"),
        ([sharp | {"chapter": "sde/collapse"}], "is recorded for chapter 'sde/collapse'"),
        ([sharp, sharp], "is recorded twice"),
    ]:
        with pytest.raises(ExtensionError, match=said):
            pages.check([Chapter(key, "", 0.0, 0.0, bad)])


def test_verdicts_of_claims():
    found = [pages.verdict(BOOK, id) for id in ("M-03", "M-05", "M-06", "M-08")]
    assert found == ["confirmed", "agrees", "fails", "open"]


def test_a_note_without_rows_is_not_open(note):
    assert [pages.verdict([], id) for id in ("M-05", "M-07")] == ["note", "open"]
    assert "2 open (not tested yet) and 1 note, for which no" in scorecard.summary([], place)
    assert "To be tested" not in scorecard.entries([], "marion", "note")
    assert "To be tested in: scaling/stability" in scorecard.entries([], "marion", "open")
    assert pages.verdict([chapter(WIDE)], "M-05") == "agrees"


def test_the_summary_counts():
    said = scorecard.summary(BOOK, place)
    for words in (
        "**1 confirmed**, 1 in agreement, **1 failing**, ",
        "prints, 0 confirmed",
        "rest on 5 rows: 1 exact and 4 random",
        "random ones **2 confirmed**, that is 50.0 %",
        "Allowances that are our choice: 1.",
        "1 check of the code",
        "with probability $6.3 \\times 10^{-5}$",
        "raise $2.5 \\times 10^{-4}$ false alarms",
    ):
        assert words in said, said
    assert "<summary>2 rows are not confirmed</summary>" in said
    assert '<li><a href="scaling/stability.html#claim-m-05-p">M-05 p</a>, in <i>On scaling/stability &amp; more' in said
    assert "Every counted row is confirmed." in scorecard.summary([chapter(SHARP)], place)


def test_a_check_that_fails_is_listed_and_a_wide_resolution_is_no_allowance():
    wide = ("M-03", "p", 1.0, measured(1.0, 0.004), {"resolution": 0.1, "why": "our choice: few runs"})
    said = scorecard.summary([chapter(wide, ("M-03", "sum", 1.0, statistics.exact(2.0), "check"))], place)
    assert "that are our choice: 0." in said and "M-03 sum</a>" in said and "M-03 p</a>" not in said


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (WIDE, "; about 4 times the runs would confirm it"),  # 4 standard errors of 0.009 into 0.02
        (("M-05", "p", 1.0, measured(1.015, 0.01), {}), "; about 64 times the runs would confirm it"),
        (("M-05", "p", 1.0, measured(1.03, 0.01), {}), "; its value lies too far off for that"),
        (("M-05", "p", 1.0, measured(1.0, 0.004), {"printed": 1.01}), "; about 4 times the runs would confirm it"),
        (SHARP, ""),
        (WRONG, ""),
    ],
)
def test_what_it_would_cost_to_confirm_a_row(row, expected):
    assert scorecard.cost(chapter(row).records[0]) == expected


def test_an_entry_tells_the_claim_its_verdict_and_its_rival(note):
    text = scorecard.entries(BOOK, "marion")
    fields = 'data-paper="marion" data-kind="beyond" data-verdict="confirmed" data-chapter="scaling/stability"'
    assert f'<span class="entry" id="m-03" {fields}></span>**M-03**' in text
    assert '<span class="confirmed">✓ confirmed</span>\\\n    3 of 3 rows' in text
    assert "Rival: the other | one; closest rival 9.0 se away. Source:" in text
    assert "Rival: the other | one; not excluded. Source:" in scorecard.entries([chapter(WIDE)], "marion")
    assert "{ref}`On scaling/stability & more <scaling/stability#claim-m-03-a-b>` (3 rows)" in text


def test_entries_of_one_verdict():
    assert re.findall(r'id="([^"]+)"', scorecard.entries(BOOK, "marion", "fails")) == ["m-06"]
    assert scorecard.entries(BOOK, "hayou", "fails") == "No claim of this paper has the verdict *fails*."


def directive(arguments=(), **options):
    """What the directive is when it runs; its error is a RuntimeError."""
    env = SimpleNamespace(app=SimpleNamespace(ledger=BOOK), note_reread=lambda: None)
    parse = {"parse_text_to_nodes": lambda text: text, "error": RuntimeError}
    return SimpleNamespace(env=env, arguments=list(arguments), options=options, **parse)


def test_an_unknown_verdict_or_paper_is_refused():
    assert 'id="m-06"' in scorecard.Scorecard.run(directive(["marion"], verdict="fails"))
    known = "one of 'confirmed', 'agrees', 'fails', 'open', 'note'"
    with pytest.raises(RuntimeError, match=f"the verdict of {{scorecard}} must be {known}, got 'holds'"):
        scorecard.Scorecard.run(directive(["marion"], verdict="holds"))
    with pytest.raises(RuntimeError, match="must be one of 'marion', 'hayou', 'chizat', got 'marian'"):
        scorecard.Scorecard.run(directive(["marian"]))


def test_the_filter_offers_what_there_is():
    text = scorecard.filters(BOOK)
    assert text.startswith('<form class="filter" hidden>')
    assert '<option value="scaling/stability">On scaling/stability &amp; more</option>' in text
    assert all(f'<option value="{name}">' in text for name in (*claims.KINDS, *pages.VERDICTS, "hayou", "sde/collapse"))


def test_positions_on_the_scale_of_the_plot():
    def at(row):
        return forest.position(chapter(row).records[0])

    assert at(WIDE) == pytest.approx((-1.8, 0.0, 1.8))
    assert at(WRONG) == pytest.approx((0.96 / 0.12, 1 / 0.12, 1.04 / 0.12))
    assert at(EXACT) == (0.0, 0.0, 0.0) and at((*EXACT[:3], statistics.exact(1.1), {})) == (inf, inf, inf)
    assert at((*EXACT[:3], measured(nan), {})) == (inf, inf, inf)


def test_the_plot_draws_and_links_every_row_with_a_value():
    text = forest.plot(BOOK, place)
    assert re.findall('<a href="([^"]+)" class="(.+?)"', text) == [
        ("scaling/stability.html#claim-m-03-a-b", "confirmed"),
        ("scaling/stability.html#claim-m-03-sum", "confirmed"),
        ("scaling/stability.html#claim-m-05-p", "agrees"),
        ("scaling/stability.html#claim-m-06-q", "fails"),
    ]
    assert "4 rows with a value as theory" in text and "such a scale: 1 inequalities" in text
    sharp, exact, wide, wrong = re.findall(r"<a href=\"scal.*?</a>", text)
    assert "<title>M-03 a &lt; b: ✓ confirmed, measured 1.000 (0.984 … 1.016), theory 1.0000 (rival" in sharp
    assert 'x="50%"' in sharp and '<line x1="30%" x2="70%"' in sharp
    assert "#forest-exact" in exact and "<line" not in exact
    assert "#forest-agrees" in wide and "#forest-high" not in wide
    assert "#forest-high" in wrong and "#forest-fails" not in wrong and "#forest-low" not in wrong


def app(name="html"):
    builder = SimpleNamespace(name=name, get_relative_uri=lambda here, there: "../scorecard.html")
    return SimpleNamespace(builder=builder)


def linked(*parts: nodes.Node, of=None) -> list[tuple[str, str]]:
    """Text and address of the links that a paragraph of these parts gets."""
    document = new_document("")
    document += nodes.paragraph("", "", *parts)
    claim_links.link_ids(of or app(), document, "chapters/sde/collapse")
    found = list(document.findall(nodes.reference))
    assert all(link["reftitle"] == claims.registry()[link.astext()].title for link in found if "reftitle" in link)
    return [(link.astext(), link["refuri"]) for link in found]


def test_ids_in_running_text_are_links():
    text = nodes.Text("As M-03 (H-07b, C1) and E18's; not M-99, M-031, XC1, C1-like, pre-C1, _C1 or m-03.")
    assert linked(text) == [(id, f"../scorecard.html#{id.lower()}") for id in ("M-03", "H-07b", "C1", "E18")]
    assert linked(nodes.Text("M-03"), of=app("singlehtml")) == [("M-03", "#m-03")]


@pytest.mark.parametrize("kind", [nodes.literal, nodes.math, nodes.raw, nodes.title, nodes.target])
def test_ids_elsewhere_are_left_alone(kind):
    assert linked(kind("", "", nodes.Text("M-03"))) == []


def test_a_link_gets_no_second_one_and_html_its_address():
    assert linked(nodes.reference("", "", nodes.Text("M-03"), refuri="x")) == [("M-03", "x")]
    document = new_document("")
    document += nodes.raw("", '<a href="../scorecard.html#m-03">M-03</a>', format="html")
    claim_links.link_ids(app("singlehtml"), document, "chapters/index")
    assert document.astext() == '<a href="#m-03">M-03</a>'

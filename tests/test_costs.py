"""What the book costs: on the environment page, in ``benchmarks/build.csv`` and in the README, from one measurement."""

import json
from math import nan

import pytest

import book_costs
import costs
from ledger import Chapter

GIB = 2**30
LEDGER = {
    "preset": "smoke",
    "seconds": {"scaling/stability": 6.26, "sde/collapse": 120.4},
    "memory": {"scaling/stability": int(0.75 * GIB), "sde/collapse": None},
}
PAGES = [
    Chapter("chapters/scaling/stability", "Why", 6.26, 0.75 * GIB, []),
    Chapter("chapters/sde/collapse", "When", 120.4, nan, []),
]


def test_a_build_is_recorded_and_said(tmp_path, monkeypatch, capsys):
    ledger, readme = tmp_path / "claims.json", tmp_path / "README.md"
    ledger.write_text(json.dumps(LEDGER), "utf8")
    readme.write_text("before\n" + costs.MARKS[0] + "old\n" + costs.MARKS[1] + "after\n", "utf8")
    monkeypatch.setattr(costs, "TABLE", tmp_path / "build.csv")
    monkeypatch.setattr(costs, "README", readme)
    monkeypatch.setattr(costs.os, "cpu_count", lambda: 2)
    costs.TABLE.write_text("cores,preset,chapter,seconds,GiB\n8,smoke,gone,1,1\n8,paper,kept,600,5.00\n", "utf8")
    costs.main(ledger)
    assert costs.TABLE.read_text("utf8").splitlines() == [
        "cores,preset,chapter,seconds,GiB",
        "8,paper,kept,600,5.00",
        "2,smoke,scaling/stability,6,0.75",
        "2,smoke,sde/collapse,120,",
    ]
    text = readme.read_text("utf8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    smoke = text.split("At `smoke` ")[1]
    assert smoke.startswith("the 2 pages with code take 2.1 minutes of one core together, the longest\n2.0; no page")
    assert "more than 0.8 GiB" in smoke and "on 2 cores" in smoke and "5.0 GiB of memory" in text
    assert capsys.readouterr().out in text


def test_the_readme_says_what_was_recorded():
    text = costs.README.read_text("utf8")
    assert costs.put(text, costs.words(costs.read(costs.TABLE))) == text, "run python tools/costs.py _build/claims.json"


def test_without_a_record_it_says_so(tmp_path):
    assert costs.words(costs.read(tmp_path / "build.csv")).startswith("Not measured yet")
    assert "memory was not measured" in costs.words(
        costs.rows(LEDGER | {"memory": dict.fromkeys(LEDGER["seconds"])}, 2)
    )


def test_the_page_shows_what_each_chapter_took():
    *_, why, when, total = book_costs.table(PAGES).splitlines()
    assert why == "| {doc}`Why </chapters/scaling/stability>` | 6 | 0.75 |" and when.endswith("| 120 | unknown |")
    assert total == "| **all; the largest** | **127** | **0.75** |"


def test_totals_for_running_text():
    found = book_costs.totals(PAGES)
    assert (found["minutes"], found["longest"], found["GiB"]) == ("2.1", "2.0", "0.8")
    assert book_costs.totals(PAGES[1:])["GiB"] == "an unknown number of"
    with pytest.raises(ValueError, match="max"):
        book_costs.totals([])

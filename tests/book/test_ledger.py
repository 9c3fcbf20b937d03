"""The ledger of claims and the scorecard of the built book."""

import json

from deeplimits import claims
from pages import SITE, parse

LEDGER = json.loads((SITE.parent / "claims.json").read_text("utf8")) if SITE.exists() else {}


def test_ledger_says_how_it_was_made():
    assert set(LEDGER) == {"preset", "seed", "device", "seconds", "claims"}
    assert LEDGER["claims"], "no chapter recorded a claim"


def test_every_record_is_of_a_known_claim():
    assert {record["id"] for record in LEDGER["claims"]} <= set(claims.registry())


def test_every_record_tells_the_whole_story():
    wanted = {"id", "part", "chapter", "kind", "statement", "source", "prediction", "measured", "interval"}
    wanted |= {"standard_error", "samples", "diverged", "false_alarm", "printed", "verdict", "wide"}
    assert [(record["id"], record["part"]) for record in LEDGER["claims"] if wanted - set(record)] == []


def test_no_verdict_fails():
    failing = [
        f"{record['chapter']}: {record['id']} {record['part']}: predicted {record['prediction']}, "
        f"measured {record['measured']} in {record['interval']}"
        for record in LEDGER["claims"]
        if record["verdict"] != "holds"
    ]
    assert failing == []


def test_scorecard_lists_every_claim():
    shown = [tag.get_text() for tag in parse("chapters/scorecard.html").select("table.scorecard td:first-child strong")]
    assert sorted(shown) == sorted(claims.registry())

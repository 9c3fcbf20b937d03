"""Wrong theories, planted while a chapter runs."""

import json

import pytest
from test_chapters import HEAD

import book_cache
import mutate
from deeplimits import runtime

CELL = """
import torch
from deeplimits.claims import Ledger
from deeplimits.statistics import mean

ledger, x = Ledger("part/chapter"), torch.linspace(0.99, 1.01, 1000)
for part in ("a", "b"):
    ledger.record("M-03", part, 1.0, mean(x), allowance={allowance}, why="1/L")
ledger.record("M-04", "c", (0.0, 2.0), mean(x))
ledger.table()
"""


@pytest.fixture
def book(tmp_path, monkeypatch):
    """Writes a chapter, runs it as it is, and hands back its ledger."""
    monkeypatch.setattr(book_cache, "ROOT", tmp_path)
    monkeypatch.setattr(mutate.runtime, "current", lambda: runtime.Runtime(None, None, "smoke", 5))
    path = tmp_path / "chapters" / "part" / "chapter.md"
    path.parent.mkdir(parents=True)

    def write(allowance: float):
        path.write_text(f"{HEAD}\n```{{code-cell}} ipython3\n{CELL.format(allowance=allowance)}```\n", "utf8")
        records = mutate.execute("part/chapter", [])
        file = tmp_path / "claims.json"
        file.write_text(json.dumps({"preset": "smoke", "seed": 5, "claims": records}), "utf8")
        return file

    return write


def test_a_wrong_theory_is_found(book, capsys):
    """One row of a claim is drawn, with a value for a theory; it fails and nothing else does."""
    file = book(0.0)
    assert mutate.main(file) == 0
    said = capsys.readouterr().out
    assert "1 of 1 wrong theories are found" in said and "M-04" not in said and "✗ fails" in said


def test_an_allowance_hides_a_wrong_theory(book, capsys):
    file = book(0.03)
    ledger = json.loads(file.read_text("utf8"))
    for r in ledger["claims"]:
        r |= {"resolution": 0.01, "allowance": 0.0}  # a promise that the row's allowance does not let it keep
    file.write_text(json.dumps(ledger), "utf8")
    assert mutate.main(file) == 1 and "0 of 1 wrong theories" in capsys.readouterr().out


def test_another_seed_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "claims.json"
    file.write_text(json.dumps({"preset": "smoke", "seed": 6, "claims": []}), "utf8")
    monkeypatch.setattr(mutate.runtime, "current", lambda: runtime.Runtime(None, None, "smoke", 5))
    with pytest.raises(SystemExit, match="SEED=6, and the environment asks for smoke and 5"):
        mutate.main(file)

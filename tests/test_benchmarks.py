"""What is prepared for a GPU: it says so without one, and goes through on the stand-in, whose counts are up to date."""

import csv
import json

import torch

from benchmarks import counts, gpu


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 2 and "needs a GPU that PyTorch can use, found none" in capsys.readouterr().out


def test_on_the_stand_in_it_counts_and_goes_on_where_it_stopped(counting, monkeypatch, tmp_path, capsys):
    (tmp_path / "chapters").mkdir()
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu, "chapter", lambda *what: {"result": "passed"})
    assert gpu.main() == 0
    found = json.loads((tmp_path / "_build" / "gpu-counted.json").read_text())
    assert all(found[name]["kernels"] > 0 for name in gpu.WORK) and "seconds" not in json.dumps(found)
    assert "nothing is measured here" in capsys.readouterr().out
    monkeypatch.setattr(gpu, "measured", lambda *what: {}["run again"])
    assert gpu.main() == 0


def test_the_counts_of_the_page_are_those_of_the_code(counting, monkeypatch):
    """The version of PyTorch is fixed, so they can be; after a change of code benchmarks/counts.py counts anew."""
    monkeypatch.setenv("DEEPLIMITS_FILL", "0")
    with counts.TABLE.open(encoding="utf8") as file:
        assert [tuple(row) for row in csv.reader(file)] == [counts.HEAD, *counts.counts(counting)]

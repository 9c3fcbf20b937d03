"""What is prepared for a GPU: it says so without one, and goes through on the stand-in, whose counts are up to date."""

import csv
import itertools
import json
import re

import pytest
import torch

import book_cache
from benchmarks import counts, gpu
from deeplimits import runtime


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 2 and "needs a GPU that PyTorch can use, found none" in capsys.readouterr().out


@pytest.fixture
def place(monkeypatch, tmp_path):
    """A book without chapters, and the environment to be restored."""
    for name in ("PRESET", "DEVICE"):
        monkeypatch.setenv(f"DEEPLIMITS_{name}", "")
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu, "chapter", lambda *what: {"result": "passed"})
    yield tmp_path / "_build"
    book_cache.folder.cache_clear()


def test_on_the_stand_in_it_counts_and_goes_on_where_it_stopped(counting, place, monkeypatch, capsys):
    assert gpu.main() == 0
    found = json.loads((place / "gpu-counted.json").read_text("utf8"))
    assert all(found[name]["kernels"] > 0 for name in gpu.WORK) and "seconds" not in json.dumps(found)
    assert "nothing is measured here" in capsys.readouterr().out
    monkeypatch.setattr(gpu, "measured", lambda *what: {}["run again"])
    assert gpu.main() == 0 and json.loads((place / "gpu-counted.json").read_text("utf8")) == found


def test_the_budget_is_for_all_starts_together(place, monkeypatch, capsys):
    """Each item takes 15 seconds of a clock of its own; one that may not fit is left, a smaller one after it is not."""
    clock, limits = itertools.count(0, 15), []
    work = [(name, expected, limits.append) for name, expected in (("a", 20), ("b", 30), ("c", 40), ("d", 5))]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.setattr(book_cache, "get_device_name", lambda device: "a card")
    monkeypatch.setattr(runtime, "current", lambda: runtime.Runtime(torch.device("cuda"), torch.float32, "standard", 0))
    monkeypatch.setattr(gpu, "items", lambda run, found: [(*what, lambda s, f=f: f(s) or {}) for *what, f in work])
    monkeypatch.setattr(gpu.time, "monotonic", lambda: next(clock))
    assert gpu.main(60) == 0 and limits == [60, 45, 15]
    assert re.search(r"^c +left needs some 40 s$", capsys.readouterr().out, re.MULTILINE)
    assert gpu.main(60) == 0 and len(limits) == 3
    assert gpu.main(100) == 0 and limits[3:] == [55]


def test_rates_are_told_as_fractions(monkeypatch):
    monkeypatch.setattr(gpu, "FAKE", None)
    monkeypatch.setattr(gpu, "seconds", lambda work, *rest: (work(), 0.5)[1])
    run = runtime.Runtime(torch.device("cpu"), torch.float32, "standard", 0)
    found = gpu.measured(lambda run: (10, 30), run, {"product": 100, "copy": 100})
    assert found == {"seconds": 0.5, "of product rate": 0.2, "of copy rate": 0.6}
    assert gpu.measured(lambda run: None, run, {}) == {"seconds": 0.5}


def test_a_chapter_has_a_time_limit(monkeypatch):
    monkeypatch.setenv("DEEPLIMITS_PRESET", "smoke")
    monkeypatch.setenv("DEEPLIMITS_DEVICE", "cpu")
    assert gpu.chapter("sde/several-inputs", "smoke", "cpu", 0.1) == {"result": "stopped after 0 s"}


def test_the_counts_of_the_page_are_those_of_the_code(counting, monkeypatch):
    """The version of PyTorch is fixed, so they can be; after a change of code benchmarks/counts.py counts anew."""
    monkeypatch.setenv("DEEPLIMITS_FILL", "0")
    with counts.TABLE.open(encoding="utf8") as file:
        assert [tuple(row) for row in csv.reader(file)] == [counts.HEAD, *counts.counts(counting)]

"""Regime, findings and words, from numbers made by hand."""

from dataclasses import replace
from math import inf, nan

import pytest
import torch

from deeplimits.diagnosis import Diagnosis, against_neighbours
from deeplimits.statistics import Estimate, exact

L = 8
HEALTHY = Diagnosis(
    names=[f"blocks.{i}" for i in range(L)],
    norms=torch.linspace(1, 1.3, L + 1),
    gradients=torch.linspace(1.3, 1, L + 1),
    updates=torch.full((L,), 0.3),
    skips=torch.ones(L),
    change=exact(0.8),
    growth=exact(1.3),
    backward=exact(1.3),
    coherence=exact(1.0),
    hurst=Estimate(0.5, 0.01, 64, 0, lambda z: (0.5 - 0.01 * z, 0.5 + 0.01 * z)),
    weights={"W": exact(0.5)},
    sums={1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0},
    loss=(0.5, 0.2),
    moves=torch.full((L,), 0.2),
    shifts=torch.full((L,), 0.2),
    nonlinearity=0.3,
    factor=1.0,
)


def hurst(value, error):
    return Estimate(value, error, 64, 0, lambda z: (value - z * error, value + z * error))


def at(values, i, value):
    values = values.clone()
    values[i] = value
    return values


CASES = [
    ({}, "stability", "features", [], "Nothing to mend: over 8 blocks the state changes by 0.8 times its norm"),
    ({"nonlinearity": 0.02}, "stability", "lazy", [], "linear but for 0.02"),
    ({"change": exact(0.05)}, "identity", "features", ["identity"], "multiply each by 1."),
    ({"change": exact(0.0), "updates": torch.zeros(L)}, "identity", "features", ["identity"], "ReZero, or forgotten"),
    ({"change": exact(40.0), "factor": 0.2}, "explosion", "features", ["explosion"], "multiply each block by 0.2,"),
    ({"backward": exact(11.0)}, "explosion", "features", ["explosion"], "gradients by 11:"),
    ({"growth": exact(inf)}, "explosion", "features", ["explosion"], "grows by the factor inf"),
    ({"change": exact(nan)}, "explosion", "features", ["explosion"], "grows by the factor"),
    ({"hurst": hurst(1.0, 0.0)}, "stability", "features", ["equal weights"], "All 8 blocks have equal weights"),
    ({"hurst": hurst(0.75, 0.02)}, "stability", "features", ["alike"], "1/L^0.75 = 0.21"),
    ({"hurst": hurst(0.75, 0.06)}, "stability", "features", [], "Nothing to mend"),
    ({"skips": at(torch.ones(L), 3, 0.1)}, "stability", "features", ["no skip"], "`blocks.3` hands on 0.10"),
    ({"updates": at(torch.ones(L), 7, 9.0)}, "stability", "features", ["outlier"], "`blocks.7` does 9 times as much"),
    ({"updates": at(torch.ones(L), 0, 0.1)}, "stability", "features", ["outlier"], "`blocks.0` does 0.1 times"),
    ({"nonlinearity": nan}, "stability", "none", ["no training"], "frozen, detached, or overflowing"),
]


@pytest.mark.parametrize(("numbers", "regime", "training", "names", "words"), CASES)
def test_each_disorder_is_named_and_nothing_else(numbers, regime, training, names, words):
    d = replace(HEALTHY, **numbers)
    assert (d.regime, d.training, [f.name for f in d.findings]) == (regime, training, names)
    assert words in "\n".join(d.advice)


def test_causes_come_before_effects():
    d = replace(HEALTHY, change=exact(99.0), hurst=hurst(1.0, 0.0))
    assert [f.name for f in d.findings] == ["equal weights", "explosion"]


def test_neighbours_by_hand():
    assert against_neighbours(torch.tensor([6.0, 1.0, 1.0, 2.0, 4.0, 9.0])) == pytest.approx(
        [4, 1 / 3, 1 / 3, 0.8, 8 / 3, 6]
    )
    assert against_neighbours(torch.tensor([1.0, 100.0, 1.0])) == [1.0, 1.0, 1.0]
    assert against_neighbours(torch.zeros(6)) == [1.0] * 6


def test_table_text_and_plot_show_every_number():
    table, text = HEALTHY._repr_markdown_(), repr(HEALTHY)
    for words in (
        "change of the state",
        "0.8",
        "`W`",
        "0.46 … 0.54",
        "**stability**",
        "from 0.5 to 0.2",
        "Nothing to mend",
    ):
        assert words in table.replace("&emsp;", ""), words
        assert words in text.replace("&emsp;", ""), words
    titles = [ax.get_title() for ax in HEALTHY.plot().axes]
    assert titles == ["stability", "H = 0.50", "training: features"]

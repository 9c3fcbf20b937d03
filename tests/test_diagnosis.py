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
    sizes=torch.full((L,), 0.3),
    skips=[exact(1.0)] * L,
    twins=0,
    among=12,
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


def line(first, middle, last):
    """A path of norms with these values at its two ends and in between."""
    return torch.cat([torch.linspace(first, middle, L // 2 + 1), torch.linspace(middle, last, L // 2 + 1)[1:]])


def skips(i, value):
    return [exact(1.0)] * i + [exact(value)] + [exact(1.0)] * (L - i - 1)


STILL = at(torch.full((L,), 0.2), 2, 0.0)
CASES = [
    ({}, "stability", "features", [], "Nothing to mend: over 8 blocks the state changes by 0.8 times its norm"),
    ({"nonlinearity": 0.02}, "stability", "lazy", [], "linear but for 0.02"),
    ({"change": exact(0.05)}, "identity", "features", [], "Nothing to mend"),  # that is how features move most
    ({"change": exact(0.05), "nonlinearity": 0.02}, "identity", "lazy", ["identity"], "multiply each by 1."),
    (
        {"change": exact(1e-6), "nonlinearity": 0.0},
        "identity",
        "lazy",
        ["identity"],
        "ReZero or layer scale, or forgot",
    ),
    ({"norms": line(1, 5, 40), "factor": 0.2}, "explosion", "features", ["explosion"], "multiply each block by 0.2."),
    ({"norms": line(1, 5, 40), "sizes": 4.0 ** torch.arange(L)}, "explosion", "features", ["explosion"], "multiply"),
    ({"norms": line(1, 20, 30)}, "stability", "features", [], "Nothing"),  # as a power of the depth: it does not go on
    ({"gradients": line(50, 7, 1)}, "explosion", "features", ["explosion"], "gradients by 1.3:"),
    ({"norms": line(1, 5, inf), "factor": nan}, "explosion", "features", ["explosion"], "no factor on the blocks"),
    ({"norms": line(1, 9, 40)}, "explosion", "features", ["explosion"], "(by 10 up to `blocks.4`)"),
    ({"norms": line(1, 0.2, 0.05)}, "vanishing", "features", ["vanishing"], "shrinks to 0.05"),
    (
        {"norms": at(line(1, 25, 30), 1, 22.0)},
        "stability",
        "features",
        ["small input"],
        "Raise the scale of what enters",
    ),
    ({"twins": 7}, "stability", "features", ["equal weights"], "7 of 8 blocks have the weights of an earlier one"),
    ({"hurst": hurst(0.75, 0.02), "coherence": exact(4)}, "stability", "features", ["alike"], "1/L^0.75 = 0.21"),
    ({"hurst": hurst(0.75, 0.02)}, "stability", "features", [], "Nothing to mend"),  # updates do not add up
    ({"hurst": hurst(0.75, 0.06), "coherence": exact(2)}, "stability", "features", [], "Nothing to mend"),
    ({"coherence": exact(5.0)}, "stability", "features", ["aligned"], "coherence 5, where independent ones have 1"),
    ({"skips": skips(3, 0.1)}, "stability", "features", ["no skip"], "`blocks.3` hands on 0.10"),
    ({"skips": skips(3, 2.0)}, "stability", "features", ["double skip"], "`blocks.3` hands on 2.00"),
    ({"sizes": at(torch.ones(L), 7, 9.0)}, "stability", "features", ["outlier"], "`blocks.7` adds 9 times as much"),
    ({"sizes": at(torch.ones(L), 0, 0.1)}, "stability", "features", ["outlier"], "`blocks.0` adds 0.1 times"),
    ({"sizes": at(torch.ones(L), 4, 0.0)}, "stability", "features", ["outlier"], "`blocks.4` adds nothing: dropped"),
    ({"moves": STILL}, "stability", "features", ["no gradient"], "the weights of `blocks.2`: frozen"),
    ({"nonlinearity": nan}, "stability", "none", ["no training"], "are the blocks frozen"),
]


@pytest.mark.parametrize(("numbers", "regime", "training", "names", "words"), CASES)
def test_each_disorder_is_named_and_nothing_else(numbers, regime, training, names, words):
    d = replace(HEALTHY, **numbers)
    assert (d.regime, d.training, [f.name for f in d.findings]) == (regime, training, names)
    assert words in "\n".join(d.advice)


@pytest.mark.parametrize(
    ("below", "above", "names"),
    [
        ({"nonlinearity": 0.11}, {"nonlinearity": 0.09}, []),
        ({"sizes": at(torch.ones(L), 3, 3.9)}, {"sizes": at(torch.ones(L), 3, 4.1)}, ["outlier"]),
        ({"skips": skips(3, 1.45)}, {"skips": skips(3, 1.55)}, ["double skip"]),
        ({"skips": skips(3, 0.55)}, {"skips": skips(3, 0.45)}, ["no skip"]),
        ({"coherence": exact(2.9)}, {"coherence": exact(3.1)}, ["aligned"]),
        ({"norms": line(1, 3, 9.9)}, {"norms": line(1, 3, 10.1)}, ["explosion"]),
        ({"norms": line(1, 1.9, 30)}, {"norms": line(1, 2.1, 30)}, ["explosion"]),
    ],
)
def test_thresholds_are_where_they_are_said_to_be(below, above, names):
    inside, outside = replace(HEALTHY, **below), replace(HEALTHY, **above)
    assert inside.findings == [] and [f.name for f in outside.findings] == names
    assert (inside.training, outside.training) == ("features", "lazy" if "nonlinearity" in above else "features")


def test_a_block_without_weights_does_not_hide_the_moves_of_the_others():
    d = replace(HEALTHY, moves=at(HEALTHY.moves, 2, nan))
    assert ("move of weights", "0.2") in [row[:2] for row in d.rows()]


def test_causes_come_before_effects():
    d = replace(HEALTHY, norms=line(1, 7, 99), twins=7)
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

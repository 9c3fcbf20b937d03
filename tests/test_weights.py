import pytest
import torch
from scipy import stats

from conftest import ALPHA
from deeplimits import resnet, statistics
from deeplimits.weights import ENTRIES, IID

LAWS = [IID(entry) for entry in ENTRIES]


@pytest.mark.parametrize("gain", [1.0, 2.0])
@pytest.mark.parametrize("entry", ENTRIES)
def test_entries_are_symmetric_with_the_declared_variance(entry, gain, generator):
    x = IID(entry, gain).matrix(50, 100, 16, generator=generator).flatten() * 4 / gain  # unit variance
    z = stats.norm.isf(ALPHA / 2)
    for moment, target in [(x, 0.0), (x**3, 0.0), (x**2, 1.0)]:
        estimate = statistics.mean(moment)
        assert abs(estimate.value - target) <= z * estimate.standard_error + 1e-12


@pytest.mark.parametrize(("entry", "kurtosis"), [("gaussian", 3.0), ("uniform", 1.8), ("rademacher", 1.0)])
def test_entries_have_the_law_that_they_are_called(entry, kurtosis, generator):
    x = IID(entry).matrix(400, 16, 16, generator=generator).flatten() * 4
    estimate = statistics.mean(x**4)
    assert abs(estimate.value - kurtosis) <= stats.norm.isf(ALPHA / 2) * estimate.standard_error + 1e-12


def test_layers_are_independent_and_reproducible():
    def first(n):
        return list(IID().layers(n, 5, 3, torch.Generator().manual_seed(1), matrices=2))

    four, two = first(4), first(2)
    assert all(layer.shape == (2, 5, 3, 3) for layer in four)
    assert all(torch.equal(a, b) for a, b in zip(four, two, strict=False))
    assert not torch.equal(four[0], four[1]) and not torch.equal(four[0][0], four[0][1])


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.entry)
def test_declared_critical_exponent(law, generator):
    """Eight times the depth: the displacement stays put at the critical exponent, and moves 1/4 off it."""

    def size(depth, beta):
        h0 = torch.ones(400, 1, 16, dtype=torch.float64)
        hL = resnet.forward(h0, law.layers(depth, 400, 16, generator), resnet.original(), depth**-beta)
        return float((hL - h0).norm(dim=-1).log().mean())

    beta = law.critical_exponent
    above, at, below = (size(160, b) - size(20, b) for b in (beta + 0.25, beta, beta - 0.25))
    assert above < -0.3 and abs(at) < 0.1 and below > 0.8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: IID("cauchy"), "entry must be one of 'gaussian', 'uniform', 'rademacher', got 'cauchy'"),
        (lambda g: IID(gain=float("inf")), "gain must be finite"),
        (lambda g: next(IID().layers(0, 1, 1, g)), "depth must be a positive integer"),
        (lambda g: next(IID().layers(1, 0, 1, g)), "networks must be a positive integer"),
        (lambda g: next(IID().layers(1, 1, -2, g)), "width must be a positive integer"),
        (lambda g: next(IID().layers(1, 1, 1, g, matrices=0)), "matrices must be a positive integer"),
    ],
)
def test_bad_arguments_are_refused(call, message, generator):
    with pytest.raises(ValueError, match=message):
        call(generator)

import numpy as np
import pytest
import torch
from scipy import stats

from conftest import ALPHA
from deeplimits import resnet, statistics
from deeplimits.weights import ENTRIES, IID, Fractional, Smooth, stationary

LAWS = [IID(entry) for entry in ENTRIES]
CORRELATED = [Fractional(H) for H in (0.05, 0.3, 0.5, 0.8, 0.97)] + [
    Smooth(length, kernel) for length in (0.1, 1.2) for kernel in ("gaussian", "derivative")
]


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


def covariance(law, n):
    lags = torch.arange(n)
    return law.correlation((lags[:, None] - lags).abs(), n)


@pytest.mark.parametrize("law", CORRELATED, ids=str)
def test_sequences_have_the_covariance_matrix_of_their_law(law, generator):
    """All entries of the sample covariance at once, each over its own standard error, by the union bound."""
    n, width, networks = 12, 4, 1500
    paths = law.layers(n, networks, width, generator).reshape(n, -1) * width**0.5
    sample, expected = paths @ paths.T / paths.shape[1], covariance(law, n)
    error = ((expected**2 + expected.diag().outer(expected.diag())) / paths.shape[1]).sqrt()
    assert float(((sample - expected) / error).abs().max()) < stats.norm.isf(ALPHA / 2 / (n * (n + 1) / 2))


@pytest.mark.parametrize("law", [Fractional(0.2), Fractional(0.9)], ids=str)
def test_whitened_sequences_are_white(law, generator):
    """L^-1 x has independent standard normal entries if L L^T is the exact covariance, at any length."""
    n = 300
    x = stationary(law.correlation(torch.arange(n + 1), n), 500, generator)
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance(law, n)), x, upper=False)
    p = stats.kstest(z.flatten().numpy(), "norm").pvalue
    square, lag = float((z**2).sum()), float((z[1:] * z[:-1]).sum()) / (z[1:].numel()) ** 0.5
    assert min(p, stats.chi2.cdf(square, z.numel()), stats.chi2.sf(square, z.numel())) > ALPHA / 2
    assert abs(lag) < stats.norm.isf(ALPHA / 2)


def test_smooth_sequences_are_smooth_down_to_rounding(generator):
    """Fourth differences are (1/(l L))^4 = 1e-8 times N(0, 105), and not of the order of the root of rounding."""
    x = Smooth(0.1).layers(1000, 1, 4, generator) * 2
    fourth = x.diff(dim=0, n=4)
    assert float(fourth.abs().max()) < 6 * 105**0.5 * 1e-8


def test_sequences_of_different_entries_are_independent(generator):
    x = stationary(Smooth().correlation(torch.arange(101), 100), 2000, generator)
    mixed = float((x[:, :1000] * x[:, 1000:]).mean(0).sum()) / 1000**0.5
    spread = float((covariance(Smooth(), 100) ** 2).mean() ** 0.5)
    assert abs(mixed) < stats.norm.isf(ALPHA / 2) * spread


@pytest.mark.parametrize("hurst", [0.1, 0.5, 0.9])
def test_the_sum_of_increments_is_fractional_brownian_motion(hurst):
    """The covariances of partial sums, from those of the increments, against E B_s B_t."""
    n = 40
    sums = torch.ones(n, n, dtype=torch.float64).tril()
    t = torch.arange(1.0, n + 1, dtype=torch.float64)
    expected = (t[:, None] ** (2 * hurst) + t ** (2 * hurst) - (t[:, None] - t).abs() ** (2 * hurst)) / 2
    torch.testing.assert_close(sums @ covariance(Fractional(hurst), n) @ sums.T, expected)


def test_normalised_increments_of_the_gaussian_process_are_the_derivative_kernel():
    n, lag = 10_000, torch.arange(0, 5000, 500)
    k = lambda m: Smooth(0.1).correlation(m, n)  # noqa: E731
    increments = (2 * k(lag) - k(lag - 1) - k(lag + 1)) / (2 - 2 * k(1))
    torch.testing.assert_close(increments, Smooth(0.1, "derivative").correlation(lag, n), atol=1e-5, rtol=0)


def test_correlations_by_hand():
    assert IID().correlation(torch.arange(-1, 3), 10).tolist() == [0, 1, 0, 0]
    assert Fractional(0.97).correlation(1, 64) == pytest.approx(2**0.94 - 1)
    assert Fractional(0.5).correlation(torch.arange(4), 10).tolist() == [1, 0, 0, 0]
    assert Smooth(0.2).correlation(20, 100) == pytest.approx(np.exp(-0.5))
    assert Smooth(0.2, "derivative").correlation(20, 100) == pytest.approx(0)


def test_declared_exponents_and_words():
    assert [Fractional(H).critical_exponent for H in (0.2, 0.5, 0.8)] == [0.5, 0.5, 0.8]
    assert Smooth().critical_exponent == 1.0 and "H = 0.8" in Fractional(0.8).regularity
    assert Smooth(0.2).regularity == "smooth in depth, gaussian kernel of length 0.2"


def test_stationary_shapes_dtype_and_reproducibility():
    correlation = Fractional(0.7).correlation(torch.arange(11), 10)

    def draw(**options):
        return stationary(correlation, 2500, torch.Generator().manual_seed(3), **options)

    assert draw().shape == (10, 2500) and draw(length=11).shape == (11, 2500)
    assert torch.equal(draw(length=11)[:10], draw()) and draw(dtype=torch.float32).dtype == torch.float32
    weights = Fractional(0.7).layers(6, 5, 3, torch.Generator().manual_seed(0), matrices=1)
    assert weights.shape == (6, 1, 5, 3, 3) and weights.is_contiguous()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: Fractional(1.0), "hurst must lie strictly between 0 and 1, got 1.0"),
        (lambda g: Fractional(0.0), "hurst must lie strictly between 0 and 1, got 0.0"),
        (lambda g: Smooth(-0.1), "length must be positive, got -0.1"),
        (lambda g: Smooth(kernel="rbf"), "kernel must be one of 'gaussian', 'derivative', got 'rbf'"),
        (lambda g: Fractional(0.5).layers(0, 1, 1, g), "depth must be a positive integer"),
        (lambda g: stationary(torch.ones(3), 1, g, length=4), "length must be at most 3 for covariances up to lag 2"),
        (lambda g: stationary(torch.tensor([1.0, 0.9, 0.0]), 1, g), "non-negative Fourier variances on a circle of 4"),
    ],
)
def test_bad_laws_are_refused(call, message, generator):
    with pytest.raises(ValueError, match=message):
        call(generator)


@pytest.mark.parametrize("law", [IID(), Fractional(0.7), Smooth(0.1)], ids=repr)
def test_a_law_stays_where_its_generator_and_its_lag_are(law, generator):
    lag = torch.arange(5)
    with torch.device("meta"):  # a device without numbers stands for a GPU
        there = law.correlation(lag, 10), law.correlation(2, 10), law.correlation(lag.numpy(), 10)
        drawn = next(iter(law.layers(4, 1, 3, generator)))
    assert torch.equal(there[0], there[2]) and float(there[1]) == float(there[0][2])
    assert bool(drawn.isfinite().all())

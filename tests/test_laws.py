from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from conftest import ALPHA
from deeplimits import diffusion, laws
from deeplimits.activations import affine, erfi_exponential, relu

CASES = {
    "affine": laws.affine(0.5, 0.8, 0.3, 1.0),
    "affine, below its centre": laws.affine(-2.0, 0.8, 0.3, 0.5),
    "affine, negative slope": laws.affine(0.5, -0.8, 0.3, 1.0),
    "Ornstein-Uhlenbeck": laws.ornstein_uhlenbeck(-0.7, 1.0, 0.5, 1.0),
    "Ornstein-Uhlenbeck, negative slope": laws.ornstein_uhlenbeck(0.4, -0.6, 0.2, 0.3),
    "mixture": laws.ReluMixture(2.0, 1.0),
}


@pytest.mark.parametrize("law", CASES.values(), ids=CASES)
def test_the_four_faces_of_a_law_agree(law, generator):
    a, b = law.ppf(0.2), law.ppf(0.8)
    cuts = [float(a), *([0.0] if a < 0 < b else []), float(b)]  # the density of the mixture jumps at 0
    mass = sum(integrate.quad(law.pdf, x, y)[0] for x, y in pairwise(cuts))
    assert mass == pytest.approx(0.6, abs=1e-6)
    for p in (0.01, 0.5, 0.9, 0.999):
        assert law.cdf(law.ppf(p)) == pytest.approx(p, abs=1e-9)
    draws = law.sample(50_000, generator)
    assert draws.dtype == torch.float64 and stats.kstest(draws, law.cdf).pvalue > ALPHA


def test_affine_against_the_lognormal_law_of_scipy():
    law, scipy = laws.affine(1.5, 1.0, 0.0, 0.7), stats.lognorm(0.7**0.5, scale=1.5 * np.exp(-0.35))
    x = np.array([-1.0, 0.0, 0.3, 1.0, 5.0])
    np.testing.assert_allclose(law.cdf(x), scipy.cdf(x), atol=1e-14)
    np.testing.assert_allclose(law.pdf(x), scipy.pdf(x), atol=1e-14)
    below = laws.affine(-1.5, 1.0, 0.0, 0.7)
    np.testing.assert_allclose(below.cdf(-x), 1 - scipy.cdf(x), atol=1e-14)


@pytest.mark.parametrize(
    ("phi", "law"),
    [
        (affine(0.8, 0.3), laws.affine(0.5, 0.8, 0.3, 1.0)),
        (affine(-0.8, 0.3), laws.affine(0.5, -0.8, 0.3, 1.0)),
        (relu, laws.affine(0.5, 1.0, 0.0, 1.0)),
        (erfi_exponential(1.0, 0.5), laws.ornstein_uhlenbeck(0.5, 1.0, 0.5, 1.0)),
        (erfi_exponential(-0.6, 0.2), laws.ornstein_uhlenbeck(0.5, -0.6, 0.2, 1.0)),
    ],
    ids=["affine", "affine, negative", "ReLU", "erfi", "erfi, negative"],
)
def test_deep_networks_have_these_laws(phi, law, generator):
    """L = 300: the distance is 0.001 plus chance; 10 000 networks see an error of 0.02."""
    *_, Y = diffusion.states(torch.full((10_000, 1, 1), 0.5, dtype=torch.float64), 300, phi, generator)
    assert stats.kstest(Y.flatten(), law.cdf).statistic < 0.02


def test_variance_of_the_exotic_law_is_infinite_from_log2_over_2a():
    """erfi(g)^2 grows like exp(2 g^2), integrable iff the variance of g is below 1/4."""
    a = np.pi / 4
    for time, finite in [(0.9 * np.log(2) / (2 * a), True), (1.1 * np.log(2) / (2 * a), False)]:
        sd = np.sqrt((1 - np.exp(-2 * a * time)) / 2)
        tail = [special.erfi(z * sd) ** 2 * stats.norm.pdf(z) for z in (10.0, 20.0)]
        assert bool(tail[1] < tail[0]) is finite


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: laws.affine(1.0, 0.0, 1.0, 1.0), "alpha must not be zero"),
        (lambda: laws.affine(-2.0, 1.0, 2.0, 1.0), "X stays there"),
        (lambda: laws.affine(1.0, 1.0, 0.0, 0.0), "time must be positive"),
        (lambda: laws.ornstein_uhlenbeck(1.0, 0.0, 0.0, 1.0), "alpha must not be zero"),
        (lambda: laws.ornstein_uhlenbeck(1.0, 1.0, 0.0, -1.0), "time must be positive"),
        (lambda: laws.ReluMixture(0.0, 1.0), "variance must be positive"),
        (lambda: laws.ReluMixture(1.0, 0.0), "time must be positive"),
        (lambda: erfi_exponential(0.0), "alpha must not be zero"),
    ],
)
def test_bad_input_names_the_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_laws_do_not_depend_on_the_default_device():
    law, x = CASES["Ornstein-Uhlenbeck"], np.array([-1.0, 0.2])
    with torch.device("meta"):  # a device without numbers stands for a GPU
        there = law.cdf(x), law.pdf(x), laws.ornstein_uhlenbeck(-0.7, 1.0, 0.5, 1.0).cdf(x)
    np.testing.assert_array_equal(there, (law.cdf(x), law.pdf(x), law.cdf(x)))

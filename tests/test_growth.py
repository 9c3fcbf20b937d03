import numpy as np
import pytest
import torch
from scipy import integrate, stats

from conftest import ALPHA
from deeplimits import diffusion, growth
from deeplimits.activations import identity, piecewise_linear, tanh


def test_claimed_means():
    values = [growth.linear_mean(n) for n in (1, 2, 3, 4, 10)]
    np.testing.assert_allclose(values, [-1 / 2, -1 / 6, -1 / 21, 1 / 60, 0.150244], atol=1e-6)


def test_variance_constant_is_the_double_integral():
    def covariance(s, u):
        return np.arcsin(np.exp(-abs(s - u) / 4)) / (2 * np.pi)

    share = 2 * integrate.dblquad(lambda s, u: covariance(s, u), 0, 1, 0, lambda u: u)[0] / 4
    cross = integrate.dblquad(
        lambda s, u: np.exp(-(u - s) / 4) * (1 - np.exp(-(u - s) / 2)) ** 0.5, 0, 1, 0, lambda u: u
    )
    assert growth.share_limit(1.0) == pytest.approx(share, abs=1e-7)
    assert growth.share_limit(1.0) == pytest.approx(0.0478, abs=5e-5)
    assert growth.variance_limit(1.0) == pytest.approx(1 + share + cross[0] / (2 * np.pi), abs=1e-7)
    assert growth.variance_limit(1.0) == pytest.approx(1.07344, abs=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 10])
@pytest.mark.parametrize("slopes", [(1.0, 0.5), (0.7, -1.2), (1.0, 0.0), (0.0, 2.0), (1.0, 1.0)])
def test_initial_rate_against_sampling(n, slopes, generator):
    phi = piecewise_linear(*slopes)
    X = torch.randn(50_000, n, dtype=torch.float64, generator=generator)
    X = X[phi.f(X).norm(dim=-1) > 0]
    drift, _ = diffusion.log_norm_terms(X, phi)
    error = stats.norm.isf(ALPHA / 2) * drift.std() / len(drift) ** 0.5
    assert abs(drift.mean() - growth.initial_rate(n, phi)) < error + 1e-12


def test_initial_rate_of_two_neurons_is_a_square():
    for b in (0.9, 0.3, -0.5):
        rate = growth.initial_rate(2, piecewise_linear(1.0, b))
        assert rate == pytest.approx(-((1 - abs(b)) ** 2) / 8, abs=1e-12)
    assert growth.initial_rate(5, identity) == pytest.approx(0.3)


@pytest.mark.parametrize(("n", "L"), [(1, 3), (3, 1), (10, 20)])
def test_identity_against_the_density_and_against_networks(n, L, generator):
    log_ratio = lambda x: np.log(x / (n * L)) / 2  # noqa: E731
    density = stats.ncx2(n, n * L).pdf
    points = [n * L * 1e-6, n * L * 0.1, n * L, n * L * 4]

    def expected(f):
        return integrate.quad(lambda x: f(log_ratio(x)) * density(x), 0, 40 * n * L, points=points, limit=500)[0]

    assert growth.identity_mean(n, L) == pytest.approx(L * expected(lambda y: y), abs=1e-6)
    if L == 1:
        real = expected(lambda y: np.cos(1.5 * y))
        assert growth.identity_characteristic(1.5, n, L).real == pytest.approx(real, abs=1e-6)
    drawn = diffusion.linear_log_norm(40_000, L, n, generator)
    for found, theory in (
        (drawn, growth.identity_mean(n, L)),
        ((1.5 * drawn).sin(), growth.identity_characteristic(1.5, n, L).imag),
    ):
        assert abs(found.mean() - theory) < stats.norm.isf(ALPHA / 2) * found.std() / len(found) ** 0.5


@pytest.mark.parametrize("n", [1, 2, 10])
def test_identity_tends_to_the_theorem(n):
    coarse, fine = growth.identity_mean(n, 400), growth.identity_mean(n, 800)
    assert 2 * fine - coarse == pytest.approx(0.5 - 1 / n, abs=2e-5)
    s = np.array([0.7, 2.0])
    limit = np.exp(1j * s * (0.5 - 1 / n) - s**2 / (2 * n))
    np.testing.assert_allclose(growth.identity_characteristic(s, n, 20_000), limit, atol=3e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: growth.variance_limit(0.0), "time must be positive"),
        (lambda: growth.share_limit(-1.0), "time must be positive"),
        (lambda: growth.initial_rate(3, tanh), "phi must be piecewise linear"),
        (lambda: growth.positive_share(0), "width must be a positive integer"),
    ],
)
def test_bad_input_names_the_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()

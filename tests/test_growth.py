import numpy as np
import pytest
import torch
from scipy import integrate, linalg, stats

from conftest import ALPHA
from deeplimits import diffusion, growth
from deeplimits.activations import identity, piecewise_linear, relu, tanh


def positive_start(networks, n, generator):
    Y = torch.randn(2 * networks, 1, n, dtype=torch.float64, generator=generator)
    return Y[(Y > 0).any(-1)[:, 0]][:networks]


def test_claimed_means():
    values = [growth.linear_mean(n) for n in (1, 2, 3, 4, 10)]
    np.testing.assert_allclose(values, [-1 / 2, -1 / 6, -1 / 21, 1 / 60, 0.150244], atol=1e-6)


def test_two_neurons_against_simulation_and_known_values(generator):
    p, mean = growth.two_neurons(np.array([0.25, 0.5, 1.0]))
    np.testing.assert_allclose(p, [0.66447, 0.66104, 0.65313], atol=1e-5)
    Y = positive_start(60_000, 2, generator)
    *path, _ = diffusion.states(Y, 100, relu, generator)
    drift = sum(diffusion.log_norm_terms(X[:, 0], relu)[0] for X in path) / 100
    assert abs(drift.mean() - mean[-1]) < stats.norm.isf(ALPHA / 2) * drift.std() / len(drift) ** 0.5 + 1e-4


def test_two_neurons_converges_and_starts_at_the_start():
    times = np.array([0.0, 1.0, 20.0])
    few, many = growth.two_neurons(times, 300), growth.two_neurons(times, 900)
    np.testing.assert_allclose(few, many, atol=2e-6)
    assert many[0][0] == pytest.approx(2 / 3, abs=1e-9) and many[1][0] == pytest.approx(0, abs=1e-12)


def crank_nicolson(cells, steps):
    """E log(||phi(X_1)||/||phi(X_0)||) for n = 2 by another scheme: implicit steps of du/dt = s^2/4 u'' in time."""
    theta = np.linspace(-np.pi / 2, np.pi, 3 * cells + 1)
    r = (np.cos(theta).clip(0) ** 2 + np.sin(theta).clip(0) ** 2) / 4 / steps / (theta[1] - theta[0]) ** 2
    u = np.full(theta.size, 0.5)
    u[cells + 1 : 2 * cells] = 1
    u[[cells, 2 * cells]] = 0.75  # a jump of the share of positive coordinates

    def step(u, r, implicit):
        bands = np.zeros((3, u.size))
        bands[0, 2:], bands[1], bands[2, :-2] = -implicit * r[1:-1], 1, -implicit * r[1:-1]
        bands[1, 1:-1] += 2 * implicit * r[1:-1]
        change = np.zeros(u.size)
        change[1:-1] = (1 - implicit) * r[1:-1] * (u[2:] - 2 * u[1:-1] + u[:-2])
        return linalg.solve_banded((1, 1), bands, u + change)

    shares = [np.trapezoid(u, theta)]
    for k in range(steps):
        if k == 0:  # four implicit Euler steps first: the start is not smooth
            for _ in range(4):
                u = step(u, r / 4, 1.0)
        else:
            u = step(u, r, 0.5)
        shares.append(np.trapezoid(u, theta))
    return np.trapezoid(np.array(shares) / (1.5 * np.pi), dx=1 / steps) / 2 - 1 / 2


def test_two_neurons_against_another_scheme():
    """-0.169641: the number that the chapter on the growth of the norm compares with."""
    assert crank_nicolson(600, 2000) == pytest.approx(-0.169641, abs=1e-6)
    assert growth.two_neurons(np.array([1.0]))[1][0] == pytest.approx(-0.169641, abs=1e-6)


def test_bend_of_two_neurons():
    """p_s = p_0 - C s^(3/2) + O(s^(5/2)); extrapolated from s and s/4."""
    s = np.array([0.02, 0.005])
    C = (2 / 3 - growth.two_neurons(s, 1500)[0]) / s**1.5
    assert (4 * C[1] - C[0]) / 3 == pytest.approx(growth.initial_bend(2), rel=2e-3)
    assert growth.initial_bend(1) == 0


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

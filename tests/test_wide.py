import numpy as np
import pytest
import torch
from scipy import integrate, stats

from conftest import ALPHA
from deeplimits import growth, wide
from deeplimits.activations import relu
from deeplimits.statistics import controlled, variance

Z = stats.norm.isf(ALPHA / 2)


def gaussian(f, rho):
    """E f(Z, Z') by quadrature over the quadrant where both are positive; the rest of f is zero."""
    density = stats.multivariate_normal([0, 0], [[1, rho], [rho, 1]]).pdf
    return integrate.dblquad(lambda x, y: f(x, y) * density([x, y]), 0, 9, 0, 9, epsabs=1e-8)[0]


@pytest.mark.parametrize("rho", [0.3, 0.9])
def test_square_covariance_is_the_integral(rho):
    assert wide.square_covariance(rho) == pytest.approx(gaussian(lambda x, y: x**2 * y**2, rho) - 0.25, abs=1e-6)
    assert wide.square_covariance(1.0) == pytest.approx(1.25) and wide.square_covariance(0.0) == pytest.approx(0)


def test_log_norm_variance_against_the_recursion_of_the_noise():
    """s_l = g_l + h/2 (s_0 + ... + s_{l-1}) as it stands, with covariances by quadrature and T = 2."""
    L, h = 4, 0.5
    v = (1 + h / 2) ** np.arange(L + 1)
    by_distance = [gaussian(lambda x, y: x**2 * y**2, (1 + h / 2) ** (-d / 2)) - 0.25 for d in range(1, L + 1)]
    layer = np.arange(L + 1)
    C = np.array([1.25, *by_distance])[abs(layer[:, None] - layer)] * np.outer(v, v)
    solve = np.linalg.inv(np.eye(L + 1) - h / 2 * np.tri(L + 1, k=-1))
    ratio = solve[-1] / v[-1] - np.eye(L + 1)[0]
    assert wide.log_norm_variance(L, 2.0) == pytest.approx(ratio @ C @ ratio, abs=1e-6)


def test_log_norm_variance_tends_to_its_limit_like_one_over_depth():
    values = [wide.log_norm_variance(L) for L in (25, 50, 100, 200, 800)]
    np.testing.assert_allclose(values, [1.04135, 1.05718, 1.06526, 1.06934, 1.07241], atol=6e-6)
    assert 2 * values[3] - values[2] == pytest.approx(growth.variance_limit(1.0), abs=5e-5)
    assert 800 * (growth.variance_limit(1.0) - values[4]) == pytest.approx(0.82, abs=0.005)
    assert 2 * wide.share_variance(200) - wide.share_variance(100) == pytest.approx(growth.share_limit(1.0), abs=1e-5)


def networks(n, count, L, generator):
    """Log-norm ratio, average drift and mean square of networks, and of their twins of infinite width what is known."""
    Y = torch.randn(count, n, dtype=torch.float64, generator=generator)
    twin, v, h, first = Y.clone(), 1.0, 1 / L, relu.f(Y).square().mean(1)
    past, share, noise = torch.zeros(count), torch.zeros(count), torch.zeros(count)
    for _ in range(L):
        dB = torch.randn(count, n, dtype=torch.float64, generator=generator) * h**0.5
        past = past + h / (2 + h) * (relu.f(twin).square().mean(1) / v - 0.5)
        share = share + h * (Y > 0).double().mean(1) / 2
        noise = noise + (relu.f(Y) * dB).sum(1) / relu.f(Y).norm(dim=1)
        Y, twin, v = Y + relu.f(Y).norm(dim=1, keepdim=True) * n**-0.5 * dB, twin + (v / 2) ** 0.5 * dB, v * (1 + h / 2)
    last = relu.f(twin).square().mean(1) / v - 0.5
    controls = torch.stack([twin.square().mean(1) / v - 1, past + last, first - 0.5], 1)
    return (relu.f(Y).square().mean(1) / first).log() / 2, share, Y.square().mean(1), controls, noise


def test_means_to_order_one_over_width(generator):
    """Controlled by the twins, 20 000 networks tell the term of order 1/n from half of it: 5 and 12 standard errors."""
    n, L = 20, 10
    logs, _, squares, controls, _ = networks(n, 20_000, L, generator)
    for x, target, slack in ((squares, wide.mean_square(n, L), 1e-3), (logs, wide.log_norm_mean(n, L), 6e-4)):
        found = controlled(x, controls)
        assert abs(found.value - target) < Z * found.standard_error + slack
        infinite = (1 + 0.5 / L) ** L if x is squares else L * np.log1p(0.5 / L) / 2
        assert abs(found.value - infinite) > Z * found.standard_error


def test_variances_against_networks(generator):
    """At width 100 and depth 10 the variance is 6 standard errors from that of infinite depth."""
    n, L = 100, 10
    logs, share, _, _, noise = networks(n, 20_000, L, generator)
    x = n**0.5 * (logs - logs.mean())
    found = controlled(x**2, noise**2, 1.0)  # the noise is exactly N(0, 1)
    assert abs(found.value - wide.log_norm_variance(L)) < Z * found.standard_error + 2 / n
    assert abs(found.value - growth.variance_limit(1.0)) > Z * found.standard_error
    low, high = variance(n**0.5 * share).interval(Z)
    assert low < wide.share_variance(L) < high


def test_twin_distance_against_networks(generator):
    n, L, h = 200, 5, 0.2
    Y = torch.randn(3_000, n, dtype=torch.float64, generator=generator)
    twin, v = Y.clone(), 1.0
    for _ in range(L):
        dB = torch.randn(3_000, n, dtype=torch.float64, generator=generator) * h**0.5
        Y, twin, v = Y + relu.f(Y).norm(dim=1, keepdim=True) * n**-0.5 * dB, twin + (v / 2) ** 0.5 * dB, v * (1 + h / 2)
    gap = n * (Y - twin).square().mean(1)
    error = Z * float(gap.std()) / 3_000**0.5
    assert abs(float(gap.mean()) - wide.twin_distance(L)) < error + 3 / n and error < 0.1 * wide.twin_distance(L)


@pytest.mark.parametrize("call", [wide.log_norm_variance, wide.share_variance, wide.twin_distance])
def test_bad_input_names_the_cure(call):
    with pytest.raises(ValueError, match="time must be positive"):
        call(10, 0.0)
    with pytest.raises(ValueError, match="depth must be a positive integer"):
        call(0)

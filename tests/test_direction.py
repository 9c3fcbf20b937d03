import numpy as np
import pytest
import torch
from scipy import linalg, sparse, stats

from conftest import ALPHA
from deeplimits import diffusion, direction, growth
from deeplimits.activations import identity, piecewise_linear, relu, tanh


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
    assert crank_nicolson(600, 2000) == pytest.approx(-0.169641, abs=1e-6)
    assert direction.mean_growth(2, relu, [1.0])[0] == pytest.approx(-0.169641, abs=1e-6)


def test_two_neurons_one_positive_or_two():
    times = [0.0, 0.5, 3.0]
    one, two = (direction.positive_share(2, times, count) for count in (1, 2))
    np.testing.assert_allclose(one + two, 1, atol=1e-9)
    np.testing.assert_allclose(direction.positive_share(2, times), one / 2 + two, atol=1e-9)
    assert one[0] == pytest.approx(2 / 3, abs=1e-9)


@pytest.mark.parametrize("n", [3, 4])
def test_against_networks_without_ito(n, generator):
    """Log of the norms' ratio less the noise, at depth 100: tells the mean from the linear formula, 0.002 away."""
    X = torch.randn(30_000, 1, n, dtype=torch.float64, generator=generator)
    X = X[(X > 0).any(-1)[:, 0]]
    dB = diffusion.brownian(len(X), 100, n, generator)
    noise, first, start = 0, relu.f(X).norm(dim=-1), (X > 0).double().mean(-1)[:, 0]
    for Y, z in zip(diffusion.driven(X, dB, relu), dB, strict=False):
        noise = noise + (relu.f(Y) * z).sum(-1) / relu.f(Y).norm(dim=-1) / n**0.5
        X = Y + relu.f(Y).norm(dim=-1, keepdim=True) * n**-0.5 * z
    x = ((relu.f(X).norm(dim=-1) / first).log() - noise)[:, 0]
    slope = ((x - x.mean()) * start).mean() / start.var()
    x = x - slope * (start - growth.positive_share(n))
    error = stats.norm.isf(ALPHA / 2) * x.std() / len(x) ** 0.5 + 5e-4  # and the depth
    assert abs(x.mean() - direction.mean_growth(n, relu, [1.0], 24 if n == 3 else 12)[0]) < error < 0.0025


@pytest.mark.parametrize("n", [2, 3, 4])
def test_where_the_answer_is_known(n):
    times, parts = np.array([0.5, 2.0]), 12
    for phi in (identity, piecewise_linear(1.0, -1.0)):
        np.testing.assert_allclose(direction.mean_growth(n, phi, times, parts), (0.5 - 1 / n) * times, atol=1e-9)
    phi = piecewise_linear(1.0, 0.5)
    rate = direction.mean_growth(n, phi, [1e-3], parts)[0] / 1e-3
    assert rate == pytest.approx(growth.initial_rate(n, phi), rel=2e-2 if n == 2 else 5e-3)
    mirror = direction.mean_growth(n, piecewise_linear(0.0, 1.0), times, parts)
    np.testing.assert_allclose(mirror, direction.mean_growth(n, relu, times, parts), rtol=1e-9)
    doubled = direction.mean_growth(n, piecewise_linear(2.0, 1.0), times / 4, parts)
    np.testing.assert_allclose(doubled, direction.mean_growth(n, phi, times, parts), rtol=1e-6)


def test_other_slopes_at_two_neurons():
    """-0.000949, -0.008953, -0.026248: values of another solver, in the angle."""
    found = [direction.mean_growth(2, piecewise_linear(1.0, b), [1.0])[0] for b in (0.9, 0.7, 0.5)]
    np.testing.assert_allclose(found, [-0.000949, -0.008953, -0.026248], atol=1e-6)


@pytest.mark.parametrize(("n", "s", "parts", "error"), [(2, 0.004, 400, 4e-3), (3, 0.02, 96, 1e-2)])
def test_bend(n, s, parts, error):
    """p_s = p_0 - C s^(3/2) + O(s^(5/2)) with C as in ``growth.initial_bend``, extrapolated from s and 2 s."""
    C = (growth.positive_share(n) - direction.positive_share(n, [s, 2 * s], parts=parts)) / np.array([s, 2 * s]) ** 1.5
    assert 2 * C[0] - C[1] == pytest.approx(growth.initial_bend(n), rel=error)


def test_two_meshes_agree_and_long_times():
    few, many = (direction.mean_growth(3, relu, [1.0, 20.0], parts) for parts in (24, 48))
    assert few[0] == pytest.approx(many[0], abs=1e-5) and few[1] == pytest.approx(many[1], abs=2e-3)
    assert direction.mean_growth(2, relu, [20.0])[0] == pytest.approx(-4.276291, abs=1e-4)


@pytest.mark.parametrize(("n", "area"), [(2, 2 * np.pi), (3, 4 * np.pi), (4, 2 * np.pi**2)])
def test_sphere(n, area):
    x, _, volumes, stiffness = direction._sphere(n, 12)
    assert n * volumes.sum() == pytest.approx(area, rel=0.03)
    np.testing.assert_allclose(stiffness @ np.ones(len(x)), 0, atol=1e-12)
    energy = x[:, 0] @ stiffness @ x[:, 0]  # a linear function is an eigenfunction, -Laplacian x_1 = (n - 1) x_1
    assert energy == pytest.approx((n - 1) * area / n, rel=0.02)


def test_lanczos_against_the_exponential():
    rng = np.random.default_rng(1)
    B, right, left = rng.normal(size=(30, 30)), rng.normal(size=30), rng.normal(size=30)
    A = B @ B.T / 30
    values, weights = direction._lanczos(sparse.csr_array(A), right, left)
    assert np.exp(-values) @ weights == pytest.approx(left @ linalg.expm(-A) @ right, rel=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: direction.mean_growth(5, relu, [1.0]), "width must be 2, 3 or 4"),
        (lambda: direction.mean_growth(3, tanh, [1.0]), "phi must be piecewise linear"),
        (lambda: direction.positive_share(3, [1.0], parts=2), "parts must be at least 4"),
    ],
)
def test_bad_input_names_the_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()

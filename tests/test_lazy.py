"""The kernel against quadrature, closed forms and random features; its ODE against SciPy and against particles."""

import numpy as np
import pytest
import torch
from scipy import integrate

from deeplimits import data, lazy, mean_ode
from deeplimits.activations import identity, relu, tanh
from deeplimits.lazy import Kernel

D, N = 3, 4


@pytest.fixture
def examples(generator):
    return data.regression(N, D, generator)


def by_quadrature(h, other, sigma_u, sigma_v, eta_u, eta_v):
    """K for tanh, one pair, by the definition: a double integral over two standard normals."""
    q, p, c = (float(a @ b) * sigma_u**2 / D**2 for a, b in ((h, h), (other, other), (h, other)))
    x, w = np.polynomial.hermite_e.hermegauss(120)
    weight = np.outer(w, w) / (2 * np.pi)
    g = np.sqrt(q) * x[:, None]
    g2 = c / np.sqrt(q) * x[:, None] + np.sqrt(max(p - c * c / q, 0.0)) * x[None, :]
    value = (weight * np.tanh(g) * np.tanh(g2)).sum()
    slope = (weight / np.cosh(g) ** 2 / np.cosh(g2) ** 2).sum()
    return eta_v * value + eta_u * sigma_v**2 * slope * float(h @ other) / D**2


def test_kernel_against_quadrature(generator):
    constants = (1.2, 0.7, 2.0, 3.0)
    h = torch.randn(5, D, dtype=torch.float64, generator=generator)
    other = torch.cat([h[:2], -h[2:3], 2 * h[3:4]])  # also correlation 1 and -1
    expected = [[by_quadrature(a, b, *constants) for b in other] for a in h]
    np.testing.assert_allclose(Kernel(*constants)(h, other), expected, rtol=0, atol=1e-6)


def test_kernel_of_homogeneous_activations(generator):
    h = torch.randn(5, D, dtype=torch.float64, generator=generator)
    inner = h @ h.mT / D**2
    torch.testing.assert_close(Kernel(1.5, 0.5, 2.0, 3.0, identity)(h, h), (3 * 1.5**2 + 2 * 0.5**2) * inner)
    norms = h.norm(dim=1)
    angle = torch.arccos((h @ h.mT / norms[:, None] / norms).clamp(-1, 1))
    size = 1.5**2 * norms[:, None] * norms / D**2
    value = size * (torch.sin(angle) + (torch.pi - angle) * torch.cos(angle)) / (2 * torch.pi)
    slope = (torch.pi - angle) / (2 * torch.pi)
    # the coefficients of a kink fall slowly: 0.2/n^(5/2) for the value, 0.2/n^(3/2) for the slope
    torch.testing.assert_close(Kernel(1.5, 0.5, 0.0, 1.0, relu)(h, h), value, rtol=0, atol=2e-3)
    torch.testing.assert_close(Kernel(1.5, 1.0, 1.0, 0.0, relu)(h, h), slope * inner, rtol=0, atol=0.07)


def test_kernel_against_random_features(generator):
    """E[D_z phi(h, Z) eta D_z phi(h', Z)^T] over 100 000 units with Jacobians from autograd, entry by entry."""
    h, other = torch.randn(2, D, dtype=torch.float64, generator=generator).unbind(0)
    u, v = 1.3 * torch.randn(2, 100_000, D, dtype=torch.float64, generator=generator)
    v = v / 1.3 * 0.6
    a, c = (
        torch.func.vmap(torch.func.jacrev(lambda z, x=x: z[D:] * torch.tanh(z[:D] @ x / D)))(torch.cat([u, v], 1))
        for x in (h, other)
    )
    rates = torch.tensor([2.0] * D + [3.0] * D, dtype=torch.float64)
    products = (a * rates) @ c.mT
    expected = float(Kernel(1.3, 0.6, 2.0, 3.0)(h[None], other[None])) * torch.eye(D, dtype=torch.float64)
    error = products.std(0) / 100_000**0.5
    assert bool(((products.mean(0) - expected).abs() < 5 * error + 1e-12).all())


def test_first_step_against_scipy(examples):
    """At step 0 h = x and b = (x - y)/(ND) at every depth, so h_1 solves an ODE with known right-hand side."""
    x, y = examples
    K, b = Kernel(D**0.5, D**0.5, D, D), (x - y) / (N * D)
    found = lazy.solve(x, y, 1, nodes=64)

    def field(s, h):
        return (-K(torch.as_tensor(h.reshape(N, D)), x) @ b).numpy().ravel()

    truth = integrate.solve_ivp(field, (0, 1), x.numpy().ravel(), rtol=1e-7, atol=1e-9).y[:, -1].reshape(N, D)
    np.testing.assert_allclose(found.output[1], truth, rtol=0, atol=2e-6)
    np.testing.assert_allclose(lazy.solve(x, y, 1, nodes=8).output[1], truth, rtol=0, atol=2e-3)
    assert torch.equal(found.output[0], x) and float(found.error[1]) < 1e-6


def test_every_node_is_of_second_order_against_scipy(examples):
    """h_1 and b_1 at all depths: the right-hand side is known after one step, its Jacobian by automatic derivatives."""
    x, y = examples
    K, e = Kernel(D**0.5, D**0.5, D, D), (x - y) / (N * D)

    def field(h):
        return -K(h, x) @ e

    def shaped(h):
        return torch.as_tensor(h.reshape(N, D).copy())

    settings = {"dense_output": True, "rtol": 1e-8, "atol": 1e-10}
    up = integrate.solve_ivp(lambda s, h: field(shaped(h)).numpy().ravel(), (0, 1), x.numpy().ravel(), **settings).sol

    def adjoint(s, b):
        return -torch.func.vjp(field, shaped(up(s)))[1](shaped(b))[0].numpy().ravel()

    down = integrate.solve_ivp(adjoint, (1, 0), (up(1.0) - y.numpy().ravel()) / (N * D), **settings).sol

    def worst(nodes):
        found = lazy.solve(x, y, 1, nodes=nodes)
        pairs = ((found.h[1], up), (found.b[1], down))
        return np.array([np.abs(z.numpy() - w(found.s).T.reshape(z.shape)).max() for z, w in pairs])

    errors = [worst(nodes) for nodes in (8, 16, 32)]
    np.testing.assert_allclose(np.log2(errors[0] / errors[1]), 2, atol=0.3)
    np.testing.assert_allclose(np.log2(errors[1] / errors[2]), 2, atol=0.2)


def test_gradient_is_that_of_the_flow(examples):
    """b_1(0) against finite differences of the loss after one step in the input, the past held fixed."""
    x, y = examples
    K, b = Kernel(D**0.5, D**0.5, D, D), (x - y) / (N * D)

    def loss(start):
        path = integrate.solve_ivp(
            lambda s, h: (-K(torch.as_tensor(h.reshape(N, D)), x) @ b).numpy().ravel(),
            (0, 1), start.ravel(), rtol=1e-8, atol=1e-10,
        )  # fmt: skip
        return ((path.y[:, -1].reshape(N, D) - y.numpy()) ** 2).mean() / 2

    found, eps = lazy.solve(x, y, 1, nodes=64).b[1, 0], 1e-3
    for i, d in ((0, 0), (2, 1)):
        step = np.zeros((N, D))
        step[i, d] = eps
        slope = (loss(x.numpy() + step) - loss(x.numpy() - step)) / (2 * eps)
        assert float(found[i, d]) == pytest.approx(slope, abs=1e-4)


def test_particles_with_a_large_alpha_tend_to_it(generator, examples):
    limit = lazy.solve(*examples, 5, nodes=16)
    particles = mean_ode.solve(*examples, 5, generator, nodes=16, particles=128, alpha=64.0)
    gap = (particles.output - limit.output)[1:].square().mean((1, 2)).sqrt()
    assert bool((gap < 4 * particles.error[1:]).all()) and float(particles.error.max()) < 0.01
    far = mean_ode.solve(*examples, 5, generator, nodes=16, particles=128)
    assert float((far.output - limit.output)[-1].norm()) > 0.05


def test_other_scales_and_rates_reach_the_kernel(generator, examples):
    settings = {"eta": 0.5, "eta_u": 1.0, "eta_v": 4.0}
    limit = lazy.solve(*examples, 4, nodes=16, sigma_u=1.0, sigma_v=2.5, **settings)
    law = mean_ode.normal(D, 1.0, 2.5)
    particles = mean_ode.solve(*examples, 4, generator, nodes=16, particles=512, alpha=64.0, law=law, **settings)
    gap = (particles.output - limit.output)[1:].square().mean((1, 2)).sqrt()
    assert bool((gap < 4 * particles.error[1:]).all())
    assert (limit.eta_u, limit.eta_v, limit.phi) == (0.0, 0.0, tanh)


def test_its_error_is_that_in_depth(examples):
    """Without particles the error bar is the last correction in depth; it must cover a solution on a finer grid."""
    coarse, fine = (lazy.solve(*examples, 6, nodes=n) for n in (16, 64))
    gap = (coarse.output - fine.output).square().mean((1, 2)).sqrt()
    assert torch.equal(coarse.error, coarse.depth)
    assert bool((gap[1:] < 2 * coarse.error[1:]).all()) and float(coarse.error.max()) < 1e-3


@pytest.mark.parametrize("fill", ["0", "inf"])
def test_no_step_waits_for_a_number(counting, monkeypatch, fill):
    """On the GPU nothing is waited for; on the CPU, where small work runs, x and y come once and the answer returns."""
    monkeypatch.setenv("DEEPLIMITS_FILL", fill)
    x, y = data.regression(4, 3, torch.Generator("cuda").manual_seed(1))
    lazy.solve(x, y, 1, nodes=2)  # the nodes are copied once
    counts = []
    for steps in (2, 8):
        with counting() as count:
            solution = lazy.solve(x, y, steps, nodes=2)
        counts.append((count.waits, count.uploads))
    assert counts[0] == counts[1] and solution.h.device == x.device
    assert counts[0][0] == (0 if fill == "0" else 2)


def test_both_places_give_the_same_numbers(monkeypatch, counting):
    x, y = data.regression(4, 3, torch.Generator("cuda").manual_seed(1))
    found = []
    for fill in ("0", "inf"):
        monkeypatch.setenv("DEEPLIMITS_FILL", fill)
        found.append(lazy.solve(x, y, 5, nodes=2).output)
    torch.testing.assert_close(*found, atol=1e-12, rtol=0)

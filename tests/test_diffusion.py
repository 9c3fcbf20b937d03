from math import exp, log

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from conftest import ALPHA
from deeplimits import diffusion, resnet
from deeplimits.activations import affine, erfi_exponential, gelu, identity, piecewise_linear, relu, swish, tanh
from deeplimits.weights import IID

F64 = torch.float64


def normal(generator, *shape):
    return torch.randn(*shape, dtype=F64, generator=generator)


def last(iterator):
    return list(iterator)[-1]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_increments_have_the_gram_matrix_as_covariance(k, generator):
    features, networks, n = normal(generator, 1, k, 5), 100_000, 5
    x = diffusion.increment(features.expand(networks, -1, -1), generator)
    G = (features @ features.mT)[0] / n
    for i in range(k):
        for j in range(i, k):
            products = (x[:, i] * x[:, j]).mean(-1)
            error = products.std() / networks**0.5
            assert abs(products.mean() - G[i, j]) < stats.norm.isf(ALPHA / 2) * error
    between = (x[:, 0, 0] * x[:, -1, 1]).mean() / (x[:, 0, 0] * x[:, -1, 1]).std() * networks**0.5
    assert abs(between) < stats.norm.isf(ALPHA / 2)


@pytest.mark.parametrize("inputs", [1, 2, 3])
def test_states_have_the_law_of_networks_with_matrices(inputs, generator):
    networks, depth, n = 20_000, 6, 3
    Y = normal(generator, 1, inputs, n).expand(networks, -1, -1)
    fast = last(diffusion.states(Y, depth, relu, generator))
    layers = IID().layers(depth, networks, n, generator, matrices=1)
    slow = resnet.forward(Y, layers, resnet.simple(relu), depth**-0.5)
    for number in (lambda y: y[:, 0, 0], lambda y: y[:, 0].norm(dim=-1), lambda y: (y[:, 0] * y[:, -1]).sum(-1)):
        assert stats.ks_2samp(number(fast), number(slow)).pvalue > ALPHA


def test_tangents_have_the_law_of_networks_with_matrices(generator):
    networks, depth, n = 20_000, 6, 3
    Y, q = normal(generator, 2, 1, 1, n).expand(-1, networks, -1, -1)
    _, fast = last(diffusion.tangents(Y, q, depth, tanh, generator))
    layers = list(IID().layers(depth, networks, n, generator, matrices=1))
    path = list(resnet.states(Y, layers, resnet.simple(tanh), depth**-0.5))
    slow = resnet.tangent(q, path, layers, resnet.simple(tanh), depth**-0.5)
    for number in (lambda x: x[:, 0, 0], lambda x: x[:, 0].norm(dim=-1)):
        assert stats.ks_2samp(number(fast), number(slow)).pvalue > ALPHA


@pytest.mark.parametrize("inputs", [2, 3])
def test_singular_gram_matrices_are_no_problem(inputs, generator):
    same = normal(generator, 50, 1, 4).repeat(1, inputs, 1)
    path = torch.stack(list(diffusion.states(same, 20, tanh, generator)))
    assert path.isfinite().all()
    torch.testing.assert_close(path, path[:, :, :1].expand_as(path), atol=1e-6, rtol=0)
    dead = -normal(generator, 50, inputs, 4).abs()
    dead[:, -1] *= -1  # one living input beside dead ones, which stay where they are
    end = last(diffusion.states(dead, 20, relu, generator))
    torch.testing.assert_close(end[:, :-1], dead[:, :-1], atol=1e-12, rtol=0)
    assert end.isfinite().all() and not torch.equal(end[:, -1], dead[:, -1])


def test_time_scales_the_step(generator):
    """E Y_T^2 = (1 + T/L)^L Y_0^2 for linear networks."""
    Y = torch.ones(100_000, 1, 2, dtype=F64)
    squares = last(diffusion.states(Y, 10, identity, generator, time=0.5)).square().mean((1, 2))
    assert abs(squares.mean() - 1.05**10) < stats.norm.isf(ALPHA / 2) * squares.std() / len(squares) ** 0.5


def test_brownian_increments_and_their_sums(generator):
    dB = diffusion.brownian(20_000, 8, 2, generator, time=2.0)
    assert dB.shape == (8, 20_000, 1, 2)
    assert stats.kstest(dB.flatten(), stats.norm(scale=0.5).cdf).pvalue > ALPHA
    assert stats.kstest(dB.sum(0).flatten(), stats.norm(scale=2**0.5).cdf).pvalue > ALPHA
    coarse = diffusion.coarsen(dB, 2)
    torch.testing.assert_close(coarse[1], dB[4:].sum(0))


def test_driven_is_the_same_scheme(generator):
    X, dB = normal(generator, 3, 1, 4), diffusion.brownian(3, 5, 4, generator)
    by_hand = X.clone()
    for step in dB:
        by_hand = by_hand + torch.relu(by_hand).pow(2).sum(-1, keepdim=True).sqrt() / 2 * step
    path = list(diffusion.driven(X, dB, relu))
    assert len(path) == 6 and torch.equal(path[0], X)
    torch.testing.assert_close(path[-1], by_hand)


@pytest.mark.parametrize("phi", [relu, tanh, gelu, swish, piecewise_linear(1.0, 0.3)], ids=lambda phi: phi.name)
def test_log_norm_terms_against_autograd(phi):
    """Ito: drift = tr(Hessian of log||phi||) ||phi||^2/(2n), variance = |gradient|^2 ||phi||^2/n."""
    X = torch.tensor([0.7, -0.4, 1.3], dtype=F64)

    def f(x):
        return phi.f(x).norm().log()

    gradient, hessian = torch.func.grad(f)(X), torch.func.hessian(f)(X)
    square = phi.f(X).square().sum()
    drift, variance = diffusion.log_norm_terms(X, phi)
    torch.testing.assert_close(drift, hessian.trace() * square / 6)
    torch.testing.assert_close(variance, gradient.square().sum() * square / 3)


@pytest.mark.parametrize("n", [1, 4])
def test_linear_log_norm_has_the_law_of_the_network(n, generator):
    fast = diffusion.linear_log_norm(20_000, 10, n, generator)
    Y = torch.ones(20_000, 1, n, dtype=F64)
    slow = last(diffusion.states(Y, 10, identity, generator)).norm(dim=-1).log()[:, 0] - log(n) / 2
    assert stats.ks_2samp(fast, slow).pvalue > ALPHA


@pytest.mark.parametrize("depth", [1, 5])
def test_collapse_at_width_one_is_exact(depth, generator):
    estimate = diffusion.collapse(50, depth, 1, generator)
    exact = 1 - (1 - stats.norm.cdf(-(depth**0.5))) ** depth
    torch.testing.assert_close(estimate, torch.full_like(estimate, exact))


def test_collapse_against_counting_and_against_the_bound(generator):
    n, depth, networks = 2, 3, 200_000
    Y = normal(generator, networks, 1, n)
    Y = Y[(Y > 0).any(-1)[:, 0]][:, None][:, 0]
    dead = (last(diffusion.states(Y, depth, relu, generator)).amax((1, 2)) <= 0).to(F64)
    estimate = diffusion.collapse(20_000, depth, n, generator)
    error = (dead.var() / len(dead) + estimate.var() / len(estimate)) ** 0.5
    assert abs(dead.mean() - estimate.mean()) < stats.norm.isf(ALPHA / 2) * error
    rare = diffusion.collapse(2_000, 50, 3, generator)
    assert 0 < rare.mean() < 25 * exp(-75) and rare.std() / 2_000**0.5 < 0.05 * rare.mean()


def test_collapse_of_one_layer_by_quadrature(generator):
    """n = 2, L = 1: the chance depends on the angle of Y_0 alone, uniform on three quarters of the circle."""

    def dies(angle):
        y = np.array([np.cos(angle), np.sin(angle)])
        return stats.norm.cdf(-y * 2**0.5 / np.linalg.norm(np.maximum(y, 0))).prod()

    exact = sum(integrate.quad(dies, a, a + np.pi / 2)[0] for a in (-np.pi / 2, 0, np.pi / 2)) / (1.5 * np.pi)
    estimate = diffusion.collapse(100_000, 1, 2, generator)
    assert abs(estimate.mean() - exact) < stats.norm.isf(ALPHA / 2) * estimate.std() / len(estimate) ** 0.5


def test_networks_that_draw_dead_layers_are_as_deep_as_the_others(generator):
    """n = 1, L = 2: one draw in twelve is dead, and each layer counts 1 - Phi(sqrt(2)), however many draws it took."""
    estimate, chance = diffusion.collapse(2_000, 2, 1, generator), stats.norm.cdf(-(2**0.5))
    torch.testing.assert_close(estimate, torch.full_like(estimate, 1 - (1 - chance) ** 2))


def test_no_layer_waits_for_a_number(counting):
    generator = torch.Generator("cuda").manual_seed(1)
    Y = torch.ones(50, 2, 4, device="cuda")
    with counting() as count:
        for phi in (relu, erfi_exponential()):
            last(diffusion.states(Y, 100, phi, generator))
        last(diffusion.tangents(Y[:, :1], Y[:, :1], 100, relu, generator))
        diffusion.linear_log_norm(50, 100, 4, generator)
    assert count.waits == 0 and count.uploads <= 1  # the table of erfi^-1, if nobody has asked for it before
    with counting() as count:
        diffusion.collapse(50, 100, 4, generator)
    assert count.waits < 10 and count.uploads == 0  # for the start, and for the end


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda Y, g: diffusion.states(Y[0], 3, relu, g), ValueError, "add axes"),
        (lambda Y, g: diffusion.states("Y", 3, relu, g), ValueError, "got str"),
        (lambda Y, g: diffusion.states(Y, 0, relu, g), ValueError, "depth must be a positive integer"),
        (lambda Y, g: diffusion.states(Y, 3, relu, g, time=0.0), ValueError, "time must be positive"),
        (lambda Y, g: diffusion.states(Y, 3, torch.relu, g), TypeError, "phi must be of type Activation"),
        (lambda Y, g: diffusion.tangents(Y, Y, 3, "relu", g), TypeError, "phi must be of type Activation"),
        (lambda Y, g: diffusion.driven(Y, [], "relu"), TypeError, "phi must be of type Activation"),
        (lambda Y, g: [diffusion.coarsen(Y, 3)], ValueError, "steps must divide the 4 increments"),
        (lambda Y, g: [diffusion.log_norm_terms(Y, erfi_exponential())], ValueError, "phi in C\\^2"),
        (lambda Y, g: [diffusion.log_norm_terms(Y, torch.relu)], TypeError, "phi must be of type Activation"),
        (lambda Y, g: [diffusion.collapse(5, 5, 0, g)], ValueError, "width must be a positive integer"),
        (lambda Y, g: [diffusion.linear_log_norm(5, 1.5, 2, g)], TypeError, "depth must be a positive integer"),
        (lambda Y, g: [diffusion.brownian(5, 5, 2, g, time=-1.0)], ValueError, "time must be positive"),
    ],
)
def test_bad_input_names_the_cure(call, kind, message, generator):
    with pytest.raises(kind, match=message):
        list(call(normal(generator, 4, 1, 2), generator))


def test_affine_networks_at_width_one(generator):
    """(alpha Y + beta) is multiplied by independent factors: E of its square grows by 1 + alpha^2/L a layer."""
    Y = torch.full((100_000, 1, 1), 0.5, dtype=F64)
    square = (0.8 * last(diffusion.states(Y, 10, affine(0.8, 0.3), generator)) + 0.3).square().flatten()
    exact = 0.7**2 * 1.064**10
    assert abs(square.mean() - exact) < stats.norm.isf(ALPHA / 2) * square.std() / len(square) ** 0.5

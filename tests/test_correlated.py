import numpy as np
import pytest
import torch

from conftest import ALPHA
from deeplimits import activations, correlated, resnet, statistics, theory
from deeplimits.weights import IID, Fractional, Smooth

FAMILIES = {
    "original": resnet.original(),
    "simple": resnet.simple(activations.relu),
    "linear": resnet.parametric(activations.identity),
}
Z = statistics.stats.norm.isf(ALPHA / 2)


def correlation(law, depth):
    return law.correlation(torch.arange(depth), depth).numpy()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("law", [Fractional(0.2), Fractional(0.9), Smooth(0.1)], ids=str)
def test_displacement_against_wide_networks(law, family, generator):
    """Few wide networks beside their limit; the neglected response is of relative order 1/width."""
    depth, width, networks, scale = 10, 48, 60, 0.3
    layers = law.layers(depth, networks, width, generator)
    h = torch.randn(networks, 4, width, dtype=torch.float64, generator=generator)
    moved = resnet.forward(h, layers if family != "simple" else layers[:, :1], FAMILIES[family], scale) - h
    found = statistics.mean((moved.square().sum(-1) / h.square().sum(-1)).mean(1))
    [expected] = correlated.displacement(correlation(law, depth), [scale], family)
    low, high = found.interval(Z)
    assert low - 2 / width < expected < high + 2 / width
    assert high - low < 0.7 * expected  # and so the wrong family fails


@pytest.mark.parametrize("law", [Fractional(0.2), Fractional(0.9)], ids=str)
def test_gradient_against_wide_networks(law, generator):
    depth, width, networks, scale = 10, 48, 60, 0.4
    layers = list(law.layers(depth, networks, width, generator))
    h = torch.randn(networks, 4, width, dtype=torch.float64, generator=generator)
    p = torch.randn(networks, 4, width, dtype=torch.float64, generator=generator)
    path = list(resnet.states(h, layers, resnet.original(), scale))
    moved = resnet.adjoint(p, path, layers, resnet.original(), scale) - p
    found = statistics.mean((moved.square().sum(-1) / p.square().sum(-1)).mean(1))
    [expected] = correlated.gradient_displacement(correlation(law, depth), [scale], width)
    low, high = found.interval(Z)
    assert low - 4 / width < expected < high + 4 / width


@pytest.mark.parametrize("family, c", [("original", 0.5), ("simple", 0.5), ("linear", 1.0)])
def test_independent_layers_have_a_closed_form(family, c):
    scales = np.array([0.1, 0.5])
    found = correlated.displacement(correlation(IID(), 20), scales, family)
    np.testing.assert_allclose(found, (1 + c * scales**2) ** 20 - 1, rtol=1e-7)
    np.testing.assert_allclose(
        correlated.gradient_displacement(correlation(IID(), 20), scales, 7), (1 + scales**2 / 2) ** 20 - 1, rtol=1e-7
    )


@pytest.mark.parametrize("hurst", [0.2, 0.8])
def test_small_scales_give_the_first_order_sums(hurst):
    r, s = correlation(Fractional(hurst), 50), 1e-4
    assert correlated.displacement(r, [s])[0] / s**2 == pytest.approx(theory.first_order_sum(r), rel=1e-3)
    simple = theory.first_order_sum(r, "simple") / 2
    assert correlated.displacement(r, [s], "simple")[0] / s**2 == pytest.approx(simple, rel=1e-3)
    gradient = theory.first_order_gradient_sum(r, 9)
    assert correlated.gradient_displacement(r, [s], 9)[0] / s**2 == pytest.approx(gradient, rel=1e-3)


@pytest.mark.parametrize("law", [Fractional(0.2), Fractional(0.9)], ids=str)
def test_two_layer_blocks_against_networks(law, generator):
    """tanh + 1/2 as in the diagram, in numbers: D = 40, two units a block."""
    depth, D, M, networks, scale, phi = 10, 40, 2, 200, 0.3, activations.shifted_tanh(0.5)
    u, v = law.layers(depth, networks, D, generator).mul_(D**0.5)[..., :M].unbind(1)
    h = x = 0.8 * torch.randn(networks, 4, D, dtype=torch.float64, generator=generator)
    for U, V in zip(u, v, strict=True):
        h = h + scale / M**0.5 * phi.f(h @ U / D**0.5) @ V.mT
    found = statistics.mean((h - x).square().mean((1, 2)))
    [[expected]] = correlated.two_layer_displacement(correlation(law, depth), [scale], [0.8], phi)
    low, high = found.interval(Z)
    assert low * (1 - 2 / D) < expected < high * (1 + 2 / D)
    assert high - low < 0.6 * expected


def test_two_layer_blocks_of_independent_layers():
    """Without correlation the overlap is E phi(size Z)^2, here by a quadrature of its own."""
    phi, z = activations.tanh, np.arange(-9, 9, 0.01)
    size, s = 0.64, 0.2
    for _ in range(5):
        size += s**2 * 0.01 * (np.tanh(size**0.5 * z) ** 2 * statistics.stats.norm.pdf(z)).sum()
    [[found]] = correlated.two_layer_displacement(correlation(IID(), 5), [s], [0.8], phi)
    assert found == pytest.approx(size - 0.64, rel=1e-4)


def test_a_variance_is_a_scale():
    """Weights of variance v: V and W bring the root of v each, and relu is homogeneous."""
    r = correlation(Fractional(0.9), 20)
    np.testing.assert_allclose(correlated.displacement(4 * r, [0.1]), correlated.displacement(r, [0.4]), rtol=1e-7)
    np.testing.assert_allclose(
        correlated.gradient_displacement(4 * r, [0.1], 9), correlated.gradient_displacement(r, [0.4], 9), rtol=1e-7
    )


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="family"):
        correlated.displacement(np.ones(3), [0.1], "general")

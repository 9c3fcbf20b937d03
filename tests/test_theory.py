"""Closed forms against independent integrals, simulation and numbers worked out by hand."""

from math import exp, log, pi, sqrt

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats

from conftest import ALPHA
from deeplimits import resnet, statistics, theory
from deeplimits.activations import identity, piecewise_linear, tanh
from deeplimits.weights import IID, Fractional, Smooth


def close(measured, target):
    return abs(measured.value - target) <= stats.norm.isf(ALPHA / 2) * measured.standard_error


@pytest.mark.parametrize("entry", ["gaussian", "uniform", "rademacher"])
@pytest.mark.parametrize(
    ("phi", "beta"), [(piecewise_linear(1.0, 0.3), 0.5), (identity, 1.0), (piecewise_linear(1.0, 0.0), 0.25)]
)
def test_mean_square_norm_against_brute_force_networks(entry, phi, beta, generator):
    depth, h0 = 10, torch.ones(20_000, 1, 6, dtype=torch.float64)
    hL = resnet.forward(h0, IID(entry).layers(depth, 20_000, 6, generator), resnet.parametric(phi), depth**-beta)
    predicted = theory.mean_square_norm(depth, beta, phi)
    assert close(statistics.mean((hL**2).sum((1, 2)) / 6), predicted)
    assert close(statistics.mean(((hL - h0) ** 2).sum((1, 2)) / 6), predicted - 1)


def test_mean_square_norm_by_hand():
    assert theory.mean_square_norm(10, 0.5) == pytest.approx(1.05**10)  # the sheet's 1.62889
    assert theory.mean_square_norm(60, 0.0) == pytest.approx(1.5**60)
    assert theory.mean_square_norm(10**7, 0.5) == pytest.approx(exp(0.5), rel=1e-6)
    assert theory.mean_square_norm(10**7, 0.5, gain=2.0) == pytest.approx(exp(8), rel=1e-5)
    with pytest.raises(ValueError, match="phi must be positively homogeneous for a closed form, got tanh"):
        theory.mean_square_norm(10, 0.5, tanh)


@given(st.integers(1, 10**6), st.floats(0, 2))
def test_mean_square_norm_lies_between_its_bounds(depth, beta):
    s = depth ** (1 - 2 * beta)
    value = theory.mean_square_norm(depth, beta)
    assert 1 + s / 2 <= value * (1 + 1e-9) and (value == np.inf or log(value) <= s / 2 + 1e-9)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_log_growth_in_width_one_against_the_product_normal_law(scale):
    """One dimension, one active unit: R = (1 + scale v w)^2 half of the time, and v w has density K_0(|z|)/pi."""

    def integrand(z):
        return special.k0(abs(z)) / pi * log((1 + scale * z) ** 2)

    pieces = [(-60, -1 / scale), (-1 / scale, 0), (0, 1 / scale), (1 / scale, 60)]
    value = sum(integrate.quad(integrand, a, b, limit=500, epsabs=1e-12)[0] for a, b in pieces) / 2
    assert theory.log_growth(1, scale) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_log_growth_in_width_two_against_the_harmonic_mean_value(scale):
    """log|h| is harmonic in the plane: E log|e + cZ|^2 = E_1(1/(2 c^2)), then average over T."""

    def integrand(t, k):
        return special.exp1(2 / (scale**2 * t)) * stats.chi2.pdf(t, k)

    value = sum(
        weight * integrate.quad(integrand, 0, np.inf, args=(k,), epsabs=1e-13)[0] for k, weight in [(1, 0.5), (2, 0.25)]
    )
    assert theory.log_growth(2, scale) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("depth", [10, 1000])
def test_mean_norm_in_width_one_against_the_product_normal_law(depth):
    scale = depth**-0.25

    def integrand(z):
        return special.k0(abs(z)) / pi * abs(1 + scale * z)

    pieces = [(-60, -1 / scale), (-1 / scale, 0), (0, 60)]
    mean = sum(integrate.quad(integrand, a, b, limit=500, epsabs=1e-13)[0] for a, b in pieces)
    assert theory.mean_norm(depth, 1, 0.25) == pytest.approx(((1 + mean) / 2) ** depth, rel=1e-9)


@pytest.mark.parametrize(("d", "depth", "beta"), [(2, 1, 0.0), (5, 4, 0.0), (40, 4, 0.0), (100, 50, 0.5)])
def test_mean_norm_against_simulation(d, depth, beta, generator):
    norms = resnet.projection(50_000, depth, d, depth**-beta, generator).norm
    assert close(statistics.mean(norms), theory.mean_norm(depth, d, beta))


def test_mean_norm_tends_to_the_log_normal_mean():
    assert theory.mean_norm(10**5, 100, 0.5) == pytest.approx(exp(1 / 4 - 1 / 400), rel=1e-5)


@pytest.mark.parametrize(("d", "scale"), [(1, 0.3), (2, 1.0), (3, 0.05), (40, 1.0), (100, 0.03)])
@pytest.mark.parametrize("power", [-0.4, 0.25, 0.5])
def test_factor_moment_against_the_hypergeometric_function(d, scale, power):
    """One T at a time, in arbitrary precision: E R^p = (2c^2)^p Gamma(d/2 + p)/Gamma(d/2) 1F1(-p; d/2; -1/(2c^2))."""
    T = np.geomspace(1e-3, 3 * d, 12)
    x = d**2 / (2 * scale**2 * T)
    exact = [
        float(mpmath.gamma(d / 2 + power) / mpmath.gamma(d / 2) * y**-power * mpmath.hyp1f1(-power, d / 2, -y))
        for y in x
    ]
    assert theory._noncentral_moments(d / 2, power, x) == pytest.approx(exact, rel=1e-12)


def test_factor_moment_by_hand():
    assert theory.factor_moment(7, 0.3, 1.0) == pytest.approx(1 + 0.3**2 / 2)
    assert theory.factor_moment(7, 0.3, 0.0) == pytest.approx(1)
    assert theory.factor_moment(1, 0.3, -0.5) == np.inf


@pytest.mark.parametrize(("d", "scale"), [(1, 0.3), (2, 0.3), (3, 1.0), (40, 1.0)])
def test_log_cumulants_against_simulation(d, scale, generator):
    x = 2 * resnet.projection(400_000, 1, d, scale, generator).norm.log().numpy()
    cumulants = theory.log_cumulants(d, scale)
    assert cumulants[0] == pytest.approx(theory.log_growth(d, scale), abs=2e-6)
    centred = x - cumulants[0]
    for power, moment in ((2, cumulants[1]), (3, cumulants[2]), (4, cumulants[3] + 3 * cumulants[1] ** 2)):
        assert close(statistics.mean(torch.from_numpy(centred**power)), moment)


def test_log_cumulants_have_the_leading_terms_of_the_book():
    """Variance 2 e/d, and in the plane the third cumulant -24 E rho^4 = -5.25 e^2, with e = scale^2."""
    e = 1e-3
    assert theory.log_cumulants(10, e**0.5)[1] == pytest.approx(0.2 * e, rel=1e-3)
    assert theory.log_cumulants(2, e**0.5)[2] == pytest.approx(-5.25 * e**2, rel=0.01)


@pytest.mark.parametrize("d", [1, 3, 10, 40])
def test_log_growth_against_simulation(d, generator):
    logs = 2 * resnet.projection(200_000, 1, d, 1.0, generator).norm.log()
    assert close(statistics.mean(logs), theory.log_growth(d, 1.0))


@pytest.mark.parametrize("d", [1, 2, 3, 40, 1000])
def test_log_growth_tends_to_the_log_normal_mean(d):
    depth = 10**5
    assert depth * theory.log_growth(d, depth**-0.5) == pytest.approx(theory.log_norm_limit(d)[0], abs=3 / depth)


def test_log_norm_limit_by_hand():
    assert theory.log_norm_limit(4) == (0.25, 0.5)
    assert theory.log_norm_limit(1, time=10.0) == (-5.0, 20.0)


def test_stability_bounds_by_hand():
    low, high = theory.stability_bounds(40, 0.5)
    assert (low, high) == (pytest.approx(exp(0.375 - sqrt(1.1)) - 1), pytest.approx(exp(1 + sqrt(0.5)) + 1))
    at_the_edge = theory.VACUOUS_BELOW / 0.5
    assert theory.stability_bounds(int(at_the_edge), 0.5)[0] < 0 < theory.stability_bounds(int(at_the_edge) + 1, 0.5)[0]


def test_regimes():
    assert [theory.regime(b) for b in (0.25, 0.5, 1.0)] == ["explosion", "stability", "identity"]
    assert theory.regime(0.75, critical=1.0) == "explosion"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.residual_scale(0, 0.5), "depth must be a positive integer"),
        (lambda: theory.residual_scale(10, float("nan")), "beta must be finite"),
        (lambda: theory.regime(float("inf")), "beta must be finite"),
        (lambda: theory.stability_bounds(10, 1.0), "delta must be a probability strictly between 0 and 1"),
        (lambda: theory.log_growth(0, 1.0), "width must be a positive integer"),
        (lambda: theory.log_norm_limit(-1), "width must be a positive integer"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def correlation(law, depth):
    return law.correlation(torch.arange(depth), depth).numpy()


@pytest.mark.parametrize("r", [-1.0, -0.7, 0.0, 0.4, 0.99, 1.0])
def test_relu_overlap_against_a_double_integral(r):
    """E relu(X) relu(Y) in polar coordinates of the independent pair: the radius gives 1/pi after its integral."""
    s = sqrt(1 - r * r)
    value = integrate.quad(
        lambda a: max(np.cos(a), 0) * max(r * np.cos(a) + s * np.sin(a), 0) / pi, -pi, pi, limit=200
    )[0]
    assert theory.relu_overlap(r) == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize("law", [IID(), Fractional(0.2), Fractional(0.9), Smooth(), Smooth(0.1, "derivative")], ids=str)
@pytest.mark.parametrize("family", ["original", "simple"])
def test_first_order_sum_against_brute_force(law, family, generator):
    depth, networks, width = 30, 4000, 3
    layers = list(law.layers(depth, networks, width, generator))
    h = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    inputs = [(W @ h).relu() if family == "original" else h.relu().expand(networks, width) for _, W in layers]
    total = sum((V @ g[..., None])[..., 0] for (V, _), g in zip(layers, inputs, strict=True))
    unit = h @ h if family == "original" else h.relu() @ h.relu()
    measured = statistics.mean((total**2).sum(-1) / unit)
    assert close(measured, theory.first_order_sum(correlation(law, depth), family))


def test_first_order_sums_by_hand():
    assert theory.first_order_sum(correlation(IID(), 100)) == pytest.approx(50)
    assert theory.first_order_sum(np.ones(10)) == pytest.approx(50)  # one matrix for all layers: L^2 / 2
    assert theory.first_order_sum(correlation(Fractional(0.7), 1000), "simple") == pytest.approx(1000**1.4)


def test_first_order_constants_of_the_two_smooth_kernels():
    """The double integral of the kernel over the unit square; the sums differ from it by O(1/L)."""
    for kernel, constant in [("gaussian", 0.3010), ("derivative", 0.1992)]:
        law = Smooth(0.1, kernel)

        def density(r, law=law):
            rho = float(law.correlation(r * 10**6, 10**6))
            return 2 * (1 - r) * rho * float(theory.relu_overlap(rho))

        root = sqrt(integrate.quad(density, 0, 1, limit=200)[0])
        assert root == pytest.approx(constant, abs=5e-5)
        assert theory.first_order_sum(correlation(law, 20_000)) ** 0.5 / 20_000 == pytest.approx(root, rel=1e-4)


def test_finite_size_line_by_hand_and_in_the_limit():
    assert theory.finite_size_line(500.0, 1000) == pytest.approx(log(500) / (2 * log(1000)))
    rough = theory.first_order_sum(correlation(Fractional(0.3), 1000), "simple")
    assert theory.finite_size_line(rough, 1000) == pytest.approx(0.3)
    sums = [(theory.first_order_sum(correlation(Fractional(0.9), L)), L) for L in (10**3, 10**5)]
    gaps = [0.9 - theory.finite_size_line(*each) for each in sums]
    assert 0 < gaps[1] < gaps[0]


@pytest.mark.parametrize("law", [IID(), Fractional(0.2), Fractional(0.9), Smooth()], ids=str)
def test_first_order_gradient_sum_against_brute_force(law, generator):
    depth, networks, width = 30, 4000, 3
    h = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    p = torch.tensor([0.3, 0.4, -1.2], dtype=torch.float64)
    total = 0.0
    for V, W in law.layers(depth, networks, width, generator):
        total = total + (W.mT @ ((W @ h > 0) * (V.mT @ p))[..., None])[..., 0]
    measured = statistics.mean((total**2).sum(-1) / (p @ p))
    assert close(measured, theory.first_order_gradient_sum(correlation(law, depth), width))


def test_first_order_gradient_sums_by_hand():
    assert theory.first_order_gradient_sum(correlation(IID(), 100), 7) == pytest.approx(50)
    assert theory.first_order_gradient_sum(np.ones(10), 7) == pytest.approx(50)
    output = theory.first_order_sum(correlation(Fractional(0.8), 50))
    assert theory.first_order_gradient_sum(correlation(Fractional(0.8), 50), 1) == pytest.approx(output)


def test_an_unknown_family_has_no_first_order_sum():
    with pytest.raises(ValueError, match="family must be one of 'original', 'simple', got 'general'"):
        theory.first_order_sum(np.ones(3), "general")


def test_regimes_of_training_by_the_scale_of_v():
    """D = 16, LM = 10000: borders at 4 and 100; in residual scale sqrt(D)/(LM) and 1/sqrt(LM)."""
    sizes = {"width": 16, "depth": 1000, "hidden": 10}
    assert theory.scale_borders(**sizes) == (4, 100)
    found = [theory.training_regime(s, **sizes, factor=2) for s in (0, 1.9, 2, 4, 8, 8.1, 100, 101)]
    assert found == ["sub-critical"] * 2 + ["critical"] * 3 + ["lazy"] * 2 + ["unstable"]
    assert theory.training_regime(4, **sizes) == "critical" and theory.training_regime(4.01, **sizes) == "lazy"
    with pytest.raises(ValueError, match="width must be at most depth x hidden = 10000"):
        theory.scale_borders(10001, 1000, 10)
    with pytest.raises(ValueError, match="sigma_v must be >= 0 and factor >= 1"):
        theory.training_regime(-1.0, **sizes)

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats

from deeplimits.activations import (
    affine,
    erfi_exponential,
    gelu,
    identity,
    inverse_erfi,
    piecewise_linear,
    relu,
    swish,
    tanh,
)

EVERY = [relu, identity, tanh, gelu, swish, affine(0.8, 0.3)] + [
    piecewise_linear(*slopes) for slopes in ((1.0, 0.3), (2.0, -0.5), (1.0, -1.0))
]


@pytest.mark.parametrize("phi", EVERY, ids=lambda phi: phi.name)
def test_derivative_against_autograd(phi):
    z = torch.linspace(-4, 4, 100, dtype=torch.float64, requires_grad=True)  # does not contain 0
    (gradient,) = torch.autograd.grad(phi.f(z).sum(), z)
    torch.testing.assert_close(phi.df(z.detach()), gradient, atol=1e-14, rtol=0)


@pytest.mark.parametrize("phi", [relu, identity, tanh, gelu, swish], ids=lambda phi: phi.name)
def test_named_activations_are_pickled_by_name(phi):
    assert all(pickle.loads(pickle.dumps(phi, protocol)) is phi for protocol in range(pickle.HIGHEST_PROTOCOL + 1))
    assert copy.copy(phi) is phi and copy.copy(affine(0.8, 0.3)).name == "affine(0.8, 0.3)"


@pytest.mark.parametrize("phi", [tanh, gelu, swish], ids=lambda phi: phi.name)
def test_second_derivative_against_autograd(phi):
    z = torch.linspace(-4, 4, 100, dtype=torch.float64, requires_grad=True)
    (second,) = torch.autograd.grad(phi.df(z).sum(), z)
    torch.testing.assert_close(phi.d2f(z.detach()), second, atol=1e-14, rtol=0)


def test_inverse_erfi_against_scipy():
    sizes = torch.tensor([*np.logspace(-12, 300, 2000), *np.linspace(1.5, 2.5, 200)], dtype=torch.float64)
    y = torch.cat([-sizes, torch.zeros(1), sizes])
    np.testing.assert_allclose(special.erfi(inverse_erfi(y).numpy()), y.numpy(), rtol=1e-12)
    x = torch.tensor([*np.logspace(-15, 0, 3000)], dtype=torch.float64)  # here nothing magnifies an error of x
    np.testing.assert_allclose(inverse_erfi(torch.special.expm1(x)), _newton(np.expm1(x.numpy())), rtol=2e-14)


def _newton(y):
    """For 0 < y < 2: from above the root of a convex function Newton's method descends to it."""
    x = y * np.pi**0.5 / 2
    for _ in range(8):
        x = x - special.dawsn(x) * (1 - y / special.erfi(x))
    return x


def test_inverse_erfi_to_the_ends_of_the_floats():
    ends = torch.tensor([0.0, -0.0, 1e-300, 1.7976e308, -1.7976e308], dtype=torch.float64)
    x = inverse_erfi(ends)
    assert x[:2].tolist() == [0.0, -0.0] and x[1].signbit()
    assert x[2] == pytest.approx(1e-300 * np.pi**0.5 / 2, rel=1e-14)
    last = float(x[3])  # erfi = 2/sqrt(pi) e^(x^2) D(x), and e^(x^2) alone is beyond the floats
    assert last**2 + np.log(2 / np.pi**0.5 * special.dawsn(last)) == pytest.approx(np.log(1.7976e308), rel=1e-14)
    assert last == -x[4]
    assert inverse_erfi(torch.tensor([np.inf, -np.inf, np.nan])).isnan().all()
    single = torch.tensor([1e-30, 0.3, 3e38], dtype=torch.float32)
    assert inverse_erfi(single).dtype == torch.float32
    assert torch.equal(inverse_erfi(single), inverse_erfi(single.double()).float())


def test_inverse_erfi_stays_on_the_device(counting):
    y = torch.ones(3, device="cuda")
    inverse_erfi(y)  # its table is copied once
    with counting() as count:
        inverse_erfi(y)
    assert (count.waits, count.uploads) == (0, 0)


def test_erfi_exponential_and_its_derivative():
    z, step = torch.linspace(-3, 3, 101, dtype=torch.float64), 1e-5
    phi = erfi_exponential(0.7, 0.2)
    torch.testing.assert_close(phi.f(z), torch.exp(inverse_erfi(0.7 * z + 0.2) ** 2))
    difference = (phi.f(z + step) - phi.f(z - step)) / (2 * step)
    torch.testing.assert_close(phi.df(z), difference, atol=1e-8, rtol=0)


@pytest.mark.parametrize("variance", [1.0, 0.25, 4.0])
@pytest.mark.parametrize("phi", EVERY, ids=lambda phi: phi.name)
def test_gaussian_moments_against_quadrature(phi, variance):
    for f, moment in [(phi.f, phi.second_moment), (phi.df, phi.derivative_second_moment)]:

        def integrand(x, f=f):
            return float(f(torch.tensor([x], dtype=torch.float64))) ** 2 * stats.norm.pdf(x, scale=variance**0.5)

        value = sum(integrate.quad(integrand, a, b, epsabs=1e-12)[0] for a, b in [(-40, 0), (0, 40)])
        assert moment(variance) == pytest.approx(value, abs=1e-8)


def test_convention_at_zero():
    zero = torch.zeros(1)
    assert relu.f(zero) == 0 and relu.df(zero) == 0 and identity.df(zero) == 1


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0, 10))
def test_declared_slopes_mean_positive_homogeneity(a, b, c):
    phi, z = piecewise_linear(a, b), torch.tensor([-1.3, 0.0, 0.7], dtype=torch.float64)
    torch.testing.assert_close(phi.f(c * z), c * phi.f(z), atol=1e-12, rtol=1e-12)
    assert phi.slopes == (a, b)


def test_slopes_must_be_finite():
    with pytest.raises(ValueError, match="b must be finite"):
        piecewise_linear(1.0, np.nan)


def test_nothing_depends_on_the_default_device():
    y = torch.linspace(-3, 3, 7, dtype=torch.float64)
    with torch.device("meta"):  # a device without numbers stands for a GPU
        there = tanh.second_moment(), inverse_erfi(y)
    assert there[0] == tanh.second_moment() and torch.equal(there[1], inverse_erfi(y))

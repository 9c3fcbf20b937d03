import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from deeplimits.activations import identity, piecewise_linear, relu, tanh

EVERY = [relu, identity, tanh, piecewise_linear(1.0, 0.3), piecewise_linear(2.0, -0.5), piecewise_linear(1.0, -1.0)]


@pytest.mark.parametrize("phi", EVERY, ids=lambda phi: phi.name)
def test_derivative_against_autograd(phi):
    z = torch.linspace(-4, 4, 100, dtype=torch.float64, requires_grad=True)  # does not contain 0
    (gradient,) = torch.autograd.grad(phi.f(z).sum(), z)
    torch.testing.assert_close(phi.df(z.detach()), gradient, atol=1e-14, rtol=0)


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

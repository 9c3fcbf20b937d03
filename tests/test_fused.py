"""The compiled loops against plain NumPy: products of every shape of remainder, and the activation."""

import numpy as np
import pytest

from deeplimits import fused

pytestmark = pytest.mark.skipif(fused.step is None, reason="needs Numba")
SHAPES = [(p, k, w) for p in (1, 2, 5, 10) for k in (1, 4, 5, 11) for w in (0, 1, 7, 40)]


@pytest.mark.parametrize(("p", "k", "w"), SHAPES)
def test_products_and_sums_against_numpy(p, k, w):
    rng = np.random.default_rng(p * 100 + k * 10 + w)
    A, B, C, E = rng.normal(size=(p, k)), rng.normal(size=(k, 41)), rng.normal(size=(p, 41)), rng.normal(size=(p, 41))
    expected, S = C.copy(), np.full((p, k), np.nan)
    expected[:, :w] -= 2 * A @ B[:, :w]
    fused._products(-2.0, A, B, C, w)
    np.testing.assert_allclose(C, expected, rtol=0, atol=1e-13)
    fused._sums(E, B, S, w)
    np.testing.assert_allclose(S, E[:, :w] @ B[:, :w].T, rtol=0, atol=1e-13)


def test_tanh_against_numpy_to_a_few_units_of_the_last_digit():
    z = np.concatenate([np.linspace(-30, 30, 20_001), np.logspace(-300, 1, 5000), [0.0, np.inf, -np.inf]])
    found = np.array([fused._tanh(x) for x in z])
    assert np.abs((found - np.tanh(z)) / np.spacing(np.abs(np.tanh(z)))).max() <= 8
    assert np.isnan(fused._tanh(np.nan))

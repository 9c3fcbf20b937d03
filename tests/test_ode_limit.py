"""The residual recursion with smooth weights against an adaptive solver of SciPy: an oracle that shares no code."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from deeplimits import activations, resnet

WIDTH, TIMES = 4, 64


@pytest.fixture
def functions(generator):
    """V and W as smooth functions of t in [0, 1]: random trigonometric sums; t -> (2, width, width)."""
    a, b = torch.randn(2, 5, 2, WIDTH, WIDTH, dtype=torch.float64, generator=generator).numpy() / 3
    rates = np.arange(1, 6)[:, None, None, None]
    return lambda t: (a * np.cos(rates * t) + b * np.sin(rates * t)).sum(0)


@pytest.mark.parametrize("phi", [activations.relu, activations.tanh], ids=lambda phi: phi.name)
def test_networks_converge_to_the_ode_at_rate_one(functions, phi):
    h0 = np.array([1.0, -0.5, 0.3, 0.8])

    def right_hand_side(t, h):
        V, W = functions(t)
        z = W @ h
        return V @ (np.maximum(z, 0) if phi is activations.relu else np.tanh(z))

    grid = np.linspace(0, 1, TIMES + 1)
    exact = solve_ivp(right_hand_side, (0, 1), h0, t_eval=grid, rtol=1e-10, atol=1e-12, max_step=1e-2).y.T
    errors = []
    for depth in (TIMES, 2 * TIMES, 4 * TIMES, 8 * TIMES):
        layers = [torch.as_tensor(functions((k + 1) / depth))[:, None] for k in range(depth)]
        path = resnet.states(torch.as_tensor(h0)[None, None], layers, resnet.parametric(phi), 1 / depth)
        states = torch.cat(list(path))[:: depth // TIMES, 0].numpy()
        errors.append(depth * np.linalg.norm(states - exact, axis=1).max())
    ratios = np.array(errors[1:]) / np.array(errors[:-1])
    assert errors[0] > 0.1 and np.abs(ratios - 1).max() < 0.05
    assert abs(ratios[-1] - 1) < 0.01

"""The lazy limit of the Mean ODE: training linearised in the weights, an equation without particles.

For large alpha each unit moves by O(1/alpha) only, and the drift alpha E phi(h, Z_k) tends to E[D_z phi(h, Z_0) dZ_k]
(Chizat 2025, Theorem 2). With Gaussian initial weights this is a kernel equation, the Neural Tangent ODE:

    dh_k/ds = -eta sum_{k' < k} sum_i K(h_k, h_k'(x_i)) b_k'(x_i),
    K(h, h') = eta_v E[rho(g) rho(g')] + eta_u sigma_v^2 E[rho'(g) rho'(g')] <h, h'>/D^2,

a number times the identity matrix, with (g, g') centred Gaussian of covariance sigma_u^2 <., .>/D^2.
"""

from dataclasses import dataclass
from functools import cache, partial
from math import pi, sqrt

import numpy as np
import torch
from torch import Tensor

from deeplimits import runtime
from deeplimits.activations import Activation, tanh
from deeplimits.checks import positive_integer
from deeplimits.mean_ode import Solution, at_nodes, corrections, depths, grids

DEGREES = 48  # Hermite coefficients of tanh(sigma z) fall like exp(-pi sqrt(degree) / (2 sigma)): 2e-6 at equal states


@dataclass(frozen=True)
class Kernel:
    """K for given constants; ``sigma_u`` and ``sigma_v`` are the standard deviations of the initial weights.

    Mehler's formula: E[f(a X) f(c Y)] = sum_n f_n(a) f_n(c) r^n for standard normal X, Y of correlation r, where
    f_n(a) = E[f(a Z) He_n(Z)]/sqrt(n!). The coefficients belong to one state each, so a pair costs a short product.
    """

    sigma_u: float
    sigma_v: float
    eta_u: float
    eta_v: float
    phi: Activation = tanh

    def __call__(self, h: Tensor, other: Tensor) -> Tensor:
        """K(h, h') for all pairs of rows of ``h`` (m, D) and ``other`` (n, D): shape (m, n)."""
        return self.pairs(h, self.coefficients(h), other, self.coefficients(other))

    def coefficients(self, h: Tensor) -> Tensor:
        """Those of rho and of rho' at each row of ``h`` (m, D): (2, m, DEGREES)."""
        a = h.norm(dim=-1) * (self.sigma_u / h.shape[-1])
        z, hermite = _nodes(h.dtype, h.device)
        return torch.stack([f(a[:, None] * z) @ hermite for f in (self.phi.f, self.phi.df)])

    def pairs(self, h: Tensor, c: Tensor, other: Tensor, c_other: Tensor) -> Tensor:
        """K for states whose coefficients are known."""
        inner = h @ other.mT / h.shape[-1] ** 2
        r = h @ other.mT / (h.norm(dim=-1)[:, None] * other.norm(dim=-1))
        value, slope = _mehler(c, c_other, r)
        return self.eta_v * value + self.eta_u * self.sigma_v**2 * slope * inner


def _mehler(a: Tensor, b: Tensor, r: Tensor) -> Tensor:
    """sum_n a_n b_n r^n for every pair: a (2, m, DEGREES), b (2, n, DEGREES), r (m, n).

    The powers of r come by doubling their number: a few large operations, where Horner's rule has 48 small ones.
    """
    powers = torch.ones_like(r)[..., None]
    square = r[..., None]
    while (known := powers.shape[-1]) < DEGREES:
        powers = torch.cat([powers, powers[..., : DEGREES - known] * square], -1)
        square = square * square
    return ((powers * b[:, None]) @ a[..., None])[..., 0]


@cache
def _nodes(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes, and normalised Hermite polynomials times Gaussian weights there, (nodes, DEGREES)."""
    z = np.arange(-14.0, 14.0, 0.1)
    rows = [np.exp(-(z**2) / 2) * 0.1 / sqrt(2 * pi)]
    rows.append(z * rows[0])
    for n in range(1, DEGREES - 1):
        rows.append((z * rows[n] - sqrt(n) * rows[n - 1]) / sqrt(n + 1))
    return tuple(torch.as_tensor(t, dtype=dtype, device=device) for t in (z, np.stack(rows, 1)))


def solve(
    x: Tensor,
    y: Tensor,
    steps: int,
    *,
    nodes: int = 32,
    sigma_u: float | None = None,
    sigma_v: float | None = None,
    eta: float = 1.0,
    eta_u: float | None = None,
    eta_v: float | None = None,
    phi: Activation = tanh,
) -> Solution:
    """The Neural Tangent ODE for ``steps`` steps, in depth by the scheme of ``mean_ode.solve`` and its corrections.

    There is no sampling error. Units do not move in this limit: ``eta_u`` and ``eta_v`` of the solution are zero.
    """
    steps, nodes, D = positive_integer("steps", steps), positive_integer("nodes", nodes), x.shape[-1]
    home, place = x.device, runtime.place(x.device, len(x) ** 2 * steps // 2 * DEGREES)  # of a kernel half way
    x, y = x.to(place), y.to(place)
    K = Kernel(
        *(sqrt(D) if z is None else z for z in (sigma_u, sigma_v)),
        *(D if z is None else z for z in (eta_u, eta_v)),
        phi,
    )
    passes = [_passes(x, y, steps, n, K, eta) for n in grids(nodes)]
    dh, db, depth = corrections(passes)
    h, b = (z + change for z, change in zip(at_nodes(*passes[0]), (dh, db), strict=True))
    loss = (h[:, -1] - y).square().mean((1, 2)) / 2
    h, b, loss, depth = (z.to(home) for z in (h, b, loss, depth))
    return Solution(depths(nodes), h, b, loss, h[None, :, -1], depth, 0.0, 0.0, phi, sampled=False)


def _passes(x: Tensor, y: Tensor, steps: int, nodes: int, K: Kernel, eta: float) -> tuple[Tensor, Tensor]:
    """h and b on ``nodes`` midpoints, as ``training.descent`` has them: (steps + 1, nodes + 1, N, D)."""
    empty = (x[:0], K.coefficients(x[:0]), x[:0])
    past = [empty] * nodes  # at each node: states of all earlier steps, their coefficients, their gradients
    h, b = [], []

    def drift(node: int, state: Tensor) -> Tensor:
        states, coefficients, gradients = past[node]
        return -eta * K.pairs(state, K.coefficients(state), states, coefficients) @ gradients

    for _ in range(steps + 1):
        total, block, states = x, 0.0, []
        for node in range(nodes):
            states.append(total + block / 2)
            block = drift(node, states[node]) / nodes
            total = total + block
        h.append(torch.stack([*states, total]))
        total = (total - y) / y.numel()
        block, gradients = 0.0, []
        for node in reversed(range(nodes)):
            gradients.insert(0, total + block / 2)
            pull = torch.func.vjp(partial(drift, node), states[node])[1]
            block = pull(gradients[0])[0] / nodes
            total = total + block
        b.append(torch.stack([total, *gradients]))
        for node, (state, gradient) in enumerate(zip(states, gradients, strict=True)):
            new = (state, K.coefficients(state), gradient)
            past[node] = tuple(torch.cat(pair, -2) for pair in zip(past[node], new, strict=True))
    return torch.stack(h), torch.stack(b)

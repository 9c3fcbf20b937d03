"""The direction of X_t on the sphere, solved without random numbers at widths 2, 3 and 4.

For dX = ||phi(X)||/sqrt(n) dB with phi piecewise linear, X is a Brownian motion with a changed clock, so its direction
is one on the sphere: u(x, t) = E f(X_t/||X_t||), from the direction x, solves du/dt = ||phi(x)||^2/(2n) Laplacian u.
Linear finite elements, with a lumped mass, on the facets of the square, octahedron or 16-cell, cut into equal parts and
blown up to the sphere: the coordinate planes, where phi has its kink, are made of faces. Derived in the book.
"""

from collections.abc import Callable
from itertools import permutations, product
from math import factorial

import numpy as np
from scipy import linalg, sparse

from deeplimits.activations import Activation, piecewise_linear, relu
from deeplimits.checks import instance, positive_integer

PARTS = {2: 60, 3: 48, 4: 16}  # of an edge; the mean of ReLU at t = 1 is right to 1e-7, 1e-5 and 3e-5 then
STEPS = 600  # of Lanczos's method


def mean_growth(width: int, phi: Activation, times: np.ndarray, parts: int | None = None) -> np.ndarray:
    """E log(||phi(X_t)||/||phi(X_0)||) at ``times``, given phi(X_0) != 0, for X_0 ~ N(0, I_n), n = 2, 3 or 4.

    The time integral of the mean drift (sum phi_i'^2/2 - q)/n, q = sum phi_i^2 phi_i'^2/||phi||^2. ``parts`` of an edge
    on the finest of three grids, each twice as fine as the one before. Raises ValueError for other widths and other
    activations.
    """
    instance("phi", phi, Activation, "make one with piecewise_linear")
    if phi.slopes is None:
        raise ValueError(f"phi must be piecewise linear with a kink at 0, got {phi.name}; use piecewise_linear(a, b)")
    a, b = phi.slopes
    if a == 0:  # the mirror image
        return mean_growth(width, piecewise_linear(b, 0.0), times, parts)

    def q(x: np.ndarray) -> np.ndarray:
        f = _squares(phi, x)
        total = f.sum(1)
        quotient = (f * np.where(x > 0, a**2, b**2)).sum(1) / np.where(total > 0, total, 1)
        return np.where(total > 0, quotient, a**2 + b**2)  # at rest: one slope is zero, and q the square of the other

    def drift(positive: np.ndarray) -> np.ndarray:
        return (a**2 * positive + b**2 * (width - positive)) / (2 * width)

    return _extrapolated(width, phi, drift, lambda x: -q(x) / width, times, parts, True)


def positive_share(width: int, times: np.ndarray, count: int | None = None, parts: int | None = None) -> np.ndarray:
    """For ReLU, given phi(X_0) != 0: P(X_t^1 > 0), or with ``count`` P(exactly so many coordinates are positive)."""

    def share(positive: np.ndarray) -> np.ndarray:
        return positive / width if count is None else (positive == count) + 0.0

    return _extrapolated(width, relu, share, lambda x: np.zeros(len(x)), times, parts, False)


def _extrapolated(width, phi, jumps, smooth, times, parts, integrate) -> np.ndarray:
    if width not in PARTS:
        raise ValueError(f"width must be 2, 3 or 4, got {width!r}; a sphere of more dimensions takes too many elements")
    fine = positive_integer("parts", parts or PARTS[width])
    if fine < 4:
        raise ValueError(f"parts must be at least 4, got {fine}; the coarsest of the grids has a quarter of it")
    times = np.asarray(times, float)
    a, b, c = (_solve(width, fine // m, phi, jumps, smooth, times, integrate) for m in (4, 2, 1))
    # the error of order 2, and at long times one of order 1: directions that have come to rest lie at the border of the
    # silent ones, where u is not smooth
    return (8 * c - 6 * b + a) / 3


def _solve(n: int, k: int, phi: Activation, jumps: Callable, smooth: Callable, times: np.ndarray, integrate: bool):
    """The mean of f(direction at time t), or of its integral up to t, over starts with phi(X_0) != 0."""
    x, simplices, volumes, stiffness = _sphere(n, k)
    positive = (x[simplices] > 0).any(1).sum(1)  # coordinates, in each simplex
    alive = positive > 0 if phi.slopes[1] == 0 else positive > -1
    mass, started, f = np.zeros((3, len(x)))
    for corner in simplices.T:
        np.add.at(mass, corner, volumes)
        np.add.at(started, corner, volumes * alive)
        np.add.at(f, corner, volumes * jumps(positive))
    f = f / mass + smooth(x)
    speed = _squares(phi, x).sum(1) / (2 * n)
    moves = speed > 0
    # where the direction has come to rest one coordinate is positive for ever; u minus that value vanishes there
    rest = float(jumps(np.array([1]))[0]) + float(smooth(np.eye(n)[:1])[0]) if not moves.all() else 0.0
    started, f, root = started[moves] / started.sum(), f[moves] - rest, np.sqrt(speed / mass)[moves]
    operator = sparse.diags(root) @ stiffness[moves][:, moves] @ sparse.diags(root)
    values, weights = _lanczos(operator, f / root, started * root)
    decay = -values * times[:, None]
    if not integrate:
        return np.exp(decay) @ weights + rest
    return (times[:, None] * np.where(decay, np.expm1(decay) / np.where(decay, decay, 1), 1)) @ weights + rest * times


def _squares(phi: Activation, x: np.ndarray) -> np.ndarray:
    a, b = phi.slopes
    return (np.where(x > 0, a, b) * x) ** 2


def _lanczos(A, right: np.ndarray, left: np.ndarray, steps: int = STEPS) -> tuple[np.ndarray, np.ndarray]:
    """(values, weights) with left . g(A) right = sum g(values) weights for smooth g; A symmetric."""
    size = np.linalg.norm(right) or 1.0
    v, before, beta = right / size, np.zeros_like(right), 0.0
    diagonal, beside, products = [], [], []
    for _ in range(min(steps, len(right))):
        products.append(left @ v)
        w = A @ v - beta * before
        diagonal.append(v @ w)
        w -= diagonal[-1] * v
        before, beta = v, np.linalg.norm(w)
        if beta <= 1e-12 * abs(diagonal[0]):
            break
        beside.append(beta)
        v = w / beta
    values, vectors = linalg.eigh_tridiagonal(diagonal, beside[: len(diagonal) - 1])
    return values, size * vectors[0] * (np.array(products) @ vectors)


def _sphere(n: int, k: int):
    """Vertices (V, n), simplices (S, n) as their numbers, volumes (S,), and the sparse stiffness matrix."""
    # an orthant's facet y_1 + ... + y_n = k in coordinates k >= z_1 >= ... >= z_{n-1} >= 0, y_i = z_{i-1} - z_i, where
    # unit cubes are cut along their diagonals: one simplex for each order in which to climb
    cubes = np.array(list(product(range(k), repeat=n - 1)))
    climbs = np.array(
        [
            np.vstack([np.zeros(n - 1, int), np.eye(n - 1, dtype=int)[list(p)]]).cumsum(0)
            for p in permutations(range(n - 1))
        ]
    )
    z = (cubes[:, None, None] + climbs).reshape(-1, n, n - 1)
    z = np.pad(z, ((0, 0), (0, 0), (1, 1)), constant_values=((0, 0), (0, 0), (k, 0)))
    y = -np.diff(z, axis=2)
    y = y[(y >= 0).all((1, 2))]
    corners = (y[None] * np.array(list(product((1, -1), repeat=n)))[:, None, None]).reshape(-1, n, n)
    code = (corners + k) @ (2 * k + 1) ** np.arange(n)
    _, first, simplices = np.unique(code, return_index=True, return_inverse=True)
    x = corners.reshape(-1, n)[first].astype(float)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    simplices = simplices.reshape(-1, n)
    edges = x[simplices[:, 1:]] - x[simplices[:, :1]]
    gram = edges @ edges.swapaxes(1, 2)
    volumes = np.sqrt(np.linalg.det(gram)) / factorial(n - 1)
    gradients = np.hstack([-np.ones((n - 1, 1)), np.eye(n - 1)])
    local = volumes[:, None, None] * (gradients.T @ np.linalg.inv(gram) @ gradients)
    rows, columns = np.repeat(simplices, n, 1).ravel(), np.tile(simplices, n).ravel()
    stiffness = sparse.csr_array(sparse.coo_array((local.ravel(), (rows, columns)), shape=(len(x), len(x))))
    return x, simplices, volumes / n, stiffness

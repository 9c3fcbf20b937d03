"""Mean squares of wide networks with weights that are correlated over depth, exact at every depth as the width grows.

Blocks h_{k+1} = h_k + s V_k relu(W_k h_k), or s V_k relu(h_k), Gaussian entries of variance r(0)/d with the covariance
r(m)/d between layers k and k + m. As d grows, scalar products over the width become numbers: with c(k, l) the limit of
<h_k, h_l>/||h_0||^2,

    <h_{k+1} - h_k, h_{l+1} - h_l>/||h_0||^2 = s^2 r(k - l) E relu(X) relu(Y),    k, l = 0, 1, ...,

where X, Y are normal with variances r(0) c(k, k), r(0) c(l, l) and covariance r(k - l) c(k, l). So c is known up to
layer k + 1 once it is up to layer k. What is left out is of relative order 1/d: the response of the state to the
weights of a layer, which later layers share. For independent layers nothing is left out, at any width.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from scipy import special

from deeplimits.activations import Activation
from deeplimits.checks import one_of
from deeplimits.theory import relu_overlap

FAMILIES = ("original", "simple", "linear")


def rows(correlation: np.ndarray, scales: np.ndarray, family: str = "original") -> Iterator[np.ndarray]:
    """c(k, 0), ..., c(k, k) for k = 0, ..., L, at each of the ``scales`` s: arrays of shape (scales, k + 1).

    ``correlation`` holds r(0), ..., r(L - 1). ``family`` is ``original`` or ``simple``, with ReLU, or ``linear``:
    V_k W_k h_k, where E X Y replaces E relu(X) relu(Y). For ``simple`` the law of h_0 over coordinates is normal.
    """
    one_of("family", family, FAMILIES)
    r, s = np.asarray(correlation, float), np.asarray(scales, float)
    return _rows(r, s, np.ones(len(s)), partial(_overlap, family, r[0]))


def displacement(correlation: np.ndarray, scales: np.ndarray, family: str = "original") -> np.ndarray:
    """The mean square of ||h_L - h_0|| / ||h_0||, one number a scale; arguments as in :func:`rows`."""
    for row in rows(correlation, scales, family):  # noqa: B007 - the last row is the answer
        pass
    return row[:, -1] - 1


def two_layer_displacement(
    correlation: np.ndarray, scales: np.ndarray, start: np.ndarray, phi: Activation
) -> np.ndarray:
    """The mean square coordinate of h_L - h_0 for blocks h + s/sqrt(M) sum_j v_j phi(<u_j, h>/sqrt(D)).

    Entries of u and v are normal with the covariance r. ``start`` is the RMS coordinate of h_0, one for each input;
    shape (scales, inputs). In place of 1/d there are terms of relative order 1/D, at any M. The overlap is a series in
    the correlation, with the Hermite coefficients of z -> phi(z size), tabulated over sizes up to 8.
    """
    grid = np.linspace(0.0, 8.0, 801)
    table = _hermite(phi, grid)
    start, s = np.asarray(start, float), np.asarray(scales, float)
    sizes = np.broadcast_to(start**2, (len(s), len(start)))
    coefficients = []

    def overlap(lag: np.ndarray, c: np.ndarray, size: np.ndarray) -> np.ndarray:
        at = np.sqrt(size[..., -1]) / grid[1]
        low = np.minimum(at.astype(int), len(grid) - 2)
        part = (at - low)[..., None]
        coefficients.append(table[low] * (1 - part) + table[low + 1] * part)
        angle = lag * c / np.sqrt(size[..., -1:] * size)
        products = np.stack(coefficients, -2) * coefficients[-1][..., None, :]
        return _series(products, angle)

    for row in _rows(np.asarray(correlation, float), s[:, None], sizes, overlap):  # noqa: B007
        pass
    return row[..., -1] - sizes


def gradient_displacement(correlation: np.ndarray, scales: np.ndarray, width: int) -> np.ndarray:
    """The mean square of ||p_0 - p_L|| / ||p_L|| through Original blocks, one number for each of the ``scales``.

    With q(k, l) = <p_k, p_l>/||p_L||^2, the sum of ``theory.first_order_gradient_sum`` where h and p move:
    <p_k - p_{k+1}, p_l - p_{l+1}>/||p_L||^2 = s^2 r (r P (1 - 1/d) + K c/d) q(k + 1, l + 1), where P is the chance that
    a unit is active in both layers, K its overlap and c the correlation of h_k and h_l. Of the terms of order 1/d only
    that one is kept which sums up as the weights do, and is not small at moderate d.
    """
    r, s2 = np.asarray(correlation, float), np.asarray(scales, float)[:, None] ** 2
    depth = len(r)
    c = np.ones((len(s2), depth + 1, depth + 1))
    for k, row in enumerate(rows(r, scales)):
        c[:, k, : k + 1] = c[:, : k + 1, k] = row
    root = np.sqrt(np.diagonal(c, axis1=1, axis2=2))
    q = np.ones_like(c)
    for k in range(depth - 1, -1, -1):
        lag = r[: depth - k]
        angle = c[:, k, k:depth] / (root[:, k : k + 1] * root[:, k:depth])
        shared = np.clip(lag / r[0] * angle, -1.0, 1.0)
        both = lag * (0.25 + np.arcsin(shared) / (2 * np.pi)) * (1 - 1 / width)
        step = s2 * lag * (both + r[0] * relu_overlap(shared) * angle / width) * q[:, k + 1, k + 1 :]
        sums = step[:, ::-1].cumsum(1)[:, ::-1]
        q[:, k, k + 1 : depth] = q[:, k + 1 : depth, k] = q[:, k + 1, k + 1 : depth] + sums[:, 1:]
        q[:, k, k] = q[:, k + 1, k + 1] + 2 * sums[:, 0] - step[:, 0]
    return q[:, 0, 0] - 1


def _rows(r: np.ndarray, s: np.ndarray, start: np.ndarray, overlap: Callable) -> Iterator[np.ndarray]:
    """The recursion: c(k, 0), ..., c(k, k) on a last axis, from c(0, 0) = ``start``; overlap(lag, row, diagonal)."""
    size, row = np.empty((*start.shape, len(r) + 1)), start[..., None]
    size[..., 0] = start
    yield row
    for k in range(len(r)):
        lag = r[k::-1]
        step = s[..., None] ** 2 * lag * overlap(lag, row, size[..., : k + 1])
        sums = step.cumsum(-1)
        size[..., k + 1] = row[..., -1] + 2 * sums[..., -1] - step[..., -1]
        row = np.concatenate([row[..., :1], row[..., 1:] + sums[..., :-1], size[..., k + 1 : k + 2]], -1)
        yield row


def _hermite(phi: Activation, sizes: np.ndarray, terms: int = 14) -> np.ndarray:
    """Coefficients of z -> phi(z size) in the normalised Hermite polynomials, shape (sizes, terms)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    polynomials = [np.ones(80), nodes]
    for k in range(1, terms - 1):
        polynomials.append(nodes * polynomials[-1] - k * polynomials[-2])
    norms = np.sqrt(special.factorial(np.arange(terms)))[:, None]
    values = phi.f(torch.from_numpy(sizes[:, None] * nodes)).cpu().numpy()
    return values * (weights / weights.sum()) @ (np.array(polynomials) / norms).T


def _series(products: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """sum_n products[..., n] angle^n."""
    total = np.zeros_like(angle)
    for n in reversed(range(products.shape[-1])):
        total = total * angle + products[..., n]
    return total


def _overlap(family: str, variance: float, lag: np.ndarray, c: np.ndarray, size: np.ndarray) -> np.ndarray:
    """E relu(X) relu(Y), or E X Y, for the last layer so far with each one before it."""
    if family == "linear":
        return lag * c
    norms = np.sqrt(size[..., -1:] * size)
    if family == "simple":
        return norms * relu_overlap(c / norms)
    return variance * norms * relu_overlap(lag / variance * c / norms)

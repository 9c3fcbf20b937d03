"""A step of gradient descent of two-layer networks as compiled loops, layer by layer and network by network.

What ``training`` says in batched products of ten rows is here one pass over the weights in the order in which they lie
in memory: each is read, used and updated while it is in the cache. A call costs nothing, so narrow networks gain most;
and loops without Python let threads share the networks of an ensemble. The loops are compiled by Numba at first use.
Without Numba ``step`` is None and ``training`` uses PyTorch's operations, with the same results up to rounding.
"""

import numpy as np

try:
    from numba import njit
except ImportError:  # no wheel for this Python: everything works, slower
    njit = None

TANH, RELU, IDENTITY = range(3)
KINDS = {"tanh": TANH, "relu": RELU, "identity": IDENTITY}  # the activations that these loops know


def _compile(function):
    """Sums may be reordered, which vectors need; NaN and infinity keep their meaning, which diverged networks need."""
    settings = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "arcp", "nsz"}}
    if not njit:
        return function
    try:
        return njit(function, cache=True, **settings)
    except RuntimeError:  # no folder to keep the machine code in: it is made anew in each process
        return njit(function, **settings)


@_compile
def _products(factor, A, B, C, w):  # pragma: no cover - compiled
    """C += factor A B in the first w columns, for A (p, k) and B (k, M): two rows and five terms at a time."""
    p, k = A.shape
    for j in range(0, p - 1, 2):
        d = 0
        while d + 5 <= k:
            a0, a1, a2 = factor * A[j, d], factor * A[j, d + 1], factor * A[j, d + 2]
            a3, a4 = factor * A[j, d + 3], factor * A[j, d + 4]
            c0, c1, c2 = factor * A[j + 1, d], factor * A[j + 1, d + 1], factor * A[j + 1, d + 2]
            c3, c4 = factor * A[j + 1, d + 3], factor * A[j + 1, d + 4]
            for m in range(w):
                b0, b1, b2, b3, b4 = B[d, m], B[d + 1, m], B[d + 2, m], B[d + 3, m], B[d + 4, m]
                C[j, m] += a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3 + a4 * b4
                C[j + 1, m] += c0 * b0 + c1 * b1 + c2 * b2 + c3 * b3 + c4 * b4
            d += 5
        for e in range(d, k):
            a0, c0 = factor * A[j, e], factor * A[j + 1, e]
            for m in range(w):
                C[j, m] += a0 * B[e, m]
                C[j + 1, m] += c0 * B[e, m]
    if p % 2:
        for d in range(k):
            a0 = factor * A[p - 1, d]
            for m in range(w):
                C[p - 1, m] += a0 * B[d, m]


@_compile
def _sums(A, B, S, w):  # pragma: no cover - compiled
    """S = A B^T over the first w columns, for A (p, M) and B (k, M): two rows and five columns of S at a time."""
    p, k = S.shape
    for j in range(0, p - 1, 2):
        d = 0
        while d + 5 <= k:
            s0 = s1 = s2 = s3 = s4 = r0 = r1 = r2 = r3 = r4 = 0.0
            for m in range(w):
                a, c = A[j, m], A[j + 1, m]
                b0, b1, b2, b3, b4 = B[d, m], B[d + 1, m], B[d + 2, m], B[d + 3, m], B[d + 4, m]
                s0, s1, s2, s3, s4 = s0 + a * b0, s1 + a * b1, s2 + a * b2, s3 + a * b3, s4 + a * b4
                r0, r1, r2, r3, r4 = r0 + c * b0, r1 + c * b1, r2 + c * b2, r3 + c * b3, r4 + c * b4
            S[j, d], S[j, d + 1], S[j, d + 2], S[j, d + 3], S[j, d + 4] = s0, s1, s2, s3, s4
            S[j + 1, d], S[j + 1, d + 1], S[j + 1, d + 2], S[j + 1, d + 3], S[j + 1, d + 4] = r0, r1, r2, r3, r4
            d += 5
        for e in range(d, k):
            s0 = r0 = 0.0
            for m in range(w):
                s0 += A[j, m] * B[e, m]
                r0 += A[j + 1, m] * B[e, m]
            S[j, e], S[j + 1, e] = s0, r0
    if p % 2:
        for d in range(k):
            s0 = 0.0
            for m in range(w):
                s0 += A[p - 1, m] * B[d, m]
            S[p - 1, d] = s0


@_compile
def _tanh(z):  # pragma: no cover - compiled
    """tanh to a few units of the last digit, in arithmetic that compilers turn into vectors.

    With t(x) = e^x - 1, tanh z = t/(t + 2) at x = 2z; t(x) = t(x/2) (t(x/2) + 2), seven times from the series at x/128.
    """
    z = (20.0 if z > 0 else -20.0) if abs(z) > 20 else z  # NaN stays
    x = z / 64
    t = x / 40320 + 1 / 5040
    t = t * x + 1 / 720
    t = t * x + 1 / 120
    t = t * x + 1 / 24
    t = t * x + 1 / 6
    t = t * x + 1 / 2
    t = (t * x + 1) * x
    t = t * (t + 2)
    t = t * (t + 2)
    t = t * (t + 2)
    t = t * (t + 2)
    t = t * (t + 2)
    t = t * (t + 2)
    t = t * (t + 2)
    return t / (t + 2)


@_compile
def _write(z, kind, constant, w):  # pragma: no cover - compiled
    """z becomes rho(z) in its first w columns."""
    for j in range(len(z)):
        if kind == TANH:
            for m in range(w):
                z[j, m] = _tanh(z[j, m]) + constant
        elif kind == RELU:
            for m in range(w):
                z[j, m] = 0.0 if z[j, m] < 0 else z[j, m]


@_compile
def _pull(g, a, kind, constant, w):  # pragma: no cover - compiled
    """g becomes rho'(z) g in its first w columns, where a = rho(z)."""
    for j in range(len(g)):
        if kind == TANH:
            for m in range(w):
                g[j, m] *= 1 - (a[j, m] - constant) ** 2
        elif kind == RELU:
            for m in range(w):
                g[j, m] *= 1.0 if a[j, m] > 0 else 0.0


@_compile
def _forward(lo, hi, U, V, units, mean, ahead, kind, constant, h, a, S, block):  # pragma: no cover - compiled
    """States h^1 to h^L of the networks from h^0, and their activations ``a`` (L, networks, N, M)."""
    (L, _, N, _), D = a.shape, S.shape[1]
    block[:] = 0
    for l in range(L):  # noqa: E741 - the paper's letter
        for i in range(lo, hi):  # neighbours in memory
            A, before, w = a[l, i - lo], block[i - lo], units[l, i]
            for j in range(N):
                for d in range(D):
                    total = h[l, i, j, d]
                    h[l + 1, i, j, d] = total
                    h[l, i, j, d] = total + ahead * before[j, d]
                for m in range(w):
                    A[j, m] = 0
            _products(1 / D, h[l, i], U[l, i], A, w)
            _write(A, kind, constant, w)
            _sums(A, V[l, i], S, w)
            for j in range(N):
                for d in range(D):
                    before[j, d] = mean[i] * S[j, d]
                    h[l + 1, i, j, d] += before[j, d]


@_compile
def _backward(
    lo, hi, U, V, units, mean, u_rate, v_rate, ahead, kind, constant, h, b, a, S, block, g
):  # pragma: no cover - compiled
    """Gradients b^(L-1) to b^0 from b^L; a layer gets its new weights as soon as the old ones have been used."""
    (L, _, N, _), D = a.shape, S.shape[1]
    block[:] = 0
    for l in range(L - 1, -1, -1):  # noqa: E741
        for i in range(lo, hi):
            A, before, w = a[l, i - lo], block[i - lo], units[l, i]
            for j in range(N):
                for d in range(D):
                    total = b[l + 1, i, j, d]
                    b[l, i, j, d] = total
                    b[l + 1, i, j, d] = total + ahead * before[j, d]
                for m in range(w):
                    g[j, m] = 0
            _products(1.0, b[l + 1, i], V[l, i], g, w)
            _pull(g, A, kind, constant, w)
            _sums(g, U[l, i], S, w)
            for j in range(N):
                for d in range(D):
                    before[j, d] = mean[i] / D * S[j, d]
                    b[l, i, j, d] += before[j, d]
            if u_rate[i] or v_rate[i]:
                _products(-u_rate[i], h[l, i].T, g, U[l, i], w)
                _products(-v_rate[i], b[l + 1, i].T, A, V[l, i], w)


@_compile
def _look(lo, hi, x, y, k, ceiling, U, V, h, b, loss, first, diverged):  # pragma: no cover - compiled
    """Losses of step k and b^L; a network whose loss is not finite, or above its ceiling, is NaN from now on."""
    (N, D), L = y.shape, len(U)
    for i in range(lo, hi):
        square = 0.0
        for j in range(N):
            for d in range(D):
                difference = h[L, i, j, d] - y[j, d]
                square += difference * difference
                b[L, i, j, d] = difference / (N * D)
        loss[i] = square / (2 * N * D)
        if k == 0:
            first[i] = loss[i]
        if not (loss[i] <= ceiling * first[i] and np.isfinite(loss[i])):
            diverged[i] = k if diverged[i] < 0 else diverged[i]
            loss[i] = np.nan
            for l in range(L):  # noqa: E741
                U[l, i], V[l, i] = np.nan, np.nan
            for l in range(L + 1):  # noqa: E741
                h[l, i], b[l, i] = np.nan, np.nan


@_compile
def _step(
    lo, hi, U, V, units, x, y, rates, ahead, kind, constant, k, ceiling, h, b, loss, first, diverged, a
):  # pragma: no cover - compiled
    """Step k of the networks from ``lo`` to ``hi``; ``rates`` holds alpha/(LM) and the rates of u and of v."""
    N, D = y.shape
    mean, u_rate, v_rate = rates
    S, block, g = np.empty((N, D), a.dtype), np.empty((hi - lo, N, D), a.dtype), np.empty_like(a[0, 0])
    for i in range(lo, hi):
        for j in range(N):
            for d in range(D):
                h[0, i, j, d] = x[j, d]
    _forward(lo, hi, U, V, units, mean, ahead, kind, constant, h, a, S, block)
    _look(lo, hi, x, y, k, ceiling, U, V, h, b, loss, first, diverged)
    _backward(lo, hi, U, V, units, mean, u_rate, v_rate, ahead, kind, constant, h, b, a, S, block, g)


step = _step if njit else None

"""Wide ReLU networks Y_l = Y_{l-1} + sqrt(T/L) W_l relu(Y_{l-1}) of finite depth: variance and mean to order 1/n.

Y_0 ~ N(0, I_n), W_l with entries N(0, 1/n). As n -> inf the coordinates are independent N(0, v_l) with
v_l = (1 + h/2)^l, h = T/L, and those of layers j and k have correlation rho = (1 + h/2)^(-|j-k|/2). They all share
S_l = ||relu(Y_l)||^2/n = v_l/2 + s_l/sqrt(n) + ..., where s_l = g_l + (h/2) sum_{k<l} s_k: the fluctuation g_l of a
mean of independent coordinates, and what earlier ones of the volatility did since. Solved for s and divided by v,

    s_l/v_l = g_l/v_l + c sum_{k<l} g_k/v_k,    c = (h/2)/(1 + h/2),

with Cov(g_j, g_k)/(v_j v_k) = Cov(relu(Z)^2, relu(Z')^2), a function of rho alone. Derived in the book.
"""

from math import log, pi

import numpy as np
from scipy import linalg

from deeplimits.checks import finite, positive_integer


def log_norm_variance(depth: int, time: float = 1.0) -> float:
    """V_L(T) = lim n Var log(||relu(Y_L)||/||relu(Y_0)||) as n -> inf, exact at every depth: Var(s_L/v_L - s_0/v_0).

    Tends to ``growth.variance_limit(T)`` as L -> inf, from below: V_50(1) = 1.0572, V_800(1) = 1.0724.
    """
    L, h = _steps(depth, time)
    return _form(_weights(L, h) - np.eye(1, L + 1)[0], square_covariance(_correlations(L, h)))


def share_variance(depth: int, time: float = 1.0) -> float:
    """lim n Var of T/L sum_{l<L} (m_l/2 - 1)/n as n -> inf, m_l the number of positive coordinates of Y_l.

    Tends to ``growth.share_limit(T)``.
    """
    L, h = _steps(depth, time)
    return _form(np.full(L, h / 2), np.arcsin(_correlations(L, h)[:-1]) / (2 * pi))


def twin_distance(depth: int, time: float = 1.0) -> float:
    """lim n E (Y_L^i - twin)^2 as n -> inf; the twin has the same noise, at the volatility of infinite width.

    h sum_{k<L} E (sqrt(S_k) - sqrt(v_k/2))^2 with sqrt(S_k) - sqrt(v_k/2) = s_k/sqrt(2 n v_k) to first order.
    """
    L, h = _steps(depth, time)
    covariances = square_covariance(_correlations(L, h))
    variances = [_form(_weights(k, h), covariances[: k + 1]) for k in range(L)]
    return h / 2 * float((1 + h / 2) ** np.arange(L) @ np.array(variances))


def square_covariance(rho: np.ndarray | float) -> np.ndarray:
    """Cov(relu(Z)^2, relu(Z')^2) for standard normal Z and Z' of correlation ``rho``: 5/4 at 1, 0 at 0."""
    angle = np.arccos(rho)
    return (3 * np.sin(angle) * np.cos(angle) + (pi - angle) * (1 + 2 * np.cos(angle) ** 2)) / (2 * pi) - 1 / 4


def mean_square(width: int, depth: int, time: float = 1.0) -> float:
    """E (Y_L^i)^2 up to an error of order 1/n^2: v_L + (h/n) sum_{k<L} b_k, with b_k the 1/n term of E S_k."""
    L, h = _steps(depth, time)
    return _growth(h, L) + h * _bend(L, h)[:-1].sum() / positive_integer("width", width)


def log_norm_mean(width: int, depth: int, time: float = 1.0) -> float:
    """E log(||relu(Y_L)||/||relu(Y_0)||) up to an error of order 1/n^2.

    It is (log v_L)/2 + (b_L/v_L - Var(s_L)/v_L^2 + Var(s_0))/n: the logarithm is concave.
    """
    L, h = _steps(depth, time)
    rest = square_covariance(1.0) - _form(_weights(L, h), square_covariance(_correlations(L, h)))
    v_L = _growth(h, L)
    return log(v_L) / 2 + (_bend(L, h)[-1] / v_L + float(rest)) / positive_integer("width", width)


def _bend(L: int, h: float) -> np.ndarray:
    """b_0, ..., b_L with E S_l = v_l/2 + b_l/n + O(1/n^2).

    A coordinate is itself a part, 1/n, of its volatility. So S_k contains (g_k + v_k c sum_{j<k} g_j/v_j)/n of that
    coordinate, which is correlated with where it will be: by parts, relu(Y_l)^2 has the mean v_l/2 + b_l/n with
    b_l = (h/2) sum_{k<l} (b_k + 2 E[1{Y_l > 0} (g_k + ...)]).
    """
    rho, v = _correlations(L, h), (1 + h / 2) ** np.arange(L + 1)
    joint = (np.arcsin(rho) + rho * np.sqrt(1 - rho**2)) / pi  # 2 E[1{Z > 0} (relu(Z')^2 - 1/2)]
    c, b = h / (2 + h), np.zeros(L + 1)
    for k in range(1, L + 1):
        past = joint[k:0:-1]  # of the layers 0, ..., k - 1
        b[k] = h / 2 * (b[:k].sum() + (v[:k] * (past + c * (past.cumsum() - past))).sum())
    return b


def _weights(L: int, h: float) -> np.ndarray:
    """s_L/v_L as a combination of g_k/v_k, k = 0, ..., L."""
    return np.append(np.full(L, h / (2 + h)), 1.0)


def _correlations(L: int, h: float) -> np.ndarray:
    """Of one coordinate at layers 0, 1, ..., L apart."""
    return (1 + h / 2) ** (-np.arange(L + 1) / 2)


def _form(weights: np.ndarray, covariances: np.ndarray) -> float:
    """The variance of a weighted sum of a stationary sequence with these covariances at distance 0, 1, ..."""
    return float(weights @ linalg.matmul_toeplitz(covariances, weights))


def _growth(h: float, L: int) -> float:
    return (1 + h / 2) ** L


def _steps(depth: int, time: float) -> tuple[int, float]:
    L, T = positive_integer("depth", depth), finite("time", time)
    if T <= 0:
        raise ValueError(f"time must be positive, got {time}; the network lives on [0, 1], longer times on [0, T]")
    return L, T / L

"""How the norm of a ReLU network at the limit of infinite depth grows: constants.

All of it is about log(||phi(X_t)||/||phi(X_0)||) given phi(X_0) != 0, for dX = ||phi(X)||/sqrt(n) dB started from
X_0 ~ N(0, I_n). [H] is Hayou (2023); what carries no [H] is derived in the book.
"""

from math import comb, exp, gamma, lgamma, log, pi, sqrt

import numpy as np
from scipy import integrate, special, stats

from deeplimits.activations import Activation
from deeplimits.checks import finite, instance, positive_integer


def positive_share(width: int) -> float:
    """P(X_0^1 > 0 | some coordinate is positive) = 1/(2 (1 - 2^-n))."""
    return 0.5 / (1 - 2.0 ** -positive_integer("width", width))


def linear_mean(width: int, time: float = 1.0) -> float:
    """[H, Theorem 1] ((1 - 2^-n)^-1/4 - 1/n) t, the mean that is exact for n = 1, as n -> inf, and as t -> 0 only."""
    return (positive_share(width) / 2 - 1 / width) * finite("time", time)


def initial_bend(width: int) -> float:
    """C_n in P(X_s^1 > 0 | E) = p_0 - C_n s^(3/2) + ..., n >= 2: E||relu(zeta)|| / (3 pi n^(3/2) (1 - 2^-n)).

    zeta ~ N(0, I_{n-1}). Positive for n >= 2, so the mean lies below its tangent at 0 at once.
    """
    n = positive_integer("width", width)
    chi = [0.0] + [sqrt(2) * exp(lgamma((k + 1) / 2) - lgamma(k / 2)) for k in range(1, n)]
    mean = sum(comb(n - 1, k) * chi[k] for k in range(n)) * 2.0 ** (1 - n)
    return mean / (3 * pi * n**1.5 * (1 - 2.0**-n))


def share_limit(time: float = 1.0) -> float:
    """lim n Gamma_t, Gamma_t = Var of the time average of the drift: 1/4 int int_[0,t]^2 arcsin(exp(-|s-u|/4))/(2 pi).

    The drift is half the share of positive coordinates, which are independent in the limit. 0.0478 at t = 1.
    """
    t = finite("time", time)
    if t <= 0:
        raise ValueError(f"time must be positive, got {t}; at time 0 the variance is 0")
    return integrate.quad(lambda d: (t - d) * np.arcsin(exp(-d / 4)) / (2 * pi), 0, t)[0] / 2


def variance_limit(time: float = 1.0) -> float:
    """V(t) = lim n Var log(||phi(X_t)||/||phi(X_0)||): t + :func:`share_limit` + a cross term.

    The martingale gives t, the fluctuation of the share of positive coordinates the second term, and their
    covariance the last. V(1) = 1.0734.
    """
    t, share = finite("time", time), share_limit(time)
    cross = integrate.quad(lambda d: (t - d) * sqrt(exp(-d / 2) * (1 - exp(-d / 2))), 0, t)[0] / (2 * pi)
    return t + share + cross


def identity_mean(width: int, depth: int) -> float:
    """E log(||Y_L||/||Y_0||) for phi(y) = y, exact at finite depth; tends to 1/2 - 1/n as L -> inf [H, Proposition 9].

    ||Y_l||^2/||Y_{l-1}||^2 is chi-square with n + 2J degrees of freedom over nL, J ~ Poisson(nL/2).
    """
    J, weights, n, L = _mixture(width, depth)
    return L / 2 * float(weights @ (special.digamma(n / 2 + J) - log(n * L / 2)))


def identity_characteristic(s: np.ndarray, width: int, depth: int) -> np.ndarray:
    """E exp(i s log(||Y_L||/||Y_0||)) for phi(y) = y, as :func:`identity_mean`; same shape as ``s``."""
    J, weights, n, L = _mixture(width, depth)
    half = 0.5j * np.asarray(s)[..., None]
    moments = np.exp(special.loggamma(n / 2 + J + half) - special.loggamma(n / 2 + J) - half * log(n * L / 2))
    return (moments @ weights) ** L


def initial_rate(width: int, phi: Activation) -> float:
    """d/dt E log(||phi(X_t)||/||phi(X_0)||) at t = 0 for phi piecewise linear, slopes a and b: (a^2+b^2)/4 - E q/n.

    q = sum phi_i^2 phi_i'^2 / ||phi||^2 at X_0 ~ N(0, I_n). With K ~ Bin(n, 1/2) positive coordinates and
    u ~ Beta(K/2, (n-K)/2) their share of ||X_0||^2, q = a^2 + b^2 - a^2 b^2/(a^2 u + b^2 (1 - u)). If one slope is 0
    the rate is given phi(X_0) != 0. Raises ValueError for other activations.
    """
    instance("phi", phi, Activation, "make one with piecewise_linear")
    n = positive_integer("width", width)
    if phi.slopes is None:
        raise ValueError(f"phi must be piecewise linear with a kink at 0, got {phi.name}; use piecewise_linear(a, b)")
    a2, b2 = (slope**2 for slope in phi.slopes)
    if a2 == 0 or b2 == 0:  # q is the square of the other slope, unless phi(X_0) = 0
        return (a2 + b2) * (positive_share(n) / 2 - 1 / n)
    q = [b2 if k == 0 else a2 if k == n else a2 + b2 - a2 * b2 * _mean_inverse(a2, b2, k, n - k) for k in range(n + 1)]
    return (a2 + b2) / 4 - sum(comb(n, k) * 2.0**-n * q[k] for k in range(n + 1)) / n


def _mixture(width: int, depth: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Values of J ~ Poisson(nL/2) and their probabilities; what is left out has probability below 1e-15."""
    n, L = positive_integer("width", width), positive_integer("depth", depth)
    low, high = stats.poisson.ppf([1e-16, 1 - 1e-15], n * L / 2)
    J = np.arange(int(low), int(high) + 2)
    weights = stats.poisson.pmf(J, n * L / 2)
    return J, weights / weights.sum(), n, L


def _mean_inverse(a2: float, b2: float, k: int, m: int) -> float:
    """E 1/(a2 u + b2 (1 - u)) for u ~ Beta(k/2, m/2); u = sin^2 x removes the singular ends."""
    c = 2 * gamma((k + m) / 2) / (gamma(k / 2) * gamma(m / 2))

    def f(x: float) -> float:
        u = np.sin(x) ** 2
        return c * np.sin(x) ** (k - 1) * np.cos(x) ** (m - 1) / (a2 * u + b2 * (1 - u))

    return integrate.quad(f, 0, pi / 2, points=[pi / 4])[0]

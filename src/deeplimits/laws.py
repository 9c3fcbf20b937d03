"""Closed-form laws of the diffusion at width one, as frozen distributions with the method names of SciPy.

Each is the law of X_t given X_0 = x0 > or < 0, or a mixture over X_0. All are made from a normal variable: X is an
increasing function of Z ~ N(0, 1), so cdf, pdf and ppf follow from those of Z.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, pi, sqrt

import numpy as np
import torch
from scipy import optimize, special, stats
from torch import Tensor

from deeplimits.activations import inverse_erfi
from deeplimits.checks import finite, positive_integer


@dataclass(frozen=True)
class Transformed:
    """The law of ``forward(Z)``, Z ~ N(0, 1): ``inverse`` undoes it on (low, high), with derivative ``slope``."""

    forward: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]
    low: float = -np.inf
    high: float = np.inf

    def cdf(self, x: np.ndarray | float) -> np.ndarray:
        """P(X <= x)."""
        inside, y = self._inside(x)
        return np.where(inside, stats.norm.cdf(self.inverse(y)), np.asarray(x) >= self.high)

    def pdf(self, x: np.ndarray | float) -> np.ndarray:
        """The density at x."""
        inside, y = self._inside(x)
        return np.where(inside, stats.norm.pdf(self.inverse(y)) * self.slope(y), 0.0)

    def ppf(self, p: np.ndarray | float) -> np.ndarray:
        """The quantile: x with P(X <= x) = p."""
        return self.forward(stats.norm.ppf(p))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` independent draws, float64 on the generator's device."""
        return _through(self.forward, _normal(n, generator))

    def _inside(self, x: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        x = np.asarray(x, float)
        inside = (x > self.low) & (x < self.high)
        return inside, np.where(inside, x, self.forward(np.zeros(())))  # the median in place of what lies outside


def affine(x0: float, alpha: float, beta: float, time: float) -> Transformed:
    """X_t for phi(y) = alpha y + beta and X_0 = x0: a geometric Brownian motion about -beta/alpha.

    log |(alpha X_t + beta)/(alpha x0 + beta)| ~ N(-alpha^2 t/2, alpha^2 t), and alpha X + beta keeps its sign
    (Hayou, Proposition 2, with the modulus that the printed formula needs). alpha = 1, beta = 0 and x0 > 0 is ReLU,
    too (Proposition 3).
    """
    x0, alpha, beta, t = finite("x0", x0), finite("alpha", alpha), finite("beta", beta), _positive_time(time)
    if alpha == 0:
        raise ValueError("alpha must not be zero: X would be a plain Brownian motion; use scipy.stats.norm")
    centre, m, s = -beta / alpha, -(alpha**2) * t / 2, abs(alpha) * sqrt(t)
    start = x0 - centre
    if start == 0:
        raise ValueError(f"x0 = {x0} is where alpha x + beta = 0: X stays there and has no density; take another x0")
    sign = 1.0 if start > 0 else -1.0
    return Transformed(
        lambda z: centre + start * np.exp(m + sign * s * z),
        lambda x: sign * (np.log((x - centre) / start) - m) / s,
        lambda x: 1 / (s * np.abs(x - centre)),
        *((centre, np.inf) if start > 0 else (-np.inf, centre)),
    )


def ornstein_uhlenbeck(x0: float, alpha: float, beta: float, time: float) -> Transformed:
    """X_t for the activation ``erfi_exponential(alpha, beta)`` and X_0 = x0 (Hayou, Proposition 4).

    g = erfi^-1(alpha X + beta) is an Ornstein-Uhlenbeck process, dg = -a g dt + sqrt(a) dB with a = pi alpha^2/4, so
    g_t ~ N(g_0 e^(-at), (1 - e^(-2at))/2). X has infinite variance for t > log 2/(2a), and at equality unless g_0 = 0.
    """
    x0, alpha, beta, t = finite("x0", x0), finite("alpha", alpha), finite("beta", beta), _positive_time(time)
    if alpha == 0:
        raise ValueError("alpha must not be zero: the activation would be constant; for example 1")
    a, sign = pi * alpha**2 / 4, 1.0 if alpha > 0 else -1.0
    g0 = float(inverse_erfi(torch.tensor(alpha * x0 + beta, dtype=torch.float64, device="cpu")))
    mean, sd = g0 * exp(-a * t), sqrt((1 - exp(-2 * a * t)) / 2)

    def g(x: np.ndarray) -> np.ndarray:
        return _through(inverse_erfi, alpha * np.asarray(x, float) + beta)

    return Transformed(
        lambda z: (special.erfi(mean + sign * sd * z) - beta) / alpha,
        lambda x: sign * (g(x) - mean) / sd,
        lambda x: sqrt(pi) / 2 * abs(alpha) * np.exp(-(g(x) ** 2)) / sd,
    )


@dataclass(frozen=True)
class ReluMixture:
    """X_t for ReLU at width 1, X_0 ~ N(0, ``variance``): negative inputs stay, positive ones move (Proposition 3)."""

    variance: float
    time: float

    def __post_init__(self) -> None:
        if finite("variance", self.variance) <= 0:
            raise ValueError(f"variance must be positive, got {self.variance}; X_0 has variance ||x||^2/d")
        _positive_time(self.time)

    def cdf(self, x: np.ndarray | float) -> np.ndarray:
        """P(X <= x): the normal law below 0; above, an average over the Gaussian factor in the exponent."""
        growth, weight = self._growth()
        return stats.norm.cdf(_over(x, growth) / sqrt(self.variance)) @ weight

    def pdf(self, x: np.ndarray | float) -> np.ndarray:
        """The density at x."""
        growth, weight = self._growth()
        at, scale = _over(x, growth), sqrt(self.variance)
        jacobian = np.where(np.asarray(x)[..., None] > 0, 1 / growth, 1.0)
        return (stats.norm.pdf(at / scale) / scale * jacobian) @ weight

    def ppf(self, p: float) -> float:
        """The quantile: x with P(X <= x) = p."""
        scale = sqrt(self.variance)
        if p <= 0.5:
            return scale * stats.norm.ppf(p)
        top = scale * stats.norm.isf((1 - p) / 2) * exp(sqrt(self.time) * stats.norm.isf((1 - p) / 2))
        return optimize.brentq(lambda x: self.cdf(x) - p, 0.0, top)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` independent draws, float64 on the generator's device."""
        X0, Z = _normal(n, generator) * sqrt(self.variance), _normal(n, generator)
        return torch.where(X0 > 0, X0 * torch.exp(sqrt(self.time) * Z - self.time / 2), X0)

    def _growth(self) -> tuple[np.ndarray, np.ndarray]:
        z = np.arange(-9.0, 9.0, 0.1)  # the trapezoidal rule is exact to rounding for functions this smooth
        return np.exp(sqrt(self.time) * z - self.time / 2), 0.1 * stats.norm.pdf(z)


def _over(x: np.ndarray | float, growth: np.ndarray) -> np.ndarray:
    """The start that leads to x: x itself if negative, x over the growth if positive; a new last axis."""
    x = np.asarray(x, float)[..., None]
    return np.where(x > 0, x / growth, x * np.ones_like(growth))


def _normal(n: int, generator: torch.Generator) -> Tensor:
    size = positive_integer("n", n)
    return torch.empty(size, dtype=torch.float64, device=generator.device).normal_(generator=generator)


def _through(function: Callable, values: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """A NumPy function of a tensor, or a torch function of an array: in and out of the same kind."""
    if isinstance(values, Tensor):
        return torch.as_tensor(function(values.cpu().numpy()), dtype=values.dtype, device=values.device)
    return function(torch.from_numpy(np.asarray(values))).numpy()


def _positive_time(time: float) -> float:
    if finite("time", time) <= 0:
        raise ValueError(f"time must be positive, got {time}; at time 0 the law is a point")
    return float(time)

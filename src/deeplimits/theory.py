"""What the theorems predict at initialisation, as functions of depth, width, beta and the law of the weights.

Notation: h_{k+1} = h_k + L^-beta V relu(W h), entries of sqrt(d) V and sqrt(d) W symmetric with unit
variance. [M] is Marion, Fermanian, Biau and Vert, [C] Chizat; what carries neither is derived in the book.
"""

from functools import cache
from math import exp, inf, lgamma, log, log1p, sqrt

import numpy as np

from deeplimits.activations import Activation, relu
from deeplimits.checks import finite, one_of, positive_integer

VACUOUS_BELOW = 22 * (8 / 3) ** 2  # [M]'s lower bound at beta = 1/2 is negative unless d delta exceeds 1408/9


def residual_scale(depth: int, beta: float) -> float:
    """The factor L^-beta in front of each block."""
    return positive_integer("depth", depth) ** -finite("beta", beta)


def regime(beta: float, critical: float = 0.5) -> str:
    """[M] for d >= 3: ``explosion`` below the critical exponent, ``stability`` at it, ``identity`` above."""
    beta = finite("beta", beta)
    return "stability" if beta == critical else "identity" if beta > critical else "explosion"


def scale_borders(width: int, depth: int, hidden: int) -> tuple[float, float]:
    """The two borders in sigma_v of training 2LP networks: sqrt(D) and sqrt(LM) ([C], Figure 4).

    Up to factors of order one. Below the first, local updates are maximal; beyond it training is lazy; beyond the
    second the network is unstable. Divide by LM for the residual scale. In this order only if D = O(LM).
    """
    D, L, M = positive_integer("width", width), positive_integer("depth", depth), positive_integer("hidden", hidden)
    if D > L * M:
        raise ValueError(f"width must be at most depth x hidden = {L * M} for the regimes to exist, got {D}; add units")
    return sqrt(D), sqrt(L * M)


def training_regime(sigma_v: float, width: int, depth: int, hidden: int, factor: float = 1.0) -> str:
    """[C, Section 4]: ``sub-critical``, ``critical``, ``lazy`` or ``unstable``, by :func:`scale_borders`.

    ``critical`` is what lies within the ``factor`` >= 1 of the first border on either side.
    """
    first, second = scale_borders(width, depth, hidden)
    sigma_v, factor = finite("sigma_v", sigma_v), finite("factor", factor)
    if sigma_v < 0 or factor < 1:
        raise ValueError(f"sigma_v must be >= 0 and factor >= 1, got {sigma_v} and {factor}; sqrt(D) is critical")
    if sigma_v > second:
        return "unstable"
    return "lazy" if sigma_v > factor * first else "critical" if sigma_v >= first / factor else "sub-critical"


def mean_square_norm(depth: int, beta: float, phi: Activation = relu, gain: float = 1.0) -> float:
    """E ||h_L||^2 / ||h_0||^2 = (1 + c L^(-2 beta))^L, exact at every depth and width.

    c = gain^4 E phi(Z)^2 for a positively homogeneous phi: 1/2 for ReLU, 1 for the identity, (1 + s^2)/2
    for a leaky ReLU; ``gain`` is the standard deviation of the entries of sqrt(d) V and sqrt(d) W. Minus
    one, it is E ||h_L - h_0||^2 / ||h_0||^2, because h is a martingale. Beyond the range of floats: inf.
    """
    if phi.slopes is None:
        raise ValueError(f"phi must be positively homogeneous for a closed form, got {phi.name}; use piecewise_linear")
    c = finite("gain", gain) ** 4 * phi.second_moment()
    log_ratio = depth * log1p(c * residual_scale(depth, beta) ** 2)
    return exp(log_ratio) if log_ratio < 709 else inf


def log_norm_limit(width: int, time: float = 1.0) -> tuple[float, float]:
    """Mean and variance of the normal limit of log ||h_L||^2/||h_0||^2: ((1/2 - 1/d) s, 2 s/d).

    ``time`` s is L^(1 - 2 beta): 1 at beta = 1/2, where the limit is a theorem. For 1/6 < beta < 1/2 the law is
    asymptotically normal with these parameters; below 1/6 it still is normal, but the next term of the mean, of
    order L^(1 - 4 beta), is larger than the standard deviation: take L times :func:`log_growth` instead.
    """
    d = positive_integer("width", width)
    return (0.5 - 1 / d) * time, 2 * time / d


def stability_bounds(width: int, delta: float) -> tuple[float, float]:
    """[M, theorem on outputs, beta = 1/2]: ||h_L - h_0||^2/||h_0||^2 lies between, with probability >= 1 - delta."""
    d, delta = positive_integer("width", width), finite("delta", delta)
    if not 0 < delta < 1:
        raise ValueError(f"delta must be a probability strictly between 0 and 1, got {delta}; for example 0.1")
    return exp(3 / 8 - sqrt(22 / (d * delta))) - 1, exp(1 + sqrt(10 / (d * delta))) + 1


def log_growth(width: int, scale: float) -> float:
    """E log(||h_{k+1}||^2/||h_k||^2) for an Original block with Gaussian weights, to about 1e-10.

    One block multiplies ||h||^2 by R = |e + c Z|^2, with e a unit vector, Z ~ N(0, I_d), c^2 = scale^2 T/d^2 and
    T = ||relu(z)||^2 for z ~ N(0, I_d) (see ``resnet.projection``). Frullani's integral turns the logarithm
    into E log R = int_0^inf (e^-t - E e^(-tR)) dt/t, where the Gaussian integral is closed:
    E e^(-tR) = (1 + 2 c^2 t)^(-d/2) exp(-t/(1 + 2 c^2 t)). It is taken by the trapezoidal rule in log t, which
    converges exponentially.
    """
    T, weights = _law_of_relu_square(width)
    c2 = finite("scale", scale) ** 2 * T / width**2
    t = np.exp(np.arange(-40.0, 90.0, 0.1))[:, None]
    spread = 1 + 2 * c2 * t
    drift = np.exp(-t) - np.exp(-t / spread - width / 2 * np.log(spread))
    return float(drift.sum(0) * 0.1 @ weights)


def factor_moment(width: int, scale: float, power: float) -> float:
    """E R^power, R as in :func:`log_growth`, to about 1e-12; infinite unless power > -width/2.

    Given T, R/c^2 is a non-central chi-square variable: a Poisson mixture of chi-squares, whose moments are known.
    """
    d, power = positive_integer("width", width), finite("power", power)
    if power <= -d / 2:
        return inf
    T, weights = _law_of_relu_square(d)
    moments = _noncentral_moments(d / 2, power, d**2 / (2 * finite("scale", scale) ** 2 * T))
    return float(1 + (moments - 1) @ weights)


def mean_norm(depth: int, width: int, beta: float) -> float:
    """E ||h_L|| / ||h_0|| for Original blocks with Gaussian weights: the L-th power of E sqrt(R)."""
    return factor_moment(width, residual_scale(depth, beta), 0.5) ** positive_integer("depth", depth)


def log_cumulants(width: int, scale: float) -> np.ndarray:
    """The first four cumulants of log R, R as in :func:`log_growth`, for a scale of at most 1.

    Derivatives at 0 of log E R^s, by the polynomial through nine points. Those of log ||h_L||^2/||h_0||^2 are L times
    as large, since its L terms are independent.
    """
    s = min(0.1, 0.05 * width) * np.arange(-4.0, 5.0)
    values = [log(factor_moment(width, scale, power)) for power in s]
    taylor = np.linalg.solve(np.vander(s, increasing=True), values)
    return taylor[1:5] * [1, 2, 6, 24]


def relu_overlap(r: np.ndarray | float) -> np.ndarray:
    """E relu(X) relu(Y) for standard normal X, Y of correlation r in [-1, 1]: the arc-cosine kernel, 1/2 at r = 1."""
    r = np.clip(r, -1.0, 1.0)
    return (np.sqrt(1 - r**2) + r * (np.pi - np.arccos(r))) / (2 * np.pi)


def first_order_sum(correlation: np.ndarray, family: str = "original") -> float:
    """S(L) = E||sum_k V_k relu(W_k h)||^2 / ||h||^2, the sum of the L blocks at a state h that does not move.

    ``correlation`` holds r(0) = 1, ..., r(L-1) of the entries of sqrt(d) V and sqrt(d) W, all independent. For
    Original blocks S = sum over |m| < L of (L - |m|) r(m) relu_overlap(r(m)), at every width; for Simple ReLU
    ones, with relu(h) in place of h, relu_overlap drops out: the variance of the sum of one entry.
    """
    one_of("family", family, ("original", "simple"))
    r = np.asarray(correlation, float)
    return _sum_of_pairs(r * relu_overlap(r) if family == "original" else r)


def first_order_gradient_sum(correlation: np.ndarray, width: int) -> float:
    """S(L) = E||sum_k W_k^T D_k V_k^T p||^2 / ||p||^2, D_k = diag 1{W_k h > 0}: the gradient through Original blocks.

    S = sum over |m| < L of (L - |m|) r (r q (1 - 1/d) + relu_overlap(r) / d), r = r(m), where q is the probability
    1/4 + arcsin(r) / (2 pi) that a unit is active in both layers. A row w of W_k has one direction along h, which
    the unit sees as in the forward pass, and d - 1 across it, which only meet their own correlation r once more.
    """
    d, r = positive_integer("width", width), np.asarray(correlation, float)
    both = 0.25 + np.arcsin(np.clip(r, -1.0, 1.0)) / (2 * np.pi)
    return _sum_of_pairs(r * (r * both * (1 - 1 / d) + relu_overlap(r) / d))


def finite_size_line(total: float, depth: int) -> float:
    """The beta at which L^-beta sqrt(S(L)) = 1, for S(L) = ``total`` at the depth L: log S / (2 log L).

    L^-beta sqrt(S) is the root mean square of ||h_L - h_0|| / ||h_0|| as long as it is small. The line tends to
    the critical exponent as L grows, slowly: a constant factor in S moves it by the logarithm of the factor over log L.
    """
    return log(finite("total", total)) / (2 * log(positive_integer("depth", depth)))


def _sum_of_pairs(terms: np.ndarray) -> float:
    """Sum over |m| < L of (L - |m|) terms[|m|]: all pairs of layers by their distance."""
    pairs = np.arange(len(terms), 0, -1.0)
    return float(2 * (pairs * terms).sum() - pairs[0] * terms[0])


@cache
def _law_of_relu_square(width: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for expectations over T = ||relu(z)||^2, z ~ N(0, I_d), of functions that vanish at T = 0.

    The trapezoidal rule in log T; the atom at T = 0 (no active unit) contributes nothing.
    """
    d = positive_integer("width", width)
    step = min(0.05, 0.5 / sqrt(d))
    u = np.arange(-60.0, log(40.0 * d) + 8, step)
    density = sum(exp(_log_binomial(d, k)) * _chi2_density_in_log(u, k) for k in range(1, d + 1))
    keep = density > 1e-20
    return np.exp(u[keep]), density[keep] * step


def _log_binomial(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) - n * log(2)


def _chi2_density_in_log(u: np.ndarray, k: int) -> np.ndarray:
    """Density of log T for T ~ chi2 with k degrees of freedom."""
    return np.exp(k / 2 * u - np.exp(u) / 2 - k / 2 * log(2) - lgamma(k / 2))


def _noncentral_moments(half: float, power: float, x: np.ndarray) -> np.ndarray:
    """E R^power for 2 x R non-central chi-square with 2 ``half`` degrees of freedom and non-centrality 2 x.

    The mixture over a Poisson number n of mean x, or, where x is large, the expansion in 1/x.
    """
    far = x > 30 + 3 * half
    near, small = np.where(far, 1.0, x), np.where(far, 1 / x, 0.0)
    term, series = np.exp(lgamma(half + power) - lgamma(half) - near), np.zeros_like(x)
    step, expansion = np.ones_like(x), np.zeros_like(x)
    for n in range(int(120 + 8 * half)):
        series = series + term
        term = term * near * (half + power + n) / ((half + n) * (n + 1))
        if n < 30:
            expansion = expansion + step
            step = step * small * (n - power) * (n + 1 - power - half) / (n + 1)
    return np.where(far, expansion, series * near**-power)

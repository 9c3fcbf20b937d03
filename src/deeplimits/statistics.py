"""Estimates that carry their own uncertainty, from independent runs.

Every estimator takes one number a run and returns an :class:`Estimate`: value, standard error, sample
size, the number of diverged (non-finite) runs, and an interval for any number of standard errors ``z``,
whose chance to miss the truth is ``false_alarm(z)``. Diverged runs are counted and left out, never
averaged in; what that means for a verdict is decided in ``claims``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import erfc, inf, log, nan, sqrt

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from deeplimits.checks import positive_integer


@dataclass(frozen=True)
class Estimate:
    """A measured number; ``interval(z)`` is (low, high) with false-alarm rate ``false_alarm(z)``.

    ``quantity`` is what kind of number it is: ``constant``, ``exponent``, ``share``, ``distance`` or ``exact``.
    """

    value: float
    standard_error: float
    samples: int
    diverged: int
    interval: Callable[[float], tuple[float, float]]
    quantity: str = "constant"

    def __repr__(self) -> str:
        low, high = self.interval(4)
        return f"{self.value:.4g} ({low:.4g} … {high:.4g} at 4 standard errors, {self.samples} runs)"


def false_alarm(z: float) -> float:
    """P(|Z| > z) for a standard normal Z: 6.3e-5 at z = 4, 5.7e-7 at z = 5."""
    return erfc(z / sqrt(2))


def mean(x: Tensor) -> Estimate:
    """The mean of one number a run, with Student's interval (two runs at least)."""
    x, diverged = _finite(x)
    n = x.size
    if n < 2:
        return Estimate(nan, nan, n, diverged, lambda z: (nan, nan))
    return _student(x.mean(), x.std(ddof=1) / sqrt(n), n - 1, n, diverged)


def difference(x: Tensor, y: Tensor) -> Estimate:
    """mean(x) - mean(y) of two independent samples, with Welch's interval."""
    a, b = mean(x), mean(y)
    parts = np.array([a.standard_error**2, b.standard_error**2])
    freedom = _welch(parts, np.array([a.samples - 1, b.samples - 1]))
    return _student(a.value - b.value, sqrt(parts.sum()), freedom, min(a.samples, b.samples), a.diverged + b.diverged)


def variance(x: Tensor) -> Estimate:
    """The variance of one number a run (three runs at least): jackknife of its logarithm, with Student's interval.

    For normal runs the interval keeps its false-alarm rate from a dozen runs on, up to a factor of five at 4 standard
    errors. Runs with heavy tails hide their own spread: of exponential ones 0.3 % miss at 4 standard errors with 200
    runs, of log-normal ones 3 %. Take the variance of their logarithm.
    """
    x, diverged = _finite(x)
    n = x.size
    if n < 3 or not np.ptp(x):
        return Estimate(nan, nan, n, diverged, lambda z: (nan, nan))
    s2 = x.var(ddof=1)
    # The variance without run i, in closed form; it is zero if run i alone differs from the others.
    without = np.maximum(((n - 1) * s2 - n / (n - 1) * (x - x.mean()) ** 2) / (n - 2), 1e-300)
    logs = np.log(without)
    error = sqrt((n - 1) / n * ((logs - logs.mean()) ** 2).sum())

    def interval(z: float) -> tuple[float, float]:
        factor = float(np.exp(min(error * stats.t.isf(false_alarm(z) / 2, n - 1), 700.0)))
        return float(s2 / factor), float(s2 * factor)

    return Estimate(float(s2), float(s2 * error), n, diverged, interval)


def ratio(x: Tensor, y: Tensor) -> Estimate:
    """mean(x) / mean(y) of paired runs, by the jackknife: what x and y share cancels.

    A run that diverged in one counts as diverged. Unlike the mean of x / y its expectation is the ratio of the means.
    The mean of ``y`` must be many standard errors away from zero.
    """
    whole = x.isfinite() & y.isfinite()
    (a, _), (b, _) = _finite(x[whole]), _finite(y[whole])
    n, lost = a.size, int((~whole).sum())
    if n < 2:
        return Estimate(nan, nan, n, lost, lambda z: (nan, nan))
    without = (a.sum() - a) / (b.sum() - b)
    error = sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    return _student(a.mean() / b.mean(), error, n - 1, n, lost)


def controlled(x: Tensor, control: Tensor, expectation: float | Tensor = 0.0) -> Estimate:
    """The mean of ``x`` with the help of ``control``, drawn by the same runs, whose mean is known: ``expectation``.

    ``control`` is (runs,) or (runs, k). What least squares explains of x by the controls is taken out; the coefficients
    cost k degrees of freedom, and a bias of order 1/runs, far below the standard error.
    """
    c = control.reshape(len(x), -1).double() - torch.as_tensor(expectation, dtype=torch.float64, device=control.device)
    whole = x.isfinite() & c.isfinite().all(1)
    (y, _), c = _finite(x[whole]), c[whole].cpu().numpy()
    n, lost = y.size, int((~whole).sum())
    if n < c.shape[1] + 3:
        return Estimate(nan, nan, n, lost, lambda z: (nan, nan))
    design = np.column_stack([np.ones(n), c])
    coefficients, *_ = np.linalg.lstsq(design, y, rcond=None)
    freedom = n - design.shape[1]
    spread = ((y - design @ coefficients) ** 2).sum() / freedom
    error = sqrt(spread * np.linalg.pinv(design.T @ design)[0, 0])
    return _student(coefficients[0], error, freedom, n, lost)


def proportion(hits: Tensor) -> Estimate:
    """The share of runs that are True, with the exact (Clopper-Pearson) interval."""
    if not isinstance(hits, Tensor) or hits.dtype != torch.bool:
        raise TypeError(f"hits must be a tensor of bool, one a run, got {_kind(hits)}; pass a comparison such as x < 2")
    n, k = positive_integer("the number of runs", hits.numel()), int(hits.sum())

    def interval(z: float) -> tuple[float, float]:
        tail = false_alarm(z) / 2
        low = stats.beta.ppf(tail, k, n - k + 1) if k else 0.0
        high = stats.beta.isf(tail, k + 1, n - k) if k < n else 1.0
        return float(low), float(high)

    return Estimate(k / n, sqrt(k / n * (1 - k / n) / n), n, 0, interval, "share")


def distance(x: Tensor, law: Callable | Tensor) -> Estimate:
    """The Kolmogorov distance between the law of ``x`` and a reference law.

    ``law`` is a cumulative distribution function (NumPy array in, array out), or a second, independent
    sample. The interval is that of the true distance: the measured one, give or take the distance that
    a sample of this size shows by chance alone (Kolmogorov's law; asymptotic for two samples).
    """
    x, diverged = _finite(x)
    n = x.size
    if isinstance(law, Tensor):
        y, more = _finite(law)
        if not (n and y.size):
            return Estimate(nan, nan, n, diverged + more, lambda z: (nan, nan))
        d, diverged = stats.ks_2samp(x, y, method="asymp").statistic, diverged + more
        effective = n * y.size / (n + y.size)
        chance = lambda z: stats.kstwobign.isf(false_alarm(z)) / sqrt(effective)  # noqa: E731
    elif n:
        d, effective = stats.kstest(x, law, method="asymp").statistic, n
        # beyond 7 standard errors SciPy's inverse fails, and Massart's bound is as good as equal to it
        chance = lambda z: stats.kstwo.isf(false_alarm(z), n) if z < 7 else sqrt(log(2 / false_alarm(z)) / (2 * n))  # noqa: E731
    else:
        return Estimate(nan, nan, n, diverged, lambda z: (nan, nan))
    # 0.26 is the standard deviation of Kolmogorov's limit law
    return Estimate(
        float(d),
        0.26 / sqrt(effective),
        n,
        diverged,
        lambda z: (max(0.0, float(d - chance(z))), min(1.0, float(d + chance(z)))),
        "distance",
    )


def exact(value: float, samples: int = 1) -> Estimate:
    """A number without sampling error: a deterministic residual, or a count that must hit its target."""
    return Estimate(float(value), 0.0, samples, 0, lambda z: (float(value), float(value)), "exact")


def power_law(
    sizes: Sequence[float],
    runs: Sequence[Tensor],
    generator: torch.Generator,
    resamples: int = 400,
    *,
    paired: bool = False,
) -> Estimate:
    """The exponent p of ``mean(run) ~ size^p``: least squares in log-log over the sizes.

    ``runs[i]`` holds the independent runs at ``sizes[i]``. Runs are resampled, not points of the line: the
    points of a log-log plot carry unequal errors, and their scatter about a line says nothing of them. The interval
    is Student's (Welch's where sizes have their own runs): few runs make it wide.
    ``paired`` says that run i is driven by the same noise at all sizes: the same runs are then resampled at all of
    them, and a run that diverged at one size is left out at all. Raises ValueError if sizes and runs do not pair up.
    """
    if paired and len({len(r) for r in runs}) > 1:
        raise ValueError(f"paired runs must be as many at every size, got {[len(r) for r in runs]}; drop paired")
    lost = [_finite(r)[1] for r in runs]
    if paired:
        whole = torch.stack(list(runs)).isfinite().all(0)
        runs = [r[whole] for r in runs]
    kept = [_finite(r)[0] for r in runs]
    if len(sizes) != len(runs) or len(runs) < 2 or any(x.size < 2 for x in kept):
        raise ValueError(
            f"sizes and runs must pair up, at least two sizes with two finite runs each, got {len(sizes)} sizes and "
            f"runs of {[x.size for x in kept]}; add sizes or runs"
        )
    t = np.log(np.asarray(sizes, float))
    weights = (t - t.mean()) / ((t - t.mean()) ** 2).sum()
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
    n = np.array([x.size for x in kept])
    # Samples of n - 1 runs: the mean of n would vary less than a mean does, by the factor 1 - 1/n.
    if paired:
        same = rng.integers(n[0], size=(resamples, n[0] - 1))
        logs = np.stack([np.log(x[same].mean(1)) for x in kept], 1)
        error, freedom = (logs @ weights).std(ddof=1), n[0] - 1
    else:
        logs = np.stack([np.log(rng.choice(x, (resamples, x.size - 1)).mean(1)) for x in kept], 1)
        parts = weights**2 * logs.var(0, ddof=1)
        error, freedom = sqrt(parts.sum()), _welch(parts, n - 1)
    slope = float(weights @ [np.log(x.mean()) for x in kept])
    return _student(slope, error, freedom, int(n.min()), sum(lost), "exponent")


def square_sums(sequences: Tensor) -> tuple[list[int], Tensor]:
    """For m = 1, 2, 4, ... the mean square of the sum of m successive terms, over all windows of that size.

    ``sequences`` is (length, n), one a column. Returns the sizes m and a tensor (sizes, n).
    """
    sums = torch.nn.functional.pad(sequences.double().cumsum(0), (0, 0, 1, 0))
    sizes = [2**k for k in range(len(sequences).bit_length())]
    return sizes, torch.stack([(sums[m:] - sums[:-m]).square().mean(0) for m in sizes])


def hurst(sequences: Tensor, generator: torch.Generator) -> Estimate:
    """The Hurst index H of ``sequences`` (length, n), from E (sum of m successive terms)^2 ~ m^(2H) at m = 1, 2, 4, ...

    1/2 for independent terms of mean zero, 1 for constant ones; exact for increments of fractional Brownian motion.
    All windows of a size are used. The runs are groups of neighbouring sequences, at most 64: neighbours may depend on
    each other, groups should not. NaN for fewer than two terms or sequences, or where all are zero.
    """
    length, n = sequences.shape
    if length < 2 or n < 2 or not bool(sequences.any()):
        return Estimate(nan, nan, 0, 0, lambda z: (nan, nan))
    sizes, squares = square_sums(sequences)
    runs = [torch.stack([part.mean() for part in s.tensor_split(min(n, 64))]) for s in squares]
    return power_law([m**2 for m in sizes], runs, generator, paired=True)


def crossing(values: Tensor, grid: Tensor) -> Tensor:
    """Where each row of ``values`` (rows, points) is positive for the last time along ``grid``, interpolated linearly.

    A value that is not finite counts as positive: an overflow is an explosion.
    """
    up = torch.where(values.isfinite(), values, 1.0) > 0
    i = (up * torch.arange(len(grid), device=values.device)).amax(-1).clamp(max=len(grid) - 2)
    rows = torch.arange(len(values), device=values.device)
    a, b = values[rows, i], values[rows, i + 1]
    return grid[i] + (grid[i + 1] - grid[i]) * a / (a - b)


def _welch(parts: np.ndarray, freedom: np.ndarray) -> float:
    """Degrees of freedom of a variance that is the sum of independent ``parts`` (Welch and Satterthwaite)."""
    spread = (parts**2 / freedom).sum()
    return float(parts.sum() ** 2 / spread) if spread > 0 else inf


def _student(value: float, error: float, freedom: float, n: int, diverged: int, quantity: str = "constant") -> Estimate:
    """An estimate whose interval widens with few degrees of freedom, to keep its false-alarm rate."""
    value, error = float(value), float(error)

    def interval(z: float) -> tuple[float, float]:
        half = error * (z if freedom == inf else stats.t.isf(false_alarm(z) / 2, freedom))
        return value - float(half), value + float(half)

    return Estimate(value, error, n, diverged, interval, quantity)


def _finite(x: Tensor) -> tuple[np.ndarray, int]:
    """The finite entries as float64, and how many were not."""
    if not isinstance(x, Tensor) or x.dim() != 1:
        raise TypeError(
            f"x must be a one-dimensional tensor with one number a run, got {_kind(x)}; flatten or index it"
        )
    values = x.detach().cpu().numpy().astype(np.float64)
    keep = np.isfinite(values)
    return values[keep], int((~keep).sum())


def _kind(x: object) -> str:
    return f"a tensor of {x.dtype}, shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__

"""Laws of the weights over depth. Each law declares what the theory needs to know of it.

==============  ==========================================================  =================
law             the entries of sqrt(d) V_k as a sequence in k               critical exponent
==============  ==========================================================  =================
``IID``         independent                                                 1/2
``Fractional``  unit-variance increments of fractional Brownian motion      max(1/2, H)
``Smooth``      a smooth Gaussian process, sampled at k/L                   1
==============  ==========================================================  =================

A law has ``correlation(lag, depth)``, that of one entry with itself ``lag`` layers on; a ``regularity``
in words; the ``critical_exponent`` of Original blocks; and ``layers(...)``, which draws the weights.
Different entries are independent.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor

from deeplimits.checks import finite, one_of, positive_integer

ENTRIES = ("gaussian", "uniform", "rademacher")
KERNELS = ("gaussian", "derivative")


@dataclass(frozen=True)
class IID:
    """Independent matrices with i.i.d. symmetric entries of variance ``gain``^2 / width.

    ``entry`` is the law of an entry: ``gaussian``; ``uniform`` on an interval symmetric about 0, as in the
    code of Marion et al.; or ``rademacher``, a fair sign. The theorems ask for ``gain`` = 1.
    """

    entry: str = "gaussian"
    gain: float = 1.0

    regularity: ClassVar[str] = "none: layers are independent"
    critical_exponent: ClassVar[float] = 0.5  # Marion et al., theorem "Stability at initialization"

    def __post_init__(self):
        one_of("entry", self.entry, ENTRIES)
        finite("gain", self.gain)

    def correlation(self, lag: Tensor, depth: int) -> Tensor:
        """1 at lag 0, and 0 at every other."""
        return (_lag(lag) == 0).to(torch.float64)

    def matrix(self, *shape: int, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
        """Independent matrices: shape (..., rows, width), entries of variance gain^2 / width."""
        scale = self.gain / shape[-1] ** 0.5
        empty = torch.empty(shape, dtype=dtype, device=generator.device)
        if self.entry == "gaussian":
            return empty.normal_(0, 1, generator=generator).mul_(scale)
        if self.entry == "uniform":
            return empty.uniform_(-(3**0.5), 3**0.5, generator=generator).mul_(scale)
        return empty.bernoulli_(0.5, generator=generator).mul_(2).sub_(1).mul_(scale)

    def layers(
        self,
        depth: int,
        networks: int,
        width: int,
        generator: torch.Generator,
        *,
        matrices: int = 2,
        dtype: torch.dtype = torch.float64,
    ) -> Iterator[Tensor]:
        """The weights layer by layer: ``depth`` tensors of shape (matrices, networks, width, width).

        ``matrices`` is 2 for the blocks with V and W, 1 for those with V alone. One layer is in memory
        at a time; ``list(law.layers(...))`` keeps them all, as the adjoint needs.
        """
        depth, *shape = _shape(depth, matrices, networks, width)
        for _ in range(depth):
            yield self.matrix(*shape, generator=generator, dtype=dtype)


def _shape(depth: int, matrices: int, networks: int, width: int) -> tuple[int, ...]:
    """The shape of all weights, layer first, after a look at the four sizes."""
    sizes = {"depth": depth, "matrices": matrices, "networks": networks, "width": width}
    checked = [positive_integer(name, size) for name, size in sizes.items()]
    return (*checked, checked[-1])


def _lag(lag: Tensor | float) -> Tensor:
    """A lag in float64, on its own device; a number on the CPU."""
    return torch.as_tensor(lag, dtype=torch.float64, device=getattr(lag, "device", "cpu"))


class _Stationary:
    """A law whose entries are stationary Gaussian sequences in depth, drawn by circulant embedding."""

    def layers(
        self,
        depth: int,
        networks: int,
        width: int,
        generator: torch.Generator,
        *,
        matrices: int = 2,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """The weights as one tensor (depth, matrices, networks, width, width), first layer first.

        Entries have variance 1 / width and are exact in law. ``matrices`` is 2 for the blocks with V and W, 1 for
        those with V alone. A layer depends on all others, so they are drawn, and held, together.
        """
        shape = _shape(depth, matrices, networks, width)
        half = self._half_period(depth)
        correlation = self.correlation(torch.arange(half + 1, dtype=torch.float64, device="cpu"), depth)
        paths = stationary(correlation, matrices * networks * width**2, generator, length=depth, dtype=dtype)
        return paths.div_(width**0.5).view(shape)


@dataclass(frozen=True)
class Fractional(_Stationary):
    """Unit-variance increments of fractional Brownian motion with Hurst index ``hurst`` in (0, 1).

    Below 1/2 the increments are negatively correlated, at 1/2 independent, above positively. The sum of n layers is
    of order n^hurst. Marion et al. take increments over steps 1/L, which are smaller by the factor L^-hurst.
    """

    hurst: float

    def __post_init__(self):
        if not 0 < finite("hurst", self.hurst) < 1:
            raise ValueError(f"hurst must lie strictly between 0 and 1, got {self.hurst}; 0.5 gives independent layers")

    @property
    def regularity(self) -> str:
        """In words, for tables and captions."""
        return f"increments of fractional Brownian motion, H = {self.hurst:g}"

    @property
    def critical_exponent(self) -> float:
        """max(1/2, H): [N] of the book; Marion et al. show it as a picture."""
        return max(0.5, self.hurst)

    def correlation(self, lag: Tensor, depth: int) -> Tensor:
        """(|k-1|^2H - 2|k|^2H + |k+1|^2H) / 2, whatever the depth."""
        k, power = _lag(lag).abs(), 2 * self.hurst
        return ((k - 1).abs() ** power - 2 * k**power + (k + 1) ** power) / 2

    def _half_period(self, depth: int) -> int:
        return depth  # the embedding of size 2 L is non-negative for every H: see the chapter


@dataclass(frozen=True)
class Smooth(_Stationary):
    """A smooth stationary Gaussian process on [0, 1], sampled at t = k/L, with correlation over r = |t - t'|

    - ``gaussian``: exp(-r^2/(2 l^2)), the example of the slides of Marion et al., or
    - ``derivative``: (1 - r^2/l^2) exp(-r^2/(2 l^2)), its derivative scaled to unit variance, which their code
      approximates by normalised increments,

    where l is ``length``. Paths are analytic, hence Lipschitz and bounded as theorem "ODE regime" asks.
    """

    length: float = 0.1
    kernel: str = "gaussian"

    critical_exponent: ClassVar[float] = 1.0  # Marion et al., theorem on smooth weights

    def __post_init__(self):
        one_of("kernel", self.kernel, KERNELS)
        if finite("length", self.length) <= 0:
            raise ValueError(f"length must be positive, got {self.length}; a fraction of the depth such as 0.1")

    @property
    def regularity(self) -> str:
        """In words, for tables and captions."""
        return f"smooth in depth, {self.kernel} kernel of length {self.length:g}"

    def correlation(self, lag: Tensor, depth: int) -> Tensor:
        """The kernel at r = lag / depth."""
        x2 = (_lag(lag) / (depth * self.length)) ** 2
        bell = torch.exp(-x2 / 2)
        return bell if self.kernel == "gaussian" else (1 - x2) * bell

    def _half_period(self, depth: int) -> int:
        return ceil(depth * max(1.0, 9 * self.length))  # beyond 9 lengths the kernel is below rounding


def stationary(
    correlation: Tensor,
    paths: int,
    generator: torch.Generator,
    *,
    length: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Independent stationary Gaussian sequences: shape (length, paths), exact in law.

    ``correlation`` holds the covariances at lags 0, 1, ..., n. They are laid on a circle of 2n points, where lag
    n is the *one* opposite point; the Fourier transform of the circle gives the variances of independent
    Fourier coefficients, and any n + 1 successive points have the covariance wanted (Davies and Harte 1987).
    ``length`` is at most n + 1, and by default n.

    Raises ValueError if the circle is no covariance, that is if a Fourier variance is negative.
    """
    n = positive_integer("the largest lag", len(correlation) - 1)
    length = positive_integer("length", n if length is None else length)
    if length > n + 1:
        raise ValueError(f"length must be at most {n + 1} for covariances up to lag {n}, got {length}; give more lags")
    circle = torch.cat([correlation, correlation[1:-1].flip(0)]).to(torch.float64)
    variances = torch.fft.rfft(circle).real
    if variances.min() < -1e-9 * variances.max():
        raise ValueError(
            f"the correlation must give non-negative Fourier variances on a circle of {2 * n} points, got "
            f"{float(variances.min()):.3g}; give more lags, or check the last one, which is the opposite point"
        )
    # what is left of a variance at the level of rounding would be noise of size 1e-7 on a smooth path
    variances = torch.where(variances > 1e-13 * variances.max(), variances, 0.0)
    scale = (n * variances).sqrt()
    scale[[0, n]] *= 2**0.5  # real coefficients: irfft ignores their imaginary parts
    scale = scale.to(device=generator.device, dtype=dtype)[:, None]
    out = torch.empty(length, positive_integer("paths", paths), dtype=dtype, device=generator.device)
    for start in range(0, paths, 1024):  # a block at a time: the coefficients need four times the room of the paths
        block = out[:, start : start + 1024]
        normals = torch.empty(block.shape[1], n + 1, 2, dtype=dtype, device=generator.device)
        coefficients = torch.view_as_complex(normals.normal_(generator=generator).mul_(scale))
        block.copy_(torch.fft.irfft(coefficients, 2 * n)[:, :length].T)
    return out

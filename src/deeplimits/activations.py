"""Scalar non-linearities: the function, its derivative, and the Gaussian moments that the limits need."""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, sqrt

import torch
from torch import Tensor

from deeplimits.checks import finite


@dataclass(frozen=True)
class Activation:
    """``f`` and its derivative ``df``, both entrywise on tensors of any shape.

    ``slopes`` is (slope for z > 0, slope for z < 0) if ``f`` is positively homogeneous, else None:
    the exact laws of deep networks need f(cz) = c f(z) for c > 0.
    """

    name: str
    f: Callable[[Tensor], Tensor]
    df: Callable[[Tensor], Tensor]
    slopes: tuple[float, float] | None = None

    def second_moment(self, variance: float = 1.0) -> float:
        """E f(Z)^2 for Z ~ N(0, variance): closed form if homogeneous, else by quadrature.

        The trapezoidal rule converges exponentially for analytic f, faster than Gauss-Hermite for tanh,
        whose poles lie close to the real line.
        """
        return self._moment(self.f, variance) if self.slopes is None else variance * _mean_square(self.slopes)

    def derivative_second_moment(self, variance: float = 1.0) -> float:
        """E f'(Z)^2 for Z ~ N(0, variance)."""
        return self._moment(self.df, variance) if self.slopes is None else _mean_square(self.slopes)

    @staticmethod
    def _moment(f: Callable[[Tensor], Tensor], variance: float) -> float:
        x = torch.arange(-9.0, 9.0, 0.01, dtype=torch.float64)
        weight = 0.01 * torch.exp(-(x**2) / 2) / sqrt(2 * pi)
        return float(weight @ f(x * sqrt(finite("variance", variance))) ** 2)


def piecewise_linear(a: float, b: float, name: str = "") -> Activation:
    """a z for z > 0 and b z for z < 0; 0 at 0, where the derivative is taken to be 0 unless a = b.

    (1, 0) is ReLU, (1, 1) the identity, (1, -1) the absolute value, (1, s) a leaky ReLU.
    """
    a, b = finite("a", a), finite("b", b)

    # no operation more than the slopes ask for: ReLU is most of the time that a narrow network takes
    def f(z: Tensor) -> Tensor:
        positive = z.clamp(min=0) if a == 1 else a * z.clamp(min=0)
        return positive + b * z.clamp(max=0) if b else positive

    def df(z: Tensor) -> Tensor:
        if a == b:
            return torch.full_like(z, a)
        sign = z.sign()  # five times faster than a comparison and a change of type
        positive = sign.clamp(min=0) if a == 1 else a * sign.clamp(min=0)
        return positive - b * sign.clamp(max=0) if b else positive

    return Activation(name or f"piecewise_linear({a:g}, {b:g})", f, df, (a, b))


relu = piecewise_linear(1.0, 0.0, "relu")
identity = piecewise_linear(1.0, 1.0, "identity")
tanh = Activation("tanh", torch.tanh, lambda z: 1 - torch.tanh(z) ** 2)


def _mean_square(slopes: tuple[float, float]) -> float:
    return (slopes[0] ** 2 + slopes[1] ** 2) / 2

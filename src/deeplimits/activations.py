"""Scalar non-linearities: the function, its derivative, and the Gaussian moments that the limits need."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from math import pi, sqrt

import numpy as np
import torch
from scipy import special
from torch import Tensor

from deeplimits.checks import finite

PIECES, TOP = 1024, 27.0  # of the table of inverse_erfi, which reaches y = 1e308


@dataclass(frozen=True)
class Activation:
    """``f`` and its derivative ``df``, both entrywise on tensors of any shape.

    ``d2f`` is the second derivative, if there is one almost everywhere and Ito's formula may use it, else None.
    ``write(z)`` overwrites z with f(z), and ``pull(p, f(z))`` overwrites p with f'(z) p: for training, and only if the
    derivative is a function of the value, so that a pass need not keep z. ``fused`` is how the compiled loops of
    training know it, (kind, constant), or None.
    ``slopes`` is (slope for z > 0, slope for z < 0) if ``f`` is positively homogeneous, else None:
    the exact laws of deep networks need f(cz) = c f(z) for c > 0.
    """

    name: str
    f: Callable[[Tensor], Tensor]
    df: Callable[[Tensor], Tensor]
    slopes: tuple[float, float] | None = None
    d2f: Callable[[Tensor], Tensor] | None = None
    write: Callable[[Tensor], object] | None = None
    pull: Callable[[Tensor, Tensor], object] | None = None
    fused: tuple[str, float] | None = field(default=None, init=False)  # and so no longer there after ``replace``

    def __reduce_ex__(self, protocol):
        """Activations of this module are pickled by name, since lambdas cannot be sent to another process."""
        return self.name if globals().get(self.name) is self else super().__reduce_ex__(protocol)

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
        x = torch.arange(-9.0, 9.0, 0.01, dtype=torch.float64, device="cpu")
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

    return Activation(name or f"piecewise_linear({a:g}, {b:g})", f, df, (a, b), torch.zeros_like)


def shifted_tanh(constant: float, name: str = "") -> Activation:
    """tanh z + constant: smooth, and with a mean."""
    c = finite("constant", constant)
    shifted = Activation(
        name or f"shifted_tanh({c:g})",
        lambda z: torch.tanh(z) + c if c else torch.tanh(z),
        lambda z: 1 - torch.tanh(z) ** 2,
        d2f=lambda z: -2 * torch.tanh(z) * (1 - torch.tanh(z) ** 2),
        write=lambda z: z.tanh_().add_(c) if c else z.tanh_(),
        pull=lambda p, value: torch.ops.aten.tanh_backward.grad_input(p, value - c if c else value, grad_input=p),
    )
    return _compiled(shifted, "tanh", c)


def _compiled(phi: Activation, kind: str, constant: float = 0.0) -> Activation:
    """``phi``, which the compiled loops of training know as ``kind`` plus a constant."""
    object.__setattr__(phi, "fused", (kind, constant))
    return phi


relu = _compiled(
    replace(
        piecewise_linear(1.0, 0.0, "relu"), write=lambda z: z.clamp_(min=0), pull=lambda p, value: p.mul_(value > 0)
    ),
    "relu",
)
identity = _compiled(
    replace(piecewise_linear(1.0, 1.0, "identity"), write=lambda z: None, pull=lambda p, value: None), "identity"
)
tanh = shifted_tanh(0.0, "tanh")
gelu = Activation(
    "gelu",
    lambda z: z * torch.special.ndtr(z),
    lambda z: torch.special.ndtr(z) + z * _bell(z),
    d2f=lambda z: (2 - z**2) * _bell(z),
)
swish = Activation(
    "swish",
    lambda z: z * torch.sigmoid(z),
    lambda z: torch.sigmoid(z) * (1 + z * torch.sigmoid(-z)),
    d2f=lambda z: torch.sigmoid(z) * torch.sigmoid(-z) * (2 + z * (torch.sigmoid(-z) - torch.sigmoid(z))),
)


def affine(alpha: float, beta: float) -> Activation:
    """alpha z + beta: at width 1 the network is a geometric Brownian motion (Hayou, Proposition 2)."""
    alpha, beta = finite("alpha", alpha), finite("beta", beta)
    return Activation(
        f"affine({alpha:g}, {beta:g})",
        lambda z: alpha * z + beta,
        lambda z: torch.full_like(z, alpha),
        d2f=torch.zeros_like,
    )


def erfi_exponential(alpha: float = 1.0, beta: float = 0.0) -> Activation:
    """exp(g^2) with g(z) = erfi^-1(alpha z + beta): at width 1, g of the network is an Ornstein-Uhlenbeck process.

    Hayou, Proposition 4. erfi(x) = 2/sqrt(pi) int_0^x e^(u^2) du. The derivative is sqrt(pi) alpha g, which grows
    like sqrt(log|z|): locally, not globally Lipschitz. No second derivative is offered: it is not bounded either.
    """
    alpha, beta = finite("alpha", alpha), finite("beta", beta)
    if alpha == 0:
        raise ValueError("alpha must not be zero: the activation would be constant; for example 1")
    return Activation(
        f"erfi_exponential({alpha:g}, {beta:g})",
        lambda z: torch.exp(inverse_erfi(alpha * z + beta) ** 2),
        lambda z: sqrt(pi) * alpha * inverse_erfi(alpha * z + beta),
    )


def inverse_erfi(y: Tensor) -> Tensor:
    """x with erfi(x) = y, to 1e-14 of itself, on the device of ``y``; NaN where that is infinite.

    With t = log(1 + |y|) and s = t/sqrt(1 + t), x/s is a smooth function of s that stays of order one, for x is nearly
    sqrt(pi)/2 y for small and sqrt(log y) for large y. It is read from a table of polynomials.
    """
    values, table = y.detach().double(), _table(y.device)
    t = values.abs().log1p()
    s = t / (1 + t).sqrt()
    z = s * (PIECES / TOP)
    piece = z.long().clamp(0, PIECES - 1)
    z = z - piece - 0.5
    *rest, ratio = table[piece].unbind(-1)
    for c in reversed(rest):
        ratio = torch.addcmul(c, ratio, z)
    return torch.copysign(s * ratio, values).to(y.dtype)


@cache
def _table(device: torch.device) -> Tensor:
    """x/s on PIECES equal intervals of s in [0, TOP], polynomials in z = -1/2 to 1/2: (PIECES, 8), lowest power first.

    They go through the values at Chebyshev's points, which Newton's method finds with SciPy's functions.
    """
    z = np.cos(pi * (np.arange(8) + 0.5) / 8) / 2
    s = (np.arange(PIECES)[:, None] + 0.5 + z) * (TOP / PIECES)
    t = s * (s + np.sqrt(s**2 + 4)) / 2
    small, y = t < 1, np.expm1(np.minimum(t, 1.0))
    x = np.where(small, y * sqrt(pi) / 2, np.sqrt(t + np.log1p(np.sqrt(t))))
    for _ in range(6):  # on log(erfi(x)/y), nearly a parabola for large x, with erfi = 2/sqrt(pi) e^(x^2) D(x)
        dawson = special.dawsn(x)
        near = np.log(special.erfi(np.minimum(x, 2.0)) / y)
        far = np.log(2 / sqrt(pi) * dawson) + x**2 - t - np.log1p(-np.exp(-t))
        x = x - dawson * np.where(small, near, far)
    powers = np.vander(z, increasing=True)
    return torch.as_tensor(np.linalg.solve(powers, (x / s).T).T.copy(), dtype=torch.float64, device=device)


def _bell(z: Tensor) -> Tensor:
    return torch.exp(-(z**2) / 2) / sqrt(2 * pi)


def _mean_square(slopes: tuple[float, float]) -> float:
    return (slopes[0] ** 2 + slopes[1] ** 2) / 2

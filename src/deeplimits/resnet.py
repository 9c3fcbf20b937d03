"""The residual recursion h_{k+1} = h_k + scale * V_{k+1} g(h_k, theta_{k+1}), many networks at once.

Marion, Fermanian, Biau and Vert distinguish four families of blocks by their g:

===========  ===================  ================  ==================
family       g(h, theta)          theta             made by
===========  ===================  ================  ==================
Original     relu(W h + b)        W, optionally b   ``original()``
Parametric   phi(W h + b)         W, optionally b   ``parametric(phi)``
Simple       phi(h)               nothing           ``simple(phi)``
General      any differentiable   any tensors       ``general(g)``
===========  ===================  ================  ==================

Shapes: a state is (networks, inputs, width), a matrix (networks, width, width), a bias
(networks, 1, width). A layer is a sequence of tensors (V, *theta) and a network an iterable of layers,
the first layer first, so depth-1000 weights need never be in memory at once. ``scale`` is a number,
or a tensor that broadcasts against a state: one pass then serves several betas on shared weights.
Overflow of an exploding network to inf is a result, never an error.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deeplimits.activations import Activation, relu
from deeplimits.checks import finite, instance, positive_integer

Layer = Sequence[Tensor]


@dataclass(frozen=True)
class Family:
    """g with its derivative in h, applied forward (``push``: dg q) and backward (``pull``: dg^T p)."""

    name: str
    g: Callable[..., Tensor]
    push: Callable[..., Tensor]
    pull: Callable[..., Tensor]


def parametric(phi: Activation) -> Family:
    """g(h, W, b) = phi(W h + b); the bias may be left out."""
    instance("phi", phi, Activation, "take one from deeplimits.activations, such as relu")

    def inside(h: Tensor, W: Tensor, *b: Tensor) -> Tensor:
        return sum(b, h @ W.mT)

    def g(h: Tensor, W: Tensor, *b: Tensor) -> Tensor:
        return phi.f(inside(h, W, *b))

    def push(h: Tensor, q: Tensor, W: Tensor, *b: Tensor) -> Tensor:
        return phi.df(inside(h, W, *b)) * (q @ W.mT)

    def pull(h: Tensor, p: Tensor, W: Tensor, *b: Tensor) -> Tensor:
        return (phi.df(inside(h, W, *b)) * p) @ W

    return Family("parametric", g, push, pull)


def original() -> Family:
    """g(h, W, b) = relu(W h + b): the block of He et al. (2016)."""
    block = parametric(relu)
    return Family("original", block.g, block.push, block.pull)


def simple(phi: Activation) -> Family:
    """g(h) = phi(h): one matrix a block. Hayou's architecture."""
    instance("phi", phi, Activation, "take one from deeplimits.activations, such as relu")
    return Family("simple", phi.f, lambda h, q: phi.df(h) * q, lambda h, p: phi.df(h) * p)


def general(g: Callable[..., Tensor]) -> Family:
    """Any ``g(h, *theta)`` made of differentiable torch operations; autograd supplies the derivatives."""
    return Family(
        "general",
        g,
        lambda h, q, *theta: torch.func.jvp(lambda x: g(x, *theta), (h,), (q,))[1],
        lambda h, p, *theta: torch.func.vjp(lambda x: g(x, *theta), h)[1](p)[0],
    )


def states(h: Tensor, layers: Iterable[Layer], family: Family, scale: float | Tensor) -> Iterator[Tensor]:
    """h_0, h_1, ..., h_L one by one, each of shape (networks, inputs, width)."""
    yield h
    layers, scale = _checked(layers, h, family), _factor(scale, h)
    for V, *theta in layers:
        h = torch.addcmul(h, scale, family.g(h, *theta) @ V.mT)
        yield h


def forward(h: Tensor, layers: Iterable[Layer], family: Family, scale: float | Tensor) -> Tensor:
    """h_L, of the shape of ``h`` = h_0. Raises ValueError if a matrix does not fit the state."""
    for h in states(h, layers, family, scale):  # noqa: B007, B020 - the last state is the answer
        pass
    return h


def tangent(
    q: Tensor, path: Sequence[Tensor], layers: Iterable[Layer], family: Family, scale: float | Tensor
) -> Tensor:
    """q_L = (dh_L/dh_0) q_0 along ``path`` = (h_0, ..., h_L), as q_{k+1} = q_k + scale V (dg/dh) q_k."""
    layers, scale = _checked(layers, q, family), _factor(scale, q)
    for h, (V, *theta) in zip(path, layers, strict=False):
        q = torch.addcmul(q, scale, family.push(h, q, *theta) @ V.mT)
    return q


def adjoint(
    p: Tensor, path: Sequence[Tensor], layers: Sequence[Layer], family: Family, scale: float | Tensor
) -> Tensor:
    """p_0 = (dh_L/dh_0)^T p_L along ``path``: the last of :func:`adjoint_states`, of the shape of ``p``."""
    for p in adjoint_states(p, path, layers, family, scale):  # noqa: B007, B020 - the last one is the answer
        pass
    return p


def adjoint_states(
    p: Tensor, path: Sequence[Tensor], layers: Sequence[Layer], family: Family, scale: float | Tensor
) -> Iterator[Tensor]:
    """p_L, ..., p_0 one by one, as p_k = p_{k+1} + scale (dg/dh)^T V^T p_{k+1}: backpropagation.

    ``layers`` must be a sequence, since it is read from the last layer to the first. Raises ValueError
    if ``path`` does not have one state more than there are layers.
    """
    if len(path) != len(layers) + 1:
        raise ValueError(
            f"path must hold one state more than layers, got {len(path)} states and {len(layers)} layers; "
            "pass path = list(states(...)) and layers = list(...)"
        )
    yield p
    layers, scale = _checked(reversed(layers), p, family), _factor(scale, p)
    for h, (V, *theta) in zip(reversed(path[:-1]), layers, strict=True):
        p = torch.addcmul(p, scale, family.pull(h, p @ V, *theta))
        yield p


def kicks(path: Iterable[Tensor]) -> Tensor:
    """Sums over the steps of ``path`` of a = 2<h, dh>/||h||^2, of a^2 and of b = ||dh||^2/||h||^2.

    Shape (3, networks, inputs). A step multiplies ||h||^2 by 1 + a + b. In an Original ReLU network with symmetric
    independent weights of variance 1/d, forward and backward, the sums have expectations 0, 2s/d and s/2, where
    s = L scale^2: controls for the logarithm of ||h_L||^2/||h_0||^2, which they explain but for terms of higher order.
    """
    path = iter(path)
    h, total = next(path), 0.0
    for following in path:
        step, square = following - h, (h**2).sum(-1)
        a = 2 * (h * step).sum(-1) / square
        total = total + torch.stack([a, a**2, (step**2).sum(-1) / square])
        h = following
    return total


@dataclass(frozen=True)
class Projection:
    """h_L / ||h_0|| in two numbers: ``along`` h_0, and the length ``across`` it. Shape (networks,).

    ``kick`` is the sum of 2<h, dh>/||h||^2 over the steps, of mean 0 and variance 4 E rho^2 L, see :func:`kicks`.
    """

    along: Tensor
    across: Tensor
    kick: Tensor

    @property
    def norm(self) -> Tensor:
        """||h_L|| / ||h_0||"""
        return torch.hypot(self.along, self.across)

    @property
    def displacement(self) -> Tensor:
        """||h_L - h_0|| / ||h_0||"""
        return torch.hypot(self.along - 1, self.across)


def projection(
    networks: int,
    depth: int,
    width: int,
    scale: float,
    generator: torch.Generator,
    *,
    phi: Activation = relu,
    dtype: torch.dtype = torch.float64,
) -> Projection:
    """Independent draws of :class:`Projection` for Parametric blocks with Gaussian weights, exact in law.

    No matrix is drawn. Given h, the entries of W h are i.i.d. N(0, ||h||^2/d), so for a positively
    homogeneous phi ||phi(W h)||^2 = ||h||^2 T/d with T = a^2 chi2_K + b^2 chi2_{d-K} and K ~ Bin(d, 1/2);
    given g = phi(W h), V g is N(0, ||g||^2/d I_d). Hence the step is c Z with Z standard normal in R^d and
    c = scale ||h|| sqrt(T)/d, whatever h and the past are, and h_L enters only through its component
    along h_0 and its distance from that line: O(1) work a layer instead of O(d^2).

    Raises ValueError if ``phi`` is not positively homogeneous (piecewise linear).
    """
    networks, depth = positive_integer("networks", networks), positive_integer("depth", depth)
    d, scale = positive_integer("width", width), finite("scale", scale)
    instance("phi", phi, Activation, "take one from deeplimits.activations, such as relu")
    if phi.slopes is None:
        raise ValueError(f"phi must be positively homogeneous, got {phi.name}; use piecewise_linear, or forward")
    a2, b2 = (slope**2 for slope in phi.slopes)
    device = generator.device

    def normal() -> Tensor:
        return torch.empty(networks, dtype=dtype, device=device).normal_(generator=generator)

    def chi2(dof: Tensor) -> Tensor:
        return 2 * torch._standard_gamma(dof / 2, generator=generator)

    along = torch.ones(networks, dtype=dtype, device=device)
    across, kick = torch.zeros_like(along), torch.zeros_like(along)
    fair, all_d = torch.full_like(along, 0.5), torch.full_like(along, d)
    for _ in range(depth):
        if a2 == b2:
            T = a2 * chi2(all_d)
        else:
            K = torch.binomial(all_d, fair, generator=generator)
            T = a2 * chi2(K) + (b2 * chi2(d - K) if b2 else 0.0)
        norm = torch.hypot(along, across)
        c = scale * norm * T.sqrt() / d
        first = c * normal()
        inward = along * first
        along = along + first
        if d > 1:
            second = c * normal()
            inward = inward + across * second
            across = torch.hypot(across + second, c * chi2(all_d - 2).sqrt() if d > 2 else 0 * c)
        kick = kick + 2 * inward / norm**2
    return Projection(along, across, kick)


def _factor(scale: float | Tensor, h: Tensor) -> Tensor:
    """``scale`` as a tensor beside ``h``, made once a pass: copied in every layer, a number would halt a GPU there."""
    return scale.to(h) if isinstance(scale, Tensor) else torch.full((), scale, dtype=h.dtype, device=h.device)


def _checked(layers: Iterable[Layer], h: Tensor, family: Family) -> Iterator[Layer]:
    """The layers, after a look at types and shapes; torch would broadcast some wrong ones in silence."""
    instance("family", family, Family, "make one with original(), parametric(phi), simple(phi) or general(g)")
    if not isinstance(h, Tensor) or h.dim() != 3:
        found = f"shape {tuple(h.shape)}" if isinstance(h, Tensor) else type(h).__name__
        raise ValueError(
            f"a state must be a tensor (networks, inputs, width), got {found}; add axes with h[:, None, :]"
        )
    return _fitting(layers, h)


def _fitting(layers: Iterable[Layer], h: Tensor) -> Iterator[Layer]:
    expected = (h.shape[0], h.shape[2], h.shape[2])
    for k, layer in enumerate(layers):
        if tuple(layer[0].shape) != expected:
            raise ValueError(
                f"V of layer {k} must have shape {expected} to act on states of shape {tuple(h.shape)}, got "
                f"{tuple(layer[0].shape)}; a layer is (V, *theta), each of shape (networks, width, width)"
            )
        yield layer

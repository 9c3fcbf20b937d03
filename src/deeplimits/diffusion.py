"""The residual network Y_l = Y_{l-1} + sqrt(T/L) W_l phi(Y_{l-1}), and the diffusion it becomes as L grows.

The entries of W_l are independent N(0, 1/n), so given Y the vector W phi(Y) is Gaussian with covariance
(||phi(Y)||^2/n) I: no matrix is needed. The recursion is the Euler-Maruyama scheme, with step T/L, of
dX = ||phi(X)|| / sqrt(n) dB (Hayou 2023, Proposition 1). Several inputs share the matrix, and their
increments have the Gram matrix of the features as covariance (Proposition 5). A state has shape
(networks, inputs, width), as in ``resnet``; for these networks "Simple blocks" is the name there.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from deeplimits.activations import Activation, relu
from deeplimits.checks import finite, instance, positive_integer


def increment(features: Tensor, generator: torch.Generator) -> Tensor:
    """W f for each row f of ``features`` (networks, k, n), exact in law: N(0, 1/n) matrices are never drawn.

    The k vectors W f_1, ..., W f_k are jointly Gaussian, independent between their n coordinates, with
    covariance G/n in each, G = <f_i, f_j>. So they are R zeta / sqrt(n) with R R^T = G and zeta (k, n)
    standard normal: O(k n) normals in place of n^2. A singular G (equal inputs, dead features) is no problem.
    """
    k, n = features.shape[-2:]
    zeta = torch.empty_like(features).normal_(generator=generator)
    if k == 1:
        return features.norm(dim=-1, keepdim=True) * (n**-0.5) * zeta
    root = _square_root(features @ features.mT / n)
    return root @ zeta


def states(
    Y: Tensor, depth: int, phi: Activation, generator: torch.Generator, *, time: float = 1.0
) -> Iterator[Tensor]:
    """Y_0, ..., Y_L one by one, of the shape (networks, inputs, width) of ``Y`` = Y_0, exact in law.

    ``time`` T > 0 makes the factor sqrt(T/L), so that the last state approximates X_T. Raises ValueError for a
    state of another number of axes, a depth below 1 or a time that is not positive.
    """
    instance("phi", phi, Activation, "take one from deeplimits.activations, such as relu")
    step = _step(Y, depth, time)
    yield Y
    for _ in range(depth):
        Y = Y + step * increment(phi.f(Y), generator)
        yield Y


def tangents(
    Y: Tensor, q: Tensor, depth: int, phi: Activation, generator: torch.Generator, *, time: float = 1.0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (Y_l, q_l) with q_l = (dY_l/dY_0) q_0 for one input, exact in law; all (networks, 1, width).

    phi(Y) and phi'(Y) q meet the same matrix: two rows of features. E||q_L||^2/n for q_0 ~ N(0, I) is also
    E||p_0||^2/||p_L||^2 for gradients sent backwards from a fixed p_L.
    """
    instance("phi", phi, Activation, "take one from deeplimits.activations, such as relu")
    step = _step(Y, depth, time)
    yield Y, q
    for _ in range(depth):
        dY, dq = increment(torch.cat([phi.f(Y), phi.df(Y) * q], 1), generator).split(1, 1)
        Y, q = Y + step * dY, q + step * dq
        yield Y, q


def brownian(
    networks: int, steps: int, width: int, generator: torch.Generator, *, time: float = 1.0, dtype=torch.float64
) -> Tensor:
    """Increments over ``steps`` equal steps of [0, time] of Brownian motion in R^width: (steps, networks, 1, width)."""
    shape = positive_integer("steps", steps), positive_integer("networks", networks), 1
    scale = (_positive_time(time) / steps) ** 0.5
    noise = torch.empty(*shape, positive_integer("width", width), dtype=dtype, device=generator.device)
    return noise.normal_(generator=generator) * scale


def coarsen(increments: Tensor, steps: int) -> Tensor:
    """The same Brownian path seen at ``steps`` steps: sums of consecutive increments (first axis).

    Raises ValueError if ``steps`` does not divide the number of increments.
    """
    fine, steps = len(increments), positive_integer("steps", steps)
    if fine % steps:
        raise ValueError(f"steps must divide the {fine} increments of the path, got {steps}; take powers of two")
    return increments.unflatten(0, (steps, fine // steps)).sum(1)


def driven(X: Tensor, increments: Iterable[Tensor], phi: Activation) -> Iterator[Tensor]:
    """Euler's scheme for dX = ||phi(X)||/sqrt(n) dB along given increments: the states, the first one included.

    With increments of one path at several depths (:func:`coarsen`) networks of all depths are coupled.
    """
    instance("phi", phi, Activation, "take one from deeplimits.activations, such as relu")
    yield X
    for dB in increments:
        X = X + phi.f(X).norm(dim=-1, keepdim=True) * X.shape[-1] ** -0.5 * dB
        yield X


def log_norm_terms(X: Tensor, phi: Activation) -> tuple[Tensor, Tensor]:
    """(drift, variance) a unit of time of log ||phi(X_t)||, by Ito's formula; X is (..., n) with phi(X) != 0.

    With q = sum phi^2 phi'^2 / ||phi||^2: drift = (sum (phi'^2 + phi phi'')/2 - q) / n and variance q / n. For
    ReLU q = 1 and the sum counts the positive coordinates (Hayou, Theorem 1); piecewise linear functions have
    no further term, since the derivative of phi^2 is Lipschitz. Raises ValueError if ``phi`` has no second derivative.
    """
    instance("phi", phi, Activation, "take one from deeplimits.activations, such as relu")
    if phi.d2f is None:
        raise ValueError(
            f"Ito's formula asks for phi in C^2 (or piecewise linear), and {phi.name} comes without a second "
            "derivative; give Activation its d2f"
        )
    n, f, df = X.shape[-1], phi.f(X), phi.df(X)
    q = ((f * df) ** 2).sum(-1) / (f**2).sum(-1)
    return ((df**2 + f * phi.d2f(X)).sum(-1) / 2 - q) / n, q / n


def linear_log_norm(
    networks: int, depth: int, width: int, generator: torch.Generator, *, dtype: torch.dtype = torch.float64
) -> Tensor:
    """log(||Y_L||/||Y_0||) of linear networks, phi(y) = y, exact in law from two scalars a layer; (networks,).

    ||Y_l||^2/||Y_{l-1}||^2 = (1 + zeta/sqrt(nL))^2 + chi2_{n-1}/(nL), non-central chi-square up to a factor.
    """
    networks, L, n = (
        positive_integer(name, value) for name, value in (("networks", networks), ("depth", depth), ("width", width))
    )
    total = torch.zeros(networks, dtype=dtype, device=generator.device)
    freedom = torch.full_like(total, (n - 1) / 2)
    for _ in range(L):
        square = (1 + torch.empty_like(total).normal_(generator=generator) * (n * L) ** -0.5) ** 2
        if n > 1:
            square = square + 2 * torch._standard_gamma(freedom, generator=generator) / (n * L)
        total += square.log() / 2
    return total


def collapse(
    networks: int, depth: int, width: int, generator: torch.Generator, *, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Unbiased estimates of P(phi(Y_l) = 0 for some l <= L | phi(Y_0) != 0) for ReLU, one a network: (networks,).

    Hayou, Lemma 3. Given Y, the next layer is all negative with probability prod Phi(-Y_i sqrt(nL)/||phi(Y)||),
    so a path contributes that number, weighted by its chance to have lived so far, and then goes on *given* that
    it lives. Nothing waits for the rare event to happen: the relative error stays moderate down to 1e-100.

    A network that draws a dead layer stays where it is and draws anew while the others go on, so one may need more
    than L draws for its L layers. Whether all have arrived is looked at from the L-th draw on only: a look halts a GPU.
    """
    networks, L, n = (
        positive_integer(name, value) for name, value in (("networks", networks), ("depth", depth), ("width", width))
    )
    Y = torch.empty(networks, 1, n, dtype=dtype, device=generator.device).normal_(generator=generator)
    while len(dead := (Y.amax((1, 2)) <= 0).nonzero()[:, 0]):
        Y[dead] = torch.empty_like(Y[dead]).normal_(generator=generator)
    died, alive = torch.zeros_like(Y[:, 0, 0]), torch.ones_like(Y[:, 0, 0])
    missing, draws = torch.full_like(died, L), 0  # layers that each network has before it
    while draws < L or bool(missing.any()):
        f = relu.f(Y)
        dies = torch.special.log_ndtr(-Y * (n * L) ** 0.5 / f.norm(dim=-1, keepdim=True)).sum((1, 2)).exp()
        new = Y + L**-0.5 * increment(f, generator)
        goes = ~(new.amax((1, 2)) <= 0) & (missing > 0)  # one that is NaN goes on as NaN
        died = torch.where(goes, died + alive * dies, died)
        alive = torch.where(goes, alive * (1 - dies), alive)
        Y = torch.where(goes[:, None, None], new, Y)
        missing, draws = missing - goes.to(dtype), draws + 1
    return died


def _square_root(G: Tensor) -> Tensor:
    """R with R R^T = G for positive semi-definite G (..., k, k), also if G is singular."""
    if G.shape[-1] == 2:
        a = G[..., 0, 0].sqrt()
        c = torch.where(a > 0, G[..., 0, 1] / a, 0.0)
        rest = (G[..., 1, 1] - c**2).clamp(min=0).sqrt()
        return torch.stack([a, torch.zeros_like(a), c, rest], -1).unflatten(-1, (2, 2))
    values, vectors = torch.linalg.eigh(G)
    return vectors * values.clamp(min=0).sqrt()[..., None, :]


def _step(Y: Tensor, depth: int, time: float) -> float:
    if not isinstance(Y, Tensor) or Y.dim() != 3:
        found = f"shape {tuple(Y.shape)}" if isinstance(Y, Tensor) else type(Y).__name__
        raise ValueError(
            f"a state must be a tensor (networks, inputs, width), got {found}; add axes with Y[:, None, :]"
        )
    return (_positive_time(time) / positive_integer("depth", depth)) ** 0.5


def _positive_time(time: float) -> float:
    if finite("time", time) <= 0:
        raise ValueError(f"time must be positive, got {time}; the network lives on [0, 1], longer times on [0, T]")
    return float(time)

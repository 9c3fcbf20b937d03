"""Gradient descent of residual networks with two-layer blocks, many networks at once.

    h^l = h^{l-1} + alpha/(L M) sum_j v^{j,l} rho(<u^{j,l}, h^{l-1}>/D),    l = 1, ..., L

[C] is Chizat (2025). The loss is 1/(2ND) sum_i ||h^L(x_i) - y_i||^2, b^l its gradient in h^l, and the step, in the
time scale of the limit (true gradients times LM/alpha^2),

    u <- u - eta eta_u/(alpha D) sum_i h^{l-1}(x_i) rho'(.) <v, b^l(x_i)>
    v <- v - eta eta_v/alpha     sum_i b^l(x_i) rho(.)

The networks of an ensemble share inputs and targets and nothing else; one that diverges ends alone. Weights have
the shape (depth, networks, D, M): the long axis last is what makes products with ten rows fast.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from deeplimits import fused, graphs, runtime
from deeplimits.activations import Activation, tanh
from deeplimits.checks import finite, instance, positive_integer

CEILING = 1e6  # a network whose loss exceeds so many times its first loss has diverged
THREADED = 20_000  # weights from which on a step takes long enough to be shared between threads


@dataclass
class Networks:
    """An ensemble: ``U`` and ``V`` of shape (depth, networks, D, M), ``alpha`` and ``units`` of shape (networks,).

    ``units`` is L M, the number of units over which a network averages. It is depth times hidden width, unless the
    network is smaller than the ensemble and filled up with units that are zero (see :func:`together`).
    """

    U: Tensor
    V: Tensor
    alpha: Tensor
    units: Tensor
    phi: Activation = tanh

    def __post_init__(self):
        shapes = {name: tuple(getattr(self, name).shape) for name in ("U", "V", "alpha", "units")}
        if len(shapes["U"]) != 4 or shapes["V"] != shapes["U"] or {shapes["alpha"], shapes["units"]} != {self.count}:
            raise ValueError(
                "U and V must have one shape (depth, networks, D, M), alpha and units the shape (networks,), got "
                f"{shapes}; one of the sizes differs"
            )
        instance("phi", self.phi, Activation, "take tanh, relu or identity from deeplimits.activations")
        if self.phi.pull is None:
            raise ValueError(
                "phi must have its derivative as a function of its value, since only values are stored, got "
                f"{self.phi.name}; use tanh, relu or identity"
            )

    @property
    def count(self) -> tuple[int]:
        """The shape of a number for each network."""
        return (self.U.shape[1],)

    def copy(self) -> "Networks":
        """The same networks with weights of their own."""
        return Networks(self.U.clone(), self.V.clone(), self.alpha, self.units, self.phi)


def gaussian(
    depth: int,
    hidden: int,
    width: int,
    networks: int,
    generator: torch.Generator,
    *,
    sigma_u: float | None = None,
    sigma_v: float | None = None,
    alpha: float = 1.0,
    phi: Activation = tanh,
    dtype: torch.dtype = torch.float64,
) -> Networks:
    """Networks of depth L, hidden width M and embedding dimension D = ``width`` at initialisation.

    u ~ N(0, sigma_u^2 I), v ~ N(0, sigma_v^2 I), all independent. Both default to sqrt(D), the critical scale ([C],
    Theorem 3).
    """
    shape = (
        positive_integer("depth", depth),
        positive_integer("networks", networks),
        positive_integer("width", width),
        positive_integer("hidden", hidden),
    )
    if finite("alpha", alpha) <= 0:
        raise ValueError(f"alpha must be positive, got {alpha}; 1 is the scale of maximal updates")

    def draw(name: str, sigma: float | None) -> Tensor:
        scale = width**0.5 if sigma is None else finite(name, sigma)
        return torch.empty(shape, dtype=dtype, device=generator.device).normal_(generator=generator).mul_(scale)

    ones = torch.ones(networks, dtype=dtype, device=generator.device)
    return Networks(draw("sigma_u", sigma_u), draw("sigma_v", sigma_v), alpha * ones, depth * hidden * ones, phi)


def together(ensembles: Sequence[Networks]) -> Networks:
    """One ensemble of networks of several shapes, the smaller ones filled up with zeros.

    A unit with u = v = 0 adds nothing, and gets no gradient since <v, b> = 0 and rho(0) = 0: it stays zero. So the
    networks are the same; what the ensemble gains is fewer and larger products, what it loses is the zeros.
    """
    depth, hidden = max(e.U.shape[0] for e in ensembles), max(e.U.shape[3] for e in ensembles)
    first = ensembles[0]
    if any(e.phi != first.phi or e.U.shape[2] != first.U.shape[2] for e in ensembles):
        raise ValueError("networks in one ensemble must share width and activation; train them one after the other")
    if first.phi.f(torch.zeros(1, device="cpu")).any():
        raise ValueError(f"phi must have rho(0) = 0 for zeros to stay zeros, got {first.phi.name}; train them apart")

    def filled(W: Tensor) -> Tensor:
        return pad(W, (0, hidden - W.shape[3], 0, 0, 0, 0, 0, depth - W.shape[0]))

    return Networks(
        torch.cat([filled(e.U) for e in ensembles], 1),
        torch.cat([filled(e.V) for e in ensembles], 1),
        torch.cat([e.alpha for e in ensembles]),
        torch.cat([e.units for e in ensembles]),
        first.phi,
    )


def spread(U: Tensor, V: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """The same units in fewer, wider blocks: (nodes, networks, D, P) to (depth, networks, D, nodes P / depth).

    Neighbouring blocks are merged, so a unit keeps its place in depth up to 1/depth. The results are copies, which
    ``descent`` may change. Raises ValueError unless ``depth`` divides the number of blocks.
    """
    if U.shape[0] % positive_integer("depth", depth):
        raise ValueError(
            f"depth must divide the number of blocks, got {depth} for {U.shape[0]}; take a divisor of {U.shape[0]}"
        )
    return tuple(torch.cat(W.unflatten(0, (depth, -1)).unbind(1), -1) for W in (U, V))


@dataclass(frozen=True)
class Step:
    """What a network computes at step ``k``, with the weights of that step; valid until the next step is asked for.

    ``h`` and ``b`` hold h^0, ..., h^L and b^0, ..., b^L, both (depth + 1, networks, N, D), and ``loss`` is (networks,).
    ``diverged`` is (networks,): the step at which a network diverged, -1 if it has not; from then on it is NaN.
    """

    k: int
    h: Tensor
    b: Tensor
    loss: Tensor
    diverged: Tensor

    @property
    def output(self) -> Tensor:
        """h^L: (networks, N, D)."""
        return self.h[-1]


def descent(
    networks: Networks,
    x: Tensor,
    y: Tensor,
    steps: int,
    *,
    eta: float = 1.0,
    eta_u: float | Tensor | None = None,
    eta_v: float | Tensor | None = None,
    ahead: float = 0.0,
) -> Iterator[Step]:
    """Steps k = 0, ..., ``steps`` of full-batch gradient descent, which changes ``networks`` in place.

    ``x`` and ``y`` are (N, D); ``eta_u`` and ``eta_v`` are numbers, or one for each network, by default D. The first
    step is that of the initial weights. Weights are updated in the backward pass, while they are at hand: when step k
    is yielded, ``networks`` already hold those of step k + 1; only the last step makes no update. They are to be read
    between steps, not written. A network whose loss is not finite, or above CEILING times its first one, ends there.

    ``ahead`` = 1/2 evaluates block l half a block further on, at h^{l-1} + (h^{l-1} - h^{l-2})/2: a scheme of second
    order for the limit in place of Euler's first-order one, with the exact gradient of that scheme. Then ``h[l-1]`` is
    the state at which block l is evaluated and ``b[l]`` the gradient that its units see: those of depth (l - 1/2)/L up
    to O(L^-2), save that block 1 has nothing to look ahead with and sees the input, and block L the gradient at the
    output. They are off by half a block, in one block of L, so the order of the scheme is two all the same.
    """
    L, n, D, M = networks.U.shape
    steps, N, home = positive_integer("steps", steps), _examples(x, y, D), networks.U.device
    place = runtime.place(home, n * N * M)
    U, V, x, y = (W.to(place, networks.U.dtype).contiguous() for W in (networks.U, networks.V, x, y))
    moved = [(old, new) for old, new in ((networks.U, U), (networks.V, V)) if old.data_ptr() != new.data_ptr()]
    eta = finite("eta", eta)
    rates = torch.stack(
        [
            networks.alpha / networks.units,
            eta / D * _per_network("eta_u", D if eta_u is None else eta_u, networks.alpha),
            eta * _per_network("eta_v", D if eta_v is None else eta_v, networks.alpha),
        ]
    ).to(place)
    state = {name: U.new_empty(L + 1, n, N, D) for name in "hb"} | {name: U.new_empty(n) for name in ("loss", "first")}
    state["diverged"] = torch.full((n,), -1, device=place)
    known = fused.step and networks.phi.fused and U.dtype in (torch.float32, torch.float64)
    compiled = known and place.type == "cpu"
    advance = (_loops if compiled else _operations)(U, V, x, y, rates, finite("ahead", ahead), networks.phi, **state)
    for k in range(steps + 1):
        advance(k, k < steps)
        for old, new in moved:
            old.copy_(new)
        h, b, loss, diverged = (state[name].to(home) for name in ("h", "b", "loss", "diverged"))
        yield Step(k, h, b, loss.clone(), diverged.clone())


def _loops(U, V, x, y, rates, ahead, phi, h, b, loss, first, diverged) -> Callable[[int, bool], None]:
    """A function that does step k, with or without the update, in the compiled loops of ``fused``."""
    (L, n, _, M), (kind, constant) = U.shape, phi.fused
    # A unit with u = v = 0 stays as it is if rho(0) = 0: the zeros at the end of a layer are not visited.
    alive = (U.any(2) | V.any(2) | (constant != 0)).numpy()
    units = np.where(alive.any(-1), M - alive[..., ::-1].argmax(-1), 0)
    U, V, x, y, rates, *states = (tensor.numpy() for tensor in (U, V, x, y, rates, h, b, loss, first, diverged))
    still = rates * [[1], [0], [0]]
    threads = min(n, torch.get_num_threads()) if U.size > THREADED else 1
    ends = np.searchsorted(units.sum(0).cumsum(), np.arange(1, threads) * units.sum() / threads) + 1
    parts = [(lo, hi, np.empty((L, hi - lo, len(x), M), U.dtype)) for lo, hi in pairwise(sorted({0, *ends, n}))]
    share = ThreadPoolExecutor(len(parts)).map if len(parts) > 1 else map

    def advance(k: int, update: bool) -> None:
        settings = rates if update else still.astype(U.dtype), ahead, fused.KINDS[kind], constant, k, CEILING

        def some(part: tuple[int, int, np.ndarray]) -> None:
            lo, hi, a = part
            fused.step(lo, hi, U, V, units, x, y, *settings, *states, a)

        list(share(some, parts))

    return advance


def _operations(U, V, x, y, rates, ahead, phi, h, b, loss, first, diverged) -> Callable[[int, bool], None]:
    """The same in PyTorch's operations, for a GPU: nothing in it waits for a number, and a graph can repeat it."""
    (L, n, D, M), N = U.shape, len(x)
    mean, u_rate, v_rate = rates[:, :, None, None]
    mean_pull = mean / D
    a, g, clock = U.new_empty(L, n, N, M), U.new_empty(n, N, M), torch.zeros((), dtype=torch.long, device=U.device)

    def forward() -> None:
        total, block = x.expand(n, N, D), torch.zeros_like(h[0])
        for l in range(L):  # noqa: E741 - the paper's letter
            torch.add(total, block, alpha=ahead, out=h[l])
            phi.write(torch.baddbmm(a[l], h[l], U[l], beta=0, alpha=1 / D, out=a[l]))
            block = mean * (a[l] @ V[l].mT)
            total = total + block
        h[L] = total

    def look() -> None:
        found = (h[L] - y).square().mean((1, 2)) / 2
        first.copy_(torch.where(clock == 0, found, first))
        ended = ~((found <= CEILING * first) & found.isfinite())
        diverged.copy_(torch.where(ended & (diverged < 0), clock, diverged))
        loss.copy_(found.masked_fill(ended, torch.nan))
        h.masked_fill_(ended[:, None, None], torch.nan)  # and with them b and the new weights
        clock.add_(1)

    def backward(update: bool) -> None:
        total, block = (h[L] - y) / (N * D), torch.zeros_like(h[0])
        for l in reversed(range(L)):  # noqa: E741
            torch.add(total, block, alpha=ahead, out=b[l + 1])
            phi.pull(torch.bmm(b[l + 1], V[l], out=g), a[l])
            block = mean_pull * (g @ U[l].mT)
            total = total + block
            if update:
                U[l].baddbmm_((u_rate * h[l]).mT, g, alpha=-1)
                V[l].baddbmm_((v_rate * b[l + 1]).mT, a[l], alpha=-1)
        b[0] = total

    def step() -> None:
        forward()
        look()
        backward(True)

    repeated = graphs.repeatable(step, (U, V, h, b, loss, first, diverged, clock))

    def advance(k: int, update: bool) -> None:
        if update:
            repeated()
        else:
            forward()
            look()
            backward(False)
            for W in (U, V):
                W.masked_fill_(loss.isnan()[:, None, None], torch.nan)

    return advance


def _per_network(name: str, rate: float | Tensor, alpha: Tensor) -> Tensor:
    """rate / alpha, (networks,)."""
    rate = torch.as_tensor(rate, dtype=alpha.dtype, device=alpha.device)
    if rate.dim() > 1 or rate.numel() not in (1, len(alpha)) or not bool(((rate >= 0) & rate.isfinite()).all()):
        raise ValueError(
            f"{name} must be a finite number >= 0, or one for each of the {len(alpha)} networks, got {rate.tolist()}; "
            "the width D is the usual choice"
        )
    return rate / alpha


def _examples(x: Tensor, y: Tensor, D: int) -> int:
    """The number of examples, after a look at inputs and targets."""
    if x.dim() != 2 or x.shape != y.shape or x.shape[1] != D:
        raise ValueError(
            f"x and y must both have the shape (examples, D = {D}), got {tuple(x.shape)} and {tuple(y.shape)}; "
            "inputs, targets and states have one dimension here"
        )
    if not len(x):
        raise ValueError("x and y must hold one example at least, got none; a network learns from examples")
    if not bool(x.isfinite().all() and y.isfinite().all()):
        raise ValueError("x and y must be finite, got inf or NaN; clean the data, or scale them")
    return len(x)

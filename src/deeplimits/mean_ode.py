"""The Mean ODE of training: what descent of a 2LP ResNet becomes as its depth grows, solved to a stated error.

    dh_k/ds = alpha E[V rho(<U, h_k>/D)],                  h_k(0) = x            (U, V) = (U_k(s), V_k(s))
    db_k/ds = -alpha/D E[U rho'(<U, h_k>/D) <V, b_k>],     b_k(1) = (h_k(1) - y)/(ND)

and each (U, V) moves by the descent step of ``training``, at every depth s from the same law (Chizat 2025, Section 2).
This is solved as a network with three changes. Blocks sit at the midpoints of ``nodes`` intervals and are evaluated
by extrapolation, so the error in depth is of order nodes^-2, not 1/L; coarser grids with the same particles take out
this order and the next. Units are points of one scrambled Sobol sequence in (s, u, v), not independent draws. And
independent scrambles, the replicates, give the answer its error bar. Linear blocks need no particles: ``linear``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy import special
from scipy.interpolate import CubicSpline
from scipy.stats import qmc
from scipy.stats import t as student
from torch import Tensor

from deeplimits.activations import Activation, identity, tanh
from deeplimits.checks import finite, positive_integer
from deeplimits.training import Networks, descent, spread

LOOK = 20  # steps after which is looked on a GPU whether the solution has diverged
Law = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Solution:
    """h and b of every step at the nodes, and whatever else follows from them.

    ``s`` holds 0, the nodes and 1; ``h`` and ``b`` have the shape (steps + 1, len(s), N, D), ``loss`` (steps + 1,).
    ``outputs`` is (replicates, steps + 1, N, D), one solution from each set of particles; ``h`` and ``b`` are their
    means. ``depth`` is (steps + 1,): the RMS error in depth of the outputs, as the last correction estimates it, NaN if
    there were too few nodes for one. ``eta_u``, ``eta_v`` are eta eta_u/alpha and eta eta_v/alpha: with them a unit can
    be carried along. ``sampled`` says whether there are particles, ``spectral`` that one polynomial interpolates.
    """

    s: np.ndarray
    h: Tensor
    b: Tensor
    loss: Tensor
    outputs: Tensor
    depth: Tensor
    eta_u: float
    eta_v: float
    phi: Activation
    sampled: bool = True
    spectral: bool = False

    @property
    def output(self) -> Tensor:
        """h_k(1, x_i): (steps + 1, N, D)."""
        return self.h[:, -1]

    @property
    def sampling(self) -> Tensor:
        """RMS standard error of ``output`` over examples and coordinates, from the replicates: (steps + 1,)."""
        return self._variance.mean((1, 2)).sqrt()

    @property
    def error(self) -> Tensor:
        """RMS error of ``output`` over examples and coordinates, of sampling and of depth: (steps + 1,)."""
        return torch.hypot(self.sampling, self.depth)

    def half_width(self, level: float = 0.95) -> Tensor:
        """Half of Student's interval for each entry of ``output``, depth added in squares: (steps + 1, N, D)."""
        freedom = max(len(self.outputs) - 1, 1) if self.sampled else np.inf
        return float(student.ppf((1 + level) / 2, freedom)) * (self._variance + self.depth[:, None, None] ** 2).sqrt()

    @property
    def _variance(self) -> Tensor:
        """The square of the standard error of each entry of ``output``."""
        if len(self.outputs) < 2:
            return torch.full_like(self.output, torch.nan if self.sampled else 0.0)
        return self.outputs.var(0) / len(self.outputs)

    def at(self, s: np.ndarray) -> tuple[Tensor, Tensor]:
        """h and b at the depths ``s`` in [0, 1], (steps + 1, len(s), N, D), interpolated between the nodes."""
        s = np.asarray(s, float)
        if s.ndim != 1 or not ((s >= 0) & (s <= 1)).all():
            raise ValueError(f"s must be a list of depths between 0 and 1, got {s}; layer l of L ends at l/L")
        return tuple(_through(self.s, z, s, self.spectral) for z in (self.h, self.b))

    def carry(self, u: Tensor, v: Tensor, s: np.ndarray) -> tuple[Tensor, Tensor]:
        """The limit weights (U_k(s), V_k(s)) of units that start at (u, v), at every step k.

        ``u`` and ``v`` are (units, D) and ``s`` gives the depth of each unit; both results (steps + 1, units, D). What
        a unit becomes depends on the others only through h and b, which are known here.
        """
        (h, b), D = self.at(s), u.shape[1]
        if u.shape != v.shape or len(u) != len(s):
            raise ValueError(
                f"u, v and s must have the shapes (units, D), (units, D) and (units,), got {tuple(u.shape)}, "
                f"{tuple(v.shape)} and ({len(s)},); give each unit its depth"
            )
        us, vs = [u], [v]
        for h_k, b_k in zip(h[:-1], b[:-1], strict=True):  # (units, N, D)
            z = (h_k @ u[:, :, None])[..., 0] / D
            pull = self.phi.df(z) * (b_k @ v[:, :, None])[..., 0]
            u, v = (
                u - self.eta_u / D * (pull[:, None] @ h_k)[:, 0],
                v - self.eta_v * (self.phi.f(z)[:, None] @ b_k)[:, 0],
            )
            us.append(u)
            vs.append(v)
        return torch.stack(us), torch.stack(vs)


def normal(width: int, sigma_u: float | None = None, sigma_v: float | None = None) -> Law:
    """The law of u ~ N(0, sigma_u^2 I), v ~ N(0, sigma_v^2 I), independent; both default to sqrt(width).

    Two units a point: (u, v) and its mirror image (u, -v), whose drifts cancel at initialisation as their means do.
    """
    scales = [width**0.5 if x is None else finite("sigma", x) for x in (sigma_u, sigma_v)]

    def law(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        u, v = np.split(special.ndtri(points), 2, axis=-1)
        return scales[0] * np.stack([u, u], 1), scales[1] * np.stack([v, -v], 1)

    return law


def particles(
    nodes: int, count: int, width: int, replicates: int, law: Law, generator: torch.Generator, dtype=torch.float64
) -> tuple[Tensor, Tensor]:
    """U and V of shape (nodes, replicates, width, units): a scrambled Sobol sequence in (s, u, v) a replicate.

    The first coordinate of the sequence is the depth: its points, sorted by it, fill one node after the other,
    ``count`` points a node. So neighbouring nodes complete each other, and each alone has the law of (u, v). ``law``
    maps points of (0, 1)^(2 width), shape (m, 2 width), to u and v of shape (m, copies, width), as many units for a
    point as it likes.

    Raises ValueError unless ``nodes`` and ``count`` are powers of two: other pieces of the sequence are not balanced.
    """
    for name, value in (("nodes", nodes), ("particles", count)):
        power = 1 << (positive_integer(name, value).bit_length() - 1)
        if value != power:
            raise ValueError(
                f"{name} must be a power of two, for which Sobol points are balanced, got {value}; "
                f"take {power} or {2 * power}"
            )
    weights = []
    for _ in range(positive_integer("replicates", replicates)):
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        points = qmc.Sobol(2 * width + 1, rng=np.random.default_rng(seed)).random(nodes * count)
        points = points[points[:, 0].argsort(), 1:].clip(2.0**-33, 1 - 2.0**-33)
        units = law(points)
        shapes = {w.shape for w in units}
        if {(len(s), s[0], s[-1]) for s in shapes} != {(3, len(points), width)} or len(shapes) > 1:
            raise ValueError(
                f"law must return u and v of one shape (points, copies, width), here ({len(points)}, copies, {width}), "
                f"got {[w.shape for w in units]}; for one unit a point write u[:, None], v[:, None]"
            )
        weights.append([w.reshape(nodes, -1, width).swapaxes(1, 2) for w in units])
    U, V = (np.ascontiguousarray(np.stack(W, 1)) for W in zip(*weights, strict=True))
    return tuple(torch.as_tensor(W, dtype=dtype, device=generator.device) for W in (U, V))


_draw = particles  # the argument of ``solve`` has the same name


def depths(nodes: int) -> np.ndarray:
    """0, the midpoints of ``nodes`` equal intervals, and 1."""
    return np.concatenate([[0.0], (np.arange(nodes) + 0.5) / nodes, [1.0]])


def _through(knots: np.ndarray, path: Tensor, s: np.ndarray, spectral: bool = False) -> Tensor:
    """``path``, known at the ``knots`` along its second axis, at the depths ``s``: by splines, or one polynomial."""
    if spectral:
        ours, theirs = (np.polynomial.legendre.legvander(2 * z - 1, len(knots) - 1) for z in (s, knots))
        matrix = np.linalg.solve(theirs.T, ours.T).T
    else:
        matrix = CubicSpline(knots, np.eye(len(knots)))(s)
    return torch.tensordot(path, torch.as_tensor(matrix, dtype=path.dtype, device=path.device), ([1], [1])).movedim(
        -1, 1
    )


def at_nodes(h: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """h and b as ``descent`` has them, (steps + 1, nodes + 1, ...), interpolated at all of :func:`depths`.

    The first block sees the input, and the last one the gradient at the output: of those, what is known is known at the
    ends, not at their midpoints.
    """
    s = depths(h.shape[1] - 1)
    return _through(np.delete(s, 1), h, s), _through(np.delete(s, -2), b, s)


def grids(nodes: int) -> list[int]:
    """``nodes`` and, as far as it goes, a half and a quarter of them."""
    return [nodes // n for n in (1, 2, 4) if nodes % n == 0]


def corrections(passes: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Richardson's corrections of h and b at the nodes, and the RMS of the last one of the outputs.

    ``passes`` holds h and b as ``descent`` has them, (steps + 1, nodes + 1, N, D), on each of :func:`grids`. An error
    of the order nodes^-2 is four times as large on the next grid, that of order nodes^-3 eight times as large.
    """
    s, found = depths(passes[0][0].shape[1] - 1), []
    for i, off in ((0, 1), (1, -2)):
        paths = [_through(np.delete(depths(p[i].shape[1] - 1), off), p[i], s) for p in passes]
        total = last = torch.zeros_like(paths[0])
        for order in range(2, len(passes) + 1):
            changes = [(fine - coarse) / (2**order - 1) for fine, coarse in pairwise(paths)]
            paths = [path + change for path, change in zip(paths, changes, strict=False)]
            total, last = total + changes[0], changes[0]
        found.append((total, last))
    depth = found[0][1][:, -1].square().mean((1, 2)).sqrt()
    return found[0][0], found[1][0], depth if len(passes) > 1 else torch.full_like(depth, torch.nan)


def solve(
    x: Tensor,
    y: Tensor,
    steps: int,
    generator: torch.Generator,
    *,
    nodes: int = 128,
    particles: int = 1024,
    replicates: int = 4,
    law: Law | None = None,
    alpha: float = 1.0,
    eta: float = 1.0,
    eta_u: float | None = None,
    eta_v: float | None = None,
    phi: Activation = tanh,
    tolerance: float | None = None,
) -> Solution:
    """The Mean ODE for ``steps`` steps of training on ``x``, ``y`` of shape (N, D).

    ``law`` is that of the initial units, by default :func:`normal`; the other settings are those of ``training``.

    Two errors make up ``Solution.error``. That of sampling falls a little faster than (nodes particles
    replicates)^(-1/2). That in depth has the orders nodes^-2, nodes^-3, ...: the first replicate is solved again on
    grids twice and four times as coarse, with the same particles, which takes two orders out of all replicates
    (Richardson, at a cost of 2/replicates of the whole). The last correction is the error bar. A bias of order
    1/(nodes particles) is in neither: have several times more particles than nodes.

    With a ``tolerance`` both are looked after. Raises ValueError, naming what to raise, if one exceeds it, or a
    solution diverges.
    """
    D = x.shape[-1]
    if finite("alpha", alpha) == 0:
        raise ValueError("alpha must not be zero: nothing would move; 1 is the scale of maximal updates")
    if tolerance is not None:
        _check_tolerance(tolerance, nodes, replicates)
    U, V = _draw(nodes, particles, D, replicates, law or normal(D), generator, x.dtype)
    settings = {"eta": eta, "eta_u": eta_u, "eta_v": eta_v, "ahead": 0.5}
    merged = [spread(U[:, :1], V[:, :1], n) for n in grids(nodes)[1:]]  # before descent changes U and V
    (h, b, outputs), *coarse = (_passes(*W, x, y, steps, alpha, phi, settings) for W in ((U, V), *merged))
    dh, db, depth = corrections([(h[:, :, 1], b[:, :, 1]), *((c[0][:, :, 0], c[1][:, :, 0]) for c in coarse)])
    h, b = (z + change for z, change in zip(at_nodes(h[:, :, 0], b[:, :, 0]), (dh, db), strict=True))
    solution = Solution(
        depths(nodes),
        h,
        b,
        (h[:, -1] - y).square().mean((1, 2)) / 2,
        outputs + dh[:, -1],
        depth,
        eta * (D if eta_u is None else eta_u) / alpha,
        eta * (D if eta_v is None else eta_v) / alpha,
        phi,
    )
    if tolerance:
        _look_after(solution, tolerance)
    return solution


def _passes(U, V, x, y, steps, alpha, phi, settings) -> tuple[Tensor, ...]:
    """h and b of ``descent``, (steps + 1, nodes + 1, 2, N, D): mean and first replicate; and the outputs of all."""
    nodes, replicates = U.shape[:2]
    ones = torch.ones(replicates, dtype=U.dtype, device=U.device)
    networks, paths, outputs = Networks(U, V, alpha * ones, ones * nodes * U.shape[-1], phi), [], []
    for step in descent(networks, x, y, steps, **settings):
        # a look halts a GPU, so not at every step there
        if (x.device.type == "cpu" or step.k % LOOK == 0 or step.k == steps) and bool(step.diverged.amax() >= 0):
            ended = int(step.diverged[step.diverged >= 0].amin())
            raise ValueError(
                f"the Mean ODE diverged at step {ended} of {steps}, on {nodes} nodes: the learning rates are too large "
                "for this data; lower eta, eta_u or eta_v, or raise nodes"
            )
        paths.append([torch.stack([z.mean(1), z[:, 0]], 1) for z in (step.h, step.b)])
        outputs.append(step.output.clone())
    h, b = (torch.stack(z) for z in zip(*paths, strict=True))
    return h, b, torch.stack(outputs, 1)


def linear(
    x: Tensor,
    y: Tensor,
    steps: int,
    *,
    sigma_u: float | None = None,
    sigma_v: float | None = None,
    alpha: float = 1.0,
    eta: float = 1.0,
    eta_u: float | None = None,
    eta_v: float | None = None,
    tolerance: float = 1e-10,
) -> Solution:
    """The Mean ODE of linear blocks, rho(z) = z, without particles: an oracle for :func:`solve`.

    It closes on three D x D matrices at every depth, P = E[U U^T], Q = E[V V^T] and A = E[V U^T], and needs no more of
    the initial law than sigma_u^2 I, sigma_v^2 I and 0. With G = sum_i h(x_i) b(x_i)^T, p = eta eta_u/(alpha D) and
    q = eta eta_v/(alpha D), both passes are linear and a step is

        dh/ds = alpha/D A h,    db/ds = -alpha/D A^T b,    U <- U - p G V,    V <- V - q G^T U.

    In depth by collocation at Gauss points, 8, 16, ... of them until twice as many change no output by more than
    ``tolerance``, the RMS of which is ``Solution.depth``. It converges exponentially, since all is analytic in s.
    Raises ValueError if 64 are too few, or if the loss explodes.
    """
    D, home, dtype = x.shape[-1], x.device, x.dtype
    if finite("alpha", alpha) == 0:
        raise ValueError("alpha must not be zero: nothing would move; 1 is the scale of maximal updates")
    scales = [D if sigma is None else finite("sigma", sigma) ** 2 for sigma in (sigma_u, sigma_v)]
    rates = [finite("eta", eta) * (D if r is None else finite("eta_u, eta_v", r)) / alpha for r in (eta_u, eta_v)]
    x, y, before = x.double(), y.double(), None
    for nodes in (8, 16, 32, 64):
        h, b = _collocated(x, y, positive_integer("steps", steps), nodes, alpha, scales, [r / D for r in rates])
        gap = torch.inf if before is None else (h[:, -1] - before).square().mean((1, 2)).sqrt()
        before = h[:, -1]
        if nodes > 8 and bool((gap <= tolerance).all()):
            break
    else:
        raise ValueError(
            f"the Mean ODE of linear blocks is not solved to {tolerance:g} by 64 nodes, or explodes: at step {steps} "
            f"they differ from 32 by {float(gap[-1]):.1e}; lower eta, eta_u or eta_v, or raise tolerance"
        )
    s = np.concatenate([[0.0], _gauss(nodes)[0], [1.0]])
    loss = (h[:, -1] - y).square().mean((1, 2)) / 2
    h, b, loss, gap = (z.to(home, dtype) for z in (h, b, loss, gap))
    return Solution(s, h, b, loss, h[None, :, -1], gap, *rates, identity, sampled=False, spectral=True)


def _gauss(nodes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gauss points on [0, 1], their weights, and the integrals of their Lagrange polynomials from 0 to each point."""
    t, w = np.polynomial.legendre.leggauss(nodes)
    series = np.polynomial.legendre.legint(np.polynomial.legendre.legfit(t, np.eye(nodes), nodes - 1), lbnd=-1)
    return (t + 1) / 2, w / 2, np.polynomial.legendre.legval(t, series).T / 2


def _collocated(x, y, steps, nodes, alpha, scales, rates) -> tuple[Tensor, Tensor]:
    """h and b at 0, ``nodes`` Gauss points and 1: (steps + 1, nodes + 2, N, D)."""
    (N, D), kind = x.shape, {"dtype": x.dtype, "device": x.device}
    w, upto = (torch.as_tensor(z, **kind) for z in _gauss(nodes)[1:])
    eye = torch.eye(D, **kind)
    P, Q = (scale * eye.expand(nodes, D, D) for scale in scales)
    A, (p, q), hs, bs = torch.zeros(nodes, D, D, **kind), rates, [], []

    def path(start, drift, upto):
        """z at the nodes if z = start + the integral of drift z, with the integrals ``upto`` each node."""
        system = upto[:, None, :, None] * drift.movedim(0, 1)
        system = torch.eye(nodes * D, **kind) - system.reshape(nodes * D, nodes * D)
        z = torch.linalg.solve(system, start.T.repeat(nodes, 1)).unflatten(0, (nodes, D)).mT
        return z, start + (w[:, None, None] * (z @ drift.mT)).sum(0)

    for _ in range(steps + 1):
        h, end = path(x, alpha / D * A, upto)
        b, first = path((end - y) / (N * D), alpha / D * A.mT, w - upto)
        hs.append(torch.cat([x[None], h, end[None]]))
        bs.append(torch.cat([first[None], b, (end[None] - y) / (N * D)]))
        G = h.mT @ b
        GT, AT = G.mT, A.mT
        P, Q, A = (
            P - p * (G @ A + AT @ GT) + p * p * G @ Q @ GT,
            Q - q * (GT @ AT + A @ G) + q * q * GT @ P @ G,
            A - q * GT @ P - p * Q @ GT + p * q * GT @ AT @ GT,
        )
    return torch.stack(hs), torch.stack(bs)


def _check_tolerance(tolerance: float, nodes: int, replicates: int) -> None:
    if finite("tolerance", tolerance) <= 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}; for example 1e-3")
    for name, value in (("nodes", nodes), ("replicates", replicates)):
        if value < 2:
            raise ValueError(f"{name} must be at least 2 for an error to be seen, got {value}; raise {name}")


def _look_after(solution: Solution, tolerance: float) -> None:
    """ValueError if the sampling error or the error in depth is larger than ``tolerance``."""
    cures = [
        f"the {name} is {float(error.max()):.1e}: raise {cure}"
        for name, error, cure in (
            ("sampling error", solution.sampling, "particles or replicates"),
            ("error in depth", solution.depth, "nodes"),
        )
        if not bool((error <= tolerance).all())
    ]
    if cures:
        raise ValueError(f"the tolerance {tolerance:g} is not reached; " + ", and ".join(cures))

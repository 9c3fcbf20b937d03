"""The Mean ODE of training: what descent of a 2LP ResNet becomes as its depth grows, solved to a stated error.

    dh_k/ds = alpha E[V rho(<U, h_k>/D)],                  h_k(0) = x            (U, V) = (U_k(s), V_k(s))
    db_k/ds = -alpha/D E[U rho'(<U, h_k>/D) <V, b_k>],     b_k(1) = (h_k(1) - y)/(ND)

and each (U, V) moves by the descent step of ``training``, at every depth s from the same law (Chizat 2025, Section 2).
This is solved as a network with three changes. Blocks sit at the midpoints of ``nodes`` intervals and are evaluated
by extrapolation, so the error in depth is of order nodes^-2, not 1/L. Units are points of one scrambled Sobol sequence
in (s, u, v), not independent draws. And independent scrambles, the replicates, give the answer its error bar.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from scipy.interpolate import CubicSpline
from scipy.stats import qmc
from torch import Tensor

from deeplimits.activations import Activation, tanh
from deeplimits.checks import finite, positive_integer
from deeplimits.training import Networks, descent

LOOK = 20  # steps after which is looked on a GPU whether the solution has diverged
Law = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Solution:
    """h and b of every step at the nodes, and whatever else follows from them.

    ``s`` holds 0, the midpoints and 1; ``h`` and ``b`` have the shape (steps + 1, len(s), N, D), ``loss`` (steps + 1,).
    At every node their error in depth is of order nodes^-2.
    ``outputs`` is (replicates, steps + 1, N, D), one solution from each set of particles; ``h`` and ``b`` are their
    means. ``eta_u``, ``eta_v`` are eta eta_u/alpha and eta eta_v/alpha: with them a unit can be carried along.
    """

    s: np.ndarray
    h: Tensor
    b: Tensor
    loss: Tensor
    outputs: Tensor
    eta_u: float
    eta_v: float
    phi: Activation

    @property
    def output(self) -> Tensor:
        """h_k(1, x_i): (steps + 1, N, D)."""
        return self.h[:, -1]

    @property
    def error(self) -> Tensor:
        """RMS standard error of ``output`` over examples and coordinates, from the replicates: (steps + 1,)."""
        if len(self.outputs) < 2:
            return torch.full_like(self.loss, torch.nan)
        return (self.outputs.var(0) / len(self.outputs)).mean((1, 2)).sqrt()

    def at(self, s: np.ndarray) -> tuple[Tensor, Tensor]:
        """h and b at the depths ``s`` in [0, 1], (steps + 1, len(s), N, D), by cubic splines through the nodes."""
        s = np.asarray(s, float)
        if s.ndim != 1 or not ((s >= 0) & (s <= 1)).all():
            raise ValueError(f"s must be a list of depths between 0 and 1, got {s}; layer l of L ends at l/L")
        values = (CubicSpline(self.s, z.cpu().numpy(), axis=1)(s) for z in (self.h, self.b))
        h, b = (torch.as_tensor(z, dtype=self.h.dtype, device=self.h.device) for z in values)
        return h, b

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


def depths(nodes: int) -> np.ndarray:
    """0, the midpoints of ``nodes`` equal intervals, and 1."""
    return np.concatenate([[0.0], (np.arange(nodes) + 0.5) / nodes, [1.0]])


def between_ends(path: Tensor) -> Tensor:
    """``path`` at :func:`depths`, shape (nodes + 2, ...), its first and last midpoint put on straight lines.

    The scheme evaluates the first block at s = 0, and the adjoint of the last one at s = 1. What it used there is off
    by O(1/nodes) as a value at the midpoint; interpolated between the end and the next node it is off by O(nodes^-2).
    """
    path, t = path.clone(), 1 / (3 if len(path) > 3 else 2)
    first, last = ((1 - t) * path[i] + t * path[j] for i, j in ((0, 2), (-1, -3)))
    path[1], path[-2] = first, last
    return path


def solve(
    x: Tensor,
    y: Tensor,
    steps: int,
    generator: torch.Generator,
    *,
    nodes: int = 64,
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

    Its sampling error, ``Solution.error``, falls a little faster than (nodes particles replicates)^(-1/2). ``law`` is
    that of the initial units, by default :func:`normal`; the other settings are those of ``training``.

    With a ``tolerance`` the RMS error of the outputs is looked after: the sampling error at every step, and the
    error in depth by a second solution in which neighbouring nodes are merged, with the same particles and an error
    four times as large. Raises ValueError, naming what to raise, if either exceeds it.
    """
    D = x.shape[-1]
    if finite("alpha", alpha) == 0:
        raise ValueError("alpha must not be zero: nothing would move; 1 is the scale of maximal updates")
    if tolerance is not None:
        _check_tolerance(tolerance, nodes, replicates)
    U, V = _draw(nodes, particles, D, replicates, law or normal(D), generator, x.dtype)
    ones = torch.ones(replicates, dtype=x.dtype, device=x.device)
    settings = {"eta": eta, "eta_u": eta_u, "eta_v": eta_v, "ahead": 0.5}

    def network(nodes: int, U: Tensor, V: Tensor) -> Networks:
        return Networks(U, V, alpha * ones, ones * nodes * U.shape[-1], phi)

    merged = tolerance and [_merge(W) for W in (U, V)]
    h, b, outputs = [], [], []
    for step in descent(network(nodes, U, V), x, y, steps, **settings):
        # a look halts a GPU, so not at every step there
        if (x.device.type == "cpu" or step.k % LOOK == 0 or step.k == steps) and bool(step.diverged.amax() >= 0):
            ended = int(step.diverged[step.diverged >= 0].amin())
            raise ValueError(
                f"the Mean ODE diverged at step {ended} of {steps}: the learning rates are too large for this data; "
                "lower eta, eta_u or eta_v"
            )
        ends = (step.output - y) / y.numel()
        h.append(between_ends(torch.cat([x[None], step.h.mean(1)])))
        b.append(between_ends(torch.cat([step.b.mean(1), ends.mean(0)[None]])))
        outputs.append(step.output.clone())
    h, outputs = torch.stack(h), torch.stack(outputs, 1)
    solution = Solution(
        depths(nodes),
        h,
        torch.stack(b),
        (h[:, -1] - y).square().mean((1, 2)) / 2,
        outputs,
        eta * (D if eta_u is None else eta_u) / alpha,
        eta * (D if eta_v is None else eta_v) / alpha,
        phi,
    )
    if tolerance:
        coarse = [step.output.clone() for step in descent(network(nodes // 2, *merged), x, y, steps, **settings)]
        _look_after(solution, torch.stack(coarse, 1), tolerance)
    return solution


def _check_tolerance(tolerance: float, nodes: int, replicates: int) -> None:
    if finite("tolerance", tolerance) <= 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}; for example 1e-3")
    for name, value in (("nodes", nodes), ("replicates", replicates)):
        if value < 2:
            raise ValueError(f"{name} must be at least 2 for an error to be seen, got {value}; raise {name}")


_draw = particles  # the argument of ``solve`` has the same name


def _merge(W: Tensor) -> Tensor:
    """Neighbouring nodes made one: (nodes, replicates, D, P) to (nodes / 2, replicates, D, 2P)."""
    first, second = W.unflatten(0, (-1, 2)).unbind(1)
    return torch.cat([first, second], -1)


def _look_after(solution: Solution, coarse: Tensor, tolerance: float) -> None:
    """ValueError if the sampling error or the error in depth is larger than ``tolerance``."""
    sampling = float(solution.error.max())
    difference = (coarse - solution.outputs).mean(0).square().mean((1, 2)).sqrt()
    depth = float(difference.max()) / 3  # e(nodes / 2) - e(nodes) = 3 e(nodes) for an error of order nodes^-2
    cures = [
        f"the {name} is {error:.1e}: raise {cure}"
        for name, error, cure in (
            ("sampling error", sampling, "particles or replicates"),
            ("error in depth", depth, "nodes"),
        )
        if not error <= tolerance
    ]
    if cures:
        raise ValueError(f"the tolerance {tolerance:g} is not reached; " + ", and ".join(cures))

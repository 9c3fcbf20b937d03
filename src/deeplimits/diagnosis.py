"""What was measured in a stack of residual blocks, and what it means: regime, findings, advice, table, plot.

Made by ``deeplimits.diagnose``. The thresholds below are conventions for one network of finite depth, where the theory
has limits; the numbers beside them are not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor, cat

from deeplimits.blocks import PASSES
from deeplimits.claims import HOLD
from deeplimits.statistics import Estimate

IDENTITY = 0.1  # change of the state below which the stack does nothing
EXPLOSION, HALF = (
    10.0,
    2.0,
)  # growth of the whole stack, and of each half: a power of the depth, as sqrt(L), has HALF < 2
LAZY = 0.1  # nonlinearity of the blocks in their weights below which features hardly move
OUTLIER = 4.0  # a block that adds so many times more, or less, than its neighbours
TWICE = 1.5  # of a change in its input: a block that hands on more has its skip connection twice
ALIKE, ADDS, ALIGNED = 0.55, 1.5, 3.0  # Hurst index of weights that are alike; coherence where it counts, or alone


@dataclass(frozen=True)
class Finding:
    """Something out of order: a short ``name``, the ``number`` that speaks for it, and what to do, in words."""

    name: str
    number: float
    text: str


@dataclass(frozen=True)
class Diagnosis:
    """Measurements in a stack of L blocks h_l = h_{l-1} + f_l(h_{l-1}). Intervals are over the examples.

    ``norms``, ``gradients`` (L + 1): ||h_l|| / ||h_0|| and ||g_l|| / ||g_L||, geometric means over the examples, where
    g_l is the gradient in h_l of a random linear function of h_L. ``updates``, ``sizes`` (L): ||f_l(h)|| / ||h|| and
    ||f_l(h)||. ``skips`` (L): the share of a change in its input that a block hands on. ``sums``: for m = 1, 2, 4, ...
    the mean square of the sum of the weights of m successive blocks over that of one. In a trial training the loss went
    from ``loss[0]`` to ``loss[1]``, and weights and states moved by the relative amounts ``moves``, ``shifts`` (L).
    """

    names: list[str]
    norms: Tensor
    gradients: Tensor
    updates: Tensor
    sizes: Tensor
    skips: list[Estimate]
    twins: int  # blocks that have the weights of an earlier one
    among: int  # modules of their class in the model
    change: Estimate  # ||h_L - h_0|| / ||h_0||
    growth: Estimate  # ||h_L|| / ||h_0||
    backward: Estimate  # ||g_0|| / ||g_L||
    coherence: Estimate  # ||sum of f_l||^2 / sum of ||f_l||^2: 1 for independent updates, L for equal ones
    hurst: Estimate  # of all weights together
    weights: dict[str, Estimate]  # the Hurst index of each kind of weight
    sums: dict[int, float]
    loss: tuple[float, float]
    moves: Tensor
    shifts: Tensor
    nonlinearity: float  # of the blocks in their weights: ||f' - f - df/dw (w' - w)|| / ||f' - f||
    factor: float  # on all blocks, with which the state changes by its norm, or gradients double; NaN if there is none

    @property
    def regime(self) -> str:
        """``explosion``, ``vanishing``, ``identity`` or ``stability``, at the depth that the network has.

        Growth is an explosion if it goes on: over the whole stack by EXPLOSION, and over each half by HALF.
        """
        if _explodes(self.norms) or _explodes(self.gradients.flip(0)):
            return "explosion"
        if min(self.norms[-1], self.gradients[0]) < 1 / EXPLOSION:
            return "vanishing"
        return "identity" if self.change.value < IDENTITY else "stability"

    @property
    def training(self) -> str:
        """``lazy``; ``features``, which move; or ``none``, where no gradient reached the blocks."""
        return "none" if not isfinite(self.nonlinearity) else "lazy" if self.nonlinearity < LAZY else "features"

    @property
    def findings(self) -> list[Finding]:
        """What is out of order; empty for a healthy network."""
        return list(_findings(self))

    @property
    def advice(self) -> list[str]:
        """The findings in words, or that there are none; and, in a stable network, what lazy training means."""
        lines = [f.text for f in self.findings] or [
            f"Nothing to mend: over {len(self.names)} blocks the state changes by {self.change.value:.2g} times its "
            f"norm, and gradients grow by the factor {self.backward.value:.2g}."
        ]
        if self.training == "lazy" and self.regime == "stability":
            lines.append(
                f"Training is lazy: in their weights the blocks are linear but for {self.nonlinearity:.2g}. If "
                "features should move, put a factor 1/L, not 1/sqrt(L), in front of each block (in forward, not in its "
                "initial weights) and raise the learning rate."
            )
        return lines

    def rows(self) -> list[tuple[str, str, str]]:
        """Quantity, value, and interval or meaning: what the table shows."""
        fell = f"while the loss went from {_number(self.loss[0])} to {_number(self.loss[1])}"
        return [
            ("blocks", f"{len(self.names)} of {self.among}", f"`{self.names[0]}` to `{self.names[-1]}`"),
            ("change of the state", *_estimate(self.change)),
            ("growth of the state", *_estimate(self.growth)),
            ("growth of gradients, backward", *_estimate(self.backward)),
            ("update of one block", _number(_size(self.updates)), "root mean square over blocks"),
            ("share of its input that a block hands on", *_range([e.value for e in self.skips])),
            ("coherence of the updates", *_estimate(self.coherence)),
            ("Hurst index of the weights", *_estimate(self.hurst)),
            *((f"&emsp;`{name}`", *_estimate(h)) for name, h in self.weights.items()),
            ("move of weights", _number(_size(self.moves)), fell),
            ("move of states", _number(_size(self.shifts)), fell),
            ("nonlinearity in the weights", _number(self.nonlinearity), "0: lazy; of order 1: features move"),
            ("regime", f"**{self.regime}**", f"in training: **{self.training}**"),
        ]

    def plot(self) -> Figure:
        """Norms along depth; the weights as a sequence in depth; what the blocks do, and how they train."""
        figure, (first, second, third) = plt.subplots(1, 3, figsize=(7.2, 2.9))
        depth, m = range(len(self.norms)), list(self.sums)
        first.plot(depth, self.norms, color="C0", label="state")
        first.plot(depth, self.gradients, color="C1", ls="--", label="gradient")
        first.set(yscale="log", xlabel="after block", ylabel="relative norm", title=self.regime)
        second.loglog(m, list(self.sums.values()), "o", ms=4, color="C0", label="measured")
        second.loglog(m, m, color="0.4", lw=0.8, label="independent")
        second.loglog(m, [k**2 for k in m], color="0.4", lw=0.8, ls=":", label="equal")
        second.set(xlabel="blocks in a sum of weights", ylabel="its mean square", title=f"H = {self.hurst.value:.2f}")
        third.plot(depth[1:], self.updates, color="C0", label="update")
        third.plot(depth[1:], self.moves, color="C2", label="weights move")
        third.plot(depth[1:], self.shifts, color="C3", ls="--", label="state moves")
        third.set(yscale="log", xlabel="block", ylabel="relative size", title=f"training: {self.training}")
        for ax in (first, second, third):
            ax.legend(fontsize="x-small")
        return figure

    def _repr_markdown_(self) -> str:
        head = ["| quantity | value | interval or meaning |", "|:--|--:|:--|"]
        table = [f"| {' | '.join(row)} |" for row in self.rows()]
        return "\n".join([*head, *table, "", *(f"- {line}" for line in self.advice)])

    def __repr__(self) -> str:
        return "\n".join([*(": ".join(row[:2]) + f" ({row[2]})" for row in self.rows()), *self.advice])


def _findings(d: Diagnosis) -> Iterator[Finding]:
    """Causes before effects; each with the number that speaks for it."""
    depth, regime = len(d.names), d.regime
    connections = {name: _connection(skip) for name, skip in zip(d.names, d.skips, strict=True)}
    for name, skip in zip(d.names, d.skips, strict=True):
        if connections[name]:
            cause = "missing" if connections[name] == "no skip" else "added twice"
            text = (
                f"`{name}` hands on {abs(skip.value):.2f} of what it gets, where a skip connection hands on 1: {cause}?"
            )
            yield Finding(connections[name], skip.value, text)
    yield from _likeness(d)
    if float(d.norms[1]) > EXPLOSION and regime != "explosion":
        text = (
            f"The state before `{d.names[0]}` is small: this block makes it {float(d.norms[1]):.2g} times as large. "
            "Raise the scale of what enters, for example of the embedding."
        )
        yield Finding("small input", float(d.norms[1]), text)
    if regime == "explosion":
        where = [name for name, norm in zip(d.names, d.norms[1:].tolist(), strict=True) if not norm <= EXPLOSION]
        text = (
            f"Over {depth} blocks the state grows by the factor {d.growth.value:.2g}"
            f"{f' (by {EXPLOSION:g} up to `{where[0]}`)' if where else ''} and gradients by {d.backward.value:.2g}: "
        )
        text += f"multiply each block by {d.factor:.2g}." if isfinite(d.factor) else "no factor on the blocks helps."
        yield Finding("explosion", max(d.change.value, d.growth.value, d.backward.value), text)
    if regime == "vanishing":
        text = (
            f"Over {depth} blocks the state shrinks to {float(d.norms[-1]):.2g} of its norm and gradients to "
            f"{float(d.gradients[0]):.2g}: what a block hands on of its input should be 1, and is "
            f"{sum(e.value for e in d.skips) / depth:.2f} in the mean."
        )
        yield Finding("vanishing", float(min(d.norms[-1], d.gradients[0])), text)
    if regime != "explosion":
        for name, ratio in zip(d.names, against_neighbours(d.sizes), strict=True):
            if not (connections[name] or 1 / OUTLIER < ratio < OUTLIER):
                does = f"adds {ratio:.2g} times as much as its neighbours: look at its initial weights"
                if not ratio:
                    does = "adds nothing: dropped at random? then diagnose model.eval()"
                yield Finding("outlier", ratio, f"`{name}` {does}.")
    small = d.change.value < IDENTITY**3
    if regime == "identity" and (small or d.training != "features"):
        cure = f"for a change of 1, multiply each by {d.factor:.2g}."
        if small:
            cure = "meant, as in ReZero or layer scale, or forgotten?"
        text = f"All {depth} blocks together change the state by {d.change.value:.2g} of its norm: {cure}"
        yield Finding("identity", d.change.value, text)
    yield from _training(d)


def _connection(skip: Estimate) -> str:
    """``no skip``, ``double skip``, or nothing to say."""
    low, high = skip.interval(HOLD)
    return "no skip" if high < PASSES[0] else "double skip" if low > TWICE else ""


def _likeness(d: Diagnosis) -> Iterator[Finding]:
    depth, hurst, adds = len(d.names), d.hurst.value, d.coherence.interval(HOLD)[0]
    if d.twins:
        text = (
            f"{d.twins} of {depth} blocks have the weights of an earlier one: is a block repeated, copied, or seeded "
            "in its constructor?"
        )
        yield Finding("equal weights", d.twins, text)
    elif d.hurst.interval(HOLD)[0] > ALIKE and adds > ADDS:
        text = (
            f"The weights of successive blocks are alike (H = {hurst:.2f}): the critical factor on a block is not "
            f"1/sqrt(L) but 1/L^{hurst:.2f} = {depth**-hurst:.2g}."
        )
        yield Finding("alike", hurst, text)
    elif adds > ALIGNED and d.regime in ("stability", "identity"):
        text = (
            f"Updates add up: coherence {d.coherence.value:.2g}, where independent ones have 1 and equal ones {depth}. "
            "After training this is usual; at the start, look for what the blocks have in common."
        )
        yield Finding("aligned", d.coherence.value, text)


def _training(d: Diagnosis) -> Iterator[Finding]:
    if d.training == "none":
        text = "No step of training could be measured: are the blocks frozen, or detached, or the loss not finite?"
        yield Finding("no training", d.loss[0], text)
    else:
        still = [name for name, move in zip(d.names, d.moves.tolist(), strict=True) if not move > 0]
        if still:
            text = f"No gradient reaches the weights of `{'`, `'.join(still[:3])}`: frozen, or detached?"
            yield Finding("no gradient", len(still), text)


def _explodes(path: Tensor) -> bool:
    """Whether the growth along ``path``, which begins with 1, is large and goes on."""
    first, whole = float(path[len(path) // 2]), float(path[-1])
    return not isfinite(whole) or (whole > EXPLOSION and min(first, whole / first) > HALF)


def against_neighbours(updates: Tensor) -> list[float]:
    """Each update over the median of the four nearest ones; 1 in a stack of fewer than five blocks."""
    depth = len(updates)
    if depth < 5:
        return [1.0] * depth
    starts = [min(max(i - 2, 0), depth - 5) for i in range(depth)]
    near = [float(cat([updates[s:i], updates[i + 1 : s + 5]]).quantile(0.5)) for i, s in enumerate(starts)]
    return [float(u) / n if n > 0 else 1.0 for u, n in zip(updates, near, strict=True)]


def _size(x: Tensor) -> float:
    x = x[x.isfinite()]
    return float(x.square().mean().sqrt())


def _number(x: float) -> str:
    return f"{x:.3g}" if isfinite(x) or x > 0 else "unknown"


def _estimate(e: Estimate) -> tuple[str, str]:
    low, high = e.interval(HOLD)
    return _number(e.value), f"{_number(low)} … {_number(high)}" if low < high else ""


def _range(values: list[float]) -> tuple[str, str]:
    return _number(sum(values) / len(values)), f"between {_number(min(values))} and {_number(max(values))}"

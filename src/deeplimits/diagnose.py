"""What depth does to a given network, and what to do about it.

``diagnose(model, batch)`` takes any ``torch.nn.Module`` with residual blocks. It works on a copy and leaves no trace:
weights, gradients, buffers, mode and hooks of the model are not touched, the global random state is as it was. The copy
stays in the mode in which the model is, training or evaluation. ``exponent`` measures beta of a family of networks.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from math import inf, isfinite, nan

import torch
from torch import Tensor, nn

from deeplimits.blocks import Batch, Passage, call, devices, find, skips, watch
from deeplimits.checks import instance, positive_integer
from deeplimits.diagnosis import EXPLOSION, IDENTITY, Diagnosis
from deeplimits.statistics import Estimate, hurst, mean, power_law, square_sums

DROP = 0.25  # a step of the trial training lowers the loss by this share, to first order
ENTRIES = 2**16  # of each kind of weight, at most, for its Hurst index
SMALL = 1 / 64  # of the way, for the derivative in the weights


def diagnose(
    model: nn.Module,
    batch: Batch,
    *,
    blocks: str | Sequence[str] | None = None,
    loss: Callable[[Tensor], Tensor] | None = None,
    steps: int = 4,
    generator: torch.Generator | None = None,
) -> Diagnosis:
    """Measure ``model`` on ``batch``, which is what it takes: a tensor, a tuple of arguments or a dict of keywords.

    ``blocks``: the name of their container, or all their names; by default they are looked for (``blocks.find``).
    ``loss`` maps the first tensor that the model returns to a scalar; by default half the mean square distance to a
    fixed random target. Only the weights of the blocks take part in the trial training, ``steps`` steps of gradient
    descent, each of which lowers the loss by a quarter to first order. ``generator`` draws the target and the random
    linear function (by default a fixed one on the model's device).

    The first axis of a state must count examples, or other independent inputs. ValueError for weights that are not
    finite, a batch that the model does not take or that holds one example only, and fewer than two residual blocks.
    """
    instance("model", model, nn.Module, "pass the network itself")
    steps = positive_integer("steps", steps)
    bad = [name for name, p in model.named_parameters() if not bool(p.isfinite().all())]
    if bad:
        raise ValueError(f"weights must be finite, found inf or NaN in {', '.join(bad[:3])}; load or draw them anew")
    model = deepcopy(model)
    names = find(model, batch, blocks)
    generator = generator or torch.Generator(next(model.parameters(), torch.empty(0)).device)
    seen = watch(model, batch, names, generator=generator)
    first, last = seen.states[0], seen.states[-1]
    change = _mean(_ratio(last - first, first))
    kinds, together, sums = _regularity([model.get_submodule(name) for name in names], generator)
    return Diagnosis(
        names,
        norms=torch.stack([_geometric(_ratio(h, first)) for h in seen.states]),
        gradients=torch.stack([_geometric(_ratio(g, seen.gradients[-1])) for g in seen.gradients]),
        updates=seen.updates().cpu(),
        skips=skips(model, batch, names, seen).cpu(),
        change=change,
        growth=_mean(_ratio(last, first)),
        backward=_mean(_ratio(seen.gradients[0], seen.gradients[-1])),
        coherence=_mean(seen.coherence()),
        hurst=together,
        weights=kinds,
        sums=sums,
        factor=1.0 if IDENTITY <= change.value <= EXPLOSION else _remedy(model, batch, names),
        **_trial(model, batch, names, seen, loss, steps, generator),
    )


def exponent(
    build: Callable[[int], nn.Module],
    depths: Sequence[int],
    batch: Batch,
    generator: torch.Generator,
    *,
    repetitions: int = 4,
    blocks: str | Sequence[str] | None = None,
) -> Estimate:
    """The exponent beta of a family of networks: the update of a block, ||f_l(h)|| / ||h||, falls as L^-beta.

    ``build(L)`` makes a network of L blocks with fresh weights; it is called ``repetitions`` times for each of the
    ``depths``. To be compared with the critical exponent max(1/2, H). Where normalisation or saturation make an update
    depend on what came before, this is an *effective* exponent. ``generator`` serves the interval.
    """
    repetitions, runs = positive_integer("repetitions", repetitions), []
    for depth in depths:
        models = [build(depth) for _ in range(repetitions)]
        updates = torch.stack([watch(m, batch, find(m, batch, blocks)).updates() for m in models])
        runs.append(1 / updates.square().mean(1).sqrt())
    return power_law(depths, runs, generator)


def _regularity(stack: list[nn.Module], generator: torch.Generator) -> tuple[dict, Estimate, dict]:
    """The Hurst index of each matrix or filter that all blocks have; of all together; and the sums behind that."""
    owned = [dict(block.named_parameters()) for block in stack]
    kinds, rows = {}, torch.zeros(len(stack), 0, dtype=torch.float64)
    for name, p in owned[0].items():
        if p.dim() < 2 or any(name not in other or other[name].shape != p.shape for other in owned):
            continue
        every = -(-p.numel() // ENTRIES)
        entries = torch.stack([other[name].detach().flatten()[::every].double().cpu() for other in owned])
        if bool(entries.any()):
            kinds[name] = hurst(entries, generator)
            rows = torch.cat([rows, entries / entries.square().mean().sqrt()], 1)
    sizes, squares = square_sums(rows)
    return kinds, hurst(rows, generator), dict(zip(sizes, squares.mean(1).tolist(), strict=True))


def _trial(model: nn.Module, batch: Batch, names: list[str], seen: Passage, loss, steps: int, generator) -> dict:
    """Train the copy for a few steps: how far weights and states move, and how far from linear the blocks are."""
    if loss is None:
        target = torch.empty_like(seen.result).normal_(generator=generator)
        loss = lambda result: (result - target).square().mean() / 2  # noqa: E731
    owned = [[p for p in model.get_submodule(name).parameters() if p.requires_grad] for name in names]
    weights = list(dict.fromkeys(p for block in owned for p in block))  # a tied one once
    start, losses = {p: p.detach().clone() for p in weights}, []

    def value() -> Tensor:
        with torch.random.fork_rng(devices(model)), torch.enable_grad():
            out = loss(call(model, batch))
        losses.append(float(out.detach()))
        return out

    def alone(time: float) -> Tensor:
        """What the blocks give at w + time (w' - w) to the states that they met at w; the weights stay there."""
        for p, end in zip(weights, ends, strict=True):
            p.copy_(torch.lerp(start[p], end, time))
        return _flat(watch(model, batch, names, held=seen.inputs).outputs)

    with torch.no_grad():
        for _ in range(steps):
            out = value()
            slopes = torch.autograd.grad(out, weights, allow_unused=True) if weights and out.requires_grad else []
            pairs = [(p, g) for p, g in zip(weights, slopes, strict=False) if g is not None]
            square = sum(float(g.double().square().sum()) for _, g in pairs)
            if not (0 < square < inf and isfinite(losses[-1])):
                unknown = torch.full((len(names),), nan)
                return {"loss": (losses[0], losses[-1]), "moves": unknown, "shifts": unknown, "nonlinearity": nan}
            for p, g in pairs:
                p.sub_(g, alpha=DROP * losses[-1] / square)
        value()
        ends = [p.clone() for p in weights]
        tangent = (alone(SMALL) - alone(-SMALL)) / (2 * SMALL)
        moved = alone(1.0) - _flat(seen.outputs)
        after = watch(model, batch, names).states
    pairs = zip(seen.states[1:], after[1:], strict=True)
    return {
        "loss": (losses[0], losses[-1]),
        "moves": torch.stack([_norm(block, [start[p] for p in block]) for block in owned]),
        "shifts": torch.stack([_ratio(b - a, a).mean() for a, b in pairs]),
        "nonlinearity": float((moved - tangent).norm() / moved.norm()),
    }


def _remedy(model: nn.Module, batch: Batch, names: list[str]) -> float:
    """The factor on all blocks at which the change of the state is 1, by bisection over powers of two."""
    low, high = -20.0, 20.0
    while high - low > 0.01:
        middle = (low + high) / 2
        states = watch(model, batch, names, factor=2**middle).states
        small = float(_ratio(states[-1] - states[0], states[0]).mean()) < 1
        low, high = (middle, high) if small else (low, middle)
    return 2 ** ((low + high) / 2)


def _mean(ratios: Tensor) -> Estimate:
    """The mean over the examples; infinite if the state has overflowed for one of them."""
    e = mean(ratios)
    return Estimate(inf, nan, e.samples, e.diverged, lambda z: (inf, inf)) if e.diverged else e


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """||a|| / ||b|| of each example, in float64: the square of a large state overflows in float32."""
    return (a.double().norm(dim=1) / b.double().norm(dim=1)).cpu()


def _geometric(ratios: Tensor) -> Tensor:
    return ratios.log().mean().exp()


def _norm(now: list[Tensor], before: list[Tensor]) -> Tensor:
    """||now - before|| / ||before|| of all tensors of a block together."""
    return ((_flat(now) - _flat(before)).norm() / _flat(before).norm()).cpu() if now else torch.tensor(nan)


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().double().flatten() for t in tensors])

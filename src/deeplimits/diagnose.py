"""What depth does to a given network, and what to do about it.

``diagnose(model, batch)`` takes any ``torch.nn.Module`` with residual blocks. It works on a copy and leaves no trace:
weights, gradients, buffers and mode of the model are not touched, the global random state is as it was. (Hooks of the
model are copied with it, and called.) The copy is in double precision if the model runs in it, and in the mode in which
the model is, training or evaluation. ``exponent`` measures beta of a family of networks.
"""

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from math import inf, isfinite, nan

import torch
from torch import Tensor, nn

from deeplimits.blocks import Batch, Passage, call, devices, each, find, skips, watch
from deeplimits.checks import instance, positive_integer
from deeplimits.diagnosis import Diagnosis
from deeplimits.statistics import Estimate, hurst, mean, power_law, square_sums

DROP, HALVINGS = 0.25, 12  # a step of the trial training lowers the loss by this share, to first order, or is halved
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
    ``loss`` maps the first tensor that the model returns to a positive scalar; by default half the mean square distance
    to a fixed random target. Only the weights of the blocks take part in the trial training, ``steps`` steps of
    gradient descent. Each lowers the loss by a quarter to first order, or is halved until it lowers it at all.
    ``generator`` draws the target and the random linear function (by default a fixed one on the model's device).

    The first axis of a state must count examples, or other independent inputs. ValueError for weights or a batch that
    are not finite, a batch that the model does not take or that holds one example only, fewer than two residual blocks,
    and a loss that is not positive.
    """
    instance("model", model, nn.Module, "pass the network itself")
    steps = positive_integer("steps", steps)
    bad = [name for name, p in model.named_parameters() if not bool(p.isfinite().all())]
    if bad:
        raise ValueError(f"weights must be finite, found inf or NaN in {', '.join(bad[:3])}; load or draw them anew")
    each(batch, _finite)
    model, batch, names = _copy(model, batch, blocks)
    generator = generator or torch.Generator(_device(model, batch))
    seen = watch(model, batch, names, generator=generator)
    first, last = seen.states[0], seen.states[-1]
    alive = first.any(1).cpu()  # an example of zeros, such as padding, has no relative change
    if int(alive.sum()) < 2:
        raise ValueError(f"the batch must hold two examples other than zero, got {int(alive.sum())}; stack some")
    stack = [model.get_submodule(name) for name in names]
    kinds, together, sums = _regularity(stack, generator)
    norms = _ratios((h, first) for h in seen.states)[:, alive]
    slopes = _ratios((g, seen.gradients[-1]) for g in seen.gradients)[:, alive]
    found = Diagnosis(
        names,
        norms=norms.log().mean(1).exp(),
        gradients=slopes.log().mean(1).exp(),
        updates=seen.updates(alive),
        sizes=seen.sizes(),
        skips=skips(model, batch, names, seen),
        twins=_twins(stack),
        among=sum(type(m) is type(stack[0]) for m in model.modules()),
        change=_mean(_ratios([(last - first, first)])[0, alive]),
        growth=_mean(norms[-1]),
        backward=_mean(slopes[0]),
        coherence=mean(seen.coherence()),
        hurst=together,
        weights=kinds,
        sums=sums,
        factor=1.0,
        **_trial(model, batch, names, seen, loss, steps, generator),
    )
    if found.regime == "stability":
        return found
    return replace(found, factor=_remedy(model, batch, names, alive, generator.device))


def exponent(
    build: Callable[[int], nn.Module],
    depths: Sequence[int],
    batch: Batch,
    generator: torch.Generator | None = None,
    *,
    repetitions: int = 4,
    blocks: str | Sequence[str] | None = None,
) -> Estimate:
    """The exponent beta of a family of networks: the update of a block, ||f_l(h)|| / ||h||, falls as L^-beta.

    ``build(L)`` makes a network of L blocks with fresh weights; it is called ``repetitions`` times for each of the
    ``depths``. To be compared with the critical exponent max(1/2, H). Where normalisation or saturation make an update
    depend on what came before, this is an *effective* exponent. ``generator`` (default: a fixed one) draws for the
    interval. ValueError if ``build`` gives the same weights twice, as with a seed inside it: an interval from copies
    would have no length.
    """
    if len(set(depths)) < 2:
        raise ValueError(f"depths must be two different ones or more, got {list(depths)}; for example (8, 16, 32)")
    repetitions, runs = positive_integer("repetitions", repetitions), []
    for depth in depths:
        models = [build(depth) for _ in range(repetitions)]
        if _twins(models):
            raise ValueError(
                f"build must draw fresh weights at each call, and gave build({depth}) the same ones again; take any "
                "seed out of it"
            )
        updates = torch.stack([watch(m, batch, find(m, batch, blocks)).updates() for m in models])
        runs.append(1 / updates.square().mean(1).sqrt())
    return power_law(depths, runs, generator or torch.Generator("cpu"))


def _regularity(stack: list[nn.Module], generator: torch.Generator) -> tuple[dict, Estimate, dict]:
    """The Hurst index of each matrix or filter that all blocks have; of all together; and the sums behind that."""
    owned = [dict(block.named_parameters()) for block in stack]
    kinds, rows = {}, torch.zeros(len(stack), 0, dtype=torch.float64, device="cpu")
    for name, p in owned[0].items():
        if p.dim() < 2 or any(name not in other or other[name].shape != p.shape for other in owned):
            continue
        every = -(-p.numel() // ENTRIES)
        entries = torch.stack([other[name].detach().flatten()[::every] for other in owned]).cpu().double()
        if bool(entries.any()):
            kinds[name] = hurst(entries, generator)
            rows = torch.cat([rows, entries / entries.square().mean().sqrt()], 1)
    sizes, squares = square_sums(rows)
    return kinds, hurst(rows, generator), dict(zip(sizes, squares.mean(1).tolist(), strict=True))


def _trial(model: nn.Module, batch: Batch, names: list[str], seen: Passage, loss, steps: int, generator) -> dict:
    """Train the copy for a few steps: how far weights and states move, and how far from linear the blocks are.

    It leaves the copy as it found it.
    """
    if loss is None:
        target = torch.empty_like(seen.result).normal_(generator=generator)
        loss = lambda result: (result - target).square().mean() / 2  # noqa: E731
    owned = [[p for p in model.get_submodule(name).parameters() if p.requires_grad] for name in names]
    weights = list(dict.fromkeys(p for block in owned for p in block))  # a tied one once
    start = {p: p.detach().clone() for p in weights}

    def value() -> Tensor:
        with torch.random.fork_rng(devices(model)):
            out = loss(call(model, batch))
        if out.numel() != 1:
            raise ValueError(f"loss must be a scalar, got a tensor of shape {tuple(out.shape)}; take its mean")
        return out

    def place(time: float) -> None:
        for p, end in zip(weights, ends, strict=True):
            p.copy_(torch.lerp(start[p], end, time))

    def alone(time: float) -> Tensor:
        """What the blocks give at w + time (w' - w) to the states that they met at w."""
        place(time)
        return _flat(watch(model, batch, names, held=seen.inputs).outputs)

    with torch.no_grad():
        losses = [float(value())]
        if losses[0] <= 0:
            raise ValueError(f"loss must be positive, got {losses[0]:.3g}; add a constant")
        for _ in range(steps):
            now = _descend(value, weights)
            if now is None:
                break
            losses.append(now)
        ends = [p.clone() for p in weights]
        if len(losses) > 1:
            tangent = (alone(SMALL) - alone(-SMALL)) / (2 * SMALL)
            moved = alone(1.0) - _flat(seen.outputs)
            after = watch(model, batch, names).states
            device = seen.inputs[0].device
            moves = torch.stack([_norm(block, [start[p] for p in block], device) for block in owned]).cpu()
        place(0.0)
    if len(losses) == 1:
        unknown = torch.full((len(names),), nan, dtype=torch.float64, device="cpu")
        return {"loss": (losses[0], losses[0]), "moves": unknown, "shifts": unknown, "nonlinearity": nan}
    pairs = zip(seen.states[1:], after[1:], strict=True)
    return {
        "loss": (losses[0], losses[-1]),
        "moves": moves,
        "shifts": torch.stack([row.nanmean() for row in _ratios((b - a, a) for a, b in pairs)]),
        "nonlinearity": float((moved - tangent).norm() / moved.norm()),
    }


def _descend(value: Callable[[], Tensor], weights: list[nn.Parameter]) -> float | None:
    """One step of gradient descent, halved until the loss falls by half of what is predicted; the new loss, or None."""
    with torch.enable_grad():
        out = value()
    slopes = torch.autograd.grad(out, weights, allow_unused=True) if weights and out.requires_grad else []
    pairs = [(p, g) for p, g in zip(weights, slopes, strict=False) if g is not None]
    numbers = torch.stack([out.detach().double().sum(), *(g.double().square().sum() for _, g in pairs)]).tolist()
    before, square = numbers[0], sum(numbers[1:])
    if not (0 < square < inf and isfinite(before)):
        return None
    rate, kept = DROP * before / square, [p.clone() for p, _ in pairs]
    for _ in range(HALVINGS):
        for (p, g), old in zip(pairs, kept, strict=True):
            p.copy_(old - rate * g)
        after = float(value())
        if before - after >= rate * square / 2:
            return after
        rate /= 2
    for (p, _), old in zip(pairs, kept, strict=True):
        p.copy_(old)
    return None


def _remedy(model: nn.Module, batch: Batch, names: list[str], alive: Tensor, device: torch.device) -> float:
    """The factor on all blocks at which the state changes by its norm, or gradients double, whichever comes first.

    By bisection over powers of two; NaN if there is none.
    """
    low, high = -20.0, 20.0
    while high - low > 0.01:
        middle = (low + high) / 2
        seen = watch(model, batch, names, factor=2**middle, generator=torch.Generator(device))
        moved = seen.states[-1] - seen.inputs[0], seen.inputs[0]
        change, growth = (row[alive].mean() for row in _ratios([moved, (seen.gradients[0], seen.gradients[-1])]))
        small = float(change) < 1 and float(growth) < 2
        low, high = (middle, high) if small else (low, middle)
    return 2 ** ((low + high) / 2) if -19 < low < 19 else nan


def _copy(model: nn.Module, batch: Batch, blocks: str | Sequence[str] | None) -> tuple[nn.Module, Batch, list[str]]:
    """A copy of the model, with the batch and the names of the blocks: in double precision if it runs in it.

    Derivatives by differences would drown in the rounding of lower precisions.
    """
    try:
        double = deepcopy(model).double()
        wide = each(batch, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
        return double, wide, find(double, wide, blocks)
    except (ValueError, TypeError):  # no double precision on the device, or in the model: or the reason is the batch
        model = deepcopy(model)
        return model, batch, find(model, batch, blocks)


def _device(model: nn.Module, batch: Batch) -> torch.device:
    """That of the first parameter; of the batch, for a model without parameters."""
    tensors = list(model.parameters())
    each(batch, lambda tensor: tensors.append(tensor) or tensor)
    return tensors[0].device


def _finite(tensor: Tensor) -> Tensor:
    if not bool(tensor.isfinite().all()):
        raise ValueError(
            f"the batch must be finite, found inf or NaN in a tensor of shape {tuple(tensor.shape)}; clean it"
        )
    return tensor


def _twins(stack: list[nn.Module]) -> int:
    """How many blocks have, in all their matrices, the weights of an earlier one."""
    seen, twins = [], 0
    for block in stack:
        matrices = [p.detach() for p in block.parameters() if p.dim() > 1]
        # one copy from the device for each block; whole matrices are compared there only if their first entries agree
        mark = torch.cat([m.flatten()[:1] for m in matrices]).tolist() if matrices else []
        same = any(mark == other and all(map(torch.equal, m, matrices)) for other, m in seen) and bool(matrices)
        twins += same
        seen += [] if same else [(mark, matrices)]
    return twins


def _mean(ratios: Tensor) -> Estimate:
    """The mean over the examples; infinite if the state has overflowed for one of them."""
    e = mean(ratios)
    return Estimate(inf, nan, e.samples, e.diverged, lambda z: (inf, inf)) if e.diverged else e


def _ratios(pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """||a|| / ||b|| of each example, a row for each pair, on the CPU.

    In float64, since the square of a large state overflows in float32. A GPU made for pictures has 1/64 of its speed
    in it, which is little beside the passes themselves.
    """
    return torch.stack([a.double().norm(dim=1) / b.double().norm(dim=1) for a, b in pairs]).cpu()


def _norm(now: list[Tensor], before: list[Tensor], device: torch.device) -> Tensor:
    """||now - before|| / ||before|| of all tensors of a block together; NaN for a block without any."""
    if not now:
        return torch.full((), nan, dtype=torch.float64, device=device)
    return (_flat(now) - _flat(before)).norm() / _flat(before).norm()


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().double().flatten() for t in tensors])

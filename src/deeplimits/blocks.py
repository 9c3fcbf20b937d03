"""The residual blocks of any torch module: found or named, and watched while a batch passes.

A block is a submodule whose output has the shape of its input, h_l = h_{l-1} + f_l(h_{l-1}); a stack is what a batch
meets of them in a row. Nothing here knows how a block is made inside. The first axis of a state counts examples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

Batch = Tensor | Sequence | Mapping
PASSES = 0.5  # of a change in its input: a block that hands on less has no skip connection

NUDGE = 2**-7  # of the size of a state: far above rounding, far below what bends a block


@dataclass(frozen=True)
class Passage:
    """What a batch did in a stack of L blocks: a state is (examples, features), whatever its shape in the module.

    ``inputs[l]`` and ``outputs[l]`` are the states before and after block l; ``gradients``, if asked for, the L + 1
    gradients in h_0, ..., h_L of the scalar <h_L, g> with a random Gaussian g; ``result`` the first tensor that the
    module returned.
    """

    inputs: list[Tensor]
    outputs: list[Tensor]
    gradients: list[Tensor]
    result: Tensor

    @property
    def states(self) -> list[Tensor]:
        """h_0, ..., h_L."""
        return [self.inputs[0], *self.outputs]

    def updates(self) -> Tensor:
        """||f_l(h)|| / ||h||, root mean square over the examples, for each block."""
        ratios = [_squares(b - a) / _squares(a) for a, b in zip(self.inputs, self.outputs, strict=True)]
        return torch.stack([r.mean().sqrt() for r in ratios])

    def coherence(self) -> Tensor:
        """||sum of f_l||^2 / sum of ||f_l||^2 of each example: 1 if updates are orthogonal, L if they are equal."""
        updates = [b - a for a, b in zip(self.inputs, self.outputs, strict=True)]
        return (_squares(sum(updates)) / sum(map(_squares, updates))).cpu()


def devices(model: nn.Module) -> list[int]:
    """The GPUs whose random state a pass may touch."""
    return sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})


def call(model: nn.Module, batch: Batch) -> Tensor:
    """The first tensor of model(batch), model(*batch) or model(**batch)."""
    if isinstance(batch, Mapping):
        result = model(**batch)
    else:
        result = model(*batch) if isinstance(batch, Sequence) else model(batch)
    return _first(result)


def find(model: nn.Module, batch: Batch, named: str | Sequence[str] | None = None) -> list[str]:
    """Names of the blocks, first to last.

    ``named`` is the name of their container, or their names one by one. Without it, the longest run of children of
    one class, in any container, through which the batch passes without changing shape and which hand on what they get.
    ValueError if there is no such run, fewer than two blocks, or the model does not take the batch.
    """
    if named is not None:
        names = _named(model, named)
        problem = _problem(model, batch, names)
        if problem:
            raise ValueError(f"blocks={named!r} are no residual blocks: {problem}; name others, or leave blocks out")
        return names
    runs = sorted(_runs(model), key=len, reverse=True)
    for names in runs:
        if _problem(model, batch, names) is None:
            return names
    if not runs:
        _accepts(model, batch)
    looked = ", ".join(f"{r[0]} to {r[-1]} ({_problem(model, batch, r)})" for r in runs[:3]) or "no two in a row"
    raise ValueError(
        f"no residual blocks found in {type(model).__name__}: need two or more modules of one class in a row, each "
        f"returning its input plus something; looked at {looked}; name them with blocks=[...]"
    )


def watch(
    model: nn.Module,
    batch: Batch,
    names: Sequence[str],
    *,
    factor: float = 1.0,
    held: Sequence[Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Passage:
    """Send the batch through the model and keep what the named blocks get and give.

    With ``factor`` c, each block gives h + c f(h) in place of h + f(h). With ``held``, one state for each block, such
    as the ``inputs`` of an earlier pass, block l gets held[l] whatever comes to it: blocks are looked at one by one.
    With a ``generator``, which draws g, gradients are kept as well. Every pass starts from the present random state, so
    that all see the same dropout masks, and restores it.
    """
    inputs, outputs, gradients = [], [], []
    source = last = None

    def before(module, args, kwargs):
        nonlocal source
        h = _first((args, kwargs))
        if held is not None:
            h = held[len(inputs)].view_as(h)
        if source is None and generator is not None:
            source = h.detach().requires_grad_()
            h = source.clone()  # a block may work in place, but not on a leaf
        inputs.append(h.detach().clone())
        return _replace((args, kwargs), h)

    def after(module, args, kwargs, output):
        nonlocal last
        h, out = inputs[-1], _first(output)
        if factor != 1:
            out = h + factor * (out - h)
        if out.requires_grad:
            out.register_hook(gradients.append)
        outputs.append(out.detach().clone())
        last = out.clone()
        return _replace(output, out)

    stack = {model.get_submodule(name) for name in names}
    hooks = [m.register_forward_pre_hook(before, with_kwargs=True) for m in stack]
    hooks += [m.register_forward_hook(after, with_kwargs=True) for m in stack]
    with torch.random.fork_rng(devices(model)), torch.set_grad_enabled(generator is not None):
        try:
            result = _accepts(model, batch)
        finally:
            for hook in hooks:
                hook.remove()
        if generator is not None and last is not None:
            if not last.requires_grad:
                raise ValueError("the blocks must let gradients through, got none; look for detach or no_grad in them")
            gradients.extend(torch.autograd.grad(last, source, torch.empty_like(last).normal_(generator=generator)))
    kept = ([t.detach().flatten(1) for t in list] for list in (inputs, outputs, gradients[::-1]))
    return Passage(*kept, result.detach())


def skips(model: nn.Module, batch: Batch, names: Sequence[str], seen: Passage) -> Tensor:
    """The share of a small random change of its input that each block hands on: tr(d h_l / d h_{l-1}) / width.

    1 with a skip connection, 0 without, give or take a number of order ||f_l(h)|| / ||h|| over the width, for random
    weights. ``seen`` is an earlier passage of the same batch.
    """
    generator = torch.Generator(seen.inputs[0].device)
    changes = [torch.empty_like(h).normal_(generator=generator) * h.square().mean(1, True).sqrt() for h in seen.inputs]
    held = [h + NUDGE * change for h, change in zip(seen.inputs, changes, strict=True)]
    nudged = watch(model, batch, names, held=held).outputs
    moved = [(b - a).double() / NUDGE for a, b in zip(seen.outputs, nudged, strict=True)]
    return torch.stack([(m * c).sum() / c.double().square().sum() for m, c in zip(moved, changes, strict=True)])


def _runs(model: nn.Module) -> list[list[str]]:
    """Names of all maximal runs of two or more children of one class; a child that is there twice counts twice."""
    found = []
    for name, module in model.named_modules():
        children = [
            (f"{name}.{key}" if name else key, child) for key, child in module._modules.items() if child is not None
        ]
        for _, run in groupby(children, lambda pair: type(pair[1])):
            names = [key for key, _ in run]
            found += [names] if len(names) > 1 else []
    return found


def _named(model: nn.Module, named: str | Sequence[str]) -> list[str]:
    known = dict(model.named_modules(remove_duplicate=False))
    names = [named] if isinstance(named, str) else list(named)
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(f"blocks must be names of submodules, got {missing}; see model.named_modules()")
    return [f"{named}.{key}" for key in known[named]._modules] if isinstance(named, str) else names


def _problem(model: nn.Module, batch: object, names: Sequence[str]) -> str | None:
    """Why these are no residual blocks, or None."""
    if len(names) < 2:
        return f"{len(names)} block where two or more are needed"
    try:
        seen = watch(model, batch, names)
    except _NoTensor:
        return "no tensor goes in or comes out"
    if len(seen.outputs) != len(names):
        return f"{len(seen.outputs)} calls of {len(names)} blocks"
    if any(a.shape != b.shape for a, b in zip(seen.states, seen.outputs, strict=False)):
        return "the shape changes"
    if len(seen.inputs[0]) < 2:
        raise ValueError("the batch must hold two different examples or more, got one; stack some")
    # the median, since a single block that has lost its skip connection is to be diagnosed, not refused
    skip = float(skips(model, batch, names, seen).nanmedian())
    if skip < PASSES:
        return f"they hand on {skip:.2f} of their input, where a skip connection hands on 1"
    return None


def _accepts(model: nn.Module, batch: object) -> Tensor:
    """The result, or a ValueError that names the shape of a batch which the model does not take."""
    try:
        return call(model, batch)
    except _NoTensor:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AssertionError) as error:
        says = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"batch must be what {type(model).__name__} takes, got {_shapes(batch)}; the model says: {says}; pass a "
            "tensor, a tuple of arguments, or a dict of keywords"
        ) from error


class _NoTensor(TypeError):
    pass


def _first(value: object) -> Tensor:
    """The first tensor of floating point in nested tuples, lists and dicts."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    for part in parts:
        try:
            return _first(part)
        except _NoTensor:
            pass
    raise _NoTensor(f"no tensor of floating point in {type(value).__name__}; a block must take and return one")


def _replace(value: object, new: Tensor) -> object:
    """``value`` with ``new`` in the place of :func:`_first`."""
    old, done = _first(value), False

    def walk(part):
        nonlocal done
        if part is old and not done:
            done = True
            return new
        if isinstance(part, Mapping):
            return type(part)((key, walk(p)) for key, p in part.items())
        if isinstance(part, tuple | list):
            parts = [walk(p) for p in part]
            return type(part)(*parts) if hasattr(part, "_fields") else type(part)(parts)
        return part

    return walk(value)


def _shapes(batch: object) -> str:
    if isinstance(batch, Tensor):
        return f"a tensor of shape {tuple(batch.shape)}, {str(batch.dtype).removeprefix('torch.')}"
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, Sequence) else ()
    return f"{type(batch).__name__} of ({', '.join(map(_shapes, parts))})"


def _squares(h: Tensor) -> Tensor:
    """||h||^2 of each example, in float64: the square of a large state would overflow in float32."""
    return h.double().square().sum(1)

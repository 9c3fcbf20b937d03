"""The residual blocks of any torch module: found or named, and watched while a batch passes.

A block is a submodule whose output has the shape of its input, h_l = h_{l-1} + f_l(h_{l-1}); a stack is what a batch
meets of them in a row. Nothing here knows how a block is made inside. The first axis of a state counts examples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isnan

import torch
from torch import Tensor, nn

from deeplimits.statistics import Estimate, mean

Batch = Tensor | Sequence | Mapping
PASSES = 0.5, 2.0  # of a change in their input: what most blocks of a residual network hand on lies between
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

    def updates(self, examples: Tensor | slice = slice(None)) -> Tensor:
        """||f_l(h)|| / ||h||, root mean square over the ``examples``, for each block."""
        pairs = zip(self.inputs, self.outputs, strict=True)
        ratios = torch.stack([_squares(b - a) / _squares(a) for a, b in pairs]).cpu()
        return torch.stack([row[examples].mean().sqrt() for row in ratios])

    def sizes(self) -> Tensor:
        """||f_l(h)||, root mean square over the examples, for each block."""
        pairs = zip(self.inputs, self.outputs, strict=True)
        return torch.stack([_squares(b - a).mean().sqrt() for a, b in pairs]).cpu()

    def coherence(self) -> Tensor:
        """||sum of f_l||^2 / sum of ||f_l||^2 of each example: 1 if updates are orthogonal, L if they are equal."""
        updates = [b - a for a, b in zip(self.inputs, self.outputs, strict=True)]
        return (_squares(sum(updates)) / sum(map(_squares, updates))).cpu()


def devices(model: nn.Module) -> list[int]:
    """The GPUs whose random state a pass may touch."""
    return sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})


def call(model: nn.Module, batch: Batch) -> Tensor:
    """The first tensor of model(batch), model(*batch) or model(**batch); the batch itself is not changed."""
    batch = each(batch, Tensor.clone)
    if isinstance(batch, Mapping):
        result = model(**batch)
    else:
        result = model(*batch) if isinstance(batch, tuple | list) else model(batch)
    return _first(result)


def each(value: object, change: Callable[[Tensor], Tensor]) -> object:
    """``value`` with ``change`` applied to every tensor in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return type(value)((key, each(part, change)) for key, part in value.items())
    if isinstance(value, tuple | list):
        parts = [each(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def find(model: nn.Module, batch: Batch, named: str | Sequence[str] | None = None) -> list[str]:
    """Names of the blocks, first to last.

    ``named`` is the name of their container, or their names one by one (['block'] * 12 for one that is called twelve
    times). Without it, of all rows of children of one class in a container, those of one class taken together, the
    longest stretch through which the batch passes without changing shape and which hands on what it gets. ValueError
    if there is none, fewer than two blocks, or the model does not take the batch.
    """
    if named is not None:
        names = _named(model, named)
        problem = _problem(model, batch, names)
        if problem:
            raise ValueError(f"blocks={named!r} are no residual blocks: {problem}; name others, or leave blocks out")
        return names
    looked, stretches = [], []
    for names in _rows(model):
        found, why = _stretch(model, batch, names)
        stretches += [found] if found else []
        looked += [] if found else [f"{names[0]} to {names[-1]} ({why})"]
    for names in sorted(stretches, key=len, reverse=True):
        problem = _problem(model, batch, names)
        if problem is None:
            return names
        looked.append(f"{names[0]} to {names[-1]} ({problem})")
    _accepts(model, batch)
    raise ValueError(
        f"no residual blocks found in {type(model).__name__}: need two or more modules of one class in a row, each "
        f"returning its input plus something; looked at {', '.join(looked[:3]) or 'no two in a row'}; name them with "
        "blocks=[...]"
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
    source = given = last = None

    def before(module, args, kwargs):
        nonlocal source, given
        h = passed = _state(args, kwargs)
        if held is not None:
            h = held[len(inputs)].view_as(h)
        if source is None and generator is not None:
            source = h.detach().requires_grad_()
            h = source.clone()  # a block may work in place, but not on a leaf
        inputs.append(h.detach().clone())
        given = h.clone() if factor != 1 else None  # a block may work in place
        return _replace((args, kwargs), passed, h)

    def after(module, args, kwargs, output):
        nonlocal last
        out = returned = _first(output)
        if factor != 1:
            out = given + factor * (out - given)
        if out.requires_grad:
            out.register_hook(gradients.append)
        outputs.append(out.detach().clone())
        last = out.clone()
        return _replace(output, returned, out)

    with torch.random.fork_rng(devices(model)), torch.set_grad_enabled(generator is not None):
        result = _hooked(model, batch, names, after, before)
        if generator is not None and last is not None:
            if not last.requires_grad:
                raise ValueError("the blocks must let gradients through, got none; look for detach or no_grad in them")
            g = torch.empty_like(last).normal_(generator=generator)
            (slope,) = torch.autograd.grad(last, source, g, allow_unused=True)
            if slope is None:
                raise ValueError(
                    "the blocks must let gradients through, one does not; look for detach or no_grad in it"
                )
            gradients.append(slope)
    kept = ([t.detach().flatten(1) for t in list] for list in (inputs, outputs, gradients[::-1]))
    return Passage(*kept, result.detach())


def skips(model: nn.Module, batch: Batch, names: Sequence[str], seen: Passage) -> list[Estimate]:
    """The share of a small random change of its input that each block hands on: tr(d h_l / d h_{l-1}) / width.

    1 with a skip connection, 0 without, give or take a number of order ||f_l(h)|| / ||h|| over the width, for random
    weights. The intervals are over the examples, one random change for each. ``seen`` is an earlier passage.
    """
    generator = torch.Generator(seen.inputs[0].device)
    changes = [torch.empty_like(h).normal_(generator=generator) * h.square().mean(1, True).sqrt() for h in seen.inputs]
    held = [h + NUDGE * change for h, change in zip(seen.inputs, changes, strict=True)]
    nudged = watch(model, batch, names, held=held).outputs
    moved = [(b - a).double() / NUDGE for a, b in zip(seen.outputs, nudged, strict=True)]
    shares = [(m * c).sum(1) / _squares(c) for m, c in zip(moved, changes, strict=True)]
    return [mean(share[share.isfinite()]) for share in torch.stack(shares).cpu()]


def _rows(model: nn.Module) -> list[list[str]]:
    """For each class, the names of all children that stand in a row of two or more of them in some container.

    A child that is there twice counts twice. Blocks have a matrix or a filter: normalisation and dropout are none.
    """
    rows = {}
    for name, module in model.named_modules():
        children = [
            (f"{name}.{key}" if name else key, child) for key, child in module._modules.items() if child is not None
        ]
        for kind, run in groupby(children, lambda pair: type(pair[1])):
            names = [key for key, _ in run]
            module = model.get_submodule(names[0])
            if (
                len(names) > 1
                and not isinstance(module, nn.ModuleList)
                and any(p.dim() > 1 for p in module.parameters())
            ):
                rows.setdefault(kind, []).extend(names)
    return list(rows.values())


def _stretch(model: nn.Module, batch: Batch, names: list[str]) -> tuple[list[str], str]:
    """The longest stretch of these modules, as they are called, with states of one shape; or why there is none."""
    by_module, calls = {}, []
    for name in names:
        by_module.setdefault(model.get_submodule(name), []).append(name)

    def after(module, args, kwargs, output):
        try:
            calls.append((module, _state(args, kwargs).shape, _first(output).shape))
        except _NoTensor:
            calls.append((module, None, ()))

    with torch.random.fork_rng(devices(model)), torch.no_grad():
        _hooked(model, batch, names, after)
    if len(calls) != len(names):
        return [], (
            f"{len(calls)} calls of {len(names)} modules; dropped at random? then pass model.eval(); called in a loop? "
            "then name one so many times"
        )
    order = [(by_module[module].pop(0), given, got) for module, given, got in calls]
    runs = [[name for name, *_ in run] for shape, run in groupby(order, _kept) if shape is not None]
    longest = max(runs, key=len, default=[])
    return (longest, "") if len(longest) > 1 else ([], "the shape changes")


def _kept(call: tuple) -> torch.Size | None:
    """The shape of a state that a call leaves as it was, or None."""
    _, given, got = call
    return given if given == got else None


def _named(model: nn.Module, named: str | Sequence[str]) -> list[str]:
    known = dict(model.named_modules(remove_duplicate=False))
    names = [named] if isinstance(named, str) else list(named)
    if any(not isinstance(name, str) for name in names):
        raise TypeError(f"blocks must be names, got a {type(names[0]).__name__}; see model.named_modules() for them")
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(f"blocks must be names of submodules, got {missing}; see model.named_modules()")
    return [f"{named}.{key}" for key in known[named]._modules] if isinstance(named, str) else names


def _problem(model: nn.Module, batch: Batch, names: Sequence[str]) -> str | None:
    """Why these are no residual blocks, or None."""
    if len(names) < 2:
        return f"{len(names)} block where two or more are needed"
    try:
        seen = watch(model, batch, names)
    except _NoTensor:
        return "no tensor goes in or comes out"
    if len(seen.outputs) != len(names):
        return f"{len(seen.outputs)} calls of {len(names)} blocks"
    shapes = zip(names, seen.inputs, seen.outputs, strict=True)
    changed = [name for name, a, b in shapes if a.shape != seen.inputs[-1].shape or b.shape != a.shape]
    if changed:
        return f"the shape changes at {', '.join(changed[:3])}"
    if len(seen.inputs[0]) < 2:
        raise ValueError(
            f"the batch must hold two different examples or more, got {len(seen.inputs[0])} along the first axis of a "
            "state; stack some"
        )
    # the median, since a single block that has lost its skip connection is to be diagnosed, not refused
    shares = [e.value for e in skips(model, batch, names, seen)]
    skip = float(torch.tensor(shares, dtype=torch.float64, device="cpu").nanmedian())
    if not isnan(skip) and not PASSES[0] <= skip <= PASSES[1]:
        return f"they hand on {skip:.2f} of their input, where a skip connection hands on 1"
    return None


def _hooked(model: nn.Module, batch: Batch, names: Sequence[str], after: Callable, before: Callable | None = None):
    """The result of a pass with these hooks on the named modules, which are gone afterwards whatever happens."""
    modules = {model.get_submodule(name) for name in names}
    hooks = [m.register_forward_hook(after, with_kwargs=True) for m in modules]
    if before is not None:
        hooks += [m.register_forward_pre_hook(before, with_kwargs=True) for m in modules]
    try:
        return _accepts(model, batch)
    finally:
        for hook in hooks:
            hook.remove()


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
    """The first tensor of floating point with two axes or more in nested tuples, lists and dicts."""
    if isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1:
        return value
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    for part in parts:
        try:
            return _first(part)
        except _NoTensor:
            pass
    raise _NoTensor(f"no tensor of floating point with two axes in {type(value).__name__}; a block needs one")


def _state(args: tuple, kwargs: dict) -> Tensor:
    """The state that a block is given: the first tensor by position, or the largest by keyword: a mask is smaller."""
    try:
        return _first(args)
    except _NoTensor:
        found = []
        for value in kwargs.values():
            try:
                found.append(_first(value))
            except _NoTensor:
                continue
        if not found:
            raise
        return max(found, key=Tensor.numel)


def _replace(value: object, old: Tensor, new: Tensor) -> object:
    """``value`` with ``new`` in the place of ``old``."""
    return each(value, lambda tensor: new if tensor is old else tensor)


def _shapes(batch: object) -> str:
    if isinstance(batch, Tensor):
        return f"a tensor of shape {tuple(batch.shape)}, {str(batch.dtype).removeprefix('torch.')}"
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    return f"{type(batch).__name__} of ({', '.join(map(_shapes, parts))})"


def _squares(h: Tensor) -> Tensor:
    """||h||^2 of each example, in float64: the square of a large state would overflow in float32."""
    return h.double().square().sum(1)

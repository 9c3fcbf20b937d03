"""A step of many small kernels as one launch: CUDA graphs, used only where they have been seen to be right.

A launch costs a GPU some microseconds, more than most kernels of a narrow network take; a graph repeats all kernels of
a step for the price of about one. What it repeats is fixed: the same operations on the same memory.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def repeatable(step: Callable[[], None], state: Sequence[Tensor]) -> Callable[[], None]:
    """``step`` as one launch if it runs on a GPU that repeats it rightly, otherwise ``step`` itself.

    ``step`` must change nothing but ``state``, in place, and must not wait for a number. The check is made on the first
    call and costs one more step: the step is done, done again by the graph from the same state, and compared.
    """
    if state[0].device.type != "cuda":
        return step
    chosen: list[Callable[[], None]] = []

    def call() -> None:
        if chosen:
            chosen[0]()
        else:
            chosen.append(_checked(step, state))

    return call


def _checked(step: Callable[[], None], state: Sequence[Tensor]) -> Callable[[], None]:
    """Do ``step`` once, and return how to do it from now on."""
    try:
        before = [tensor.clone() for tensor in state]
    except torch.OutOfMemoryError:  # no room for a check
        step()
        return step
    step()  # what the libraries set up at first use must be there before a graph is recorded
    after = []
    try:
        after = [tensor.clone() for tensor in state]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        _set(state, before)
        graph.replay()
        if all(_same(a, b) for a, b in zip(state, after, strict=True)):
            return graph.replay
    except RuntimeError:  # a kernel that cannot be recorded, or no memory for the graph
        pass
    if after:
        _set(state, after)
    return step


def _set(state: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(state, values, strict=True):
        tensor.copy_(value)


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal up to the rounding of sums in another order."""
    error = torch.finfo(a.dtype).eps ** 0.5 if a.is_floating_point() else 0.0
    return torch.allclose(a, b, rtol=error, atol=error * float(b.abs().nan_to_num(0, 0, 0).max()), equal_nan=True)

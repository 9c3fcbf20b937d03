"""What a block of code would ask of a real GPU: kernels, waits, copies to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass
class Count:
    """Filled when the block ends.

    ``kernels`` are calls of operators that work on the device, about one launch each, copies on the device among them.
    ``waits`` are the places where the program waits for all that it has launched: copies to the CPU, ``item`` and
    ``bool``, ``torch.equal``, operators whose output has a size that depends on data (``nonzero``, indexing by a mask,
    ``unique``), ``synchronize``. ``uploads`` are copies to the device; without ``non_blocking`` and pinned memory each
    of them waits as well, and is not counted in ``waits`` again. ``operators`` has these three numbers for each
    operator, ``seconds`` the time that each took here, which says nothing of a GPU.
    """

    kernels: int = 0
    waits: int = 0
    uploads: int = 0
    operators: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@contextmanager
def counting() -> Iterator[Count]:
    """Count inside: ``with counting() as count: ...``, then ``count.kernels``. Blocks can be nested.

    All threads of this process are counted, other processes are not.
    """
    count, before = Count(), _read()
    yield count
    for name, now in _read().items():
        calls, *costs, nanoseconds = (n - old for n, old in zip(now, before.get(name, [0] * 5), strict=True))
        if calls:
            count.operators[name], count.seconds[name] = tuple(costs), nanoseconds / 1e9
    count.kernels, count.waits, count.uploads = map(sum, zip((0, 0, 0), *count.operators.values(), strict=True))


def _read() -> dict[str, list[int]]:
    """Calls, kernels, waits, uploads and nanoseconds of every operator since this process began."""
    lines = (line.split("\t") for line in torch.ops.fakecuda.costs())
    return {name: list(map(int, numbers)) for name, *numbers in lines}

"""What the main routines ask of a GPU for each layer, step or block: kernels, waits for a number, copies to it.

    FAKECUDA=1 PYTHONPATH=tools/fakecuda/site .venv/bin/python -m benchmarks.counts

counts them on the stand-in for CUDA (``python tools/fakecuda/fakecuda/library.py`` compiles it) and writes
``counts.csv``, the table of the page *Speed*. A number is the difference between a longer call and a shorter one, over
how much longer it is, so what is done once is not in it. Widths and numbers of networks do not matter.
"""

import csv
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from deeplimits import diffusion, lazy, mean_ode, resnet, training
from deeplimits.diagnose import diagnose
from deeplimits.weights import IID

TABLE = Path(__file__).with_suffix(".csv")
HEAD = ("routine", "for each", "kernels", "waits", "copies to the GPU")
L = 64  # layers of a training step, or nodes in depth
F32 = torch.float32


def drawn() -> torch.Generator:
    return torch.Generator("cuda").manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=F32, device="cuda").normal_(generator=drawn())


@cache  # drawn before the kernels are counted, all but the first time
def layers(depth: int) -> list:
    return list(IID().layers(depth, 2, 8, drawn(), dtype=F32))


def forward(depth: int) -> list[Tensor]:
    return list(resnet.states(normal(2, 3, 8), layers(depth), resnet.original(), 0.1))


def there_and_back(depth: int) -> None:
    path = forward(depth)
    resnet.adjoint(path[-1], path, layers(depth), resnet.original(), 0.1)


def descent(steps: int) -> None:
    for _ in training.descent(training.gaussian(L, 4, 8, 2, drawn(), dtype=F32), *normal(2, 5, 8), steps):
        pass


class Block(nn.Module):
    """A block of a network in the stable regime, for which no remedy is looked for."""

    def __init__(self):
        super().__init__()
        self.inner = nn.utils.skip_init(nn.Linear, 8, 8, device="cuda")
        self.inner.weight.data.copy_(normal(8, 8) / 100)
        self.inner.bias.data.zero_()

    def forward(self, h: Tensor) -> Tensor:
        return h + torch.tanh(self.inner(h))


@cache
def network(depth: int) -> nn.Sequential:
    return nn.Sequential(*(Block() for _ in range(depth)))


ROUTINES: list[tuple[str, str, Callable[[int], object], int]] = [  # the last number: units for each of what is longer
    ("forward pass, `resnet.states`", "layer", forward, 1),
    ("the same and `resnet.adjoint`", "layer", there_and_back, 1),
    ("`diffusion.collapse`", "layer", lambda depth: diffusion.collapse(5, depth, 8, drawn()), 1),
    ("`training.descent`", "layer and step", descent, L),
    (
        "`mean_ode.solve`",
        "node and step",
        lambda steps: mean_ode.solve(*normal(2, 5, 8), steps, drawn(), nodes=L, particles=4, replicates=2),
        L,
    ),
    ("`lazy.solve`", "node and step", lambda steps: lazy.solve(*normal(2, 5, 8), steps, nodes=8), 8),
    ("`diagnose`", "block", lambda depth: diagnose(network(depth), normal(4, 8), steps=1), 1),
]


def counts(counting: Callable) -> list[tuple[str, ...]]:
    """The rows of the table; ``counting`` is that of the stand-in."""
    rows = []
    for name, unit, work, units in ROUTINES:
        found = []
        for size in (4, 8):
            work(size)  # what is made at first use
            with counting() as count:
                work(size)
            found.append((count.kernels, count.waits, count.uploads))
        rows.append((name, unit, *(f"{(more - less) / 4 / units:.3g}" for less, more in zip(*found, strict=True))))
    return rows


def main() -> int:
    if "fakecuda" not in sys.modules:
        print("benchmarks.counts needs the stand-in for CUDA; the first lines of benchmarks/counts.py have the command")
        return 2
    os.environ["DEEPLIMITS_FILL"] = "0"  # however small the work is, it is the GPU's that is counted
    with TABLE.open("w", newline="", encoding="utf8") as file:
        csv.writer(file, lineterminator="\n").writerows([HEAD, *counts(sys.modules["fakecuda"].counting)])
    print(TABLE.read_text("utf8"), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Laws of the weights over depth. Each law declares what the theory needs to know of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deeplimits.checks import finite, one_of, positive_integer

ENTRIES = ("gaussian", "uniform", "rademacher")


@dataclass(frozen=True)
class IID:
    """Independent matrices with i.i.d. symmetric entries of variance ``gain``^2 / width.

    ``entry`` is the law of an entry: ``gaussian``; ``uniform`` on an interval symmetric about 0, as in the
    code of Marion et al.; or ``rademacher``, a fair sign. The theorems ask for ``gain`` = 1.
    """

    entry: str = "gaussian"
    gain: float = 1.0

    regularity: ClassVar[str] = "none: layers are independent"
    critical_exponent: ClassVar[float] = 0.5  # Marion et al., theorem "Stability at initialization"

    def __post_init__(self):
        one_of("entry", self.entry, ENTRIES)
        finite("gain", self.gain)

    def matrix(self, *shape: int, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
        """Independent matrices: shape (..., rows, width), entries of variance gain^2 / width."""
        scale = self.gain / shape[-1] ** 0.5
        empty = torch.empty(shape, dtype=dtype, device=generator.device)
        if self.entry == "gaussian":
            return empty.normal_(0, 1, generator=generator).mul_(scale)
        if self.entry == "uniform":
            return empty.uniform_(-(3**0.5), 3**0.5, generator=generator).mul_(scale)
        return empty.bernoulli_(0.5, generator=generator).mul_(2).sub_(1).mul_(scale)

    def layers(
        self,
        depth: int,
        networks: int,
        width: int,
        generator: torch.Generator,
        *,
        matrices: int = 2,
        dtype: torch.dtype = torch.float64,
    ) -> Iterator[Tensor]:
        """The weights layer by layer: ``depth`` tensors of shape (matrices, networks, width, width).

        ``matrices`` is 2 for the blocks with V and W, 1 for those with V alone. One layer is in memory
        at a time; ``list(law.layers(...))`` keeps them all, as the adjoint needs.
        """
        depth, networks = positive_integer("depth", depth), positive_integer("networks", networks)
        width, matrices = positive_integer("width", width), positive_integer("matrices", matrices)
        for _ in range(depth):
            yield self.matrix(matrices, networks, width, width, generator=generator, dtype=dtype)

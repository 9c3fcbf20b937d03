"""Training of many residual classifiers at once: F(x) = B h_L, h_0 = A x, cross-entropy, Adam, step schedule.

The networks of an ensemble are a batch dimension: each has its own weights, its own factor L^-beta and its own
learning rate, all see the same mini-batches, and none touches another. A network that diverges goes on as NaN
beside healthy neighbours and is reported, never repaired.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from deeplimits.checks import positive_integer
from deeplimits.resnet import Family, forward

Pair = tuple[Tensor, Tensor]


@dataclass
class Classifiers:
    """An ensemble of networks of one shape.

    ``A`` is (networks, width, features), ``B`` (networks, classes, width), ``V`` (depth, networks, width, width) and
    ``scale``, the factor on each block, (networks,). Blocks have no matrix but V: the Simple family.
    """

    A: Tensor
    B: Tensor
    V: Tensor
    scale: Tensor
    family: Family

    def __post_init__(self):
        shapes = {name: tuple(getattr(self, name).shape) for name in ("A", "B", "V", "scale")}
        if [len(s) for s in shapes.values()] != [3, 3, 4, 1] or shapes["V"][1:] != (
            *shapes["scale"],
            self.A.shape[1],
            self.B.shape[2],
        ):
            raise ValueError(
                "A, B, V and scale must have the shapes (networks, width, features), (networks, classes, width), "
                f"(depth, networks, width, width) and (networks,), got {shapes}; one of the sizes differs"
            )

    @property
    def parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.A, self.B, self.V

    def logits(self, x: Tensor) -> Tensor:
        """Shape (networks, examples, classes) for ``x`` of shape (examples, features)."""
        h = x @ self.A.mT
        h = forward(h, ((V,) for V in self.V), self.family, self.scale[:, None, None])
        return h @ self.B.mT

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy of each network, shape (networks,)."""
        logits = self.logits(x)
        return cross_entropy(logits.mT, y.expand(len(logits), -1), reduction="none").mean(1)

    @torch.no_grad()
    def accuracy(self, x: Tensor, y: Tensor) -> Tensor:
        """Share of the examples put in the right class by each network; NaN where a logit is not finite."""
        logits = self.logits(x)
        share = (logits.argmax(-1) == y).to(x.dtype).mean(1)
        return torch.where(logits.isfinite().all(-1).all(-1), share, torch.nan)

    def copy(self) -> "Classifiers":
        """The same networks with weights of their own."""
        return Classifiers(self.A.clone(), self.B.clone(), self.V.clone(), self.scale.clone(), self.family)


def train(
    networks: Classifiers,
    data: Pair,
    *,
    rate: float | Tensor,
    epochs: int,
    batch: int,
    generator: torch.Generator,
    every: int = 5,
    factor: float = 0.1,
    progress: Callable[[Iterable, str], Iterable] = lambda items, label: items,
) -> Tensor:
    """Train ``networks`` in place; returns the mean loss of each epoch, shape (epochs, networks).

    Mini-batches of ``batch`` examples in an order drawn anew each epoch, the last one smaller; Adam (Kingma and Ba
    2015, with its usual constants) with learning rate ``rate``, a number or one for each network, multiplied by
    ``factor`` after ``every`` epochs. The loss of a diverged network is not finite. Progress through
    ``progress(items, label)``, as ``Runtime.progress``.
    """
    epochs, batch = positive_integer("epochs", epochs), positive_integer("batch", batch)
    every = positive_integer("every", every)
    x, y = data
    rate = torch.as_tensor(rate, dtype=x.dtype, device=x.device).expand(len(networks.scale))
    if not bool(((rate > 0) & rate.isfinite()).all()):
        raise ValueError(f"rate must be positive and finite, got {rate.tolist()}; for example 1e-3")
    optimiser = Adam(networks.parameters, [rate[:, None, None], rate[:, None, None], rate[None, :, None, None]])
    history = []
    for epoch in progress(range(epochs), "epochs"):
        order = torch.randperm(len(y), generator=generator, device=generator.device)
        total = torch.zeros_like(networks.scale)
        for part in order.split(batch):
            loss = gradient(networks, x[part], y[part])
            optimiser.step(factor ** (epoch // every))
            total += loss * len(part)
        history.append(total / len(y))
    return torch.stack(history)


def gradient(networks: Classifiers, x: Tensor, y: Tensor) -> Tensor:
    """The loss of each network, shape (networks,); its gradients are left in ``.grad`` of the parameters."""
    for parameter in networks.parameters:
        parameter.requires_grad_(True).grad = None
    loss = networks.loss(x, y)
    loss.sum().backward()  # the networks share nothing, so each gradient belongs to one of them
    for parameter in networks.parameters:
        parameter.requires_grad_(False)
    return loss.detach()


class Adam:
    """Adam with learning rates that broadcast against the parameters, hence one for each network.

    ``torch.optim.Adam`` takes one rate for a whole tensor; in all else the step is the same.
    """

    def __init__(self, parameters: Iterable[Tensor], rates: Iterable[Tensor]):
        self.parameters, self.rates, self.steps = list(parameters), list(rates), 0
        self.mean = [torch.zeros_like(p) for p in self.parameters]
        self.square = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        """One step along ``.grad``, with all rates multiplied by ``factor``."""
        self.steps += 1
        for p, rate, m, v in zip(self.parameters, self.rates, self.mean, self.square, strict=True):
            m.lerp_(p.grad, 0.1)
            v.mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
            denominator = (v / (1 - 0.999**self.steps)).sqrt_().add_(1e-8)
            p.sub_(factor * rate * (m / (1 - 0.9**self.steps)) / denominator)

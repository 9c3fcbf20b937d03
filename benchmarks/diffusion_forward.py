"""The forward pass of ``sde``: 100 000 networks, n = 100, L = 100, drawn with and without their matrices.

Plain: one network at a time, one n x n matrix a layer. Ensemble: ``resnet.forward`` on a batch, still with
matrices. Exact law: ``diffusion.states``, n normals a layer. The first two run on fewer networks and are
extrapolated in proportion (*). The last line is the floor of the exact law: drawing its normals and nothing else.
"""

from collections.abc import Callable

import torch

from benchmarks.clock import fair, timed
from deeplimits import diffusion, resnet, runtime
from deeplimits.activations import relu
from deeplimits.weights import IID

N, L, NETWORKS, BATCH = 100, 100, 100_000, 1_000


def plain(generator: torch.Generator, networks: int) -> None:
    for _ in range(networks):
        Y = torch.randn(N, dtype=torch.float64, generator=generator)
        for _ in range(L):
            W = torch.randn(N, N, dtype=torch.float64, generator=generator) / N**0.5
            Y = Y + L**-0.5 * W @ torch.relu(Y)


def ensemble(generator: torch.Generator, networks: int) -> None:
    Y = torch.randn(networks, 1, N, dtype=torch.float64, generator=generator)
    resnet.forward(Y, IID().layers(L, networks, N, generator, matrices=1), resnet.simple(relu), L**-0.5)


def exact_law(generator: torch.Generator, networks: int) -> None:
    """In batches that stay in the cache; the networks are independent."""
    for _ in range(networks // BATCH):
        Y = torch.randn(BATCH, 1, N, dtype=torch.float64, generator=generator)
        for Y in diffusion.states(Y, L, relu, generator):  # noqa: B007, B020 - the last state is the answer
            pass


def normals(generator: torch.Generator, networks: int) -> None:
    buffer = torch.empty(BATCH, 1, N, dtype=torch.float64)
    for _ in range(networks // BATCH * L):
        buffer.normal_(generator=generator)


def main(repeats: int = 2) -> None:
    fair()
    cpu = runtime.Runtime(torch.device("cpu"), torch.float64, "standard", 0, "benchmarks")
    plan: list[tuple[str, Callable, int]] = [
        ("plain loop", plain, 20),
        ("ensemble with matrices", ensemble, 100),
        ("exact law", exact_law, NETWORKS),
        ("only its normals", normals, NETWORKS),
    ]
    print(f"{NETWORKS} networks, n = {N}, L = {L}, float64, CPU, {torch.get_num_threads()} threads, best of {repeats}")
    print(f"{'method':28}{'networks run':>14}{'seconds':>10}{'for all':>12}{'ratio':>9}{'networks/s':>14}")
    totals = {}
    for name, method, networks in plan:
        seconds = min(timed(method, cpu.generator(name, i), networks) for i in range(repeats))
        totals[name] = seconds * NETWORKS / networks
        note = "" if networks == NETWORKS else "*"
        ratio = totals["plain loop"] / totals[name]
        print(
            f"{name:28}{networks:14}{seconds:10.2f}{totals[name]:11.1f}{note:1}{ratio:9.1f}{networks / seconds:14.0f}"
        )
    print(f"share of that time spent on drawing normals: {totals['only its normals'] / totals['exact law']:.2f}")


if __name__ == "__main__":
    main()

"""The histogram of ``scaling/stability`` (d = 100, L = 1000, 10 000 networks), drawn in three ways.

Plain: one network at a time, two d x d matrices a layer, as a transcription of the published procedure
would do. Ensemble: ``resnet.forward`` on a batch, still with matrices. Exact law: ``resnet.projection``.
The first two run on fewer networks and are extrapolated in proportion, which the table says.
"""

from collections.abc import Callable

import torch

from benchmarks.clock import fair, timed
from deeplimits import resnet, runtime
from deeplimits.weights import IID

D, L, NETWORKS = 100, 1000, 10_000


def plain(generator: torch.Generator, networks: int) -> None:
    for _ in range(networks):
        h = torch.ones(D, dtype=torch.float64)
        for _ in range(L):
            W = torch.randn(D, D, dtype=torch.float64, generator=generator) / D**0.5
            V = torch.randn(D, D, dtype=torch.float64, generator=generator) / D**0.5
            h = h + L**-0.5 * V @ torch.relu(W @ h)


def ensemble(generator: torch.Generator, networks: int) -> None:
    h0 = torch.ones(networks, 1, D, dtype=torch.float64)
    resnet.forward(h0, IID().layers(L, networks, D, generator), resnet.original(), L**-0.5)


def exact_law(generator: torch.Generator, networks: int) -> None:
    resnet.projection(networks, L, D, L**-0.5, generator)


def normals(generator: torch.Generator, networks: int) -> None:
    """The floor of any method with matrices: drawing their entries and nothing else."""
    buffer = torch.empty(2, D, D, dtype=torch.float64)
    for _ in range(networks * L):
        buffer.normal_(generator=generator)


def main(repeats: int = 3) -> None:
    fair()
    cpu = runtime.Runtime(torch.device("cpu"), torch.float64, "standard", 0, "benchmarks")
    plan: list[tuple[str, Callable, int]] = [
        ("plain loop", plain, 4),
        ("only drawing the matrices", normals, 4),
        ("ensemble", ensemble, 20),
        ("exact law", exact_law, NETWORKS),
    ]
    print(f"{NETWORKS} networks, d = {D}, L = {L}, float64, CPU, {torch.get_num_threads()} threads, best of {repeats}")
    print(f"{'method':28}{'networks run':>14}{'seconds':>10}{'for all':>12}{'ratio':>9}")
    baseline = None
    for name, method, networks in plan:
        seconds = min(timed(method, cpu.generator(name, i), networks) for i in range(repeats))
        total = seconds * NETWORKS / networks
        baseline = baseline or total
        note = "" if networks == NETWORKS else "*"
        print(f"{name:28}{networks:14}{seconds:10.2f}{total:11.1f}{note:1}{baseline / total:9.1f}")
    print("* extrapolated in proportion to the number of networks; ratio: plain loop / method")

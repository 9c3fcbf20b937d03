"""The map of ``scaling/fractional-weights`` at its published size, in two ways.

Plain: as a transcription of the published procedure would do, a network of its own for each of the 70 x 51 x 5
(beta, H, repetition), a Fourier transform for each of its 2 d^2 L-step weight sequences, gradients by autograd.
Book: one set of weights for all betas, all its sequences at once, one forward and one adjoint pass for 70 betas
and 10 inputs. Both are timed on a few units and extrapolated in proportion, which the table says; ``python -m
benchmarks.fractional_map full`` computes the whole map with the book's method.

Each in float64, the book's reference on the CPU, and in float32, the default precision of PyTorch.
"""

import sys

import numpy as np
import torch

from benchmarks.clock import CORES, fair, shared, timed
from deeplimits import resnet, runtime
from deeplimits.weights import Fractional

D, L, BETAS, HURSTS, NETWORKS, INPUTS = 40, 1000, 70, 51, 5, 10
GRID = torch.linspace(0, 1.3, BETAS)


def one_path(hurst: float, rng: np.random.Generator) -> np.ndarray:
    """L increments of fractional Brownian motion, by the circle of 2 L points."""
    k = np.arange(L + 1.0)
    gamma = (np.abs(k - 1) ** (2 * hurst) - 2 * k ** (2 * hurst) + (k + 1) ** (2 * hurst)) / 2
    variances = np.fft.fft(np.concatenate([gamma, gamma[-2:0:-1]])).real.clip(min=0)
    normals = rng.standard_normal(2 * L) + 1j * rng.standard_normal(2 * L)
    return np.fft.fft(np.sqrt(variances / (2 * L)) * normals).real[:L]


def plain(cells: list[tuple[float, float]], dtype: torch.dtype) -> None:
    """One network a cell (beta, H): outputs, and gradients by autograd, for all inputs."""
    rng = np.random.default_rng(0)
    for beta, hurst in cells:
        paths = np.stack([one_path(hurst, rng) for _ in range(2 * D * D)], -1)
        weights = torch.as_tensor(paths / D**0.5).to(dtype).view(L, 2, D, D)
        h0 = torch.as_tensor(rng.standard_normal((INPUTS, D))).to(dtype).requires_grad_()
        h = h0
        for V, W in weights:
            h = h + L**-beta * torch.relu(h @ W.T) @ V.T
        h.sum().backward()


def draw(hurst: float, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
    return Fractional(hurst).layers(L, 1, D, generator, dtype=dtype)


def passes(layers: torch.Tensor, generator: torch.Generator) -> None:
    h0 = torch.randn(1, INPUTS, D, generator=generator, dtype=layers.dtype).repeat(1, BETAS, 1)
    scale = (L**-GRID).to(layers.dtype).repeat_interleave(INPUTS)[:, None]
    layers = list(layers)
    path = list(resnet.states(h0, layers, resnet.original(), scale))
    resnet.adjoint(torch.ones_like(h0), path, layers, resnet.original(), scale)


def column(cpu: runtime.Runtime, hurst: float, dtype: torch.dtype) -> None:
    generator = cpu.generator("column", hurst)
    passes(draw(hurst, generator, dtype), generator)


def full(cpu: runtime.Runtime, dtype: torch.dtype) -> None:
    for hurst in torch.linspace(0.05, 0.97, HURSTS).tolist():
        for k in range(NETWORKS):
            generator = cpu.generator(hurst, k)
            passes(draw(hurst, generator, dtype), generator)


def compare(cpu: runtime.Runtime, dtype: torch.dtype) -> None:
    columns, cells, sample = HURSTS * NETWORKS, BETAS * HURSTS * NETWORKS, (0.2, 0.5, 0.9)
    matrix = torch.randn(2000, 2000, dtype=dtype, generator=cpu.generator("rate"))
    rate = 2 * 2000**3 / min(timed(torch.mm, matrix, matrix) for _ in range(5))
    slow = timed(plain, [(0.5, hurst) for hurst in sample], dtype) / len(sample)
    generators = {hurst: cpu.generator("draw", hurst) for hurst in sample}
    weights = {hurst: draw(hurst, g, dtype) for hurst, g in generators.items()}  # also warms up
    drawing = min(timed(draw, hurst, g, dtype) for hurst, g in generators.items())
    walking = min(timed(passes, weights[hurst], g) for hurst, g in generators.items())
    work = 5 * 2 * INPUTS * BETAS * D * D * L  # two matrix products forward, three backward
    print(
        f"{str(dtype).removeprefix('torch.')}: plain loop {slow:.2f} s a cell, {cells * slow / 3600:.1f} h for the map"
    )
    print(f"  book {drawing:.2f} s to draw and {walking:.2f} s for both passes a column,", end=" ")
    print(
        f"{columns * (drawing + walking):.0f} s for the map, ratio {cells * slow / columns / (drawing + walking):.0f}"
    )
    side = shared(column, [(cpu, hurst, dtype) for hurst in (*sample, *sample)]) / (2 * len(sample))
    print(f"  in {CORES} processes {columns * side:.0f} s for the map, ratio {cells * slow / columns / side:.0f}")
    print(f"  passes {work / walking / 1e9:.0f} GFLOP/s, {work / walking / rate:.0%} of the machine's", end=" ")
    print(f"{rate / 1e9:.0f} GFLOP/s in a product of 2000 x 2000 matrices")
    if "full" in sys.argv:
        print(f"  the whole map, measured: {timed(full, cpu, dtype):.0f} s")


def main() -> None:
    fair()
    cpu = runtime.Runtime(torch.device("cpu"), torch.float64, "standard", 0, "benchmarks")
    print(f"map of {BETAS} betas x {HURSTS} H x {NETWORKS} networks x {INPUTS} inputs, d = {D}, L = {L},")
    print(f"CPU, {torch.get_num_threads()} threads; extrapolated from 3 cells, 3 columns, and 6 shared ones")
    for dtype in (torch.float64, torch.float32):
        compare(cpu, dtype)


if __name__ == "__main__":
    main()

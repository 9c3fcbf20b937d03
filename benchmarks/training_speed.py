"""Training of networks with two-layer blocks (Part III) against a plain transcription of its formulas in NumPy.

The transcription trains one network at a time, one layer after the other, as the authors' own code does. It runs on
fewer steps and, for the grid, on one network of each shape; it is extrapolated in proportion (*). ``full`` on the
command line trains the whole grid of Figure 2 by the book's method instead of extrapolating that too.
"""

import resource
import sys
import time

import numpy as np
import torch

from benchmarks.clock import fair, timed
from deeplimits import data, mean_ode, runtime, training

D = N = 10
SHAPES = [int(10**e) for e in np.linspace(0, 2.5, 10)]  # depths and hidden widths of Figure 2
REPETITIONS, K = 10, 100


def plain(U: np.ndarray, V: np.ndarray, x: np.ndarray, y: np.ndarray, steps: int) -> np.ndarray:
    """Gradient descent of one network; U and V are (L, M, D), x and y (N, D)."""
    (L, M, D), N = U.shape, len(x)
    for _ in range(steps):
        h, a = [x], []
        for l in range(L):  # noqa: E741
            a.append(np.tanh(h[l] @ U[l].T / D))
            h.append(h[l] + a[l] @ V[l] / (L * M))
        b = (h[L] - y) / (N * D)
        for l in reversed(range(L)):  # noqa: E741
            g = (1 - a[l] ** 2) * (b @ V[l].T)
            b_before = b + g @ U[l] / (L * M * D)
            U[l] -= g.T @ h[l]  # eta_u/D = 1
            V[l] -= D * a[l].T @ b
            b = b_before
    return h[L]


def weights(L: int, M: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    U, V = rng.normal(0, D**0.5, (2, L, M, D))
    return U, V


def packed(networks: int, steps: int, run: runtime.Runtime, x: torch.Tensor, y: torch.Tensor) -> float:
    """Seconds of training the grid as the book does, once it is drawn: narrow networks of a depth in one ensemble."""
    narrow, wide = [M for M in SHAPES if M <= 24], [M for M in SHAPES if M > 24]
    seconds = 0.0
    for L in SHAPES:
        for group in (narrow, *([M] for M in wide)):
            generator = run.generator(L, *group)
            ensembles = [training.gaussian(L, M, D, networks, generator) for M in group]
            training_steps = training.descent(training.together(ensembles), x, y, steps)
            next(training_steps)
            seconds += timed(list, training_steps)
    return seconds


def product_rate() -> float:
    """Floating-point operations a second in products of two 2000 x 2000 matrices."""
    A = torch.ones(2000, 2000, dtype=torch.float64)
    return 2 * 2000**3 / min(timed(torch.matmul, A, A) for _ in range(3))


def copy_rate() -> float:
    """Bytes a second, read and written, in a copy of 400 MB."""
    A = torch.ones(50_000_000, dtype=torch.float64)
    B = torch.empty_like(A)
    return 16 * len(A) / min(timed(B.copy_, A) for _ in range(3))


def grid(run: runtime.Runtime, x: torch.Tensor, y: torch.Tensor, full: bool) -> None:
    few = 4
    shapes = [(L, M) for L in SHAPES for M in SHAPES]
    slow = sum(timed(plain, *weights(L, M, 0), x.numpy(), y.numpy(), few) for L, M in shapes) / few
    steps = K if full else 2 * few
    packed(REPETITIONS, 1, run, x, y)  # warm up
    fast = packed(REPETITIONS, steps, run, x, y) / steps
    print(f"Figure 2: {len(shapes)} shapes x {REPETITIONS} networks, K = {K}")
    print(f"  plain loop {slow * K * REPETITIONS:.0f} s* (one network a shape, {few} steps)")
    print(f"  ensembles {fast * K:.0f} s{'' if full else '*'} ({steps} steps), ratio {slow * REPETITIONS / fast:.1f}")


def wide(run: runtime.Runtime, x: torch.Tensor, y: torch.Tensor, L: int = 1000, few: int = 3) -> None:
    U, V = weights(L, L, 0)
    plain(U[:2], V[:2], x.numpy(), y.numpy(), 1)
    slow = timed(plain, U, V, x.numpy(), y.numpy(), few) / few
    networks = training.gaussian(L, L, D, 1, run.generator("wide"))
    steps = training.descent(networks, x, y, few)
    next(steps)
    fast = timed(lambda: list(steps)) / few  # each an update and two passes
    work, traffic = 12 * L * L * D * N, 8 * L * L * (8 * D + 5 * N)
    print(f"one network L = M = {L}: plain loop {slow:.3f} s a step, book {fast:.3f} s, ratio {slow / fast:.2f}")
    print(f"  {work / fast / 1e9:.0f} GFLOP/s, {work / fast / product_rate():.0%} of a 2000 x 2000 matrix product;")
    print(f"  {traffic / fast / 1e9:.1f} GB/s of arrays read and written, {traffic / fast / copy_rate():.0%} of a copy")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"  peak memory of this process {peak:.2f} GiB")


def solver(run: runtime.Runtime, x: torch.Tensor, y: torch.Tensor, few: int = 2) -> None:
    start = time.perf_counter()
    solution = mean_ode.solve(x, y, K, run.generator("solver"), nodes=64, particles=512, replicates=3)
    fast = time.perf_counter() - start
    check = mean_ode.solve(x, y, K, run.generator("check"), nodes=128, particles=2048, replicates=4)
    gap = (solution.output - check.output).square().mean((1, 2)).sqrt()
    slow = timed(plain, *weights(850, 850, 0), x.numpy(), y.numpy(), few) / few * K
    print(f"Mean ODE, K = {K}: {fast:.2f} s, largest RMS error {solution.error.max():.1e} by its own bar,")
    print(f"  {gap.max():.1e} against an independent solution eight times as large ({check.error.max():.1e})")
    print(f"  plain loop with L = M = 850: {slow:.1f} s* ({few} steps), ratio {slow / fast:.1f}")


def main() -> None:
    fair()
    cpu = runtime.Runtime(torch.device("cpu"), torch.float64, "standard", 0, "benchmarks")
    x, y = data.regression(N, D, cpu.generator("data"))
    print(f"training, D = N = {D}, float64, CPU, {torch.get_num_threads()} threads")
    wide(cpu, x, y)
    solver(cpu, x, y)
    grid(cpu, x, y, "full" in sys.argv)
    print("* extrapolated in proportion")


if __name__ == "__main__":
    main()

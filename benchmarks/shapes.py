"""The 2100 networks of ``phase/embedding-dimension`` against the plain transcription of ``training_speed``.

Every network has a shape of its own: 10 depths, 10 hidden widths, 21 dimensions. The book trains those of one dimension
and depth together; the transcription trains one network at a time. Both run on the same random sample of rows (one
dimension, one depth, all hidden widths), in turn, row by row, so that whatever else the machine does slows both alike.
The total is extrapolated in proportion (*). Then the book's rows are shared between processes, one a core, as the
chapter does with ``DEEPLIMITS_WORKERS``. ``full`` on the command line trains all 2100 by the book's method.

Each dimension needs a reference. The plain one is a network with L = M = 1000, as in the paper (timed on 20 of its
layers); the book's is the Mean ODE, in 2N dimensions, at a smaller error.
"""

import sys

import numpy as np
import torch

from benchmarks.clock import CORES, fair, shared, timed
from benchmarks.training_speed import plain
from deeplimits import data, mean_ode, runtime, training

N, K, SAMPLE = 10, 20, 21
SIZES = (1, 2, 3, 6, 11, 19, 34, 62, 111, 200)  # depths and hidden widths
DIMENSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 26, 32, 38, 46, 56, 68, 83, 100)
PACKS = ((1, 2, 3, 6, 11, 19), (34,), (62,), (111,), (200,))


def book(run: runtime.Runtime, D: int, L: int, copies: int = 1) -> None:
    """A row by the book's method, ``copies`` networks of each shape."""
    x, y = data.regression(N, D, run.generator("data", D))
    for Ms in PACKS:
        g = run.generator("networks", D, L, Ms[0])
        nets = [training.gaussian(L, M, D, copies, g) for M in Ms]
        for _ in training.descent(training.together(nets), x, y, K):
            pass


def transcription(run: runtime.Runtime, D: int, L: int) -> None:
    """The same row, one network after the other."""
    x, y = (z.numpy() for z in data.regression(N, D, run.generator("data", D)))
    rng = np.random.default_rng(D * L)
    for M in SIZES:
        U, V = rng.normal(0, D**0.5, (2, L, M, D))
        with np.errstate(all="ignore"):
            plain(U, V, x, y, K)


def solve(run: runtime.Runtime, D: int) -> mean_ode.Solution:
    """The book's reference: the Mean ODE in min(D, 2N) dimensions."""
    x, y = data.regression(N, D, run.generator("data", D))
    z, d = torch.cat([x, y]), min(D, 2 * N)
    z = d**0.5 * torch.linalg.cholesky(z @ z.T / D) if d < D else z
    return mean_ode.solve(z[:N], z[N:], K, run.generator("reference"), nodes=64, particles=256, replicates=4)


def references(run: runtime.Runtime, D: int) -> tuple[float, float, float]:
    """Seconds of the plain reference (extrapolated) and of the book's, and the error bar of the latter at step K."""
    x, y = data.regression(N, D, run.generator("data", D))
    U, V = np.random.default_rng(D).normal(0, D**0.5, (2, 20, 1000, D))
    slow = timed(plain, U, V, x.numpy(), y.numpy(), 2) * 50 * K / 2
    found = []
    fast = timed(lambda: found.append(solve(run, D)))
    return slow, fast, float(found[0].error[K])


def main() -> None:
    fair()
    run = runtime.Runtime(torch.device("cpu"), torch.float64, "standard", 0, "benchmarks")
    rng = np.random.default_rng(0)
    # a depth for each dimension, so that the sample has them all; twice round the depths
    depths = np.concatenate([rng.permutation(SIZES), rng.permutation(SIZES), rng.choice(SIZES, 1)])
    rows = list(zip(DIMENSIONS, depths.tolist(), strict=True))[:SAMPLE]
    book(run, 10, 3)
    transcription(run, 10, 3)
    fast, slow = np.array([(timed(book, run, *row), timed(transcription, run, *row)) for row in rows]).T
    count, all_rows = len(SIZES) ** 2 * len(DIMENSIONS), len(SIZES) * len(DIMENSIONS)
    print(f"{count} shapes, N = {N}, K = {K}, float64, CPU, {torch.get_num_threads()} threads")
    print(f"  sample of {len(rows)} rows with {len(rows) * len(SIZES)} networks")
    print(f"  plain loop {slow.mean() * all_rows:.0f} s*, book {fast.mean() * all_rows:.0f} s*", end="")
    print(f", ratio {slow.sum() / fast.sum():.1f}; median over rows {np.median(slow / fast):.1f}")
    networks, plain_networks = fast.mean() * all_rows, slow.mean() * all_rows
    some = DIMENSIONS[::4]
    slow, fast, error = np.array([references(run, D) for D in some]).T
    slow, fast = (t.mean() * len(DIMENSIONS) for t in (slow, fast))
    law = 0.35 * np.sqrt(some[-1]) / 1000  # chance alone, with the b_20 that the chapter finds
    print(f"  references: plain {slow:.0f} s*, book {fast:.0f} s*, ratio {slow / fast:.1f};")
    print(f"  errors at D = {some[-1]}: {law:.1e} by the law, {error[-1]:.1e} by its own bar")
    everything = plain_networks + slow
    print(f"  together: plain {everything:.0f} s*, book {networks + fast:.0f} s*", end="")
    print(f", ratio {everything / (networks + fast):.1f}")
    side = shared(book, [(run, *row) for row in rows]) * all_rows / len(rows)
    side += shared(solve, [(run, D) for D in DIMENSIONS])
    print(f"  book in {CORES} processes: {side:.0f} s*, ratio to the plain loop {everything / side:.1f}")
    if "full" in sys.argv:
        everything = sum(timed(book, run, D, L) for D in DIMENSIONS for L in SIZES)
        print(f"  book, all {count} networks: {everything:.0f} s")
    copies = (1, 2, 4, 8)
    few = rows[::4]
    times = [sum(timed(book, run, *row, n) for row in few) for n in copies]
    slope = np.polyfit(np.log(copies), np.log(times), 1)[0]
    shown = ", ".join(f"{n * len(few) * len(SIZES)}: {t:.2f} s" for n, t in zip(copies, times, strict=True))
    print(f"  time against number of networks: {shown}; exponent {slope:.2f}")
    print("* extrapolated in proportion")


if __name__ == "__main__":
    main()

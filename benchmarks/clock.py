"""The one clock of the benchmarks, and what makes a comparison fair: equal threads for both sides, and no handicap."""

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from joblib import Parallel, cpu_count, delayed
from threadpoolctl import threadpool_info, threadpool_limits

from deeplimits import fused

CORES = cpu_count()  # those that this process may use
# Variables that choose the kernels or the threads of one library and not of the other: plain loops compute in NumPy's
# BLAS, the book mostly in PyTorch's. (The exceptions choose neither; those of KMP are set by scikit-learn itself.)
HANDICAPS = re.compile(
    r"(?!KMP_DUPLICATE_LIB_OK|KMP_INIT_AT_FORK|NUMBA_CACHE_DIR)"
    r"((OPENBLAS|GOTO|BLIS|VECLIB|MKL|DNNL|ONEDNN|ATEN|NPY|NUMBA|OMP|GOMP|KMP)_\w+|\w+_NUM_THREADS)"
)


def timed(method: Callable, *arguments: object) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    method(*arguments)
    return time.perf_counter() - start


def shared(method: Callable, calls: Sequence[tuple]) -> float:
    """Seconds for ``method`` on all ``calls``, shared between one process a core; the processes are there before."""
    with Parallel(n_jobs=CORES) as pool:
        pool(delayed(method)(*calls[0]) for _ in range(CORES))
        return timed(lambda: pool(delayed(method)(*call) for call in calls))


@cache
def fair() -> None:
    """Give both sides one thread a core, and say what computes; the first line of every benchmark.

    Leaves with status 2 if the environment handicaps one side. To compare with fewer threads bind the whole
    process: ``taskset -c 0 make bench``.
    """
    found = sorted(name for name in os.environ if HANDICAPS.fullmatch(name))
    if found:
        told = ", ".join(f"{name}={os.environ[name]}" for name in found)
        cure = f"env {' '.join(f'-u {name}' for name in found)} make bench"
        print(f"benchmarks: {told} may slow one side of a comparison only; unset: {cure}", file=sys.stderr)
        raise SystemExit(2)
    torch.set_num_threads(CORES)
    threadpool_limits(CORES)
    print("\n".join(libraries()), end="\n\n")


def libraries() -> list[str]:
    """The cores and their load; then of each loaded library that multiplies matrices version, kernel and threads.

    The book's compiled loops have the threads of PyTorch.
    """
    compiled = f"numba {version('numba')}" if fused.step else "no numba: nothing is compiled"
    lines = [f"{CORES} cores, load {os.getloadavg()[0]:.1f} (an idle machine: 0), {compiled}"]
    for blas in threadpool_info():
        if blas["user_api"] == "blas":
            kernel = blas.get("architecture", "of its own choice")
            name = f"{Path(blas['filepath']).parent.name}: {blas['internal_api']} {blas['version']}"
            lines.append(f"{name}, kernel {kernel}, {blas['num_threads']} threads")
    mkl = re.search(r"Math Kernel Library Version (\S+)", torch.__config__.parallel_info())
    name = f"torch {torch.__version__}: {f'mkl {mkl[1]}' if mkl else 'no mkl'}"
    return [*lines, f"{name}, kernel {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"]

"""The one clock of the benchmarks."""

import os
import time
from collections.abc import Callable, Sequence

from joblib import Parallel, delayed

CORES = os.cpu_count() or 1


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

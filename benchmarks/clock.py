"""The one clock of the benchmarks."""

import time
from collections.abc import Callable


def timed(method: Callable, *arguments: object) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    method(*arguments)
    return time.perf_counter() - start

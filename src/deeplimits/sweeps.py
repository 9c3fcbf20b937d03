"""Grids of experiments: one file a cell, several processes, and nothing lost when the run is interrupted.

A grid is a function and a list of cells. Each finished cell is written at once, under a temporary name that is
then renamed, so a file is whole or absent; the same grid started again computes only what is missing. "The same"
is decided by a fingerprint of everything the numbers depend on: the source of the library and of the function, the
versions of Python, PyTorch, NumPy, SciPy and Numba, the chapter and those of its cells that have run, the preset, the
seed, the device, the precision, and beside a GPU DEEPLIMITS_FILL, which decides what rounds as a CPU does. A chapter
that ran to its end has its files removed by the build (:func:`forget`), so the next computes all afresh.

Cells are computed by as many processes as there are cores, or as DEEPLIMITS_WORKERS says (the build says 1, since
chapters run side by side; on a GPU it is 1). Who outgrows one machine names the scheduler of a Dask cluster:

    DEEPLIMITS_CLUSTER=tcp://host:8786 make book PRESET=paper

Every cell has one thread to itself and draws its own random numbers, so where it is computed changes no bit, as long as
the processors are of one kind. Results come back to this process, which alone writes files: workers need no common
disk, and one that is killed costs its cell. A grid begun on a cluster goes on without it, and the other way round.
"""

import copyreg
import inspect
import io
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from hashlib import sha256
from importlib import import_module
from pathlib import Path

import torch
from joblib import Parallel, cpu_count, delayed
from threadpoolctl import threadpool_limits

from deeplimits import cluster
from deeplimits.checks import positive_integer
from deeplimits.runtime import Runtime

Cell = tuple[object, ...]

# cloudpickle sends these along with a function that has, say, ``images.classes``, and cannot: they are odd modules
for odd in (torch.classes, torch.ops):
    copyreg.pickle(type(odd), lambda module: (import_module, (module.__name__,)))


def grid(
    run: Runtime, name: str, cells: Iterable[Cell], compute: Callable, *context: object, workers: int | None = None
) -> dict[Cell, object]:
    """``{cell: compute(*cell)}`` for every cell, from files where an interrupted run left them.

    ``compute`` returns a tensor, a number, or a dictionary, list or tuple of these; the cells are tuples of
    numbers or strings, all different. The fingerprint sees the source of ``compute`` and, in a notebook, all cells run
    so far, but not what ``compute`` reaches elsewhere: name in ``context`` whatever else the numbers depend on (sizes,
    other functions).

    ``workers`` processes share the work; None leaves it to DEEPLIMITS_CLUSTER, DEEPLIMITS_WORKERS or the number of
    cores, in this order. With more than one, ``compute`` and what it reaches are sent to them by cloudpickle. An
    error in a cell is raised here with the cell named; what was finished before stays on disk.
    """
    cells = list(cells)
    if len(set(cells)) < len(cells):
        raise ValueError(f"the cells of {name!r} must be different from each other; remove the repeated ones")
    folder = folder_of(run) / f"{name}-{_fingerprint(run, compute, context)}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {cell: folder / f"{sha256(repr(cell).encode()).hexdigest()[:16]}.pt" for cell in cells}
    missing = [cell for cell in cells if not paths[cell].exists()]
    with closing(_results(run, missing, name, compute, workers)) as results:
        for cell, data in run.progress(results, name, len(missing)):
            if isinstance(data, Exception):
                raise data
            temporary = paths[cell].with_suffix(f".{os.getpid()}.tmp")
            temporary.write_bytes(data)
            temporary.replace(paths[cell])
    return {cell: torch.load(path, map_location=run.device, weights_only=True) for cell, path in paths.items()}


def _results(
    run: Runtime, cells: list[Cell], name: str, compute: Callable, workers: int | None
) -> Iterator[tuple[Cell, bytes | Exception]]:
    """Each cell with its result as the bytes of a file, or its error, in the order in which they are finished."""
    address = os.environ.get("DEEPLIMITS_CLUSTER")
    away = partial(_away, name, compute, torch.get_default_dtype(), torch.get_default_device())
    if cells and address and workers is None:
        yield from cluster.results(address, f"{run.key}:{name}", away, cells, run.device)
    elif len(cells) > 1 and (count := _workers(run, workers)) > 1:
        # one cell a batch: a worker that is killed has no finished ones with it
        pool = Parallel(n_jobs=count, return_as="generator_unordered", batch_size=1)
        yield from pool(delayed(away)(cell) for cell in cells)
    else:
        yield from (_compute(name, compute, cell) for cell in cells)


def _workers(run: Runtime, workers: int | None) -> int:
    """How many processes of this machine compute."""
    if workers is not None:
        return positive_integer("workers", workers)
    text = os.environ.get("DEEPLIMITS_WORKERS") or (str(cpu_count()) if run.device.type == "cpu" else "1")
    if not text.isdigit() or int(text) == 0:
        raise ValueError(f"DEEPLIMITS_WORKERS must be a positive integer, got {text!r}; 1 computes in this process")
    return int(text)


def _away(name: str, compute: Callable, dtype: torch.dtype, device: torch.device, cell: Cell):
    """:func:`_compute` in another process, under the defaults of PyTorch that hold in this one."""
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    cell, data = _compute(name, compute, cell)
    if isinstance(data, Exception):  # its traceback cannot travel
        data.add_note("".join(traceback.format_exception(data)))
    return cell, data


def _compute(name: str, compute: Callable, cell: Cell) -> tuple[Cell, bytes | Exception]:
    """The cell with its result, or its error, computed by one thread.

    An error is returned, not raised: what other processes have finished meanwhile would be thrown away.
    """
    file = io.BytesIO()
    try:
        with threadpool_limits(1):
            torch.save(compute(*cell), file)
        file.seek(0)
        torch.load(file, weights_only=True)  # what cannot be read back is refused at the first cell
    except Exception as error:
        error.add_note(f"in cell {cell} of the grid {name!r}")
        return cell, error
    return cell, file.getvalue()


def folder_of(run: Runtime) -> Path:
    """Where the grids of a chapter are kept, one folder for each preset, seed and device.

    It lies in DEEPLIMITS_SWEEPS, by default ``_build/sweeps`` of the book, or of the present folder if that is not
    inside a copy of the book.
    """
    here = Path.cwd()
    book = next((place for place in (here, *here.parents) if (place / "_toc.yml").exists()), here)
    root = os.environ.get("DEEPLIMITS_SWEEPS") or book / "_build" / "sweeps"
    return Path(root) / run.key / f"{run.preset}-{run.seed}-{run.device}".replace(":", "-")


def forget(run: Runtime) -> None:
    """Remove the grids of a chapter for the present preset, seed and device, finished or not."""
    shutil.rmtree(folder_of(run), ignore_errors=True)


def _fingerprint(run: Runtime, compute: Callable, context: tuple) -> str:
    settings = (run.key, run.preset, run.seed, str(run.device), str(run.dtype))
    if run.device.type == "cuda":
        settings += (os.environ.get("DEEPLIMITS_FILL") or "",)
    parts = (cluster.versions(), settings, _cells(), [_text(x) for x in (compute, *context)])
    return sha256(repr(parts).encode()).hexdigest()[:16]


def _cells() -> list[str]:
    """The cells of this notebook in the order in which they have last run, from the last; none outside a notebook."""
    shell = "IPython" in sys.modules and sys.modules["IPython"].get_ipython()
    return list(dict.fromkeys(reversed(shell.history_manager.input_hist_raw))) if shell else []


def _text(x: object) -> str:
    """What stands for ``x`` in a fingerprint, the same in every process."""
    if isinstance(x, dict):
        x = list(x.items())
    if isinstance(x, list | tuple):  # each by itself, for an array in a list is printed with few digits
        return f"[{', '.join(map(_text, x))}]"
    text = inspect.getsource(x) if inspect.isroutine(x) else repr(x.tolist() if hasattr(x, "tolist") else x)
    if re.search(r" at 0x[0-9a-f]+>", text):
        raise ValueError(
            f"a grid depends on functions, numbers, strings, arrays and lists of these, got {text}; name its parts"
        )
    return text

"""Grids of experiments: one file a cell, several processes, and nothing lost when the run is interrupted.

A grid is a function and a list of cells. Each finished cell is written at once, under a temporary name that is
then renamed, so a file is whole or absent; the same grid started again computes only what is missing. "The same"
is decided by a fingerprint of everything the numbers depend on: the source of the library and of the
function, the chapter, the preset, the seed, the device and the precision. A chapter that ran to its end
has its files removed by the build (:func:`forget`), so the next build computes everything afresh.

Cells are computed by as many processes as there are cores, or as DEEPLIMITS_WORKERS says (the build says 1, since
chapters run side by side; on a GPU it is 1). Who outgrows one machine writes

    with sweeps.cluster("tcp://scheduler:8786"):
        sweeps.grid(...)

Every cell has one thread to itself and draws its own random numbers, so where it is computed changes no bit. Results
come back to this process, which alone writes files: workers need no common disk, and one that is killed costs its cell.
"""

import inspect
import io
import os
import shutil
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import torch
from joblib import Parallel, cpu_count, delayed, parallel_config
from joblib.parallel import get_active_backend
from threadpoolctl import threadpool_limits

from deeplimits.checks import positive_integer
from deeplimits.runtime import Runtime

Cell = tuple[object, ...]


def grid(
    run: Runtime, name: str, cells: Iterable[Cell], compute: Callable, *context: object, workers: int | None = None
) -> dict[Cell, object]:
    """``{cell: compute(*cell)}`` for every cell, from files where an interrupted run left them.

    ``compute`` returns a tensor, a number, or a dictionary, list or tuple of these; the cells are tuples of
    numbers or strings, all different. The fingerprint sees the source of ``compute``, not what it reaches from
    its surroundings: name in ``context`` whatever else the numbers depend on (sizes, other functions).

    ``workers`` processes share the work; None leaves it to a :func:`cluster`, DEEPLIMITS_WORKERS or the number of
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
    results = _results(missing, name, compute, _workers(run, workers))
    for cell, data in run.progress(results, name, len(missing)):
        if isinstance(data, Exception):
            raise data
        temporary = paths[cell].with_suffix(f".{os.getpid()}.tmp")
        temporary.write_bytes(data)
        temporary.replace(paths[cell])
    return {cell: torch.load(path, map_location=run.device, weights_only=True) for cell, path in paths.items()}


@contextmanager
def cluster(address: str) -> Iterator:
    """Send the grids inside this context to the Dask cluster whose scheduler is at ``address``.

    Its workers need this library and the packages of the book, one thread each (``dask worker --nthreads 1``). Gives
    the Dask client. The package ``distributed`` comes with the extra ``cluster`` of the library.
    """
    try:
        from distributed import Client
    except ImportError:
        raise ImportError('a cluster needs the package distributed: pip install "deeplimits[cluster]"') from None
    with Client(address) as client, parallel_config("dask", n_jobs=-1):
        yield client


def _workers(run: Runtime, workers: int | None) -> int:
    """How many processes compute; -1 for all of a cluster."""
    if workers is not None:
        return positive_integer("workers", workers)
    _, jobs = get_active_backend()
    if jobs not in (None, 1):  # a parallel_config around us, such as that of ``cluster``
        return jobs
    text = os.environ.get("DEEPLIMITS_WORKERS") or (str(cpu_count()) if run.device.type == "cpu" else "1")
    if not text.isdigit() or int(text) == 0:
        raise ValueError(f"DEEPLIMITS_WORKERS must be a positive integer, got {text!r}; 1 computes in this process")
    return int(text)


def _results(cells: list[Cell], name: str, compute: Callable, workers: int) -> Iterator[tuple[Cell, bytes | Exception]]:
    """Each cell with its result as the bytes of a file, or its error, in the order in which they are finished."""
    if workers == 1 or len(cells) == 1:
        return (_compute(cell, name, compute) for cell in cells)
    defaults = torch.get_default_dtype(), torch.get_default_device()
    tasks = (delayed(_away)(cell, name, compute, *defaults) for cell in cells)
    # one cell a batch: a worker that is killed has no finished ones with it
    return Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1)(tasks)


def _away(cell: Cell, name: str, compute: Callable, dtype: torch.dtype, device: torch.device):
    """:func:`_compute` in another process, under the defaults of PyTorch that hold in this one."""
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    cell, data = _compute(cell, name, compute)
    if isinstance(data, Exception):  # its traceback cannot travel
        data.add_note("".join(traceback.format_exception(data)))
    return cell, data


def _compute(cell: Cell, name: str, compute: Callable) -> tuple[Cell, bytes | Exception]:
    """The cell with its result, or its error, computed by one thread.

    An error is returned, not raised: joblib would throw away what other processes have finished meanwhile.
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
    library = b"".join(path.read_bytes() for path in sorted(files("deeplimits").iterdir()) if path.suffix == ".py")
    settings = (run.key, run.preset, run.seed, str(run.device), str(run.dtype))
    sources = [inspect.getsource(x) if inspect.isroutine(x) else repr(x) for x in (compute, *context)]
    return sha256(library + repr((settings, sources)).encode()).hexdigest()[:16]

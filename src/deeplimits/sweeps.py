"""Grids of experiments: one file a cell, progress, and nothing lost when the run is interrupted.

A grid is a function and a list of cells. Each finished cell is written at once, under a temporary name that is
then renamed, so a file is whole or absent; the same grid started again computes only what is missing. "The same"
is decided by a fingerprint of everything the numbers depend on: the source of the library and of the
function, the chapter, the preset, the seed, the device and the precision. A chapter that ran to its end
has its files removed by the build (:func:`forget`), so the next build computes everything afresh.
"""

import inspect
import os
import shutil
from collections.abc import Callable, Iterable
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import torch

from deeplimits.runtime import Runtime

Cell = tuple[object, ...]


def grid(run: Runtime, name: str, cells: Iterable[Cell], compute: Callable, *context: object) -> dict[Cell, object]:
    """``{cell: compute(*cell)}`` for every cell, from files where an interrupted run left them.

    ``compute`` returns a tensor, a number, or a dictionary, list or tuple of these; the cells are tuples of
    numbers or strings, all different. The fingerprint sees the source of ``compute``, not what it reaches from
    its surroundings: name in ``context`` whatever else the numbers depend on (sizes, other functions).
    """
    cells = list(cells)
    if len(set(cells)) < len(cells):
        raise ValueError(f"the cells of {name!r} must be different from each other; remove the repeated ones")
    folder = folder_of(run) / f"{name}-{_fingerprint(run, compute, context)}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {cell: folder / f"{sha256(repr(cell).encode()).hexdigest()[:16]}.pt" for cell in cells}
    for cell in run.progress([cell for cell in cells if not paths[cell].exists()], name):
        temporary = paths[cell].with_suffix(f".{os.getpid()}.tmp")
        torch.save(compute(*cell), temporary)
        torch.load(temporary, weights_only=True)  # what cannot be read back is refused at the first cell
        temporary.replace(paths[cell])
    return {cell: torch.load(path, map_location=run.device, weights_only=True) for cell, path in paths.items()}


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

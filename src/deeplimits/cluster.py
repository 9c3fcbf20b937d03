"""Cells computed by the workers of a Dask cluster, each compared with this process before it computes.

A worker takes part if its Python, its PyTorch, NumPy, SciPy and Numba and the source of its library are those of this
process and, where the device is a GPU, if it sees exactly one: two processes on one card would share its memory. Others
are refused with a message, here and in their own log, also those that join later, and the work goes on without
them. A worker that is lost costs the cells it had, which others compute again.

A worker computes one cell at a time by one thread, so a machine is filled by as many workers as it has cores. Several
chapters may use one scheduler at the same time. The package ``distributed`` comes with the extra ``cluster``.
"""

import logging
import os
import pickle
import platform
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from uuid import uuid4

import numpy as np
import scipy
import torch

from deeplimits import fused

HERE = Path(__file__).parent
# read when the library is loaded: what counts is the code that runs, not files that have replaced it since
SOURCE = sha256(
    b"".join(p.relative_to(HERE).as_posix().encode() + p.read_bytes() for p in sorted(HERE.rglob("*.py")))
).hexdigest()[:12]
SECONDS = 10  # after which a scheduler that does not answer is given up
LOOK = 1  # seconds between two looks at the workers that are there
one_at_a_time = Lock()  # for workers with several threads: the number of threads of a cell is a global setting


def versions() -> dict[str, str]:
    """What the numbers of a cell depend on besides its own code and settings."""
    python = ".".join(platform.python_version_tuple()[:2])
    packages = ("numba", "llvmlite") if hasattr(fused.step, "py_func") else ()  # which Numba adds when it compiles
    loops = " and ".join(f"{name} {version(name)}" for name in packages) or "not compiled"
    libraries = {"torch": torch.__version__, "numpy": np.__version__, "scipy": scipy.__version__}
    return {"deeplimits": SOURCE, "python": python, **libraries, "loops": loops}


def check(address: str, device: torch.device) -> list[str]:
    """Say who is at ``address``: a line with the number of workers that take part, and one for each that does not.

    Raises ValueError if no scheduler answers within ten seconds, or if ``device`` is not the first GPU.
    """
    with _connect(address, device) as client:
        found = _objections(client, client.nthreads(), device)
    refused = [text for text in found.values() if text]
    return [f"Grids are computed by {len(found) - len(refused)} workers of the cluster at {address}", *refused]


def results(address: str, label: str, function: Callable, cells: Iterable, device: torch.device) -> Iterator:
    """The values of ``function`` at the cells, in the order in which they are finished.

    ``function`` and what it reaches are sent by cloudpickle, once; ``label`` names the work on Dask's dashboard. Raises
    ValueError as :func:`check` does, or if all workers are refused; ConnectionError if the scheduler is lost; and
    RuntimeError for a cell whose workers die again and again. Without a worker it waits for one.
    """
    pending, running, seen, known, told, key = deque(cells), {}, {}, set(), False, f"{label}-{uuid4().hex}"
    with _connect(address, device) as client:
        import cloudpickle
        from distributed.scheduler import KilledWorker

        try:
            # a task, not scattered data: if the worker that has it is lost, the scheduler makes it again
            text = cloudpickle.dumps(function)
            code = client.submit(bytes, text, key=f"{key}-code")
            while pending or running:
                workers = _accepted(client, address, device, seen)
                if not workers and not told:
                    _say(f"no worker of the cluster at {address} is there; the work waits for one (`dask worker`)")
                    told = True
                for future, (cell, allowed) in list(running.items()):
                    if workers.isdisjoint(allowed):
                        del running[future]
                        pending.appendleft(_unless_deadly(client, cell, key))
                # one for each worker, and not all: a cell may go to the workers that are known when it is sent
                room, known = max(len(workers) - len(running), len(workers - known)), workers
                for _ in range(min(room, len(pending))):
                    cell, name = pending.popleft(), (key, uuid4().hex)
                    future = client.submit(_alone, code, cell, versions(), key, key=name, workers=workers)
                    running[future] = cell, workers
                for cell, allowed, result in _finished(running):
                    if isinstance(result, KilledWorker):
                        if code.status == "error":  # four workers were lost while they made it
                            code = client.submit(bytes, text, key=f"{key}-{uuid4().hex}")
                        pending.appendleft(_unless_deadly(client, cell, key))
                    elif isinstance(result, Exception):
                        # another program may have come to the address of a worker that was accepted
                        present = set(client.nthreads())
                        seen |= _objections(client, [w for w in allowed & present if not seen[w]], device)
                        if allowed <= present and not any(seen[w] for w in allowed):
                            raise RuntimeError(f"a worker cannot compute cell {cell} of {label}: {result}") from result
                        pending.appendleft(cell)
                    else:
                        yield result
        except (CancelledError, OSError) as error:
            raise ConnectionError(
                f"the scheduler at {address} was lost; what is finished is kept, start again to go on"
            ) from error


def _finished(running: dict) -> Iterator[tuple]:
    """Take what is finished out of ``running``, with its result or error; soon, to look again who is there."""
    from distributed import wait

    if not running:
        time.sleep(LOOK)
        return
    try:
        done = wait(list(running), timeout=LOOK, return_when="FIRST_COMPLETED").done
    except TimeoutError:
        return
    for future in done:
        try:
            result = future.result(timeout=SECONDS)
        except Exception as error:
            if future.status != "error":  # not the error of the cell
                if isinstance(error, TimeoutError):  # the worker that has the result is lost
                    continue
                raise
            result = error
        yield *running.pop(future), result


def _unless_deadly(client, cell: tuple, key: str) -> tuple:
    """The cell, to be computed again, unless its workers have died after they had started it, not only been sent it."""
    if sum(text == repr(cell) for _, text in client.get_events(key)) > 3:
        raise RuntimeError(
            f"four workers died while they computed cell {cell} of {key.rpartition('-')[0]}; their logs say why, "
            "perhaps too little memory"
        )
    return cell


def _accepted(client, address: str, device: torch.device, seen: dict[str, str]) -> set[str]:
    """The workers that may compute now; who is new is asked first, and remembered in ``seen``."""
    present = set(client.nthreads())
    for worker in seen.keys() - present:
        if seen[worker]:  # who comes back there may have been mended
            del seen[worker]
    seen |= _objections(client, present - seen.keys(), device)
    if seen and all(seen.values()):
        raise ValueError("\n".join([f"no worker of the cluster at {address} can be used", *seen.values()]))
    return {worker for worker in present if seen.get(worker) == ""}


def _connect(address: str, device: torch.device):
    """A client of the scheduler."""
    try:
        import dask
        from distributed import Client
    except ImportError:
        raise ImportError("a cluster needs the package distributed: pip install distributed") from None
    if device.index:
        raise ValueError(
            f"DEEPLIMITS_DEVICE must be 'cpu' or 'cuda' on a cluster, got '{device}'; a worker has one GPU"
        )
    dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"})
    for name in ("distributed", "distributed.client", "asyncio") if os.environ.get("DEEPLIMITS_BUILD") else ():
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they say of lost workers is not for a page
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about versions, which are compared here
        try:
            try:
                return Client(address, timeout=SECONDS)
            except AssertionError:  # distributed took the event loop of a client that was just being closed
                return Client(address, timeout=SECONDS)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"DEEPLIMITS_CLUSTER={address!r}: no Dask scheduler answers ({error}); start one there by "
                "`dask scheduler`, give the address that it prints, or unset the variable to compute on this machine"
            ) from error


def _objections(client, workers: Iterable[str], device: torch.device) -> dict[str, str]:
    """Why each of these workers cannot take part; an empty text for those that can. They are asked at once."""
    from distributed.comm import CommClosedError

    workers, found = list(workers), {}
    answers = client.run(_objection, versions(), device.type, workers=workers, on_error="return") if workers else {}
    for worker, answer in answers.items():
        if isinstance(answer, CommClosedError | TimeoutError):
            continue  # it is gone, or will be asked again
        if isinstance(answer, Exception):
            answer = f"it cannot load this library: {answer}"
        found[worker] = answer and f"worker {worker} refused: {answer}; install there what is here and start it again"
        if answer:
            _say(found[worker])
    return found


def _say(text: str) -> None:
    if not os.environ.get("DEEPLIMITS_BUILD"):  # a page is no place for it
        warnings.warn(text, stacklevel=3)


def _objection(expected: dict[str, str], device: str) -> str:
    """Why this process, a worker, cannot compute what another with these versions asks for."""
    here = versions()
    text = ", ".join(
        f"{name} is {here.get(name)}, not {expected[name]}" for name in expected if here.get(name) != expected[name]
    )
    if not text and device == "cuda" and torch.cuda.device_count() != 1:
        text = f"it sees {torch.cuda.device_count()} GPUs, not one (CUDA_VISIBLE_DEVICES chooses)"
    if text:
        logging.getLogger("distributed.worker").warning("Refused: %s", text)
    return text


def _alone(code: bytes, cell: tuple, expected: dict[str, str], topic: str) -> object:
    """The function's value at a cell, while nothing else computes in this process; the scheduler notes the start."""
    from distributed import get_worker
    from distributed.utils import sync

    with one_at_a_time:
        if text := _objection(expected, "cpu"):  # another program at the address of a worker that was accepted
            raise ValueError(text)
        worker = get_worker()
        sync(worker.loop, worker.scheduler.log_event, topic=topic, msg=repr(cell))  # waits: the cell may kill at once
        return pickle.loads(code)(cell)

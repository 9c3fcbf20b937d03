"""Where and how an experiment runs: device, dtype, preset, seed. The only module that seeds.

A chapter starts with ``run = runtime.chapter("scaling/stability")`` and asks that object for everything:
``run.size(smoke=..., standard=..., paper=...)``, ``run.generator("histogram")``, ``run.device``. The
answers come from the environment, so one page serves a laptop, a GPU and the test suite:

=====================  =============================================  ==========
variable               values                                         default
=====================  =============================================  ==========
DEEPLIMITS_PRESET      smoke, standard, paper                         standard
DEEPLIMITS_SEED        an integer                                     0
DEEPLIMITS_DEVICE      cpu, cuda, cuda:<index>                        CUDA if there, else the CPU
DEEPLIMITS_BUILD       1 while the book is built: no progress bars    unset
DEEPLIMITS_WORKERS     processes that share a grid, see ``sweeps``    all cores
DEEPLIMITS_FILL        entries a kernel that fill a GPU, see           about 14 000, from the costs below
                       :func:`place`; 0: all work on the GPU
DEEPLIMITS_CLUSTER     a Dask scheduler, tcp://host:port              unset: this machine
=====================  =============================================  ==========
"""

import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from math import nan
from typing import TypeVar

import torch
from IPython import get_ipython
from tqdm import tqdm

from deeplimits.checks import one_of

PRESETS = ("smoke", "standard", "paper")

# What work costs, in seconds. A GPU's arithmetic is taken to be free beside its launches. The first two are
# assumptions, usual for PyTorch; no GPU has been measured. The third is that of ``training.descent``, which launches 19
# kernels for each layer of a step on a GPU; the compiled loops that take their place on the CPU cost one core 5 to
# 12 ns for each activation, in either precision, and nothing to start.
LAUNCH = 7e-6  # to start a kernel on the GPU
WAIT = 2e-5  # until the CPU has a number from the GPU
ENTRY = 5e-10  # on the CPU, for each entry of a kernel's result
T = TypeVar("T")


@dataclass(frozen=True)
class Runtime:
    """The circumstances of an experiment.

    ``dtype`` is float64 on the CPU, the book's reference, and float32 on a GPU. ``key`` names the
    chapter; together with ``seed`` it fixes every random number that the chapter draws.
    """

    device: torch.device
    dtype: torch.dtype
    preset: str
    seed: int
    key: str = ""

    def size(self, smoke: T, standard: T, paper: T) -> T:
        """The value for the present preset: seconds a chapter, two minutes a chapter, published sizes."""
        return {"smoke": smoke, "standard": standard, "paper": paper}[self.preset]

    def generator(self, *key: object) -> torch.Generator:
        """A generator on ``device``, seeded by (seed, chapter, *key) and by nothing else.

        The same arguments give the same stream whatever was drawn before, so experiments can be
        reordered, skipped or rerun one by one without changing each other's numbers.
        """
        return torch.Generator(self.device).manual_seed(self._seed(*key))

    @contextmanager
    def seeded(self, *key: object) -> Iterator[None]:
        """Seed torch's global streams inside, by the same rule, and restore them after.

        For what takes no generator: the initialisation of ``torch.nn`` modules, dropout.
        """
        gpus = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(gpus):
            torch.default_generator.manual_seed(self._seed(*key))  # torch.manual_seed would seed all GPUs
            for gpu in gpus:
                with torch.cuda.device(gpu):
                    torch.cuda.manual_seed(self._seed(*key))
            yield

    def _seed(self, *key: object) -> int:
        digest = sha256(repr((self.seed, self.key, *key)).encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1  # torch wants a signed 64-bit integer

    def progress(self, items: Iterable[T], label: str, total: int | None = None) -> Iterable[T]:
        """``items`` under a progress bar in a terminal or a live notebook, bare while the book is built.

        ``total`` is their number, where ``items`` does not know it.
        """
        return tqdm(items, desc=label, total=total, leave=False, disable=bool(os.environ.get("DEEPLIMITS_BUILD")))


def current() -> Runtime:
    """The runtime that the environment asks for.

    Raises ValueError for an unknown preset, a seed that is no integer, an unknown device, or CUDA
    where there is none: a silent fall-back would change the numbers behind the reader's back.
    """
    preset = one_of("DEEPLIMITS_PRESET", os.environ.get("DEEPLIMITS_PRESET") or "standard", PRESETS)
    text = os.environ.get("DEEPLIMITS_SEED") or "0"
    try:
        seed = int(text)
    except ValueError:
        raise ValueError(f"DEEPLIMITS_SEED must be an integer, got {text!r}; for example SEED=7") from None
    device = _device(os.environ.get("DEEPLIMITS_DEVICE") or "")
    _fill(1)
    return Runtime(device, torch.float64 if device.type == "cpu" else torch.float32, preset, seed)


def chapter(key: str) -> Runtime:
    """The current runtime for the chapter ``key``, its path below ``chapters/`` without the ending.

    In a notebook, a cell that finds the GPU full says from now on what fits.
    """
    if shell := get_ipython():
        shell.set_custom_exc((torch.OutOfMemoryError,), _full)
    return replace(current(), key=key)


def place(device: torch.device, entries: int, kernels: int = 100) -> torch.device:
    """Where work should run whose numbers lie on ``device``: there, or on the CPU if it would not fill a GPU.

    ``entries`` is the size of a typical kernel's result, ``kernels`` how many run between two waits for a number. A
    small kernel takes a GPU longer to start than a CPU to compute: the CPU it is if

        LAUNCH + WAIT / kernels > ENTRY entries.

    DEEPLIMITS_FILL names the number of entries from which on the GPU is used, in place of that rule: 0 for always, inf
    for never. Random numbers are drawn on ``device`` in any case, so results are the same up to rounding.
    """
    return torch.device("cpu") if entries < _fill(kernels) else device


def environment() -> dict[str, str]:
    """What an executed page should say about where its numbers come from: versions, hardware, settings."""
    run = current()
    gpu = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else "none used"
    libraries = {
        name: version(name) for name in ("deeplimits", "torch", "numpy", "scipy", "matplotlib", "jupyter-book")
    }
    try:
        numba = version("numba")
    except PackageNotFoundError:
        numba = "not installed"
    return {
        "Preset": run.preset,
        "Seed": str(run.seed),
        "Device": str(run.device),
        "Precision": str(run.dtype).removeprefix("torch."),
        "GPU": gpu,
        "Processor": f"{platform.machine()}, {os.cpu_count()} cores",
        "Threads for each chapter": str(torch.get_num_threads()),
        "System": platform.platform(aliased=True, terse=True),
        "Python": platform.python_version(),
        **libraries,
        "numba": numba,
    }


def _full(shell, kind: type, error: torch.OutOfMemoryError, trace, tb_offset: int | None = None) -> None:
    """Show an error of a full GPU, with its cure; called by IPython."""
    preset = current().preset
    smaller = PRESETS[max(PRESETS.index(preset) - 1, 0)]
    cure = f"PRESET={smaller} takes less" if smaller != preset else "this is the smallest PRESET"
    error.add_note(
        f"The GPU is full, at PRESET={preset}: {cure} (at standard a chapter takes at most 2 GB), JOBS=1 runs one "
        "chapter at a time, and DEVICE=cpu uses the computer's own memory"
    )
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)


def _fill(kernels: int) -> float:
    """The entries a kernel from which on a GPU is used."""
    text = os.environ.get("DEEPLIMITS_FILL") or str((LAUNCH + WAIT / kernels) / ENTRY)
    try:
        fill = float(text)
    except ValueError:
        fill = nan
    if not fill >= 0:
        raise ValueError(
            f"DEEPLIMITS_FILL must be a number of entries >= 0, got {text!r}; 0 keeps all work on the GPU, inf brings "
            "it to the CPU"
        )
    return fill


def _device(name: str) -> torch.device:
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise ValueError(f"DEEPLIMITS_DEVICE must be 'cpu', 'cuda' or 'cuda:<index>', got {name!r}; check the spelling")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"DEEPLIMITS_DEVICE={name!r} asks for a GPU, found {torch.cuda.device_count()} usable by this PyTorch "
            f"({torch.__version__}); use DEVICE=cpu, or install a CUDA build of PyTorch"
        )
    return torch.device(name)

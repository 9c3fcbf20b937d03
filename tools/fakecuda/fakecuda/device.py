"""The Python side of the device: replaces what ``torch.cuda`` asks of the library that the CPU build lacks."""

import os
from types import SimpleNamespace

import torch

from fakecuda import library

NAME = f"fakecuda {library.digest('*.py', '*.cpp')} (no GPU: ordinary memory, CPU kernels)"
BYTES = int(float(os.environ.get("FAKECUDA_GIB") or 16) * 2**30)
_forked = False
_memory = torch.ops.fakecuda.memory


def _fork() -> None:
    global _forked
    _forked = True


def _lazy_init() -> None:
    if _forked:
        raise RuntimeError(
            "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use the "
            "'spawn' start method"
        )


def _index(device: int) -> int:
    if device > 0:
        raise RuntimeError("CUDA error: invalid device ordinal")
    return 0 if device == 0 else -1


def _properties(device: object = None) -> SimpleNamespace:
    return SimpleNamespace(name=NAME, major=9, minor=0, total_memory=BYTES, multi_processor_count=1)


def _limit_memory(fraction: float, device: object = None) -> None:
    if not 0 <= fraction <= 1:
        raise ValueError(f"Invalid fraction value: {fraction}. Allowed range: 0~1")
    torch.ops.fakecuda.limit_memory(int(fraction * BYTES))


def _missing(name: str) -> type:
    """In place of a class for which there is nothing here: raises RuntimeError when it is made."""

    def refuse(cls, *arguments, **options):
        raise RuntimeError(f"fakecuda has no torch.cuda.{name}: there are no streams, events or graphs on it")

    return type(name, (), {"__new__": refuse})


def _clone(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    """In place of ``UntypedStorage(n, device="cuda")``, which the CPU build does not have."""
    return torch.empty(storage.nbytes(), dtype=torch.uint8, device=storage.device).untyped_storage().copy_(storage)


def _to(storage: torch.UntypedStorage, *, device, non_blocking: bool = False) -> torch.UntypedStorage:
    device = torch.device(device)
    if device.type == storage.device.type:
        return storage
    return torch.empty(storage.nbytes(), dtype=torch.uint8, device=device).untyped_storage().copy_(storage)


def _load(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage | None:
    if not location.startswith("cuda"):
        return None
    if torch.device(location).index not in (None, 0):
        raise RuntimeError(f"Attempting to deserialize object on CUDA device {location}, but there is one only")
    return _to(storage, device="cuda:0")


# Each name gets a function of its own: torch._dynamo looks them up by identity.
REPLACED = {
    "_lazy_init": lambda: _lazy_init(),
    "init": lambda: _lazy_init(),
    "_is_in_bad_fork": lambda: _forked,
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": lambda device: None,
    "synchronize": lambda device=None: torch.ops.fakecuda.synchronize(),
    "get_device_name": lambda device=None: NAME,
    "get_device_capability": lambda device=None: (9, 0),
    "get_device_properties": _properties,
    "_exchange_device": lambda device: _index(device),
    "_maybe_exchange_device": lambda device: _index(device),
    "empty_cache": lambda: None,
    "mem_get_info": lambda device=None: (BYTES - _memory(False)[0], BYTES),
    "set_per_process_memory_fraction": _limit_memory,
    "memory_allocated": lambda device=None: _memory(False)[0],
    "memory_reserved": lambda device=None: _memory(False)[0],
    "max_memory_allocated": lambda device=None: _memory(False)[1],
    "reset_peak_memory_stats": lambda device=None: _memory(True) and None,
    "is_current_stream_capturing": lambda: False,
    "default_generators": (torch.ops.fakecuda.default_generator(),),
    **{name: _missing(name) for name in ("CUDAGraph", "Event", "Stream", "graph", "make_graphed_callables")},
    "current_stream": _missing("current_stream"),
}
for module in (torch.cuda, torch.cuda.random, torch.cuda.memory, torch.cuda.streams, torch.cuda.graphs):
    for name, value in REPLACED.items():  # the modules have imported some from each other by name
        if module is torch.cuda or hasattr(module, name):
            setattr(module, name, value)
torch._C._cuda_getDevice = lambda: 0
torch._C._cuda_isCurrentStreamCapturing = lambda: False
torch.storage._StorageBase.clone = torch.UntypedStorage.clone = _clone
torch.storage._StorageBase.to = torch.UntypedStorage.to = _to
torch.serialization.register_package(19, lambda s: "cuda:0" if s.device.type == "cuda" else None, _load)
os.register_at_fork(after_in_child=_fork)
_limit_memory(1)

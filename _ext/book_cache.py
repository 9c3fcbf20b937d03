"""The executed chapters: kept in one jupyter-cache per state of all that their results depend on.

A cache entry is found by a chapter's code cells alone, so a change in the library, the preset or a
package would go unnoticed. Here the folder of the cache is named after all of these; going back to an
earlier state finds its results again. ``conftest.py`` fills the cache, the book only reads it.
"""

import os
import platform
import shutil
from functools import cache
from hashlib import sha256
from importlib.metadata import distributions
from math import nan
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook
from nbformat import NotebookNode
from sqlalchemy.exc import SQLAlchemyError
from torch.cuda import get_device_name

from deeplimits import runtime

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "src" / "deeplimits"


@cache
def folder() -> Path:
    """The cache for the present library, runtime, packages and Python."""
    run = runtime.current()
    parts = [run.preset, run.seed, str(run.device), platform.python_version()]
    if run.device.type == "cuda":  # which GPU, or which state of the stand-in, and what runs on it
        parts += [get_device_name(run.device), os.environ.get("DEEPLIMITS_FILL") or ""]
    parts += sorted({f"{d.name}=={d.version}" for d in distributions()})
    digest = sha256(repr(parts).encode())
    for path in sorted(p for p in LIBRARY.rglob("*") if p.suffix in (".py", ".toml")):
        digest.update(f"\0{path.relative_to(LIBRARY)}\0".encode() + path.read_bytes())
    return ROOT / "_build" / "cache" / digest.hexdigest()[:16]


def open_or_repair() -> None:
    """Create the cache; throw it away if an interrupted run has left an unusable database.

    To be called by one process, before others use the cache.
    """
    try:
        get_cache(folder()).list_cache_records()
    except (RuntimeError, SQLAlchemyError):
        shutil.rmtree(folder())
        get_cache(folder()).list_cache_records()


def read(path: Path) -> NotebookNode | None:
    """The chapter at ``path`` as a notebook without outputs, or None if it is a page without code."""
    text = path.read_text("utf8")
    return read_myst_markdown_notebook(text, path=path) if is_myst_markdown_notebook(text) else None


def executed(notebook: NotebookNode) -> tuple[NotebookNode, float, float] | None:
    """``notebook`` with its outputs, the seconds they took and the peak memory in bytes, or None if it is not there.

    A record whose file is missing or cut off, which an interrupted run can leave behind, counts as absent.
    """
    store = get_cache(folder())
    try:
        record = store.match_cache_notebook(notebook)
        _, merged = store.merge_match_into_notebook(notebook)
    except (KeyError, ValueError):
        return None
    return merged, record.data["execution_seconds"], record.data.get("peak_memory", nan)


def keep(notebook: NotebookNode, path: Path, seconds: float, memory: float) -> None:
    """Put a fully executed notebook into the cache, over whatever an interrupted run has left there."""
    store = get_cache(folder())
    _, key = store.create_hashed_notebook(notebook)
    shutil.rmtree(folder() / "executed" / key, ignore_errors=True)
    data = {"execution_seconds": seconds, "peak_memory": memory}
    bundle = CacheBundleIn(notebook, str(path.relative_to(ROOT)), data=data)
    store.cache_notebook_bundle(bundle, check_validity=False)


def prepare_kernels() -> None:
    """Set what every kernel started from here inherits: no progress bars, one process, one thread."""
    os.environ["DEEPLIMITS_BUILD"] = "1"
    os.environ.setdefault("DEEPLIMITS_WORKERS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")


def setup(app) -> dict:
    """Point myst-nb to the cache."""

    def use(app, config):
        config.nb_execution_cache_path = str(folder())

    app.connect("config-inited", use, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

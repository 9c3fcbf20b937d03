"""With this folder in PYTHONPATH and FAKECUDA=1, the first import of torch in any process imports fakecuda before it.

Python imports ``sitecustomize`` whenever it starts, so this reaches kernels and workers too; a process that does not
import torch pays nothing.
"""

import os
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path


class BeforeTorch:
    """A finder that answers for torch, and a loader that lets fakecuda import it."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name) if name == "torch" else None
        if spec is not None:
            spec.loader = self
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: object) -> None:
        sys.meta_path.remove(self)
        del sys.modules["torch"]  # an empty module until here; the import system takes what is there in the end
        import_module("fakecuda")
        import_module("torch")  # here only if it was fakecuda that asked for torch


if os.environ.get("FAKECUDA") == "1":
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    sys.meta_path.insert(0, BeforeTorch())

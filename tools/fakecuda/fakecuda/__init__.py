"""A CUDA device for the CPU build of PyTorch: import this before torch. See README.md.

``with fakecuda.counting() as count`` counts what a block of code would ask of a real GPU.
"""

import ctypes
import sys

from fakecuda import library

if "torch" in sys.modules:
    raise ImportError("fakecuda must be imported before torch, which looks for CUDA once, when it is imported")
try:
    _path = library.path()
except RuntimeError as error:
    raise ImportError(str(error)) from None
if not _path.exists():
    raise ImportError(f"fakecuda is not compiled for this PyTorch; run: {sys.executable} {library.__file__}")
ctypes.CDLL(str(_path))

from fakecuda import device  # noqa: E402, F401
from fakecuda.count import Count, counting  # noqa: E402

__all__ = ["Count", "counting"]

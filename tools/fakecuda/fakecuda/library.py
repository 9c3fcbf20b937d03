"""The compiled half of fakecuda: where it lies and how it is made. Imports no PyTorch.

``python library.py`` compiles it for the PyTorch of the Python that runs this: half a minute, once. Needs Linux, the
CPU build of PyTorch, a C++ compiler and PyYAML; says in one line which of them is missing, and exits with 3.
"""

import os
import shutil
import subprocess
import sys
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

PYTORCH = "2.13.0"  # whose private names fakecuda uses
COMPILERS = ("c++", "g++", "clang++")  # where CXX names none
HERE = Path(__file__).resolve().parent
BUILT = HERE.parent / "build"
MISSING = 3  # the exit status where a machine lacks what fakecuda needs; 1: fakecuda is at fault, or PyTorch is another


class Missing(RuntimeError):
    """This machine cannot have fakecuda as it is."""


def pytorch() -> str:
    """The version of PyTorch that is installed; RuntimeError unless it is the CPU build of the right one."""
    if sys.platform != "linux":
        raise Missing(f"fakecuda is written for Linux, this is {sys.platform}")
    try:
        found = version("torch")
    except PackageNotFoundError:
        raise RuntimeError("fakecuda needs PyTorch, which is not installed") from None
    if found.partition("+")[0] != PYTORCH:
        raise RuntimeError(
            f"fakecuda is written for PyTorch {PYTORCH}, found {found}; install torch=={PYTORCH}, or see 'Another "
            "version of PyTorch' in its README"
        )
    if (_torch() / "lib" / "libtorch_cuda.so").exists():
        raise Missing(
            f"fakecuda needs the CPU build of PyTorch, found {found} with a CUDA library of its own; pytorch.org says "
            "under 'Get Started' how to install the other"
        )
    return found


def path() -> Path:
    """Where the library is once it is compiled: a name for each PyTorch and each state of its sources."""
    return BUILT / f"torch-{pytorch()}-{digest('library.py', 'fakecuda.cpp')}.so"


def digest(*patterns: str) -> str:
    """Eight digits that tell one state of the files from another."""
    files = sorted(file for pattern in patterns for file in HERE.glob(pattern))
    return sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:8]


def build() -> Path:
    """Compile the library unless it is there; its path. RuntimeError if something is missing or does not compile."""
    target = path()
    if target.exists():
        return target
    cxx, torch = _compiler(), _torch()
    if find_spec("yaml") is None:
        raise Missing("fakecuda needs PyYAML, which is not installed; pip install pyyaml")
    print(f"Compiling fakecuda for PyTorch {pytorch()} with {cxx}; this takes half a minute", flush=True)
    BUILT.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=BUILT) as folder:
        draft = Path(folder)
        (draft / "tables.h").write_text(_tables(), "utf8")
        include = [f"-I{folder}" for folder in (draft, torch / "include", torch / "include/torch/csrc/api/include")]
        link = [f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{torch / 'lib'}", "-Wl,--no-as-needed"]
        command = [cxx, "-shared", "-fPIC", "-O1", "-std=c++20", "-w", *include, str(HERE / "fakecuda.cpp"), *link]
        done = subprocess.run([*command, "-o", str(draft / "new.so")], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{cxx} failed to compile fakecuda:\n{done.stderr[-3000:]}")
        (draft / "new.so").replace(target)  # whole or not at all, whoever else compiles at the moment
    return target


def _torch() -> Path:
    return Path(find_spec("torch").origin).parent


def _compiler() -> str:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise Missing(f"fakecuda needs a C++ compiler, looked for {', '.join(names)}; install g++ or set CXX")
    return found


def _tables() -> str:
    """C++: the operators with a CUDA kernel, and those whose check of devices PyTorch leaves to the kernel."""
    import yaml

    functions = _torch().parent / "torchgen" / "packaged" / "ATen" / "native" / "native_functions.yaml"
    has_cuda, no_check = set(), set()
    for entry in yaml.load(functions.read_text("utf8"), yaml.CSafeLoader):
        name = "aten::" + entry["func"].split("(")[0]
        keys = {key.strip() for keys in entry.get("dispatch", {}) for key in keys.split(",")}
        if keys & {"CUDA", "CompositeExplicitAutograd"} or "ufunc_inner_loop" in entry:
            has_cuda.add(name)
        if entry.get("device_check") == "NoCheck":
            no_check.add(name)
    return _set("HAS_CUDA", has_cuda) + _set("NO_CHECK", no_check)


def _set(label: str, names: set[str]) -> str:
    return f"const std::unordered_set<std::string> {label}{{\n" + ",\n".join(f'"{n}"' for n in sorted(names)) + "};\n"


if __name__ == "__main__":
    try:
        build()
    except Missing as error:
        print(error, file=sys.stderr)
        sys.exit(MISSING)
    except RuntimeError as error:
        sys.exit(str(error))

"""Run unit tests and chapters on the GPU, or on the stand-in of tools/fakecuda where there is none: ``make test-gpu``.

``python tools/on_gpu.py chapters/phase/transfer.md ...`` runs all unit tests with the default device on the GPU, and
the chapters named, cell by cell, their verdicts included. Where the stand-in cannot be built it says why, and passes.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FAKECUDA = ROOT / "tools" / "fakecuda"


def has_gpu() -> bool:
    """Whether PyTorch sees a real GPU: asked in another process, for this one may have to come before torch."""
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, "FAKECUDA": ""}).returncode == 0


def stand_in() -> str:
    """Build the stand-in; why it cannot be, or the empty text."""
    done = subprocess.run(
        [sys.executable, str(FAKECUDA / "fakecuda" / "library.py")], stderr=subprocess.PIPE, text=True
    )
    return done.stderr.strip()


def run(title: str, arguments: list[str], environment: dict[str, str]) -> bool:
    """Whether pytest passes with these arguments."""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", *arguments], cwd=ROOT, env=environment)
    print(f"{title}: {(time.monotonic() - start) / 60:.1f} min", flush=True)
    return done.returncode == 0


def main(chapters: list[str]) -> int:
    real = has_gpu()
    if not real and (reason := stand_in()):
        print(f"SKIPPED: nothing is tested on a GPU, for there is none, and no stand-in for one: {reason}")
        return 0
    path = [ROOT / "tools"] if real else [FAKECUDA / "site", ROOT / "tools"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*map(str, path), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "FAKECUDA": "" if real else "1",
        "DEEPLIMITS_DEVICE": "cuda",
        "DEEPLIMITS_PRESET": os.environ.get("DEEPLIMITS_PRESET") or "smoke",
        "DEEPLIMITS_FILL": "0",  # however small the work is, it is the GPU that is tested
    }
    print("On the GPU, one process" if real else "On a stand-in for a GPU", flush=True)
    spread = [] if real else ["-n", "auto"]  # processes on one GPU wait for each other and share its memory
    probes = ["tools/fakecuda/probes.py"]
    passed = [
        run("Unit tests on the device", [*spread, "-p", "on_device", "tests", "--ignore=tests/book"], environment),
        run("Probes", probes, environment),
        run("Chapters", [*spread, "--dist=loadfile", "--nbval-cell-timeout=600", "--verdicts", *chapters], environment),
    ]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["chapters"]))

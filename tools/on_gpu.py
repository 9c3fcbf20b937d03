"""Run unit tests and chapters on the GPU, or on the stand-in of tools/fakecuda where there is none: ``make test-gpu``.

``python tools/on_gpu.py chapters/phase/transfer.md ...`` runs all unit tests with the default device on the GPU, and
the chapters named, cell by cell, their verdicts included. Where there is no GPU and a machine lacks what the stand-in
needs it says so, and passes unless ``--required`` is given; a stand-in that does not compile is a failure anywhere.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FAKECUDA = ROOT / "tools" / "fakecuda"
MISSING = 3  # the exit status of its library.py where this machine cannot have it


def has_gpu() -> bool:
    """Whether PyTorch sees a real GPU: asked in another process, for this one may have to come before torch."""
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, "FAKECUDA": ""}).returncode == 0


def stand_in() -> str | None:
    """Build the stand-in; None, or what this machine lacks for it. SystemExit if it is broken."""
    done = subprocess.run(
        [sys.executable, str(FAKECUDA / "fakecuda" / "library.py")], stderr=subprocess.PIPE, text=True
    )
    if done.returncode == MISSING:
        return done.stderr.strip()
    if done.returncode:
        sys.exit(f"The stand-in for a GPU is broken:\n{done.stderr}")
    return None


def run(title: str, arguments: list[str], environment: dict[str, str]) -> bool:
    """Whether pytest passes with these arguments."""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", *arguments], cwd=ROOT, env=environment)
    print(f"{title}: {(time.monotonic() - start) / 60:.1f} min", flush=True)
    return done.returncode == 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--required", action="store_true", help="fail where neither a GPU nor the stand-in can be had")
    parser.add_argument("chapters", nargs="*", default=["chapters"], help="files or folders (all chapters)")
    given = parser.parse_args(arguments)
    real = has_gpu()
    if not real and (reason := stand_in()) is not None:
        print(f"SKIPPED: nothing is tested on a GPU, for there is none, and no stand-in for one: {reason}")
        return int(given.required)
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
    chapters = ["--dist=loadfile", "--nbval-cell-timeout=600", "--verdicts", *given.chapters]
    passed = [
        run("Unit tests on the device", [*spread, "-p", "on_device", "tests", "--ignore=tests/book"], environment),
        run("Probes", ["tools/fakecuda/probes.py"], environment),
        run("Chapters", [*spread, *chapters], environment),
    ]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

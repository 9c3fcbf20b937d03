"""What a GPU is worth here: ``python -m benchmarks.gpu``, at most eight minutes on one card, once one is at hand.

Items in the order of their worth, each a file of its own below _build/gpu: started again, the run goes on where it
stopped, with what is left of its eight minutes; ``python -m benchmarks.gpu 3600`` gives it an hour in all, for every
chapter at standard. A table is printed and ``_build/gpu.json`` written. Without a GPU it says so and ends with 2. On
the stand-in for CUDA (FAKECUDA=1) everything runs in a reduced form, and kernels, waits and uploads are counted in
place of seconds, which would say nothing there. Chapters run in processes of their own, as in the build, one after the
other; the seconds of one that ``make`` has run already are those of that run.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from deeplimits import claims, data, diffusion, resnet, runtime, training
from deeplimits.activations import relu
from deeplimits.diagnose import diagnose
from deeplimits.weights import Fractional

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "_ext"))
import book_cache  # noqa: E402 - an extension of the book, which is no package

BUDGET = 480  # seconds for all items together, over all starts
SMOKE = 20  # seconds, roughly, of a chapter at smoke and of a process to start
CHAPTERS = {  # those that a GPU may help most first; seconds at standard on the CPU, roughly, to plan with
    "sde/infinite-width": 50,
    "training/stochastic-approximation": 60,
    "scaling/stability": 60,
    "scaling/gradients": 50,
    "training/lazy": 70,
    "sde/several-inputs": 40,
    "sde/collapse": 40,
    "sde/euler-scheme": 40,
    "sde/norm-growth": 60,
    "sde/width-one": 50,
    "scaling/fractional-weights": 60,
    "scaling/smooth-weights": 90,
    "scaling/after-training": 90,
    "phase/transfer": 90,
    "phase/phase-diagram": 80,
    "phase/one-diagram": 120,
    "phase/embedding-dimension": 100,
    "phase/your-network": 240,
    "training/mean-ode": 60,
    "training/chaos": 60,
    "training/error-bounds": 120,
}
FAKE = sys.modules.get("fakecuda")


def rates(device: torch.device) -> dict[str, float]:
    """Floating-point operations a second in a float32 matrix product, and bytes a second in a copy."""
    n = 256 if FAKE else 8192
    A, B = torch.ones(2, n, n, device=device, dtype=torch.float32)
    product, copy = seconds(lambda: A @ B, device), seconds(lambda: A.copy_(B), device)
    return {"product": 2 * n**3 / product, "copy": 8 * n**2 / copy}


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """The shortest of a few runs, after one to warm up; the GPU is waited for."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


# The work below returns the floating-point operations and the bytes that it needs at least: matrix products, and states
# and weights read and written once in each pass.


def fractional_map(run: runtime.Runtime) -> tuple[float, float]:
    """A column of the (beta, H) map: 70 betas, 10 inputs, d = 40, L = 1000, on the same weights."""
    L, d, betas = (20, 8, 5) if FAKE else (1000, 40, 70)
    g = run.generator("map")
    layers = list(Fractional(0.7).layers(L, 1, d, g, dtype=run.dtype))
    h = torch.empty(1, 10 * betas, d, dtype=run.dtype, device=run.device).normal_(generator=g)
    scale = L ** -torch.linspace(0, 1.3, betas, dtype=run.dtype, device=run.device).repeat_interleave(10)[:, None]
    path = list(resnet.states(h, layers, resnet.original(), scale))
    resnet.adjoint(torch.ones_like(h), path, layers, resnet.original(), scale)
    return 10 * h.numel() * d * L, 5 * h.nbytes * L  # five products: two forward, one of them again, two backward


def ensemble(run: runtime.Runtime) -> tuple[float, float]:
    """10^5 networks of one matrix a block, n = 100, L = 100, exact in law."""
    networks, n, L = (100, 10, 10) if FAKE else (100_000, 100, 100)
    Y = torch.ones(networks, 1, n, dtype=run.dtype, device=run.device)
    for _ in diffusion.states(Y, L, relu, run.generator("ensemble")):
        pass
    return 0, 2 * Y.nbytes * L


def shapes(run: runtime.Runtime) -> tuple[float, float]:
    """The 2 100 networks of Figure 5: 10 depths, 10 hidden widths, 21 dimensions; 20 steps."""
    sizes = (1, 2) if FAKE else (1, 2, 3, 6, 11, 19, 34, 62, 111, 200)
    dimensions = (2,) if FAKE else (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 26, 32, 38, 46, 56, 68, 83, 100)
    for D in dimensions:
        x, y = (z.to(run.dtype) for z in data.regression(10, D, run.generator("data", D)))
        for L in sizes:
            nets = [training.gaussian(L, M, D, 1, run.generator("nets", D, L, M), dtype=run.dtype) for M in sizes]
            for _ in training.descent(training.together(nets), x, y, 20):
                pass
    weights = sum(sizes) ** 2 * sum(dimensions)  # of each of the two kinds
    return (8 * 21 + 4 * 20) * 10 * weights, (4 * 21 + 2 * 20) * weights * run.dtype.itemsize


def transformer(run: runtime.Runtime) -> None:
    """``diagnose`` on 14 transformer layers of width 768: 100 million parameters."""
    depth, width, length = (3, 8, 4) if FAKE else (14, 768, 64)
    with run.seeded("transformer"):
        layer = nn.TransformerEncoderLayer(width, 8, 4 * width, batch_first=True, norm_first=True)
        model = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False).to(run.device).eval()
    batch = torch.empty(4, length, width, device=run.device, dtype=torch.float32)
    diagnose(model, batch.normal_(generator=run.generator("batch")), steps=1)


WORK = {
    "(beta, H) map, a column": fractional_map,
    "10^5 networks": ensemble,
    "Figure 5, 2 100 networks": shapes,
    "diagnose, 10^8 parameters": transformer,
}


def measured(work: Callable, run: runtime.Runtime, peak: dict[str, float]) -> dict[str, float]:
    """Seconds, and what they are of the card's rates; on the stand-in kernels, waits and uploads."""
    if FAKE:
        with FAKE.counting() as count:
            work(run)
        return {"kernels": count.kernels, "waits": count.waits, "uploads": count.uploads}
    needs = []
    took = seconds(lambda: needs.append(work(run)), run.device, 1)
    fractions = zip(("product", "copy"), needs[-1] or (), strict=False)
    return {"seconds": took} | {f"of {kind} rate": need / took / peak[kind] for kind, need in fractions if need}


def chapter(name: str, preset: str, device: str, limit: float) -> dict[str, object]:
    """Whether a chapter ends within ``limit`` seconds, how many of its rows hold, and the seconds of its cells."""
    os.environ.update(DEEPLIMITS_PRESET=preset, DEEPLIMITS_DEVICE=device)
    command = [sys.executable, "-m", "pytest", "-q", "--tb=line", f"chapters/{name}.md"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"result": f"stopped after {limit:.0f} s"}
    book_cache.folder.cache_clear()  # it is one for each preset and device
    executed = book_cache.executed(book_cache.read(ROOT / "chapters" / f"{name}.md"))
    if executed is None:
        return {"result": (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()[-1]}
    outputs = [output for cell in executed[0].cells for output in cell.get("outputs", [])]
    rows = [row for output in outputs for row in output.get("data", {}).get(claims.MIME, [])]
    failing = [f"{row['id']} {row['part']}" for row in rows if row["verdict"] != "holds"]
    found = {"hold": len(rows) - len(failing), "fail": len(failing)} | ({"failing": failing} if failing else {})
    return found if FAKE else {"seconds": executed[1], **found}


def items(run: runtime.Runtime, found: dict) -> Iterator[tuple[str, float, Callable[[float], dict]]]:
    """Names, expected seconds, and what to do in at most so many seconds; the most telling first."""
    yield "rates", 5, lambda limit: {} if FAKE else rates(run.device)
    for name, work in WORK.items():
        yield name, 15, lambda limit, work=work: measured(work, run, found["rates"])
    for name in ["sde/several-inputs"] if FAKE else CHAPTERS:
        yield f"{name}, smoke", SMOKE, lambda limit, name=name: chapter(name, "smoke", str(run.device), limit)
    for name, expected in () if FAKE else CHAPTERS.items():
        for device in (str(run.device), "cpu"):
            yield (
                f"{name}, standard, {device}",
                expected,
                lambda limit, name=name, device=device: chapter(name, "standard", device, limit),
            )


def main(budget: float = BUDGET) -> int:
    if not torch.cuda.is_available():
        print("benchmarks.gpu needs a GPU that PyTorch can use, found none; with FAKECUDA=1 it counts on the stand-in")
        return 2
    run = runtime.Runtime(torch.device("cuda"), torch.float32, "standard", 0, "benchmarks")
    os.environ.update(DEEPLIMITS_PRESET="standard", DEEPLIMITS_DEVICE="cuda")
    book_cache.folder.cache_clear()
    folder = ROOT / "_build" / "gpu" / book_cache.folder().name  # of this library, these packages, this GPU
    folder.mkdir(parents=True, exist_ok=True)
    left = budget - sum(json.loads(path.read_text("utf8"))["took"] for path in folder.glob("*.json"))
    found = {"device": torch.cuda.get_device_name(run.device)}
    print(f"{found['device']}: " + ("counted, for nothing is measured here" if FAKE else "measured"))
    for name, expected, work in items(run, found):
        path = folder / f"{re.sub(r'[^a-zA-Z0-9]+', '-', name)}.json"
        if not path.exists() and expected <= left:
            start = time.monotonic()
            result = work(min(left, 3 * expected))
            took = time.monotonic() - start
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps({"took": took, "found": result}), "utf8")
            temporary.replace(path)
            left -= took
        done = path.exists()
        found[name] = json.loads(path.read_text("utf8"))["found"] if done else {"left": f"needs some {expected} s"}
        shown = (f"{key} {x:.3g}" if isinstance(x, float) else f"{key} {x}" for key, x in found[name].items())
        print(f"{name:50}", ", ".join(shown), flush=True)
    path = ROOT / "_build" / ("gpu-counted.json" if FAKE else "gpu.json")
    path.write_text(json.dumps(found, indent=1), "utf8")
    print(f"written: {path.relative_to(ROOT)}; {max(left, 0):.0f} of {budget:.0f} s are left")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:2])))

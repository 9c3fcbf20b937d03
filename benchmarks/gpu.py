"""What a GPU is worth here: ``python -m benchmarks.gpu``, at most eight minutes on one card, once one is at hand.

Items in the order of their worth, each a file of its own in _build/gpu: started again, the run goes on where it
stopped. A table is printed and ``_build/gpu.json`` written. Without a GPU it says so and ends with 2. On the stand-in
for CUDA (FAKECUDA=1) everything runs in a reduced form, and kernels, waits and uploads are counted in place of seconds,
which would say nothing there. Chapters run in processes of their own, as in the build, but one after the other.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from deeplimits import data, diffusion, resnet, runtime, training
from deeplimits.activations import relu
from deeplimits.diagnose import diagnose
from deeplimits.weights import Fractional

ROOT = Path(__file__).resolve().parents[1]
BUDGET = 480  # seconds for all items together
STANDARD = ("sde/infinite-width", "training/stochastic-approximation", "scaling/stability", "training/lazy")
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


def fractional_map(run: runtime.Runtime) -> None:
    """A column of the (beta, H) map: 70 betas, 10 inputs, d = 40, L = 1000, on the same weights."""
    L, d, betas = (20, 8, 5) if FAKE else (1000, 40, 70)
    g = run.generator("map")
    layers = list(Fractional(0.7).layers(L, 1, d, g, dtype=run.dtype))
    h = torch.empty(1, 10 * betas, d, dtype=run.dtype, device=run.device).normal_(generator=g)
    scale = L ** -torch.linspace(0, 1.3, betas, dtype=run.dtype, device=run.device).repeat_interleave(10)[:, None]
    path = list(resnet.states(h, layers, resnet.original(), scale))
    resnet.adjoint(torch.ones_like(h), path, layers, resnet.original(), scale)


def ensemble(run: runtime.Runtime) -> None:
    """10^5 networks of one matrix a block, n = 100, L = 100, exact in law."""
    networks, n, L = (100, 10, 10) if FAKE else (100_000, 100, 100)
    Y = torch.ones(networks, 1, n, dtype=run.dtype, device=run.device)
    for _ in diffusion.states(Y, L, relu, run.generator("ensemble")):
        pass


def shapes(run: runtime.Runtime) -> None:
    """The 2 100 networks of Figure 5: 10 depths, 10 hidden widths, 21 dimensions; 20 steps."""
    sizes = (1, 2) if FAKE else (1, 2, 3, 6, 11, 19, 34, 62, 111, 200)
    dimensions = (2,) if FAKE else (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 26, 32, 38, 46, 56, 68, 83, 100)
    for D in dimensions:
        x, y = (z.to(run.dtype) for z in data.regression(10, D, run.generator("data", D)))
        for L in sizes:
            nets = [training.gaussian(L, M, D, 1, run.generator("nets", D, L, M), dtype=run.dtype) for M in sizes]
            for _ in training.descent(training.together(nets), x, y, 20):
                pass


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


def measured(work: Callable, run: runtime.Runtime) -> dict[str, float]:
    """Seconds; on the stand-in kernels, waits and uploads."""
    if FAKE:
        with FAKE.counting() as count:
            work(run)
        return {"kernels": count.kernels, "waits": count.waits, "uploads": count.uploads}
    return {"seconds": seconds(lambda: work(run), run.device, 1)}


def chapter(name: str, preset: str, device: str) -> dict[str, object]:
    """Whether a chapter runs and its claims hold, and the seconds that this takes from the start of its process."""
    environment = os.environ | {"DEEPLIMITS_PRESET": preset, "DEEPLIMITS_DEVICE": device}
    start = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q", "--tb=line", f"chapters/{name}.md"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    found = {"result": done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-200:]}
    return found if FAKE else found | {"seconds": time.perf_counter() - start}


def items(run: runtime.Runtime) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Names and what to do, the most telling first."""
    yield "rates", lambda: {} if FAKE else rates(run.device)
    for name, work in WORK.items():
        yield name, lambda work=work: measured(work, run)
    names = [p.relative_to(ROOT / "chapters").with_suffix("").as_posix() for p in sorted(ROOT.glob("chapters/*/*.md"))]
    for name in ["sde/several-inputs"] if FAKE else names:
        yield f"{name}, smoke", lambda name=name: chapter(name, "smoke", str(run.device))
    for name in () if FAKE else STANDARD:
        for device in (str(run.device), "cpu"):
            yield f"{name}, standard, {device}", lambda name=name, device=device: chapter(name, "standard", device)


def main() -> int:
    if not torch.cuda.is_available():
        print("benchmarks.gpu needs a GPU that PyTorch can use, found none; with FAKECUDA=1 it counts on the stand-in")
        return 2
    run = runtime.Runtime(torch.device("cuda"), torch.float32, "standard", 0, "benchmarks")
    folder = ROOT / "_build" / ("gpu-counted" if FAKE else "gpu")
    folder.mkdir(parents=True, exist_ok=True)
    end, found = time.monotonic() + BUDGET, {"device": torch.cuda.get_device_name(run.device)}
    print(f"{found['device']}: " + ("counted, for nothing is measured here" if FAKE else "measured"))
    for number, (name, work) in enumerate(items(run)):
        path = folder / f"{number}.json"
        if not path.exists() and time.monotonic() < end:
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps({"name": name, **work()}))
            temporary.replace(path)
        found[name] = json.loads(path.read_text()) if path.exists() else {"left": "no time; start again to go on"}
        shown = (
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in found[name].items()
        )
        print(f"{name:56}", ", ".join(text for text in shown if not text.startswith("name")))
    path = folder.with_suffix(".json")
    path.write_text(json.dumps(found, indent=1))
    print(f"written: {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

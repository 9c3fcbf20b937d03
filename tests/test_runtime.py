import re
from importlib.metadata import version
from importlib.util import find_spec

import pytest
import torch

from deeplimits import runtime


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("PRESET", "SEED", "DEVICE", "BUILD", "FILL"):
        monkeypatch.delenv(f"DEEPLIMITS_{name}", raising=False)


def test_defaults(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run = runtime.current()
    assert (run.device, run.dtype, run.preset, run.seed) == (torch.device("cpu"), torch.float64, "standard", 0)


def test_environment_variables_are_read(monkeypatch):
    monkeypatch.setenv("DEEPLIMITS_PRESET", "paper")
    monkeypatch.setenv("DEEPLIMITS_SEED", "7")
    monkeypatch.setenv("DEEPLIMITS_DEVICE", "cpu")
    run = runtime.chapter("scaling/stability")
    assert (run.preset, run.seed, run.key, run.device.type) == ("paper", 7, "scaling/stability", "cpu")
    assert run.size(smoke=1, standard=2, paper=3) == 3


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PRESET", "fast", "DEEPLIMITS_PRESET must be one of 'smoke', 'standard', 'paper', got 'fast'"),
        ("SEED", "one", "DEEPLIMITS_SEED must be an integer, got 'one'; for example SEED=7"),
        ("DEVICE", "gpu", "DEEPLIMITS_DEVICE must be 'cpu', 'cuda' or 'cuda:<index>', got 'gpu'"),
        ("DEVICE", "cuda:x", "must be 'cpu', 'cuda' or 'cuda:<index>', got 'cuda:x'"),
        ("FILL", "all", "DEEPLIMITS_FILL must be a number of entries >= 0, got 'all'; 0 keeps all work on the GPU"),
        ("FILL", "-1", "DEEPLIMITS_FILL must be a number of entries >= 0, got '-1'"),
        ("FILL", "nan", "DEEPLIMITS_FILL must be a number of entries >= 0, got 'nan'"),
    ],
)
def test_bad_settings_are_refused(monkeypatch, name, value, message):
    monkeypatch.setenv(f"DEEPLIMITS_{name}", value)
    with pytest.raises(ValueError, match=re.escape(message)):
        runtime.current()


def test_cuda_is_used_if_there_and_never_replaced_in_silence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    run = runtime.current()
    assert run.device.type == "cuda" and run.dtype == torch.float32
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("DEEPLIMITS_DEVICE", "cuda")
    with pytest.raises(ValueError, match=r"asks for a GPU, found 0 usable.*use DEVICE=cpu"):
        runtime.current()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert runtime.current().device.type == "cuda"
    monkeypatch.setenv("DEEPLIMITS_DEVICE", "cuda:1")
    with pytest.raises(ValueError, match="asks for a GPU"):
        runtime.current()


def draw(run, *key):
    return torch.rand(4, generator=run.generator(*key), device=run.device)


def test_streams_depend_on_seed_chapter_and_experiment_and_on_nothing_else(monkeypatch):
    a, b = runtime.chapter("a"), runtime.chapter("b")
    first = draw(a, "histogram", 3)
    draw(a, "something else")
    assert torch.equal(first, draw(a, "histogram", 3))
    monkeypatch.setenv("DEEPLIMITS_SEED", "1")
    others = [
        draw(b, "histogram", 3),
        draw(a, "histogram", 4),
        draw(a, "histogram"),
        draw(runtime.chapter("a"), "histogram", 3),
    ]
    assert all(not torch.equal(first, other) for other in others)


def test_keys_do_not_run_together():
    run = runtime.chapter("a")
    assert not torch.equal(draw(run, "x", "y"), draw(run, "xy"))
    assert not torch.equal(draw(run, 1), draw(run, "1"))


def test_progress_is_silent_while_the_book_is_built(monkeypatch, capsys):
    assert list(runtime.current().progress([1, 2], "sweep")) == [1, 2]
    assert "sweep" in capsys.readouterr().err
    monkeypatch.setenv("DEEPLIMITS_BUILD", "1")
    assert list(runtime.current().progress([1, 2], "sweep")) == [1, 2]
    assert capsys.readouterr().err == ""


def test_environment_describes_the_run(monkeypatch):
    monkeypatch.setenv("DEEPLIMITS_DEVICE", "cpu")
    found = runtime.environment()
    assert found["Preset"] == "standard" and found["GPU"] == "none used" and found["torch"] == torch.__version__
    assert all(isinstance(value, str) and "/" not in value for value in found.values())
    assert found["numba"] == (version("numba") if find_spec("numba") else "not installed")


def test_seeded_fixes_the_global_stream_and_restores_it():
    run, before = runtime.chapter("a"), torch.get_rng_state()
    with run.seeded("x"):
        first = torch.rand(3)
    with run.seeded("x"):
        again = torch.rand(3)
    with run.seeded("y"):
        other = torch.rand(3)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_seeded_looks_at_no_gpu_but_its_own(monkeypatch):
    """On a machine with two GPUs, of which the run uses none."""

    def touched(*args, **kwargs):
        raise AssertionError("a GPU was touched")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("get_rng_state", "set_rng_state", "manual_seed", "manual_seed_all", "_lazy_init"):
        monkeypatch.setattr(torch.cuda, name, touched)
    monkeypatch.setenv("DEEPLIMITS_DEVICE", "cpu")
    with runtime.current().seeded("x"):
        torch.rand(3, device="cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA, or its stand-in")
def test_seeded_fixes_and_restores_the_stream_of_its_gpu(monkeypatch):
    monkeypatch.setenv("DEEPLIMITS_DEVICE", "cuda")
    run, before = runtime.current(), torch.cuda.get_rng_state()
    draws = []
    for key in "xxy":
        with run.seeded(key):
            draws.append(torch.rand(3, device="cuda").cpu())
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(before, torch.cuda.get_rng_state())


CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


def test_work_that_does_not_fill_a_gpu_runs_on_the_cpu(monkeypatch):
    monkeypatch.setattr(runtime, "LAUNCH", 8e-6)
    monkeypatch.setattr(runtime, "WAIT", 2e-5)
    monkeypatch.setattr(runtime, "ENTRY", 1e-9)
    assert runtime.place(GPU, 8999, kernels=20) == CPU and runtime.place(GPU, 9001, kernels=20) == GPU
    assert runtime.place(GPU, 9001) == GPU and runtime.place(GPU, 9001, kernels=1) == CPU  # a wait for each kernel
    assert runtime.place(CPU, 10**9) == CPU


@pytest.mark.parametrize(("fill", "where"), [("0", GPU), ("1", GPU), ("1e3", CPU), ("inf", CPU)])
def test_the_reader_decides_what_fills_a_gpu(monkeypatch, fill, where):
    monkeypatch.setenv("DEEPLIMITS_FILL", fill)
    assert runtime.place(GPU, 100) == where and runtime.place(CPU, 100) == CPU


def test_costs_are_in_proportion():
    """A launch costs as much as many entries, and a wait more: the docstring says from how many on a GPU is used."""
    assert runtime.ENTRY < runtime.LAUNCH < runtime.WAIT
    assert runtime.place(GPU, 13_000) == CPU and runtime.place(GPU, 15_000) == GPU

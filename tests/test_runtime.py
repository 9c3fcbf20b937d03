import re

import pytest
import torch

from deeplimits import runtime


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("PRESET", "SEED", "DEVICE", "BUILD"):
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
    return torch.rand(4, generator=run.generator(*key))


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

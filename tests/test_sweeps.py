"""Grids: what is finished is never computed again, what is not is never read."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError

import pytest
import torch

from deeplimits import runtime, sweeps

CELLS = [(0.5, 1), (0.5, 2), (1.0, 1)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPLIMITS_SWEEPS", str(tmp_path))
    return runtime.Runtime(torch.device("cpu"), torch.float64, "smoke", 0, "scaling/test")


def square(beta, n):
    return {"value": torch.tensor([beta * n]), "failed": 0}


def other(beta, n):
    return {"value": torch.tensor([-beta * n]), "failed": 0}


def test_results_are_those_of_the_function(run):
    result = sweeps.grid(run, "squares", CELLS, square)
    assert list(result) == CELLS
    assert all(result[cell]["value"].item() == cell[0] * cell[1] for cell in CELLS)


def test_an_interrupted_grid_resumes(run):
    calls = []

    def compute(beta, n):
        calls.append((beta, n))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return square(beta, n)

    with pytest.raises(KeyboardInterrupt):
        sweeps.grid(run, "squares", CELLS, compute)
    assert list(sweeps.grid(run, "squares", CELLS, compute)) == CELLS
    assert calls == [*CELLS, CELLS[2]]  # the third cell twice, the others once


def test_a_killed_write_leaves_nothing_under_the_final_name(tmp_path):
    program = f"""
import os, torch
from deeplimits import runtime, sweeps
os.environ["DEEPLIMITS_SWEEPS"] = {str(tmp_path)!r}
run = runtime.Runtime(torch.device("cpu"), torch.float64, "smoke", 0, "k")
def compute(n):
    return torch.zeros(3)
save = torch.save
def killed(value, path):
    if len(list(path.parent.glob("*.pt"))) == 1:
        path.write_bytes(b"half of it")
        os.kill(os.getpid(), {int(signal.SIGKILL)})
    save(value, path)
torch.save = killed
sweeps.grid(run, "n", [(1,), (2,), (3,)], compute)
"""
    file = tmp_path / "program.py"  # in a file, since the fingerprint reads the source of compute
    file.write_text(program, "utf8")
    done = subprocess.run([sys.executable, file], env={**os.environ, "DEEPLIMITS_BUILD": "1"})
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.rglob("*.pt"))) == 1 and len(list(tmp_path.rglob("*.tmp"))) == 1


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"preset": "standard"}, {"key": "scaling/else"}, {"dtype": torch.float32}]
)
def test_other_circumstances_are_another_grid(run, change):
    sweeps.grid(run, "squares", CELLS, square)
    sweeps.grid(replace(run, **change), "squares", CELLS, square)
    assert len(list(Path(os.environ["DEEPLIMITS_SWEEPS"]).rglob("squares-*"))) == 2


def test_another_function_or_context_is_another_grid(run):
    sweeps.grid(run, "squares", CELLS, square, 3)
    assert sweeps.grid(run, "squares", CELLS, other, 3)[0.5, 1]["value"].item() == -0.5
    sweeps.grid(run, "squares", CELLS, square, 4)
    sweeps.grid(run, "squares", CELLS, square, other)
    assert len(list(sweeps.folder_of(run).glob("squares-*"))) == 4


def test_forget_removes_the_grids_of_this_run_only(run):
    another = replace(run, preset="paper")
    for each in (run, another):
        sweeps.grid(each, "squares", CELLS, square)
    sweeps.forget(run)
    assert not sweeps.folder_of(run).exists() and sweeps.folder_of(another).exists()
    sweeps.forget(run)  # twice is fine


def test_the_folder_is_that_of_the_book(run, monkeypatch):
    monkeypatch.delenv("DEEPLIMITS_SWEEPS")
    root = Path(__file__).resolve().parents[1]
    monkeypatch.chdir(root / "chapters" / "scaling")
    assert sweeps.folder_of(run) == root / "_build" / "sweeps" / "scaling" / "test" / "smoke-0-cpu"


def test_bad_grids_are_refused(run):
    with pytest.raises(ValueError, match="the cells of 'squares' must be different from each other"):
        sweeps.grid(run, "squares", [(1,), (1,)], square)
    with pytest.raises(UnpicklingError, match="weights_only"):
        sweeps.grid(run, "squares", CELLS, lambda beta, n: Path("a result that is no data"))
    assert list(Path(os.environ["DEEPLIMITS_SWEEPS"]).rglob("*.pt")) == []

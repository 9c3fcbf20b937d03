"""Grids: what is finished is never computed again, what is not is never read."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from deeplimits import runtime, sweeps

CELLS = [(0.5, 1), (0.5, 2), (1.0, 1)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPLIMITS_SWEEPS", str(tmp_path))
    monkeypatch.setenv("DEEPLIMITS_WORKERS", "1")
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
from pathlib import Path
from deeplimits import runtime, sweeps
os.environ["DEEPLIMITS_SWEEPS"] = {str(tmp_path)!r}
run = runtime.Runtime(torch.device("cpu"), torch.float64, "smoke", 0, "k")
def compute(n):
    return torch.zeros(3)
write = Path.write_bytes
def killed(path, data):
    if len(list(path.parent.glob("*.pt"))) == 1:
        write(path, b"half of it")
        os.kill(os.getpid(), {int(signal.SIGKILL)})
    write(path, data)
Path.write_bytes = killed
sweeps.grid(run, "n", [(1,), (2,), (3,)], compute, workers=1)
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


@pytest.mark.parametrize(("device", "grids"), [("cpu", 1), ("cuda", 2)])
def test_what_is_too_small_for_a_gpu_decides_its_rounding_and_no_other(run, monkeypatch, device, grids):
    run = replace(run, device=torch.device(device))
    found = set()
    for fill in ("", "0"):
        monkeypatch.setenv("DEEPLIMITS_FILL", fill)
        found.add(sweeps._fingerprint(run, square, ()))
    assert len(found) == grids


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


# --- several processes ------------------------------------------------------------------------------------------

PROGRAM = """
import os, sys, time
from pathlib import Path
import torch
from deeplimits import runtime, sweeps

run = runtime.Runtime(torch.device("cpu"), torch.float64, "smoke", 0, "k")
log = Path(sys.argv[1])

def compute(n):
    with log.open("a") as file:
        file.write(f"start {n} {os.getpid()}\\n")
    time.sleep(0.5)
    with log.open("a") as file:
        file.write(f"end {n} {os.getpid()}\\n")
    return torch.tensor(n)

def go(**settings):
    found = sweeps.grid(run, "n", [(n,) for n in range(8)], compute, **settings)
    assert [int(x) for x in found.values()] == list(range(8))
"""


def started(log):
    """The cells that were begun, with the process of each, in order."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [tuple(map(int, line.split()[1:])) for line in lines if line.startswith("start")]


def finished(log):
    return {int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith("end")}


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Start PROGRAM with a last line of its own; in a file, since the fingerprint reads the source of compute."""
    monkeypatch.setenv("DEEPLIMITS_SWEEPS", str(tmp_path / "sweeps"))
    monkeypatch.setenv("DEEPLIMITS_BUILD", "1")
    file, log = tmp_path / "program.py", tmp_path / "log"

    def start(last):
        file.write_text(f"{PROGRAM}\nif __name__ == '__main__':\n    {last}\n", "utf8")
        return subprocess.Popen([sys.executable, file, log], start_new_session=True), log

    return start


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "nothing happened for a minute"
        time.sleep(0.05)


def test_processes_change_no_bit(run):
    """A function that draws, multiplies matrices and asks for the default precision, here and in two processes."""
    torch.set_default_dtype(run.dtype)

    def compute(n):
        matrix = torch.randn(300, 300, generator=run.generator(n), device=run.device)
        return matrix @ matrix + torch.full((), 1 / 3, device=run.device)

    cells = [(n,) for n in range(4)]
    alone = sweeps.grid(run, "products", cells, compute, workers=1)
    sweeps.forget(run)
    shared = sweeps.grid(run, "products", cells, compute, workers=2)
    assert list(shared) == cells and all(torch.equal(alone[cell], shared[cell]) for cell in cells)
    assert alone[0,].dtype == torch.float64


def test_a_function_sent_away_may_use_names_that_torch_uses(run):
    settings = SimpleNamespace(classes=3, ops=2)
    found = sweeps.grid(run, "n", [(0,), (1,)], lambda n: torch.tensor(settings.classes * settings.ops + n), workers=2)
    assert [int(x) for x in found.values()] == [6, 7]


def test_a_cell_computes_with_one_thread_and_gives_them_back(run):
    torch.set_num_threads(2)
    found = sweeps.grid(run, "threads", [(0,)], lambda n: torch.get_num_threads())
    assert found[0,] == 1 and torch.get_num_threads() == 2
    torch.set_num_threads(1)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_names_its_cell_and_keeps_the_others(run, workers):
    def compute(n):
        if n == 2:
            time.sleep(0.5)  # the others are finished before
            raise OverflowError("too large")
        return torch.zeros(n)

    with pytest.raises(OverflowError, match="too large") as caught:
        sweeps.grid(run, "n", [(0,), (1,), (2,)], compute, workers=workers)
    assert "in cell (2,) of the grid 'n'" in caught.value.__notes__
    assert len(list(sweeps.folder_of(run).rglob("*.pt"))) == 2


def test_a_killed_parallel_run_resumes(program):
    process, log = program("go(workers=2)")
    wait_for(lambda: log.exists() and len(finished(log)) >= 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before, kept = started(log), len(list(log.parent.rglob("*.pt")))
    process, _ = program("go(workers=2)")
    assert process.wait(60) == 0 and kept >= 1
    assert len(started(log)) - len(before) == 8 - kept


@pytest.mark.parametrize("text", ["0", "-2", "many", "1.5"])
def test_a_bad_number_of_workers_is_refused(run, monkeypatch, text):
    monkeypatch.setenv("DEEPLIMITS_WORKERS", text)
    with pytest.raises(ValueError, match=f"DEEPLIMITS_WORKERS must be a positive integer, got '{text}'"):
        sweeps.grid(run, "squares", CELLS, square)
    with pytest.raises(ValueError, match="workers must be a positive integer"):
        sweeps.grid(run, "squares", CELLS, square, workers=0)


def test_a_gpu_is_not_shared(run, monkeypatch):
    monkeypatch.delenv("DEEPLIMITS_WORKERS")
    assert sweeps._workers(replace(run, device=torch.device("cuda:0")), None) == 1
    assert sweeps._workers(run, None) == sweeps.cpu_count()


def test_a_fingerprint_is_the_same_in_every_process(program):
    """Also of strings, whose hash changes from process to process, and of arrays."""
    found = []
    for _ in range(2):
        process, log = program("log.write_text(sweeps._fingerprint(run, compute, ({'a': 1}, torch.ones(2), go)))")
        assert process.wait(60) == 0
        found.append(log.read_text())
    assert len(found[0]) == 16 and found[0] == found[1]


def test_a_fingerprint_sees_all_of_an_array_and_refuses_what_changes_by_itself(run):
    small, large = torch.zeros(2000), torch.zeros(2000)
    large[1000] = 1e-5  # left out where it is printed
    for held in (lambda x: x, lambda x: [1, x], lambda x: (x.numpy(),), lambda x: {"a": {"b": [x]}}):
        assert sweeps._fingerprint(run, square, (held(small),)) != sweeps._fingerprint(run, square, (held(large),))
    assert sweeps._fingerprint(run, square, ([square],)) != sweeps._fingerprint(run, square, ([other],))
    with pytest.raises(ValueError, match=r"a grid depends on functions, numbers, .* got <object object"):
        sweeps.grid(run, "squares", CELLS, square, [object()])


def test_a_fingerprint_sees_the_cells_of_a_notebook(run):
    """A number that the function reaches, and no context names, is edited in a cell and the grid started again."""
    config = Config()
    config.HistoryManager.hist_file = ":memory:"
    shell = InteractiveShell.instance(config=config)
    try:
        shell.user_ns |= {"sweeps": sweeps, "run": run}

        def found(*cells):
            for cell in cells:
                shell.run_cell(cell, store_history=True).raise_error()
            return shell.user_ns["found"]

        use = "found = sweeps.grid(run, 'n', [(1,)], lambda n: n * D)[1,]; mark = sweeps._cells()"
        assert found("D = 3", use) == 3
        first = shell.user_ns["mark"]
        assert found(use) == 3 and shell.user_ns["mark"] == first  # the same cell again goes on with the same grid
        assert found("D = 4", use) == 4
        assert found("D = 3", use) == 3
        assert shell.user_ns["mark"] != first and len(list(sweeps.folder_of(run).glob("n-*"))) == 3
    finally:
        InteractiveShell.clear_instance()
        shell.restore_sys_module_state()
    assert sweeps._cells() == []

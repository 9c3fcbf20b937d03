"""A real cluster, a scheduler and workers started by their command lines: nothing lost, and nothing computed twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from deeplimits import cluster, runtime, sweeps

pytest.importorskip("distributed")
SOURCE = Path(cluster.__file__).parent
PATIENCE = 180  # seconds; on a busy machine an import of torch takes half a minute
# Each cell tells what it does. Those from the fifth on wait for a file; the test decides when they may go on.
PROGRAM = """
import os, sys, time
from pathlib import Path
import torch
from deeplimits import runtime, sweeps

torch.set_default_dtype(torch.float64)
run = runtime.Runtime(torch.device("cpu"), torch.float64, "smoke", 0, sys.argv[2])
folder = Path(sys.argv[1])

def say(*words):
    with (folder / "log").open("a") as file:
        print(run.key, *words, os.getpid(), file=file, flush=True)

def compute(n):
    say("start", n)
    time.sleep(0.2)
    while n >= 4 and not (folder / "go").exists():
        time.sleep(0.05)
    matrix = torch.randn(200, 200, generator=run.generator(n))
    found = matrix @ matrix + torch.get_num_threads()
    say("end", n)
    return found

found = sweeps.grid(run, "n", [(n,) for n in range(12)], compute)
torch.save(list(found.values()), folder / f"{run.key}.pt")
"""

# Read by Python when it starts: a worker in an environment that lacks the library.
WITHOUT = "import os, sys; sys.path[:] = [p for p in sys.path if not os.path.exists(p + '/deeplimits')]"


class Machines:
    """Processes that belong to one cluster, and what the cells have said."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.processes = folder, []
        file = folder / "scheduler.json"
        self.start(
            "scheduler",
            "-m",
            "dask",
            "scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            str(file),
        )
        wait_for(lambda: file.exists() and file.read_text().strip().endswith("}"))
        self.address = json.loads(file.read_text())["address"]
        monkeypatch.setenv("DEEPLIMITS_SWEEPS", str(folder / "sweeps"))
        (folder / "program.py").write_text(PROGRAM, "utf8")

    def start(self, name, *command, **environment):
        with (self.folder / f"{name}.txt").open("w") as output:
            process = subprocess.Popen(
                [sys.executable, *command],
                stdout=output,
                stderr=output,
                env={**os.environ, **environment},
                cwd=self.folder,
            )
        self.processes.append(process)
        return process

    def worker(self, name, **environment):
        process = self.start(
            name,
            "-m",
            "dask",
            "worker",
            self.address,
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
            "--local-directory",
            str(self.folder),
            **environment,
        )
        wait_for(lambda: "Registered to" in self.output(name))
        return process

    def program(self, key="k", **environment):
        settings = {"DEEPLIMITS_CLUSTER": self.address, "DEEPLIMITS_WORKERS": "1"}
        return self.start(key, "program.py", str(self.folder), key, **(settings | environment))

    def output(self, name):
        return (self.folder / f"{name}.txt").read_text()

    def said(self, word, pid=None):
        """The cells of which ``word`` was said, by that process or by any, in order."""
        file = self.folder / "log"
        lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
        return [(key, int(n)) for key, what, n, who in lines if what == word and pid in (None, int(who))]


def wait_for(condition, program=None):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert program is None or program.poll() is None, "the program has ended before"
        assert time.monotonic() < end, "nothing happened for minutes"
        time.sleep(0.05)


@pytest.fixture
def machines(tmp_path, monkeypatch):
    machines = Machines(tmp_path, monkeypatch)
    yield machines
    for process in machines.processes:
        process.kill()
    for process in machines.processes:
        process.wait()


@pytest.fixture
def other_library(tmp_path):
    """A copy of the library in which one line differs."""
    shutil.copytree(SOURCE, tmp_path / "other" / "deeplimits", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "other" / "deeplimits" / "laws.py").open("a") as file:
        file.write("# another line\n")
    return {"PYTHONPATH": str(tmp_path / "other")}


def test_workers_are_killed_join_and_differ(machines, other_library):
    """Of two workers one is killed, a third has another library, a fourth joins; against one process at the end."""
    victim, survivor, other = (
        machines.worker("victim"),
        machines.worker("survivor"),
        machines.worker("other", **other_library),
    )
    program = machines.program(DEEPLIMITS_BUILD="1")
    wait_for(lambda: len(machines.said("start", victim.pid)) > len(machines.said("end", victim.pid)) > 0, program)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    killed = set(machines.said("start", victim.pid)) - set(machines.said("end", victim.pid))
    joined = machines.worker("joined")
    wait_for(lambda: machines.said("start", joined.pid), program)
    (machines.folder / "go").touch()
    assert program.wait(PATIENCE) == 0, machines.output("k")
    print((machines.folder / "log").read_text(), f"victim {victim.pid}, joined {joined.pid}, other {other.pid}")

    started = machines.said("start")
    assert set(machines.said("end")) == {("k", n) for n in range(12)}
    twice = {cell for cell in started if started.count(cell) > 1}
    # a result can be lost between the end of a cell and its arrival here
    assert killed <= twice <= set(machines.said("start", victim.pid)) and len(started) == 12 + len(twice)
    assert machines.said("start", survivor.pid) and not machines.said("start", other.pid)
    assert "Refused: deeplimits is" in machines.output("other")
    assert machines.output("k") == ""  # the book is built with warnings as errors
    shared = torch.load(machines.folder / "k.pt")
    shutil.rmtree(machines.folder / "sweeps")
    assert machines.program(DEEPLIMITS_CLUSTER="").wait(PATIENCE) == 0
    alone = torch.load(machines.folder / "k.pt")
    assert all(torch.equal(a, b) for a, b in zip(shared, alone, strict=True))


def test_two_chapters_share_a_cluster_and_resume_without_it(machines):
    """Its only worker is replaced; one chapter is killed, goes on here, and computes only what was missing."""
    worker = machines.worker("one")
    first, second = machines.program("first"), machines.program("second")
    wait_for(lambda: len(list(machines.folder.glob("sweeps/first/**/*.pt"))) >= 2, first)
    for process in (first, worker):
        process.kill()
        process.wait()
    (machines.folder / "go").touch()
    machines.worker("another")
    assert second.wait(PATIENCE) == 0, machines.output("second")
    started = [cell for cell in machines.said("start") if cell[0] == "second"]
    assert set(started) == {("second", n) for n in range(12)}
    assert {cell for cell in started if started.count(cell) > 1} <= set(machines.said("start", worker.pid))
    kept, before = len(list(machines.folder.glob("sweeps/first/**/*.pt"))), len(machines.said("start"))
    assert machines.program("first", DEEPLIMITS_CLUSTER="").wait(PATIENCE) == 0
    assert len(machines.said("start")) == before + 12 - kept


def test_a_cluster_without_a_usable_worker_says_why(machines, other_library, tmp_path):
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(WITHOUT, "utf8")
    machines.worker("other", **other_library)
    machines.worker("without", PYTHONPATH=str(tmp_path / "without"))
    with pytest.warns(UserWarning, match="refused"):
        first, *refused = cluster.check(machines.address, torch.device("cpu"))
    assert first == f"Grids are computed by 0 workers of the cluster at {machines.address}"
    assert (
        sum("it cannot load this library: " in line and "No module named 'deeplimits'" in line for line in refused) == 1
    )
    assert sum(f", not {cluster.SOURCE}; install there what is here" in line for line in refused) == 1
    program = machines.program()
    assert program.wait(PATIENCE) == 1 and machines.said("start") == []
    for text in (f"ValueError: no worker of the cluster at {machines.address} can be used", *refused):
        assert text in machines.output("k")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "no address", "tcp://nowhere.invalid:8786"])
def test_an_address_that_does_not_answer_is_named(monkeypatch, address):
    monkeypatch.setattr(cluster, "SECONDS", 0.5)
    monkeypatch.setenv("DEEPLIMITS_CLUSTER", address)
    run = runtime.Runtime(torch.device("cpu"), torch.float64, "smoke", 0, "k")
    with pytest.raises(
        ValueError, match=f"DEEPLIMITS_CLUSTER='{address}': no Dask scheduler answers .*`dask scheduler`"
    ):
        sweeps.grid(run, "n", [(1,)], lambda n: n)


def test_a_cluster_without_its_package_names_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r'pip install "deeplimits\[cluster\]"'):
        cluster.check("tcp://nowhere:1", torch.device("cpu"))


def test_a_worker_has_one_gpu(monkeypatch):
    with pytest.raises(ValueError, match="must be 'cpu' or 'cuda' on a cluster, got 'cuda:1'"):
        cluster.check("tcp://nowhere:1", torch.device("cuda:1"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert cluster._objection(cluster.versions(), "cuda") == "it sees 2 GPUs, not one (CUDA_VISIBLE_DEVICES chooses)"
    assert cluster._objection(cluster.versions(), "cpu") == ""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert cluster._objection(cluster.versions(), "cuda") == ""


@pytest.mark.parametrize("name", ["deeplimits", "python", "torch", "numpy"])
def test_each_version_counts(name):
    expected = cluster.versions() | {name: "another"}
    assert cluster._objection(expected, "cpu") == f"{name} is {cluster.versions()[name]}, not another"
    with pytest.raises(ValueError, match="not another"):
        cluster._alone(b"", (1,), expected)

"""A real cluster, a scheduler and workers started by their command lines: nothing lost, and nothing computed twice."""

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Event

import pytest
import torch

from deeplimits import cluster, runtime, sweeps

distributed = pytest.importorskip("distributed")
SOURCE = Path(cluster.__file__).parent
PATIENCE = 180  # seconds; on a busy machine an import of torch takes half a minute
# Read by Python when it starts: a worker in an environment that lacks the library.
WITHOUT = "import os, sys; sys.path[:] = [p for p in sys.path if not os.path.exists(p + '/deeplimits')]"


class Machines:
    """Processes that belong to one cluster, and what the cells have said."""

    def __init__(self, folder):
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
        return process

    def output(self, name):
        return (self.folder / f"{name}.txt").read_text()

    def said(self, word, pid=None):
        """The cells of which ``word`` was said, by that process or by any, in order."""
        file = self.folder / "log"
        lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
        return [(key, int(n)) for key, what, n, who in lines if what == word and pid in (None, int(who))]


def wait_for(condition, *grids):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert not any(grid.done() and grid.exception() for grid in grids), [grid.exception() for grid in grids]
        assert time.monotonic() < end, "nothing happened for minutes"
        time.sleep(0.05)


@pytest.fixture
def pool():
    """Threads for grids; they end with their scheduler, if not before."""
    pool = ThreadPoolExecutor()
    yield pool
    pool.shutdown(wait=False)


@pytest.fixture
def machines(tmp_path):
    machines = Machines(tmp_path)
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


def test_workers_are_killed_join_and_differ(pool, machines, other_library, monkeypatch, capfd):
    """Two grids, one of them interrupted, and one worker that may compute; it is killed, and another joins.

    A third has another library and a fourth has none. At the end both grids are finished here, and compared.
    """
    folder, first, second = (
        machines.folder,
        *(runtime.Runtime(torch.device("cpu"), torch.float64, "smoke", 0, key) for key in ("first", "second")),
    )
    monkeypatch.setenv("DEEPLIMITS_SWEEPS", str(folder / "sweeps"))
    monkeypatch.setenv("DEEPLIMITS_CLUSTER", machines.address)
    monkeypatch.setenv("DEEPLIMITS_BUILD", "1")
    progress = runtime.Runtime.progress

    def interrupted(run, results, *rest):
        for number, result in enumerate(progress(run, results, *rest)):
            if run.key == "first" and number == 6:
                raise KeyboardInterrupt
            yield result

    def computed(run):
        """The grid: each cell tells what it does, and those from the fifth on wait for a file."""

        def compute(n):
            def say(word):
                with (folder / "log").open("a") as file:
                    print(run.key, word, n, os.getpid(), file=file, flush=True)

            say("start")
            while n >= 4 and not (folder / "go").exists():
                time.sleep(0.05)
            matrix = torch.randn(200, 200, generator=run.generator(n), dtype=run.dtype, device=run.device)
            found = matrix @ matrix + torch.get_num_threads()
            say("end")
            return found

        return sweeps.grid(run, "n", [(n,) for n in range(12)], compute)

    (folder / "without").mkdir()
    (folder / "without" / "sitecustomize.py").write_text(WITHOUT, "utf8")
    victim, other = machines.worker("victim"), machines.worker("other", **other_library)
    wait_for(lambda: "Registered to" in machines.output("victim"))
    machines.worker("without", PYTHONPATH=str(folder / "without"))
    monkeypatch.setattr(runtime.Runtime, "progress", interrupted)
    grids = [pool.submit(computed, run) for run in (first, second)]
    try:
        wait_for(lambda: len(machines.said("start", victim.pid)) > len(machines.said("end", victim.pid)) > 7, *grids)
        joined = machines.worker("joined")
        wait_for(lambda: "Refused: deeplimits is" in machines.output("other"))
        victim.kill()
        wait_for(lambda: machines.said("start", joined.pid))
    finally:
        (folder / "go").touch()
    assert isinstance(grids[0].exception(PATIENCE), KeyboardInterrupt)
    shared = grids[1].result(PATIENCE)
    assert capfd.readouterr().err == ""  # the book is built with warnings as errors

    print((folder / "log").read_text(), f"victim {victim.pid}, joined {joined.pid}, other {other.pid}")
    killed = set(machines.said("start", victim.pid)) - set(machines.said("end", victim.pid))
    started = [cell for cell in machines.said("start") if cell[0] == "second"]
    twice = {cell for cell in machines.said("start") if machines.said("start").count(cell) > 1}
    # a result can be lost between the end of a cell and its arrival here
    assert killed <= twice <= set(machines.said("start", victim.pid))
    assert set(started) == {("second", n) for n in range(12)} and not machines.said("start", other.pid)
    monkeypatch.delenv("DEEPLIMITS_BUILD")
    with pytest.warns(UserWarning, match="refused"):
        line, *refused = cluster.check(machines.address, first.device)
    assert line == f"Grids are computed by 1 workers of the cluster at {machines.address}" and len(refused) == 2
    assert sum(f", not {cluster.SOURCE}; install there what is here" in text for text in refused) == 1
    causes = ("it cannot load this library: ", "No module named 'deeplimits'")
    assert sum(all(cause in text for cause in causes) for text in refused) == 1

    monkeypatch.delenv("DEEPLIMITS_CLUSTER")
    monkeypatch.setenv("DEEPLIMITS_WORKERS", "1")
    monkeypatch.setattr(runtime.Runtime, "progress", progress)
    before, kept = len(machines.said("start")), len(list(folder.glob("sweeps/first/**/*.pt")))
    assert kept == 6 and len(computed(first)) == 12 and len(machines.said("start")) == before + 12 - kept
    sweeps.forget(second)
    assert all(torch.equal(here, shared[cell]) for cell, here in computed(second).items())


# --- workers that are threads of this process -------------------------------------------------------------------


class Threads:
    """A scheduler with workers that come and go, and grids of four cells for them."""

    def __init__(self):
        options = {"protocol": "inproc://", "port": 0, "dashboard_address": ":0"}
        scheduler = {"cls": distributed.Scheduler, "options": options}
        self.cluster = distributed.SpecCluster(scheduler=scheduler, silence_logs=logging.CRITICAL)
        self.scheduler, self.workers, self.end, self.strangers = self.cluster.scheduler, {}, Event(), set()

    def join(self):
        async def start():
            return await distributed.Worker(self.scheduler.address, nthreads=1, dashboard=False)

        worker = self.cluster.sync(start)
        self.workers[worker.address] = worker
        return worker.address

    def leave(self, address):
        """The worker is lost to the scheduler, with all that it had."""
        self.cluster.sync(self.scheduler.remove_worker, address, stimulus_id="test")

    def results(self, function):
        cells = [(n,) for n in range(4)]
        return cluster.results(self.scheduler.address, "k:n", function, cells, torch.device("cpu"))

    def close(self):
        self.end.set()
        for worker in self.workers.values():
            self.cluster.sync(worker.close, executor_wait=False)
        self.cluster.close()


now = None  # the present Threads, for functions that are sent to workers


def objection(expected, device, dask_worker=None):
    return "it is another" if (dask_worker or distributed.get_worker()).address in now.strangers else ""


class Held(nullcontext):
    """In place of ``one_at_a_time``: who comes before it is free waits until the test is over."""

    free = False

    def __enter__(self):
        if not self.free:
            now.end.wait()
            raise SystemExit


def slow(cell):
    time.sleep(0.2)
    return cell[0]


def deadly(cell):
    if cell == (1,):
        now.leave(distributed.get_worker().address)
        now.end.wait()
    return cell[0]


def missing():
    raise OSError("a file that only this process has")


class Unreadable:
    """A function that can be sent and not received."""

    def __reduce__(self):
        return missing, ()


@pytest.fixture
def threads(monkeypatch):
    monkeypatch.setattr(cluster, "LOOK", 0.1)
    monkeypatch.setattr(cluster, "one_at_a_time", nullcontext())
    monkeypatch.setattr(cluster, "_objection", objection)
    threads = Threads()
    monkeypatch.setattr(sys.modules[__name__], "now", threads)
    yield threads
    threads.close()


@pytest.fixture
def said(monkeypatch):
    found = []
    monkeypatch.setattr(cluster, "_say", found.append)
    return found


def test_a_grid_waits_for_a_worker_at_rest_and_says_so_once(pool, threads, said, monkeypatch):
    looks, accepted = [], cluster._accepted
    monkeypatch.setattr(cluster, "_accepted", lambda *rest: looks.append(rest) or accepted(*rest))
    grid = pool.submit(list, threads.results(slow))
    time.sleep(1)
    looked = len(looks)
    threads.join()
    assert sorted(grid.result(PATIENCE)) == [0, 1, 2, 3]
    assert 1 <= looked <= 11
    assert len(said) == 1 and "is there; the work waits for one" in said[0]


def test_another_program_at_a_known_address_is_refused_and_the_others_go_on(threads, said):
    address = threads.join()
    results = threads.results(slow)
    found = [next(results)]
    threads.strangers.add(address)
    threads.join()
    assert sorted(found + list(results)) == [0, 1, 2, 3]
    assert len(said) == 1 and said[0].startswith(f"worker {address} refused: it is another; install there")


def test_without_others_that_is_an_error_with_a_cure(threads, said):
    address = threads.join()
    results = threads.results(slow)
    next(results)
    threads.strangers.add(address)
    with pytest.raises(ValueError, match=r"no worker of the cluster .* can be used\n.*it is another; install there"):
        next(results)


def test_who_was_refused_may_come_back_mended(threads, said):
    threads.strangers.add(threads.join())
    mended = threads.join()
    results = threads.results(slow)
    found = [next(results)]
    threads.strangers.clear()
    assert sorted(found + list(results)) == [0, 1, 2, 3] and mended


def test_an_error_of_a_worker_that_is_no_stranger_is_raised(threads):
    threads.join()
    with pytest.raises(
        RuntimeError, match=r"a worker cannot compute cell \(0,\) of k:n: a file that only this process has"
    ):
        list(threads.results(Unreadable()))


@pytest.mark.parametrize("workers", [1, 4])
def test_a_cell_that_kills_its_workers_is_given_up(pool, threads, said, workers):
    """Also one by one, where the scheduler does not see that they die of the same cell."""
    grid = pool.submit(list, threads.results(deadly))
    for n in range(4 // workers):
        for _ in range(workers):
            threads.join()
        wait_for(lambda n=n: len(threads.scheduler.workers) == 0 or grid.done())
    with pytest.raises(RuntimeError, match=r"four workers died while they computed cell \(1,\) of k:n; their logs"):
        grid.result(PATIENCE)


@pytest.mark.parametrize("function", [False, True])
def test_a_cell_that_never_started_is_not_blamed(pool, threads, said, monkeypatch, function):
    """Five workers are lost, as SLURM takes them, before they have the function, or before they begin the cell."""
    monkeypatch.setattr(cluster, "one_at_a_time", held := Held())
    grid = pool.submit(list, threads.results(slow))
    for _ in range(5):
        address = threads.join()
        tasks = threads.scheduler.workers[address].processing
        wait_for(lambda tasks=tasks: any(t.worker_restrictions or not function for t in list(tasks)) or grid.done())
        threads.leave(address)
    held.free = True
    threads.join()
    assert sorted(grid.result(PATIENCE)) == [0, 1, 2, 3]


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
    with pytest.raises(ImportError, match=r"pip install distributed$"):
        cluster.check("tcp://nowhere:1", torch.device("cpu"))


def test_a_worker_has_one_gpu(monkeypatch):
    with pytest.raises(ValueError, match="must be 'cpu' or 'cuda' on a cluster, got 'cuda:1'"):
        cluster.check("tcp://nowhere:1", torch.device("cuda:1"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert cluster._objection(cluster.versions(), "cuda") == "it sees 2 GPUs, not one (CUDA_VISIBLE_DEVICES chooses)"
    assert cluster._objection(cluster.versions(), "cpu") == ""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert cluster._objection(cluster.versions(), "cuda") == ""


@pytest.mark.parametrize("name", ["deeplimits", "python", "torch", "numpy", "scipy", "loops"])
def test_each_version_counts(name):
    expected = cluster.versions() | {name: "another"}
    assert cluster._objection(expected, "cpu") == f"{name} is {cluster.versions()[name]}, not another"
    with pytest.raises(ValueError, match="not another"):
        cluster._alone(b"", (1,), expected, "k")

"""What the benchmarks refuse, and what they print of themselves; nothing is timed here."""

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import clock

ROOT = Path(__file__).resolve().parents[1]
ALL = re.search(r"from benchmarks import (.+)", (ROOT / "benchmarks" / "__main__.py").read_text("utf8"))[1].split(", ")
HANDICAPS = (
    "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
    "MKL_DEBUG_CPU_TYPE", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY", "NPY_DISABLE_CPU_FEATURES",
    "NUMBA_DISABLE_JIT", "NUMEXPR_NUM_THREADS", "GOTO_NUM_THREADS",
)  # fmt: skip
SHOW = """
import json, torch
from benchmarks import clock
from threadpoolctl import threadpool_info
clock.fair()
clock.fair()
print(json.dumps([clock.CORES, torch.get_num_threads(), *[x["num_threads"] for x in threadpool_info()]]))
"""


@pytest.fixture
def clean(monkeypatch):
    for name in [name for name in os.environ if clock.HANDICAPS.fullmatch(name)]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize("name", HANDICAPS)
def test_a_handicap_is_refused_with_its_cure(clean, capsys, name):
    clean.setenv(name, "1")
    with pytest.raises(SystemExit) as left:
        clock.fair()
    said = capsys.readouterr()
    assert left.value.code == 2 and not said.out
    assert f"{name}=1" in said.err and f"env -u {name} make bench" in said.err


@pytest.mark.parametrize("name", ["PATH", "DEEPLIMITS_WORKERS", "COMPOSE_NUM", "KMP_INIT_AT_FORK", "NUMBA_CACHE_DIR"])
def test_other_variables_are_none_of_its_business(name):
    assert not clock.HANDICAPS.fullmatch(name)


@pytest.mark.parametrize("name", ALL)
def test_every_benchmark_refuses_before_it_computes(clean, capsys, name):
    clean.setenv("OPENBLAS_CORETYPE", "Haswell")
    with pytest.raises(SystemExit) as left:
        import_module(f"benchmarks.{name}").main()
    assert left.value.code == 2 and not capsys.readouterr().out


def test_both_sides_get_the_same_threads_and_it_is_said_once(clean):
    command = [sys.executable, "-c", SHOW]
    *said, threads = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    cores, *others = json.loads(threads)
    assert len(others) > 1 and set(others) == {cores}
    assert said[0].startswith(f"{cores} cores") and sum(line.startswith("torch ") for line in said) == 1
    assert said[-1] == "" and all(re.search(r", kernel .+, \d+ threads$", line) for line in said[1:-1])

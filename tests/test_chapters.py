"""What ``conftest.py`` makes of a chapter whose kernel, or whose pytest worker, dies: said at once, others finish."""

import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAD = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""


def chapter(path: Path, *cells: str) -> None:
    path.write_text(HEAD + "".join(f"\n```{{code-cell}} ipython3\n{cell}\n```\n" for cell in cells), "utf8")


@pytest.fixture
def book(tmp_path):
    """Runs a book of chapters of three cells, one whose second cell sleeps and others with the second cell given.

    Returns what pytest said, and for each chapter and cell its seconds and why it failed, None if it passed.
    """
    shutil.copytree(ROOT / "_ext", tmp_path / "_ext")
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "chapters").mkdir()
    (tmp_path / "_toc.yml").touch()  # by which sweeps knows a book

    def run(second: dict[str, str], *options: str) -> tuple[str, dict[str, list[tuple[float, str | None]]]]:
        for name, cell in {"lives": "time.sleep(3)", **second}.items():
            chapter(tmp_path / "chapters" / f"{name}.md", "import os, time", cell, "os")
        command = [sys.executable, "-m", "pytest", "-q", "--nbval-cell-timeout=60", "--junitxml=out.xml", *options]
        environment = {**os.environ, "DEEPLIMITS_PRESET": "smoke", "DEEPLIMITS_SEED": "0", "DEEPLIMITS_DEVICE": "cpu"}
        environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}
        done = subprocess.run([*command, "chapters"], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 1, done.stdout + done.stderr
        cells = defaultdict(list)
        for case in ElementTree.parse(tmp_path / "out.xml").iter("testcase"):
            failure = case.find("failure")
            said = None if failure is None else f"{failure.get('message')} {failure.text}"
            cells[case.get("classname").split(".")[-2]].append((float(case.get("time")), said))
        return done.stdout, cells

    return run


def test_a_dead_kernel_is_named_at_once_and_the_others_finish(book):
    deaths = {
        "killed": ("os.kill(os.getpid(), 9); time.sleep(100)", "memory ran out"),
        "faults": ("os.kill(os.getpid(), 11); time.sleep(100)", "signal SIGSEGV"),
        "leaves": ("os._exit(3)", "exit status 3"),
        "nameless": ("os.kill(os.getpid(), 40); time.sleep(100)", "signal 40"),
    }
    _, cells = book({name: cell for name, (cell, _) in deaths.items()})
    assert [said for _, said in cells["lives"]] == [None] * 3
    for name, (_, cause) in deaths.items():
        (_, first), (seconds, second), (more, third) = cells[name]
        assert first is None and f"chapters/{name}.md::Cell 1" in second and cause in second
        assert f"chapters/{name}.md::Cell 2 is not run" in third
        assert seconds + more < 10


def test_a_dead_worker_is_named_and_the_others_finish(book):
    """The kernel is a child of the worker of pytest-xdist, so a cell can kill that, too."""
    output, cells = book({"kills": "os.kill(os.getppid(), 9); time.sleep(100)"}, "-n", "2", "--dist", "loadfile")
    assert "crashed while running 'chapters/kills.md::Cell 1'" in output
    assert "chapters/kills.md::Cell 2 is not run" in output
    assert [said for _, said in cells["lives"]] == [None] * 3


def test_a_full_gpu_says_what_fits(book):
    full = (
        "import torch\nfrom deeplimits import runtime\nruntime.chapter('x')\n"
        "raise torch.OutOfMemoryError('CUDA out of memory')"
    )
    _, cells = book({"full": full})
    said = cells["full"][1][1]
    assert "CUDA out of memory" in said and "PRESET=smoke" in said and "JOBS=1" in said and "DEVICE=cpu" in said
    assert [said for _, said in cells["lives"]] == [None] * 3

"""nbval for MyST chapters: one test per code cell, and one execution for the tests and for the book.

``pytest chapters`` runs every chapter that is not in the book's cache, in the chapter's own folder. A
chapter whose cells all passed goes into the cache, from which the book is built; a failed one never
does, so it fails again the next time. A chapter that is in the cache is checked without running it.
With ``--verdicts`` a chapter has one more test, which fails if one of its claims does.
"""

import os
import re
import signal
import sys
import time
from math import inf, nan
from pathlib import Path
from queue import Empty

import nbformat
import nbval.plugin
import pytest
from filelock import FileLock
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell, IPyNbFile

import book_cache
from deeplimits import claims, cluster, runtime, sweeps

CHAPTERS = book_cache.ROOT / "chapters"
collect_ignore_glob = ["chapters/**/*.ipynb", "chapters/*.ipynb"]  # a reader's own copies


def pytest_addoption(parser):
    parser.addoption("--verdicts", action="store_true", help="a claim whose verdict is 'fails' fails its chapter")


def pytest_configure(config):
    """Refuse a bad preset, seed, device or cluster here, in one line, and make the cache before workers share it."""
    if hasattr(config, "workerinput"):
        return
    try:
        book_cache.open_or_repair()
        if address := os.environ.get("DEEPLIMITS_CLUSTER"):
            print(*cluster.check(address, runtime.current().device), sep="\n", file=sys.__stderr__)
    except (ImportError, ValueError) as error:
        pytest.exit(str(error), returncode=2)


def pytest_collect_file(file_path, parent):
    if file_path.suffix == ".md" and parent.config.option.nbval_lax and book_cache.read(file_path):
        return Chapter.from_parent(parent, path=file_path)


class KernelDied(RuntimeError):
    """The process of a chapter's kernel is gone, and with it all that its cells had computed."""


class Kernel(RunningKernel):
    """A kernel that stores history, without which IPython ignores the ``;`` that silences a cell.

    Kernels start one at a time: two that start at the same moment can be given the same port, and then one
    of them never answers. Another program can still take the port first, so a start that fails is tried again.
    """

    def __init__(self, *args, **kwargs):
        with FileLock(book_cache.folder() / "starting.lock"):
            try:
                super().__init__(*args, **kwargs)
            except RuntimeError:
                super().__init__(*args, **kwargs)

    def execute_cell_input(self, source, allow_stdin=None):
        return self.kc.execute(source, allow_stdin=allow_stdin, store_history=True, stop_on_error=False)

    def get_message(self, stream, timeout=None):
        """As nbval's, but a kernel that has died is noticed within a second, not when the time is up."""
        end = time.monotonic() + (inf if timeout is None else timeout)
        while True:
            try:
                return super().get_message(stream, timeout=max(0.0, min(1.0, end - time.monotonic())))
            except Empty:
                if not self.is_alive():
                    raise KernelDied(_ending(self.km.provisioner.process.returncode)) from None
                if time.monotonic() >= end:
                    raise


class Chapter(IPyNbFile):
    """A MyST Markdown file whose code cells are tests."""

    def collect(self):
        self.nb = book_cache.read(self.path)
        found = book_cache.executed(self.nb)
        self.outputs = found and [cell.outputs for cell in _code(found[0])]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nbformat, "read", lambda *_, **__: self.nb)  # nbval reads its notebook with it
            for cell in super().collect():
                if cell.options["check"] or cell.options["skip"]:
                    raise self.CollectError(
                        f"{self.path.name}, {cell.name}: a cell can be neither skipped nor compared with a stored "
                        "output, for none is stored; record a claim or write an assert instead"
                    )
                cell.__class__, cell.output_timeout = Cell, 60
                yield cell
        if self.config.getoption("verdicts"):
            yield Verdicts.from_parent(self, name="verdicts")

    def setup(self):
        self.start, self.passed, self.reached = time.perf_counter(), [], 0
        if self.outputs is None:
            book_cache.prepare_kernels()
            nbval.plugin.RunningKernel = Kernel
            super().setup()

    def teardown(self):
        memory = nan if self.outputs is not None or self.kernel is None else _peak_memory(self.kernel.km.provisioner)
        super().teardown()
        cells = _code(self.nb)
        if self.outputs is not None or len(self.passed) != len(cells):
            return
        for number, (cell, outputs) in enumerate(zip(cells, self.passed, strict=True), 1):
            cell.outputs, cell.execution_count = outputs, number
        book_cache.keep(self.nb, self.path, time.perf_counter() - self.start, memory)
        sweeps.forget(runtime.chapter(self.path.relative_to(CHAPTERS).with_suffix("").as_posix()))


class Cell(IPyNbCell):
    """A code cell, run in the chapter's kernel or looked at in the cache."""

    def runtest(self):
        if self.parent.outputs is None:
            self.run_in_kernel()
            self.parent.passed.append(self.test_outputs)  # reached only if the cell passed
            return
        for output in self.parent.outputs[self.cell_num]:
            if output.output_type == "error" and not self.options["check_exception"]:
                self.raise_cell_error("Cell execution caused an exception", "\n".join(output.traceback))

    def run_in_kernel(self):
        """Run the cell, unless those before it are lost: with their kernel, or with the pytest worker that had it."""
        if self.parent.reached != self.cell_num:
            raise KernelDied(f"{self.nodeid} is not run: its kernel does not have the cells before it")
        self.parent.reached += 1
        try:
            super().runtest()
        except KernelDied as death:
            self.parent.reached = -1
            raise KernelDied(f"{self.nodeid}: {death}\nThe rest of this chapter is not run; the others are.") from None

    def repr_failure(self, excinfo):
        return str(excinfo.value) if isinstance(excinfo.value, KernelDied) else super().repr_failure(excinfo)


class Verdicts(pytest.Item):
    """The claims that the chapter's cells have recorded."""

    def runtest(self):
        outputs = self.parent.outputs or self.parent.passed
        if len(outputs) != len(_code(self.parent.nb)):
            pytest.fail("the chapter did not reach its end", pytrace=False)
        records = [r for cell in outputs for output in cell for r in output.get("data", {}).get(claims.MIME, [])]
        failing = [
            f"{r['id']} {r['part']}: theory {r['theory']} ± {r['allowance']}, "
            f"measured {r['measured']} in {r['interval']}"
            for r in records
            if r["verdict"] == "fails"
        ]
        if failing:
            pytest.fail("\n".join(failing), pytrace=False)

    def reportinfo(self):
        return self.path, None, f"{self.path.name}: verdicts"


def _code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _peak_memory(provisioner):
    """The most memory that a kernel has had, in bytes; NaN if it is gone, or where the system does not say."""
    try:
        status = Path(f"/proc/{provisioner.process.pid}/status").read_text("utf8")
    except (AttributeError, OSError):
        return nan
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else nan


def _ending(code):
    """How a kernel's process ended, by its exit status, and what to do."""
    if code == -signal.SIGKILL:
        return (
            "the kernel was killed, most likely by the system because memory ran out; take a smaller PRESET, or run "
            "one chapter at a time with JOBS=1"
        )
    names = {-s: s.name for s in signal.Signals}  # real-time signals have none
    how = f"by signal {names.get(code, -code)}" if code < 0 else f"with exit status {code}"
    return f"the kernel ended {how} in the middle of the cell; run the chapter alone to see more"

"""``make test-gpu`` where it cannot run, where there is a GPU, and where the stand-in takes its place."""

import os
import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest

import on_device
import on_gpu
from book_cache import ROOT


@pytest.fixture
def calls(monkeypatch):
    """The calls of pytest, which all fail; a list of (arguments, environment)."""
    found = []
    monkeypatch.setattr(on_gpu, "run", lambda title, arguments, environment: found.append((arguments, environment)))
    monkeypatch.setattr(on_gpu, "has_gpu", lambda: False)
    monkeypatch.setattr(on_gpu, "stand_in", lambda: None)
    return found


@pytest.fixture
def library(monkeypatch, tmp_path):
    """Puts a program that ends as told in the place of the one that builds the stand-in."""
    monkeypatch.setattr(on_gpu, "FAKECUDA", tmp_path)
    (tmp_path / "fakecuda").mkdir()
    return lambda ends: (tmp_path / "fakecuda" / "library.py").write_text(f"import sys\n{ends}\n", "utf8")


@pytest.mark.parametrize(("options", "status"), [([], 0), (["--required"], 1)])
def test_without_a_compiler_it_says_so_and_passes_unless_required(options, status, calls, monkeypatch, capsys):
    monkeypatch.setattr(on_gpu, "stand_in", lambda: "fakecuda needs a C++ compiler")
    assert on_gpu.main(options) == status and calls == []
    assert re.search(r"SKIPPED.*there is none.*C\+\+ compiler", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("ends", "found"),
    [
        ("sys.stderr.write('a warning')", None),
        ("sys.stderr.write('no compiler'); sys.exit(3)", "no compiler"),
        ("sys.exit(3)", ""),
    ],
)
def test_the_stand_in_is_there_or_cannot_be(ends, found, library):
    library(ends)
    assert on_gpu.stand_in() == found


@pytest.mark.parametrize("ends", ["sys.exit('c++ failed')", "sys.exit(1)", "import no_such_module"])
def test_a_broken_stand_in_is_a_failure(ends, library):
    library(ends)
    with pytest.raises(SystemExit, match="is broken"):
        on_gpu.stand_in()


def test_the_stand_in_shares_the_cores_and_a_gpu_is_not_shared(calls, monkeypatch):
    assert on_gpu.main([]) == 1 and calls[2][0][-1] == "chapters"
    assert {environment["FAKECUDA"] for _, environment in calls} == {"1"} and sum("auto" in a for a, _ in calls) == 2
    calls.clear()
    monkeypatch.setattr(on_gpu, "has_gpu", lambda: True)
    assert on_gpu.main(["chapters"]) == 1
    assert {environment["FAKECUDA"] for _, environment in calls} == {""} and not any("auto" in a for a, _ in calls)


def test_ci_runs_it_once_with_all_chapters_and_does_not_skip(tmp_path):
    make = f'#!/bin/sh\nexec {shutil.which("make")} -n "$@"\n'  # says what it would do
    for name, text in {"make": make, "chromium": "#!/bin/sh\n"}.items():
        (tmp_path / name).write_text(text, "utf8")
        (tmp_path / name).chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}  # this may be part of one
    environment["PATH"] = f"{tmp_path}{os.pathsep}{environment['PATH']}"
    done = subprocess.run([ROOT / ".ci" / "run"], env=environment, capture_output=True, text=True, check=True)
    assert re.findall(r"tools/on_gpu\.py(.*)", done.stdout) == [" --required chapters"]


def test_the_library_must_not_be_taken_for_a_package(monkeypatch):
    """For what packages do with tensors of a test is let pass."""
    monkeypatch.setattr(on_device.torch.cuda, "is_available", lambda: True)
    on_device.pytest_configure(None)
    place = "/lib/site-packages/deeplimits/__init__.py"
    monkeypatch.setattr(on_device, "find_spec", lambda name: SimpleNamespace(origin=place))
    with pytest.raises(pytest.exit.Exception, match=f"outside of packages, found {place}; pip install -e"):
        on_device.pytest_configure(None)


def test_the_stand_in_is_for_the_pytorch_of_this_book():
    wanted = re.search(r"^torch==(\S+)$", (ROOT / "requirements.txt").read_text("utf8"), re.MULTILINE)[1]
    source = (on_gpu.FAKECUDA / "fakecuda" / "library.py").read_text("utf8")
    assert f'PYTORCH = "{wanted}"' in source

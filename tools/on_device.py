"""Run unit tests on the GPU without rewriting them: ``pytest -p on_device tests``.

The default device is CUDA, and new generators belong to it, from the collection of the tests on; the library was
imported before. A test may compare its results with NumPy and with tensors on the CPU: what it does so itself is let
pass, what the library does is not. A test that has to be on the CPU says why: ``@pytest.mark.cpu("reason")``.
"""

import importlib
import pkgutil
import sys
from functools import wraps
from pathlib import Path

import pytest
import torch

import deeplimits

TESTS = Path(__file__).resolve().parents[1] / "tests"
Original = torch.Generator


class Generator(Original):
    """A generator on the default device, where the original one is always on the CPU."""

    def __new__(cls, device=None):
        return Original(torch.get_default_device() if device is None else device)


def called_by_test() -> bool:
    """Whether the nearest caller outside of PyTorch, NumPy and the like is a test."""
    frame = sys._getframe(2)
    while "site-packages" in frame.f_code.co_filename:
        frame = frame.f_back
    return Path(frame.f_code.co_filename).is_relative_to(TESTS)


def lenient(function):
    """``function``, which brings tensors to the CPU if it is a test that calls it."""

    @wraps(function)
    def call(*arguments, **options):
        if called_by_test():
            arguments = [x.cpu() if isinstance(x, torch.Tensor) else x for x in arguments]
        return function(*arguments, **options)

    return call


def pytest_configure(config):
    config.addinivalue_line("markers", "cpu(reason): has to be on the CPU; not run on a GPU")
    if not torch.cuda.is_available():
        pytest.exit("on_device needs a GPU, or the stand-in for one: make test-gpu", returncode=2)
    for module in pkgutil.iter_modules(deeplimits.__path__):
        importlib.import_module(f"deeplimits.{module.name}")
    torch.Generator = Generator
    torch.set_default_device("cuda")
    for place, names in (
        (torch, ("allclose", "equal")),
        (torch.testing, ("assert_close",)),
        (torch.Tensor, ("numpy", "__array__")),
    ):
        for name in names:
            setattr(place, name, lenient(getattr(place, name)))


def pytest_runtest_setup(item):
    for mark in item.iter_markers("cpu"):
        pytest.skip(f"on the CPU only: {mark.args[0]}")


@pytest.fixture(autouse=True)
def randomness_of_the_device_is_left_alone():
    """House rule: no function reads or moves the global generators."""
    before = torch.cuda.get_rng_state()
    yield
    assert torch.equal(before, torch.cuda.get_rng_state()), "CUDA's global generator was used"

"""Run unit tests on the GPU without rewriting them: ``pytest -p on_device tests``.

While a test runs the default device is CUDA, and new generators belong to it. The test may compare its results with
NumPy and with tensors on the CPU: what it does so itself is let pass, what the library does is not. The library is
told from packages by its folder, so it must not be among them.
"""

import sys
from functools import wraps
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

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
    if not torch.cuda.is_available():
        pytest.exit("on_device needs a GPU, or the stand-in for one: make test-gpu", returncode=2)
    found = find_spec("deeplimits").origin
    if "site-packages" in found:
        pytest.exit(f"on_device needs the library outside of packages, found {found}; pip install -e .", returncode=2)


@pytest.fixture(autouse=True)
def on_device(monkeypatch):
    """House rule on the device too: no function reads or moves its global generator."""
    monkeypatch.setattr(torch, "Generator", Generator)
    for place, names in (
        (torch, ("allclose", "equal")),
        (torch.testing, ("assert_close",)),
        (torch.Tensor, ("numpy", "__array__")),
    ):
        for name in names:
            monkeypatch.setattr(place, name, lenient(getattr(place, name)))
    state = torch.cuda.get_rng_state  # a test may replace it
    before = state()
    with torch.device("cuda"):
        yield
    assert torch.equal(before, state()), "CUDA's global generator was used"

"""What every unit test shares: one generator, a watch over global state, and false-alarm arithmetic."""

import sys

import numpy as np
import pytest
import torch

# Each statistical check in this suite fails by chance with probability ALPHA; with fewer than 100 checks
# a run is red by chance less than once in a thousand seeds. Seeds are fixed, so a red run is a finding.
ALPHA = 1e-5


torch.set_num_threads(1)  # the workers share the cores, and threads that wait for each other take turns spinning


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(20260)


@pytest.fixture
def counting():
    """``with counting() as count:`` counts the kernels, waits and uploads that a GPU would see."""
    if "fakecuda" not in sys.modules:
        pytest.skip("kernels and waits are counted on the stand-in for CUDA only")
    return sys.modules["fakecuda"].counting


@pytest.fixture(autouse=True)
def global_randomness_is_left_alone():
    """House rule: no function reads or moves the global generators."""
    before_torch, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    yield
    assert torch.equal(before_torch, torch.get_rng_state()), "torch's global generator was used"
    assert np.array_equal(before_numpy, np.random.get_state()[1]), "NumPy's global generator was used"  # noqa: NPY002

"""Graphs of CUDA, replayed by a stand-in that records a function: taken where they are right, and only there."""

import contextlib

import pytest
import torch

from deeplimits import graphs


@pytest.fixture
def state():
    return torch.tensor([1.0, float("nan")], device="cpu"), torch.zeros((), dtype=torch.long, device="cpu")


def step_of(state, calls):
    def step():
        calls.append(1)
        state[0].mul_(1.5)
        state[1].add_(1)

    return step


def recorder(step, replays, fault=None):
    """Graphs that remember ``step``: replay does it, and whatever ``fault`` does after it."""

    class Graph:
        def replay(self):
            replays.append(1)
            step()
            if fault:
                fault()

    return Graph


def install(monkeypatch, Graph, record=lambda graph: contextlib.nullcontext()):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", record)


def test_a_graph_that_is_right_is_replayed(state, monkeypatch):
    replays, quiet = [], []
    step = step_of(state, quiet)
    # a recorded step changes nothing until it is replayed
    install(monkeypatch, recorder(step, replays), lambda graph: _undone(state))
    first = graphs._checked(step, state)
    assert state[0][0] == 1.5 and state[1] == 1 and replays == [1]
    first()
    assert state[0][0] == 1.5**2 and state[1] == 2 and replays == [1, 1]


@pytest.mark.parametrize("fault", ["number", "counter", "nan", "refused"])
def test_a_graph_that_is_wrong_or_refused_is_not(fault, state, monkeypatch):
    spoil = {
        "number": lambda: state[0].mul_(1.01),
        "counter": lambda: state[1].add_(1),
        "nan": lambda: state[0].nan_to_num_(7.0),
    }
    step, replays = step_of(state, []), []

    def refuse(graph):
        raise RuntimeError("operation not permitted when stream is capturing")

    record = refuse if fault == "refused" else lambda graph: _undone(state)
    install(monkeypatch, recorder(step, replays, spoil.get(fault)), record)
    chosen = graphs._checked(step, state)
    assert chosen is step and len(replays) == (fault != "refused")
    assert state[0][0] == 1.5 and state[0][1].isnan() and state[1] == 1


def test_without_room_for_the_check_the_step_is_done_once(state, monkeypatch):
    def full(tensor):
        raise torch.OutOfMemoryError("CUDA out of memory")

    step = step_of(state, [])
    monkeypatch.setattr(torch.Tensor, "clone", full)
    assert graphs._checked(step, state) is step and state[0][0] == 1.5


def test_there_is_nothing_to_repeat_on_the_cpu(state):
    step = step_of(state, [])
    assert graphs.repeatable(step, state) is step


@contextlib.contextmanager
def _undone(state):
    before = [t.clone() for t in state]
    yield
    for t, old in zip(state, before, strict=True):
        t.copy_(old)

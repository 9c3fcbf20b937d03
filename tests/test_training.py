"""Descent of many networks against the formulas unit by unit, against autograd, and against each network alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from deeplimits import fused, training
from deeplimits.activations import gelu, identity, relu, shifted_tanh, tanh
from deeplimits.training import Networks, descent, gaussian, spread, together

D, N = 4, 6


@pytest.fixture
def examples(generator):
    return torch.randn(2, N, D, dtype=torch.float64, generator=generator).unbind(0)


def last(steps):
    return list(steps)[-1]


def one_by_one(U, V, x, y, steps, alpha, eta_u, eta_v):
    """The recursions of the claim for one network, unit by unit and example by example; U, V (L, M, D)."""
    U, V, (L, M, _) = U.copy(), V.copy(), U.shape
    outputs = []
    for _ in range(steps + 1):
        h = np.zeros((L + 1, N, D))
        b = np.zeros((L + 1, N, D))
        h[0] = x
        for l in range(L):  # noqa: E741
            for i in range(N):
                blocks = [V[l, j] * math.tanh(U[l, j] @ h[l, i] / D) for j in range(M)]
                h[l + 1, i] = h[l, i] + alpha / (L * M) * sum(blocks)
        outputs.append(h[L].copy())
        b[L] = (h[L] - y) / (N * D)
        for l in reversed(range(L)):  # noqa: E741
            for i in range(N):
                slopes = [1 - math.tanh(u @ h[l, i] / D) ** 2 for u in U[l]]
                pulls = [U[l, j] * slopes[j] * (V[l, j] @ b[l + 1, i]) for j in range(M)]
                b[l, i] = b[l + 1, i] + alpha / (L * M * D) * sum(pulls)
        for l in range(L):  # noqa: E741
            for j in range(M):
                z = h[l] @ U[l, j] / D
                du = ((1 - np.tanh(z) ** 2) * (b[l + 1] @ V[l, j])) @ h[l] / D
                dv = np.tanh(z) @ b[l + 1]
                U[l, j] -= eta_u / alpha * du
                V[l, j] -= eta_v / alpha * dv
    return np.stack(outputs)


def test_training_against_the_formulas_unit_by_unit(generator, examples):
    x, y = examples
    networks = gaussian(3, 2, D, 2, generator, alpha=1.5)
    expected = [
        one_by_one(
            *(W[:, n].mT.numpy() for W in (networks.U, networks.V)), *(z.numpy() for z in examples), 4, 1.5, 2, 3
        )
        for n in range(2)
    ]
    outputs = torch.stack([s.output.clone() for s in descent(networks, x, y, 4, eta=0.5, eta_u=4.0, eta_v=6.0)], 1)
    np.testing.assert_allclose(outputs, np.stack(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("phi", [tanh, relu, identity])
@pytest.mark.parametrize("ahead", [0.0, 0.5])
def test_one_step_against_autograd(phi, ahead, generator, examples):
    """Also of the second-order scheme, of networks filled up with zeros, and of rates for each network."""
    x, y = examples
    networks = together([gaussian(5, 3, D, 2, generator, alpha=1.7, phi=phi), gaussian(3, 2, D, 1, generator, phi=phi)])
    U, V = (W.clone().requires_grad_() for W in (networks.U, networks.V))
    mean = (networks.alpha / networks.units)[:, None, None]
    total, block, path = x.expand(3, N, D), 0.0, []
    for u, v in zip(U, V, strict=True):
        path.append((total + ahead * block if ahead else total).requires_grad_())
        path[-1].retain_grad()
        block = mean * (phi.f(path[-1] @ u / D) @ v.mT)
        total = total + block
    loss = (total - y).square().mean((1, 2)) / 2
    loss.sum().backward()
    rates = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    steps = descent(networks, x, y, 1, eta=0.3, eta_u=2.0, eta_v=rates, ahead=ahead)
    step = next(steps)
    torch.testing.assert_close(step.loss, loss.detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(step.h[:-1], torch.stack(path).detach(), rtol=0, atol=1e-10)
    if not ahead:
        torch.testing.assert_close(step.b[:-1], torch.stack([h.grad for h in path]), rtol=0, atol=1e-10)
    next(steps)
    scale = 0.3 * (networks.units / networks.alpha**2)[:, None, None]
    torch.testing.assert_close(networks.U, (U - scale * 2.0 * U.grad).detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(networks.V, (V - scale * rates[:, None, None] * V.grad).detach(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("phi", [tanh, relu, identity, shifted_tanh(0.5)])
@pytest.mark.parametrize("ahead", [0.0, 0.5])
def test_the_operations_of_a_gpu_against_the_compiled_loops(phi, ahead, generator, examples, monkeypatch):
    """PyTorch's operations, here on the CPU, with a network that diverges at once and one that has just done so."""
    if not fused.step:
        pytest.skip("needs Numba")
    monkeypatch.setenv("DEEPLIMITS_FILL", "inf")  # both on the CPU, wherever the weights lie
    networks = gaussian(4, 7, D, 3, generator, phi=phi)
    for W in (networks.U, networks.V):
        W[1:3, :, :, 5:] = 0  # units that stay zero if phi(0) = 0, and only then
    other, rates = networks.copy(), torch.tensor([4.0, 1e12, 0.0], dtype=torch.float64)
    here = [(s.h.clone(), s.b.clone(), s.loss, s.diverged) for s in descent(networks, *examples, 2, eta_v=rates)]
    monkeypatch.setattr(fused, "step", None)
    there = [(s.h.clone(), s.b.clone(), s.loss, s.diverged) for s in descent(other, *examples, 2, eta_v=rates)]
    assert here[-1][3].tolist() == [-1, 1, -1]
    for mine, its in zip((*here, (networks.U, networks.V)), (*there, (other.U, other.V)), strict=True):
        for a, b in zip(mine, its, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_a_step_on_a_gpu_neither_waits_nor_copies(counting, monkeypatch):
    """At most 19 kernels a layer and step and 30 a step, however many there are; nothing comes or goes."""
    monkeypatch.setenv("DEEPLIMITS_FILL", "0")
    generator = torch.Generator("cuda").manual_seed(3)
    x, y = torch.randn(2, N, D, device="cuda", generator=generator).unbind(0)
    found = {}
    for L, steps in ((10, 10), (20, 10), (10, 20)):
        networks = gaussian(L, 3, D, 2, generator, dtype=torch.float32)
        with counting() as count:
            last(descent(networks, x, y, steps))
        found[L, steps] = count.kernels, count.waits, count.uploads
    kernels, waits, uploads = (dict(zip(found, column, strict=True)) for column in zip(*found.values(), strict=True))
    assert len(set(waits.values())) == len(set(uploads.values())) == 1
    assert kernels[20, 10] - kernels[10, 10] <= 11 * 10 * 19
    assert kernels[10, 20] - kernels[10, 10] <= 10 * (10 * 19 + 30)


@pytest.mark.parametrize("fill", ["0", "inf"])
def test_where_it_runs_changes_no_digit_that_counts(fill, counting, monkeypatch):
    """On the device or on the CPU: the weights of a device are trained in place, and what is yielded lies there."""
    monkeypatch.setenv("DEEPLIMITS_FILL", fill)
    generator = torch.Generator("cuda").manual_seed(4)
    x, y = torch.randn(2, N, D, device="cuda", generator=generator, dtype=torch.float64).unbind(0)
    networks = gaussian(4, 3, D, 2, generator)
    reference = Networks(*(t.cpu() for t in (networks.U, networks.V, networks.alpha, networks.units)))
    step, mine = last(descent(networks, x, y, 12)), last(descent(reference, x.cpu(), y.cpu(), 12))
    assert {t.device.type for t in (step.h, step.b, step.loss, step.diverged, networks.U)} == {"cuda"}
    torch.testing.assert_close(step.h.cpu(), mine.h, rtol=0, atol=1e-12)
    torch.testing.assert_close(networks.V.cpu(), reference.V, rtol=0, atol=1e-12)


def test_threads_change_no_bit(generator, examples, monkeypatch):
    networks = together([gaussian(5, 9, D, 3, generator), gaussian(3, 2, D, 2, generator)])
    other, threads = networks.copy(), torch.get_num_threads()
    alone = last(descent(networks, *examples, 3))
    monkeypatch.setattr(training, "THREADED", 0)
    try:
        torch.set_num_threads(2)
        shared = last(descent(other, *examples, 3))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone.h, shared.h) and torch.equal(networks.U, other.U) and torch.equal(networks.V, other.V)


def test_views_and_single_precision_are_trained_in_place(generator, examples):
    """Weights that are no contiguous memory, and float32, which the loops round as PyTorch does."""
    networks = gaussian(4, 3, D, 2, generator)
    wide = Networks(networks.U.mT.contiguous().mT, networks.V.clone(), networks.alpha, networks.units)
    single = Networks(*(t.float() for t in (networks.U, networks.V, networks.alpha, networks.units)))
    for other, rounding in ((wide, 0.0), (single, 1e-5)):
        reference = networks.copy()
        mine = last(descent(reference, *examples, 3))
        its = last(descent(other, *(z.to(other.U.dtype) for z in examples), 3))
        torch.testing.assert_close(its.h.double(), mine.h, rtol=rounding, atol=rounding)
        torch.testing.assert_close(other.V.double(), reference.V, rtol=rounding, atol=rounding)


def test_networks_filled_up_with_zeros_train_as_alone(generator, examples):
    shapes = [(6, 1), (2, 5), (4, 3)]
    alone = [gaussian(L, M, D, 2, generator) for L, M in shapes]
    packed = together([networks.copy() for networks in alone])
    step = last(descent(packed, *examples, 5))
    for i, (networks, (L, M)) in enumerate(zip(alone, shapes, strict=True)):
        mine, n = last(descent(networks, *examples, 5)), slice(2 * i, 2 * i + 2)
        torch.testing.assert_close(step.output[:, :][n], mine.output)
        torch.testing.assert_close(step.loss[n], mine.loss)
        torch.testing.assert_close(packed.U[:L, n, :, :M], networks.U)
        assert not packed.U[L:, n].any() and not packed.V[:, n, :, M:].any()


def test_steps_are_counted_and_the_last_makes_no_update(generator, examples):
    networks = gaussian(3, 2, D, 2, generator)
    once, thrice = networks.copy(), networks.copy()
    steps, weights = zip(*((step, thrice.U.clone()) for step in descent(thrice, *examples, 3)), strict=True)
    assert [step.k for step in steps] == [0, 1, 2, 3] and steps[-1].diverged.tolist() == [-1, -1]
    first, second = (step.loss for step in descent(once, *examples, 1))
    assert torch.equal(once.U, weights[0]) and not torch.equal(once.U, networks.U)
    assert torch.equal(next(descent(networks, *examples, 1)).loss, first)
    assert torch.equal(next(descent(once, *examples, 1)).loss, second)
    assert torch.equal(weights[2], weights[3])


def test_a_diverged_network_ends_alone_and_is_recorded(generator, examples):
    networks = gaussian(4, 3, D, 3, generator)
    healthy = networks.copy()
    rates = torch.tensor([4.0, 1e9, 4.0], dtype=torch.float64)
    steps = [
        (s.loss.clone(), s.diverged.clone(), s.output.clone()) for s in descent(networks, *examples, 8, eta_v=rates)
    ]
    reference = last(descent(healthy, *examples, 8))
    loss, diverged, output = steps[-1]
    k = int(diverged[1])
    assert diverged[[0, 2]].tolist() == [-1, -1] and k > 0
    assert all(s[0][1].isfinite() for s in steps[:k]) and all(s[0][1].isnan() for s in steps[k:])
    assert output[1].isnan().all() and networks.U[:, 1].isnan().all()
    assert torch.equal(loss[[0, 2]], reference.loss[[0, 2]])
    assert torch.equal(networks.V[:, [0, 2]], healthy.V[:, [0, 2]])


def test_an_infinite_first_loss_ends_a_network_at_once(generator, examples):
    networks = gaussian(3, 2, D, 2, generator)
    networks.V[:, 0] *= 1e200
    step = last(descent(networks, *examples, 2))
    assert step.diverged.tolist() == [0, -1] and step.loss[0].isnan() and step.loss[1].isfinite()


def test_targets_of_another_type_train_as_numbers_do(generator, examples):
    """Signs given as integers, and examples in single precision for weights in double."""
    x, y = examples
    signs = (y > 0).long()
    for its, mine in (((x, signs), (x, signs.double())), ((x.float(), y), (x.float().double(), y))):
        networks = gaussian(3, 2, D, 2, generator)
        other = networks.copy()
        assert torch.equal(last(descent(networks, *its, 3)).h, last(descent(other, *mine, 3)).h)


def test_a_replaced_activation_is_not_taken_for_the_old_one(generator, examples):
    def pull(p, value):
        p.mul_(torch.where(value > 0, 1.0, 0.5))

    leaky = replace(
        relu, f=lambda z: torch.where(z > 0, z, z / 2), write=lambda z: z.mul_(torch.where(z > 0, 1.0, 0.5))
    )
    leaky = replace(leaky, pull=pull)
    networks = gaussian(3, 2, D, 2, generator, phi=leaky)
    h = examples[0].expand(2, N, D)
    for U, V in zip(networks.U, networks.V, strict=True):
        h = h + leaky.f(h @ U / D) @ V.mT / 6
    torch.testing.assert_close(next(descent(networks, *examples, 1)).output, h, rtol=0, atol=1e-12)


def test_the_initial_law(generator):
    networks = gaussian(20, 30, 9, 7, generator, sigma_v=0.5)
    assert networks.U.shape == networks.V.shape == (20, 7, 9, 30) and networks.units.tolist() == [600.0] * 7
    assert float(networks.U.std()) == pytest.approx(3.0, rel=0.02)  # 37 800 draws: relative error 0.0036
    assert float(networks.V.std()) == pytest.approx(0.5, rel=0.02)
    assert not gaussian(2, 2, 3, 1, generator, sigma_v=0.0).V.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be a positive integer"),
        ({"eta": math.inf}, "eta must be finite"),
        ({"eta_u": -1.0}, "eta_u must be a finite number >= 0"),
        ({"eta_v": torch.ones(5)}, "one for each of the 2 networks"),
        ({"eta_v": math.nan}, "eta_v must be a finite number >= 0"),
        ({"x": torch.zeros(N, D + 1)}, r"shape \(examples, D = 4\)"),
        ({"y": torch.zeros(N - 1, D)}, "x and y must both have the shape"),
        ({"y": torch.full((N, D), math.inf)}, "x and y must be finite"),
        ({"x": torch.zeros(0, D), "y": torch.zeros(0, D)}, "x and y must hold one example at least"),
    ],
)
def test_bad_settings_are_refused(change, message, generator, examples):
    settings = dict(zip(("x", "y"), examples, strict=True)) | {"steps": 2} | change
    with pytest.raises(ValueError, match=message):
        next(descent(gaussian(2, 2, D, 2, generator), **settings))


def test_bad_networks_are_refused(generator):
    good = gaussian(2, 3, D, 2, generator)
    for bad in [(good.U[0], good.V[0]), (good.U, good.V[:1]), (good.U[:, :1], good.V[:, :1])]:
        with pytest.raises(ValueError, match="U and V must have one shape"):
            Networks(*bad, good.alpha, good.units)
    with pytest.raises(ValueError, match="derivative as a function of its value"):
        gaussian(2, 3, D, 2, generator, phi=gelu)
    with pytest.raises(TypeError, match="phi must be of type Activation"):
        gaussian(2, 3, D, 2, generator, phi="tanh")
    with pytest.raises(ValueError, match="alpha must be positive"):
        gaussian(2, 3, D, 2, generator, alpha=0.0)
    with pytest.raises(ValueError, match="must share width and activation"):
        together([good, gaussian(2, 3, D + 1, 2, generator)])
    with pytest.raises(ValueError, match="rho\\(0\\) = 0"):
        together([gaussian(2, 3, D, 2, generator, phi=shifted_tanh(0.5))])
    assert training.CEILING > 1


def test_spread_units_are_the_same_in_wider_blocks(generator):
    """Blocks 2l and 2l + 1 become block l, unit for unit; what comes back may be changed without the original."""
    networks = gaussian(6, 2, D, 3, generator)
    for W, wide in zip((networks.U, networks.V), spread(networks.U, networks.V, 3), strict=True):
        assert wide.shape == (3, 3, D, 4)
        for block in range(6):
            assert torch.equal(wide[block // 2, ..., 2 * (block % 2) :][..., :2], W[block])
    same = spread(networks.U, networks.V, 6)
    assert torch.equal(same[0], networks.U)
    same[0].zero_()
    assert networks.U.any()
    with pytest.raises(ValueError, match="depth must divide the number of blocks, got 4 for 6"):
        spread(networks.U, networks.V, 4)

"""The Mean ODE against collocation in depth, its error bar against repeated solutions, its units against its flow."""

import math
import pickle

import numpy as np
import pytest
import torch
from scipy import integrate
from scipy.stats import qmc

from deeplimits import data, mean_ode, training
from deeplimits.activations import identity, tanh
from deeplimits.training import Networks, descent

D, N = 3, 4


@pytest.fixture
def examples(generator):
    return data.regression(N, D, generator)


def same_units_everywhere(nodes, U, V):
    """A network whose nodes all start from the same units: its limit in depth has no sampling error."""
    ones = torch.ones(1, dtype=torch.float64)
    return Networks(*(W.expand(nodes, 1, D, -1).contiguous() for W in (U, V)), ones, ones * nodes * U.shape[-1])


def outputs(networks, examples, steps, ahead):
    return torch.stack([step.output[0].clone() for step in descent(networks, *examples, steps, ahead=ahead)])


def collocation(U, V, x, y, steps, nodes, rho=np.tanh, slope=lambda a: 1 - a**2):
    """The same limit by Gauss-Legendre collocation on the whole of [0, 1], solved by fixed-point sweeps.

    ``slope`` is rho' as a function of the value of rho.
    """
    t, w = np.polynomial.legendre.leggauss(nodes)
    s, w = (t + 1) / 2, w / 2
    A = np.empty((nodes, nodes))
    for r in range(nodes):
        basis = np.poly1d([1.0])
        for q in set(range(nodes)) - {r}:
            basis = basis * np.poly1d([1, -s[q]]) / (s[r] - s[q])
        A[:, r] = basis.integ()(s) - basis.integ()(0)
    U, V = (np.repeat(W.numpy(), nodes, 0) for W in (U, V))  # (nodes, D, P)
    found, P = [], U.shape[-1]
    for _ in range(steps + 1):
        h = np.repeat(x[None], nodes, 0)
        for _ in range(25):
            a = rho(h @ U / D)
            drift = a @ V.swapaxes(1, 2) / P
            h = x + np.einsum("qr,rid->qid", A, drift)
        found.append(x + np.einsum("r,rid->id", w, drift))
        end = (found[-1] - y) / (N * D)
        b = np.repeat(end[None], nodes, 0)
        for _ in range(25):  # b(s) = b(1) + int_s^1 J^T b
            g = slope(a) * (b @ V)
            pull = g @ U.swapaxes(1, 2) / (P * D)
            b = end + np.einsum("qr,rid->qid", w - A, pull)
        U, V = U - h.swapaxes(1, 2) @ g, V - D * b.swapaxes(1, 2) @ a
    return torch.as_tensor(np.stack(found))


def test_depth_is_of_second_order_against_collocation(generator, examples):
    U, V = mean_ode.particles(1, 64, D, 1, mean_ode.normal(D), generator)
    x, y = (z.numpy() for z in examples)
    truth = collocation(U[0], V[0], x, y, 4, 9)
    torch.testing.assert_close(collocation(U[0], V[0], x, y, 4, 7), truth, rtol=0, atol=1e-7)

    def gaps(ahead):
        return [
            float((outputs(same_units_everywhere(n, U, V), examples, 4, ahead) - truth)[-1].norm())
            for n in (16, 32, 64)
        ]

    for ahead, order in ((0.5, 2), (0.0, 1)):
        first, second, third = gaps(ahead)
        assert math.log2(first / second) == pytest.approx(order, abs=0.15)
        assert math.log2(second / third) == pytest.approx(order, abs=0.08)


def first_step_paths(U, V, x, y, s):
    """h_1 and b_1 at the depths ``s`` by SciPy: units (P, D) have moved once, by the gradients of h = x, b constant."""
    e, g = (x - y) / (N * D), np.tanh(x @ U.T / D)
    pull = (1 - g**2) * (e @ V.T)
    U, V = U - pull.T @ x, V - D * g.T @ e
    P, settings = len(U), {"dense_output": True, "rtol": 1e-10, "atol": 1e-12}

    def forward(_, h):
        return (np.tanh(h.reshape(N, D) @ U.T / D) @ V).ravel() / P

    up = integrate.solve_ivp(forward, (0, 1), x.ravel(), **settings).sol

    def backward(s, b):
        slope = 1 - np.tanh(up(s).reshape(N, D) @ U.T / D) ** 2
        return -((slope * (b.reshape(N, D) @ V.T)) @ U).ravel() / (P * D)

    down = integrate.solve_ivp(backward, (1, 0), (up(1.0) - y.ravel()) / (N * D), **settings).sol
    return (z(s).T.reshape(len(s), N, D) for z in (up, down))


def test_every_node_is_of_second_order_against_scipy(generator, examples):
    """The same mirrored units for every point: after one step the limit is an ODE with known right-hand side."""
    U, V = math.sqrt(D) * torch.randn(2, 16, D, dtype=torch.float64, generator=generator).numpy()
    U, V = np.concatenate([U, U]), np.concatenate([V, -V])  # no drift at step 0

    def law(points):
        return tuple(np.broadcast_to(W, (len(points), *W.shape)) for W in (U, V))

    def worst(nodes):
        found = mean_ode.solve(*examples, 1, generator, nodes=nodes, particles=1, replicates=1, law=law)
        truth = first_step_paths(U, V, *(z.numpy() for z in examples), found.s)
        pairs = zip((found.h[1], found.b[1]), truth, strict=True)
        return np.array([np.abs(z.numpy() - w).max() / np.abs(w).max() for z, w in pairs])

    errors = [worst(nodes) for nodes in (16, 32, 64)]
    np.testing.assert_allclose(np.log2(errors[0] / errors[1]), 2, atol=0.25)
    np.testing.assert_allclose(np.log2(errors[1] / errors[2]), 2, atol=0.15)
    single = mean_ode.solve(*examples, 1, generator, nodes=1, particles=16, replicates=1)
    torch.testing.assert_close(single.h[:, 1], single.h[:, ::2].mean(1))
    torch.testing.assert_close(single.b[:, 1], single.b[:, ::2].mean(1))


def test_a_solution_can_be_sent_to_another_process(generator, examples):
    solution = mean_ode.solve(*examples, 2, generator, nodes=4, particles=4)
    back = pickle.loads(pickle.dumps(solution))
    u, v = torch.randn(2, 3, D, dtype=torch.float64, generator=generator)
    s = np.array([0.1, 0.5, 0.9])
    assert back.phi is tanh
    for here, there in zip(solution.carry(u, v, s), back.carry(u, v, s), strict=True):
        assert torch.equal(here, there)


def test_the_error_bar_is_that_of_repeated_solutions(generator, examples):
    """40 solutions against the mean of all: the mean of (gap/error)^2 over them is 1, or nearly.

    The gap is measured per solution over N D = 12 dependent coordinates and the bar from 4 replicates (3 degrees of
    freedom). Under the null the ratio of means has a relative deviation of about 0.2 here, and 0.6 to 1.6 is missed
    with a probability below 1e-3; a bar that forgets the division by the replicates is off by a factor 4.
    """
    runs = [mean_ode.solve(*examples, 4, generator, nodes=4, particles=16) for _ in range(40)]
    all_outputs = torch.stack([r.output[-1] for r in runs])
    gaps = all_outputs.var(0).mean()
    bars = torch.stack([r.error[-1] ** 2 for r in runs]).mean()
    assert 0.6 < float(gaps / bars) < 1.6
    assert all(float(r.error[0]) < 1e-14 for r in runs)  # the drifts of mirror images cancel at initialisation


def test_more_particles_agree_within_the_bars(generator, examples):
    small = mean_ode.solve(*examples, 6, generator, nodes=16, particles=16)
    large = mean_ode.solve(*examples, 6, generator, nodes=32, particles=128)
    gap = (small.output - large.output)[-1].square().mean().sqrt()
    assert float(gap) < 4 * float(torch.hypot(small.error[-1], large.error[-1]))
    assert float(large.error[-1]) < float(small.error[-1])


def test_carried_units_are_the_trained_ones(generator, examples):
    """Carried by the network's own h and b at its nodes, its units end where training took them."""
    networks = training.gaussian(8, 8, D, 1, generator, alpha=2.0)
    first = [W[:, 0].swapaxes(1, 2).flatten(0, 1).clone() for W in (networks.U, networks.V)]
    h, b = [], []
    for step in descent(networks, *examples, 5, ahead=0.5, eta=0.7, eta_v=2.0):
        h.append(torch.cat([examples[0][None], step.h[:, 0]]))
        b.append(torch.cat([step.b[:, 0], step.b[-1:, 0]]))
    h, b, rest = torch.stack(h), torch.stack(b), torch.zeros(6)
    own = mean_ode.Solution(mean_ode.depths(8), h, b, rest, h[None, :, -1], rest, 0.35 * D, 0.7, tanh)
    u, v = own.carry(*first, np.repeat(own.s[1:-1], 8))
    for carried, W in ((u, networks.U), (v, networks.V)):
        assert carried.shape == (6, 64, D)
        there = W[:, 0].swapaxes(1, 2).flatten(0, 1)
        torch.testing.assert_close(carried[-1], there, rtol=0, atol=1e-12)
        assert float((carried[-1] - carried[0]).abs().max()) > 1e-2
    assert own.error.isnan().all()


def test_a_solution_has_the_rates_of_its_units(generator, examples):
    rates = {"alpha": 2.0, "eta": 0.7, "eta_v": 2.0}
    solution = mean_ode.solve(*examples, 1, generator, nodes=4, particles=4, **rates)
    assert (solution.eta_u, solution.eta_v) == pytest.approx((0.35 * D, 0.7))


def test_the_flow_starts_at_the_inputs_and_ends_in_the_loss(generator, examples):
    x, y = examples
    solution = mean_ode.solve(x, y, 3, generator, nodes=16, particles=64)
    h, b = solution.at(np.array([0.0, 0.3, 1.0]))
    assert torch.equal(h[:, 0], x.expand(4, N, D))
    torch.testing.assert_close(h[:, 2], solution.output)
    torch.testing.assert_close(b[:, 2], (solution.output - y) / (N * D))
    torch.testing.assert_close(solution.loss, (solution.output - y).square().mean((1, 2)) / 2)
    assert solution.loss.diff().max() < 0 and solution.outputs.shape == (4, 4, N, D)


def test_particles_have_their_law(generator):
    U, V = mean_ode.particles(4, 256, D, 2, mean_ode.normal(D, 1.5, 0.5), generator)
    assert U.shape == V.shape == (4, 2, D, 512)
    torch.testing.assert_close(
        U[..., :].mT.reshape(4, 2, 256, 2, D)[..., 0, :], U.mT.reshape(4, 2, 256, 2, D)[..., 1, :]
    )
    assert not V.mT.reshape(4, 2, 256, 2, D).sum(3).any()
    assert float(U.std()) == pytest.approx(1.5, rel=0.02) and float(V.std()) == pytest.approx(0.5, rel=0.02)
    assert float(U.mean((1, 3)).abs().max()) < 0.05  # each node has the law; independent draws would allow 0.2
    assert not torch.equal(U[:, 0], U[:, 1])


def test_nodes_are_filled_in_the_order_of_depth():
    """The points of a node are those of the sequence whose first coordinate lies in its interval."""
    as_they_are = lambda points: (points[:, None, :1], points[:, None, 1:])  # noqa: E731
    U, _ = mean_ode.particles(4, 8, 1, 1, as_they_are, torch.Generator().manual_seed(3))
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(3)))
    depth, u, _ = qmc.Sobol(3, rng=np.random.default_rng(seed)).random(32).T
    for node in range(4):
        inside = (depth >= node / 4) & (depth < (node + 1) / 4)
        np.testing.assert_allclose(np.sort(U[node, 0, 0]), np.sort(u[inside]), rtol=0, atol=1e-9)


def test_a_law_of_its_own_and_linear_blocks(generator, examples):
    """Linear blocks, v = 0, u held by eta_u = 0: V_1 = -eta_v/alpha sum_i b_i <u, x_i>/D, and h_1 is an exponential."""
    x, y = examples

    def law(points):
        u = math.sqrt(D) * np.eye(D)[(points[:, 0] * D).astype(int)]  # E u u^T = I
        return u[:, None], 0 * u[:, None]

    solution = mean_ode.solve(
        x, y, 1, generator, nodes=64, particles=4096, replicates=2, law=law, eta_u=0.0, phi=identity
    )
    b = (x - y) / (N * D)
    B = -D * (b.mT @ x) / D**2  # dh/ds = B h, E u u^T = I
    torch.testing.assert_close(solution.output[1], x @ torch.linalg.matrix_exp(B).mT, rtol=0, atol=2e-3)


def exact_moments(points):
    """All pairs of u = D e_i and v = +-D e_j: E u u^T = E v v^T = D I and E v u^T = 0 without a sampling error."""
    width = points.shape[1] // 2
    i, j = np.indices((width, width)).reshape(2, -1)
    u, v = (np.concatenate([width * np.eye(width)[k]] * 2) for k in (i, j))
    v[width * width :] *= -1
    return tuple(np.broadcast_to(W, (len(points), *W.shape)) for W in (u, v))


LINEAR = {"rho": lambda z: z, "slope": np.ones_like}


def test_the_linear_limit_against_collocation_of_particles(generator, examples):
    """Other unknowns, units in place of their second moments, and another way to solve for them."""
    x, y = examples
    U, V = (W[:1].swapaxes(1, 2) for W in exact_moments(np.zeros((1, 2 * D))))
    truth = collocation(*map(torch.as_tensor, (U.copy(), V.copy())), x.numpy(), y.numpy(), 8, 10, **LINEAR)
    found = mean_ode.linear(x, y, 8)
    torch.testing.assert_close(found.output, truth, rtol=0, atol=1e-9)
    assert float(found.error.max()) < 1e-10 and float((truth - x)[-1].norm()) > 1
    torch.testing.assert_close(found.at(np.array([0.0, 1.0]))[0], found.h[:, :: len(found.s) - 1], rtol=0, atol=1e-12)


def test_the_linear_limit_has_its_rates_and_scales(generator, examples):
    """One step by hand: at first G is the same at every depth, and so is the new E[V U^T]."""
    rates = {"alpha": 1e-3, "eta": 0.5, "eta_u": 2e-6, "eta_v": 3e-6}
    found = mean_ode.linear(*examples, 1, sigma_u=1.5, sigma_v=0.5, **rates)
    x, y = examples
    G = x.mT @ (x - y) / (N * D)
    p, q = 0.5 * 2e-6 / (1e-3 * D), 0.5 * 3e-6 / (1e-3 * D)
    A = -q * 2.25 * G.mT - p * 0.25 * G.mT
    torch.testing.assert_close(found.output[1], x @ torch.linalg.matrix_exp(1e-3 / D * A).mT, rtol=0, atol=1e-13)
    assert (found.eta_u, found.eta_v) == pytest.approx((1e-3, 1.5e-3))


def test_depth_is_corrected_and_its_error_stated(generator, examples):
    """Linear blocks without a sampling error: what is left in depth falls as nodes^-4, below the stated error."""
    truth = mean_ode.linear(*examples, 10)
    sizes = {"particles": 1, "replicates": 2, "law": exact_moments, "phi": identity}
    gaps, stated = [], []
    for nodes in (32, 64, 128):
        found = mean_ode.solve(*examples, 10, generator, nodes=nodes, **sizes)
        gaps.append((found.output - truth.output)[-1].square().mean().sqrt())
        stated.append(found.error[-1])
        assert float(found.sampling.max()) < 1e-12
    ratios = [float(z) for z in (gaps[0] / gaps[1], gaps[1] / gaps[2])]
    assert np.log2(ratios).tolist() == pytest.approx([4, 4], abs=0.6)
    assert all(2 < float(e / g) < 200 for e, g in zip(stated, gaps, strict=True))


def test_the_error_bar_holds_at_default_settings(generator):
    """Linear blocks, where the depth counts most, against the exact limit: 3 data sets, 3 solutions of each.

    The mean of (gap/error)^2 over them is 1 if the bar is right, and scatters by about 0.3: 9 means over some 40
    dependent entries, bars of 3 degrees of freedom. With the sampling error alone, on 64 nodes, it was 10 to 400.
    """
    shares = []
    for n, width in ((4, 5), (3, 8), (6, 4)):
        x, y = data.regression(n, width, generator)
        truth = mean_ode.linear(x, y, 8).output[-1]
        runs = [mean_ode.solve(x, y, 8, generator, phi=identity) for _ in range(3)]
        gaps = torch.stack([(found.output[-1] - truth).square().mean() for found in runs])
        shares.append(gaps.mean() / torch.stack([found.error[-1] ** 2 for found in runs]).mean())
    assert 0.3 < float(sum(shares) / 3) < 2.5


def test_a_tolerance_is_looked_after(generator, examples):
    settings = {"particles": 64, "replicates": 4}
    mean_ode.solve(*examples, 5, generator, nodes=32, tolerance=0.05, **settings)
    with pytest.raises(ValueError, match=r"sampling error is .*: raise particles or replicates$"):
        mean_ode.solve(*examples, 5, generator, nodes=64, particles=2, tolerance=5e-3)
    with pytest.raises(ValueError, match=r"is not reached; the error in depth is .*: raise nodes"):
        mean_ode.solve(*examples, 5, generator, nodes=2, particles=512, replicates=8, tolerance=4e-3)
    with pytest.raises(ValueError, match="replicates must be at least 2"):
        mean_ode.solve(*examples, 5, generator, nodes=2, replicates=1, tolerance=4e-3)
    with pytest.raises(ValueError, match="nodes must be at least 2"):
        mean_ode.solve(*examples, 5, generator, nodes=1, tolerance=4e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": 12}, "nodes must be a power of two.*take 8 or 16"),
        ({"particles": 100}, "particles must be a power of two.*take 64 or 128"),
        ({"replicates": 0}, "replicates must be a positive integer"),
        ({"alpha": 0.0}, "alpha must not be zero"),
        ({"eta_v": 1e9}, "the Mean ODE diverged at step . of 5, on 4 nodes: the learning rates are too large"),
        ({"tolerance": -1.0}, "tolerance must be positive"),
    ],
)
def test_bad_settings_are_refused(change, message, generator, examples):
    with pytest.raises(ValueError, match=message):
        mean_ode.solve(*examples, 5, generator, **({"nodes": 4, "particles": 16} | change))


def test_a_law_of_wrong_shape_is_refused(generator):
    for bad in (lambda p: (p[:, None], p[:, None]), lambda p: (p[:, :D], p[:, D:]), lambda p: (p[:1, None, :D],) * 2):
        with pytest.raises(ValueError, match=r"law must return u and v of one shape \(points, copies, width\)"):
            mean_ode.particles(2, 4, D, 1, bad, generator)


def test_bad_units_and_depths_are_refused(generator, examples):
    solution = mean_ode.solve(*examples, 1, generator, nodes=4, particles=16)
    with pytest.raises(ValueError, match="depths between 0 and 1"):
        solution.at(np.array([1.2]))
    with pytest.raises(ValueError, match="give each unit its depth"):
        solution.carry(torch.zeros(2, D), torch.zeros(2, D), np.array([0.5]))


def test_dimension_enters_through_scalar_products_only(generator, examples):
    """Data turned into four times as many dimensions, at the same products per dimension, turn the outputs alike."""
    frame = 2 * torch.linalg.qr(torch.randn(4 * D, D, generator=generator, dtype=torch.float64)).Q.T
    sizes = {"nodes": 32, "particles": 512, "replicates": 8}
    small = mean_ode.solve(*examples, 10, generator, **sizes)
    large = mean_ode.solve(*(z @ frame for z in examples), 10, generator, **sizes)
    gap = (large.output - small.output @ frame).square().mean((1, 2)).sqrt()
    assert (gap <= 2 * torch.hypot(large.error, small.error))[1:].all()  # an RMS over 48 entries, 8 replicates
    assert gap[-1] < 0.01 * (small.output[-1] - examples[0]).square().mean().sqrt()


def test_the_same_generator_gives_the_same_bits(examples):
    one, two = (
        mean_ode.solve(*examples, 2, torch.Generator().manual_seed(4), nodes=4, particles=8, phi=tanh) for _ in range(2)
    )
    assert torch.equal(one.h, two.h) and torch.equal(one.outputs, two.outputs)


def test_a_step_adds_no_copies(counting):
    """Beyond those of ``descent`` itself."""
    x, y = data.regression(4, 3, torch.Generator("cuda").manual_seed(1))
    counts = []
    for steps in (2, 12):
        with counting() as alone:
            networks = training.gaussian(4, 8, 3, 2, torch.Generator("cuda").manual_seed(1))
            list(training.descent(networks, x, y, steps, ahead=0.5))
        with counting() as count:
            mean_ode.solve(x, y, steps, torch.Generator("cuda").manual_seed(1), nodes=4, particles=4, replicates=2)
        counts.append((count.waits - alone.waits, count.uploads - alone.uploads))
    assert counts[0] == counts[1]


def test_linear_blocks_that_explode_are_refused(examples):
    with pytest.raises(ValueError, match=r"is not solved to 1e-10 by 64 nodes, or explodes: at step 9.*lower eta"):
        mean_ode.linear(*examples, 9, eta=40.0)
    with pytest.raises(ValueError, match="alpha must not be zero"):
        mean_ode.linear(*examples, 1, alpha=0.0)


def test_the_half_width_is_students(generator, examples):
    """Of 4 replicates: 3.18 standard errors, the error in depth added in squares; NaN where there is one replicate."""
    found = mean_ode.solve(*examples, 3, generator, nodes=8, particles=16)
    bars = torch.hypot(found.outputs.std(0) / 2, found.depth[:, None, None])
    torch.testing.assert_close(found.half_width(), 3.182446 * bars, rtol=1e-6, atol=1e-12)
    alone = mean_ode.solve(*examples, 1, generator, nodes=8, particles=16, replicates=1)
    assert alone.half_width().isnan().all() and alone.error.isnan().all()

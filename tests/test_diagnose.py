"""The diagnosis against closed forms and planted disorders; it finds these, only these, and leaves no trace."""

import copy

import matplotlib.pyplot as plt
import pytest
import torch
from scipy import stats
from torch import nn

from conftest import ALPHA
from deeplimits import weights
from deeplimits.blocks import watch
from deeplimits.diagnose import diagnose, exponent
from deeplimits.statistics import false_alarm

D = 32


class Block(nn.Module):
    """h + c V phi(W h)"""

    skip = 1.0

    def __init__(self, W, V, scale, phi=torch.relu):
        super().__init__()
        self.W, self.V, self.scale, self.phi = nn.Parameter(W), nn.Parameter(V), scale, phi

    def forward(self, h):
        return self.skip * h + self.scale * self.phi(h @ self.W.T) @ self.V.T


def network(generator, depth, beta=0.5, law=None, phi=torch.relu):
    """A network of known exponent and known regularity of the weights."""
    layers = (law or weights.IID()).layers(depth, 1, D, generator)
    return nn.Sequential(*(Block(W, V, depth**-beta, phi) for (V,), (W,) in layers))


@pytest.fixture
def x(generator):
    return torch.empty(32, D, dtype=torch.float64).normal_(generator=generator)


class Multiply(nn.Module):
    """h -> (1 + a b) h with scalars a, b"""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor([[c]], dtype=torch.float64)) for c in (a, b))

    def forward(self, h):
        return h + self.a * self.b * h


def test_a_network_of_multiplications_by_hand(x):
    a, b, depth = 0.5, 0.2, 6
    net = nn.Sequential(*(Multiply(a, b) for _ in range(depth)))
    d = diagnose(net, x, loss=lambda y: (y - x).square().mean(), steps=1)
    growth = torch.tensor(1.1, dtype=torch.float64) ** torch.arange(depth + 1)
    assert torch.allclose(d.norms, growth) and torch.allclose(d.gradients, growth.flip(0))
    assert torch.allclose(d.updates, growth.new_full((depth,), 0.1))
    assert [e.value for e in d.skips] == [pytest.approx(1.1)] * depth and d.twins == depth - 1
    coherence = (1.1**depth - 1) ** 2 / (0.01 * sum(1.21**k for k in range(depth)))
    assert d.coherence.value == pytest.approx(coherence)
    assert d.change.value == pytest.approx(1.1**depth - 1) and d.backward.value == pytest.approx(1.1**depth)
    # one step of size 1/4 loss / |grad|^2; the gradients in (a, b) are proportional to (b, a)
    loss = float((x * (1.1**depth - 1)).square().mean())
    slope = 2 * float(x.square().mean()) * (1.1**depth - 1) * 1.1 ** (depth - 1)
    rate = 0.25 * loss / (depth * slope**2 * (a**2 + b**2))
    da, db = -rate * slope * b, -rate * slope * a
    assert torch.allclose(d.moves, d.moves.new_full((depth,), (da**2 + db**2) ** 0.5 / (a**2 + b**2) ** 0.5))
    assert d.nonlinearity == pytest.approx(abs(da * db / (a * db + b * da + da * db)), rel=1e-6)
    state = (1.1 + a * db + b * da + da * db) ** torch.arange(1, depth + 1, dtype=torch.float64)
    assert torch.allclose(d.shifts, (state / growth[1:] - 1).abs())
    assert d.loss == (pytest.approx(loss), pytest.approx(float((x * (state[-1] - 1)).square().mean())))


def test_blocks_linear_in_their_weights_are_lazy_to_rounding(generator, x):
    net = network(generator, 8, phi=torch.tanh)
    for block in net:
        block.W.requires_grad_(False)
    assert diagnose(net, x).nonlinearity < 1e-9


@pytest.mark.parametrize("beta", [0.0, 1.5])
def test_with_the_factor_the_state_changes_by_its_norm_or_gradients_double(generator, x, beta):
    net = network(generator, 30, beta)
    d = diagnose(net, x)
    for block in net:
        block.scale *= d.factor
    mended = diagnose(net, x, generator=torch.Generator())  # the random linear function of the search
    assert max(mended.change.value, mended.backward.value - 1) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("index", [0.3, 0.8])
def test_known_regularity_is_recovered_at_the_stated_rate(generator, index):
    """200 networks: misses of the interval at z = 2 within binomial bounds at ALPHA."""
    x, misses = torch.empty(4, D, dtype=torch.float64).normal_(generator=generator), 0
    for _ in range(200):
        d = diagnose(network(generator, 16, 1.0, weights.Fractional(index)), x, steps=1)
        low, high = d.hurst.interval(2)
        misses += not low <= index <= high
    low, high = stats.binom.ppf([ALPHA / 2, 1 - ALPHA / 2], 200, false_alarm(2))
    assert low <= misses <= high


@pytest.mark.parametrize("beta", [0.25, 0.5, 1.0])
def test_known_exponents_are_recovered(generator, x, beta):
    found = exponent(lambda depth: network(generator, depth, beta), (8, 16, 32), x, generator, repetitions=12)
    low, high = found.interval(4)
    assert low <= beta <= high and high - low < 0.3


def names(net, x):
    return [f.name for f in diagnose(net, x, steps=1).findings]


def test_healthy_networks_give_no_findings(generator, x):
    assert [names(network(generator, 24), x) for _ in range(40)] == [[]] * 40


def planted(net, disorder):
    if disorder == "no skip":
        net[7].skip, net[7].scale = 0.0, 1.0
    elif disorder == "outlier":
        net[7].V.data *= 8
    elif disorder == "equal weights":
        for block in net:
            block.scale, block.W, block.V = 0.02, net[0].W, net[0].V
    elif disorder == "identity":
        for block in net:
            block.scale *= 1e-3
    elif disorder == "explosion":
        for block in net:
            block.scale = 1.0
    elif disorder == "no training":
        net.requires_grad_(False)
    return net


DISORDERS = ["no skip", "outlier", "equal weights", "identity", "explosion", "no training"]


@pytest.mark.parametrize("disorder", DISORDERS)
def test_planted_disorders_are_found_and_nothing_else(generator, x, disorder):
    for _ in range(10):
        assert names(planted(network(generator, 24), disorder), x) == [disorder]


def test_alike_weights_are_found(generator, x):
    assert names(network(generator, 24, 0.9, weights.Fractional(0.8)), x) == ["alike"]


def test_an_overflow_is_an_explosion(generator):
    x = torch.empty(8, D).normal_(generator=generator)
    d = diagnose(network(generator, 400, -0.3).float(), x)
    assert (d.regime, d.growth.value, d.training) == ("explosion", float("inf"), "none")
    assert 0 < d.factor < 1 and "inf" in repr(d)


def test_vanishing_is_found(generator, x):
    net = network(generator, 24)
    for block in net:
        block.skip = 0.7
    d = diagnose(net, x)
    assert d.regime == "vanishing" and [f.name for f in d.findings] == ["vanishing"]


class Normed(Block):
    """h + c V relu(W LayerNorm(h))"""

    def forward(self, h):
        normed = torch.nn.functional.layer_norm(h, (D,))
        return h + super().forward(normed) - normed


def normed(generator, depth, gain=1.0):
    layers = weights.IID(gain=gain).layers(depth, 1, D, generator)
    return nn.Sequential(*(Normed(W, V, 1.0) for (V,), (W,) in layers))


def test_growth_like_a_root_of_the_depth_is_no_explosion(generator, x):
    d = diagnose(normed(generator, 300), x, steps=1)
    assert d.growth.value > 10 and d.regime == "stability"


def test_a_small_input_is_told_from_an_explosion(generator, x):
    net = normed(generator, 12)
    assert names(net, 0.01 * x) == ["small input"] and names(net, x) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_does_not_change_the_verdict(generator, x, dtype):
    """Weights are rounded, but all is computed in double precision."""
    net = network(generator, 12, phi=torch.tanh)
    reference = diagnose(net, x).nonlinearity
    assert diagnose(net.to(dtype), x.to(dtype)).nonlinearity == pytest.approx(reference, rel=0.05)


def test_where_gradients_explode_and_states_do_not_the_factor_mends_gradients(generator, x):
    """Normalisation after each block keeps the state; steep blocks before it blow gradients up."""

    class After(Block):
        def forward(self, h):
            return torch.nn.functional.layer_norm(h + self.scale * torch.tanh(h @ self.W.T), (D,))

    layers = weights.IID(gain=8.0).layers(32, 1, D, generator)
    net = nn.Sequential(*(After(W, V, 1.0) for (V,), (W,) in layers))
    d = diagnose(net, x, steps=1)
    assert d.regime == "explosion" and d.growth.value < 2 and d.factor < 0.7
    scaled = watch(net, x, d.names, factor=d.factor, generator=torch.Generator())
    growth = scaled.gradients[0].norm(dim=1) / scaled.gradients[-1].norm(dim=1)
    assert float(growth.mean()) == pytest.approx(2, rel=0.1)


def test_a_step_that_would_raise_the_loss_is_halved(generator, x):
    """A floor that no weights can reach: a quarter of the loss is more than there is to gain."""
    d = diagnose(network(generator, 8), x, loss=lambda y: 100 + (y - x).square().mean())
    assert 100 < d.loss[1] < d.loss[0] and d.training != "none"


def test_examples_of_zeros_are_left_out(generator, x):
    x[3] = 0
    d = diagnose(network(generator, 8), x)
    assert d.regime == "stability" and d.change.samples == 31


def test_zero_blocks_are_the_identity(generator, x):
    net = network(generator, 6)
    for block in net:
        block.V.data.zero_()
    d = diagnose(net, x)
    assert d.regime == "identity" and "ReZero" in d.advice[0] and list(d.weights) == ["W"]


def test_a_block_without_gradient_is_named(generator, x):
    net = network(generator, 6)
    net[4].requires_grad_(False)
    (finding,) = diagnose(net, x).findings
    assert finding.name == "no gradient" and "`4`" in finding.text


def test_a_network_without_weights_of_its_own(x):
    class Shift(nn.Module):
        def forward(self, h):
            return h + 0.1 * h.roll(1, -1)

    d = diagnose(nn.Sequential(*(Shift() for _ in range(6))), x, blocks=[str(i) for i in range(6)])
    assert d.training == "none" and d.weights == {} and d.hurst.samples == 0
    d.plot()


class Busy(nn.Module):
    """Dropout, running statistics, a hook, frozen weights, gradients, a part in another mode: all that may change."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, 0.3, norm_first=True, batch_first=True) for _ in range(4)
        )
        self.norm = nn.BatchNorm1d(5)

    def forward(self, h):
        for layer in self.layers:
            h = layer(h)
        return self.norm(h)


@pytest.mark.parametrize("fails", [False, True])
def test_no_trace_is_left(generator, fails):
    with torch.random.fork_rng():
        net = Busy()
        net.layers[1].eval(), net.layers[2].requires_grad_(False)
        batch = torch.empty(6, 5, 8).normal_(generator=generator)
        net(batch).sum().backward()
        before = {
            "state": copy.deepcopy(net.state_dict()),
            "grads": [None if p.grad is None else p.grad.clone() for p in net.parameters()],
            "modes": [m.training for m in net.modules()],
            "random": torch.get_rng_state(),
            "enabled": torch.is_grad_enabled(),
        }
        loss = (lambda y: 1 / 0) if fails else None
        if fails:
            with pytest.raises(ZeroDivisionError):
                diagnose(net, batch, loss=loss)
        else:
            one, two = diagnose(net, batch), diagnose(net, batch)
            assert torch.equal(one.shifts, two.shifts) and one.loss == two.loss
        assert all(torch.equal(v, before["state"][k]) for k, v in net.state_dict().items())
        for p, grad in zip(net.parameters(), before["grads"], strict=True):
            assert (p.grad is None) if grad is None else torch.equal(p.grad, grad)
        assert [m.training for m in net.modules()] == before["modes"]
        assert torch.equal(torch.get_rng_state(), before["random"]) and torch.is_grad_enabled() == before["enabled"]
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_model_that_knows_single_precision_only_is_left_alone_too(generator, x):
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks, self.norm = network(generator, 6).float(), nn.BatchNorm1d(D)

        def forward(self, h):
            if h.dtype != torch.float32:
                raise RuntimeError("float32 only")
            return self.norm(self.blocks(h))

    net = Single()
    before = copy.deepcopy(net.state_dict())
    assert diagnose(net, x.float()).regime == "stability"
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_the_batch_is_left_alone_by_a_model_that_works_on_it_in_place(generator, x):
    net, before = network(generator, 6), x.clone()
    net.register_forward_pre_hook(lambda module, args: args[0].mul_(2))
    diagnose(net, x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda net, x: ("net", x, {}), TypeError, "model must be of type Module, got 'net'; pass the"),
        (lambda net, x: (net[:1], x, {}), ValueError, "no residual blocks found in Sequential: need two or more"),
        (
            lambda net, x: (net, x[:, 1:], {}),
            ValueError,
            r"a tensor of shape \(32, 31\), float64; the model says: ",
        ),
        (lambda net, x: (net, x, {"steps": 0}), ValueError, "steps must be a positive integer, got 0"),
        (lambda net, x: (net, x, {"blocks": ["3"]}), ValueError, "1 block where two or more are needed"),
        (lambda net, x: (net, x / 0, {}), ValueError, "batch must be finite, found inf or NaN in a tensor of shape"),
        (lambda net, x: (net, 0 * x, {}), ValueError, "two examples other than zero, got 0"),
        (lambda net, x: (net, x, {"loss": lambda y: y}), ValueError, r"loss must be a scalar, got .* \(32, 32\)"),
        (lambda net, x: (net, x, {"loss": lambda y: -y.norm()}), ValueError, "loss must be positive, got -"),
    ],
)
def test_bad_arguments_are_refused(generator, x, change, error, message):
    net, batch, options = change(network(generator, 4), x)
    with pytest.raises(error, match=message):
        diagnose(net, batch, **options)


def test_weights_that_are_not_finite_are_named(generator, x):
    net = network(generator, 4)
    net[2].V.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"weights must be finite, found inf or NaN in 2.V; load or draw them anew"):
        diagnose(net, x)


def test_exponent_wants_two_depths(generator, x):
    with pytest.raises(ValueError, match=r"depths must be two different ones or more, got \[8, 8\]"):
        exponent(lambda depth: network(generator, depth), (8, 8), x)


def test_exponent_wants_fresh_weights(x):
    """A seed inside ``build`` would give an interval of length zero."""
    seeded = lambda depth: network(torch.Generator().manual_seed(1), depth)  # noqa: E731
    with pytest.raises(ValueError, match=r"build must draw fresh weights at each call, and gave build\(8\) the same"):
        exponent(seeded, (8, 16), x)


def test_diagnosis_stays_where_the_model_is(generator, x):
    """Also of a network that is not trained, and of one with a block that has no weights."""
    frozen, bare = network(generator, 3).requires_grad_(False), nn.Sequential(*network(generator, 4), Bare())
    with torch.device("meta"):  # a device without numbers stands for a GPU
        for net, blocks in ((network(generator, 4), None), (frozen, None), (bare, [f"{i}" for i in range(5)])):
            found = diagnose(net, x, steps=1, blocks=blocks)
            assert isinstance(repr(found), str) and found.moves.device.type == found.shifts.device.type == "cpu"
            plt.close(found.plot())


class Bare(nn.Module):
    """h + tanh(h)/2: a block without weights."""

    def forward(self, h):
        return h + torch.tanh(h) / 2


def test_a_block_costs_a_diagnosis_few_waits(counting):
    waits = []
    for depth in (6, 12):
        net = network(torch.Generator().manual_seed(1), depth).to("cuda")
        batch = torch.empty(8, D, dtype=torch.float64, device="cuda").normal_(
            generator=torch.Generator("cuda").manual_seed(1)
        )
        with counting() as count:
            diagnose(net, batch, steps=1)
        waits.append(count.waits)
    assert waits[1] - waits[0] <= 6 * 6

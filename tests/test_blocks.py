"""Blocks are found where they are, and what is seen of them is what a plain loop computes."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from deeplimits import blocks

D = 6


class Block(nn.Module):
    """h + V tanh(W h); takes and gives h as a tensor, as a keyword, in a tuple, or in place."""

    def __init__(self, way="tensor"):
        super().__init__()
        self.W, self.V, self.way = nn.Linear(D, D), nn.Linear(D, D), way

    def forward(self, h):
        f = self.V(torch.tanh(self.W(h.clone() if self.way == "in place" else h)))
        if self.way == "in place":
            return h.add_(f)
        return (h + f, None) if self.way == "tuple" else h + f


class Plain(Block):
    """The same without its skip connection."""

    def forward(self, h):
        return super().forward(h) - h


class Net(nn.Module):
    def __init__(self, depth=5, way="tensor", kind=Block):
        super().__init__()
        self.head = nn.Sequential(nn.Linear(3, D), nn.Linear(D, D))
        self.layers = nn.ModuleList(kind(way) for _ in range(depth))
        self.tail = nn.ModuleList([nn.Linear(D, D) for _ in range(depth + 3)])  # longer, and no blocks

    def forward(self, x):
        h = self.head(x)
        for layer in self.layers:
            out = layer(h=h) if layer.way == "keyword" else layer(h)
            h = out[0] if layer.way == "tuple" else out
        for layer in self.tail:
            h = layer(h)
        return {"hidden": h}


WAYS = ["tensor", "keyword", "tuple", "in place"]


@pytest.fixture
def make(generator):
    """Modules with weights from the generator, and the global stream as it was."""

    def build(what, **kwargs):
        with torch.random.fork_rng():
            module = what(**kwargs)
        for p in module.parameters():
            p.data.normal_(generator=generator).div_(p.shape[-1] ** 0.5)
        return module.double()

    return build


@pytest.fixture
def x(generator):
    return torch.empty(7, 3, dtype=torch.float64).normal_(generator=generator)


@pytest.mark.parametrize("way", WAYS)
def test_the_longest_residual_run_is_found(make, x, way):
    assert blocks.find(make(Net, way=way), x) == [f"layers.{i}" for i in range(5)]


def test_blocks_are_found_in_modules_of_torch_and_below_the_top(make, generator):
    def encoder():
        layer = nn.TransformerEncoderLayer(8, 2, 16, norm_first=True, batch_first=True)
        return nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)

    batch = torch.empty(3, 5, 8, dtype=torch.float64).normal_(generator=generator)
    assert blocks.find(nn.Sequential(nn.Identity(), make(encoder)), batch) == [f"1.layers.{i}" for i in range(4)]


def test_a_block_that_is_repeated_counts_each_time(make, x):
    net = make(Net)
    net.layers = nn.ModuleList([net.layers[0]] * 6)
    names = blocks.find(net, x)
    assert len(names) == 6 and len(blocks.watch(net, x, names).outputs) == 6


def test_blocks_may_be_named(make, x):
    net = make(Net)
    assert blocks.find(net, x, "layers") == [f"layers.{i}" for i in range(5)]
    assert blocks.find(net, x, ["layers.1", "layers.3"]) == ["layers.1", "layers.3"]


@pytest.mark.parametrize("way", WAYS)
def test_a_passage_against_a_plain_loop_and_autograd(make, x, generator, way):
    net = make(Net, way=way)
    names = blocks.find(net, x)
    seen = blocks.watch(net, x, names, generator=generator)
    states = [net.head(x).detach().requires_grad_()]
    for layer in net.layers:
        states.append(states[-1] + layer.V(torch.tanh(layer.W(states[-1]))))
    for found, state in zip(seen.states, states, strict=True):
        assert torch.allclose(found, state, rtol=1e-12)
    slopes = torch.autograd.grad(states[-1], states, seen.gradients[-1])
    for found, slope in zip(seen.gradients, slopes, strict=True):
        assert torch.allclose(found, slope, rtol=1e-12)
    assert torch.allclose(seen.result, net(x)["hidden"], rtol=1e-12)
    updates = torch.stack([((b - a).norm(dim=1) / a.norm(dim=1)) for a, b in pairwise(states)])
    assert torch.allclose(seen.updates(), updates.square().mean(1).sqrt(), rtol=1e-12)
    sizes = torch.stack([(b - a).norm(dim=1) for a, b in pairwise(states)])
    assert torch.allclose(seen.sizes(), sizes.square().mean(1).sqrt(), rtol=1e-12)


def test_factor_scales_what_a_block_adds(make, x):
    net, names = make(Net), [f"layers.{i}" for i in range(5)]
    seen = blocks.watch(net, x, names, factor=0.3, generator=torch.Generator())
    with torch.no_grad():
        for layer in net.layers:
            layer.V.weight.mul_(0.3), layer.V.bias.mul_(0.3)
    scaled = blocks.watch(net, x, names, generator=torch.Generator())
    for found, state in zip(seen.states + seen.gradients, scaled.states + scaled.gradients, strict=True):
        assert torch.allclose(found, state, rtol=1e-12)


def test_held_blocks_see_what_they_are_given(make, x):
    net, names = make(Net), [f"layers.{i}" for i in range(5)]
    h = net.head(x).detach()
    seen = blocks.watch(net, x, names, held=[h * i for i in range(5)])
    for i, layer in enumerate(net.layers):
        assert torch.equal(seen.outputs[i], layer(h * i))


def test_skips_against_the_trace_of_the_jacobian(make, x):
    """Averaged over many copies of the batch; D = 6 features are few, hence no sharper."""
    net, names = make(Net), [f"layers.{i}" for i in range(5)]
    net.layers[2] = make(Plain, way="tensor")
    seen = blocks.watch(net, x.repeat(300, 1), names)
    found = blocks.skips(net, x.repeat(300, 1), names, seen)
    for layer, inputs, share in zip(net.layers, seen.inputs, found, strict=True):
        slopes = torch.stack([torch.autograd.functional.jacobian(layer, h).trace() / D for h in inputs[:7]])
        low, high = share.interval(4)
        assert low - 0.01 <= slopes.mean() <= high + 0.01 and high - low < 0.2
    assert found[2].value < 0.5 < min(found[i].value for i in (0, 1, 3, 4))


class Stages(nn.Module):
    """Two stages of two widths, each of which begins with a block that changes it, as in He et al. (2016)."""

    class Block(nn.Module):
        def __init__(self, a, b):
            super().__init__()
            self.f, self.skip = nn.Linear(a, b), nn.Identity() if a == b else nn.Linear(a, b)

        def forward(self, h):
            return self.skip(h) + 0.1 * torch.tanh(self.f(h))

    def __init__(self):
        super().__init__()
        make = Stages.Block
        self.one = nn.Sequential(make(3, 6), make(6, 6), make(6, 6))
        self.two = nn.Sequential(make(6, 8), make(8, 8), make(8, 8), make(8, 8))

    def forward(self, x):
        return self.two(self.one(x))


def test_the_longest_stretch_of_one_shape_is_found(make, x):
    assert blocks.find(make(Stages), x) == ["two.1", "two.2", "two.3"]
    with pytest.raises(ValueError, match=r"the shape changes at two.0; name others"):
        blocks.find(make(Stages), x, "two")


def test_rows_of_one_class_are_taken_together(make, x):
    def halves():
        net = Net()
        net.layers = nn.Sequential(nn.Sequential(*net.layers[:2]), nn.Sequential(*net.layers[2:]))
        net.forward = lambda x: net.layers(net.head(x))
        return net

    assert blocks.find(make(halves), x) == ["layers.0.0", "layers.0.1", "layers.1.0", "layers.1.1", "layers.1.2"]


class Loop(Net):
    def forward(self, x):
        h = self.head(x)
        for _ in range(4):
            h = self.layers[0](h)
        return h


def test_a_block_called_in_a_loop_is_named_so_often(make, x):
    net = make(Loop)
    names = blocks.find(net, x, ["layers.0"] * 4)
    assert len(blocks.watch(net, x, names).outputs) == 4
    with pytest.raises(ValueError, match="4 calls of 5 modules; dropped at random"):
        blocks.find(net, x)


class Masked(Net):
    class Block(Block):
        def forward(self, mask, h):
            return super().forward(h)

    def __init__(self):
        super().__init__(kind=Masked.Block)

    def forward(self, x):
        h = self.head(x)
        for layer in self.layers:
            h = layer(mask=torch.ones(2, 2, dtype=h.dtype), h=h)
        return h


def test_a_mask_by_keyword_is_no_state(make, x):
    assert blocks.find(make(Masked), x) == [f"layers.{i}" for i in range(5)]


def test_passes_draw_the_same_dropout_masks_and_leave_nothing_behind(make, x):
    net = make(Net)
    for layer in net.layers:
        layer.V = nn.Sequential(layer.V, nn.Dropout(0.5))
    names = [f"layers.{i}" for i in range(5)]
    before = torch.get_rng_state()
    one, two = (blocks.watch(net, x, names).outputs[-1] for _ in range(2))
    assert torch.equal(one, two) and torch.equal(before, torch.get_rng_state())


class Breaks(Net):
    def forward(self, x):
        super().forward(x)
        raise ZeroDivisionError


def test_no_hook_stays_even_after_an_error(make, x, generator):
    net = make(Breaks)
    with pytest.raises(ZeroDivisionError):
        blocks.watch(net, x, ["layers.0", "layers.1"], generator=generator)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize(
    ("change", "named", "message"),
    [
        (lambda net, x: (nn.Sequential(nn.Flatten(), nn.Tanh()), x), None, "no two in a row"),
        (
            lambda net, x: (net, x),
            "heads",
            "blocks must be names of submodules, got ..heads..; see",
        ),
        (lambda net, x: (net, x), ["layers.0"], "are no residual blocks: 1 block where two or more are needed"),
        (lambda net, x: (net, x), "head", "are no residual blocks: the shape changes at head.0"),
        (lambda net, x: (net, x[:0]), None, "two different examples or more, got 0"),
        (lambda net, x: (net, x), "tail", "they hand on .* of their input, where a skip connection hands on 1"),
        (
            lambda net, x: (net, x[:, :2]),
            None,
            r"must be what Net takes, got a tensor of shape \(7, 2\), float64",
        ),
        (lambda net, x: (net, (x, x)), "layers", r"got tuple of \(a tensor of shape \(7, 3\), float64, a tensor"),
        (lambda net, x: (net, x[:1]), None, "two different examples or more, got 1"),
    ],
)
def test_what_cannot_be_watched_is_refused(make, x, change, named, message):
    net, batch = change(make(Net), x)
    with pytest.raises(ValueError, match=message):
        blocks.find(net.double(), batch, named)


def test_a_stack_without_skips_is_no_residual_network(make, generator):
    x = torch.empty(100, 3, dtype=torch.float64).normal_(generator=generator)
    net = make(Net, kind=Plain)
    for layer in net.layers:
        layer.V.weight.data.mul_(0.01)  # what is left of the input is then small whatever the weights
    with pytest.raises(ValueError, match=r"no residual blocks found in Net: .* looked at .*layers.0 to layers.4"):
        blocks.find(net, x)


def test_blocks_that_stop_gradients_are_refused(make, x, generator):
    net = make(Net)
    net.layers[4].register_forward_hook(lambda module, args, output: output.detach())
    with pytest.raises(ValueError, match="must let gradients through, got none"):
        blocks.watch(net, x, [f"layers.{i}" for i in range(5)], generator=generator)
    net = make(Net)
    net.layers[2].register_forward_pre_hook(lambda module, args: args[0].detach())
    with pytest.raises(ValueError, match="must let gradients through, one does not"):
        blocks.watch(net, x, [f"layers.{i}" for i in range(5)], generator=generator)


def test_blocks_are_names(make, x):
    net = make(Net)
    with pytest.raises(TypeError, match="blocks must be names, got a Block"):
        blocks.find(net, x, list(net.layers))

"""The recursion against brute force and autograd, the exact law against real networks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from conftest import ALPHA
from deeplimits import resnet
from deeplimits.activations import identity, piecewise_linear, relu, tanh
from deeplimits.weights import IID

D, L, NETWORKS, INPUTS = 4, 6, 3, 2
SCALE = L**-0.5


def quadratic(h, W, c):
    return torch.sin(h @ W.mT) * c + h * h


# family, number of matrices besides V, brute-force g for one vector
ZOO = {
    "original": (resnet.original(), "Wb", lambda h, W, b: (W @ h + b[0]).clamp(min=0)),
    "parametric, no bias": (resnet.parametric(tanh), "W", lambda h, W: torch.tanh(W @ h)),
    "simple": (resnet.simple(relu), "", lambda h: h.clamp(min=0)),
    "general": (resnet.general(quadratic), "Wb", lambda h, W, b: torch.sin(W @ h) * b[0] + h * h),
}


@pytest.fixture(params=ZOO)
def case(request, generator):
    family, theta, g = ZOO[request.param]

    def normal(*shape):
        return torch.empty(shape, dtype=torch.float64).normal_(generator=generator) / D**0.5

    shapes = {"W": (NETWORKS, D, D), "b": (NETWORKS, 1, D)}
    layers = [(normal(NETWORKS, D, D), *(normal(*shapes[name]) for name in theta)) for _ in range(L)]
    return family, layers, normal(NETWORKS, INPUTS, D), normal(NETWORKS, INPUTS, D), g


def brute_force(h, layers, g, n, scale):
    """One network, one input, one vector at a time."""
    for V, *theta in layers:
        h = h + scale * V[n] @ g(h, *(t[n] for t in theta))
    return h


def test_forward_against_brute_force(case):
    family, layers, h0, _, g = case
    hL = resnet.forward(h0, layers, family, SCALE)
    for n in range(NETWORKS):
        for i in range(INPUTS):
            torch.testing.assert_close(hL[n, i], brute_force(h0[n, i], layers, g, n, SCALE), atol=1e-12, rtol=1e-12)


def test_one_pass_serves_several_scales(case):
    family, layers, h0, _, _ = case
    h0 = h0[:, :1]
    scales = torch.tensor([1.0, 0.1], dtype=torch.float64)
    together = resnet.forward(h0.expand(-1, 2, -1), layers, family, scales[:, None])
    for i, scale in enumerate(scales.tolist()):
        torch.testing.assert_close(together[:, i], resnet.forward(h0, layers, family, scale)[:, 0])


def test_adjoint_against_autograd(case):
    family, layers, h0, pL, _ = case
    path = list(resnet.states(h0, layers, family, SCALE))
    leaf = h0.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((resnet.forward(leaf, layers, family, SCALE) * pL).sum(), leaf)
    torch.testing.assert_close(resnet.adjoint(pL, path, layers, family, SCALE), gradient, atol=1e-10, rtol=1e-10)


def test_tangent_against_autograd(case):
    family, layers, h0, q0, _ = case
    path = list(resnet.states(h0, layers, family, SCALE))
    _, derivative = torch.func.jvp(lambda h: resnet.forward(h, layers, family, SCALE), (h0,), (q0,))
    torch.testing.assert_close(resnet.tangent(q0, path, layers, family, SCALE), derivative, atol=1e-10, rtol=1e-10)


def test_states_start_at_the_input_and_end_at_the_output(case):
    family, layers, h0, _, _ = case
    path = list(resnet.states(h0, iter(layers), family, SCALE))
    assert len(path) == L + 1 and path[0] is h0
    assert torch.equal(path[-1], resnet.forward(h0, layers, family, SCALE))


@given(st.floats(0, 100), st.sampled_from([relu, identity, piecewise_linear(1.0, -0.4)]))
def test_homogeneous_blocks_make_homogeneous_networks(c, phi):
    g = torch.Generator().manual_seed(3)
    layers, h0 = list(IID().layers(5, 2, 3, g)), torch.tensor([[[1.0, -2.0, 0.5]]] * 2, dtype=torch.float64)
    family = resnet.parametric(phi)
    torch.testing.assert_close(
        resnet.forward(c * h0, layers, family, 0.4), c * resnet.forward(h0, layers, family, 0.4), atol=1e-9, rtol=1e-9
    )


@given(st.integers(1, 12), st.integers(1, 5))
def test_zero_scale_is_the_identity(depth, width):
    g = torch.Generator().manual_seed(4)
    h0 = torch.empty(2, 1, width, dtype=torch.float64).normal_(generator=g)
    assert torch.equal(resnet.forward(h0, IID().layers(depth, 2, width, g), resnet.original(), 0.0), h0)


LAW_CASES = [
    (1, 10, relu),
    (2, 10, relu),
    (5, 20, relu),
    (10, 30, relu),
    (3, 10, piecewise_linear(1.0, -0.4)),
    (3, 10, identity),
]


@pytest.mark.parametrize(("d", "depth", "phi"), LAW_CASES, ids=lambda v: getattr(v, "name", v))
def test_projection_against_brute_force_networks(d, depth, phi, generator):
    """Two-sample Kolmogorov-Smirnov tests; 12 in all, each at false-alarm rate ALPHA / 12."""
    n, scale = 10_000, depth**-0.5
    h0 = torch.arange(1.0, d + 1, dtype=torch.float64).expand(n, 1, d)  # the law must not depend on it
    hL = resnet.forward(h0, IID().layers(depth, n, d, generator), resnet.parametric(phi), scale)
    real = {"norm": hL.norm(dim=-1), "displacement": (hL - h0).norm(dim=-1)}
    law = resnet.projection(n, depth, d, scale, generator, phi=phi)
    for name, values in real.items():
        values = (values / h0.norm(dim=-1)).flatten()
        p = stats.ks_2samp(values, getattr(law, name), method="asymp").pvalue
        assert p > ALPHA / 12, f"{name} of the recursion and of real networks differ, p = {p:.1e}"


def test_projection_sees_a_wrong_width(generator):
    """The power of the test above: it tells width 5 from width 8."""
    one, other = (resnet.projection(10_000, 20, d, 20**-0.5, generator).norm for d in (5, 8))
    assert stats.ks_2samp(one, other).pvalue < ALPHA / 12


def test_projection_is_reproducible_and_its_parts_fit():
    a, b = (resnet.projection(100, 7, 3, 0.5, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(a.along, b.along) and torch.equal(a.across, b.across)
    torch.testing.assert_close(a.norm**2, a.along**2 + a.across**2)
    torch.testing.assert_close(a.displacement**2, (a.along - 1) ** 2 + a.across**2)
    assert (a.across >= 0).all()


def test_width_one_has_nothing_across(generator):
    assert not resnet.projection(50, 10, 1, 1.0, generator).across.any()


def test_overflow_is_a_result_not_an_exception(generator):
    h = torch.ones(2, 1, 3, dtype=torch.float32)
    layers = (1e30 * w for w in IID().layers(8, 2, 3, generator, matrices=1, dtype=torch.float32))
    hL = resnet.forward(h, layers, resnet.simple(identity), 1.0)
    assert not hL.isfinite().any()


def test_single_precision_is_far_below_the_sampling_error(generator):
    """float32, which GPUs use, at the published size: the bias of a mean is below 1 % of its standard error."""
    layers = list(IID().layers(1000, 20, 40, generator, dtype=torch.float32))
    h0, scale = torch.ones(20, 1, 40, dtype=torch.float32), 1000**-0.5
    single = resnet.forward(h0, layers, resnet.original(), scale).norm(dim=-1)
    double = resnet.forward(h0.double(), (w.double() for w in layers), resnet.original(), scale).norm(dim=-1)
    standard_error = 0.14 / 10_000**0.5  # of 10 000 norms: the log-normal limit has standard deviation 0.14
    assert float((single - double).mean().abs()) / 40**0.5 < 0.01 * standard_error


@pytest.mark.parametrize(
    ("h", "layers", "message"),
    [
        (
            torch.ones(2, 3),
            [(torch.eye(3)[None],)],
            r"a state must be a tensor \(networks, inputs, width\), got shape \(2, 3\)",
        ),
        ([1.0], [], "a state must be a tensor .* got list"),
        (torch.ones(2, 1, 3), [(torch.ones(2, 4, 3),)], r"V of layer 0 must have shape \(2, 3, 3\).*got \(2, 4, 3\)"),
        (torch.ones(2, 1, 3), [(torch.ones(1, 3, 3),)], r"V of layer 0 must have shape \(2, 3, 3\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(h, layers, message):
    with pytest.raises(ValueError, match=message):
        resnet.forward(h, layers, resnet.simple(relu), 1.0)


def test_names_in_place_of_families_and_activations_are_refused(generator):
    with pytest.raises(TypeError, match=r"family must be of type Family, got 'simple'; make one with original\(\)"):
        resnet.forward(torch.ones(1, 1, 1), [(torch.ones(1, 1, 1),)], "simple", 1.0)
    for call in (resnet.simple, resnet.parametric, lambda phi: resnet.projection(1, 1, 1, 1.0, generator, phi=phi)):
        with pytest.raises(TypeError, match="phi must be of type Activation, got 'relu'; take one from"):
            call("relu")


def test_adjoint_wants_the_whole_path():
    with pytest.raises(ValueError, match="one state more than layers, got 1 states and 1 layers"):
        resnet.adjoint(torch.ones(1, 1, 1), [torch.ones(1, 1, 1)], [(torch.ones(1, 1, 1),)], resnet.simple(relu), 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 1, 1.0), "networks must be a positive integer"),
        ((1, 0, 1, 1.0), "depth must be a positive integer"),
        ((1, 1, 0, 1.0), "width must be a positive integer"),
        ((1, 1, 1, float("nan")), "scale must be finite"),
    ],
)
def test_projection_refuses_bad_sizes(arguments, message, generator):
    with pytest.raises(ValueError, match=message):
        resnet.projection(*arguments, generator)
    with pytest.raises(ValueError, match="phi must be positively homogeneous, got tanh"):
        resnet.projection(1, 1, 1, 1.0, generator, phi=tanh)


@pytest.mark.parametrize("scale", [0.1, torch.tensor(0.1)], ids=["number", "tensor"])
def test_no_layer_copies_or_waits(counting, scale):
    scale = scale if isinstance(scale, float) else scale.to("cuda")
    h = torch.ones(4, 2, 8, device="cuda")
    layers = list(IID().layers(100, 4, 8, torch.Generator("cuda").manual_seed(1), dtype=h.dtype))
    with counting() as count:
        path = list(resnet.states(h, layers, resnet.original(), scale))
        resnet.adjoint(h, path, layers, resnet.original(), scale)
        resnet.tangent(h, path, layers, resnet.original(), scale)
    assert (count.waits, count.uploads) == (0, 0)


@pytest.mark.parametrize("entry", ["gaussian", "uniform", "rademacher"])
def test_kicks_have_their_expectations_forward_and_backward(entry, generator):
    d, depth, n = 5, 10, 20_000
    layers = list(IID(entry).layers(depth, n, d, generator))
    h0 = torch.randn(n, 1, d, dtype=torch.float64, generator=generator)
    path = list(resnet.states(h0, layers, resnet.original(), depth**-0.5))
    back = resnet.adjoint_states(torch.ones_like(h0), path, layers, resnet.original(), depth**-0.5)
    for sums in (resnet.kicks(path)[..., 0], resnet.kicks(back)[..., 0]):
        for x, expected in zip(sums, (0.0, 2 / d, 0.5), strict=True):
            assert abs(float(x.mean()) - expected) < stats.norm.isf(ALPHA / 2) * float(x.std()) / n**0.5


def test_kicks_by_hand_and_of_a_projection(generator):
    path = [torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[3.0, 1.0]]])]
    assert resnet.kicks(path).flatten().tolist() == [0 + 2.0, 0 + 4.0, 1 + 2.0]
    law = resnet.projection(50_000, 1, 4, 0.2, generator)
    rest = law.norm**2 - 1 - law.kick  # b = ||dh||^2, whose mean is scale^2/2; a has variance 2 scale^2/d
    assert (rest >= -1e-12).all() and float(rest.mean()) == pytest.approx(0.02, rel=0.03)
    assert float(law.kick.var()) == pytest.approx(0.02, rel=0.1)

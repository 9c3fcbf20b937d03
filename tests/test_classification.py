"""Ensembles against networks trained one by one, Adam against PyTorch's, gradients against the adjoint."""

from math import log

import pytest
import torch

from deeplimits import classification, data, resnet
from deeplimits.activations import relu, tanh
from deeplimits.classification import Adam, Classifiers
from deeplimits.weights import IID

DEPTH, NETWORKS, WIDTH, FEATURES, CLASSES = 6, 3, 5, 4, 3


def ensemble(generator, phi=relu, scale=0.4):
    law = IID()
    A = law.matrix(NETWORKS, WIDTH, FEATURES, generator=generator)
    B = law.matrix(NETWORKS, CLASSES, WIDTH, generator=generator)
    V = torch.cat(list(law.layers(DEPTH, NETWORKS, WIDTH, generator, matrices=1)))
    return Classifiers(A, B, V, torch.full((NETWORKS,), scale, dtype=torch.float64), resnet.simple(phi))


def one_of(networks, i):
    return Classifiers(
        networks.A[i : i + 1].clone(),
        networks.B[i : i + 1].clone(),
        networks.V[:, i : i + 1].clone(),
        networks.scale[i : i + 1].clone(),
        networks.family,
    )


@pytest.fixture
def examples(generator):
    x = torch.randn(40, FEATURES, dtype=torch.float64, generator=generator)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()


def test_logits_and_loss_against_a_plain_loop(generator, examples):
    networks, (x, y) = ensemble(generator), examples
    for i in range(NETWORKS):
        for example, target in zip(x[:5], y[:5], strict=True):
            h = networks.A[i] @ example
            for V in networks.V[:, i]:
                h = h + 0.4 * V @ h.relu()
            z = networks.B[i] @ h
            torch.testing.assert_close(networks.logits(example[None])[i, 0], z)
            expected = z.exp().sum().log() - z[target]
            torch.testing.assert_close(networks.loss(example[None], target[None])[i], expected)


def test_gradients_are_those_of_the_adjoint(generator, examples):
    """dl/dV_k = scale p_k g(h_{k-1})^T, with p from ``resnet.adjoint``."""
    networks, (x, y) = ensemble(generator, tanh), examples
    classification.gradient(networks, x, y)
    scale, layers = networks.scale[:, None, None], [(V,) for V in networks.V]
    path = list(resnet.states(x @ networks.A.mT, layers, networks.family, scale))
    z = path[-1] @ networks.B.mT
    p = (torch.softmax(z, -1) - torch.nn.functional.one_hot(y, CLASSES)) / len(y) @ networks.B
    for k in range(DEPTH):
        p_k = resnet.adjoint(p, path[k + 1 :], layers[k + 1 :], networks.family, scale)
        expected = scale * (p_k.mT @ torch.tanh(path[k]))
        torch.testing.assert_close(networks.V.grad[k], expected)


def test_an_ensemble_is_its_networks_trained_one_by_one(generator, examples):
    networks = ensemble(generator)
    rates = torch.tensor([1e-2, 1e-3, 3e-2], dtype=torch.float64)
    alone = [one_of(networks, i) for i in range(NETWORKS)]
    settings = {"epochs": 4, "batch": 16, "every": 2}
    together = classification.train(
        networks, examples, rate=rates, generator=torch.Generator().manual_seed(1), **settings
    )
    for i, network in enumerate(alone):
        history = classification.train(
            network, examples, rate=float(rates[i]), generator=torch.Generator().manual_seed(1), **settings
        )
        torch.testing.assert_close(together[:, i], history[:, 0])
        torch.testing.assert_close(networks.V[:, i], network.V[:, 0])
        torch.testing.assert_close(networks.A[i], network.A[0])


def test_adam_is_that_of_pytorch(generator, examples):
    """With the step schedule and a last mini-batch that is smaller: PyTorch's optimiser, schedule and layers."""
    network = one_of(ensemble(generator), 0)
    A, B, V = (p.clone().requires_grad_() for p in network.parameters)
    optimiser = torch.optim.Adam([A, B, V], lr=1e-2)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, 2, 0.1)
    order, (x, y) = torch.Generator().manual_seed(5), examples
    losses = []
    for _ in range(5):
        total = 0.0
        for part in torch.randperm(40, generator=order).split(16):
            optimiser.zero_grad()
            h = x[part] @ A[0].T
            for layer in V[:, 0]:
                h = h + 0.4 * h.relu() @ layer.T
            loss = torch.nn.functional.cross_entropy(h @ B[0].T, y[part])
            loss.backward()
            optimiser.step()
            total += loss.item() * len(part)
        schedule.step()
        losses.append(total / 40)
    history = classification.train(
        network, examples, rate=1e-2, epochs=5, batch=16, generator=torch.Generator().manual_seed(5), every=2
    )
    assert history[:, 0].tolist() == pytest.approx(losses, rel=1e-9)
    for ours, theirs in zip(network.parameters, (A, B, V), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-8, atol=1e-10)


def test_a_diverged_network_leaves_its_neighbours_alone(generator, examples):
    networks = ensemble(generator)
    healthy = networks.copy()
    networks.scale[1] = 1e200
    settings = {"rate": 1e-2, "epochs": 3, "batch": 16}
    history = classification.train(networks, examples, generator=torch.Generator().manual_seed(2), **settings)
    reference = classification.train(healthy, examples, generator=torch.Generator().manual_seed(2), **settings)
    assert not history[-1, 1].isfinite() and torch.equal(history[:, [0, 2]], reference[:, [0, 2]])
    assert torch.equal(networks.V[:, [0, 2]], healthy.V[:, [0, 2]])
    accuracy = networks.accuracy(*examples)
    assert accuracy[1].isnan() and accuracy[[0, 2]].isfinite().all()


def test_digits_are_learnt():
    g = torch.Generator().manual_seed(0)
    digits = data.load("digits", g)
    law = IID("uniform")
    V = torch.cat(list(law.layers(10, 2, 20, g, matrices=1)))
    A, B = law.matrix(2, 20, 64, generator=g), law.matrix(2, 10, 20, generator=g)
    networks = Classifiers(A, B, V, torch.full((2,), 10**-0.5, dtype=torch.float64), resnet.simple(relu))
    before = networks.accuracy(*digits.test)
    labels = []
    history = classification.train(
        networks, digits.train, rate=3e-3, epochs=8, batch=64, generator=g,
        progress=lambda items, label: labels.append(label) or items,
    )  # fmt: skip
    assert float(history[0].max()) < 2 * log(10) and labels == ["epochs"]
    assert float(before.max()) < 0.4 and float(networks.accuracy(*digits.test).min()) > 0.9


def test_accuracy_counts_the_right_classes(generator, examples):
    networks, (x, _) = ensemble(generator), examples
    best = networks.logits(x).argmax(-1)
    assert networks.accuracy(x, best[1])[1] == 1
    assert networks.accuracy(x, (best[1] + 1) % CLASSES)[1] == 0


def test_rates_broadcast_to_their_network():
    p = torch.zeros(2, 2, dtype=torch.float64)
    p.grad = torch.ones_like(p)
    Adam([p], [torch.tensor([[1e-1], [1e-3]], dtype=torch.float64)]).step(factor=0.5)
    torch.testing.assert_close(p, torch.tensor([[-5e-2] * 2, [-5e-4] * 2], dtype=torch.float64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": -1.0}, "rate must be positive and finite"),
        ({"rate": float("nan")}, "rate must be positive and finite"),
        ({"rate": float("inf")}, "rate must be positive and finite"),
        ({"epochs": 0}, "epochs must be a positive integer"),
        ({"batch": 0}, "batch must be a positive integer"),
        ({"every": 0}, "every must be a positive integer"),
    ],
)
def test_bad_settings_are_refused(change, message, generator, examples):
    settings = {"rate": 1e-3, "epochs": 1, "batch": 8} | change
    with pytest.raises(ValueError, match=message):
        classification.train(ensemble(generator), examples, generator=generator, **settings)


def test_shapes_that_do_not_fit_are_refused(generator):
    n = ensemble(generator)
    for bad in [(n.A, n.B, n.V[0], n.scale), (n.A[:, :4], n.B, n.V, n.scale), (n.A, n.B, n.V, n.scale[:2])]:
        with pytest.raises(ValueError, match="A, B, V and scale must have the shapes"):
            Classifiers(*bad, n.family)

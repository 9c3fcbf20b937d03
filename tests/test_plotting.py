import io

import matplotlib.pyplot as plt
import pytest
import torch
from scipy import stats

from deeplimits import plotting


@pytest.fixture
def axes(monkeypatch):
    with plt.rc_context():
        plt.switch_backend("svg")
        plotting.use_style()
        figure, ax = plt.subplots()
        yield ax
        plt.close(figure)


def runs(n=300):
    return torch.empty(n, 4, dtype=torch.float64).normal_(generator=torch.Generator().manual_seed(1))


def test_each_plot_draws_what_it_is_given_and_returns_the_axes(axes):
    x = runs()
    assert plotting.curve(axes, [1, 2, 3, 4], list(x.T), "runs", "C0") is axes
    means = axes.containers[0].lines[0].get_ydata()
    assert means == pytest.approx(x.mean(0).tolist())
    assert plotting.fan(axes, [1, 2, 3, 4], x, "C2") is axes
    assert axes.lines[-1].get_ydata() == pytest.approx(x.quantile(0.5, dim=0).tolist())
    assert plotting.density(axes, x[:, 0], stats.norm, "sample", "law") is axes
    assert plotting.quantiles(axes, x[:, 0], stats.norm, "sample", "C1") is axes
    assert sorted(axes.lines[-1].get_ydata()) == list(axes.lines[-1].get_ydata())


def test_the_same_numbers_give_the_same_bytes():
    def svg():
        with plt.rc_context():
            plotting.use_style()
            figure, ax = plt.subplots()
            plotting.fan(ax, [1, 2, 3, 4], runs(), "C0", "$x^2$")
            out = io.BytesIO()
            figure.savefig(out, format="svg", metadata={"Date": None})
            plt.close(figure)
        return out.getvalue()

    assert svg() == svg()


def test_sizes_axis_has_a_tick_at_each_size_and_no_other():
    _, ax = plt.subplots()
    plotting.sizes_axis(ax, (256, 1024, 4096))
    assert ax.get_xscale() == "log" and ax.get_xticks().tolist() == [256, 1024, 4096]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["256", "1024", "4096"]
    assert ax.get_xticks(minor=True).size == 0
    plt.close()

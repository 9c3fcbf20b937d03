"""One style for every figure, and the two or three shapes of plot that the chapters share.

Functions take axes and results and return the axes. Figures are SVG on white: sharp at every zoom, the same
bytes from the same numbers, and shown on a white card in the dark theme.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib_inline.backend_inline import set_matplotlib_formats
from scipy import stats
from torch import Tensor

# From Okabe and Ito's palette, told apart by colour-blind readers and in grey print; "C0" to "C4" in a plot
COLORS = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#56B4E9")


def use_style() -> None:
    """The book's look, set once at the top of a chapter."""
    set_matplotlib_formats("svg", metadata={"Date": None})
    plt.rcParams.update(
        {
            "figure.figsize": (7.2, 3.4),
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": cycler(color=COLORS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "axes.grid": True,
            "grid.alpha": 0.25,
            "legend.frameon": False,
            "legend.fontsize": "small",
            "svg.hashsalt": "deeplimits",
            "svg.fonttype": "path",
        }
    )


def curve(ax: Axes, x, runs: list[Tensor], label: str, color: str) -> Axes:
    """Mean over runs at each x, with a bar of one standard error; ``runs[i]`` are the runs at ``x[i]``."""
    means = [float(r.mean()) for r in runs]
    errors = [float(r.std() / r.numel() ** 0.5) for r in runs]
    ax.errorbar(x, means, errors, fmt="o", ms=4, lw=1, capsize=2, color=color, label=label)
    return ax


def allowed(ax: Axes, x, theory, allowance, label: str = "allowed") -> Axes:
    """A grey band, theory give or take the allowance of a record: where the truth may lie at this finite size."""
    theory, allowance = np.asarray(theory, float), np.asarray(allowance, float)
    ax.fill_between(x, theory - allowance, theory + allowance, color="0.85", lw=0, zorder=0, label=label)
    return ax


def sizes_axis(ax: Axes, sizes) -> Axes:
    """A logarithmic x axis with a tick at each of a few ``sizes``, such as depths, and none elsewhere."""
    ax.set_xscale("log")
    ax.set_xticks(list(sizes), [str(size) for size in sizes], minor=False)
    ax.minorticks_off()
    return ax


def fan(ax: Axes, x, runs: Tensor, color: str, label: str = "") -> Axes:
    """The median over runs and the middle 80 %; ``runs`` has shape (runs, len(x))."""
    low, middle, high = torch.quantile(
        runs, torch.tensor([0.1, 0.5, 0.9], dtype=runs.dtype, device=runs.device), dim=0
    ).cpu()
    ax.fill_between(x, low, high, color=color, alpha=0.25, lw=0)
    ax.plot(x, middle, color=color, label=label)
    return ax


def density(ax: Axes, runs: Tensor, law, label: str, law_label: str) -> Axes:
    """Histogram of ``runs`` under the density of a frozen SciPy law."""
    values = runs.cpu().numpy()
    ax.hist(values, bins=60, density=True, color="C4", alpha=0.7, label=label)
    x = np.linspace(*law.ppf([1e-4, 1 - 1e-4]), 400)
    ax.plot(x, law.pdf(x), color="k", label=law_label)
    ax.set_ylabel("density")
    return ax


def quantiles(ax: Axes, runs: Tensor, law, label: str, color: str) -> Axes:
    """Sample quantiles against those of a frozen SciPy law; on the diagonal they agree."""
    values = np.sort(runs.cpu().numpy())
    expected = law.ppf(stats.mstats.plotting_positions(values))
    keep = np.unique(np.linspace(0, len(values) - 1, 200).astype(int))
    ax.plot(expected[keep], values[keep], ".", ms=3, color=color, label=label)
    return ax

"""What every line chart of the report is made of: a series, panels above each other, the axis of steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from gssl_jax.report.reading import Metrics, Series
from gssl_jax.report.style import GREY, INK, TERMS, Line, chart, save, start_at_zero, title

POINTS = 800  # a curve keeps at most this many points


def plot(axes: Axes, metrics: Metrics, key: str, line: Line = TERMS[0], name: str | None = None,
          factor: float = 1.0, smooth: bool = False) -> None:  # fmt: skip
    """One series, times `factor`, with a gap between stages; a noisy one faintly, its running mean on top."""
    for stage, start in metrics.stages.items():
        steps, values = thinned(metrics.series(key, stage))
        steps, values = steps + start, factor * values
        marker = line.marker if len(steps) < 12 else ""
        if smooth and len(values) >= 60:
            axes.plot(steps, values, color=line.colour, alpha=0.25, linewidth=0.8)
            window = np.ones(2 * (len(values) // 60) + 1)
            values = np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")
        axes.plot(steps, values, color=line.colour, linestyle=line.dashes, linewidth=1.7, label=name, marker=marker,
                  ms=4)  # fmt: skip
        name = None  # one entry in the legend, whatever the number of stages


def thinned(series: Series) -> Series:
    """At most `POINTS` points, each the mean of neighbours: a long run draws as fast as a short one."""
    steps, values = series
    group = -(-len(steps) // POINTS)
    if group <= 1:
        return series
    whole = len(steps) // group * group
    return Series(*(x[:whole].reshape(-1, group).mean(axis=1) for x in (steps, values)))


def finish(axes: Sequence[Axes], metrics: Metrics) -> None:
    """Step axis in words, and a thin line where a stage of several begins."""
    starts = metrics.stages
    for one in axes:
        one.margins(x=0.01)
        one.ticklabel_format(axis="y", useOffset=False)
        one.yaxis.set_major_locator(MaxNLocator((6, 4, 3)[min(len(axes), 3) - 1], steps=[1, 2, 2.5, 5, 10]))
        for start in list(starts.values())[1:]:
            one.axvline(start, color=GREY, linewidth=0.8, linestyle=":")
    if len(starts) > 1:
        for one in axes:  # all stages, where only some of them have this series
            one.set_xlim(min(0, one.get_xlim()[0]), max(*starts.values(), one.get_xlim()[1]))
        for name, start in starts.items():
            axes[0].text(start, 0.98, f" {name}", transform=axes[0].get_xaxis_transform(), fontsize=8, color=GREY,
                         va="top", parse_math=False, bbox={"color": "white", "alpha": 0.7, "pad": 1})  # fmt: skip
    axes[-1].set_xlabel("step", fontsize=9, color=INK)
    axes[-1].xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))


def stack(
    metrics: Metrics, names: dict[str, str], path: Path, smooth: bool = False, from_zero: bool = False
) -> Path | None:
    """A panel for each key that was logged, above each other; `from_zero` where zero has a meaning of its own."""
    found = {key: words for key, words in names.items() if len(metrics.series(key).steps)}
    if not found:
        return None
    figure, axes = chart(len(found), 0.75 + 1.18 * len(found))
    for one, (key, words) in zip(axes, found.items(), strict=True):
        plot(one, metrics, key, smooth=smooth)
        title(one, words)
        if from_zero:
            start_at_zero(one)
    finish(axes, metrics)
    return save(figure, path)

# SPDX-License-Identifier: Apache-2.0
"""Pictures of a sweep: how alike decisions are, against what they cost, for every method.

The honest axis is logarithmic in the share of decisions that differ: between 99 and 99.9 % lie ten times as few wrong
decisions, which a plain axis shows as nothing. Both are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from snnfast.plots import style
from snnfast.plots.style import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, RED, SKY, PathLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cost = Literal["steps", "spikes"]
_COST = {"steps": "mean steps of a decision, all layers together", "spikes": "spikes per decision"}
_COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, INK, SKY, "#8C6D31")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
#: From light to dark, for percentiles.
_SHADES = (SKY, BLUE, INK, ORANGE, RED)


class PointLike(Protocol):
    """What a picture needs to know of a network, as in ``snnfast.conversion.comparison.Comparison``."""

    @property
    def mean_steps(self) -> float: ...
    @property
    def spikes_per_decision(self) -> float: ...
    @property
    def states(self) -> int: ...
    @property
    def similarity(self) -> float: ...
    @property
    def similarity_interval(self) -> tuple[float, float]: ...


class RowLike(PointLike, Protocol):
    """The same of a row of a sweep, as in ``snnfast.SweepRow``."""

    @property
    def method(self) -> str: ...
    @property
    def percentile(self) -> float: ...
    @property
    def predicted(self) -> float | None: ...


def sweep_plot(
    rows: Sequence[RowLike],
    path: PathLike,
    *,
    against: Cost = "steps",
    here: PointLike | None = None,
    title: str | None = None,
) -> None:
    """Draw the similarity of every method against steps or spikes: logarithmic above, plain below.

    A thick line with marks is measured, with 95 % intervals; a dashed one is predicted. An empty mark means that no
    decision differed: it stands at half a decision of all states.

    Args:
        rows: of a sweep at one percentile, one or more per method.
        path: file to write.
        against: what a decision costs: "steps" or "spikes".
        here: one network to point out.
        title: headline of the picture.

    Raises:
        ValueError: if there are no rows, or ``against`` is neither of the two.
        ImportError: if matplotlib is not installed.
        OSError: if the file cannot be written.
    """
    if not rows:
        raise ValueError("rows must hold at least one result, got none")
    if against not in _COST:
        raise ValueError(f"against must be 'steps' or 'spikes', got {against!r}")
    methods = list(dict.fromkeys(row.method for row in rows))
    figure = style.figure_for(path, 8.0, 8.4)
    upper, lower = figure.subplots(2, 1, height_ratios=[5.2, 2.4], sharex=True)
    states = min(row.states for row in rows)
    lines: dict[str, tuple[str, list[tuple[float, float]]]] = {}
    for number, method in enumerate(methods):
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        mine = sorted((row for row in rows if row.method == method), key=lambda row: _cost(row, against))
        cost = [_cost(row, against) for row in mine]
        differing = [_differing(row.similarity, row.states) for row in mine]
        lines[method] = (colour, list(zip(cost, differing, strict=True)))
        for axes, of in ((upper, lambda s, n: _differing(s, n)), (lower, lambda s, _: 100 * s)):
            height = [of(row.similarity, row.states) for row in mine]
            ends = [[of(end, row.states) for row in mine for end in row.similarity_interval[i : i + 1]] for i in (0, 1)]
            axes.vlines(cost, ends[0], ends[1], color=colour, linewidth=1.1, alpha=0.6, zorder=2)
            axes.plot(cost, height, color=colour, linewidth=2.0, zorder=3)
            for x, y, row in zip(cost, height, mine, strict=True):
                face = colour if row.similarity < 1 else "white"
                axes.plot([x], [y], marker, color=colour, markersize=6.5, markerfacecolor=face, zorder=4)
            foretold = [(x, of(row.predicted, 0)) for x, row in zip(cost, mine, strict=True) if row.predicted]
            if foretold:
                axes.plot(*zip(*foretold, strict=True), color=colour, linewidth=1.4, linestyle=(0, (3, 2)), zorder=2)
    points: list[PointLike] = [*rows] if here is None else [*rows, here]
    if here is not None:
        spot = (_cost(here, against), _differing(here.similarity, here.states))
        ring = {"marker": "o", "markersize": 17, "markerfacecolor": "none", "markeredgewidth": 2.0, "color": INK}
        upper.plot(*zip(spot, strict=True), **ring, zorder=5)
        upper.plot(*zip(spot, strict=True), "o", markersize=4, color=INK, zorder=5)
        lower.plot([spot[0]], [100 * here.similarity], **ring, zorder=5)
        lines["this network"] = (INK, [spot])
    _similarity_axis(upper, points, states)
    floor = _plain_floor(points)
    lower.set_ylim(floor, 100 + 0.09 * (100 - floor))
    lower.set_ylabel("similarity / %")
    lower.set_xscale("log")
    _cost_ticks(lower, [_cost(point, against) for point in points])
    lower.set_xlabel(_COST[against])
    predicted = any(row.predicted for row in rows)
    style.heading(
        upper,
        "Equal decisions",
        f"{states:,} held-out states" + ("; dashed: predicted" if predicted else ""),
    )
    style.heading(lower, "The same on a plain scale", "")
    for axes in (upper, lower):
        style.dress(axes)
        axes.grid(axis="x", color=FAINT, linewidth=0.7)
    _label_lines(figure, upper, lines)
    style.save(figure, path, title)


def percentile_plot(rows: Sequence[RowLike], path: PathLike, *, title: str | None = None) -> None:
    """Draw what the percentile of the activation scales changes: a panel per method, a line per percentile.

    An empty mark means that no decision differed, as in :func:`sweep_plot`.

    Args:
        rows: of a sweep.
        path: file to write.
        title: headline of the picture.

    Raises:
        ValueError: if there are no rows.
        ImportError: if matplotlib is not installed.
        OSError: if the file cannot be written.
    """
    if not rows:
        raise ValueError("rows must hold at least one result, got none")
    methods = list(dict.fromkeys(row.method for row in rows))
    percentiles = sorted({row.percentile for row in rows})
    columns = min(2, len(methods))
    height = -(-len(methods) // columns)
    figure = style.figure_for(path, 8.0, 0.9 + 2.6 * height)
    grid = figure.subplots(height, columns, squeeze=False, sharey=True)
    labelled: dict[str, Any] = {}
    for axes, method in zip(grid.flat, methods, strict=False):
        for number, percentile in enumerate(percentiles):
            mine = sorted(
                (row for row in rows if row.method == method and row.percentile == percentile),
                key=lambda row: row.mean_steps,
            )
            if not mine:
                continue
            (labelled[f"{percentile:g} %"],) = axes.plot(
                [row.mean_steps for row in mine],
                [_differing(row.similarity, row.states) for row in mine],
                color=_SHADES[number % len(_SHADES)],
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=5.5,
                linewidth=1.8,
            )
            none = [row for row in mine if row.similarity == 1]
            if none:
                axes.plot(
                    [row.mean_steps for row in none],
                    [_differing(1.0, row.states) for row in none],
                    _MARKERS[number % len(_MARKERS)],
                    color=_SHADES[number % len(_SHADES)],
                    markersize=5.5,
                    markerfacecolor="white",
                    zorder=4,
                )
        axes.set_xscale("log")
        _cost_ticks(axes, [row.mean_steps for row in rows if row.method == method])
        style.heading(axes, method, "")
        style.dress(axes)
    for axes in grid.flat[len(methods) :]:
        axes.set_visible(False)
    _similarity_axis(grid[0, 0], rows, min(row.states for row in rows), both=False)
    for axes in grid[:, 0]:
        axes.set_ylabel("similarity")
    for axes in grid.flat[max(0, len(methods) - columns) : len(methods)]:
        axes.set_xlabel("mean steps")
    figure.legend(
        labelled.values(),
        labelled.keys(),
        title="percentile of the activation scales",
        title_fontsize=10.5,
        loc="outside lower center",
        ncols=len(labelled),
        frameon=False,
        fontsize=10.5,
    )
    style.save(figure, path, title)


def _cost(row: PointLike, against: Cost) -> float:
    # A network may answer without a single spike; a logarithmic axis has no 0.
    return row.mean_steps if against == "steps" else max(row.spikes_per_decision, 0.1)


def _differing(similarity: float, states: int) -> float:
    """The share of decisions that differ; where none does, half a decision of all (nothing is known of fewer)."""
    return max(1.0 - similarity, 0.5 / states if states else 1e-9)


def _similarity_axis(axes: Axes, rows: Sequence[PointLike], states: int, *, both: bool = True) -> None:
    """The share of differing decisions, logarithmic, the best on top; labelled as similarity, and on the right too."""
    worst = max(_differing(min(row.similarity, row.similarity_interval[0]), row.states) for row in rows)
    best = min(_differing(row.similarity, row.states) for row in rows)
    # Before the scale, which would else be fitted to the values, and cannot be if they are all equal.
    axes.set_ylim(min(1.0, worst * 1.3), max(best, 0.5 / states) / 1.7)
    axes.set_yscale("log")
    bottom, top = axes.get_ylim()
    decades = range(math.floor(math.log10(top)), 1)

    def ticks(factors: Iterable[int]) -> list[float]:
        return [f * 10.0**d for d in decades for f in factors if top <= f * 10.0**d <= bottom]

    shown = ticks((1, 2, 5))
    if len(shown) > (13 if both else 6):
        shown = ticks((1,))
    elif len(shown) < 3:
        shown = ticks(range(1, 10))
    axes.set_yticks(shown, [f"{100 * (1 - tick):.10g} %" for tick in shown])
    axes.yaxis.set_minor_locator(_nothing())
    axes.set_ylabel("similarity")
    if not both:
        return
    right = axes.secondary_yaxis("right")
    right.set_yscale("log")
    right.set_yticks(shown, [f"1 in {round(1 / tick, 1 if tick > 0.1 else 0):,.10g}" for tick in shown])
    right.yaxis.set_minor_locator(_nothing())
    right.set_ylabel("decisions that differ", fontsize=11.5, color=INK)
    right.tick_params(labelsize=10, colors=INK, length=0)
    right.spines["right"].set_visible(False)
    if top < 1 / states < bottom:
        axes.axhspan(top, 1 / states, color=FAINT, alpha=0.4, linewidth=0, zorder=0)
        axes.annotate(
            f"beyond what {states:,} states can tell",
            (0.99, top),
            xycoords=("axes fraction", "data"),
            xytext=(0, -4),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=9.5,
            color="#666666",
        )


def _round_numbers(low: float, high: float) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5).tick_values(low, high)


def _nothing() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _plain_floor(rows: Iterable[PointLike]) -> float:
    worst = min(100 * min(row.similarity, row.similarity_interval[0]) for row in rows)
    return worst - 0.08 * (100 - worst) - 0.3


def _cost_ticks(axes: Axes, costs: Sequence[float]) -> None:
    """Round numbers on a logarithmic axis, few enough to be read."""
    low, high = min(costs) / 1.25, max(costs) * 1.3
    axes.set_xlim(low, high)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))

    def at(factors: Iterable[int]) -> list[float]:
        return [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d <= high]

    ticks = at((1, 2, 5))
    if len(ticks) < 3:
        ticks = at(range(1, 10))
        if len(ticks) < 3:
            ticks = [float(tick) for tick in _round_numbers(low, high) if low <= tick <= high]
    elif len(ticks) > 15:
        ticks = at((1,))
    axes.set_xticks(ticks, [f"{tick:,.10g}" for tick in ticks])
    axes.xaxis.set_minor_locator(_nothing())


def _label_lines(figure: Figure, axes: Axes, lines: dict[str, tuple[str, list[tuple[float, float]]]]) -> None:
    """Write every line's name beside one of its points, where the fewest lines and other names are."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.patheffects import withStroke

    canvas: Any = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    renderer = canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    halo = [withStroke(linewidth=3.5, foreground="white")]
    curves = {name: axes.transData.transform(points) for name, (_, points) in lines.items()}
    dense = np.concatenate([_between(curve) for curve in curves.values()])
    point = figure.dpi / 72
    taken: list[Any] = []
    for name, (colour, points) in sorted(lines.items(), key=lambda item: -len(item[1][1])):
        text = axes.text(
            0, 0, style.plain(name), fontsize=10.5, fontweight="bold", color=colour, path_effects=halo, zorder=6
        )
        size = text.get_window_extent(renderer)
        wide, high = size.width, size.height
        away = 7 if len(points) > 1 else 12
        best: tuple[float, float, float] | None = None
        for back, (x, y) in enumerate(curves[name][::-1]):
            for dx, dy in ((1, 0), (1, 1), (1, -1), (0, 1), (0, -1), (-1, 0), (-1, 1), (-1, -1)):
                left = x + away * point * dx - wide * (0.5 - 0.5 * dx)
                down = y + away * point * dy - high * (0.5 - 0.5 * dy)
                box = np.array([left, down, left + wide, down + high])
                hidden = ((dense >= box[:2] - 2 * point) & (dense <= box[2:] + 2 * point)).all(axis=1).sum()
                shared = sum(_overlap(box, other) for other in taken) / (wide * high)
                outside = box[0] < frame.x0 or box[2] > frame.x1 or box[1] < frame.y0 or box[3] > frame.y1
                cost = float(hidden) + 400 * shared + 1000 * outside + 3 * back + 0.5 * (dx != 1) + 0.5 * (dy != 0)
                if best is None or cost < best[0]:
                    best = (cost, left, down)
        assert best is not None
        taken.append(np.array([best[1], best[2], best[1] + wide, best[2] + high]))
        text.set_position(tuple(axes.transData.inverted().transform((best[1], best[2]))))
        text.set_verticalalignment("bottom")


def _between(curve: Any) -> Any:
    """Points all along a line, in pixels."""
    if len(curve) < 2:  # the ring around it
        turn = np.linspace(0, 2 * np.pi, 25)
        return curve[0] + 20 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    at = np.linspace(0, len(curve) - 1, 60 * (len(curve) - 1) + 1)
    return np.stack([np.interp(at, np.arange(len(curve)), curve[:, i]) for i in (0, 1)], axis=1)


def _overlap(a: Any, b: Any) -> float:
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    return float(np.prod(np.maximum(sides, 0)))

# SPDX-License-Identifier: Apache-2.0
"""Pictures of a training run, and of evaluations side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from snnfast.plots import style
from snnfast.plots.style import BLUE, GREEN, INK, ORANGE, PathLike
from snnfast.shares import between, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class ReportLike(Protocol):
    """What a plot needs to know of an evaluation, as in ``snnfast.EvaluationReport``."""

    @property
    def returns(self) -> Sequence[float]: ...
    @property
    def mean_return(self) -> float: ...
    @property
    def std_return(self) -> float: ...
    @property
    def return_interval(self) -> tuple[float, float]: ...
    @property
    def similarity(self) -> float | None: ...
    @property
    def similarity_interval(self) -> tuple[float, float] | None: ...
    @property
    def episode_decisions(self) -> Sequence[int]: ...
    @property
    def episode_agreements(self) -> Sequence[int] | None: ...


def training_curve(
    returns: Sequence[float] | npt.NDArray[Any],
    means: Sequence[float | None] | npt.NDArray[Any],
    solved_at: int | None,
    path: PathLike,
    *,
    durations: Sequence[float] | npt.NDArray[Any] | None = None,
    threshold: float | None = 195.0,
    window: int = 100,
    title: str | None = None,
) -> None:
    """Draw the course of training: the return of every episode and its running mean.

    Args:
        returns: sum of rewards of each episode, (episodes,).
        means: mean of the last ``window`` returns, (episodes,). The first ``window - 1`` are not drawn, and may be
            anything: there are no ``window`` episodes yet.
        solved_at: number of the episode, counted from 1, in which the task counted as solved; None if in none.
        path: file to write.
        durations: steps of each episode, (episodes,). Where they are the returns, as in CartPole, the axis says so.
        threshold: the mean return that is asked for; None to leave it out.
        window: episodes that each mean covers.
        title: headline of the picture.

    Raises:
        ValueError: if there are no episodes, the lengths differ, or a number is not finite or out of range.
        ImportError: if matplotlib is not installed.
        OSError: if the file cannot be written.
    """
    gained = style.numbers("returns", returns)
    for name, values in (("means", means), ("durations", durations)):
        if values is not None and len(values) != len(gained):
            raise ValueError(f"{name} must have one entry per episode ({len(gained)}), got {len(values)}")
    complete = means[window - 1 :]
    mean = style.numbers("means", complete) if len(complete) else None
    if solved_at is not None and not 1 <= solved_at <= len(gained):
        raise ValueError(f"solved_at must be an episode from 1 to {len(gained)} or None, got {solved_at}")
    figure = style.figure_for(path, 8.0, 4.4)
    axes = figure.subplots()
    episode = np.arange(1, len(gained) + 1)
    dot = "o"  # a line of a single point shows nothing
    axes.plot(episode, gained, color=BLUE, linewidth=0.7, alpha=0.75, marker=dot[: len(gained) == 1], label="episode")
    if mean is not None:
        axes.plot(
            episode[window - 1 :],
            mean,
            color=ORANGE,
            linewidth=2.4,
            marker=dot[: len(mean) == 1],
            label=f"mean of {window} episodes",
        )
    if threshold is not None:
        axes.axhline(threshold, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), label=f"required mean {threshold:g}")
    if solved_at is not None:
        axes.axvline(solved_at, color=GREEN, linewidth=1.6, label=f"solved in episode {solved_at:,}")
    axes.set_xlim(0, len(gained) * 1.01 + 1)
    style.count_along(axes, len(gained))
    # A mean lies between its returns; the threshold may be beyond all of them.
    axes.set_ylim(_span(gained if threshold is None else np.append(gained, threshold)))
    axes.set_xlabel("episode")
    is_duration = durations is not None and np.array_equal(gained, style.numbers("durations", durations))
    axes.set_ylabel("return = duration / steps" if is_duration else "return of an episode")
    style.dress(axes)
    style.legend_above(axes)
    style.save(figure, path, title)


def _span(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Limits of an axis with 0 and all values, and some room beyond the outermost ones."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    margin = 0.07 * (high - low)
    return (low - margin if low < 0 else 0.0, high + margin if high > 0 else 0.0) if margin else (-1.0, 1.0)


def evaluation_plot(reports: Mapping[str, ReportLike], path: PathLike, *, title: str | None = None) -> None:
    """Draw evaluations side by side: the return of every episode, and below it the running similarity.

    Args:
        reports: evaluations by name (of the preset, say); the similarity is drawn where there is one.
        path: file to write.
        title: headline of the picture.

    Raises:
        ValueError: if there are no reports.
        ImportError: if matplotlib is not installed.
        OSError: if the file cannot be written.
    """
    if not reports:
        raise ValueError("reports must hold at least one evaluation, got none")
    compared = any(report.similarity is not None for report in reports.values())
    columns = len(reports)
    figure = style.figure_for(path, max(6.4, 1.0 + 4.2 * columns), 6.1 if compared else 3.8)
    grid = figure.subplots(2 if compared else 1, columns, squeeze=False, sharey="row")

    # Few episodes have an interval that reaches beyond all of them.
    every = [x for r in reports.values() for x in (*r.returns, *(r.return_interval if len(r.returns) > 1 else ()))]
    grid[0, 0].set_ylim(_span(np.array(every, dtype=float)))
    for axes, (name, report) in zip(grid[0], reports.items(), strict=True):
        _returns(axes, name, report)
    grid[0, 0].set_ylabel("return of an episode")
    if compared:
        floor = 100.0
        for axes, report in zip(grid[1], reports.values(), strict=True):
            floor = min(floor, _running_similarity(axes, report))
        room = max(100 - floor, 0.5)
        grid[1, 0].set_ylim(100 - 1.25 * room, 100 + 0.12 * room)
        grid[1, 0].set_ylabel("running similarity / %")
    labelled: dict[str, Any] = {}
    for axes in grid.flat:
        handles, labels = axes.get_legend_handles_labels()
        labelled |= dict(zip(labels, handles, strict=True))
    figure.legend(
        labelled.values(),
        labelled.keys(),
        loc="outside lower center",
        ncols=3 if columns > 1 else 2,
        frameon=False,
        fontsize=10.5,
        handlelength=1.5,
        columnspacing=1.5,
    )
    style.save(figure, path, title)


def _returns(axes: Axes, name: str, report: ReportLike) -> None:
    """The return of every episode, their mean and its interval."""
    returns = np.asarray(report.returns, dtype=float)
    episode = np.arange(1, len(returns) + 1)
    axes.plot(
        episode, returns, "o", color=BLUE, markersize=4.5, alpha=0.8, markeredgewidth=0, zorder=4, label="one episode"
    )
    low, high = report.return_interval
    if len(returns) > 1:  # one episode says nothing about others
        axes.axhspan(low, high, color=ORANGE, alpha=0.3, linewidth=0, zorder=1, label="95 % interval of the mean")
    axes.axhline(report.mean_return, color=ORANGE, linewidth=1.6, zorder=5, label="mean return")
    axes.set_xlim(0, len(returns) + 1)
    style.count_along(axes, len(returns))
    axes.set_xlabel("episode")
    spread = f", sd {report.std_return:.1f}" if len(returns) > 1 else ""
    style.heading(axes, style.clip(name, 24), f"mean {report.mean_return:.1f}{spread}")
    style.dress(axes)


def _running_similarity(axes: Axes, report: ReportLike) -> float:
    """The share of equal decisions so far, episode by episode; returns the lowest value drawn, in percent."""
    axes.set_xlabel("decisions so far")
    if report.similarity is None or report.episode_agreements is None or report.similarity_interval is None:
        axes.text(0.5, 0.5, "not compared", transform=axes.transAxes, ha="center", va="center", fontsize=11, color=INK)
        style.dress(axes)
        return 100.0
    decisions = np.cumsum(report.episode_decisions)
    begun = decisions > 0
    share = 100 * np.cumsum(report.episode_agreements)[begun] / decisions[begun]
    low, high = (100 * x for x in report.similarity_interval)
    axes.axhspan(
        low, high, color=GREEN, alpha=0.22, linewidth=0, zorder=1, label="95 % interval of the final similarity"
    )
    axes.plot(decisions[begun], share, color=GREEN, linewidth=2.2, zorder=3, label="similarity so far")
    axes.plot(decisions[-1:], share[-1:], "o", color=GREEN, markersize=6, zorder=4, clip_on=False)
    axes.set_xlim(0, decisions[-1])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.locator_params(axis="x", nbins=5)
    style.heading(axes, f"similarity {percent(report.similarity)}", f"95 %: {between(report.similarity_interval)}")
    style.dress(axes)
    return min(low, float(share.min()))

# SPDX-License-Identifier: Apache-2.0
"""Pictures: a training run, evaluations side by side, the spikes of one decision, a film of an episode.

Every function writes one file, atomically; its ending (``.png``, ``.pdf``, ``.svg``) chooses the format. matplotlib
and Pillow are imported when they are needed (``pip install "snnfast[plot]"``), and figures are made without pyplot,
so no display, global state or user setting is touched.

Colours are those of Okabe and Ito 2008, which remain distinct for colour-blind readers.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from snnfast.checkpoint import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
_CYCLE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
_INK, _FAINT = "#222222", "#D9D9D9"
_DPI = 160
_FORMATS = (".png", ".pdf", ".svg")
_PathLike = str | os.PathLike[str]


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


class SimulationLike(Protocol):
    """What a raster needs, as in ``snnfast.reference.Simulation``: arrays or tensors.

    The decoded output is (B, n_out), the records are (T, B, N) per layer.
    """

    @property
    def output(self) -> Any: ...
    @property
    def spikes(self) -> Sequence[Any] | None: ...
    @property
    def potentials(self) -> Sequence[Any] | None: ...


def training_curve(
    durations: Sequence[float] | npt.NDArray[Any],
    means: Sequence[float] | npt.NDArray[Any],
    solved_at: int | None,
    path: _PathLike,
    *,
    threshold: float | None = 195.0,
    window: int = 100,
    title: str | None = None,
) -> None:
    """Draw the course of training: the duration of every episode and its running mean.

    Args:
        durations: steps of each episode, (episodes,).
        means: mean of the last ``window`` durations, (episodes,). The first ``window - 1`` are not drawn: there are
            no ``window`` episodes yet.
        solved_at: number of the episode, counted from 1, in which the task counted as solved; None if in none.
        path: file to write.
        threshold: the mean that is asked for, in steps; None to leave it out.
        window: episodes that each mean covers.
        title: headline of the picture.

    Raises:
        ValueError: if there are no episodes, the lengths differ, or a number is not finite or out of range.
        ImportError: if matplotlib is not installed.
        OSError: if the file cannot be written.
    """
    lasted, mean = _numbers("durations", durations), _numbers("means", means)
    if len(lasted) != len(mean):
        raise ValueError(f"means must have one entry per episode ({len(lasted)}), got {len(mean)}")
    if solved_at is not None and not 1 <= solved_at <= len(lasted):
        raise ValueError(f"solved_at must be an episode from 1 to {len(lasted)} or None, got {solved_at}")
    figure = _figure(path, 8.0, 4.4)
    axes = figure.subplots()
    episode = np.arange(1, len(lasted) + 1)
    axes.plot(episode, lasted, color=BLUE, linewidth=0.7, alpha=0.75, label="episode")
    if len(mean) >= window:
        axes.plot(
            episode[window - 1 :], mean[window - 1 :], color=ORANGE, linewidth=2.4, label=f"mean of {window} episodes"
        )
    if threshold is not None:
        axes.axhline(threshold, color=_INK, linewidth=1.0, linestyle=(0, (4, 3)), label=f"required mean {threshold:g}")
    if solved_at is not None:
        axes.axvline(solved_at, color=GREEN, linewidth=1.6, label=f"solved in episode {solved_at:,}")
    axes.set_xlim(0, len(lasted) * 1.01 + 1)
    top = max(lasted.max(), threshold or 0.0)
    axes.set_ylim(0, 1.06 * top)
    axes.set_xlabel("episode")
    axes.set_ylabel("duration / steps")
    _dress(axes)
    _legend_above(axes)
    _save(figure, path, title)


def evaluation_plot(reports: Mapping[str, ReportLike], path: _PathLike, *, title: str | None = None) -> None:
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
    figure = _figure(path, max(6.4, 1.0 + 4.2 * columns), 6.1 if compared else 3.8)
    grid = figure.subplots(2 if compared else 1, columns, squeeze=False, sharey="row")

    every = np.concatenate([np.asarray(r.returns, dtype=float) for r in reports.values()])
    low, high = min(0.0, float(every.min())), max(0.0, float(every.max()))
    margin = 0.07 * ((high - low) or 1.0)
    span = (low - margin if low < 0 else 0.0, high + margin if high > 0 else 0.0)
    grid[0, 0].set_ylim(span if span[0] < span[1] else (-1.0, 1.0))
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
    _save(figure, path, title)


def raster(
    simulation: SimulationLike,
    path: _PathLike,
    *,
    sample: int = 0,
    outputs: Sequence[str] | None = None,
    title: str | None = None,
) -> None:
    """Draw one decision: the spikes of every layer over time, and the output neurons' membrane potentials.

    Args:
        simulation: of ``network.simulate(observations, record=("spikes", "potentials"))``.
        path: file to write.
        sample: which row of the observations.
        outputs: names of the output neurons (of the actions).
        title: headline of the picture.

    Raises:
        ValueError: if spikes or potentials were not recorded, there is no such sample, or ``outputs`` has another
            length than the output.
        ImportError: if matplotlib is not installed.
        OSError: if the file cannot be written.
    """
    if simulation.spikes is None or simulation.potentials is None:
        raise ValueError('simulation must hold records: network.simulate(..., record=("spikes", "potentials"))')
    potentials = np.asarray(simulation.potentials[-1])
    steps, batch, n_out = potentials.shape
    if not 0 <= sample < batch:
        raise ValueError(f"sample must be from 0 to {batch - 1}, got {sample}")
    if outputs is not None and len(outputs) != n_out:
        raise ValueError(f"outputs must name {n_out} neurons, got {len(outputs)}")
    names = [f"action {i}" for i in range(n_out)] if outputs is None else list(outputs)
    layers = [np.asarray(layer)[:, sample] for layer in simulation.spikes]

    heights = [min(2.6, 0.5 + 0.08 * layer.shape[1]) for layer in layers]
    figure = _figure(path, 8.0, sum(heights) + 2.0 + 0.9)
    panels = figure.subplots(len(layers) + 1, 1, sharex=True, squeeze=False, height_ratios=[*heights, 2.0])[:, 0]
    for number, (axes, layer, height) in enumerate(zip(panels, layers, heights, strict=False), start=1):
        when, which = np.nonzero(layer)
        neurons = layer.shape[1]
        size = max(1.6, 0.72 * 55 * height / neurons)  # most of a neuron's row, in points
        axes.plot(
            when + 1, which + 1, "|", color=_CYCLE[(number - 1) % 6], markersize=min(size, 9), markeredgewidth=1.1
        )
        axes.set_ylim(0.3, neurons + 0.7)
        axes.set_yticks(sorted({1, (neurons + 1) // 2, neurons}))
        axes.set_ylabel("neuron")
        last = number == len(simulation.potentials)
        rate = layer.mean()
        _heading(
            axes,
            f"{'output' if last else 'hidden'} layer {number}",
            f"{int(layer.sum()):,} spikes, rate {rate:.3f} per step",
        )
        _dress(axes, grid=False)
    axes = panels[-1]
    final = potentials[-1, sample]
    best = int(np.argmax(np.asarray(simulation.output)[sample]))
    many = n_out > len(_CYCLE)  # then only the chosen one is coloured and named
    time = np.arange(1, steps + 1)
    apart = 0.0 if many else 0.13 * float(np.ptp(potentials[:, sample]))
    ends = _spread(final.tolist(), apart)
    for i in range(n_out):
        chosen = i == best
        colour = (BLUE if chosen else "#BBBBBB") if many else _CYCLE[i]
        axes.plot(
            time, potentials[:, sample, i], color=colour, linewidth=2.2 if chosen else 1.3, zorder=3 if chosen else 2
        )
        if chosen or not many:
            axes.annotate(
                names[i],
                (1.0, ends[i]),
                xycoords=("axes fraction", "data"),
                xytext=(6, 0),
                textcoords="offset points",
                color=colour,
                fontsize=10,
                fontweight="bold" if chosen else "normal",
                va="center",
                annotation_clip=False,
            )
    axes.axhline(0, color=_FAINT, linewidth=0.8, zorder=1)
    axes.set_xlim(0.5, steps + 0.5)
    axes.set_xlabel("time step")
    axes.set_ylabel("membrane potential")
    _heading(axes, "output neurons", f"decision: {names[best]}")
    _dress(axes, grid=False)
    figure.align_ylabels(panels)
    _save(figure, path, title)


#: How the rivals of a benchmark are drawn: name in the figures, label, colour, marker, line.
_RIVALS = (
    ("snnfast act", "snnfast, net.act", BLUE, "*", "none"),
    ("snnfast, fast", "snnfast, fast contract", SKY, "D", "solid"),
    ("snnfast", "snnfast, exact", BLUE, "o", "solid"),
    ("relu network", "the ReLU network in torch (no time steps)", _INK, "s", "dashed"),
    ("careful torch", "careful torch", ORANGE, "v", "solid"),
    ("sinabs", "sinabs", GREEN, "^", "solid"),
    ("spikingjelly", "SpikingJelly", PURPLE, "X", "solid"),
    ("norse", "norse", "#8C6D31", "<", "solid"),
    ("snntorch", "snnTorch", RED, "P", "solid"),
)


def benchmark_plot(cases: Sequence[Mapping[str, Any]], path: _PathLike, *, title: str | None = None) -> None:
    """Draw how many times faster than naive torch everything is: a panel per network, over the batch size.

    Args:
        cases: the "cases" of ``snnfast bench network``; those at other firing rates than the usual one are left out.
        path: file to write.
        title: headline of the picture.

    Raises:
        ValueError: if there are no cases.
        ImportError: if matplotlib is not installed.
        OSError: if the file cannot be written.
    """
    # The usual rate is that of a workload's first case.
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for case in cases:
        first = panels.setdefault(case["workload"], [case])[0]
        if case is not first and case["rate_wanted"] == first["rate_wanted"]:
            panels[case["workload"]].append(case)
    if not panels:
        raise ValueError("cases must hold at least one measured case, got none")
    figure = _figure(path, 2.2 + 3.3 * len(panels), 5.6)
    from matplotlib.patheffects import withStroke

    def plain(case: Mapping[str, Any]) -> float:
        return float(case["seconds"]["snnfast"]["times_faster_than_naive"])

    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    labelled: dict[str, Any] = {}
    for axes, (name, shown) in zip(grid, panels.items(), strict=True):
        for key, label, colour, marker, line in _RIVALS:
            points = [
                (at, found["times_faster_than_naive"])
                for at, case in enumerate(shown)
                for found in [{**case["seconds"], **case.get("peers", {})}.get(key, {})]
                # One decision by the quick way is worth a mark of its own where it is much quicker.
                if "times_faster_than_naive" in found
                and not (key == "snnfast act" and found["times_faster_than_naive"] < 2 * plain(case))
            ]
            if not points:
                continue
            ours = key.startswith("snnfast")
            (labelled[label],) = axes.plot(
                *zip(*points, strict=True),
                color=colour,
                marker=marker,
                markersize=15 if marker == "*" else 8 if ours else 6.5,
                markeredgecolor="white",
                markeredgewidth=0.8,
                linestyle=line,
                linewidth=2.6 if ours else 1.4,
                zorder=5 if ours else 3,
                label=label,
            )
            for at, value in points if ours else ():
                # Above the point; the exact network's below it where a fast one lies above.
                below = key == "snnfast" and "snnfast, fast" in shown[at]["seconds"]
                axes.annotate(
                    f"{value:,.0f}×" if value >= 10 else f"{value:.1f}×",
                    (at, value),
                    xytext=(0, -18 if below else 9),
                    textcoords="offset points",
                    ha="center",
                    fontsize=9.5,
                    fontweight="bold",
                    color=colour,
                    zorder=6,
                    path_effects=[withStroke(linewidth=3, foreground="white")],
                )
        axes.axhline(1.0, color="#888888", linewidth=1.1, zorder=1)
        axes.set_yscale("log")
        axes.set_xticks(range(len(shown)), [f"{case['batch']:,}" for case in shown])
        axes.set_xlim(-0.35, max(len(shown) - 1, 0.5) + 0.35)
        axes.set_xlabel("batch size")
        sizes = "-".join(map(str, shown[0]["sizes"]))
        _heading(axes, name, f"{sizes}, T={shown[0]['timesteps']}")
        _dress(axes)
    grid[0].annotate(
        "naive torch",
        (0.0, 1.0),
        xytext=(4, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        fontsize=9.5,
        color="#666666",
    )
    low, high = grid[0].get_ylim()
    grid[0].set_ylim(min(low, 0.5), high * 2.2)
    grid[0].yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}×" if value >= 1 else f"{value:g}×")
    grid[0].set_ylabel("times faster than naive torch")
    named = [label for _, label, *_ in _RIVALS if label in labelled]
    figure.legend(
        [labelled[label] for label in named],
        named,
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=10.5,
        handlelength=2.2,
        columnspacing=1.8,
    )
    _save(figure, path, title)


def write_gif(
    frames: Sequence[npt.NDArray[np.uint8]], path: _PathLike, *, frames_per_second: float = 25.0, max_width: int = 480
) -> None:
    """Write pictures as a film that repeats for ever.

    Args:
        frames: pictures of one size, each (height, width, 3), uint8.
        path: file to write.
        frames_per_second: speed; GIF counts time in hundredths of a second.
        max_width: wider pictures are made smaller, in pixels.

    Raises:
        ValueError: if there are no frames, one has another shape or dtype, or a number is out of range.
        ImportError: if Pillow is not installed.
        OSError: if the file cannot be written.
    """
    require_pillow()
    from PIL import Image

    if len(frames) == 0:
        raise ValueError("frames must hold at least one picture, got none")
    if not 0 < frames_per_second <= 100:
        raise ValueError(f"frames_per_second must be above 0 and at most 100, got {frames_per_second}")
    if max_width < 1:
        raise ValueError(f"max_width must be at least 1, got {max_width}")
    for number, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != frames[0].shape:
            raise ValueError(
                f"frames must be uint8 arrays (height, width, 3) of one size, frame {number} is {frame.dtype} "
                f"{frame.shape}, the first one {frames[0].shape}"
            )
    height, width = frames[0].shape[:2]
    scale = min(1.0, max_width / width)
    size = (round(width * scale), max(1, round(height * scale)))
    pictures = [Image.fromarray(frame) for frame in frames]
    if scale < 1:
        pictures = [picture.resize(size, Image.Resampling.LANCZOS) for picture in pictures]
    buffer = io.BytesIO()
    duration = max(10, round(100 / frames_per_second) * 10)
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0)
    atomic_write(Path(path), buffer.getvalue())


def require_pillow() -> None:
    """Raise an ``ImportError`` that says what to install unless Pillow is there."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ImportError('films need Pillow: pip install "snnfast[plot]"') from error


def _figure(path: _PathLike, width: float, height: float) -> Figure:
    """An empty figure, in inches, once it is clear that it can be drawn and in which format it is wanted."""
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise ValueError(f"path must end in {', '.join(_FORMATS)}, got {os.fspath(path)!r}")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "snnfast[plot]"') from error
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.09, wspace=0.02, hspace=0.03)
    return Figure(figsize=(width, height), dpi=_DPI, layout=layout, facecolor="white")


def _numbers(name: str, values: Sequence[float] | npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be a list with at least one number, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)][0]} in it")
    return array


def _returns(axes: Axes, name: str, report: ReportLike) -> None:
    """The return of every episode, their mean and its interval."""
    returns = np.asarray(report.returns, dtype=float)
    episode = np.arange(1, len(returns) + 1)
    axes.plot(
        episode, returns, "o", color=BLUE, markersize=4.5, alpha=0.8, markeredgewidth=0, zorder=4, label="one episode"
    )
    low, high = report.return_interval
    axes.axhspan(low, high, color=ORANGE, alpha=0.3, linewidth=0, zorder=1, label="95 % interval of the mean")
    axes.axhline(report.mean_return, color=ORANGE, linewidth=1.6, zorder=5, label="mean return")
    axes.set_xlim(0, len(returns) + 1)
    axes.set_xlabel("episode")
    spread = f", sd {report.std_return:.1f}" if len(returns) > 1 else ""
    _heading(axes, name, f"mean {report.mean_return:.1f}{spread}")
    _dress(axes)


def _running_similarity(axes: Axes, report: ReportLike) -> float:
    """The share of equal decisions so far, episode by episode; returns the lowest value drawn, in percent."""
    axes.set_xlabel("decisions so far")
    if report.similarity is None or report.episode_agreements is None or report.similarity_interval is None:
        axes.text(0.5, 0.5, "not compared", transform=axes.transAxes, ha="center", va="center", fontsize=11, color=_INK)
        _dress(axes)
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
    _heading(axes, f"similarity {share[-1]:.2f} %", f"95 %: {low:.2f} to {high:.2f}")
    _dress(axes)
    return min(low, float(share.min()))


def _spread(values: list[float], apart: float) -> list[float]:
    """Places for labels near ``values``, at least ``apart`` from each other, in the same order."""
    order = np.argsort(values)
    places = list(values)
    for below, above in itertools.pairwise(order.tolist()):
        places[above] = max(places[above], places[below] + apart)
    shift = (sum(places) - sum(values)) / len(values)
    return [place - shift for place in places]


def _heading(axes: Axes, left: str, right: str) -> None:
    axes.set_title(left, loc="left", fontsize=12, fontweight="bold", color=_INK, pad=7)
    axes.set_title(right, loc="right", fontsize=10.5, color=_INK, pad=7)


def _dress(axes: Axes, *, grid: bool = True) -> None:
    """Quiet frame, readable letters."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#888888")
    axes.tick_params(labelsize=10, colors=_INK, length=3.5)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_fontsize(11.5)
        label.set_color(_INK)
    if grid:
        axes.grid(axis="y", color=_FAINT, linewidth=0.7)
        axes.set_axisbelow(True)


def _legend_above(axes: Axes) -> None:
    """A legend over the axes, where no data can be."""
    axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=4,
        frameon=False,
        fontsize=10.5,
        handlelength=1.5,
        columnspacing=1.5,
    )


def _save(figure: Figure, path: _PathLike, title: str | None) -> None:
    if title:
        figure.suptitle(title, fontsize=13.5, fontweight="bold", color=_INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix[1:].lower(), dpi=_DPI)
    atomic_write(Path(path), buffer.getvalue())

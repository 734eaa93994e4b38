# SPDX-License-Identifier: Apache-2.0
"""Pictures of single decisions: what every neuron did, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from snnfast.plots import style
from snnfast.plots.style import BLUE, CYCLE, FAINT, INK, PathLike


class SimulationLike(Protocol):
    """What a raster needs, as in ``snnfast.reference.Simulation``: arrays or tensors.

    The decoded output is (B, n_out), the records are (T, B, N) per layer; the steps that each sample ran are (B,), or
    None if all ran to the end.
    """

    @property
    def output(self) -> Any: ...
    @property
    def spikes(self) -> Sequence[Any] | None: ...
    @property
    def potentials(self) -> Sequence[Any] | None: ...
    @property
    def steps(self) -> Any: ...


def raster(
    simulation: SimulationLike,
    path: PathLike,
    *,
    sample: int = 0,
    outputs: Sequence[str] | None = None,
    turns: bool = False,
    title: str | None = None,
) -> None:
    """Draw one decision: the spikes of every layer over time, and the output neurons' membrane potentials.

    Negative spikes are black. Of several spikes at once (of a neuron's copies) fewer are paler. Where a decision has
    stopped early, time ends.

    Args:
        simulation: of ``network.simulate(observations, record=("spikes", "potentials"))``.
        path: file to write.
        sample: which row of the observations.
        outputs: names of the output neurons (of the actions).
        turns: whether hidden layers take turns, as in staged and radix codes: their steps then follow each other.
        title: headline of the picture.

    Raises:
        ValueError: if spikes or potentials were not recorded, there is no such sample, or ``outputs`` has another
            length than the output.
        ImportError: if matplotlib is not installed.
        OSError: if the file cannot be written.
    """
    layers, voltages = _records(simulation, sample)
    potentials = voltages[-1]
    n_out = potentials.shape[1]
    if outputs is not None and len(outputs) != n_out:
        raise ValueError(f"outputs must name {n_out} neurons, got {len(outputs)}")
    names = [f"action {i}" for i in range(n_out)] if outputs is None else list(outputs)
    starts, ends = _times(simulation, sample, len(layers), len(potentials), turns)

    heights = [min(2.6, 0.5 + 0.08 * layer.shape[1]) for layer in layers]
    figure = style.figure_for(path, 8.0, sum(heights) + 2.0 + 0.9)
    panels = figure.subplots(len(layers) + 1, 1, sharex=True, squeeze=False, height_ratios=[*heights, 2.0])[:, 0]
    for number, (axes, layer, height) in enumerate(zip(panels, layers, heights, strict=False), start=1):
        neurons = layer.shape[1]
        size = min(max(1.6, 0.72 * 55 * height / neurons), 9)  # most of a neuron's row, in points
        most = max(1.0, float(np.abs(layer).max(initial=0.0)))
        colour = CYCLE[(number - 1) % 6]
        for kind, values in ((colour, np.unique(layer[layer > 0])), (INK, np.unique(layer[layer < 0]))):
            for value in values:
                when, which = np.nonzero(layer == value)
                axes.plot(
                    when + 1 + starts[number - 1],
                    which + 1,
                    "|",
                    color=kind,
                    markersize=size,
                    markeredgewidth=1.1 if ends[-1] > 30 else 2.2,
                    alpha=0.35 + 0.65 * abs(value) / most,
                )
        if not np.any(layer):  # a panel without a line would have no time axis
            axes.plot([], [], "|", color=colour)
        axes.set_ylim(0.3, neurons + 0.7)
        axes.set_yticks(sorted({1, (neurons + 1) // 2, neurons}))
        axes.set_ylabel("neuron")
        last = number == len(voltages)
        ran = max(1, ends[number - 1] - starts[number - 1])
        spikes, negative = int(np.abs(layer).sum()), int(-layer[layer < 0].sum())
        said = f"{spikes:,} spikes" + (f", {negative:,} negative (black)" if negative else "")
        style.heading(
            axes,
            f"{'output' if last else 'hidden'} layer {number}",
            f"{said}, {spikes / (ran * neurons):.3f} per neuron and step",
        )
        if turns:
            axes.axvspan(starts[number - 1] + 0.5, ends[number - 1] + 0.5, color=FAINT, alpha=0.45, lw=0, zorder=0)
        style.dress(axes, grid=False)
    axes = panels[-1]
    shown = potentials[: ends[-1] - starts[-1]]
    final = shown[-1]
    best = int(np.argmax(_array(simulation.output)[sample]))
    many = n_out > len(CYCLE)  # then only the chosen one is coloured and named
    time = starts[-1] + np.arange(1, len(shown) + 1)
    colours = [(BLUE if i == best else "#BBBBBB") if many else CYCLE[i] for i in range(n_out)]
    for i in range(n_out):
        axes.plot(
            time,
            shown[:, i],
            color=colours[i],
            linewidth=2.2 if i == best else 1.3,
            marker="o" if len(shown) <= 24 else None,
            markersize=3.5,
            zorder=3 if i == best else 2,
        )
    axes.axhline(0, color=FAINT, linewidth=0.8, zorder=1)
    bottom, top = axes.get_ylim()
    places = style.spread(final.tolist(), 0.0 if many else 0.12 * (top - bottom))
    for i in range(n_out):
        chosen = i == best
        if chosen or not many:
            axes.annotate(
                style.plain(style.clip(names[i], 28)),
                (1.0, places[i]),
                xycoords=("axes fraction", "data"),
                xytext=(6, 0),
                textcoords="offset points",
                color=colours[i],
                fontsize=10,
                fontweight="bold" if chosen else "normal",
                va="center",
                annotation_clip=False,
            )
    axes.set_xlim(0.5, ends[-1] + 0.5)
    style.count_along(axes, ends[-1])
    axes.set_xlabel("time step")
    axes.set_ylabel("membrane potential")
    style.heading(axes, "output neurons", f"decision: {style.clip(names[best], 28)}")
    style.dress(axes, grid=False)
    figure.align_ylabels(panels)
    style.save(figure, path, title)


#: Neurons of a layer that a map of potentials shows; more would be thinner than a line.
_MOST_ROWS = 128


def potential_map(
    simulation: SimulationLike,
    path: PathLike,
    *,
    sample: int = 0,
    turns: bool = False,
    title: str | None = None,
    label: str = "membrane potential / thresholds",
    unit: float = 1.0,
) -> None:
    """Draw the membrane potential of every hidden neuron over the steps of one decision, as a map of colours.

    Colours end at one ``unit``; at two where a twentieth of the positive potentials is above one; at less where all of
    them are that small. What is further below 0 is grey: a neuron that is driven away from its threshold all the time
    would else leave all others one colour.

    Args:
        simulation: of ``network.simulate(observations, record=("spikes", "potentials"))``.
        path: file to write.
        sample: which row of the observations.
        turns: whether hidden layers take turns.
        title: headline of the picture.
        label: what the colours are, with their unit.
        unit: the potential at which a neuron fires, above 0, which the numbers shown are multiples of. Copies fire at
            the threshold over their number.

    Raises:
        ValueError: if spikes or potentials were not recorded, there is no such sample, no hidden layer, or ``unit`` is
            not above 0.
        ImportError: if matplotlib is not installed.
        OSError: if the file cannot be written.
    """
    layers, voltages = _records(simulation, sample)
    starts, ends = _times(simulation, sample, len(layers), len(voltages[-1]), turns)
    if not 0 < unit < np.inf:
        raise ValueError(f"unit must be above 0, got {unit!r}")
    hidden = [v[: end - start, :_MOST_ROWS] / unit for v, start, end in zip(voltages[:-1], starts, ends, strict=False)]
    if not hidden:
        raise ValueError("simulation must be of a network with a hidden layer, got one without")
    every = np.concatenate([h.ravel() for h in hidden])
    heights = [min(3.2, 0.6 + 0.1 * h.shape[1]) for h in hidden]
    figure = style.figure_for(path, 8.0, max(3.6, sum(heights) + 0.45 * len(hidden) + 0.9))  # what the label needs
    charged = every[every > 0]
    limit = 2.0 if len(charged) and np.quantile(charged, 0.95) > 1 else 1.0
    limit = min([x for x in (0.1, 0.2, 0.5) if x >= np.abs(every).max(initial=0.0)], default=limit)
    from matplotlib import colormaps

    colours = colormaps["PuOr_r"].with_extremes(under="#DDDDDD")  # what never fires is to recede
    panels = figure.subplots(len(hidden), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for number, (axes, values, start, end, full) in enumerate(
        zip(panels, hidden, starts, ends, voltages, strict=False), start=1
    ):
        neurons = values.shape[1]
        image = axes.imshow(
            values.T,
            cmap=colours,
            vmin=-limit,
            vmax=limit,
            aspect="auto",
            origin="lower",
            interpolation="nearest",
            extent=(start + 0.5, end + 0.5, 0.5, neurons + 0.5),
        )
        axes.set_yticks(sorted({1, (neurons + 1) // 2, neurons}))
        axes.set_ylabel("neuron")
        cut = f"first {neurons} of {full.shape[1]:,} neurons" if neurons < full.shape[1] else ""
        style.heading(axes, f"hidden layer {number}", cut)
        style.dress(axes, grid=False)
    last = panels[-1]
    last.set_xlim(0.5, max(ends[: len(hidden)]) + 0.5)
    style.count_along(last, max(ends[: len(hidden)]))
    last.set_xlabel("time step")
    below, above = bool(every.min() < -limit), bool(every.max() > limit)
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")
    bar = figure.colorbar(image, ax=list(panels), extend=extend, fraction=0.05, pad=0.02, aspect=30)
    words = label + ("\n(grey: further below)" if below else "")
    bar.set_label(style.plain(words), fontsize=11.5, color=INK)
    if every.min() >= 0:
        bar.ax.set_ylim(0, limit)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=10, colors=INK, length=3.5)
    figure.align_ylabels(panels)
    style.save(figure, path, title)


_Floats = npt.NDArray[np.floating[Any]]


def _array(values: Any) -> _Floats:
    """Of an array, or of a tensor on whatever device."""
    array: _Floats = np.asarray(values.cpu() if hasattr(values, "cpu") else values)
    return array


def _records(simulation: SimulationLike, sample: int) -> tuple[list[_Floats], list[_Floats]]:
    """Spikes and potentials of one sample, per layer (T, N)."""
    if simulation.spikes is None or simulation.potentials is None:
        raise ValueError('simulation must hold records: network.simulate(..., record=("spikes", "potentials"))')
    batch = _array(simulation.potentials[-1]).shape[1]
    if not 0 <= sample < batch:
        raise ValueError(f"sample must be from 0 to {batch - 1}, got {sample}")
    spikes, potentials = (
        [_array(layer)[:, sample] for layer in layers] for layers in (simulation.spikes, simulation.potentials)
    )
    return spikes, potentials


def _times(
    simulation: SimulationLike, sample: int, layers: int, steps: int, turns: bool
) -> tuple[list[int], list[int]]:
    """The steps before the first and up to the last one of every spiking layer, and of the output."""
    ran = simulation.steps
    total = steps * (layers if turns else 1) if ran is None else int(_array(ran)[sample])
    starts = [i * steps if turns else 0 for i in range(layers)]
    ends = [min(start + steps, total) for start in starts]
    return [*starts, (layers - 1) * steps if turns else 0], [*ends, total]

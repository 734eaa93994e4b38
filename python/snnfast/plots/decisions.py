# SPDX-License-Identifier: Apache-2.0
"""Pictures of single decisions: what every neuron did, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from snnfast.plots import style
from snnfast.plots.style import BLUE, CYCLE, FAINT, PathLike


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


def raster(
    simulation: SimulationLike,
    path: PathLike,
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
    figure = style.figure_for(path, 8.0, sum(heights) + 2.0 + 0.9)
    panels = figure.subplots(len(layers) + 1, 1, sharex=True, squeeze=False, height_ratios=[*heights, 2.0])[:, 0]
    for number, (axes, layer, height) in enumerate(zip(panels, layers, heights, strict=False), start=1):
        when, which = np.nonzero(layer)
        neurons = layer.shape[1]
        size = max(1.6, 0.72 * 55 * height / neurons)  # most of a neuron's row, in points
        axes.plot(when + 1, which + 1, "|", color=CYCLE[(number - 1) % 6], markersize=min(size, 9), markeredgewidth=1.1)
        axes.set_ylim(0.3, neurons + 0.7)
        axes.set_yticks(sorted({1, (neurons + 1) // 2, neurons}))
        axes.set_ylabel("neuron")
        last = number == len(simulation.potentials)
        rate = layer.mean()
        style.heading(
            axes,
            f"{'output' if last else 'hidden'} layer {number}",
            f"{int(layer.sum()):,} spikes, rate {rate:.3f} per step",
        )
        style.dress(axes, grid=False)
    axes = panels[-1]
    final = potentials[-1, sample]
    best = int(np.argmax(np.asarray(simulation.output)[sample]))
    many = n_out > len(CYCLE)  # then only the chosen one is coloured and named
    time = np.arange(1, steps + 1)
    apart = 0.0 if many else 0.13 * float(np.ptp(potentials[:, sample]))
    ends = style.spread(final.tolist(), apart)
    for i in range(n_out):
        chosen = i == best
        colour = (BLUE if chosen else "#BBBBBB") if many else CYCLE[i]
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
    axes.axhline(0, color=FAINT, linewidth=0.8, zorder=1)
    axes.set_xlim(0.5, steps + 0.5)
    axes.set_xlabel("time step")
    axes.set_ylabel("membrane potential")
    style.heading(axes, "output neurons", f"decision: {names[best]}")
    style.dress(axes, grid=False)
    figure.align_ylabels(panels)
    style.save(figure, path, title)

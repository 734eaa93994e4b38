# SPDX-License-Identifier: Apache-2.0
"""Pictures of one conversion: when its decisions stop, and how far its outputs are from the original's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from snnfast.plots import style
from snnfast.plots.style import BLUE, FAINT, INK, ORANGE, SKY, PathLike
from snnfast.shares import percent, rough_percent

#: Shares of the states, in percent, up to which errors are drawn, and their colours from light to dark.
QUANTILES = ((50, "#A6CEE3"), (90, SKY), (99, BLUE), (100, INK))


def steps_histogram(
    steps: Sequence[float] | npt.NDArray[Any],
    path: PathLike,
    *,
    certified: Sequence[float] | npt.NDArray[Any] | None = None,
    most: int | None = None,
    title: str | None = None,
) -> None:
    """Draw after how many steps decisions have stopped: the share of decisions per step.

    Args:
        steps: steps of each decision, (N,).
        path: file to write.
        certified: 1 where a decision was certified, else 0, (N,); or None where nothing is certified.
        most: the most steps that a decision can take; by default the largest of ``steps``.
        title: headline of the picture.

    Raises:
        ValueError: if there are no steps, the lengths differ, or a number is not finite.
        ImportError: if matplotlib is not installed.
        OSError: if the file cannot be written.
    """
    ran = style.numbers("steps", steps)
    sure = None if certified is None else style.numbers("certified", certified) > 0
    if sure is not None and len(sure) != len(ran):
        raise ValueError(f"certified must have one entry per decision ({len(ran)}), got {len(sure)}")
    # A few late decisions would leave most of the picture empty: they are told in words.
    shown = int(ran.max() if most is None else max(most, ran.max()))
    last = min(shown, max(8, int(np.quantile(ran, 0.995)) + 1))
    later = float((ran > last).mean())
    figure = style.figure_for(path, 8.0, 4.0)
    axes = figure.subplots()
    bins = np.arange(0.5, last + 1.0)
    share = 100 * np.histogram(ran, bins)[0] / len(ran)
    at = np.arange(1, last + 1)
    width = 0.82 if last <= 40 else 1.0
    axes.bar(at, share, width, color=BLUE, linewidth=0)
    if sure is not None and not sure.all():
        open_share = 100 * np.histogram(ran[~sure], bins)[0] / len(ran)
        axes.bar(at, open_share, width, bottom=share - open_share, color=ORANGE, linewidth=0)
    mean, late = float(ran.mean()), float(np.quantile(ran, 0.95))
    top = float(share.max()) * 1.3
    style.shares_up_to(axes, top)
    # The higher label may lie above the lower line, and neither across the other line.
    left = late - mean < 0.17 * last < mean
    for where, words, height, before in (  # each on a white ground where there was no way round the other line
        (mean, f"mean {mean:.2f}", 0.84, left),
        (late, f"95 % by step {late:.0f}", 0.95, late > 0.82 * last),
    ):
        axes.axvline(where, ymax=height, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), zorder=4)
        axes.annotate(
            words,
            (where, height * top),
            xytext=(-5 if before else 5, 0),
            textcoords="offset points",
            ha="right" if before else "left",
            va="top",
            fontsize=10.5,
            fontweight="bold",
            color=INK,
            zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    axes.set_xlim(0.3, last + 0.7)
    style.count_along(axes, last)
    axes.set_xlabel("steps of a decision, all layers together")
    axes.set_ylabel("share of decisions / %")
    said = f"{len(ran):,} decision{'s'[: len(ran) != 1]}"
    if sure is not None:
        said += f", {percent(float(sure.mean()))} certified" + ("" if sure.all() else " (blue), others orange")
    if later:
        axes.annotate(
            f"{rough_percent(later, 2)} later,\nat most {shown:,} steps",
            (1.0, 0.06),
            xycoords="axes fraction",
            xytext=(-2, 8),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=10,
            color="#666666",
        )
    style.heading(axes, "When decisions stop", said)
    style.dress(axes)
    style.save(figure, path, title)


def output_errors(
    original: npt.NDArray[Any],
    spiking: npt.NDArray[Any],
    path: PathLike,
    *,
    outputs: Sequence[str] | None = None,
    title: str | None = None,
) -> None:
    """Draw how far the outputs are from the original's, and whether that can change a decision.

    Above, per output the error that so many states stay below. Below, over the states, the error of the difference
    between the two best outputs beside that difference itself: where the error is the smaller of the two, the decision
    is the same.

    Args:
        original: outputs of the original network, (N, n_out) with n_out >= 2.
        spiking: of the spiking network in the same units, (N, n_out).
        path: file to write.
        outputs: names of the outputs.
        title: headline of the picture.

    Raises:
        ValueError: if the shapes differ, there are no states, or ``outputs`` has
            another length.
        ImportError: if matplotlib is not installed.
        OSError: if the file cannot be written.
    """
    wanted, got = np.asarray(original, dtype=np.float64), np.asarray(spiking, dtype=np.float64)
    if wanted.shape != got.shape or wanted.ndim != 2 or len(wanted) == 0 or wanted.shape[1] < 2:
        raise ValueError(
            f"original and spiking must be of one shape (N, n_out) with n_out >= 2, got {wanted.shape} and {got.shape}"
        )
    n_out = wanted.shape[1]
    if outputs is not None and len(outputs) != n_out:
        raise ValueError(f"outputs must name {n_out} outputs, got {len(outputs)}")
    names = [f"action {i}" for i in range(n_out)] if outputs is None else list(outputs)
    figure = style.figure_for(path, 8.0, 4.9 + 0.34 * min(n_out, 18))
    above, below = figure.subplots(2, 1, height_ratios=[0.9 + 0.34 * min(n_out, 18), 3.0])
    _error_bars(above, np.abs(got - wanted), names)
    _leads(below, wanted, got)
    style.save(figure, path, title)


def _error_bars(axes: Any, error: npt.NDArray[np.float64], names: list[str]) -> None:
    """Per output a bar to the largest error, darker from quantile to quantile; the smallest are cut off."""
    levels = np.array([[np.quantile(column, q / 100) for q, _ in QUANTILES] for column in error.T])
    smallest = max(float(levels[:, 0].min()), 1e-3 * float(levels.max()) or 1e-12) / 4
    rows = np.arange(len(names))
    tall = max(1.0, len(names) / 18)  # how many times as tall a row of the usual height is
    highest = 1.6 * max(float(levels.max()), smallest * 2)
    free = highest  # where the label to the right begins
    for k, (share, colour) in reversed(list(enumerate(QUANTILES))):
        axes.barh(rows, np.maximum(levels[:, k] - smallest, 0), left=smallest, height=0.62, color=colour, linewidth=0)
        end = float(levels[0, k])
        if not smallest < end <= free:
            continue  # it would lie outside, or cover the label to its right
        free = end * (highest / smallest) ** -0.08
        axes.annotate(
            "largest" if share == 100 else f"{share} %",
            (end, -0.31),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=9.5,
            color=INK,
        )
    axes.set_xscale("log")
    axes.set_xlim(smallest, highest)
    style.magnitudes_along(axes)
    named = range(0, len(names), -(-len(names) // 40))  # of very many not all can be read
    axes.set_yticks(named, [style.plain(style.clip(names[i], 28)) for i in named])
    axes.set_ylim(len(names) - 0.5, 0.5 - 1.45 * tall)
    if not error.any():  # no axis has a place for 0
        axes.set_xticks([])
        axes.minorticks_off()
        axes.text(0.5, 0.5, "none: every output is the original's", transform=axes.transAxes, ha="center", color=INK)
    axes.set_xlabel("error of an output, in the policy's units")
    style.heading(axes, "How far off the outputs are", "so many states have a smaller error")
    style.dress(axes, grid=False)


def _leads(axes: Any, wanted: npt.NDArray[np.float64], got: npt.NDArray[np.float64]) -> None:
    """Shares of states over the size of the lead, and of the error in it, both on one logarithmic axis."""
    rows, (second, best) = np.arange(len(wanted)), np.argsort(wanted, axis=1)[:, -2:].T
    lead = wanted[rows, best] - wanted[rows, second]
    error = np.abs((got[rows, best] - got[rows, second]) - lead)
    positive = np.concatenate([lead[lead > 0], error[error > 0]])
    high = float(positive.max()) if len(positive) else 1.0
    low = max(float(np.quantile(positive, 0.002)), high * 1e-7) if len(positive) else 1e-3
    edges = np.geomspace(low / 1.5, high * 1.5, 61)
    tops = []
    for values, colour, ink, words, height in (
        (error, ORANGE, "#9A6A00", "error of the lead", 0.87),
        (lead, BLUE, BLUE, "lead of the original's best action", 0.98),
    ):
        share = 100 * np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / len(values)
        axes.stairs(share, edges, color=colour, fill=True, alpha=0.35, linewidth=0)
        axes.stairs(share, edges, color=colour, linewidth=2.0)
        # Above both, where neither covers the other's curve wherever that lies.
        axes.annotate(
            words, (0.01, height), xycoords="axes fraction", va="top", fontsize=10.5, fontweight="bold", color=ink
        )
        tops.append(float(share.max()))
    differing = float((got.argmax(axis=1) != wanted.argmax(axis=1)).mean())
    axes.set_xscale("log")
    axes.set_xlim(edges[0], edges[-1])
    style.magnitudes_along(axes)
    style.shares_up_to(axes, 1.35 * max(tops))
    smaller = bool(min(lead.min(), error.min()) < edges[0])
    axes.set_xlabel(
        "difference between two outputs, in the policy's units" + ("\n(on the left: that or less)" if smaller else "")
    )
    axes.set_ylabel("share of states / %")
    style.heading(axes, "Where decisions can change", f"{rough_percent(differing, 2)} of decisions differ")
    style.dress(axes)
    axes.grid(axis="x", color=FAINT, linewidth=0.7)

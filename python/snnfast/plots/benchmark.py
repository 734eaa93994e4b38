# SPDX-License-Identifier: Apache-2.0
"""The picture of the network benchmark: how many times faster than naive torch everything is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from snnfast.plots import style
from snnfast.plots.style import BLUE, GREEN, INK, ORANGE, PURPLE, RED, SKY, PathLike

#: How the rivals of a benchmark are drawn: name in the figures, label, colour, marker, line.
_RIVALS = (
    ("snnfast act", "snnfast, net.act", BLUE, "*", "none"),
    ("snnfast, fast", "snnfast, fast contract", SKY, "D", "solid"),
    ("snnfast", "snnfast, exact", BLUE, "o", "solid"),
    ("relu network", "the ReLU network in torch (no time steps)", INK, "s", "dashed"),
    ("careful torch", "careful torch", ORANGE, "v", "solid"),
    ("sinabs", "sinabs", GREEN, "^", "solid"),
    ("spikingjelly", "SpikingJelly", PURPLE, "X", "solid"),
    ("norse", "norse", "#8C6D31", "<", "solid"),
    ("snntorch", "snnTorch", RED, "P", "solid"),
)


def benchmark_plot(cases: Sequence[Mapping[str, Any]], path: PathLike, *, title: str | None = None) -> None:
    """Draw how many times faster than naive torch everything is: a panel per network, over the batch size.

    Args:
        cases: the "cases" of ``snnfast bench network``; those at other firing rates than the usual one are left out,
            and so are libraries whose result is another one.
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
    figure = style.figure_for(path, 2.2 + 3.3 * len(panels), 5.6)
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
                and found.get("same", True)  # the speed of another result says nothing
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
        style.heading(axes, name, f"{sizes}, T={shown[0]['timesteps']}")
        style.dress(axes)
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
        ncols=3 if len(panels) > 1 else 2,  # three are wider than one panel
        frameon=False,
        fontsize=10.5,
        handlelength=2.2,
        columnspacing=1.8,
    )
    style.save(figure, path, title)

# SPDX-License-Identifier: Apache-2.0
"""What all pictures share: colours, letters, frames, and files that appear whole or not at all.

Colours are those of Okabe and Ito 2008, which remain distinct for colour-blind readers.
"""

from __future__ import annotations

import io
import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from snnfast.checkpoint import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
CYCLE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
INK, FAINT = "#222222", "#D9D9D9"
_DPI = 160
_FORMATS = (".png", ".pdf", ".svg")
PathLike = str | os.PathLike[str]


def figure_for(path: PathLike, width: float, height: float) -> Figure:
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


def numbers(name: str, values: Sequence[float | None] | npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be a list with at least one number, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)][0]} in it")
    return array


def spread(values: list[float], apart: float) -> list[float]:
    """Places for labels near ``values``, at least ``apart`` from each other, in the same order."""
    order = np.argsort(values)
    places = list(values)
    for below, above in itertools.pairwise(order.tolist()):
        places[above] = max(places[above], places[below] + apart)
    shift = (sum(places) - sum(values)) / len(values)
    return [place - shift for place in places]


def plain(text: str) -> str:
    """A user's words as they are: matplotlib would read what stands between two dollars as a formula."""
    return text.replace("$", r"\$")


def clip(text: str, most: int) -> str:
    """The beginning of a name that is so long that it would cover something, or leave the picture no room."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def heading(axes: Axes, left: str, right: str) -> None:
    left, right = plain(left), plain(right)
    axes.set_title(left, loc="left", fontsize=12, fontweight="bold", color=INK, pad=7)
    axes.set_title(right, loc="right", fontsize=10.5, color=INK, pad=7)


def dress(axes: Axes, *, grid: bool = True) -> None:
    """Quiet frame, readable letters."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#888888")
    axes.tick_params(labelsize=10, colors=INK, length=3.5)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_fontsize(11.5)
        label.set_color(INK)
    if grid:
        axes.grid(axis="y", color=FAINT, linewidth=0.7)
        axes.set_axisbelow(True)


def count_along(axes: Axes, last: int) -> None:
    """Ticks of the x axis, whose limits are set, for what is counted from 1 to ``last``: steps, episodes."""
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)  # of two ticks at least, one would be a fraction
    axes.set_xticks([tick for tick in axes.get_xticks() if 1 <= tick <= last])


def magnitudes_along(axes: Axes) -> None:
    """Ticks of a logarithmic x axis whose limits are set: powers of ten, and some between where these are few."""
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    if high < 100 * low:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        # It would else choose itself which ones to label, and not these.
        axes.xaxis.set_major_formatter(LogFormatterSciNotation(minor_thresholds=(math.inf, math.inf)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def shares_up_to(axes: Axes, top: float) -> None:
    """A y axis of shares in percent, with room up to ``top`` for words, and no share above 100."""
    axes.set_ylim(0, top)
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= min(top, 100)])
    axes.spines["left"].set_bounds(0, min(top, 100))


def legend_above(axes: Axes) -> None:
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


def save(figure: Figure, path: PathLike, title: str | None) -> None:
    if title:
        figure.suptitle(plain(title), fontsize=13.5, fontweight="bold", color=INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix[1:].lower(), dpi=_DPI)
    atomic_write(Path(path), buffer.getvalue())

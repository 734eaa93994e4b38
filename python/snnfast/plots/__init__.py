# SPDX-License-Identifier: Apache-2.0
"""Pictures: training, evaluations, single decisions, conversions, sweeps, benchmarks; and a film of an episode.

Every function writes one file, atomically; its ending (``.png``, ``.pdf``, ``.svg``) chooses the format. matplotlib
and Pillow are imported when they are needed (``pip install "snnfast[plot]"``), and figures are made without pyplot,
so no display, global state or user setting is touched.
"""

from snnfast.plots.benchmark import benchmark_plot
from snnfast.plots.conversions import output_errors, steps_histogram
from snnfast.plots.decisions import potential_map, raster
from snnfast.plots.evaluations import evaluation_plot, training_curve
from snnfast.plots.film import GifFilm, require_pillow, write_gif
from snnfast.plots.style import BLUE, ORANGE
from snnfast.plots.sweeps import percentile_plot, sweep_plot

__all__ = [
    "BLUE",
    "ORANGE",
    "GifFilm",
    "benchmark_plot",
    "evaluation_plot",
    "output_errors",
    "percentile_plot",
    "potential_map",
    "raster",
    "require_pillow",
    "steps_histogram",
    "sweep_plot",
    "training_curve",
    "write_gif",
]

# SPDX-License-Identifier: Apache-2.0
"""Pictures: written whole, of the right size, with labelled axes and what they should show."""

from __future__ import annotations

import builtins
import itertools
import subprocess
import sys
import tracemalloc
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from snnfast import SpikingNetwork, plots

image = pytest.importorskip("PIL.Image")
Text = pytest.importorskip("matplotlib.text").Text
FigureCanvasAgg = pytest.importorskip("matplotlib.backends.backend_agg").FigureCanvasAgg


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn while a test runs."""
    drawn: list[Any] = []
    save = plots.style.save

    def keep(figure: Any, *rest: Any) -> None:
        drawn.append(figure)
        save(figure, *rest)

    monkeypatch.setattr(plots.style, "save", keep)
    return drawn


def check_picture(path: Path, figure: Any) -> None:
    """A picture of the figure's size that is not blank; every axis with data is labelled; text lies within it."""
    width, height = (int(x * 160) for x in figure.get_size_inches())
    with image.open(path) as picture:
        assert picture.size == (width, height)
        pixels = np.asarray(picture.convert("L"))
    assert 0.005 < (pixels < 200).mean() < 0.6
    assert (np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]) == 255).all(), "nothing is cut off"
    placed = [axes for axes in figure.axes if axes.get_subplotspec() is not None]  # a bar of colours is not
    left = {axes.get_subplotspec().colspan.start: axes for axes in placed if axes.get_ylabel()}
    assert 0 in left
    assert any(axes.get_xlabel() for axes in figure.axes)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    for legend in [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]:
        box = legend.get_window_extent(renderer)
        assert not any(box.overlaps(axes.get_window_extent(renderer)) for axes in figure.axes), "covers no data"


def report(n: int = 12, similarity: bool = True, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    returns, decisions = rng.uniform(100, 500, n), rng.integers(10, 100, n)
    agreements = rng.binomial(decisions, 0.95)
    return types.SimpleNamespace(
        returns=returns.tolist(),
        mean_return=returns.mean(),
        std_return=returns.std(ddof=1) if n > 1 else 0.0,
        return_interval=(returns.mean() - 20, returns.mean() + 20),
        similarity=agreements.sum() / decisions.sum() if similarity else None,
        similarity_interval=(0.93, 0.97) if similarity else None,
        episode_decisions=decisions.tolist(),
        episode_agreements=agreements.tolist() if similarity else None,
    )


# Training -------------------------------------------------------------------------------------------------------------


def curve(n: int) -> tuple[Any, Any]:
    durations = np.random.default_rng(0).integers(10, 200, n)
    return durations, [None if i < 99 else float(durations[i - 99 : i + 1].mean()) for i in range(n)]


@pytest.mark.parametrize("title", [None, "REINFORCE on CartPole-v1, seed 1"])
def test_training_curve(tmp_path: Path, figures: list[Any], title: str | None) -> None:
    durations, means = curve(300)
    plots.training_curve(durations, means, 250, tmp_path / "curve.png", durations=durations, title=title)
    (figure,) = figures
    check_picture(tmp_path / "curve.png", figure)
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("episode", "return = duration / steps")
    assert axes.get_ylim()[0] == 0.0
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines) == ["episode", "mean of 100 episodes", "required mean 195", "solved in episode 250"]
    assert lines["episode"].get_color() == plots.BLUE
    assert lines["episode"].get_ydata().tolist() == durations.tolist()
    assert lines["mean of 100 episodes"].get_color() == plots.ORANGE
    assert lines["mean of 100 episodes"].get_xdata()[0] == 100, "the first mean belongs to episode 100"
    assert lines["mean of 100 episodes"].get_ydata().tolist() == means[99:]
    assert set(lines["solved in episode 250"].get_xdata()) == {250}


def test_a_training_curve_of_negative_returns(tmp_path: Path, figures: list[Any]) -> None:
    durations, means = curve(130)
    returns, means = 1.0 - durations, [None if m is None else 1.0 - m for m in means]
    for threshold in (-60.0, -300.0, 40.0):
        plots.training_curve(
            returns, means, None, tmp_path / "curve.png", durations=durations, threshold=threshold, title=None
        )
        check_picture(tmp_path / "curve.png", figures[-1])
        (axes,) = figures[-1].axes
        assert axes.get_ylabel() == "return of an episode"
        low, high = axes.get_ylim()
        for line in axes.get_lines():
            assert (low < np.asarray(line.get_ydata())).all(), line.get_label()
            assert (np.asarray(line.get_ydata()) <= high).all(), line.get_label()


@pytest.mark.parametrize("n", [1, 2, 99, 100])
def test_a_short_unsolved_training_curve(tmp_path: Path, figures: list[Any], n: int) -> None:
    plots.training_curve(*curve(n), None, tmp_path / "curve.png", threshold=None)
    check_picture(tmp_path / "curve.png", figures[0])
    assert len(figures[0].axes[0].get_lines()) == (2 if n == 100 else 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([], [], None), "returns must be a list with at least one number"),
        (([1, 2], [1], None), r"means must have one entry per episode \(2\), got 1"),
        (([1, np.nan], [1, 1], None), "returns must be finite, got nan"),
        (([1] * 101, [None] * 100 + [np.inf], None), "means must be finite, got nan"),
        (([1, 2], [1, 1], 3), "solved_at must be an episode from 1 to 2 or None, got 3"),
        (([1, 2], [1, 1], 0), "solved_at"),
        (([[1, 2]], [1, 1], None), r"got shape \(1, 2\)"),
    ],
)
def test_training_curve_refuses(tmp_path: Path, arguments: tuple[Any, Any, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plots.training_curve(*arguments, tmp_path / "curve.png")
    with pytest.raises(ValueError, match=r"durations must have one entry per episode \(2\), got 1"):
        plots.training_curve([1, 2], [1, 1], None, tmp_path / "curve.png", durations=[1])
    assert not list(tmp_path.iterdir())


# Evaluations ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("title", [None, "CartPole-v1"])
def test_evaluation_plot(tmp_path: Path, figures: list[Any], title: str | None) -> None:
    reports = {"thesis": report(seed=1), "rate": report(seed=2)}
    plots.evaluation_plot(reports, tmp_path / "evaluation.png", title=title)
    (figure,) = figures
    check_picture(tmp_path / "evaluation.png", figure)
    assert len(figure.axes) == 4
    for column, (name, given) in enumerate(reports.items()):
        above, below = figure.axes[column], figure.axes[2 + column]
        assert above.get_title(loc="left") == name
        assert above.get_title(loc="right") == f"mean {given.mean_return:.1f}, sd {given.std_return:.1f}"
        assert above.get_xlabel() == "episode"
        assert above.get_lines()[0].get_ydata().tolist() == given.returns
        assert below.get_title(loc="left") == f"similarity {100 * given.similarity:.2f} %"
        assert below.get_xlabel() == "decisions so far"
        running = below.get_lines()[0]
        assert running.get_ydata()[-1] == pytest.approx(100 * given.similarity)
        assert running.get_xdata()[-1] == sum(given.episode_decisions)
        first = given.episode_agreements[0] / given.episode_decisions[0]
        assert running.get_ydata()[0] == pytest.approx(100 * first)
    assert figure.axes[0].get_ylabel() == "return of an episode"
    assert figure.axes[2].get_ylabel() == "running similarity / %"


def test_a_heading_does_not_call_nearly_all_decisions_all(tmp_path: Path, figures: list[Any]) -> None:
    given = report(1)
    given.similarity, given.similarity_interval = 0.99998, (0.9, 0.999999)
    given.episode_decisions, given.episode_agreements = [50_000], [49_999]
    plots.evaluation_plot({"rate": given}, tmp_path / "evaluation.png")
    axes = figures[0].axes[1]
    assert axes.get_title(loc="left") == "similarity 99.998 %"
    assert axes.get_title(loc="right") == "95 %: 90.00 to 99.9999"


def test_evaluation_plot_without_comparison(tmp_path: Path, figures: list[Any]) -> None:
    plots.evaluation_plot({"a": report(similarity=False)}, tmp_path / "one.png")
    check_picture(tmp_path / "one.png", figures[0])
    assert len(figures[0].axes) == 1
    plots.evaluation_plot({"a": report(similarity=False), "b": report(1)}, tmp_path / "two.png")
    check_picture(tmp_path / "two.png", figures[1])
    assert [t.get_text() for t in figures[1].axes[2].texts] == ["not compared"]


def test_evaluation_plot_with_negative_and_with_equal_returns(tmp_path: Path, figures: list[Any]) -> None:
    worse = report()
    worse.returns = [-150.0, -90.0, -200.0]
    worse.mean_return, worse.return_interval = -146.7, (-180.0, -110.0)
    same = report()
    same.returns, same.mean_return, same.return_interval = [0.0] * 12, 0.0, (0.0, 0.0)
    plots.evaluation_plot({"worse": worse}, tmp_path / "worse.png")
    plots.evaluation_plot({"same": same}, tmp_path / "same.png")
    low, high = figures[0].axes[0].get_ylim()
    assert low < -200
    assert high >= 0
    check_picture(tmp_path / "same.png", figures[1])


@pytest.mark.parametrize(("n", "ticks"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (100, [20, 40, 60, 80, 100])])
def test_episodes_are_whole_and_counted_from_one(tmp_path: Path, figures: list[Any], n: int, ticks: list[int]) -> None:
    plots.evaluation_plot({"a": report(n)}, tmp_path / "e.png")
    plots.training_curve(*curve(n), None, tmp_path / "t.png")
    for figure in figures:
        assert figure.axes[0].get_xticks().tolist() == ticks


def test_one_episode_has_no_interval(tmp_path: Path, figures: list[Any]) -> None:
    plots.evaluation_plot({"one": report(1), "two": report(2)}, tmp_path / "e.png")
    drawn = [axes.get_legend_handles_labels()[1] for axes in figures[0].axes[:2]]
    assert ["95 % interval of the mean" in labels for labels in drawn] == [False, True]


def test_a_wide_interval_of_the_mean_is_seen_whole(tmp_path: Path, figures: list[Any]) -> None:
    few = report(3)
    few.returns, few.mean_return, few.return_interval = [2.0, 4.0, 1.0], 7 / 3, (-1.5, 6.1)
    plots.evaluation_plot({"few": few}, tmp_path / "e.png")
    low, high = figures[0].axes[0].get_ylim()
    assert low < -1.5
    assert high > 6.1


#: Names that matplotlib would read as formulas, or fail at.
DOLLARS = (r"a$\frac$", "$$", "$x$", "5 $", r"\$a\$b$")
ENDINGS = ("png", "svg", "png", "pdf", "png")


@pytest.mark.parametrize(("name", "suffix"), list(zip(DOLLARS, ENDINGS, strict=True)))
def test_names_are_shown_as_they_are(tmp_path: Path, figures: list[Any], name: str, suffix: str) -> None:
    plots.evaluation_plot({name: report()}, tmp_path / f"e.{suffix}", title=name)
    sim = simulation([4, 8, 2], "potential")
    plots.raster(sim, tmp_path / f"r.{suffix}", outputs=[name, name], title=name)
    plots.potential_map(sim, tmp_path / f"p.{suffix}", title=name, label=name)
    plots.training_curve(*curve(120), None, tmp_path / f"t.{suffix}", title=name)
    outputs = np.random.default_rng(0).normal(size=(2, 50, 2))
    plots.output_errors(*outputs, tmp_path / f"o.{suffix}", outputs=[name, name], title=name)
    plots.steps_histogram([1, 2, 3], tmp_path / f"s.{suffix}", title=name)
    rows = [
        types.SimpleNamespace(method=name, percentile=99.0, predicted=None, mean_steps=steps, spikes_per_decision=steps,
                              states=100, similarity=0.9 + steps / 200, similarity_interval=(0.8, 0.97))
        for steps in (4.0, 8.0)
    ]  # fmt: skip
    plots.sweep_plot(rows, tmp_path / f"w.{suffix}", title=name)
    plots.percentile_plot(rows, tmp_path / f"c.{suffix}", title=name)
    case = {"workload": name, "rate_wanted": 0.1, "batch": 1, "sizes": [4, 2], "timesteps": 3}
    case["seconds"] = {"snnfast": {"times_faster_than_naive": 3.0}}
    plots.benchmark_plot([case], tmp_path / f"b.{suffix}", title=name)
    assert len(figures) == 9
    for figure in figures:
        texts = [text for text in figure.findobj(Text) if "$" in text.get_text()]
        seen = [text._preprocess_math(text.get_text()) for text in texts]
        # Numbers along logarithmic axes are formulas of matplotlib's own.
        assert {words for words, formula in seen if not formula or "mathdefault" not in words} >= {name}
        assert all("mathdefault" in words for words, formula in seen if formula)


def test_evaluation_plot_needs_a_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reports must hold at least one evaluation"):
        plots.evaluation_plot({}, tmp_path / "x.png")


def test_a_single_episode_is_seen(tmp_path: Path, figures: list[Any]) -> None:
    plots.training_curve([30.0], [30.0], None, tmp_path / "t.png", threshold=None, window=1)
    gained, mean = figures[0].axes[0].get_lines()
    assert gained.get_marker() == mean.get_marker() == "o"  # a line of one point is invisible


def test_a_long_name_does_not_cover_the_figures_beside_it(tmp_path: Path, figures: list[Any]) -> None:
    name = "a policy with a name that goes on and on and on"
    plots.evaluation_plot({name: report(), "b": report()}, tmp_path / "e.png")
    canvas = FigureCanvasAgg(figures[0])
    canvas.draw()
    axes = figures[0].axes[0]
    left, right = axes._left_title, axes._right_title  # its own titles; there is no other way to their extents
    assert left.get_text().startswith("a policy with")
    assert not left.get_window_extent().overlaps(right.get_window_extent())


# Rasters --------------------------------------------------------------------------------------------------------------


def simulation(sizes: list[int], decoding: str, batch: int = 2) -> Any:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(n, m)) / np.sqrt(m) for m, n in itertools.pairwise(sizes)]
    net = SpikingNetwork(weights, None, timesteps=30, decoding=decoding, backend="reference")  # type: ignore[arg-type]
    return net.simulate(rng.normal(size=(batch, sizes[0])), record=("spikes", "potentials"))


@pytest.mark.parametrize("draw", [plots.raster, plots.potential_map])
def test_a_decision_of_one_step_has_one_tick(tmp_path: Path, figures: list[Any], draw: Any) -> None:
    net = SpikingNetwork([np.eye(3), np.eye(3)], None, timesteps=1, backend="reference")
    sim = net.simulate(np.ones((1, 3)), record=("spikes", "potentials"))
    draw(sim, tmp_path / "one.png")
    panels = [axes for axes in figures[0].axes if axes.get_subplotspec() is not None]
    assert all(axes.get_xticks().tolist() == [1] for axes in panels)


class OnDevice:
    """As a tensor on a CUDA device: numpy cannot read it."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def cpu(self) -> Any:
        return self._tensor

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


@pytest.mark.parametrize("draw", [plots.raster, plots.potential_map])
def test_a_decision_made_on_another_device(tmp_path: Path, figures: list[Any], draw: Any) -> None:
    sim = simulation([4, 8, 2], "potential")
    sim.output, sim.steps = OnDevice(sim.output), OnDevice(torch.full((2,), 20.0))
    sim.spikes, sim.potentials = ([OnDevice(layer) for layer in of] for of in (sim.spikes, sim.potentials))
    draw(sim, tmp_path / "one.png")
    check_picture(tmp_path / "one.png", figures[0])


@pytest.mark.parametrize(
    ("sizes", "decoding"), [([4, 16, 16, 2], "potential"), ([3, 150, 9], "spikes"), ([3, 1, 1], "mean_potential")]
)
def test_raster(tmp_path: Path, figures: list[Any], sizes: list[int], decoding: str) -> None:
    sim = simulation(sizes, decoding)
    plots.raster(sim, tmp_path / "raster.png", sample=1, title="One decision")
    (figure,) = figures
    check_picture(tmp_path / "raster.png", figure)
    layers = len(sim.spikes)
    assert len(figure.axes) == layers + 1
    for axes, spikes in zip(figure.axes, sim.spikes, strict=False):
        when, which = axes.get_lines()[0].get_data()
        drawn = {(int(t) - 1, int(n) - 1) for t, n in zip(when, which, strict=True)}
        assert drawn == {tuple(x) for x in np.argwhere(spikes[:, 1].numpy()).tolist()}
        assert axes.get_ylabel() == "neuron"
    last = figure.axes[-1]
    assert last.get_xlabel() == "time step"
    assert last.get_title(loc="right") == f"decision: action {int(sim.output[1].argmax())}"
    for n in range(sizes[-1]):
        assert last.get_lines()[n].get_ydata().tolist() == sim.potentials[-1][:, 1, n].tolist()


def test_raster_names_the_actions(tmp_path: Path, figures: list[Any]) -> None:
    plots.raster(simulation([4, 8, 2], "potential"), tmp_path / "r.pdf", outputs=["left", "right"])
    assert [t.get_text() for t in figures[0].axes[-1].texts] == ["left", "right"]
    assert (tmp_path / "r.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("timesteps", [1, 10])
def test_names_of_equal_outputs_stand_beside_each_other(tmp_path: Path, figures: list[Any], timesteps: int) -> None:
    silent = SpikingNetwork([np.zeros((4, 3)), np.zeros((3, 4))], [None, None], timesteps=timesteps)
    plots.raster(silent.simulate(np.ones((1, 3)), record=("spikes", "potentials")), tmp_path / "r.png")
    FigureCanvasAgg(figures[0]).draw()
    boxes = [text.get_window_extent() for text in figures[0].axes[-1].texts]
    assert len(boxes) == 3
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_what_the_colours_are_is_not_cut_off_beside_a_small_layer(tmp_path: Path, figures: list[Any]) -> None:
    net = SpikingNetwork([np.full((4, 3), -9.0), np.zeros((2, 4))], [None, None], timesteps=5)
    plots.potential_map(net.simulate(np.ones((1, 3)), record=("spikes", "potentials")), tmp_path / "p.png")
    figure = figures[0]
    check_picture(tmp_path / "p.png", figure)
    label = figure.axes[-1].yaxis.label
    assert "grey" in label.get_text()
    box = label.get_window_extent()
    assert box.y0 >= 0
    assert box.y1 <= figure.bbox.y1


def test_raster_refuses(tmp_path: Path) -> None:
    sim = simulation([4, 8, 2], "potential")
    for options, words in (
        ({"sample": 2}, "sample must be from 0 to 1, got 2"),
        ({"outputs": ["a"]}, "name 2 neurons"),
    ):
        with pytest.raises(ValueError, match=words):
            plots.raster(sim, tmp_path / "r.png", **options)  # type: ignore[arg-type]
    for missing in ("spikes", "potentials"):
        bare = simulation([4, 8, 2], "potential")
        setattr(bare, missing, None)
        with pytest.raises(ValueError, match=r'record=\("spikes", "potentials"\)'):
            plots.raster(bare, tmp_path / "r.png")


# Films ----------------------------------------------------------------------------------------------------------------


def test_write_gif(tmp_path: Path) -> None:
    frames = [np.full((30, 40, 3), 10 * i, np.uint8) for i in range(7)]
    plots.write_gif(frames, tmp_path / "film.gif", frames_per_second=12.5)
    with image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 7
        assert film.size == (40, 30)
        assert film.info["loop"] == 0
        for i in range(7):
            film.seek(i)
            assert film.info["duration"] == 80
            assert np.abs(np.asarray(film.convert("RGB")).astype(int) - 10 * i).max() <= 2
    assert list(tmp_path.iterdir()) == [tmp_path / "film.gif"]


def shown(path: Path) -> tuple[list[Any], list[int]]:
    """The pictures of a film as they are seen, and for how long each."""
    with image.open(path) as film:
        assert film.info["loop"] == 0
        pictures, times = [], []
        for number in range(film.n_frames):
            film.seek(number)
            pictures.append(np.asarray(film.convert("RGB")))
            times.append(film.info["duration"])
    return pictures, times


@pytest.mark.parametrize("kind", ["few colours", "many colours", "grey", "still"])
def test_a_film_encoded_in_parts_shows_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    rng = np.random.default_rng(0)
    frames = [np.full((24, 30, 3), 255, np.uint8) for _ in range(21)]
    for number, frame in enumerate(frames):
        if kind == "few colours":
            frame[4:9, number : number + 5] = (number * 10, 50, 200)
        elif kind == "many colours":
            frame[:] = rng.integers(0, 256, frame.shape)
        elif kind == "grey":
            frame[:] = rng.integers(0, 256, (24, 30, 1))
    plots.write_gif(frames, tmp_path / "whole.gif")
    monkeypatch.setattr(plots.film, "_TOGETHER", 4)
    plots.write_gif(frames, tmp_path / "parts.gif")
    wanted, got = shown(tmp_path / "whole.gif"), shown(tmp_path / "parts.gif")
    assert sum(got[1]) == sum(wanted[1]) == 21 * 40
    if kind == "still":
        assert (np.stack(got[0]) == 255).all()
    else:
        assert got[1] == wanted[1]
        np.testing.assert_array_equal(got[0], wanted[0])


def test_a_short_film_is_what_pillow_makes_of_it(tmp_path: Path) -> None:
    frames = [np.full((8, 8, 3), value, np.uint8) for value in (0, 90, 255)]
    plots.write_gif(frames, tmp_path / "film.gif")
    first, *others = [image.fromarray(frame) for frame in frames]
    first.save(tmp_path / "other.gif", save_all=True, append_images=others, duration=40, loop=0)
    assert (tmp_path / "film.gif").read_bytes() == (tmp_path / "other.gif").read_bytes()


def test_a_long_film_needs_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots.film, "_TOGETHER", 8)
    size = 100 * 150 * 3
    film = plots.GifFilm()
    tracemalloc.start()
    try:
        for number in range(100):
            film.add(np.full((100, 150, 3), number, np.uint8))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    film.write(tmp_path / "film.gif")
    assert peak < 20 * size
    with image.open(tmp_path / "film.gif") as written:
        assert written.n_frames == 100


def test_a_slow_film_in_which_nothing_happens(tmp_path: Path) -> None:
    frames = [np.zeros((4, 4, 3), np.uint8)] * 130
    plots.write_gif(frames, tmp_path / "film.gif", frames_per_second=0.1)
    _, times = shown(tmp_path / "film.gif")
    assert sum(times) == 130 * 10_000  # ms; a GIF shows no picture for longer than 655,350


def test_wide_films_are_made_smaller(tmp_path: Path) -> None:
    plots.write_gif([np.zeros((100, 600, 3), np.uint8)] * 2, tmp_path / "film.gif", max_width=300)
    with image.open(tmp_path / "film.gif") as film:
        assert film.size == (300, 50)


@pytest.mark.parametrize(
    ("frames", "options", "words"),
    [
        ([], {}, "at least one picture"),
        ([np.zeros((4, 4, 3))], {}, "frame 0 is float64"),
        ([np.zeros((4, 4), np.uint8)], {}, r"frame 0 is uint8 \(4, 4\)"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)], {}, "frame 1 is"),
        ([np.zeros((4, 4, 3), np.uint8)], {"frames_per_second": 0}, "above 0 and at most 100"),
        ([np.zeros((4, 4, 3), np.uint8)], {"frames_per_second": 101}, "above 0 and at most 100"),
        ([np.zeros((4, 4, 3), np.uint8)], {"frames_per_second": 0.001}, "at least 0.001526 in a GIF, got 0.001"),
        ([np.zeros((4, 4, 3), np.uint8)], {"max_width": 0}, "max_width must be at least 1"),
    ],
)
def test_write_gif_refuses(tmp_path: Path, frames: list[Any], options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plots.write_gif(frames, tmp_path / "film.gif", **options)
    assert not list(tmp_path.iterdir())


# Files and libraries --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml"), ("PNG", b"\x89P")]
)
def test_the_ending_chooses_the_format(tmp_path: Path, suffix: str, start: bytes) -> None:
    path = tmp_path / f"curve.{suffix}"
    path.write_text("old")
    plots.training_curve(*curve(5), None, str(path))
    assert path.read_bytes().startswith(start)


@pytest.mark.parametrize("name", ["curve.bmp", "curve", "curve.gif"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"path must end in .png, .pdf, .svg, got"):
        plots.training_curve(*curve(5), None, tmp_path / name)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"curve\.png"):
        plots.training_curve(*curve(5), None, tmp_path / "missing" / "curve.png")


def test_without_matplotlib_and_pillow_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.split(".")[0] in ("PIL", "matplotlib"):
            raise ImportError("gone")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'need matplotlib: pip install "snnfast\[plot\]"'):
        plots.training_curve(*curve(5), None, tmp_path / "curve.png")
    with pytest.raises(ImportError, match=r'need Pillow: pip install "snnfast\[plot\]"'):
        plots.write_gif([np.zeros((4, 4, 3), np.uint8)], tmp_path / "film.gif")


def test_plotting_is_imported_late_and_leaves_pyplot_alone(tmp_path: Path) -> None:
    code = f"""
import sys
from snnfast import plots
assert not any(name.split(".")[0] in ("matplotlib", "PIL") for name in sys.modules), "imported too early"
plots.training_curve([1, 2], [0, 0], None, {str(tmp_path / "curve.png")!r})
assert "matplotlib.figure" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "curve.png").stat().st_size > 1000


# Benchmarks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("panels", [1, 2])
def test_every_rival_is_named_within_the_picture(tmp_path: Path, figures: list[Any], panels: int) -> None:
    rivals = {
        key: {"times_faster_than_naive": 10.0 ** (at - 3)}
        for at, (key, *_) in enumerate(reversed(plots.benchmark._RIVALS))
    }
    cases = [
        {"workload": name, "rate_wanted": 0.1, "batch": batch, "sizes": [4, 2], "timesteps": 3, "seconds": rivals}
        for name in ("tiny", "medium")[:panels]
        for batch in (1, 256)
    ]
    plots.benchmark_plot(cases, tmp_path / "b.png")
    check_picture(tmp_path / "b.png", figures[0])
    (legend,) = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [label for _, label, *_ in plots.benchmark._RIVALS]
    canvas = FigureCanvasAgg(figures[0])
    canvas.draw()
    box = legend.get_window_extent(canvas.get_renderer())
    assert 0 <= box.x0 < box.x1 <= figures[0].bbox.width


def test_a_library_with_another_result_is_not_drawn(tmp_path: Path, figures: list[Any]) -> None:
    case = {"workload": "tiny", "rate_wanted": 0.1, "batch": 1, "sizes": [4, 2], "timesteps": 3}
    case["seconds"] = {"snnfast": {"times_faster_than_naive": 3.0}}
    case["peers"] = {
        "sinabs": {"times_faster_than_naive": 0.5, "same": True},
        "norse": {"times_faster_than_naive": 0.4, "same": False},
        "snntorch": {"missing": "not installed"},
    }
    plots.benchmark_plot([case], tmp_path / "b.png")
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["snnfast, exact", "sinabs"]

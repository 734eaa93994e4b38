# SPDX-License-Identifier: Apache-2.0
"""Pictures of conversions and sweeps: they show the numbers they are given, and names do not cover each other."""

from __future__ import annotations

import itertools
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from snnfast import EarlyExit, NeuronSpec, RadixCode, RateCode, SpikingNetwork, StagedCode, plots
from test_plots import FigureCanvasAgg, check_picture, figures  # noqa: F401


def row(method: str, steps: float, similarity: float, **more: Any) -> Any:
    low, high = max(0.0, similarity - 0.01), min(1.0, similarity + 0.01)
    given = dict(percentile=99.9, spikes_per_decision=7 * steps, states=1000, predicted=None)
    return types.SimpleNamespace(
        method=method, mean_steps=steps, similarity=similarity, similarity_interval=(low, high), **(given | more)
    )


def lines(method: str, steps: list[float], similarities: list[float], **more: Any) -> list[Any]:
    return [row(method, t, s, **more) for t, s in zip(steps, similarities, strict=True)]


ROWS = [
    *lines("rate", [8, 16, 100], [0.91, 0.95, 0.996], predicted=0.94),
    *lines("digits-certified", [3.1, 3.9, 4.4], [0.97, 0.995, 1.0]),
    *lines("thesis", [100, 8, 32], [0.93, 0.7, 0.85]),
]


def network(code: Any, *, exits: EarlyExit | None = None, steps: int = 6) -> SpikingNetwork:
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=(n, m)) / np.sqrt(m) for m, n in ((3, 10), (10, 8), (8, 2))]
    neuron = NeuronSpec(order="immediate", initial_potential=0.5)
    return SpikingNetwork(weights, None, neuron, steps, code=code, early_exit=exits)


def simulate(net: SpikingNetwork, batch: int = 40) -> Any:
    states = np.random.default_rng(2).normal(size=(batch, 3)).astype(np.float32)
    return net.simulate(states, record=("spikes", "potentials"))


# Sweeps ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("against", ["steps", "spikes"])
def test_sweep_plot(tmp_path: Path, figures: list[Any], against: Any) -> None:  # noqa: F811
    here = row("", 5, 0.98)
    plots.sweep_plot(ROWS, tmp_path / "sweep.png", against=against, here=here, title="CartPole")
    (figure,) = figures
    check_picture(tmp_path / "sweep.png", figure)
    upper, lower = figure.axes[:2]
    factor = 1 if against == "steps" else 7
    drawn = {tuple(np.round(line.get_xdata(), 4)): line for line in lower.get_lines() if len(line.get_xdata()) == 3}
    thesis = drawn[tuple(factor * np.array([8.0, 32.0, 100.0]))]
    assert np.allclose(thesis.get_ydata(), [70, 85, 93]), "in the order of the cost"
    marks = [line for line in upper.get_lines() if line.get_marker() not in ("None", None)]
    empty = [line for line in marks if line.get_markerfacecolor() == "white"]
    assert [line.get_ydata()[0] for line in empty] == [0.5 / 1000], "no difference stands at half a decision"
    assert upper.get_ylim()[0] > upper.get_ylim()[1], "the best is on top"
    dashed = [line for line in upper.get_lines() if line.get_linestyle() == "--"]
    assert len(dashed) == 1
    assert np.allclose(dashed[0].get_ydata(), 0.06)
    assert "dashed: predicted" in upper.get_title(loc="right")


def test_names_lie_inside_and_do_not_cover_each_other(tmp_path: Path, figures: list[Any]) -> None:  # noqa: F811
    rows = [r for i in range(9) for r in lines(f"method-{i}", [8, 16, 32], [0.9, 0.96 + 0.001 * i, 0.99 + 0.0005 * i])]
    plots.sweep_plot(rows, tmp_path / "sweep.png")
    upper = figures[0].axes[0]
    canvas = FigureCanvasAgg(figures[0])
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in upper.texts if text.get_text().startswith("method-")]
    assert len(boxes) == 9
    frame = upper.get_window_extent(renderer)
    for i, box in enumerate(boxes):
        assert frame.x0 - 1 <= box.x0
        assert box.x1 <= frame.x1 + 1
        for other in boxes[:i]:
            shared = min(box.x1, other.x1) - max(box.x0, other.x0), min(box.y1, other.y1) - max(box.y0, other.y0)
            assert min(shared) <= 2, "they touch at most"


def test_one_row_and_a_row_without_spikes(tmp_path: Path, figures: list[Any]) -> None:  # noqa: F811
    plots.sweep_plot([row("rate", 4, 1.0, spikes_per_decision=0.0)], tmp_path / "one.png", against="spikes")
    check_picture(tmp_path / "one.png", figures[0])


def test_percentile_plot(tmp_path: Path, figures: list[Any]) -> None:  # noqa: F811
    rows = [r for p in (99.0, 99.9, 100.0) for r in lines("rate", [8, 16], [0.9, p / 101], percentile=p)]
    plots.percentile_plot([*rows, *ROWS[3:]], tmp_path / "p.png")
    (figure,) = figures
    check_picture(tmp_path / "p.png", figure)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == ["rate", "digits-certified", "thesis"]
    ends = [line.get_ydata()[-1] for line in shown[0].get_lines()]
    assert np.allclose(ends, [1 - p / 101 for p in (99.0, 99.9, 100.0)])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["99 %", "99.9 %", "100 %"]


@pytest.mark.parametrize("similarity", [0.0, 0.63, 0.9, 1.0])
@pytest.mark.parametrize("draw", [plots.sweep_plot, plots.percentile_plot])
def test_equal_similarities_have_an_axis_with_numbers(
    tmp_path: Path,
    figures: list[Any],  # noqa: F811
    recwarn: pytest.WarningsRecorder,
    draw: Any,
    similarity: float,
) -> None:
    rows = [row("rate", 8, similarity, percentile=p) for p in (99.0, 99.9)]
    for one in rows:
        one.similarity_interval = (similarity, similarity)
    draw(rows, tmp_path / "p.png")
    assert not recwarn.list
    axes = figures[0].axes[0]
    top, bottom = sorted(axes.get_ylim())
    assert sum(top <= tick <= bottom for tick in axes.get_yticks()) >= 2
    faces = {line.get_markerfacecolor() for line in axes.get_lines()}
    assert ("white" in faces) == (similarity == 1.0), "an empty mark: none differs"


def test_costs_far_apart_have_ticks_that_can_be_told_apart(tmp_path: Path, figures: list[Any]) -> None:  # noqa: F811
    plots.sweep_plot([row("a", 2, 0.9), row("b", 4e5, 0.99)], tmp_path / "s.png")
    FigureCanvasAgg(figures[0]).draw()
    labels = figures[0].axes[1].get_xticklabels()
    assert [label.get_text() for label in labels] == [f"{10**d:,}" for d in range(1, 6)]
    plots.sweep_plot([row("a", 2e7, 0.9), row("b", 4e7, 0.99)], tmp_path / "s.png")
    assert len(figures[1].axes[1].get_xticks()) >= 3
    plots.percentile_plot([row("a", 1.02, 0.9), row("a", 1.28, 0.99)], tmp_path / "p.png")
    assert len(figures[2].axes[0].get_xticks()) >= 3


@pytest.mark.parametrize("draw", [plots.sweep_plot, plots.percentile_plot])
def test_sweeps_need_rows(tmp_path: Path, draw: Any) -> None:
    with pytest.raises(ValueError, match="rows must hold at least one result"):
        draw([], tmp_path / "x.png")
    with pytest.raises(ValueError, match="against must be 'steps' or 'spikes', got 'time'"):
        plots.sweep_plot(ROWS, tmp_path / "x.png", against="time")  # type: ignore[arg-type]


# One conversion -------------------------------------------------------------------------------------------------------


def test_steps_histogram(tmp_path: Path, figures: list[Any]) -> None:  # noqa: F811
    steps = [1] * 50 + [2] * 30 + [4] * 20
    certified = [1] * 90 + [0] * 10
    plots.steps_histogram(steps, tmp_path / "h.png", certified=certified, most=12)
    (figure,) = figures
    check_picture(tmp_path / "h.png", figure)
    (axes,) = figure.axes
    blue, orange = axes.containers
    assert [bar.get_height() for bar in blue][:4] == [50, 30, 0, 20]
    assert [bar.get_height() for bar in orange][:4] == [0, 0, 0, 10]
    assert orange[3].get_y() + orange[3].get_height() == 20, "the uncertified stand on the others"
    assert {text.get_text() for text in axes.texts} == {"mean 1.90", "95 % by step 4"}
    assert axes.get_title(loc="right") == "100 decisions, 90.00 % certified (blue), others orange"


def test_no_share_is_above_all_of_them(tmp_path: Path, figures: list[Any]) -> None:  # noqa: F811
    plots.steps_histogram([3] * 100, tmp_path / "h.png", most=4)
    one = np.tile([1.0, 0.0], (50, 1))
    plots.output_errors(one, one * 1.1, tmp_path / "o.png")
    for axes in (figures[0].axes[0], figures[1].axes[1]):
        assert axes.get_ylim()[1] > 100, "room for the words"
        assert axes.get_yticks().tolist() == [0, 20, 40, 60, 80, 100]
        assert axes.spines["left"].get_bounds() == (0, 100)
    assert figures[0].axes[0].get_xticks().tolist() == [1, 2, 3, 4]


def test_a_few_late_decisions_are_told_and_not_drawn(tmp_path: Path, figures: list[Any]) -> None:  # noqa: F811
    plots.steps_histogram([2] * 998 + [100, 120], tmp_path / "h.png", most=128)
    axes = figures[0].axes[0]
    assert axes.get_xlim()[1] < 12
    assert any(text.get_text() == "0.2 % later,\nat most 128 steps" for text in axes.texts)


def test_output_errors(tmp_path: Path, figures: list[Any]) -> None:  # noqa: F811
    rng = np.random.default_rng(0)
    original = rng.normal(size=(2000, 3))
    spiking = original + rng.normal(size=(2000, 3)) * [0.001, 0.01, 0.1]
    plots.output_errors(original, spiking, tmp_path / "e.png", outputs=["a", "b", "c"])
    (figure,) = figures
    check_picture(tmp_path / "e.png", figure)
    above, below = figure.axes
    assert [tick.get_text() for tick in above.get_yticklabels()] == ["a", "b", "c"]
    ends = [bar.get_x() + bar.get_width() for bar in above.containers[-1]]  # the medians are drawn last
    assert ends == pytest.approx(np.median(np.abs(spiking - original), axis=0))
    differ = (original.argmax(1) != spiking.argmax(1)).mean()
    assert below.get_title(loc="right") == f"{100 * differ:.2g} % of decisions differ"


def test_perfect_outputs_can_be_drawn(tmp_path: Path, figures: list[Any]) -> None:  # noqa: F811
    same = np.random.default_rng(0).normal(size=(10, 2))
    plots.output_errors(same, same, tmp_path / "e.png")
    check_picture(tmp_path / "e.png", figures[0])


def test_no_error_is_not_drawn_as_one(tmp_path: Path, figures: list[Any]) -> None:  # noqa: F811
    same = np.random.default_rng(0).normal(size=(10, 2))
    plots.output_errors(same, same, tmp_path / "e.png")
    above, below = figures[0].axes
    assert [text.get_text() for text in above.texts] == ["none: every output is the original's"]
    assert not above.get_xticks().size
    assert below.get_xlabel().endswith("(on the left: that or less)")  # no logarithmic axis has a 0


@pytest.mark.parametrize("outputs", [2, 300])
def test_words_of_output_errors_do_not_cover_each_other(tmp_path: Path, figures: list[Any], outputs: int) -> None:  # noqa: F811
    rng = np.random.default_rng(0)
    original = rng.normal(size=(200, outputs))
    names = ["a very long name of an action that goes on and on and on and on", *map(str, range(1, outputs))]
    plots.output_errors(original, original + rng.normal(size=original.shape), tmp_path / "e.png", outputs=names)
    check_picture(tmp_path / "e.png", figures[0])
    for axes in figures[0].axes:
        words = [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels(), axes._left_title, axes._right_title]
        boxes = [text.get_window_extent() for text in words if text.get_text()]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        assert axes.get_window_extent().width > 0.6 * figures[0].bbox.width


def test_conversions_refuse(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    with pytest.raises(ValueError, match=r"certified must have one entry per decision \(2\), got 1"):
        plots.steps_histogram([1, 2], path, certified=[1])
    with pytest.raises(ValueError, match="steps must be a list with at least one number"):
        plots.steps_histogram([], path)
    with pytest.raises(ValueError, match=r"of one shape \(N, n_out\) with n_out >= 2, got \(4, 2\) and \(4, 3\)"):
        plots.output_errors(np.zeros((4, 2)), np.zeros((4, 3)), path)
    with pytest.raises(ValueError, match="outputs must name 2 outputs, got 1"):
        plots.output_errors(np.zeros((4, 2)), np.zeros((4, 2)), path, outputs=["a"])
    assert not list(tmp_path.iterdir())


# Decisions of networks with codes -------------------------------------------------------------------------------------


def test_layers_that_take_turns_follow_each_other(tmp_path: Path, figures: list[Any]) -> None:  # noqa: F811
    done = simulate(network(StagedCode()))
    plots.raster(done, tmp_path / "r.png", sample=3, turns=True)
    (figure,) = figures
    check_picture(tmp_path / "r.png", figure)
    for number, (axes, spikes) in enumerate(zip(figure.axes, done.spikes, strict=False)):
        times = np.concatenate([line.get_xdata() for line in axes.get_lines()])
        assert sorted(times) == sorted(6 * number + 1 + np.nonzero(spikes[:, 3].numpy())[0])
    assert figure.axes[-1].get_xlim()[1] == 12.5
    assert figure.axes[-1].get_lines()[0].get_xdata().tolist() == [7, 8, 9, 10, 11, 12]


def test_time_ends_where_a_decision_has_stopped(tmp_path: Path, figures: list[Any]) -> None:  # noqa: F811
    done = simulate(network(RadixCode(), exits=EarlyExit("certified"), steps=8))
    sample = int(torch.argmin(done.steps))
    ran = int(done.steps[sample])
    assert 8 < ran < 16
    plots.raster(done, tmp_path / "r.png", sample=sample, turns=True)
    plots.potential_map(done, tmp_path / "p.png", sample=sample, turns=True)
    for figure in figures:
        assert figure.axes[0].get_xlim()[1] == ran + 0.5
    shown = figures[0].axes[-1].get_lines()[0]
    assert shown.get_xdata().tolist() == list(range(9, ran + 1))
    assert shown.get_ydata()[-1] == pytest.approx(float(done.output[sample, 0]))
    check_picture(tmp_path / "p.png", figures[1])


def test_negative_spikes_are_black(tmp_path: Path, figures: list[Any]) -> None:  # noqa: F811
    done = simulate(network(RateCode(signed=True), steps=40))
    negative = [(spikes < 0).sum(dim=(0, 2)) for spikes in done.spikes]
    sample = int(torch.argmax(negative[0] + negative[1]))
    plots.raster(done, tmp_path / "r.png", sample=sample)
    for axes, spikes in zip(figures[0].axes, done.spikes, strict=False):
        black = [line for line in axes.get_lines() if line.get_color() == plots.style.INK]
        drawn = sum(len(line.get_xdata()) for line in black)
        assert drawn == int((spikes[:, sample] < 0).sum())
        if drawn:
            assert f"{drawn} negative (black)" in axes.get_title(loc="right")
    assert any(int(n[sample]) for n in negative)


def test_fewer_spikes_of_copies_are_paler(tmp_path: Path, figures: list[Any]) -> None:  # noqa: F811
    done = simulate(network(RateCode(copies=4), steps=20))
    plots.raster(done, tmp_path / "r.png")
    axes = figures[0].axes[0]
    values = np.unique(done.spikes[0][:, 0].numpy())
    alphas = [line.get_alpha() for line in axes.get_lines()]
    assert len(alphas) == len(values[values > 0]) > 1
    assert alphas == sorted(alphas)
    assert f"{int(done.spikes[0][:, 0].sum()):,} spikes" in axes.get_title(loc="right")


@pytest.mark.parametrize("unit", [0.25, 3])
def test_a_map_of_potentials_has_the_unit_that_it_is_given(tmp_path: Path, figures: list[Any], unit: float) -> None:  # noqa: F811
    done = simulate(network(RateCode(copies=4), steps=30))
    plots.potential_map(done, tmp_path / "p.png", unit=unit)
    for axes, potentials in zip(figures[0].axes, done.potentials[:-1], strict=False):
        (image,) = axes.get_images()
        np.testing.assert_allclose(image.get_array(), potentials[:, 0].numpy().T / unit, rtol=1e-6)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="unit must be"):
            plots.potential_map(done, tmp_path / "p.png", unit=wrong)


def test_potential_map(tmp_path: Path, figures: list[Any]) -> None:  # noqa: F811
    done = simulate(network(None, steps=30))
    plots.potential_map(done, tmp_path / "p.png", sample=2)
    (figure,) = figures
    check_picture(tmp_path / "p.png", figure)
    for axes, potentials in zip(figure.axes, done.potentials[:-1], strict=False):
        (image,) = axes.get_images()
        assert np.array_equal(image.get_array(), potentials[:, 2].numpy().T)


def test_potential_map_refuses_a_network_without_hidden_layers(tmp_path: Path) -> None:
    net = SpikingNetwork([np.ones((2, 3))], None, timesteps=4)
    with pytest.raises(ValueError, match="with a hidden layer"):
        plots.potential_map(simulate(net), tmp_path / "p.png")

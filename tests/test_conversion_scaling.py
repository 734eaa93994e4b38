# SPDX-License-Identifier: Apache-2.0
"""Activation scales against numbers written out by hand, and what rescaling may and may not change."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snnfast.conversion.reading import LinearLayer
from snnfast.conversion.scaling import (
    STATES,
    activations,
    model_scales,
    neuron_ranges,
    percentile_scales,
    rescale,
    scale_network,
)


def layer(weight, bias=None):
    return LinearLayer(np.array(weight, np.float32), None if bias is None else np.array(bias, np.float32))


# Two inputs, three hidden neurons, two outputs. All numbers are sums of powers of two, so nothing is rounded.
HAND = [
    layer([[1.0, -2.0], [0.5, 0.25], [-1.0, -1.0]], [0.5, -0.25, 1.5]),
    layer([[2.0, -1.0, 0.5], [0.25, 1.0, -4.0]], [0.125, -1.0]),
]
# Hidden (after ReLU) and raw outputs for each state, by hand:
#   (0, 0):   hidden (0.5, 0, 1.5)        output ( 1 + 0.75 + 0.125, 0.125 - 6 - 1)            = (1.875, -6.875)
#   (1, 0):   hidden (1.5, 0.25, 0.5)     output ( 3 - 0.25 + 0.25 + 0.125, 0.375 + 0.25 - 2 - 1) = (3.125, -2.375)
#   (0, 1):   hidden (0, 0, 0.5)          output ( 0.25 + 0.125, -2 - 1)                        = (0.375, -3)
#   (4, 0):   hidden (4.5, 1.75, 0)       output ( 9 - 1.75 + 0.125, 1.125 + 1.75 - 1)          = (7.375, 1.875)
#   (0, 4):   hidden (0, 0.75, 0)         output ( -0.75 + 0.125, 0.75 - 1)                     = (-0.625, -0.25)
STATES_BY_HAND = np.array([[0, 0], [1, 0], [0, 1], [4, 0], [0, 4]], np.float32)
HIDDEN = [[0.5, 0, 1.5], [1.5, 0.25, 0.5], [0, 0, 0.5], [4.5, 1.75, 0], [0, 0.75, 0]]
OUTPUT = [[1.875, -6.875], [3.125, -2.375], [0.375, -3.0], [7.375, 1.875], [-0.625, -0.25]]


def test_activations_by_hand():
    hidden, output = activations(HAND, STATES_BY_HAND)
    assert hidden.tolist() == HIDDEN
    assert output.tolist() == OUTPUT


def test_model_scales_by_hand():
    # Hidden: 1 + 0.5 = 1.5; 0.5 + 0.25 = 0.75; 0 + 1.5 = 1.5.  Output: 2 + 0.5 + 0.125 = 2.625; 0.25 + 1 = 1.25.
    assert model_scales(HAND) == [1.5, 2.625]


def test_model_scales_without_biases():
    assert model_scales([layer([[1.0, 2.0], [-4.0, 0.5]])]) == [3.0]


def test_data_scales_by_hand():
    # Largest hidden activation 4.5, largest raw output 7.375; both above the largest parameters 1.5 and 2.
    scaled = scale_network(HAND, STATES_BY_HAND, "data")
    assert scaled.scales == [4.5, 7.375]


@pytest.mark.parametrize(
    ("percentile", "hidden", "output"),
    [
        # Maxima per state, sorted: hidden 0.5, 0.75, 1.5, 1.5, 4.5; output -0.25, 0.375, 1.875, 3.125, 7.375.
        # Index floor(p * 4): 100 -> 4, 99 -> 3 (3.96), 75 -> 3, 74 -> 2 (2.96), 50 -> 2, 1 -> 0.
        (100, 4.5, 7.375),
        (99, 1.5, 3.125),
        (75, 1.5, 3.125),
        (74, 1.5, 2.0),  # the output's 1.875 is below the layer's largest weight, 2
        (50, 1.5, 2.0),
        (1, 1.5, 2.0),  # hidden 0.5 is below the layer's largest bias, 1.5
    ],
)
def test_robust_scales_by_hand(percentile, hidden, output):
    assert scale_network(HAND, STATES_BY_HAND, "robust", percentile=percentile).scales == [hidden, output]


def test_the_index_rounds_down():
    # One neuron that passes its input on: the maxima are the states themselves, 1 to 100 in another order.
    states = np.random.default_rng(0).permutation(np.arange(1, 101)).astype(np.float32)[:, None]
    for percentile, index in ((99.0, 98), (98.9, 97), (50.0, 49), (0.5, 0), (100.0, 99)):
        # floor(0.99 * 99) = 98, floor(0.989 * 99) = 97, floor(0.5 * 99) = 49, 0, 99; the state there is index + 1
        assert percentile_scales([layer([[1.0]])], states, percentile) == [float(index + 1)]


def test_only_the_first_20000_states_count():
    states = np.ones((STATES + 5, 1), np.float32)
    states[STATES:] = 100.0
    states[STATES - 1] = 7.0
    assert scale_network([layer([[1.0]])], states, "data").scales == [7.0]


def test_rescaled_weights_by_hand():
    scaled = scale_network(HAND, STATES_BY_HAND, "robust", percentile=99)  # scales 1.5 and 3.125
    np.testing.assert_allclose(scaled.weights[0], np.array([[1, -2], [0.5, 0.25], [-1, -1]]) / 1.5, rtol=1e-7)
    np.testing.assert_allclose(scaled.biases[0], np.array([0.5, -0.25, 1.5]) / 1.5, rtol=1e-7)
    # 2 * 1.5 / 3.125 = 0.96, -1 -> -0.48, 0.5 -> 0.24; 0.25 -> 0.12, 1 -> 0.48, -4 -> -1.92
    np.testing.assert_allclose(scaled.weights[1], [[0.96, -0.48, 0.24], [0.12, 0.48, -1.92]], rtol=1e-6)
    np.testing.assert_allclose(scaled.biases[1], [0.04, -0.32], rtol=1e-6)  # 0.125 / 3.125, -1 / 3.125
    assert scaled.output_scale == 3.125
    assert scaled.weights[0].dtype == scaled.biases[0].dtype == np.float32


def test_neuron_ranges_by_hand():
    # Sorted per neuron: (0, 0, 0.5, 1.5, 4.5), (0, 0, 0.25, 0.75, 1.75), (0, 0, 0.5, 0.5, 1.5).
    ranges, shifts = neuron_ranges(HAND, STATES_BY_HAND, 75.0, shift=False)
    assert ranges[0].tolist() == [1.5, 0.75, 0.5]
    assert shifts == [None]
    ranges, shifts = neuron_ranges(HAND, STATES_BY_HAND, 75.0, shift=True)
    assert ranges[0].tolist() == [1.5, 0.75, 0.5]
    assert shifts[0].tolist() == [0.0, 0.0, 0.0]
    # Percentile 50 is both ends of the range: what is left is 1/1000 of the largest upper end, 0.5.
    ranges, shifts = neuron_ranges(HAND, STATES_BY_HAND, 50.0, shift=True)
    assert ranges[0].tolist() == [0.0005] * 3
    assert shifts[0].tolist() == [0.5, 0.25, 0.5]
    # Between two states the percentile is interpolated: 87.5 % of the way is half-way from the 4th to the 5th.
    assert neuron_ranges(HAND, STATES_BY_HAND, 87.5, shift=False)[0][0].tolist() == [3.0, 1.25, 1.0]


def test_shift_by_hand():
    # One neuron, r = x, over the states 1, 2, 3, 4, 5; at 75 % the range is [2, 4].
    layers = [layer([[1.0]]), layer([[10.0]], [3.0])]
    scaled = scale_network(layers, np.arange(1.0, 6.0)[:, None], "neuron", percentile=75, shift=True)
    assert scaled.scales[0].tolist() == [2.0]
    assert scaled.shifts[0].tolist() == [2.0]
    assert scaled.weights[0].tolist() == [[0.5]]
    assert scaled.biases[0].tolist() == [-1.0]  # (0 - 2) / 2; a bias appears where there was none
    assert scaled.weights[1].tolist() == [[20.0]]
    assert scaled.biases[1].tolist() == [23.0]  # 3 + 10 * 2
    assert scaled.output_scale == 1.0


def test_a_dead_neuron_gets_a_thousandth_of_the_largest_range():
    layers = [layer([[1.0], [-1.0]], [0.0, 0.0]), layer([[1.0, 1.0]])]
    scaled = scale_network(layers, np.array([[1.0], [4.0]]), "neuron", percentile=100)
    assert scaled.scales[0].tolist() == [4.0, 0.004]


def test_neuron_scaling_keeps_missing_biases_missing():
    layers = [layer([[1.0], [2.0]]), layer([[1.0, 1.0]])]
    scaled = scale_network(layers, np.array([[1.0], [4.0]]), "neuron")
    assert scaled.biases == [None, None]


@pytest.mark.parametrize("method", ["model", "data", "robust", "neuron"])
def test_a_layer_that_is_never_active(method):
    layers = [layer([[-1.0, -1.0]], [-1.0]), layer([[1.0]])]
    with pytest.raises(ValueError, match="scale of layer 1 of 2 must be positive and finite, got") as caught:
        scale_network(layers, None if method == "model" else np.ones((3, 2)), method)
    assert ("no positive weight or bias" if method == "model" else "no neuron of it is active on these states") in str(
        caught.value
    )
    assert ("states" in str(caught.value)) == (method != "model")


@pytest.mark.parametrize("method", ["data", "robust"])
def test_outputs_that_are_all_negative(method):
    layers = [layer([[1.0]]), layer([[-1.0], [-2.0]], [-1.0, -1.0])]
    with pytest.raises(ValueError, match=r"layer 2 of 2 .*none of its outputs is positive on these states"):
        scale_network(layers, np.ones((3, 1)), method)
    assert scale_network(layers, np.ones((3, 1)), "neuron").output_scale == 1.0, "the way out that the error names"


def test_activations_beyond_any_number():
    with (
        np.errstate(over="ignore"),
        pytest.raises(ValueError, match="layer 1 of 1 must be positive and finite, got inf: the activations are too"),
    ):
        scale_network([layer([[1e30]])], np.array([[1e300]]), "data")


def test_a_scale_that_is_not_finite():
    layers = [layer([[3e38, 3e38]]), layer([[1.0]])]
    with pytest.raises(ValueError, match="rescaled weights of layer 2 of 2 do not fit"):
        scale_network(layers, np.full((2, 2), 3e38), "neuron")


@pytest.mark.parametrize("percentile", [0, -1, 100.5, float("nan"), float("inf")])
def test_percentile_out_of_range(percentile):
    with pytest.raises(ValueError, match="percentile must be"):
        scale_network(HAND, STATES_BY_HAND, "robust", percentile=percentile)


def test_bad_arguments():
    with pytest.raises(TypeError, match="percentile must be a number, got '99'"):
        scale_network(HAND, STATES_BY_HAND, "robust", percentile="99")
    with pytest.raises(ValueError, match="scaling must be one of 'model', 'data', 'robust', 'neuron', got 'max'"):
        scale_network(HAND, STATES_BY_HAND, "max")
    with pytest.raises(ValueError, match="shift=True needs scaling='neuron'"):
        scale_network(HAND, STATES_BY_HAND, "robust", shift=True)
    with pytest.raises(ValueError, match="scaling='neuron' needs a replay"):
        scale_network(HAND, None, "neuron")


@st.composite
def networks(draw):
    """A random ReLU network and observations for it."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=2, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([0.01, 1.0, 30.0]))
    layers = []
    for n_in, n_out in itertools.pairwise(sizes):
        bias = rng.normal(size=n_out) * spread if draw(st.booleans()) else None
        layers.append(layer(rng.normal(size=(n_out, n_in)) * spread, bias))
    return layers, rng.normal(size=(40, sizes[0])).astype(np.float32)


def scaled_outputs(scaled, x):
    return activations([LinearLayer(*pair) for pair in zip(scaled.weights, scaled.biases, strict=True)], x)


def assert_close(got, want):
    """Equal up to the rounding of the weights to float32, relative to what is added up."""
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * max(1e-30, float(np.abs(want).max())))


def try_scaling(layers, x, method, **options):
    try:
        return scale_network(layers, x, method, **options)
    except ValueError as error:  # a random layer may be dead
        if "must be positive and finite" not in str(error):
            raise
        return None


@settings(max_examples=60, deadline=None)
@given(networks(), st.sampled_from(["model", "data", "robust", "neuron"]), st.sampled_from([50.0, 99.0, 99.9, 100.0]))
def test_rescaling_divides_the_outputs_by_the_last_scale(network, method, percentile):
    layers, x = network
    scaled = try_scaling(layers, x, method, percentile=percentile)
    if scaled is None:
        return
    new = np.random.default_rng(1).normal(size=x.shape) * 3  # states that the scales have not seen
    for got, want, scale in zip(scaled_outputs(scaled, new), activations(layers, new), scaled.scales, strict=True):
        assert_close(got * scale, want)
    assert_close(scaled_outputs(scaled, new)[-1] * scaled.output_scale, activations(layers, new)[-1])


@settings(max_examples=60, deadline=None)
@given(networks(), st.sampled_from([60.0, 75.0, 99.0, 100.0]))
def test_with_shift_the_outputs_are_those_of_activations_cut_off_below(network, percentile):
    layers, x = network
    scaled = try_scaling(layers, x, "neuron", percentile=percentile, shift=True)
    if scaled is None:
        return
    new = np.random.default_rng(1).normal(size=x.shape) * 3
    want = new.astype(np.float64)
    for i, (weight, bias) in enumerate(layers):
        want = want @ weight.T.astype(np.float64) + (0 if bias is None else bias)
        if i < len(layers) - 1:
            want = np.maximum(np.maximum(want, 0), scaled.shifts[i])
    got = scaled_outputs(scaled, new)[-1] * scaled.output_scale
    # A narrow range on a high level: the rounding is relative to the level, not to the result.
    level = max([1.0, *(float(np.abs(a).max()) for a in activations(layers, new))])
    weights = max(1.0, float(np.abs(layers[-1].weight).sum(axis=1).max()))
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * level * weights)


@settings(max_examples=40, deadline=None)
@given(networks())
def test_scaled_activations_stay_within_one(network):
    layers, x = network
    scaled = try_scaling(layers, x, "data")
    if scaled is None:
        return
    for output in scaled_outputs(scaled, x):
        assert output.max() <= 1 + 1e-5


@settings(max_examples=40, deadline=None)
@given(networks())
def test_model_scales_bound_what_inputs_between_zero_and_one_can_cause(network):
    for one in network[0]:
        scale = max(1e-30, *(np.maximum(one.weight, 0).sum(1) + (0 if one.bias is None else np.maximum(one.bias, 0))))
        inputs = np.random.default_rng(2).random((50, one.weight.shape[1]))
        assert activations([one], inputs)[0].max() <= scale * (1 + 1e-6)
        if scale > 1e-30:
            assert model_scales([one]) == [pytest.approx(scale, rel=1e-6)]


def test_rescale_accepts_one_scale_per_layer_or_per_neuron():
    scalar = rescale(HAND, [2.0, 4.0])
    vector = rescale(HAND, [np.full(3, 2.0), np.full(2, 4.0)])
    for a, b in zip(scalar.weights + scalar.biases, vector.weights + vector.biases, strict=True):
        assert np.array_equal(a, b)

# SPDX-License-Identifier: Apache-2.0
"""Certified exits of digits where they are hardest to keep: far from the replay, and at ties."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

import snnfast as sf
from conftest import implementations
from snnfast.learning import make_policy

Floats = npt.NDArray[np.float32]


def difference_policy() -> nn.Sequential:
    """Chooses 0 where the first feature is more than a half larger than the second; exact in float32."""
    policy = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 2))
    with torch.no_grad():
        for layer, weight, bias in ((0, [[1.0, -1.0]], [0.0]), (2, [[1.0], [0.0]], [0.0, 0.5])):
            policy[layer].weight.copy_(torch.tensor(weight))
            policy[layer].bias.copy_(torch.tensor(bias))
    return policy


@pytest.mark.parametrize("offset", [1e0, 1e2, 1e3, 3e3, 1e4, 1e5])
def test_large_features_that_cancel_are_certified_as_far_as_their_rounding_allows(offset: float) -> None:
    rng = np.random.default_rng(3)

    def states(difference: npt.NDArray[np.float64]) -> Floats:
        second = rng.uniform(offset, 2 * offset, len(difference)).astype(np.float32)
        return np.stack([(second + difference).astype(np.float32), second], axis=1)

    some = rng.uniform(0.0, 0.97, 20_000)
    options = {"preset": "digits-certified", "timesteps": 16, "headroom": 2.0}
    network = sf.convert(difference_policy(), states(some), **options)  # type: ignore[arg-type]
    spacing = np.spacing(np.float32(2 * offset))
    for difference in (some, 0.5 + rng.integers(-4, 5, 20_000) * float(spacing)):
        asked = states(difference)
        exact = asked[:, 0].astype(np.float64) - asked[:, 1]
        found = network.simulate(asked)
        assert found.certified is not None
        sure = found.certified.numpy() > 0
        tie = exact == 0.5
        decided = found.output.numpy().argmax(axis=1)
        assert (decided == np.where(exact > 0.5, 0, 1))[sure & ~tie].all()
        if difference is some:
            assert sure.mean() > (0.9 if offset <= 1e3 else 0.5 if offset <= 1e4 else 0.0)


@pytest.mark.parametrize("sizes", [[4, 16, 2], [4, 16, 16, 2], [3, 5, 3]])
def test_near_a_tie_far_outside_the_ranges_nothing_wrong_is_certified(sizes: list[int]) -> None:
    certified = 0
    for seed in range(12):
        rng = np.random.default_rng([seed, 1])
        policy = make_policy(sizes, seed=seed)
        network = sf.convert(policy, rng.normal(size=(2000, sizes[0])).astype(np.float32), preset="digits-certified")
        double = make_policy(sizes, seed=seed).double()
        ends = rng.normal(size=(2, 3000, sizes[0])) * 10.0 ** rng.uniform(-1, 5, size=(1, 3000, 1))
        with torch.no_grad():

            def original(x: npt.NDArray[np.float64], policy: nn.Module = double) -> npt.NDArray[np.float64]:
                outputs: npt.NDArray[np.float64] = policy(torch.from_numpy(x)).numpy()
                return outputs

            # Halve the way between two states until the decision is about to change.
            a, b = ends
            for _ in range(30):
                middle = (a + b) / 2
                like_a = original(middle).argmax(axis=1) == original(a).argmax(axis=1)
                a, b = np.where(like_a[:, None], middle, a), np.where(like_a[:, None], b, middle)
            asked = np.concatenate([ends[0], a, b]).astype(np.float32)
            want = original(asked.astype(np.float64))
            rounded = policy(torch.from_numpy(asked)).numpy()
        found = network.simulate(asked)
        assert found.certified is not None
        assert found.saturated is not None
        sure = found.certified.numpy() > 0
        decided = found.output.numpy().argmax(axis=1)
        # In float32 the original may fall on the other side of a tie itself: both of its decisions must be another.
        wrong = (decided != want.argmax(axis=1)) & (decided != rounded.argmax(axis=1))
        assert not (wrong & sure).any()
        assert not (sure & (found.saturated.numpy() > 0)).any()
        certified += int(sure.sum())
    assert certified > 3000


def test_a_drive_that_is_no_number_is_saturated_and_never_certified() -> None:
    policy = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        policy[0].weight.copy_(torch.tensor([[4.0, -4.0], [1.0, 1.0], [1.0, 0.0]]))
    ordinary = np.random.default_rng(1).normal(size=(2000, 2)).astype(np.float32)
    spec = sf.convert(policy, ordinary, preset="digits-certified", headroom=1.0).spec
    huge = torch.tensor([[3e38, 3e38], [3e38, 2e38], [-3e38, 3e38], [0.1, 0.1]]).repeat(12, 1)
    for implementation in implementations():
        for observations in (huge, huge[:4]):
            found = implementation.compile(spec).simulate(observations, 0, ())
            assert found.certified is not None
            assert found.saturated is not None
            assert found.steps is not None
            certified, saturated = (x.reshape(-1, 4)[:, :3] for x in (found.certified, found.saturated))
            assert not certified.any(), implementation.name
            assert saturated[:, :2].all(), implementation.name
            assert (found.steps.reshape(-1, 4)[:, :3] == spec.timesteps).all(), implementation.name


def weights_policy(*weights: list[list[float]], biases: dict[int, list[float]]) -> nn.Sequential:
    modules: list[nn.Module] = []
    for i, rows in enumerate(weights):
        linear = nn.Linear(len(rows[0]), len(rows))
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(rows))
            linear.bias.copy_(torch.tensor(biases.get(i, [0.0] * len(rows))))
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def test_where_a_later_layer_may_overflow_nothing_is_certain() -> None:
    eye = np.eye(6).tolist()
    # Scaled, the second layer's weights are so large that a partial sum is minus infinity, and the whole is not.
    policy = weights_policy(eye, [[-1.01] * 3 + [1.0] * 3], [[1.0], [0.0]], biases={2: [0.0, 1e-19]})
    states = np.array([[1e20] * 6, [0, 0, 0, 3e-19, 0, 0]], np.float32)
    network = sf.convert(policy, states, preset="digits-certified")
    asked = (np.random.default_rng(0).uniform(0.6, 1, (400, 6)) * 1e20).astype(np.float32)
    found = network.simulate(asked)
    assert found.certified is not None
    assert not found.certified.any()
    # A difference of two outputs' weights is infinite, and no other neuron could make up for it.
    last = [[2e38] + [-1.69e38] * 5, [-2e38] + [1.69e38] * 5]
    policy = weights_policy(eye, (np.array(last) / 1e8).tolist(), biases={})
    network = sf.convert(policy, np.full((2, 6), 1e8, np.float32), preset="digits-certified")
    found = network.simulate(np.array([[0.9e8] + [0.3e8] * 5], np.float32))
    assert found.certified is not None
    assert not found.certified.any()
    # Smaller ones are certain again.
    policy = weights_policy(eye, (np.array(last) / 1e12).tolist(), biases={})
    network = sf.convert(policy, np.full((2, 6), 1.0, np.float32), preset="digits-certified")
    found = network.simulate(np.array([[0.9] + [0.1] * 5], np.float32))
    assert found.certified is not None
    assert found.certified.all()

# SPDX-License-Identifier: Apache-2.0
"""Policies: made reproducibly, stored, read back; and the one that ships with the package."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import evaluation_environments as environments
from snnfast import checkpoint
from snnfast.checkpoint import CheckpointError
from snnfast.environments import Interface
from snnfast.learning import load_policy, make_policy, pretrained_policy, save_policy
from snnfast.learning.acting import batch_outputs, single_outputs
from snnfast.learning.environments import make_vector_environment
from snnfast.learning.greedy import greedy_returns


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "policy.safetensors"


def test_layers():
    policy = make_policy([4, 16, 8, 2])
    assert [type(layer) for layer in policy] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [tuple(p.shape) for p in policy.parameters()] == [(16, 4), (16,), (8, 16), (8,), (2, 8), (2,)]
    assert all(p.requires_grad and p.dtype == torch.float32 for p in policy.parameters())
    assert len(make_policy((3, 1))) == 1


def test_seed_is_torch_manual_seed_but_leaves_the_global_state():
    state = torch.get_rng_state()
    policy = make_policy([4, 16, 2], seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        expected = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    assert same(policy, expected)
    assert not same(policy, make_policy([4, 16, 2], seed=8))


def test_without_a_seed_the_global_state_decides():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        policy = make_policy([4, 5, 2])
        assert not same(policy, make_policy([4, 5, 2]))
    assert same(policy, make_policy([4, 5, 2], seed=3))


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ([4], ValueError, "at least an input and an output"),
        ([], ValueError, "at least an input and an output"),
        ([4, 0], ValueError, r"sizes\[1\] must be at least 1, got 0"),
        ([4, 2.0], TypeError, r"sizes\[1\] must be an integer, got 2.0"),
        ("42", TypeError, "sizes must be a sequence of integers, got str"),
        (4, TypeError, "sizes must be a sequence of integers, got int"),
    ],
)
def test_bad_sizes(sizes, error, message):
    with pytest.raises(error, match=message):
        make_policy(sizes)


@pytest.mark.parametrize(
    ("seed", "error"), [(-1, ValueError), (2**63, ValueError), (1.0, TypeError), (True, TypeError)]
)
def test_bad_seed(seed, error):
    with pytest.raises(error, match="seed must be"):
        make_policy([4, 2], seed=seed)


@pytest.mark.parametrize(
    "policy",
    [
        make_policy([4, 16, 16, 2], seed=1),
        make_policy([1, 1], seed=1),
        nn.Sequential(nn.ReLU(), nn.Linear(3, 2, bias=False), nn.Linear(2, 5), nn.ReLU()),
        make_policy([3, 4, 2], seed=1).double(),
        nn.Sequential(*[nn.Linear(2, 2), nn.ReLU()] * 2),
    ],
)
def test_round_trip(file, policy):
    save_policy(policy, file, {"env_id": "CartPole-v1"})
    loaded = load_policy(file)
    assert same(loaded, policy)
    assert str(loaded) == str(policy)
    metadata = checkpoint.load(file, "policy")[1]
    assert metadata["env_id"] == "CartPole-v1"
    linear = [layer for layer in policy if isinstance(layer, nn.Linear)]
    assert metadata["sizes"] == [linear[0].in_features, *(layer.out_features for layer in linear)]


@pytest.mark.parametrize(
    ("policy", "error", "message"),
    [
        (nn.Linear(4, 2), TypeError, "policy must be an nn.Sequential of nn.Linear and nn.ReLU, got Linear"),
        (nn.Sequential(nn.Linear(4, 2), nn.Tanh()), TypeError, r"policy\[1\] must be nn.Linear or nn.ReLU, got Tanh"),
        (nn.Sequential(nn.ReLU()), ValueError, "at least one nn.Linear"),
        (nn.Sequential(nn.Linear(4, 2), nn.Linear(3, 2)), ValueError, r"policy\[1\] must take 2 inputs, it takes 3"),
    ],
)
def test_cannot_be_saved(file, policy, error, message):
    with pytest.raises(error, match=message):
        save_policy(policy, file)
    assert not file.exists()


def test_names_of_layers_are_not_kept(file):
    """What a named Sequential calls its layers says nothing about their order, which is what is stored."""
    policy = make_policy([4, 3, 2], seed=1)
    named = nn.Sequential(OrderedDict(zip(("2", "act", "out"), policy, strict=True)))
    save_policy(named, file)
    assert same(load_policy(file), policy)


def layer_with(change):
    """A policy whose second layer was changed."""
    policy = make_policy([4, 3, 2], seed=1)
    change(policy)
    return policy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: prune.random_unstructured(p[2], "weight", 0.5),
            r"policy\[2\] must hold a weight and at most a bias, got bias, weight_mask, weight_orig: it is pruned; .*"
            r"prune.remove\(layer, name\)",
        ),
        (lambda p: spectral_norm(p[2]), r"policy\[2\] must hold .* weight_u, weight_v: .*remove_spectral_norm"),
        (lambda p: weight_norm(p[2]), r"policy\[2\] must hold .* weight_g, weight_v: .*remove_weight_norm"),
        (lambda p: parametrizations.spectral_norm(p[2]), r"policy\[2\] must be nn.Linear or nn.ReLU, got Parametrized"),
        (lambda p: p[2].register_buffer("mean", torch.zeros(3)), r"policy\[2\] .* got bias, mean, weight$"),
        (lambda p: p[1].register_buffer("mean", torch.zeros(3)), r"policy\[1\] must hold no tensors, got mean$"),
        (lambda p: p.register_buffer("scale", torch.ones(1)), "policy must hold no tensors beside .*, got scale$"),
        (
            lambda p: setattr(p[2], "weight", nn.Parameter(torch.ones(2, 2))),
            r"policy\[2\].weight must be a matrix of 2 x",
        ),
        (lambda p: setattr(p[2], "bias", nn.Parameter(torch.ones(3))), r"policy\[2\].bias must be 2 numbers"),
        (
            lambda p: setattr(p[2], "weight", nn.Parameter(torch.ones(2, 3, dtype=torch.complex64))),
            r"policy\[2\].weight must be a matrix",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_what_could_not_be_read_back_is_not_saved(file, change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        save_policy(layer_with(change), file)
    assert not file.exists()


def test_a_pruned_policy_is_saved_once_that_is_final(file):
    policy = layer_with(lambda p: prune.random_unstructured(p[2], "weight", 0.5))
    prune.remove(policy[2], "weight")
    save_policy(policy, file)
    loaded = load_policy(file)
    assert all(torch.equal(loaded[i].weight, policy[i].weight) for i in (0, 2))


@pytest.mark.parametrize("metadata", [5, [("a", 1)], "text"])
def test_metadata_is_a_mapping(file, metadata):
    with pytest.raises(TypeError, match="metadata must be a mapping or None, got "):
        save_policy(make_policy([2, 2], seed=1), file, metadata)


def test_not_finite_is_not_saved(file):
    policy = make_policy([2, 2], seed=1)
    policy[0].weight.data[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"'0.weight'\] must be finite"):
        save_policy(policy, file)


WEIGHT, BIAS = torch.zeros(2, 4), torch.zeros(2)


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"0.weight": WEIGHT}, {"sizes": [4, 2]}, "lacks the metadata 'layers'"),
        ({"0.weight": WEIGHT}, {"layers": ["linear"]}, "lacks the metadata 'sizes'"),
        ({"0.weight": WEIGHT}, {"layers": "linear", "sizes": [4, 2]}, "'layers' is of the wrong kind: str"),
        ({}, {"layers": ["linear"], "sizes": [4, 2]}, "lacks the tensor '0.weight'"),
        ({"0.weight": WEIGHT}, {"layers": ["linear"], "sizes": [4, 3]}, r"of sizes \[4, 2\], but it claims \[4, 3\]"),
        ({"0.weight": BIAS}, {"layers": ["linear"], "sizes": [4, 2]}, "no weight matrix"),
        ({"0.weight": WEIGHT.int()}, {"layers": ["linear"], "sizes": [4, 2]}, "no weight matrix"),
        ({"0.weight": WEIGHT, "0.bias": WEIGHT}, {"layers": ["linear"], "sizes": [4, 2]}, "does not fit '0.weight'"),
        ({"0.weight": WEIGHT, "7.bias": BIAS}, {"layers": ["linear"], "sizes": [4, 2]}, r"no layer uses: \['7.bias'\]"),
        ({"0.weight": WEIGHT}, {"layers": ["linear", "tanh"], "sizes": [4, 2]}, "unknown layer 'tanh'"),
        ({"0.weight": WEIGHT}, {"layers": ["linear", {}], "sizes": [4, 2]}, "unknown layer"),
        ({}, {"layers": [], "sizes": []}, "at least one nn.Linear"),
        ({"0.weight": WEIGHT, "1.weight": WEIGHT}, {"layers": ["linear"] * 2, "sizes": [4, 2]}, "must take 2 inputs"),
    ],
)
def test_wrong_content(file, tensors, metadata, message):
    checkpoint.save(file, "policy", tensors, metadata)
    with pytest.raises(CheckpointError, match=message):
        load_policy(file)


def test_loading_leaves_the_global_random_state(file):
    save_policy(make_policy([4, 8, 2], seed=1), file)
    state = torch.get_rng_state()
    load_policy(file)
    assert torch.equal(torch.get_rng_state(), state)


def test_shipped_policy_holds():
    """The claim that goes with the file: 500 steps, every time."""
    policy = pretrained_policy("CartPole-v1")
    outputs = batch_outputs(policy, 4, 2)
    returns = greedy_returns("CartPole-v1", Interface(4, 2, 0), outputs, episodes=100, max_steps=500, seed=20)
    assert returns.tolist() == [500.0] * 100


def test_untrained_policy_does_not_hold():
    """The control of the test above."""
    outputs = batch_outputs(make_policy([4, 16, 16, 2], seed=8), 4, 2)
    returns = greedy_returns("CartPole-v1", Interface(4, 2, 0), outputs, episodes=100, max_steps=500, seed=20)
    assert returns.max() < 100


def test_an_own_vectorised_version_that_does_not_restart_is_not_used(monkeypatch):
    """Its episodes would have to be stepped on after their end, which it does not permit."""
    for mode, own in (("DISABLED", False), ("NEXT_STEP", True), ("SAME_STEP", True)):
        vector = make_vector_environment(f"snntest/Vector-{mode}-v0", 3, 50)
        assert isinstance(vector, environments.FuseVector) == own, mode
        vector.close()
    monkeypatch.setattr(environments.FuseVector, "closed", 0)
    make_vector_environment("snntest/Vector-DISABLED-v0", 3, 50).close()
    assert environments.FuseVector.closed == 1, "the one that was tried"
    returns = greedy_returns(
        "snntest/Vector-DISABLED-v0",
        Interface(2, 3, 0),
        lambda x: np.zeros((len(x), 3), np.float32),
        episodes=20,
        max_steps=50,
        seed=3,
    )
    assert 1 <= returns.min() < returns.max() <= 20, "a fuse burns for up to 20 steps"


def test_no_shipped_policy():
    with pytest.raises(ValueError, match=r"shipped policy \(CartPole-v1\), got 'Pong-v5'"):
        pretrained_policy("Pong-v5")


# Acting


@pytest.mark.parametrize(
    "policy",
    [
        make_policy([4, 16, 16, 2], seed=1),
        make_policy([4, 2], seed=1),
        nn.Sequential(nn.Linear(4, 300, bias=False), nn.ReLU(), nn.ReLU(), nn.Linear(300, 2), nn.ReLU()),
        nn.Sequential(nn.ReLU(), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)),
        make_policy([4, 3, 2], seed=1).double(),
    ],
)
def test_acting_is_the_forward_pass(policy):
    single, many = single_outputs(policy, 4, 2), batch_outputs(policy, 4, 2)
    for scale in (1.0, -2.0):
        with torch.no_grad():  # as an optimiser changes weights
            for parameter in policy.parameters():
                parameter.mul_(scale)
        observations = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
        expected = policy(observations.to(next(policy.parameters()).dtype)).detach().float().numpy()
        np.testing.assert_allclose(many(observations.numpy()), expected, rtol=1e-5, atol=1e-5)
        answers = [single(row).copy() for row in observations.numpy()]
        np.testing.assert_allclose(answers, expected, rtol=1e-5, atol=1e-5)


def test_hooked_policy_is_asked_itself():
    policy = make_policy([4, 2], seed=1)
    policy[0].register_forward_hook(lambda module, given, result: result + 100)
    assert single_outputs(policy, 4, 2)(np.zeros(4, dtype=np.float32)).min() > 90


@pytest.mark.parametrize(
    ("agent", "error", "message"),
    [
        (make_policy([3, 2], seed=1), ValueError, "policy must take observations of 4 features"),
        (make_policy([4, 3], seed=1), ValueError, r"policy must give 2 outputs per observation.* got shape \(2, 3\)"),
        (lambda x: x[:, 0], ValueError, r"got shape \(2,\)"),
        (3, TypeError, "must be an nn.Module or a callable, got int"),
    ],
)
def test_agent_that_does_not_fit(agent, error, message):
    with pytest.raises(error, match=message):
        batch_outputs(agent, 4, 2)

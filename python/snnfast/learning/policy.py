# SPDX-License-Identifier: Apache-2.0
"""Policies: multilayer perceptrons of Linear and ReLU, made, stored and read back."""

from __future__ import annotations

import importlib.resources
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from snnfast import checkpoint
from snnfast.checkpoint import CheckpointError
from snnfast.spec import check_count

#: Environment to the file of the policy that ships with the package.
_PRETRAINED = {"CartPole-v1": "cartpole.safetensors"}


def make_policy(sizes: Sequence[int], *, seed: int | None = None) -> nn.Sequential:
    """Return an untrained policy: ``Linear, ReLU, Linear, ..., Linear`` with PyTorch's default initialisation.

    Args:
        sizes: neurons per layer, from the observation's features to the number of actions, as in ``[4, 16, 16, 2]``.
        seed: makes the weights reproducible: those of ``torch.manual_seed(seed)``, while the global random state stays
            as it is. ``None`` draws from the global state.

    Raises:
        TypeError, ValueError: if ``sizes`` are not at least two positive integers, or ``seed`` is none.
    """
    given: Any = sizes
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise TypeError(f"sizes must be a sequence of integers, got {type(sizes).__name__}")
    counts = [check_count(f"sizes[{i}]", size) for i, size in enumerate(sizes)]
    if len(counts) < 2:
        raise ValueError(f"sizes must have at least an input and an output, got {counts}")
    generator = None
    if seed is not None:
        generator = torch.Generator("cpu").manual_seed(check_count("seed", seed, minimum=0, maximum=2**63 - 1))
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(counts):
        linear = _empty_linear(n_in, n_out)
        # What nn.Linear.reset_parameters does, with a generator of our own.
        nn.init.kaiming_uniform_(linear.weight, a=math.sqrt(5), generator=generator)
        nn.init.uniform_(linear.bias, -1 / math.sqrt(n_in), 1 / math.sqrt(n_in), generator=generator)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def save_policy(policy: nn.Sequential, path: checkpoint.Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Store a policy made of Linear and ReLU layers, with anything JSON can hold beside it.

    Args:
        policy: the ``nn.Sequential``.
        path: the file; see :func:`snnfast.checkpoint.save` for how it is written.
        metadata: what to remember, for example how it was trained. ``sizes`` and ``layers`` are added.

    Raises:
        TypeError: if the policy is not an ``nn.Sequential`` of ``nn.Linear`` and ``nn.ReLU``.
        ValueError: if it has no Linear layer, or weights that are not finite.
        OSError: if the file cannot be written.
    """
    sizes, layers = describe(policy)
    given = dict(metadata) if metadata is not None else {}
    checkpoint.save(path, "policy", policy.state_dict(), {**given, "sizes": sizes, "layers": layers})


def load_policy(path: checkpoint.Path) -> nn.Sequential:
    """Read a policy of :func:`save_policy`, on the CPU. Its metadata is ``checkpoint.load(path, "policy")[1]``.

    Raises:
        CheckpointError: if the file is damaged, no policy, or its weights do not fit the layers it names.
        FileNotFoundError: if there is no such file.
    """
    tensors, metadata = checkpoint.load(path, "policy")
    checkpoint.require(path, metadata, {"sizes": list, "layers": list})
    modules: list[nn.Module] = []
    expected: set[str] = set()
    for i, layer in enumerate(metadata["layers"]):
        if layer == "relu":
            modules.append(nn.ReLU())
        elif layer == "linear":
            names = {f"{i}.weight": torch.Tensor}
            checkpoint.require(path, tensors, names, what="tensor")
            weight, bias = tensors[f"{i}.weight"], tensors.get(f"{i}.bias")
            if weight.ndim != 2 or 0 in weight.shape or not weight.is_floating_point():
                raise CheckpointError(path, f"tensor '{i}.weight' is no weight matrix: {list(weight.shape)}")
            if bias is not None and (bias.shape != weight.shape[:1] or bias.dtype != weight.dtype):
                raise CheckpointError(path, f"tensor '{i}.bias' does not fit '{i}.weight': {list(bias.shape)}")
            linear = _empty_linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
            modules.append(linear)
            expected |= {f"{i}.{name}" for name, _ in linear.named_parameters()}
        else:
            raise CheckpointError(path, f"names an unknown layer {layer!r}")
    if expected != set(tensors):
        raise CheckpointError(path, f"holds tensors that no layer uses: {sorted(set(tensors) - expected)}")
    policy = nn.Sequential(*modules)
    try:
        sizes, _ = describe(policy)
    except ValueError as error:
        raise CheckpointError(path, f"its layers make no policy: {error}") from error
    if sizes != metadata["sizes"]:
        raise CheckpointError(path, f"its weights are of sizes {sizes}, but it claims {metadata['sizes']}")
    policy.load_state_dict(tensors)
    return policy


def pretrained_policy(env_id: str) -> nn.Sequential:
    """Return the trained policy that ships with the package for ``env_id``, such as ``"CartPole-v1"``.

    Raises:
        ValueError: if there is none for that environment; the message lists those there are.
    """
    if env_id not in _PRETRAINED:
        raise ValueError(f"env_id must have a shipped policy ({', '.join(_PRETRAINED)}), got {env_id!r}")
    file = importlib.resources.files("snnfast") / "data" / _PRETRAINED[env_id]
    with importlib.resources.as_file(file) as path:
        return load_policy(path)


def describe(policy: nn.Module) -> tuple[list[int], list[str]]:
    """The sizes and the layer words (``"linear"``, ``"relu"``) of an ``nn.Sequential`` of Linear and ReLU.

    Raises:
        TypeError: if it is something else, naming the layer at fault.
        ValueError: if it has no Linear layer, or one that does not fit the one before.
    """
    if not isinstance(policy, nn.Sequential):
        raise TypeError(f"policy must be an nn.Sequential of nn.Linear and nn.ReLU, got {type(policy).__name__}")
    sizes: list[int] = []
    words = []
    for i, layer in enumerate(policy):
        if type(layer) is nn.ReLU:
            words.append("relu")
        elif type(layer) is nn.Linear:
            words.append("linear")
            if sizes and sizes[-1] != layer.in_features:
                raise ValueError(f"policy[{i}] must take {sizes[-1]} inputs, it takes {layer.in_features}")
            sizes = [*(sizes or [layer.in_features]), layer.out_features]
        else:
            raise TypeError(f"policy[{i}] must be nn.Linear or nn.ReLU, got {type(layer).__name__}")
    if not sizes:
        raise ValueError("policy must have at least one nn.Linear layer, got none")
    return sizes, words


def _empty_linear(n_in: int, n_out: int, *, bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Linear:
    """An uninitialised layer on the CPU: the usual constructor would draw from the global random state."""
    linear = nn.Linear(n_in, n_out, bias=bias, device="meta", dtype=dtype)
    return linear.to_empty(device="cpu")

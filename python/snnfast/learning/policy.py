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
        TypeError: if the policy is not an ``nn.Sequential`` of ``nn.Linear`` and ``nn.ReLU``, or ``path`` or
            ``metadata`` is not of its kind.
        ValueError: if it has no Linear layer, weights that are not finite, or anything that could not be read back,
            such as the masks of pruning.
        OSError: if the file cannot be written.
    """
    if metadata is not None and not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping or None, got {type(metadata).__name__}")
    sizes, layers = describe(policy)
    given = dict(metadata) if metadata is not None else {}
    checkpoint.save(path, "policy", _tensors(policy), {**given, "sizes": sizes, "layers": layers})


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


def _tensors(policy: nn.Sequential) -> dict[str, torch.Tensor]:
    """Every layer's weight and bias, named by its place: the names that a Sequential was given are not kept.

    Raises:
        ValueError: naming the layer, if it holds anything else, because the file could not be read back.
    """
    tensors: dict[str, torch.Tensor] = {}
    for i, layer in enumerate(policy):
        state = layer.state_dict()
        usual = ({"weight"}, {"weight", "bias"}) if isinstance(layer, nn.Linear) else (set(),)
        if set(state) not in usual:
            required = "hold a weight and at most a bias" if isinstance(layer, nn.Linear) else "hold no tensors"
            raise ValueError(
                f"policy[{i}] must {required}, got {', '.join(sorted(state)) or 'nothing'}{_remedy(state)}"
            )
        if isinstance(layer, nn.Linear):
            weight, bias = state["weight"], state.get("bias")
            shape = (layer.out_features, layer.in_features)
            if tuple(weight.shape) != shape or 0 in shape or not weight.is_floating_point():
                raise ValueError(
                    f"policy[{i}].weight must be a matrix of {shape[0]} x {shape[1]} floating point numbers, at least "
                    f"1 x 1, got {weight.dtype} of shape {list(weight.shape)}"
                )
            if bias is not None and (bias.shape != weight.shape[:1] or bias.dtype != weight.dtype):
                raise ValueError(
                    f"policy[{i}].bias must be {shape[0]} numbers of the weight's {weight.dtype}, "
                    f"got {bias.dtype} of shape {list(bias.shape)}"
                )
        tensors |= {f"{i}.{name}": value for name, value in state.items()}
    own = [name for name in policy.state_dict() if "." not in name]
    if own:
        raise ValueError(f"policy must hold no tensors beside those of its layers, got {', '.join(own)}")
    return tensors


def _remedy(state: Mapping[str, object]) -> str:
    """What to do about a layer whose weight is computed from other tensors."""
    if any(name.endswith("_mask") for name in state):
        return ": it is pruned; make that final with torch.nn.utils.prune.remove(layer, name)"
    if any(name.endswith("_u") for name in state):
        return ": make its weight final with torch.nn.utils.remove_spectral_norm(layer)"
    if any(name.endswith("_g") for name in state):
        return ": make its weight final with torch.nn.utils.remove_weight_norm(layer)"
    return ""


def _empty_linear(n_in: int, n_out: int, *, bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Linear:
    """An uninitialised layer on the CPU: the usual constructor would draw from the global random state."""
    linear = nn.Linear(n_in, n_out, bias=bias, device="meta", dtype=dtype)
    return linear.to_empty(device="cpu")

# SPDX-License-Identifier: Apache-2.0
"""Asking a policy for its outputs: one observation at a time, as quickly as Python can, or many at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from snnfast.input_width import width_taken
from snnfast.learning.policy import describe

FloatArray: TypeAlias = npt.NDArray[np.float32]
#: (B, n_in) float32 to (B, n_out) float32.
Outputs: TypeAlias = Callable[[FloatArray], FloatArray]
#: Anything that decides: a module, or a function from (B, n_in) to (B, n_out) arrays, such as a SpikingNetwork.
Agent: TypeAlias = "nn.Module | Callable[[Any], Any]"


def batch_outputs(agent: Agent, n_in: int, n_out: int) -> Outputs:
    """Return a function from observations (B, n_in) to outputs (B, n_out), both float32 arrays.

    Raises:
        TypeError: if ``agent`` cannot be called.
        ValueError: if it does not take ``n_in`` features or give ``n_out`` outputs; it is tried out with zeros.
    """
    if not callable(agent):
        raise TypeError(f"policy must be an nn.Module or a callable, got {type(agent).__name__}")
    ask = _ask_module(agent) if isinstance(agent, nn.Module) else agent

    def outputs(observations: FloatArray) -> FloatArray:
        answer = ask(observations)
        if isinstance(answer, torch.Tensor):
            answer = answer.detach().cpu().numpy()
        array = np.asarray(answer, dtype=np.float32)
        if array.shape != (len(observations), n_out):
            raise ValueError(
                f"policy must give {n_out} outputs per observation, shape {(len(observations), n_out)}, "
                f"got shape {array.shape}"
            )
        return array

    try:
        outputs(np.zeros((2, n_in), dtype=np.float32))
    except RuntimeError as error:  # torch's way to say that shapes do not fit
        taken = width_taken(agent, n_in) if isinstance(agent, nn.Module) else None
        if taken is not None:
            raise ValueError(
                f"policy must take observations of {n_in} features, which the environment gives; it takes {taken}"
            ) from error
        raise ValueError(f"policy must take observations of {n_in} features: {error}") from error
    return outputs


def single_outputs(policy: nn.Module, n_in: int, n_out: int) -> Callable[[FloatArray], FloatArray]:
    """Return a function from one observation (n_in,) to outputs (n_out,). What it returns is valid until the next call.

    It follows the policy's weights as they change in place. For Linear and ReLU layers it is numpy on the same memory,
    several times quicker than torch for a single observation.

    Raises:
        TypeError, ValueError: if the policy does not take ``n_in`` features or does not give ``n_out`` outputs.
    """
    every = batch_outputs(policy, n_in, n_out)
    if not _is_plain(policy):
        return lambda observation: every(observation[None])[0]
    zeros = {n: np.zeros(n, dtype=np.float32) for n in {p.shape[0] for p in policy.parameters()}}
    steps: list[tuple[Callable[..., Any], FloatArray | None, FloatArray | None, FloatArray]] = []
    for layer in policy.children():
        if isinstance(layer, nn.Linear):
            weight, bias = layer.weight.detach().numpy(), layer.bias
            # Memory from torch, which always aligns it the same way: BLAS may choose its path by the alignment.
            result = torch.empty(len(weight), dtype=torch.float32, device="cpu").numpy()
            steps.append((weight.dot, None if bias is None else bias.detach().numpy(), None, result))
        else:
            dot, bias_values, _, result = steps[-1]
            steps[-1] = (dot, bias_values, zeros[len(result)], result)
    add, maximum = np.add, np.maximum

    def outputs(observation: FloatArray) -> FloatArray:
        current = observation
        for dot, bias, zero, result in steps:
            dot(current, result)
            if bias is not None:
                add(result, bias, out=result)
            if zero is not None:
                maximum(result, zero, out=result)
            current = result
        return current

    return outputs


def _is_plain(policy: nn.Module) -> bool:
    """Whether numpy can stand in: Linear and ReLU only, float32 on the CPU, nothing hooked in between."""
    if type(policy) is not nn.Sequential or len(policy) == 0 or type(policy[0]) is not nn.Linear:
        return False
    try:
        describe(policy)
    except (TypeError, ValueError):
        return False
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in policy.modules())
    dense = all(p.dtype == torch.float32 and p.device.type == "cpu" and p.is_contiguous() for p in policy.parameters())
    return dense and not hooked


def _ask_module(module: nn.Module) -> Callable[[FloatArray], Any]:
    def ask(observations: FloatArray) -> Any:
        # Asked anew each time: the caller may move the module between calls.
        parameter = next(module.parameters(), None)
        given = torch.from_numpy(observations.copy())  # the module may work in place
        if parameter is not None:
            given = given.to(parameter.device, parameter.dtype)
        with torch.inference_mode():
            return module(given)

    return ask

# SPDX-License-Identifier: Apache-2.0
"""``torch.ops.snnfast.run``: a whole network over all its steps as one operator of torch.

Calling a :class:`~snnfast.network.SpikingNetwork` runs its backend directly, which is quicker. Inside
``torch.compile``, ``torch.export`` and ``torch.vmap`` the call becomes this operator, which keeps it whole.

An operator takes tensors and numbers only, so a network is named by a number. The number is good in this process for as
long as the network lives; an exported program that is run elsewhere needs the network registered there under the same
number.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.library import Library


class Runnable(Protocol):
    """What the operator needs of a network."""

    @property
    def n_out(self) -> int: ...

    def _run_checked(self, observations: Tensor, seed: int) -> Tensor: ...


_networks: weakref.WeakValueDictionary[int, Runnable] = weakref.WeakValueDictionary()
_numbers = itertools.count(1)


def register(network: Runnable) -> int:
    """Give a network a number for the operator; the network is not kept alive by it."""
    number = next(_numbers)
    _networks[number] = network
    return number


def _find(number: int) -> Runnable:
    network = _networks.get(number)
    if network is None:
        raise RuntimeError(f"snnfast::run: network {number} is not, or no longer, alive in this process")
    return network


def _check(observations: Tensor) -> None:
    if observations.ndim != 2:
        raise ValueError(f"observations must have shape (B, n_in), got {tuple(observations.shape)}")
    if observations.dtype != torch.float32:
        raise TypeError(f"observations must be float32 for snnfast::run, got {observations.dtype}")


def _run(observations: Tensor, network: int, n_out: int, seed: int) -> Tensor:
    _check(observations)
    return _find(network)._run_checked(observations, seed)


def _fake(observations: Tensor, network: int, n_out: int, seed: int) -> Tensor:
    _check(observations)
    return observations.new_empty((observations.shape[0], n_out))


def _no_gradient(ctx: Any, grad: Tensor) -> Any:
    raise NotImplementedError(
        "snnfast::run has no gradient: the spiking network is not differentiable. "
        "Pass observations.detach(), or call it under torch.no_grad()"
    )


def _vmap(info: Any, in_dims: Any, observations: Tensor, network: int, n_out: int, seed: int) -> tuple[Tensor, int]:
    # Samples are independent of each other, so another batch dimension is more samples. With Poisson encoding every
    # sample draws its own numbers, as rows of one batch do.
    rows = observations.movedim(in_dims[0], 0)
    output = torch.ops.snnfast.run(rows.reshape(-1, rows.shape[-1]), network, n_out, seed)
    return output.reshape(*rows.shape[:-1], n_out), 0


_library: Any = Library("snnfast", "DEF")  # type: ignore[no-untyped-call]  # torch leaves it untyped
_library.define(
    "run(Tensor observations, int network, int n_out, int seed) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,)
)
_library.impl("run", _run, "CPU")
_library.impl("run", _run, "CUDA")
torch.library.register_fake("snnfast::run", _fake, lib=_library)
torch.library.register_autograd("snnfast::run", _no_gradient, lib=_library)
torch.library.register_vmap("snnfast::run", _vmap, lib=_library)
# Under autocast matrix products become half precision; membrane potentials must not.
torch.library.register_autocast("snnfast::run", "cpu", torch.float32, lib=_library)
torch.library.register_autocast("snnfast::run", "cuda", torch.float32, lib=_library)


#: Whether a tensor stands for many, inside ``torch.vmap``.
is_mapped = torch._C._functorch.is_batchedtensor


def run(observations: Tensor, network: int, n_out: int, seed: int = 0) -> Tensor:
    """The operator as a plain function: observations (B, n_in) or (n_in,), float32."""
    if observations.ndim == 1:
        return run(observations.unsqueeze(0), network, n_out, seed)[0]
    output: Tensor = torch.ops.snnfast.run(observations, network, n_out, seed)
    return output

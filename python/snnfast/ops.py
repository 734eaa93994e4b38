# SPDX-License-Identifier: Apache-2.0
"""``torch.ops.snnfast.run``: a whole network over all its steps as one operator of torch.

Calling a :class:`~snnfast.network.SpikingNetwork` runs its backend directly, which is quicker. Inside
``torch.compile``, ``torch.export`` and ``torch.vmap`` the call becomes this operator, which keeps it whole; and so it
does wherever torch writes operations down (``torch.jit.trace``, ``make_fx``), to which all else gives constants.

An operator takes tensors and numbers only, so a network is named by a number, made of all that its outputs depend on. A
program that names it finds any network like it that is alive in the process: an exported program that is saved and
loaded elsewhere needs the network loaded there too, and refuses to run another.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.library import Library
from torch.utils import _python_dispatch

from snnfast.callers import Token, Turn


class Runnable(Protocol):
    """What the operator needs of a network."""

    @property
    def n_out(self) -> int: ...

    def _run_checked(self, run: Callable[[Tensor, int], Tensor], observations: Tensor, seed: int) -> Tensor: ...


class Name:
    """A network's number, and who answers to it. It lives as long as one of them does.

    What runs is always the same one's: a CUDA graph holds the addresses of its weights, which must be there as long as
    any network that whoever captured the graph may have kept.
    """

    def __init__(self, number: int, run: Callable[[Tensor, int], Tensor]) -> None:
        self.number = number
        self.run = run
        self.networks: weakref.WeakSet[Runnable] = weakref.WeakSet()


_names: weakref.WeakValueDictionary[int, Name] = weakref.WeakValueDictionary()
_turn = Turn()


def _after_fork() -> None:
    global _turn
    _turn = Turn()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork)


def fingerprint(arrays: Mapping[str, npt.NDArray[Any]], description: Mapping[str, Any]) -> int:
    """A number from 0 to 2**63 - 1, the same in every process, of arrays by name and of anything JSON can hold."""
    names = sorted(arrays)
    about = [description, [[name, str(arrays[name].dtype), arrays[name].shape] for name in names]]
    digest = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=8)
    for name in names:
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return int.from_bytes(digest.digest(), "little") >> 1


def register(network: Runnable, number: int, run: Callable[[Tensor, int], Tensor]) -> Name:
    """Let the operator find a network. It is not kept alive by that; whoever has the name keeps the name alive.

    Args:
        run: of a batch and a seed; does not keep the network alive either. Networks like it may have another.
    """
    token = Token()
    _turn.take(token)
    try:
        name = _names.setdefault(number, Name(number, run))
        name.networks.add(network)
    finally:
        _turn.give(token)
    return name


def _find(number: int) -> tuple[Name, Runnable]:
    token = Token()
    _turn.take(token)
    try:
        name = _names.get(number)
        network = next(iter(name.networks), None) if name is not None else None
    finally:
        _turn.give(token)
    if name is None or network is None:
        raise RuntimeError(
            f"snnfast::run: network {number} is not, or no longer, alive in this process; load it before the program "
            "that runs it"
        )
    return name, network


def _check(observations: Tensor) -> None:
    if observations.ndim != 2:
        raise ValueError(f"observations must have shape (B, n_in), got {tuple(observations.shape)}")
    if observations.dtype != torch.float32:
        raise TypeError(f"observations must be float32 for snnfast::run, got {observations.dtype}")


def _run(observations: Tensor, network: int, n_out: int, seed: int) -> Tensor:
    _check(observations)
    name, found = _find(network)
    if n_out != found.n_out:
        raise ValueError(f"n_out must be {found.n_out}, the network's number of outputs, got {n_out}")
    # Another thread may have registered the one found a moment ago, and not kept the name yet: it is told what to run.
    return found._run_checked(name.run, observations, seed)


def _fake(observations: Tensor, network: int, n_out: int, seed: int) -> Tensor:
    _check(observations)
    return observations.new_empty((observations.shape[0], n_out))


def _no_gradient(ctx: Any, grad: Tensor) -> Any:
    raise NotImplementedError(
        "snnfast::run has no gradient: spikes are not differentiable. "
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


#: Whether a tensor stands for others, inside ``torch.vmap`` and the other transforms of ``torch.func``.
is_transformed = torch._C._functorch.is_functorch_wrapped_tensor

#: Whether ``torch.jit.trace`` writes operations down.
is_tracing: Callable[[], bool] = torch._C._is_tracing

#: Names in torch's namespaces, and their values while it takes no tangents along, and while no mode looks at
#: operations: what is quickest to look at. A mode of another thread counts here.
QUIET: tuple[tuple[dict[str, Any], str, object], ...] = (
    (vars(forward_ad), "_current_level", -1),
    (vars(_python_dispatch), "_is_in_torch_dispatch_mode", False),
)


def is_watched() -> bool:
    """Whether torch writes its operations down, or looks at them, or takes tangents along: it must meet an operator."""
    return is_tracing() or torch._C._len_torch_dispatch_stack() > 0 or _takes_tangents()


def _takes_tangents() -> bool:
    return forward_ad._current_level >= 0


def refuse_tracing(what: str) -> None:
    """Raise a ``NotImplementedError`` where ``what``, which is no operator, would be written down as a constant."""
    if is_tracing() or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None:
        raise NotImplementedError(
            f"{what} cannot be part of a program that torch.jit.trace, torch.export or make_fx writes down, only a "
            "call of a network can: its results would be constants there"
        )


def refuse_transformed(name: str, tensor: Tensor) -> None:
    """Raise a ``NotImplementedError`` if a tensor only stands for others."""
    if is_transformed(tensor):
        raise NotImplementedError(
            f"{name} must be a plain torch tensor, got one that a transform of torch.func has made, such as "
            "torch.vmap: only a call of a network can be transformed"
        )


def refuse_gradient(name: str, tensor: Tensor) -> None:
    """Raise a ``NotImplementedError`` if a derivative by ``tensor`` is wanted, backwards or forwards."""
    if tensor.requires_grad and torch.is_grad_enabled():
        raise NotImplementedError(
            f"{name} must not require a gradient: spikes are not differentiable. "
            f"Pass {name}.detach(), or call it under torch.no_grad()"
        )
    refuse_tangent(name, tensor)


def refuse_tangent(name: str, tensor: Tensor) -> None:
    """Raise a ``NotImplementedError`` if ``tensor`` carries a tangent, of forward-mode differentiation."""
    if not _takes_tangents():
        return
    tangent: Tensor | None = forward_ad.unpack_dual(tensor).tangent  # type: ignore[no-untyped-call]  # torch's
    if tangent is not None:
        raise NotImplementedError(
            f"{name} must not carry a tangent: spikes are not differentiable. Pass {name}.detach()"
        )


#: dtypes that are converted to float32 without a word: the other real numbers that observations come in.
CONVERTED = (torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def run(observations: Tensor, network: int, n_out: int, seed: int = 0) -> Tensor:
    """The operator as a plain function: observations (B, n_in) or (n_in,), and a seed below 2**64."""
    if observations.ndim == 1:
        return run(observations.unsqueeze(0), network, n_out, seed)[0]
    if observations.dtype in CONVERTED:
        observations = observations.to(torch.float32)
    if seed >= 2**63:  # an operator's numbers have a sign
        seed -= 2**64
    output: Tensor = torch.ops.snnfast.run(observations, network, n_out, seed)
    return output

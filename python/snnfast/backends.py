# SPDX-License-Identifier: Apache-2.0
"""The implementations a network can run on: which there are, which can run here, and why not.

A backend turns a :class:`~snnfast.spec.NetworkSpec` into an :class:`Executable`, once; an executable takes checked
observations. Only this file knows the compiled module.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from snnfast import cuda_backend, ops, reference
from snnfast.cuda_backend import CudaExecutable
from snnfast.reference import Simulation
from snnfast.spec import DigitsCode, NetworkSpec, Order, check_count
from snnfast.spec.certificate import code_arguments

Backend = Literal["auto", "reference", "cpu", "cuda"]
Record = Literal["spikes", "potentials"]
Act = Callable[..., int]
FastRun = Callable[[Any], Any]  # of a tensor or an array gives the same kind, or None

try:
    from snnfast import _core

    _core_missing = ""
except ImportError as error:  # pragma: no cover - needs a broken installation
    _core_missing = f"the compiled module snnfast._core cannot be imported: {error}"


def _apply_environment() -> None:
    """Obey SNNFAST_ISA and SNNFAST_NUM_THREADS; what cannot be obeyed is an error, never a quiet fallback."""
    isa, threads = os.environ.get("SNNFAST_ISA"), os.environ.get("SNNFAST_NUM_THREADS")
    if isa:
        try:
            _core.cap_isa(isa)
        except ValueError as error:
            raise ValueError(f"SNNFAST_ISA: {error}") from None
    if threads:
        if not threads.isdecimal() or not 1 <= int(threads) <= MAX_THREADS:
            raise ValueError(f"SNNFAST_NUM_THREADS must be an integer from 1 to {MAX_THREADS}, got {threads!r}")
        _core.set_num_threads(int(threads))


#: More threads than this are taken for a mistake.
MAX_THREADS = 1024

if not _core_missing:
    _apply_environment()


class Executable(Protocol):
    """A network made ready to run. Observations are float32, contiguous, on ``device``, of shape (B, n_in)."""

    device: torch.device

    def run(self, observations: Tensor, seed: int, first_sample: int = 0) -> Tensor:
        """Decoded output, (B, n_out)."""

    def simulate(self, observations: Tensor, seed: int, record: Collection[str], first_sample: int = 0) -> Simulation:
        """Output, spike counts, and records on request."""

    def fast_run(self) -> FastRun | None:
        """A quicker way, or ``None``. It answers ``None`` for all but plain tensors and arrays, and for tensors
        where torch looks at operations."""

    def act(self, general: Act) -> Act:
        """A quicker function for plain observations that leaves all others to ``general``, or that itself."""

    def method(self) -> dict[str, str]:
        """Which implementation runs, in words."""


class ReferenceExecutable:
    """Plain torch, see :mod:`snnfast.reference`."""

    device = torch.device("cpu")

    def __init__(self, spec: NetworkSpec) -> None:
        self._spec = spec

    def run(self, observations: Tensor, seed: int, first_sample: int = 0) -> Tensor:
        return self.simulate(observations, seed, (), first_sample).output

    def simulate(self, observations: Tensor, seed: int, record: Collection[str], first_sample: int = 0) -> Simulation:
        finite = torch.isfinite(observations)
        if not finite.all():
            row, column = (int(i) for i in torch.nonzero(~finite)[0])
            value = float(observations[row, column])
            raise ValueError(f"observations must be finite, got {value} at sample {row}, feature {column}")
        with torch.no_grad():
            return reference.simulate(self._spec, observations, seed=seed, first_sample=first_sample, record=record)

    def fast_run(self) -> FastRun | None:
        return None

    def act(self, general: Act) -> Act:
        return general

    def method(self) -> dict[str, str]:
        return {"backend": "reference", "isa": "torch", "method": "time loop", "why": "the definition, in plain torch"}


def _room(*shape: int) -> Tensor:
    """A tensor for compiled code to write to, whatever the program's default dtype and device."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


class CpuExecutable:
    """The compiled backend: one Plan per network, built here, that runs all time steps in one call."""

    device = torch.device("cpu")

    def __init__(self, spec: NetworkSpec, isa: str | None = None, *, exact: bool = True, method: str = "auto") -> None:
        self._spec = spec
        code = code_arguments(spec)
        self.plan = _core.Plan(**spec.plan_arguments(), code=code, isa=isa, exact=exact, method=method)
        self._n_out = spec.n_out

    def run(self, observations: Tensor, seed: int, first_sample: int = 0) -> Tensor:
        batch = observations.shape[0]
        output = _room(batch, self._n_out)
        self.plan.run(observations.data_ptr(), batch, output.data_ptr(), seed, first_sample)
        return output

    def simulate(self, observations: Tensor, seed: int, record: Collection[str], first_sample: int = 0) -> Simulation:
        spec, batch = self._spec, observations.shape[0]
        widths = [w.shape[0] for w in spec.weights]
        output = _room(batch, self._n_out)
        counts = [_room(batch, n) for n in widths[: spec.spiking_layers]]
        input_counts = None if spec.encoding == "constant" else _room(batch, spec.encoded_weights.shape[1])
        spikes = potentials = None
        if "spikes" in record:
            spikes = [_room(spec.timesteps, batch, n) for n in widths[: spec.spiking_layers]]
        if "potentials" in record:
            potentials = [_room(spec.timesteps, batch, n) for n in widths]
        leave = spec.early_exit
        steps = None if leave is None else _room(batch)
        certified = _room(batch) if leave is not None and leave.kind == "certified" else None
        saturated = _room(batch) if isinstance(spec.code, DigitsCode) else None
        self.plan.simulate(
            observations.data_ptr(),
            batch,
            output.data_ptr(),
            seed,
            first_sample,
            [c.data_ptr() for c in counts],
            0 if input_counts is None else input_counts.data_ptr(),
            [] if spikes is None else [s.data_ptr() for s in spikes],
            [] if potentials is None else [p.data_ptr() for p in potentials],
            *(0 if told is None else told.data_ptr() for told in (steps, certified, saturated)),
        )
        return Simulation(output, counts, input_counts, spikes, potentials, steps, certified, saturated)

    def fast_run(self) -> FastRun:
        run: FastRun = _core.fast_run(self.plan, Tensor, ops.is_tracing, ops.QUIET)
        return run

    def act(self, general: Act) -> Act:
        act: Act = _core.fast_act(self.plan, general, Tensor)
        return act

    def method(self) -> dict[str, str]:
        return {"backend": "cpu", "isa": self.plan.isa, "method": self.plan.method, "why": self.plan.why}


#: Why a backend cannot run here, or "". Asked only for the one that is wanted: asking for CUDA wakes the driver.
_UNAVAILABLE: dict[str, Callable[[], str]] = {
    "reference": lambda: "",
    "cpu": lambda: _core_missing,
    "cuda": cuda_backend.unavailable,
}


def available() -> dict[str, str]:
    """Every backend by name, with "" if it can run here and the reason if not."""
    return {name: why() for name, why in _UNAVAILABLE.items()}


def resolve(name: str) -> str:
    """The backend that ``name`` stands for here; a CUDA device may be named by its index, as in ``"cuda:1"``.

    Raises:
        ValueError: unknown name.
        NotImplementedError: a backend that cannot run here, with the reason and what can.
    """
    name = "cpu" if name == "auto" else name
    kind, _, index = name.partition(":") if isinstance(name, str) else ("", "", "")
    if kind not in _UNAVAILABLE or (name != kind and not (kind == "cuda" and index.isdecimal())):
        raise ValueError(f"backend must be one of 'auto', {', '.join(map(repr, _UNAVAILABLE))}, got {name!r}")
    reason = _UNAVAILABLE[kind]()
    if reason:
        usable = ", ".join(repr(n) for n, why in available().items() if not why)
        raise NotImplementedError(f"backend {name!r} is not available: {reason}. Available here: {usable}")
    return str(cuda_backend.device_of(name)) if kind == "cuda" else name


def compile_network(spec: NetworkSpec, backend: str, exact: bool = True) -> Executable:
    """Make a network ready to run on a backend that :func:`resolve` has named."""
    if backend.startswith("cuda"):
        return CudaExecutable(spec, torch.device(backend), exact=exact)
    return ReferenceExecutable(spec) if backend == "reference" else CpuExecutable(spec, exact=exact)


def if_forward(
    current: Tensor, v0: Tensor, threshold: float, order: Order, backend: str, isa: str | None = None
) -> tuple[Tensor, Tensor]:
    """One integrate-and-fire layer over time, on checked and contiguous float32 tensors."""
    if backend == "reference":
        return reference.if_forward(current, v0, threshold, order)
    spikes, final = torch.empty_like(current), v0.clone()
    _core.if_forward(
        current.data_ptr(), final.data_ptr(), spikes.data_ptr(), current.shape[0], v0.numel(), threshold, order, isa
    )
    return spikes, final


def instruction_sets() -> list[str]:
    """The instruction sets that the compiled backend has code for and this machine can run, best first."""
    return [] if _core_missing else list(_core.supported_isas())


def parallel_loops() -> int:
    """How many calls have used more than one thread so far; lets tests and benchmarks prove that the pool ran."""
    return int(_core.parallel_loops())


def measure_ceiling(name: str, *, bytes: int = 0, isa: str | None = None) -> float:
    """How fast one core does one thing at best, in units per second; a loop of a few milliseconds, best of many.

    Args:
        name: ``"add"`` and ``"mul_add"``: float additions (multiplications each followed by an addition) with operands
            in registers; ``"add_few"``: additions of up to four floats at once; ``"step"``: neuron steps, many at a
            time; ``"step_latency"``: steps of one neuron, each waiting for the one before; ``"add_memory"``: float
            additions with one operand from memory; ``"read"``: bytes read; ``"matrix"``: products of bytes, each with
            its addition, where there is a unit for matrices.
        bytes: size of that memory, which decides the cache it lies in; unused by the others.
        isa: instruction set; the one in use unless given.

    Raises:
        ValueError: unknown name or instruction set, or bytes out of range.
    """
    resolve("cpu")
    return float(_core.measure_ceiling(name, bytes, isa))


def core_info() -> dict[str, object]:
    """What the compiled module says of itself: compiler, instruction sets, the one in use, threads."""
    return {} if _core_missing else dict(_core.info())


def set_num_threads(n: int) -> None:
    """Set how many threads the CPU backend may use, 1 or more. Results do not depend on it.

    Raises:
        TypeError, ValueError: if ``n`` is no integer or out of range.
    """
    n = check_count("n", n, maximum=MAX_THREADS)
    resolve("cpu")
    _core.set_num_threads(n)


def num_threads() -> int:
    """How many threads the CPU backend may use."""
    resolve("cpu")
    return int(_core.num_threads())

# SPDX-License-Identifier: Apache-2.0
"""The CUDA backend: whole networks on an NVIDIA device, on torch's current stream, with torch's memory.

Only this file knows the compiled module ``snnfast._cuda``. A call queues its kernels and returns, like every CUDA
function of torch: nothing waits for the device, so calls can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from snnfast import ops
from snnfast.reference import Simulation
from snnfast.spec import DigitsCode, NetworkSpec
from snnfast.spec.certificate import code_arguments

try:
    import snnfast._cuda as _cuda

    _module_missing = ""
except ModuleNotFoundError:
    _module_missing = (
        "this build of snnfast has no CUDA module: when it was installed, none was asked for, or no CUDA compiler "
        "that fits was found (-C cmake.define.SNNFAST_CUDA=ON says why)"
    )
except ImportError as error:
    _module_missing = f"the compiled module snnfast._cuda cannot be imported: {error}"

#: The oldest driver that runs code of a major version of CUDA.
_MINIMUM_DRIVER = {12: "525", 13: "580"}


#: Why a method was chosen, in words.
_WHY = {
    "tiny": "at most two hidden layers of at most 16 neurons fit into a thread's registers (output only)",
    "coded": "a code other than plain neurons: a warp takes a sample through the whole network until it may stop",
    "slices": "{} of {} layers by products of whole matrices of bytes on the tensor cores, the others by events",
    "events": "serves every network, option and record",
}


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def unavailable() -> str:
    """Why no network can run on CUDA here, or "". Starts nothing on any device."""
    if _module_missing:
        return _module_missing
    info = _cuda.info()
    compiled, driver = int(info["cuda"]), int(info["driver_cuda"])
    least = _MINIMUM_DRIVER.get(compiled // 1000)
    built_for = f"CUDA {_cuda_version(compiled)}"
    needed = f"driver {least} or newer (this build is for {built_for})" if least else f"one that runs {built_for}"
    if driver == 0:
        return f"no NVIDIA driver was found; it needs {needed}"
    if driver < compiled // 1000 * 1000:
        return f"the NVIDIA driver is too old, it runs CUDA {_cuda_version(driver)}; it needs {needed}"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA; install a CUDA build of torch"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device that it can use"
    return ""


def device_of(name: str) -> torch.device:
    """The device that ``"cuda"`` or ``"cuda:<index>"`` stands for; the current one if it has no index.

    Raises:
        ValueError: if there is no such device.
        NotImplementedError: if the device is older than the oldest we have code for.
    """
    device = torch.device(name)
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise ValueError(f"backend {name!r} must name one of {torch.cuda.device_count()} CUDA devices, counted from 0")
    capability = torch.cuda.get_device_capability(index)
    if capability < (7, 5):
        raise NotImplementedError(
            f"backend {name!r} needs a device of compute capability 7.5 or newer, "
            f"got {torch.cuda.get_device_name(index)} with {capability[0]}.{capability[1]}"
        )
    return torch.device("cuda", index)


def info() -> dict[str, object]:
    """What the compiled module says of itself, empty if there is none."""
    return {} if _module_missing else dict(_cuda.info())


class CudaExecutable:
    """A network on one CUDA device: the packed weights lie there, a Plan on the host knows what to launch."""

    def __init__(self, spec: NetworkSpec, device: torch.device, *, exact: bool = True) -> None:
        self._spec = spec
        self.device = device
        with torch.cuda.device(device):  # it asks which code that one runs
            self.plan = _cuda.Plan(**spec.plan_arguments(), code=code_arguments(spec), device=device.index, exact=exact)
        self._packed = torch.from_numpy(self.plan.packed).to(device)
        stream = torch.cuda.current_stream(device)
        stream.synchronize()  # any stream may use the weights from now on
        self._packed_on = stream.cuda_stream
        self._n_out = spec.n_out

    def _queue(
        self,
        observations: Tensor,
        seed: int,
        first_sample: int,
        simulate: bool,
        output: Tensor,
        records: dict[str, Any],
    ) -> None:
        """Launch on the current stream of the device."""
        batch, index = observations.shape[0], self.device.index
        stream = torch.cuda.current_stream(index)
        size = self.plan.workspace_bytes(batch, simulate)
        workspace = torch.empty(size, dtype=torch.uint8, device=self.device) if size else None
        # torch knows how to go back to a device that it has not started yet without starting it.
        with nullcontext() if torch.cuda.current_device() == index else torch.cuda.device(index):
            self.plan.run(
                stream.cuda_stream, self._packed.data_ptr(), 0 if workspace is None else workspace.data_ptr(),
                observations.data_ptr(), batch, output.data_ptr(), seed, first_sample, **records,
            )  # fmt: skip
            if stream.cuda_stream != self._packed_on and not torch.cuda.is_current_stream_capturing():
                # The weights must outlive what was queued, also on a stream that is not the one they were sent on.
                self._packed.record_stream(stream)

    def run(self, observations: Tensor, seed: int, first_sample: int = 0) -> Tensor:
        output = torch.empty(observations.shape[0], self._n_out, dtype=torch.float32, device=self.device)
        self._queue(observations, seed, first_sample, False, output, {})
        return output

    def simulate(self, observations: Tensor, seed: int, record: Collection[str], first_sample: int = 0) -> Simulation:
        spec, batch = self._spec, observations.shape[0]
        widths = [w.shape[0] for w in spec.weights]

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float32, device=self.device)

        output = empty(batch, self._n_out)
        counts = [empty(batch, n) for n in widths[: spec.spiking_layers]]
        input_counts = None if spec.encoding == "constant" else empty(batch, spec.encoded_weights.shape[1])
        spikes = potentials = None
        if "spikes" in record:
            spikes = [empty(spec.timesteps, batch, n) for n in widths[: spec.spiking_layers]]
        if "potentials" in record:
            potentials = [empty(spec.timesteps, batch, n) for n in widths]
        leave = spec.early_exit
        steps = None if leave is None else empty(batch)
        certified = empty(batch) if leave is not None and leave.kind == "certified" else None
        saturated = empty(batch) if isinstance(spec.code, DigitsCode) else None
        told = {"steps": steps, "certified": certified, "saturated": saturated}
        records: dict[str, Any] = {
            "spike_counts": [c.data_ptr() for c in counts],
            "input_counts": 0 if input_counts is None else input_counts.data_ptr(),
            "spikes": [s.data_ptr() for s in spikes or ()],
            "potentials": [p.data_ptr() for p in potentials or ()],
            **{name: tensor.data_ptr() for name, tensor in told.items() if tensor is not None},
        }
        self._queue(observations, seed, first_sample, True, output, records)
        return Simulation(output, counts, input_counts, spikes, potentials, steps, certified, saturated)

    def fast_run(self) -> Callable[[Tensor], Tensor | None]:
        """A shorter way for the plain case: every microsecond before the launch is one in which the device idles."""
        n_in, device = self._spec.n_in, self.device

        def run(observations: Tensor) -> Tensor | None:
            if (
                type(observations) is not Tensor
                or observations.layout is not torch.strided
                or observations.device != device
                or observations.dtype is not torch.float32
                or observations.ndim != 2
                or observations.shape[1] != n_in
                or observations.requires_grad
                or not observations.is_contiguous()
                or observations.is_neg()
                or ops.is_transformed(observations)
                or ops.is_watched()
            ):
                return None
            return self.run(observations, 0)

        return run

    def act(self, general: Callable[..., int]) -> Callable[..., int]:
        return general

    def method(self) -> dict[str, str]:
        capability = torch.cuda.get_device_capability(self.device)
        return {
            "backend": "cuda",
            "isa": "sm_{}{}".format(*capability),
            "method": self.plan.method,
            "why": _WHY[self.plan.method].format(self.plan.sliced_layers, len(self._spec.weights)),
        }

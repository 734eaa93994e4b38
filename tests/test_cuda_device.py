# SPDX-License-Identifier: Apache-2.0
"""The CUDA backend on a device: the bits of the CPU backend, torch's streams and graphs, and what is refused.

`make gpu-check` runs these where there is a device; `tests/test_cuda_host.py` is what can be tested without one.
"""

from __future__ import annotations

import dataclasses
import pickle
import threading
import warnings

import numpy as np
import pytest
import torch

import snnfast as sf
from conftest import CODES, random_coded_spec, random_observations, random_spec
from snnfast import backends, cuda_backend, ops
from snnfast.spec import NetworkSpec
from test_parity import RECORD_ALL, assert_same_bits, assert_same_simulation

pytestmark = pytest.mark.skipif(bool(cuda_backend.unavailable()), reason=f"needs CUDA: {cuda_backend.unavailable()}")


def on_cpu(simulation: sf.Simulation) -> sf.Simulation:
    def move(tensors: list[torch.Tensor] | None) -> list[torch.Tensor] | None:
        return None if tensors is None else [t.cpu() for t in tensors]

    return sf.Simulation(
        simulation.output.cpu(),
        [c.cpu() for c in simulation.spike_counts],
        None if simulation.input_spike_counts is None else simulation.input_spike_counts.cpu(),
        move(simulation.spikes),
        move(simulation.potentials),
        *(
            None if told is None else told.cpu()
            for told in (simulation.steps, simulation.certified, simulation.saturated)
        ),
    )


def network_of(spec: NetworkSpec) -> sf.SpikingNetwork:
    return sf.SpikingNetwork(
        spec.weights, spec.biases, spec.neuron, spec.timesteps, spec.encoding, spec.decoding,
        split_inputs=spec.split_inputs, bias_input=spec.bias_input, code=spec.code, early_exit=spec.early_exit,
    )  # fmt: skip


def pair(seed: int = 4, **fixed: object) -> tuple[sf.SpikingNetwork, sf.SpikingNetwork, torch.Tensor]:
    spec = random_spec(seed, **{"encoding": "constant", "bias_input": False, **fixed})
    network = network_of(spec)
    return network, network.to("cuda"), random_observations(spec, 40, seed)


@pytest.mark.parametrize("chunk", range(10))
def test_1000_random_networks_have_the_bits_of_the_cpu_backend(chunk: int) -> None:
    device = cuda_backend.device_of("cuda")
    for seed in range(100 * chunk, 100 * chunk + 100):
        spec = random_coded_spec(seed) if seed % 4 == 3 else random_spec(seed)
        batch = [0, 1, 2, 5, 40][seed % 5]
        x = random_observations(spec, batch, seed)
        cpu, cuda = backends.CpuExecutable(spec), backends.CudaExecutable(spec, device)
        want, y = cpu.simulate(x, seed, RECORD_ALL), x.to(device)
        assert_same_simulation(on_cpu(cuda.simulate(y, seed, RECORD_ALL)), want)
        assert_same_simulation(on_cpu(cuda.simulate(y, seed, ())), cpu.simulate(x, seed, ()))
        assert_same_bits(cuda.run(y, seed).cpu(), want.output, f"run, {spec}")
        cut = batch // 3
        parts = [cuda.run(y[:cut], seed), cuda.run(y[cut:], seed, cut)]
        assert_same_bits(torch.cat(parts).cpu(), want.output, f"cut, {spec}")


def test_without_the_exact_contract_300_random_networks_have_the_bits_of_the_cpu_backends_slices() -> None:
    device = cuda_backend.device_of("cuda")
    for seed in range(300):
        spec = random_spec(seed)
        x = random_observations(spec, [0, 1, 2, 17, 40][seed % 5], seed)
        cuda = backends.CudaExecutable(spec, device, exact=False)
        sliced = cuda.plan.sliced_layers > 0  # tiny networks are exact all the same
        cpu = backends.CpuExecutable(spec, exact=False, method="slices") if sliced else backends.CpuExecutable(spec)
        want, y = cpu.simulate(x, seed, RECORD_ALL), x.to(device)
        assert_same_simulation(on_cpu(cuda.simulate(y, seed, RECORD_ALL)), want)
        assert_same_bits(cuda.run(y, seed).cpu(), want.output, f"run, {spec}")


needs_tensor_cores = pytest.mark.skipif(
    not cuda_backend.unavailable() and torch.cuda.get_device_capability() < (8, 0),
    reason="needs tensor cores for bytes",
)


@needs_tensor_cores
@pytest.mark.parametrize(  # wide ones fit the devices with least shared memory
    "sizes", [(8, 256, 256, 4), (100, 700, 500, 10), (20, 1900, 33, 40), (3, 300, 1, 129), (784, 1200, 1200, 10)]
)
@pytest.mark.parametrize("decoding", ["potential", "mean_potential", "spikes"])
def test_products_of_matrices_at_every_size_and_large_batches(sizes: tuple[int, ...], decoding: str) -> None:
    spec = random_spec(
        3, sizes=sizes, order="immediate", reset="subtraction", timesteps=20, alpha=0.0, beta=1.0, encoding="constant",
        decoding=decoding, bias_input=False, split_inputs=False,
    )  # fmt: skip
    cpu = backends.CpuExecutable(spec, exact=False, method="slices")
    cuda = backends.CudaExecutable(spec, cuda_backend.device_of("cuda"), exact=False)
    assert cuda.plan.sliced_layers == len(sizes) - 2
    for batch in (1, 31, 33, 1500):
        x = torch.randn(batch, sizes[0])
        assert_same_bits(cuda.run(x.cuda(), 0).cpu(), cpu.run(x, 0), f"output of {batch}")
    assert_same_simulation(on_cpu(cuda.simulate(x[:300].cuda(), 0, ())), cpu.simulate(x[:300], 0, ()))


@needs_tensor_cores
@pytest.mark.parametrize("grid", [2.0**-6, 2.0**-16])
def test_weights_on_a_grid_take_products_of_matrices_under_the_exact_contract(grid: float) -> None:
    for seed in range(20):
        spec = random_spec(seed, sizes=(9, 130, 70, 5))
        weights = [np.round(w / grid) * grid for w in spec.weights]
        spec = dataclasses.replace(spec, weights=tuple(weights))
        cpu, cuda = backends.CpuExecutable(spec), backends.CudaExecutable(spec, cuda_backend.device_of("cuda"))
        assert cuda.plan.method == "slices"
        x = random_observations(spec, 50, seed)
        assert_same_simulation(on_cpu(cuda.simulate(x.cuda(), seed, RECORD_ALL)), cpu.simulate(x, seed, RECORD_ALL))
        assert_same_bits(cuda.run(x.cuda(), seed).cpu(), cpu.run(x, seed), "output")


@pytest.mark.parametrize(
    "sizes", [(4, 16, 16, 2), (8, 256, 256, 4), (100, 700, 500, 10), (20, 2000, 33, 40), (3, 300, 1, 129)]
)
@pytest.mark.parametrize("order", ["immediate", "delayed"])
def test_every_size_and_large_batches(sizes: tuple[int, ...], order: str) -> None:
    cpu, cuda, _ = pair(2, sizes=sizes, order=order, timesteps=50, decoding="potential", alpha=0.0, beta=1.0)
    x = torch.randn(3000, sizes[0])
    assert_same_bits(cuda(x.cuda()).cpu(), cpu(x), "output")
    got, want = cuda.simulate(x[:300].cuda()), cpu.simulate(x[:300])
    assert_same_simulation(on_cpu(got), want)


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("sizes", [(4, 16, 16, 2), (8, 256, 256, 4), (20, 700, 33, 40)])
def test_every_code_at_every_size_and_large_batches(kind: str, sizes: tuple[int, ...]) -> None:
    for seed in range(4):
        spec = random_coded_spec(seed, kind, sizes)
        cpu = network_of(spec)
        cuda = cpu.to("cuda")
        assert cuda.method()["method"] == "coded"
        x = torch.randn(3000, sizes[0])
        assert_same_bits(cuda(x.cuda()).cpu(), cpu(x), "output")
        assert_same_simulation(
            on_cpu(cuda.simulate(x[:300].cuda(), record=RECORD_ALL)), cpu.simulate(x[:300], record=RECORD_ALL)
        )


def test_a_network_on_the_device_is_evaluated_as_on_the_cpu() -> None:
    weights = [np.random.default_rng(5).normal(size=shape) for shape in [(16, 4), (2, 16)]]
    cpu = sf.SpikingNetwork(weights, timesteps=20)
    rules = {"episodes": 5, "max_steps": 50}
    want, got = sf.evaluate("CartPole-v1", cpu, **rules), sf.evaluate("CartPole-v1", cpu.to("cuda"), **rules)
    assert got.returns == want.returns
    assert got.spikes_per_decision == want.spikes_per_decision


def test_more_spikes_than_the_workspace_holds_are_cut_into_tiles() -> None:
    cpu, cuda, _ = pair(3, sizes=(2, 1500, 3), timesteps=2000, decoding="potential")
    x = torch.randn(400, 2)
    assert_same_bits(cuda(x.cuda()).cpu(), cpu(x), "output")


def test_arrays_go_there_and_come_back() -> None:
    cpu, cuda, x = pair()
    got = cuda(x.numpy())
    assert isinstance(got, np.ndarray)
    assert np.array_equal(got, cpu(x.numpy()))
    assert cuda(x.numpy()[0]).shape == (cpu.n_out,)
    assert cuda.act(x.numpy()[0]) == cpu.act(x.numpy()[0])
    assert cuda.act(x[0].cuda()) == cpu.act(x[0])


def test_tensors_elsewhere_are_refused() -> None:
    cpu, cuda, x = pair()
    with pytest.raises(ValueError, match="must be on device cuda:0, where this network runs, got device cpu"):
        cuda(x)
    with pytest.raises(ValueError, match="must be on the CPU, where this network runs, got device cuda:0"):
        cpu(x.cuda())
    with pytest.raises(ValueError, match="must name one of"):
        cpu.to(f"cuda:{torch.cuda.device_count()}")


def test_strides_and_other_dtypes() -> None:
    cpu, cuda, x = pair()
    want = cpu(x)
    assert_same_bits(cuda(x.cuda().t().contiguous().t()).cpu(), want, "strides")
    assert_same_bits(cuda(x.cuda().double()).cpu(), want, "float64")
    assert_same_bits(cuda(torch.cat([x, x]).cuda()[::2][:20]).cpu(), cpu(torch.cat([x, x])[::2][:20]), "steps")


def test_moving_there_and_back_and_pickling() -> None:
    cpu, cuda, x = pair()
    assert cuda.backend == "cuda"
    assert cuda.device == torch.device("cuda", torch.cuda.current_device())
    assert cuda.to("cuda") is cuda
    assert_same_bits(cuda.to("cpu")(x), cpu(x), "back")
    assert_same_bits(pickle.loads(pickle.dumps(cuda))(x.cuda()).cpu(), cpu(x), "pickled")
    assert "sm_" in repr(cuda)


def test_nothing_waits_for_the_device() -> None:
    _, cuda, x = pair()
    y = x.cuda()
    # The first calls load kernels and get memory, which is free again for the next ones.
    want, recorded = cuda(y).cpu(), on_cpu(cuda.simulate(y, record=("spikes", "potentials")))
    torch.cuda.synchronize()
    torch.cuda._sleep(2**30)  # clock cycles: half a second in which the stream does nothing else
    output, again = cuda(y), cuda.simulate(y, record=("spikes", "potentials"))
    assert not torch.cuda.current_stream().query(), "a call has waited until the device was done"
    assert_same_bits(output.cpu(), want, "output")
    assert_same_simulation(on_cpu(again), recorded)


def test_torch_sees_nothing_wait_for_the_device() -> None:
    _, cuda, x = pair()
    y = x.cuda()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        output = cuda(y)
        with pytest.raises(RuntimeError, match="synchroniz"):
            output.sum().item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def several(kind: str) -> tuple[sf.SpikingNetwork, sf.SpikingNetwork]:
    """A network on the CPU and on the device whose method there is ``kind``."""
    if kind == "coded":
        cpu = network_of(random_coded_spec(2, "digits", (8, 300, 200, 4)))
        return cpu, cpu.to("cuda")
    fixed = {"decoding": "potential", "timesteps": 30, "sizes": (8, 16, 4) if kind == "tiny" else (8, 300, 200, 4)}
    cpu, cuda, _ = pair(6, order="immediate", reset="subtraction", alpha=0.0, beta=1.0, split_inputs=False, **fixed)
    if kind == "slices":  # on a grid, so that they are exact
        weights = [w.mul(64).round().div(64) for w in cpu.weights]
        cpu = sf.SpikingNetwork(weights, cpu.biases, cpu.neuron, cpu.timesteps)
        cuda = cpu.to("cuda")
    assert cuda.method()["method"] == kind
    return cpu, cuda


KINDS = ["tiny", "events", pytest.param("slices", marks=needs_tensor_cores), "coded"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_replays_a_call(kind: str) -> None:
    cpu, cuda = several(kind)
    x = torch.randn(500, 8)
    static = torch.zeros_like(x).cuda()
    cuda(static)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = cuda(static)
    for factor in (1.0, -0.5):
        static.copy_(x * factor)
        graph.replay()
        assert_same_bits(output.cpu(), cpu(x * factor), "replayed")


def wide(*sizes: int) -> tuple[sf.SpikingNetwork, sf.SpikingNetwork, torch.Tensor]:
    """With layers of one kernel that ask for more than 48 KiB of shared memory, some for more than others."""
    plain = {"order": "immediate", "reset": "subtraction", "alpha": 0.0, "beta": 1.0, "split_inputs": False}
    cpu, cuda, _ = pair(6, decoding="potential", timesteps=30, sizes=sizes, **plain)
    assert cuda.method()["method"] == "events"
    return cpu, cuda, torch.randn(300, sizes[0])


def test_a_graph_of_launches_that_ask_for_more_and_for_less_shared_memory() -> None:
    cpu, cuda, x = wide(8, 400, 200, 100, 4)
    static = x.cuda()
    cuda(static)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = cuda(static)
    graph.replay()
    assert_same_bits(output.cpu(), cpu(x), "replayed")


def test_threads_whose_launches_ask_for_more_and_for_less_shared_memory() -> None:
    networks = [wide(8, 400, 200, 4), wide(8, 120, 200, 4)]
    wrong: list[object] = []

    def call(cpu: sf.SpikingNetwork, cuda: sf.SpikingNetwork, x: torch.Tensor) -> None:
        try:
            y, want = x.cuda(), cpu(x)
            for _ in range(2000):
                output = cuda(y)
            wrong.extend([] if torch.equal(output.cpu(), want) else ["other bits"])
        except RuntimeError as error:
            wrong.append(error)

    threads = [threading.Thread(target=call, args=network) for network in networks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("kind", KINDS)
def test_streams_do_not_disturb_each_other(kind: str) -> None:
    cpu, cuda = several(kind)
    xs = [torch.randn(600, 8) for _ in range(8)]
    streams = [torch.cuda.Stream() for _ in xs]
    outputs = []
    for x, stream in zip(xs, streams, strict=True):
        with torch.cuda.stream(stream):
            outputs.append(cuda(x.to("cuda", non_blocking=True)))
    torch.cuda.synchronize()
    for x, output in zip(xs, outputs, strict=True):
        assert_same_bits(output.cpu(), cpu(x), "output")


def test_what_is_not_the_plain_case_is_refused_or_served_as_ever() -> None:
    cpu, cuda, x = pair(5, decoding="potential")
    y = x.cuda()
    with pytest.raises(NotImplementedError, match="must not require a gradient"):
        cuda(y.clone().requires_grad_())
    with pytest.raises(ValueError, match=r"must have shape \(B, "):
        cuda(torch.zeros(3, cuda.n_in + 1, device="cuda"))
    with pytest.raises(TypeError, match="must be a dense tensor"):
        cuda(y.to_sparse())
    want = cpu(x)
    assert_same_bits(cuda(torch.nn.Parameter(y, requires_grad=False)).cpu(), want, "parameter")
    assert_same_bits(cuda(torch._neg_view(-y)).cpu(), want, "negative view")
    assert_same_bits(torch.func.vmap(cuda)(y).cpu(), want, "mapped")
    assert cuda(y[:0]).shape == (0, cuda.n_out)
    assert_same_bits(cuda(y[0]).cpu(), want[0], "one observation")


def test_the_operator_on_the_device() -> None:
    _, cuda, x = pair()
    y = x.cuda()
    want = cuda(y)
    results = torch.library.opcheck(torch.ops.snnfast.run.default, (y, cuda._number, cuda.n_out, 0))
    assert set(results.values()) == {"SUCCESS"}
    assert torch.equal(torch.vmap(cuda)(y), want)
    with torch.autocast("cuda"):
        assert torch.equal(ops.run(y, cuda._number, cuda.n_out), want)
    compiled = torch.compile(lambda z: cuda(z) * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(y), want * 2)
    program = torch.export.export(Doubled(cuda), (y,))
    assert torch.equal(program.module()(y), want * 2)


class Doubled(torch.nn.Module):
    def __init__(self, network: sf.SpikingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x) * 2

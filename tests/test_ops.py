# SPDX-License-Identifier: Apache-2.0
"""The whole network as one operator of torch: checked by torch's own checker, compiled, exported, mapped."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import snnfast as sf
from conftest import random_observations, random_spec
from snnfast import ops


def make_network() -> tuple[sf.SpikingNetwork, torch.Tensor]:
    spec = random_spec(4, sizes=(4, 16, 16, 3), encoding="constant", bias_input=False, timesteps=20)
    network = sf.SpikingNetwork(spec.weights, spec.biases, spec.neuron, 20, decoding=spec.decoding)
    return network, random_observations(spec, 8, 1)


def test_opcheck() -> None:
    network, x = make_network()
    operator = torch.ops.snnfast.run.default
    for observations in (x, x[:0], x.t().contiguous().t()):
        results = torch.library.opcheck(operator, (observations, network._number, network.n_out, 7))
        assert set(results.values()) == {"SUCCESS"}


def test_it_gives_the_bits_of_a_plain_call() -> None:
    network, x = make_network()
    assert torch.equal(ops.run(x, network._number, network.n_out), network(x))
    assert torch.equal(ops.run(x[0], network._number, network.n_out), network(x[0]))
    with torch.autocast("cpu"):
        assert torch.equal(ops.run(x, network._number, network.n_out), network(x))


def test_vmap_takes_another_dimension_for_more_samples() -> None:
    network, x = make_network()
    assert torch.equal(torch.vmap(network)(x), network(x))
    batches = torch.stack([x, x + 0.5, -x])
    want = torch.stack([network(b) for b in batches])
    assert torch.equal(torch.vmap(network)(batches), want)
    assert torch.equal(torch.vmap(network, in_dims=1)(batches.transpose(0, 1)), want)
    assert torch.equal(torch.vmap(torch.vmap(network))(batches), want)


def test_what_a_plain_call_converts_is_converted_everywhere() -> None:
    network, x = make_network()
    whole = (x * 4).round()
    for kind in (torch.float64, torch.int64, torch.int8):
        want = network(whole.to(kind))
        assert torch.equal(torch.vmap(network)(whole.to(kind)), want)
        program = torch.export.export(Policy(network), (whole.to(kind),))
        assert torch.equal(program.module()(whole.to(kind)), Policy(network)(whole.to(kind)))


def test_seeds_of_64_bits() -> None:
    _, x = make_network()
    network = sf.SpikingNetwork([torch.rand(3, 4)], timesteps=20, encoding="poisson")
    x = x.abs().clamp(max=1)
    for seed in (0, 7, 2**63 - 1, 2**63, 2**64 - 1):
        want = network(x, seed=seed)
        assert torch.equal(ops.run(x, network._number, 3, seed), want)
    assert not torch.equal(network(x, seed=2**63), network(x, seed=2**63 + 1))


def test_a_gradient_is_refused_clearly() -> None:
    network, x = make_network()
    output = ops.run(x.requires_grad_(), network._number, network.n_out)
    with pytest.raises(NotImplementedError, match=r"not differentiable.*detach"):
        output.sum().backward()


@pytest.mark.parametrize(
    ("observations", "error", "message"),
    [
        (torch.zeros(2, 4, dtype=torch.float64), TypeError, "must be float32"),
        (torch.zeros(2, 5), ValueError, "must have shape"),
        (torch.zeros(1, 2, 4), ValueError, r"must have shape \(B, n_in\)"),
        (torch.full((1, 4), torch.nan), ValueError, "must be finite"),
    ],
)
def test_wrong_observations_are_refused(observations: torch.Tensor, error: type[Exception], message: str) -> None:
    network, _ = make_network()
    with pytest.raises(error, match=message):
        torch.ops.snnfast.run(observations, network._number, network.n_out, 0)


def test_an_output_of_another_width_is_refused() -> None:
    network, x = make_network()
    with pytest.raises(ValueError, match="n_out must be 3, the network's number of outputs, got 2"):
        torch.ops.snnfast.run(x, network._number, 2, 0)


def test_a_number_says_all_that_outputs_depend_on() -> None:
    layer = torch.ones(2, 4), torch.zeros(2)
    options: list[dict[str, object]] = [
        {},
        {"timesteps": 7},
        {"decoding": "mean_potential"},
        {"encoding": "equidistant"},
        {"neuron": sf.NeuronSpec(threshold=2.0)},
        {"exact": False},
        {"backend": "reference"},
        {"split_inputs": True},
    ]
    made = [sf.SpikingNetwork([layer[0]], [layer[1]], **each) for each in options]  # type: ignore[arg-type]
    made += [sf.SpikingNetwork([layer[0] + 1], [layer[1]]), sf.SpikingNetwork([layer[0]], [layer[1] + 1])]
    made += [sf.SpikingNetwork([layer[0]]), sf.SpikingNetwork([layer[0].reshape(4, 2)])]
    assert len({network._number for network in made}) == len(made)
    again = sf.SpikingNetwork([layer[0]], [layer[1]], output_scale=3.0)
    assert again._number == made[0]._number  # either may go
    x = torch.rand(3, 4)
    want = made[0](x)
    made.clear()
    gc.collect()
    assert torch.equal(ops.run(x, again._number, 2), want)


def test_a_saved_program_runs_with_the_network_it_was_made_of_or_not_at_all(tmp_path: Path) -> None:
    network, x = make_network()
    network.save(tmp_path / "network.safetensors")
    torch.export.save(torch.export.export(Policy(network), (x,)), tmp_path / "program.pt2")
    torch.save((x, Policy(network)(x)), tmp_path / "known.pt")
    script = """
import sys, torch, snnfast as sf
folder = sys.argv[1]
x, want = torch.load(f"{folder}/known.pt")
others = [sf.SpikingNetwork([torch.rand(3, 4)], timesteps=20) for _ in range(12)]
program = torch.export.load(f"{folder}/program.pt2").module()
try:
    program(x)
except RuntimeError as error:
    print(error)
network = sf.SpikingNetwork.load(f"{folder}/network.safetensors")
print(torch.equal(program(x), want))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    refusal, answer = done.stdout.splitlines()
    assert f"network {network._number} is not, or no longer, alive in this process; load it" in refusal
    assert answer == "True"


def test_like_networks_come_and_go_in_several_threads() -> None:
    weights, x, lost = [torch.ones(2, 2)], torch.ones(1, 2), []

    def come_and_go() -> None:
        for _ in range(300):
            network = sf.SpikingNetwork(weights, timesteps=4)
            try:
                ops.run(x, network._number, 2)
            except RuntimeError as error:
                lost.append(error)
            del network

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=come_and_go) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not lost


def test_a_network_answers_from_the_moment_it_can_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may find a network while its own is still making it."""
    answers, register = [], ops.register

    def register_and_run(network: sf.SpikingNetwork, number: int, run: Callable[..., torch.Tensor]) -> ops.Name:
        name = register(network, number, run)
        answers.append(ops.run(x, number, network.n_out))
        return name

    monkeypatch.setattr(ops, "register", register_and_run)
    x = torch.rand(3, 4)
    network, _ = make_network()
    assert len(answers) == 1
    assert torch.equal(answers[0], network(x))


def runs_of(networks: list[sf.SpikingNetwork], x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often the first one's weights are used where the operator is asked for each."""
    first, used = networks[0], []
    run = first._executable.run
    assert first._name.run == run
    with monkeypatch.context() as patched:
        patched.setattr(first._name, "run", lambda *arguments: used.append(1) or run(*arguments))
        for network in networks:
            ops.run(x, network._number, network.n_out)
    return len(used)


def test_of_like_networks_the_operator_runs_one_as_long_as_any_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    # Weights of its own: like networks of other tests may still be alive.
    made = [torch.rand(8, 4, generator=torch.Generator().manual_seed(2611)), torch.rand(3, 8) - 0.4]
    first, *others = (sf.SpikingNetwork(made, timesteps=20) for _ in range(9))
    x = torch.rand(5, 4)
    want, weights = first(x), weakref.ref(first._executable)
    assert runs_of([first, *others], x, monkeypatch) == 9
    del first
    gc.collect()
    assert weights() is not None, "a captured graph may hold their addresses"
    assert torch.equal(ops.run(x, others[0]._number, others[0].n_out), want)
    others.clear()
    gc.collect()
    assert weights() is None


def test_a_network_is_not_kept_alive_by_its_number() -> None:
    network, x = make_network()
    number = network._number
    del network
    gc.collect()
    with pytest.raises(RuntimeError, match=f"network {number} is not, or no longer, alive"):
        ops.run(x, number, 3)


class Policy(torch.nn.Module):
    def __init__(self, network: sf.SpikingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.softmax(self.network(x * 2, original_units=True), dim=-1)


# torch deprecates its own tracing, which programs still use, and torch itself; with a FutureWarning from 2.14 on.
of_jit = pytest.mark.filterwarnings("ignore:.*torch.jit.* is (deprecated|not supported)")


@of_jit
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_what_writes_operations_down_meets_one(backend: str) -> None:
    network, x = make_network()
    network = sf.SpikingNetwork(network.weights, network.biases, timesteps=20, backend=backend)

    def policy(x: torch.Tensor) -> torch.Tensor:
        return network(2 * x) + 1

    with torch.no_grad():
        programs = [torch.jit.trace(policy, (x,)), torch.jit.trace(policy, (x[0],))]
        programs += [make_fx(policy, tracing_mode=mode)(x) for mode in ("real", "fake", "symbolic")]
        for program in programs:
            given = -x[0] if program is programs[1] else -x
            assert torch.equal(program(given), policy(given))
        for what in (lambda x: network.simulate(x).output, lambda x: sf.if_forward(x[None], x)[0]):
            with pytest.raises(NotImplementedError, match="would be constants"):
                torch.jit.trace(what, (x,))
            with pytest.raises(NotImplementedError, match="would be constants"):
                make_fx(what)(x)


@of_jit
def test_the_quick_way_is_taken_where_nobody_looks_and_only_there() -> None:
    network, x = make_network()
    quick, array = network._fast_run, x.numpy()
    assert quick is not None

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    def plain() -> None:
        assert torch.equal(quick(x), network(x))

    def traced(y: torch.Tensor) -> torch.Tensor:
        assert quick(x) is None
        assert quick(array) is not None  # arrays are no operator's
        return y

    plain()
    torch.jit.trace(traced, (x,), check_trace=False)  # which would call it untraced as well
    plain()
    with Mode():
        assert quick(x) is None
    plain()
    with forward_ad.dual_level():
        assert quick(x) is None
    plain()


def test_modes_that_look_at_operations_see_one() -> None:
    network, x = make_network()
    seen: list[object] = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Mode():
        output = network(x)
    assert torch.equal(output, network(x))
    assert seen == [torch.ops.snnfast.run.default]


@of_jit
def test_derivatives_are_refused_forwards_and_backwards() -> None:
    network, x = make_network()
    for mode in (torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        with pytest.raises(NotImplementedError, match=r"observations must not .* spikes are not differentiable"):
            mode(network)(x)
        with pytest.raises(NotImplementedError, match=r"current must not .* spikes are not differentiable"):
            mode(lambda x: sf.if_forward(x[None], torch.zeros_like(x))[1])(x)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        for call in (network, network.simulate, lambda x: sf.if_forward(x[None], torch.zeros_like(x))):
            with pytest.raises(NotImplementedError, match="must not carry a tangent"):
                call(dual)
        assert torch.equal(network(dual.detach()), network(x))

    def scaled(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            factor = network(x).sum()
        return (factor * x).sum()

    assert torch.equal(torch.func.grad(scaled)(x), network(x).sum().expand_as(x))


def test_only_a_call_of_a_network_can_be_mapped() -> None:
    network, x = make_network()
    layer = torch.vmap(lambda x: sf.if_forward(x[None, None], torch.zeros(1, 4), backend="reference")[1])
    assert torch.equal(layer(x)[:, 0], sf.if_forward(x[None], torch.zeros(8, 4))[1])
    for what in (network.act, lambda x: network.simulate(x).output, lambda x: sf.if_forward(x[None, None], x[None])[1]):
        with pytest.raises(NotImplementedError, match=r"got one that a transform of torch\.func has made"):
            torch.vmap(what)(x)


def calls(graph: torch.fx.Graph) -> list[object]:
    return [node.target for node in graph.nodes if node.op == "call_function"]


def test_export_keeps_one_operator() -> None:
    network, x = make_network()
    policy = Policy(network)
    program = torch.export.export(policy, (x,))
    assert calls(program.graph).count(torch.ops.snnfast.run.default) == 1
    assert torch.equal(program.module()(x), policy(x))


def test_the_compiler_sees_one_operator_and_no_break() -> None:
    network, x = make_network()
    policy, graphs = Policy(network), []

    def backend(module: torch.fx.GraphModule, _: object) -> object:
        graphs.append(module.graph)
        return module.forward

    torch.compiler.reset()
    compiled = torch.compile(policy, fullgraph=True, backend=backend)
    assert torch.equal(compiled(x), policy(x))
    assert len(graphs) == 1
    assert sum("snnfast" in str(target) for target in calls(graphs[0])) == 1


# torch deprecates the decorator that its own inductor imports.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.* is (deprecated|not supported):DeprecationWarning")
@pytest.mark.long
def test_compiled_by_inductor() -> None:
    network, x = make_network()
    policy = Policy(network)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(policy, fullgraph=True)(x), policy(x))

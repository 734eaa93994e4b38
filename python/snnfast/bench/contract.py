# SPDX-License-Identifier: Apache-2.0
"""``snnfast bench contract``: is every difference between the fast and the exact contract explained by rounding?

A spike that rounding has moved changes everything after it: the rest of its neuron's train, and the trains of the
layers that it feeds. So trains cannot be judged by comparing them. They are judged like this instead: each layer alone,
given the spikes that *really* came in (those of the fast run), each neuron given the spikes that it *really* emitted.
With both known, a membrane potential follows in float64 without any doubt about resets, and so does the bound on how
far a float32 computation can be from it. Then, at every step of every neuron of every sample whose spikes differ from
the exact ones anywhere,

* a neuron that does other than its float64 potential says must have that potential within the bound of the threshold;
* so must a neuron at the first step where its train leaves the exact one, if the layer's inputs were the same until
  then (here the exact run may be the one that rounding has moved).

Differences of any other kind follow from ones judged before: a layer that does at every step what its real inputs ask
for, to within rounding, is a correct layer. Samples whose spikes are all equal need none of this. Outputs that are
membrane potentials are held against float64 in the same way.

The bound. Let u = 2**-24 be the largest relative error of a float32 operation. A current of n terms with sum of
magnitudes A (bias included) is off by at most gamma(n + 4) A, with gamma(m) = m u / (1 - m u), whatever the order, with
or without fused multiply-adds (Higham 2002, section 4.2; the 4 allow for the bias, and for three partial sums that are
put together). Weights held as 24-bit integers per row, three signed bytes up to 127 (2**16 + 2**8 + 1), are each off
by at most max|w| / (127 (2**16 + 2**8 + 1)), half a power-of-two step; or, where that many inputs would not leave their
sums 32 bits, by S / (2**31 - 2**15), S being the sum of the row's positive or of its negative weights, whichever is
further from zero. With n active inputs it is n times that. Both together bound a current's error. Over time it is
carried by the neuron's own equation, and each operation of it adds u times the magnitude of its result, as any running
error analysis does (Higham, section 3.3); a reset to zero ends the history.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snnfast import backends
from snnfast.bench.machine import provenance
from snnfast.bench.workloads import make_workload
from snnfast.network import SpikingNetwork
from snnfast.reference import Simulation, plain
from snnfast.spec import NetworkSpec

#: name, sizes, time steps
WORKLOADS = (
    ("tiny", (4, 16, 16, 2), 100),
    ("medium", (8, 256, 256, 4), 100),
    ("large", (784, 1200, 1200, 10), 50),
)
DECISIONS = 50_000
#: Half a step of 24-bit weights is at most the row's largest weight divided by this.
SLICED_RANGE = 127 * (2**16 + 2**8 + 1)
_U = 2.0**-24
_TINY = 2.0**-149
#: The same of what the weights of one sign sum to: 31 bits, less half a step for each of up to 32768 inputs twice.
SUMMED_RANGE = 2**31 - 2**15
#: Unexplained differences that are kept one by one.
_EXAMPLES = 10
#: Memory for the recorded spikes of a chunk of samples, and for the float64 work on those of them that differ.
_BYTES = 128 << 20


@dataclasses.dataclass
class Verdict:
    """What comparing a fast run with the exact one has found.

    Attributes:
        decisions: samples compared.
        decisions_differing: those whose largest output is another one.
        spikes_compared: pairs of a neuron's answers in one step, fired or not.
        spikes_differing: pairs that are not equal.
        trains_differing: spike trains (of one neuron for one sample) that are not equal.
        first_divergences: trains that parted from the exact one, or from float64, by themselves.
        explained: those of them that rounding at the threshold explains at every such step.
        consequences: differing trains that did nothing by themselves: their inputs had changed.
        outputs_judged: outputs that are not the exact run's bits, or of samples whose spikes differ.
        outputs_unexplained: those of them that are beyond the bound.
        largest_distance: of an explained divergence: the membrane's distance from the threshold, in float64.
        largest_share: the same as a share of its bound.
        examples: the first few unexplained ones.
    """

    decisions: int = 0
    decisions_differing: int = 0
    spikes_compared: int = 0
    spikes_differing: int = 0
    trains_differing: int = 0
    first_divergences: int = 0
    explained: int = 0
    consequences: int = 0
    outputs_judged: int = 0
    outputs_unexplained: int = 0
    largest_distance: float = 0.0
    largest_share: float = 0.0
    examples: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def unexplained(self) -> int:
        """First divergences and outputs that rounding does not explain: 0, or the fast run is wrong."""
        return self.first_divergences - self.explained + self.outputs_unexplained

    def as_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {**dataclasses.asdict(self), "unexplained": self.unexplained}


@dataclasses.dataclass(frozen=True)
class RealLayer:
    """A layer in float64, given its inputs and its own spikes; every tensor is (T, B, N).

    Attributes:
        compared: membrane potentials as they are held against the threshold.
        bounds: how far a float32 computation of them can be off.
        after, after_bounds: the same at the end of each step.
        magnitudes: of the terms of each step's current, added up.
    """

    compared: Tensor
    bounds: Tensor
    after: Tensor
    after_bounds: Tensor
    magnitudes: Tensor


def integer_error(weights: Tensor) -> Tensor:
    """How far a weight held as an integer can be off, per row of weights (N, K): half a step."""
    one_sign = torch.maximum(weights.clamp(min=0).sum(dim=1), weights.clamp(max=0).sum(dim=1).abs())
    return torch.maximum(weights.abs().amax(dim=1) / SLICED_RANGE, one_sign / SUMMED_RANGE)


def real_layer(spec: NetworkSpec, layer: int, inputs: Tensor, spikes: Tensor | None) -> RealLayer:
    """Compute a layer in float64 with the bound on what rounding may do to it.

    Args:
        spec: the network.
        layer: which one, from 0.
        inputs: what came in, (T, B, K); with T = 1 the same at every step.
        spikes: what the layer emitted, (T, B, N); None for a last layer that does not fire.
    """
    neuron, steps = spec.neuron, spec.timesteps
    alpha, beta, threshold = (float(np.float32(x)) for x in (neuron.alpha, neuron.beta, neuron.threshold))
    weights = torch.from_numpy((spec.encoded_weights if layer == 0 else spec.weights[layer]).astype(np.float64))
    given = spec.biases[layer]
    bias = torch.from_numpy(np.zeros(len(weights)) if given is None else given.astype(np.float64))
    x = inputs.double()
    current = x @ weights.T + bias
    magnitudes = x.abs() @ weights.T.abs() + bias.abs()
    terms = torch.count_nonzero(x, dim=2).double().unsqueeze(2)
    roundings = (terms + 4) * _U
    current_bound = roundings / (1 - roundings) * magnitudes
    if layer > 0:
        current_bound = current_bound + terms * integer_error(weights)

    def rounded(value: Tensor, bound: Tensor) -> Tensor:
        return bound + _U * (value.abs() + bound) + _TINY

    shape = x.shape[1], len(weights)
    mem = torch.full(shape, float(neuron.initial_membrane) if layer < len(spec.weights) - 1 else 0.0).double()
    syn, mem_bound, syn_bound = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
    kept: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for t in range(steps):
        arriving, arriving_bound = (a[t if len(a) > 1 else 0] for a in (current, current_bound))
        if alpha != 0:
            decayed = alpha * syn
            arriving_bound = rounded(decayed, alpha * syn_bound) + arriving_bound
            arriving = decayed + arriving
            arriving_bound = rounded(arriving, arriving_bound)
        before, before_bound = mem, mem_bound
        if beta != 1:
            mem_bound = rounded(beta * mem, beta * mem_bound)
            mem = beta * mem
        delayed = neuron.order == "delayed"
        mem, mem_bound = mem + (syn if delayed else arriving), mem_bound + (syn_bound if delayed else arriving_bound)
        mem_bound = rounded(mem, mem_bound)
        compared, compared_bound = (before, before_bound) if delayed else (mem, mem_bound)
        if spikes is not None:
            fired = spikes[t] != 0
            if neuron.reset == "subtraction":
                mem = torch.where(fired, mem - threshold, mem)
                mem_bound = torch.where(fired, rounded(mem, mem_bound), mem_bound)
            else:
                mem, mem_bound = (torch.where(fired, torch.zeros_like(v), v) for v in (mem, mem_bound))
        syn, syn_bound = arriving, arriving_bound
        kept.append((compared, compared_bound, mem, mem_bound))
    series = [torch.stack(tensors) for tensors in zip(*kept, strict=True)]
    return RealLayer(series[0], series[1], series[2], series[3], magnitudes.expand(steps, -1, -1))


def judge(spec: NetworkSpec, observations: Tensor, fast: Simulation, exact: Simulation, verdict: Verdict) -> None:
    """Hold a fast run against the exact one and add what is found to a verdict.

    Args:
        spec: the network, with constant encoding.
        observations: (B, n_in), float32.
        fast, exact: both runs, with spikes recorded.
        verdict: is added to.

    Raises:
        ValueError: if the encoding is another one, or spikes were not recorded.
    """
    if spec.encoding != "constant":
        raise ValueError(f"only constant encoding can be judged, got {spec.encoding!r}")
    if fast.spikes is None or exact.spikes is None:
        raise ValueError("both runs must have their spikes recorded: simulate(observations, record='spikes')")
    batch = observations.shape[0]
    verdict.decisions += batch
    verdict.decisions_differing += int((fast.output.argmax(1) != exact.output.argmax(1)).sum())
    moved = torch.zeros(batch, dtype=torch.bool)
    for ours, theirs in zip(fast.spikes, exact.spikes, strict=True):
        verdict.spikes_compared += ours.numel()
        if not torch.equal(ours, theirs):
            differ = ours != theirs
            verdict.spikes_differing += int(differ.sum())
            verdict.trains_differing += int(differ.any(dim=0).sum())
            moved |= differ.any(dim=2).any(dim=0)
    same_bits = (fast.output.view(torch.int32) == exact.output.view(torch.int32)).all(dim=1)
    group = max(1, _BYTES // (64 * spec.timesteps * max(w.shape[0] for w in spec.weights)))
    for layer in range(spec.spiking_layers):
        for samples in torch.split(torch.nonzero(moved).flatten(), group):
            _judge_trains(spec, layer, samples, observations, fast.spikes, exact.spikes, verdict)
    for samples in torch.split(torch.nonzero(moved | ~same_bits).flatten(), group):
        _judge_outputs(spec, samples, observations, fast, verdict)


def _inputs(spec: NetworkSpec, layer: int, samples: Tensor, observations: Tensor, spikes: list[Tensor]) -> Tensor:
    return plain.encode(spec, observations[samples]).unsqueeze(0) if layer == 0 else spikes[layer - 1][:, samples]


def _judge_trains(
    spec: NetworkSpec,
    layer: int,
    samples: Tensor,
    observations: Tensor,
    fast: list[Tensor],
    exact: list[Tensor],
    verdict: Verdict,
) -> None:
    inputs = _inputs(spec, layer, samples, observations, fast)
    real = real_layer(spec, layer, inputs, fast[layer][:, samples])
    fired, differs = fast[layer][:, samples] != 0, fast[layer][:, samples] != exact[layer][:, samples]
    distance = real.compared - float(np.float32(spec.neuron.threshold))
    should = distance >= 0 if spec.neuron.order == "immediate" else distance > 0
    first = differs & (differs.cumsum(dim=0) == 1)
    if layer > 0:
        same_inputs = (inputs == exact[layer - 1][:, samples]).all(dim=2, keepdim=True)
        first &= same_inputs.cummin(dim=0).values
    own = first | (fired != should)
    bad = own & ~(distance.abs() <= real.bounds)  # so that a NaN is bad
    trains, bad_trains = own.any(dim=0), bad.any(dim=0)
    verdict.first_divergences += int(trains.sum())
    verdict.explained += int((trains & ~bad_trains).sum())
    verdict.consequences += int((differs.any(dim=0) & ~trains).sum())
    good = own & ~bad
    if good.any():
        verdict.largest_distance = max(verdict.largest_distance, float(distance[good].abs().max()))
        verdict.largest_share = max(verdict.largest_share, float((distance.abs() / real.bounds)[good].max()))
    for t, sample, n in torch.nonzero(bad)[: _EXAMPLES - len(verdict.examples)].tolist():
        verdict.examples.append(
            {
                "sample": verdict.decisions - observations.shape[0] + int(samples[sample]),
                "layer": layer,
                "neuron": n,
                "step": t,
                "fired": bool(fired[t, sample, n]),
                "distance": float(distance[t, sample, n]),
                "bound": float(real.bounds[t, sample, n]),
            }
        )


def _judge_outputs(
    spec: NetworkSpec, samples: Tensor, observations: Tensor, fast: Simulation, verdict: Verdict
) -> None:
    assert fast.spikes is not None
    output = fast.output[samples].double()
    if spec.last_layer_fires:  # a function of spikes that were judged already
        real, bound = _decoded(spec, fast.spikes[-1][:, samples]).double(), torch.zeros(())
    else:
        last = len(spec.weights) - 1
        layer = real_layer(spec, last, _inputs(spec, last, samples, observations, fast.spikes), None)
        if spec.decoding == "potential":
            real, bound = layer.after[-1], layer.after_bounds[-1]
        else:
            sizes = (layer.after.abs() + layer.after_bounds).sum(dim=0)
            real = layer.after.mean(dim=0)
            bound = (layer.after_bounds.sum(dim=0) + (spec.timesteps + 2) * 2 * _U * sizes) / spec.timesteps
        # A layer that only accumulates may be computed from its inputs' spike counts, one term per input.
        terms = spec.weights[-1].shape[1] + 4
        bound = bound + terms * 2 * _U * layer.magnitudes.sum(dim=0)
    bad = ~((output - real).abs() <= bound)
    verdict.outputs_judged += output.numel()
    verdict.outputs_unexplained += int(bad.sum())
    for sample, n in torch.nonzero(bad)[: _EXAMPLES - len(verdict.examples)].tolist():
        verdict.examples.append(
            {
                "sample": verdict.decisions - observations.shape[0] + int(samples[sample]),
                "output": n,
                "distance": float((output - real)[sample, n]),
                "bound": float(bound.expand_as(real)[sample, n]),
            }
        )


def _decoded(spec: NetworkSpec, spikes: Tensor) -> Tensor:
    """The output that a firing last layer's spikes (T, B, N) mean."""
    if spec.decoding == "spikes":
        return spikes.sum(dim=0)
    fires = spikes.any(dim=2)
    first = spikes[fires.int().argmax(dim=0), torch.arange(spikes.shape[1])]
    return first * fires.any(dim=0).unsqueeze(1)


Simulate = Callable[[Tensor], Simulation]


def compare(spec: NetworkSpec, observations: Tensor, fast: Simulate | None = None) -> Verdict:
    """Run a network under both contracts, in chunks that fit in memory, and judge the differences.

    Args:
        spec: the network, with constant encoding.
        observations: (B, n_in), float32.
        fast: what to judge, with spikes recorded; by default the network under the fast contract.
    """
    exact = network_of(spec, exact=True)
    fast = fast or simulation_of(spec, "auto")
    verdict = Verdict()
    for chunk in _chunks(spec, observations):
        judge(spec, chunk, fast(chunk), exact.simulate(chunk, record="spikes"), verdict)
    return verdict


def simulation_of(spec: NetworkSpec, method: str) -> Simulate:
    """The network under the fast contract, by a method of its own choice or by the one named."""
    executable = backends.CpuExecutable(spec, exact=False, method=method)
    return lambda chunk: executable.simulate(chunk, 0, ("spikes",))


def network_of(spec: NetworkSpec, *, exact: bool) -> SpikingNetwork:
    """The network of a description, under either contract."""
    return SpikingNetwork(
        spec.weights,
        spec.biases,
        spec.neuron,
        spec.timesteps,
        spec.encoding,
        spec.decoding,
        exact=exact,
        split_inputs=spec.split_inputs,
        bias_input=spec.bias_input,
    )


def _chunks(spec: NetworkSpec, observations: Tensor) -> Iterator[Tensor]:
    neurons = sum(w.shape[0] for w in spec.weights)
    yield from torch.split(observations, max(1, _BYTES // (8 * spec.timesteps * neurons)))


def run(
    *,
    decisions: int = DECISIONS,
    method: str = "auto",
    quick: bool = False,
    seed: int = 1,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Judge the fast contract on the benchmark's networks and print a table.

    Args:
        decisions: per network.
        method: ``"slices"`` judges that method for all layers behind the first, ``"prefix_sums"`` that one for the
            second, whatever they cost, where they would otherwise be taken for some samples only, or on other machines
            only.
        quick: one small network and few decisions, to see that it works; no figures to quote.
        seed: of the observations.
        say: prints a line.

    Returns:
        The figures, as JSON types; ``"unexplained"`` is 0 if the contract held.
    """
    say(
        f"{'network':<22} {'decisions':>9} {'differ':>6} {'spikes compared':>15} {'differ':>8} {'diverge':>8} "
        f"{'explained':>9} {'UNEXPLAINED':>11}  method"
    )
    cases: list[dict[str, Any]] = []
    unexplained = 0
    for name, sizes, timesteps in WORKLOADS[:1] if quick else WORKLOADS:
        spec = make_workload(name, sizes, timesteps).spiking.spec
        generator = torch.Generator().manual_seed(seed)
        observations = torch.randn(min(decisions, 500) if quick else decisions, sizes[0], generator=generator)
        verdict = compare(spec, observations, simulation_of(spec, method))
        how = backends.CpuExecutable(spec, exact=False, method=method).method()
        cases.append({"workload": name, "sizes": list(sizes), "timesteps": timesteps, "method": how})
        cases[-1] |= verdict.as_dict()
        unexplained += verdict.unexplained
        say(
            f"{name + ' ' + '-'.join(map(str, sizes)):<22.22} {verdict.decisions:>9,} {verdict.decisions_differing:>6} "
            f"{verdict.spikes_compared:>15,} {verdict.spikes_differing:>8,} {verdict.first_divergences:>8,} "
            f"{verdict.explained:>9,} {verdict.unexplained:>11,}  {how['method']}, {how['isa']}"
        )
    say(
        "diverge: spike trains of a neuron that left the exact ones by themselves, not because inputs had changed.\n"
        "explained: the membrane was then within the bound of rounding of the threshold. UNEXPLAINED includes outputs\n"
        "beyond their bound and must be 0."
    )
    settings = {"quick": quick, "seed": seed, "method": method}
    return {"benchmark": "contract", **settings, "unexplained": unexplained, **provenance(), "cases": cases}

# SPDX-License-Identifier: Apache-2.0
"""How fast every method of conversion runs, beside plain integrate-and-fire neurons, on the compiled backend.

Two measures. *Per decision*: what a user waits for. *Per neuron-step*: time over the steps that the hidden neurons were
run (copies are neurons), which says whether a method's kernels are as good as those of plain neurons; a step that sends
a real number costs more additions than one that sends a bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from snnfast import backends
from snnfast.bench.machine import provenance
from snnfast.bench.timing import paired_ratio, time_paired
from snnfast.conversion import PRESETS, convert
from snnfast.learning import make_policy, pretrained_policy, record_replay
from snnfast.network import SpikingNetwork
from snnfast.spec import RateCode, StagedCode

PLAIN = "rate"
#: What an early exit is measured against: the same neurons, T=100, to the end.
WITHOUT_EXIT = {"rate-early-exit": "rate-copies"}
_CHECKED = 64  # samples compared with the reference before anything is timed


@dataclasses.dataclass(frozen=True)
class Case:
    """A policy, states to convert it with, and a batch to time."""

    name: str
    policy: nn.Module
    states: torch.Tensor
    batch: torch.Tensor


def cases(batch: int, replay_size: int = 20_000) -> list[Case]:
    """The shipped CartPole policy on states that it meets; two random networks, one of ten classes, on random ones."""
    small = pretrained_policy("CartPole-v1")
    replay = record_replay("CartPole-v1", small, size=replay_size, max_steps=500, seed=7)
    met = record_replay("CartPole-v1", small, size=max(batch, 5000), max_steps=500, seed=99).observations
    generator = torch.Generator().manual_seed(0)
    some = torch.randperm(len(met), generator=generator)[:batch]
    states = torch.randn(replay_size, 8, generator=generator)
    fresh = torch.randn(max(1, batch // 16), 8, generator=generator)
    images = torch.rand(replay_size + max(1, batch // 4), 64, generator=generator)
    return [
        Case("4-16-16-2", small, replay.observations, met[some].contiguous()),
        Case("8-256-256-4", make_policy([8, 256, 256, 4], seed=1), states, fresh),
        Case("64-32-32-10", make_policy([64, 32, 32, 10], seed=1), images[:replay_size], images[replay_size:]),
    ]


def run(*, quick: bool = False, batch: int = 4096, say: Callable[[str], None]) -> dict[str, Any]:
    """Check every preset against the reference, then time it beside ``rate``, in one thread, taking turns.

    Args:
        quick: the small network only, few rounds; no figures to quote.
        batch: decisions per call of the small network; the medium one has a sixteenth, the classifier a quarter.
        say: prints a line.

    Returns:
        Per network and preset: time per decision, steps, and ratios to plain neurons.

    Raises:
        RuntimeError: if a preset's output differs from the reference's in a bit.
    """
    before = backends.num_threads()
    backends.set_num_threads(1)
    try:
        found: dict[str, Any] = {}
        calls: dict[str, int] = {}
        for case in cases(batch)[: 1 if quick else None]:
            calls[case.name] = len(case.batch)
            say(f"\n{case.name}, {len(case.batch)} decisions per call, one thread\n{_HEADER}")
            found[case.name] = _measure(case, 3 if quick else 21, say)
    finally:
        backends.set_num_threads(before)
    return {"benchmark": "methods", "quick": quick, "decisions_per_call": calls, "networks": found, **provenance()}


def neuron_steps(network: SpikingNetwork, mean_steps: float) -> float:
    """Steps of hidden neurons in a decision; copies are neurons; in turns a layer has its own steps only."""
    spec = network.spec
    hidden = spec.sizes[1:-1]
    copies = spec.code.copies if isinstance(spec.code, (RateCode, StagedCode)) else 1
    if not spec.is_staged:
        return mean_steps * sum(hidden) * copies
    last = mean_steps - (len(hidden) - 1) * spec.timesteps
    return copies * (spec.timesteps * sum(hidden[:-1]) + last * hidden[-1])


def _measure(case: Case, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    networks = {name: convert(case.policy, case.states, preset=name) for name in PRESETS}
    for name, network in networks.items():
        _check(name, network, case.batch[:_CHECKED])
    timings: dict[str, tuple[float, float]] = {}
    for name, network in networks.items():
        # Two at a time, so that the plain one is measured beside each.
        rivals = {"plain": networks[PLAIN], "method": network}
        pair = time_paired({k: _call(n, case.batch) for k, n in rivals.items()}, rounds=rounds)
        timings[name] = (pair["method"].median / len(case.batch), paired_ratio(pair["method"], pair["plain"]))
    rows: dict[str, Any] = {}
    for name, network in networks.items():
        steps = network.simulate(case.batch).steps
        mean_steps = float(network.spec.total_steps) if steps is None else float(steps.double().mean())
        work = neuron_steps(network, mean_steps)
        plain = neuron_steps(networks[PLAIN], networks[PLAIN].timesteps)
        seconds, ratio = timings[name]
        rows[name] = {
            "seconds_per_decision": seconds,
            "mean_steps": mean_steps,
            "neuron_steps": work,
            "method": network.method()["method"],
            "decision_over_plain": ratio,
            "neuron_step_over_plain": ratio * plain / work,
        }
        say(_line(name, rows[name]))
    for name, whole in WITHOUT_EXIT.items():
        pair = time_paired({k: _call(networks[k], case.batch) for k in (whole, name)}, rounds=rounds)
        rows[name]["times_faster_than_without_exit"] = paired_ratio(pair[whole], pair[name])
        say(f"{name}: {rows[name]['times_faster_than_without_exit']:.1f} times faster than {whole} (T=100, no exit)")
    return rows


def _call(network: SpikingNetwork, batch: torch.Tensor) -> Callable[[], object]:
    return lambda: network(batch)


def _check(name: str, network: SpikingNetwork, states: torch.Tensor) -> None:
    """A ``RuntimeError`` unless the network gives the reference's bits."""
    rebuild, (*arguments, _, exact, options), _ = network.__reduce__()
    reference: SpikingNetwork = rebuild(*arguments, "reference", exact, options)
    differing = int((network(states) != reference(states)).any(dim=1).sum())
    if differing:
        raise RuntimeError(f"preset {name!r}: {differing} of {len(states)} outputs differ from the reference's")


_HEADER = f"{'':<20} {'us/decision':>12} {'steps':>8} {'over plain':>11} {'per neuron-step':>16}  runs as"


def _line(name: str, row: dict[str, Any]) -> str:
    return (
        f"{name:<20} {1e6 * row['seconds_per_decision']:>12.3f} {row['mean_steps']:>8.2f} "
        f"{row['decision_over_plain']:>10.2f}x {row['neuron_step_over_plain']:>15.2f}x  {row['method']}"
    )

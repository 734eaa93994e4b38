# SPDX-License-Identifier: Apache-2.0
"""``snnfast bench network``: the compiled network against naive torch and against the original ReLU network.

Every case is checked before it is timed: the same answers as naive torch but for spikes that rounding moved, the same
bits as the reference on a slice, and hidden firing rates in the stated range. All rivals run on one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from snnfast import reference
from snnfast.backends import num_threads, set_num_threads
from snnfast.bench.machine import provenance
from snnfast.bench.timing import paired_ratio, time_paired
from snnfast.bench.workloads import RATE_RANGE, NaiveTorch, Workload, hidden_rates, make_workload

#: name, sizes, time steps, batches
WORKLOADS = (
    ("tiny", (4, 16, 16, 2), 100, (1, 100, 1024, 4096, 65536)),
    ("medium", (8, 256, 256, 4), 100, (1, 256, 4096)),
    ("large", (784, 1200, 1200, 10), 50, (1, 128)),
)
QUICK_WORKLOADS = (("tiny", (4, 16, 16, 2), 100, (1, 256)),)
#: Rounding moves a few spikes between orders of summation; more differing samples than this are a mistake.
MAX_DIFFERING = 0.05


def _seconds(value: float) -> str:
    unit, factor = next(((u, f) for u, f in (("s", 1.0), ("ms", 1e3)) if value * f >= 1.0), ("us", 1e6))
    return f"{value * factor:.3g} {unit}"


def check_case(workload: Workload, batch: int) -> dict[str, Any]:
    """Check one case and say how well it agrees.

    Raises:
        RuntimeError: if a firing rate is out of range, or the answers differ by more than rounding explains.
    """
    network, observations = workload.spiking, workload.observations(batch)
    sample = observations if batch >= 256 else workload.observations(256)
    rates = hidden_rates(network, sample)
    if not all(RATE_RANGE[0] <= r <= RATE_RANGE[1] for r in rates):
        raise RuntimeError(f"{workload.name}: hidden firing rates {rates} are not within {RATE_RANGE}")
    ours, naive = network(observations), NaiveTorch(network)(observations)
    differing = float(((ours - naive).abs().amax(dim=1) > 1e-3).double().mean())
    if differing > MAX_DIFFERING:
        raise RuntimeError(f"{workload.name} B={batch}: {differing:.1%} of samples differ from naive torch")
    few = observations[: 2 if workload.sizes[0] > 100 else 16]
    exact = torch.equal(network(few), reference.simulate(network.spec, few).output)
    if not exact:
        raise RuntimeError(f"{workload.name} B={batch}: not the reference's bits")
    agreement = float((ours.argmax(1) == naive.argmax(1)).double().mean())
    return {"rates": rates, "samples_differing_from_naive": differing, "argmax_equal_to_naive": agreement}


def run_case(workload: Workload, batch: int, *, rounds: int) -> dict[str, Any]:
    """Check and time one workload at one batch size."""
    facts = check_case(workload, batch)
    network, relu, naive = workload.spiking, workload.relu, NaiveTorch(workload.spiking)
    observations = workload.observations(batch)
    rivals: dict[str, Callable[[], object]] = {"snnfast": lambda: network(observations)}
    if batch == 1:
        single = observations[0].numpy()
        rivals["snnfast act"] = lambda: network.act(single)
    rivals |= {"naive torch": lambda: naive(observations), "relu network": lambda: relu(observations)}
    with torch.no_grad():
        timings = time_paired(rivals, rounds=rounds)
    ours = timings["snnfast"]
    updates = batch * workload.timesteps * sum(workload.sizes[1:])
    return {
        "workload": workload.name,
        "sizes": list(workload.sizes),
        "timesteps": workload.timesteps,
        "batch": batch,
        "method": network.method(),
        **facts,
        "seconds": {k: {"median": t.median, "best": t.best, "spread": t.spread} for k, t in timings.items()},
        "times_faster_than_naive": paired_ratio(timings["naive torch"], ours),
        "times_faster_than_relu_network": paired_ratio(timings["relu network"], ours),
        "neuron_updates_per_second": updates / ours.median,
    }


def run(*, quick: bool = False) -> dict[str, Any]:
    """Run the benchmark and print a table.

    Args:
        quick: one small workload and few rounds, to see that it works; no figures to quote.

    Returns:
        The figures, as JSON types.
    """
    torch_threads, own_threads = torch.get_num_threads(), num_threads()
    torch.set_num_threads(1)
    set_num_threads(1)
    header = f"{'workload':<20} {'T':>4} {'batch':>6} {'rates':>11} {'snnfast':>9} {'naive torch':>11} {'relu net':>9}"
    print(f"{header} {'x naive':>8} {'x relu':>7}  method", flush=True)
    cases = []
    try:
        for name, sizes, timesteps, batches in QUICK_WORKLOADS if quick else WORKLOADS:
            workload = make_workload(name, sizes, timesteps)
            for batch in batches:
                case = run_case(workload, batch, rounds=3 if quick else 9)
                cases.append(case)
                t = {k: _seconds(v["median"]) for k, v in case["seconds"].items()}
                rates = "/".join(f"{100 * r:.0f}" for r in case["rates"]) + " %"
                print(
                    f"{name + ' ' + '-'.join(map(str, sizes)):<20.20} {timesteps:>4} {batch:>6} {rates:>11} "
                    f"{t['snnfast']:>9} {t['naive torch']:>11} {t['relu network']:>9} "
                    f"{case['times_faster_than_naive']:>8.1f} {case['times_faster_than_relu_network']:>7.2f}  "
                    f"{case['method']['method']}, {case['method']['isa']}",
                    flush=True,
                )
    finally:
        torch.set_num_threads(torch_threads)
        set_num_threads(own_threads)
    print(
        "Medians, one thread each, rivals taking turns; ratios are paired. rates: share of neurons that fire per step\n"
        "and hidden layer. relu net: the original network's forward pass, which takes no time steps."
    )
    return {"benchmark": "network", "quick": quick, **provenance(), "cases": cases}

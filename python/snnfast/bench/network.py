# SPDX-License-Identifier: Apache-2.0
"""``snnfast bench network``: the compiled network against torch, the ReLU network and other libraries.

Every case is checked before it is timed: hidden firing rates in the stated range, the reference's bits on a slice, and
for every rival the same answers but for spikes that rounding moved. All rivals run on one thread and take turns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from snnfast import reference
from snnfast.backends import CpuExecutable, num_threads, set_num_threads
from snnfast.bench import two_threads
from snnfast.bench.ceilings import Ceilings, rows_in_runs
from snnfast.bench.machine import provenance
from snnfast.bench.peers import PEERS, check_peer
from snnfast.bench.rivals import CarefulTorch, NaiveTorch
from snnfast.bench.timing import Timing, best_ratio, paired_ratio, time_paired
from snnfast.bench.workloads import OTHER_RATES, SHAPES, USUAL_RATE, Rate, Shape, Workload, make_workload
from snnfast.shares import percent

QUICK_SHAPES = {"tiny": Shape((4, 16, 16, 2), 100, (1, 256), 256)}
#: Rounding moves a few spikes between orders of summation; more differing samples than this are a mistake.
MAX_DIFFERING = 0.05
ROUNDS, PEER_ROUNDS, QUICK_ROUNDS = 31, 5, 3
#: A share of differing samples is taken over this many at least; other libraries, which are slow, run no more than
#: the second number for it.
ENOUGH_SAMPLES, MANY_FOR_PEERS = 256, 4096
#: Comparisons of two threads with two processes start from this many samples.
MANY_SAMPLES = 4096
#: Batches up to this are timed as numpy arrays too, such as vector environments give: what a call costs shows in them.
MOST_ROWS_OF_ARRAYS = 1000


def check_case(workload: Workload, batch: int, rate: Rate = USUAL_RATE) -> dict[str, Any]:
    """Check one case and say how well it agrees.

    Raises:
        RuntimeError: if a firing rate is out of range, or answers differ by more than rounding explains.
    """
    network, where = workload.spiking, f"{workload.name} B={batch}"
    # A few samples are too few for a share: then answers are compared on others of the same kind.
    sample = workload.observations(max(batch, ENOUGH_SAMPLES))
    counts = network.simulate(sample).spike_counts
    rates = [float(c.double().mean()) / network.timesteps for c in counts]
    rate.check(workload.name, rates)

    naive, ours = NaiveTorch(network)(sample), network(sample)
    differing = _check_same(f"{where}: snnfast", ours, naive)
    _check_same(f"{where}: careful torch", CarefulTorch(network)(sample), naive)
    if workload.fast is not None:
        fast = workload.fast(sample)
        _check_same(f"{where}: snnfast, fast", fast, naive)
        _check_same(f"{where}: snnfast, fast, against exact", fast, ours)
    observations = workload.observations(batch)
    few = observations[: 2 if workload.sizes[0] > 100 else 16]
    if not torch.equal(network(observations)[: len(few)], reference.simulate(network.spec, few).output):
        raise RuntimeError(f"{where}: not the reference's bits")
    return {
        "rates": rates,
        "spikes": [float(c.double().sum()) for c in network.simulate(observations).spike_counts],
        "samples_compared": len(sample),
        "samples_differing_from_naive": differing,
        "argmax_equal_to_naive": float((ours.argmax(1) == naive.argmax(1)).double().mean()),
    }


def _check_same(who: str, answers: Tensor, expected: Tensor) -> float:
    """The share of samples whose potentials differ; a RuntimeError if it is more than rounding explains."""
    differing = float(((answers - expected).abs().amax(dim=1) > 1e-3).double().mean())
    if differing > MAX_DIFFERING:
        raise RuntimeError(f"{who}: {differing:.1%} of samples differ; the times would mean nothing")
    return differing


def run_case(
    workload: Workload,
    batch: int,
    ceilings: Ceilings,
    *,
    rate: Rate = USUAL_RATE,
    rounds: int = ROUNDS,
    peers: bool = False,
) -> dict[str, Any]:
    """Check and time one workload at one batch size."""
    facts = check_case(workload, batch, rate)
    network, relu, fast = workload.spiking, workload.relu, workload.fast
    naive, careful = NaiveTorch(network), CarefulTorch(network)
    observations = workload.observations(batch)
    rivals: dict[str, Callable[[], object]] = {"snnfast": lambda: network(observations)}
    if fast is not None:
        rivals["snnfast, fast"] = lambda: fast(observations)
    if batch <= MOST_ROWS_OF_ARRAYS:
        array = observations.numpy()
        rivals["snnfast array"] = lambda: network(array)
    if batch == 1:
        single = observations[0].numpy()
        rivals["snnfast act"] = lambda: network.act(single)
        if fast is not None:
            rivals["snnfast act, fast"] = lambda: fast.act(single)
    rivals |= {
        "naive torch": lambda: naive(observations),
        "careful torch": lambda: careful(observations),
        "relu network": lambda: relu(observations),
    }
    with torch.no_grad():
        timings = time_paired(rivals, rounds=rounds)
    ours = timings["snnfast"]
    method = network.method()
    described: dict[str, Any] = {
        name: _describe(t, timings["naive torch"], timings["relu network"]) for name, t in timings.items()
    }
    for name in (name for name in described if name.startswith("snnfast")):
        runs = fast if fast is not None and name.endswith(", fast") else network
        how = runs.method()["method"]
        share = ceilings.share(
            how,
            workload.sizes,
            workload.timesteps,
            batch,
            facts["spikes"],
            timings[name].processor,
            first_looked_up=isinstance(runs._executable, CpuExecutable) and runs._executable.plan.trains > 0,
            in_runs=batch * rows_in_runs(network, observations[:ENOUGH_SAMPLES]) if how == "prefix sums" else 0.0,
            last_counted=isinstance(runs._executable, CpuExecutable) and runs._executable.plan.counts_last,
            exact=runs is network,
        )
        described[name]["ceiling"] = None if share is None else share.json()
    case = {
        "workload": workload.name,
        "sizes": list(workload.sizes),
        "timesteps": workload.timesteps,
        "batch": batch,
        "rate_wanted": [rate.low, rate.high],
        "method": method,
        "fast_method": "same as exact" if fast is None else fast.method(),
        **facts,
        "seconds": described,
        "times_faster_than_naive": paired_ratio(timings["naive torch"], ours),
        "times_faster_than_careful": paired_ratio(timings["careful torch"], ours),
        "times_faster_than_relu_network": paired_ratio(timings["relu network"], ours),
        "neuron_updates_per_second": batch * workload.timesteps * sum(workload.sizes[1:]) / ours.median,
    }
    if peers:
        case["peers"] = _run_peers(workload, batch, min(rounds, PEER_ROUNDS))
    return case


def _run_peers(workload: Workload, batch: int, rounds: int) -> dict[str, Any]:
    """Check and time the other libraries, in turns with ours and naive torch. Those that are missing say why."""
    network, observations = workload.spiking, workload.observations(batch)
    naive = NaiveTorch(network)
    found: dict[str, Any] = {}
    rivals: dict[str, Callable[[], object]] = {
        "snnfast": lambda: network(observations),
        "naive torch": lambda: naive(observations),
    }
    for peer in PEERS:
        missing = peer.missing()
        if missing:
            found[peer.name] = {"missing": missing}
            continue
        sample = workload.observations(min(max(batch, ENOUGH_SAMPLES), MANY_FOR_PEERS))
        try:
            found[peer.name] = check_peer(peer, peer.build(network, len(sample)), network, sample)
            run = peer.build(network, batch)
        except Exception as error:  # whatever a foreign package raises, in a version that works otherwise
            found[peer.name] = {"missing": f"does not run: {type(error).__name__}: {error}"}
            continue
        rivals[peer.name] = lambda run=run: run(observations)  # type: ignore[misc]
    if len(rivals) == 2:
        return found
    with torch.no_grad():
        timings = time_paired(rivals, rounds=rounds, slow_rounds=1)
    for name in rivals.keys() & found.keys():
        found[name] |= _describe(timings[name], timings["naive torch"], None)
        found[name]["times_slower_than_snnfast"] = paired_ratio(timings[name], timings["snnfast"])
        found[name]["times_slower_than_snnfast_best"] = best_ratio(timings[name], timings["snnfast"])
    return found


def _describe(timing: Timing, naive: Timing, relu: Timing | None) -> dict[str, Any]:
    """Seconds, and how many times faster than naive torch and the ReLU network: paired, and each at its best."""
    found: dict[str, Any] = {
        "median": timing.median,
        "best": timing.best,
        "best_processor_time": timing.processor,
        "spread": timing.spread,
        "rounds": len(timing.rounds),
        "calls": timing.calls,
        "times_faster_than_naive": paired_ratio(naive, timing),
        "times_faster_than_naive_best": best_ratio(naive, timing),
    }
    if relu is not None:
        found["times_faster_than_relu_network"] = paired_ratio(relu, timing)
        found["times_faster_than_relu_network_best"] = best_ratio(relu, timing)
    return found


def run(
    *,
    quick: bool = False,
    peers: bool = True,
    workloads: Sequence[str] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run the benchmark.

    Args:
        quick: one small workload and few rounds, to see that it works; no figures to quote.
        peers: time the other libraries that are installed.
        workloads: names of :data:`~snnfast.bench.workloads.SHAPES`; all unless given. A quick run has "tiny" only.
        say: prints a few lines.

    Returns:
        The figures, as JSON types.

    Raises:
        ValueError: if ``workloads`` names one that such a run does not have.
        RuntimeError: if a check fails; then that case is not timed.
    """
    known = QUICK_SHAPES if quick else SHAPES
    unknown = sorted(set(workloads or ()) - set(known))
    if unknown:
        raise ValueError(f"workloads{' of a quick run' * quick} must be of {list(known)}, got {unknown}")
    shapes = {n: s for n, s in known.items() if not workloads or n in workloads}
    rounds = QUICK_ROUNDS if quick else ROUNDS
    torch_threads, own_threads = torch.get_num_threads(), num_threads()
    try:
        torch.set_num_threads(1)
        set_num_threads(1)
        ceilings = Ceilings()
        result: dict[str, Any] = {"benchmark": "network", "quick": quick, **provenance()}
        result["load_average"] = os.getloadavg()[0]
        if result["load_average"] > 0.5:
            say(f"other work is running (load {result['load_average']:.1f}): trust the ratios, not the times\n")
        result["ceilings"] = ceilings.table()
        say(ceilings_table(result["ceilings"], ceilings.isa))
        result["cases"], result["two_threads"] = [], []
        for name, shape in shapes.items():
            workload = make_workload(name, shape.sizes, shape.timesteps)
            cells = [(workload, batch, USUAL_RATE) for batch in shape.batches]
            for rate in () if quick else OTHER_RATES:
                cells.append((make_workload(name, shape.sizes, shape.timesteps, rate.aim), shape.middle, rate))
            for cell, batch, rate in cells:
                timed = peers and rate is USUAL_RATE
                case = run_case(cell, batch, ceilings, rate=rate, rounds=rounds, peers=timed)
                result["cases"].append(case)
                say(case_table(case))
        for name, shape in shapes.items():
            if quick or name == "large" or result["machine"]["cores"] < 2:
                continue
            batch = max(b for b in shape.batches if b >= MANY_SAMPLES)
            try:
                pair = two_threads.measure(name, batch)
            except (OSError, RuntimeError) as error:  # no processes to be had here: what was timed before stands
                pair = {"workload": name, "batch": batch, "missing": str(error)}
            result["two_threads"].append(pair)
            say(two_threads_line(pair))
    finally:
        torch.set_num_threads(torch_threads)
        set_num_threads(own_threads)
    say(legend(quick))
    return result


def legend(quick: bool) -> str:
    """What the tables of :func:`run` mean."""
    rounds = f"""snnfast and torch {ROUNDS} rounds (9 where a call lasts
over 0.1 s, 3 where one lasts over a second), libraries {PEER_ROUNDS} (1 where a call lasts over a second)."""
    if quick:
        rounds = f"{QUICK_ROUNDS} rounds, too few for figures to quote."
    return f"\nAll on one thread each, rivals taking turns round by round: {rounds}{_LEGEND}"


_LEGEND = """
x naive, x ReLU: times faster than naive torch and than the original network's forward pass, which takes no time
steps; paired medians, and in brackets the ratio of the best of each. +-: half the distance of the quartiles.
Rates: share of neurons that fire per step and hidden layer. Ceiling: the least time that this machine could take for
the method's own work, over our best time on the processor (without the time that other programs had it)."""


def case_table(case: dict[str, Any]) -> str:
    """One case for a terminal."""
    rates = " / ".join(f"{100 * r:.1f}" for r in case["rates"])
    sizes = "-".join(map(str, case["sizes"]))
    method, fast = case["method"], case["fast_method"]
    lines = [
        "",
        f"{case['workload']} {sizes}, T={case['timesteps']}, batch {case['batch']:,}; {method['method']} with "
        f"{method['isa']}; rates {rates} %; fast: {fast if isinstance(fast, str) else fast['method']}",
        f"  {'':<15}{'median':>9} {'+-':>6} {'best':>9} {'x naive':>17} {'x ReLU':>17}",
    ]
    for name, t in case["seconds"].items():
        ratios = [
            f"{number(t[f'times_faster_than_{k}'])} ({number(t[f'times_faster_than_{k}_best'])})"
            for k in ("naive", "relu_network")
        ]
        lines.append(_row(name, t) + f" {ratios[0]:>17} {ratios[1]:>17}")
        ceiling = t.get("ceiling")
        if ceiling:
            lines[-1] += f"   {100 * ceiling['share']:.0f} % of {ceiling['name']}"
            if ceiling["in_place"] is not None:
                lines[-1] += f" ({100 * ceiling['in_place']:.0f} % if all came from {ceiling['place']})"
            if ceiling["exact"] is not None:
                lines[-1] += f" ({100 * ceiling['exact']:.0f} % of additions for every spike)"
    for name, t in case.get("peers", {}).items():
        if "missing" in t:
            lines.append(f"  {name:<15}{t['missing']}")
            continue
        ratio = f"{number(t['times_faster_than_naive'])} ({number(t['times_faster_than_naive_best'])})"
        note = "same result" if t["same"] else "DIFFERS"
        lines.append(
            f"{_row(name, t)} {ratio:>17} {'':>17}   snnfast {number(t['times_slower_than_snnfast'])} x faster; "
            f"{note}: {100 * t['samples_equal']:.1f} % of potentials, {percent(t['decisions_equal'], 1)} of decisions"
        )
    return "\n".join(lines)


def _row(name: str, t: dict[str, Any]) -> str:
    return f"  {name:<15}{duration(t['median']):>9} {100 * t['spread']:>4.0f} % {duration(t['best']):>9}"


def ceilings_table(rates: dict[str, float], isa: str) -> str:
    """What one core of the machine does at best."""
    rows = [f"  {name:<24} {rate / 1e9:>9.3f} G" for name, rate in rates.items()]
    return "\n".join([f"one core at best, {isa}:", *rows])


def two_threads_line(pair: dict[str, Any]) -> str:
    """Two threads against two processes."""
    if "missing" in pair:
        return f"\n{pair['workload']}, batch {pair['batch']:,}: two threads were not measured: {pair['missing']}"
    return (
        f"\n{pair['workload']}, batch {pair['batch']:,}: two threads {pair['two_threads']:,.0f} samples/s, two "
        f"separate processes of one thread {pair['two_processes']:,.0f}: {pair['threads_over_processes']:.2f} of it "
        f"(best rounds {pair['threads_over_processes_best']:.2f}); one thread alone {pair['one_thread']:,.0f}"
    )


def duration(value: float) -> str:
    """Seconds in a unit that suits."""
    unit, factor = next(((u, f) for u, f in (("s", 1.0), ("ms", 1e3)) if value * f >= 1.0), ("us", 1e6))
    return f"{value * factor:.3g} {unit}"


def number(value: float) -> str:
    """A ratio with two or three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

# SPDX-License-Identifier: Apache-2.0
"""The network benchmark: what it compares computes the same, and what does not is refused before it is timed."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import signal
import time
from pathlib import Path

import pytest
import torch

from snnfast import NeuronSpec, SpikingNetwork, plots
from snnfast.backends import instruction_sets, measure_ceiling, num_threads, set_num_threads
from snnfast.bench import network, peers, two_threads
from snnfast.bench.ceilings import LANES, Ceilings, cache_sizes, rows_in_runs
from snnfast.bench.rivals import CarefulTorch, NaiveTorch
from snnfast.bench.timing import Timing, best_ratio, paired_ratio, time_paired
from snnfast.bench.workloads import OTHER_RATES, SHAPES, USUAL_RATE, Rate, Shape, hidden_rates, make_workload
from snnfast.cli import main


@pytest.fixture(scope="module")
def tiny():
    return make_workload("tiny", (4, 16, 16, 2), 100)


@pytest.fixture(scope="module")
def ceilings():
    return Ceilings()


# What is compared ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(4, 16, 16, 2), (8, 40, 3), (5, 30, 20, 10, 3)])
@pytest.mark.parametrize("batch", [1, 7, 300])
def test_careful_torch_computes_what_naive_torch_does(sizes, batch, monkeypatch):
    monkeypatch.setattr(CarefulTorch, "BLOCK_BYTES", 4 * 40 * max(sizes[1:-1]) * 64)  # several blocks, the last short
    workload = make_workload("case", sizes, 40)
    observations = workload.observations(batch)
    careful = CarefulTorch(workload.spiking)
    assert careful.block == 64
    expected = NaiveTorch(workload.spiking)(observations)
    for _ in range(2):  # the second call finds its memory used
        same = (careful(observations) - expected).abs().amax(dim=1) < 1e-3
        assert same.double().mean() >= (0.95 if batch > 20 else 1.0)


def test_careful_torch_without_biases():
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(n, m, generator=generator) * 0.5 for m, n in ((4, 12), (12, 9), (9, 2))]
    spiking = SpikingNetwork(weights, None, NeuronSpec(), 30)
    observations = torch.randn(50, 4, generator=generator)
    torch.testing.assert_close(CarefulTorch(spiking)(observations), NaiveTorch(spiking)(observations))


def test_a_strict_threshold_is_not_reached_by_equality():
    weights = [torch.tensor([[1.0]]), torch.tensor([[1.0]])]
    spiking = SpikingNetwork(weights, None, NeuronSpec(), 4)
    one = torch.ones(1, 1)
    assert NaiveTorch(spiking)(one).item() == 4.0  # fires in every step
    assert NaiveTorch(spiking, strict=True)(one).item() == 3.0  # not in the first


@pytest.mark.parametrize("rival", [NaiveTorch, CarefulTorch])
def test_rivals_refuse_other_dynamics(rival):
    weights = [torch.ones(3, 2), torch.ones(2, 3)]
    with pytest.raises(ValueError, match="only networks as in bench"):
        rival(SpikingNetwork(weights, None, NeuronSpec(order="delayed"), 10))
    with pytest.raises(ValueError, match="only networks as in bench"):
        rival(SpikingNetwork(weights, None, NeuronSpec(), 10, decoding="spikes"))


@pytest.mark.parametrize("rate", [USUAL_RATE, *OTHER_RATES], ids=str)
@pytest.mark.parametrize("name", ["tiny", "medium"])
def test_every_rate_is_reached(name, rate):
    shape = SHAPES[name]
    workload = make_workload(name, shape.sizes, shape.timesteps, rate.aim)
    rates = hidden_rates(workload.spiking, workload.observations(shape.middle))
    assert len(rates) == len(shape.sizes) - 2
    assert all(rate.low <= r <= rate.high for r in rates), rates
    rate.check(name, rates)  # agrees


# What must be refused -----------------------------------------------------------------------------------------------


def test_a_rate_out_of_range_is_refused(tiny):
    with pytest.raises(RuntimeError, match=r"tiny: hidden firing rates must be from 40 to 50 %, got 1\d\.\d %"):
        network.check_case(tiny, 10, Rate(0.45, 0.40, 0.50))


@pytest.mark.parametrize("rival", ["NaiveTorch", "CarefulTorch"])
def test_a_wrong_rival_is_refused(rival, tiny, monkeypatch):
    monkeypatch.setattr(getattr(network, rival), "__call__", lambda self, x: torch.zeros(len(x), 2))
    with pytest.raises(RuntimeError, match=r"100\.0% of samples differ; the times would mean nothing"):
        network.check_case(tiny, 10)


def test_a_wrong_fast_network_is_refused(tiny):
    wrong = make_workload("tiny", (4, 16, 16, 2), 100, seed=2).spiking
    with pytest.raises(RuntimeError, match="tiny B=10: snnfast, fast: "):
        network.check_case(dataclasses.replace(tiny, fast=wrong), 10)


def test_bits_that_are_not_the_references_are_refused(tiny, monkeypatch):
    simulate = network.reference.simulate

    def other(spec, observations):
        found = simulate(spec, observations)
        return dataclasses.replace(found, output=torch.nextafter(found.output, torch.tensor(1e9)))

    monkeypatch.setattr(network.reference, "simulate", other)
    with pytest.raises(RuntimeError, match="not the reference's bits"):
        network.check_case(tiny, 10)


def test_a_fast_network_is_timed_where_there_is_one(tiny, ceilings, monkeypatch):
    monkeypatch.setattr(
        network, "time_paired", lambda rivals, **options: time_paired(rivals, rounds=2, round_seconds=0)
    )
    case = network.run_case(tiny, 3, ceilings)
    assert case["fast_method"] == "same as exact" or "snnfast, fast" in case["seconds"]
    case = network.run_case(dataclasses.replace(tiny, fast=tiny.spiking), 3, ceilings)
    assert case["fast_method"] == tiny.spiking.method()
    assert case["seconds"]["snnfast, fast"]["ceiling"]["share"] > 0


# Peers --------------------------------------------------------------------------------------------------------------


def _as_peer(run, name="torch"):
    return peers.Peer(name, name, False, "by hand", lambda spiking, batch: run(spiking))


def test_peers_are_checked_and_those_that_differ_say_so(tiny, monkeypatch):
    right, wrong = _as_peer(NaiveTorch), _as_peer(lambda spiking: lambda x: NaiveTorch(spiking)(x) + 0.5, "numpy")
    absent = _as_peer(NaiveTorch, "there-is-no-such-library")
    monkeypatch.setattr(network, "PEERS", (right, wrong, absent))
    found = network._run_peers(tiny, 5, 2)
    assert (found["torch"]["same"], found["torch"]["samples_equal"]) == (True, 1.0)
    assert (found["numpy"]["same"], found["numpy"]["samples_equal"]) == (False, 0.0)
    assert found["numpy"]["decisions_equal"] == 1.0
    assert found["torch"]["times_slower_than_snnfast"] > 0
    assert found["there-is-no-such-library"] == {"missing": "not installed"}


def test_without_any_peer_nothing_is_timed(tiny, monkeypatch):
    monkeypatch.setattr(network, "PEERS", (_as_peer(NaiveTorch, "there-is-no-such-library"),))
    monkeypatch.setattr(network, "time_paired", None)
    assert network._run_peers(tiny, 5, 2) == {"there-is-no-such-library": {"missing": "not installed"}}


def test_a_peer_that_does_not_run_says_why_and_stops_nobody(tiny, monkeypatch):
    def other(spiking):
        raise AttributeError("no init_leaky")

    monkeypatch.setattr(network, "PEERS", (_as_peer(other, "numpy"), _as_peer(NaiveTorch)))
    found = network._run_peers(tiny, 5, 2)
    assert found["numpy"] == {"missing": "does not run: AttributeError: no init_leaky"}
    assert found["torch"]["times_slower_than_snnfast"] > 0


def test_a_peer_that_cannot_be_imported_says_why(monkeypatch):
    monkeypatch.setattr(peers.metadata, "version", lambda name: "1.0")
    broken = dataclasses.replace(_as_peer(NaiveTorch), package="snnfast.there_is_no_such_module")
    assert broken.missing().startswith("cannot be imported: ModuleNotFoundError: ")


@pytest.mark.parametrize("peer", peers.PEERS, ids=lambda p: p.name)
def test_installed_peers_compute_the_same(peer, tiny):
    if peer.missing():
        pytest.skip(f"{peer.name}: {peer.missing()}")
    sample = tiny.observations(200)
    assert peers.check_peer(peer, peer.build(tiny.spiking, 200), tiny.spiking, sample)["same"]


# Ceilings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", instruction_sets())
@pytest.mark.parametrize("name", ["add", "add_few", "mul_add", "step", "step_latency", "add_memory", "read"])
def test_ceilings_are_positive(name, isa):
    assert measure_ceiling(name, bytes=4096, isa=isa) > 0


def test_ceilings_are_ordered(ceilings):
    # By a factor that no noise explains: a neuron step is several operations, and one waits for the one before.
    assert ceilings.rate("add") > ceilings.rate("step") / 2 > ceilings.rate("step_latency") / 2
    assert ceilings.rate("read", 16 << 10) > ceilings.rate("read", 64 << 20) / 2


def test_ceilings_refuse_what_they_do_not_know():
    with pytest.raises(ValueError, match=r"name must be one of 'add', .*, got 'divide'"):
        measure_ceiling("divide")
    with pytest.raises(ValueError, match="bytes must be from 512 to 1073741824, got 0"):
        measure_ceiling("read")
    with pytest.raises(ValueError, match="the instruction set must be one of"):
        measure_ceiling("add", isa="mmx")


def test_every_instruction_set_has_a_width(ceilings):
    assert set(instruction_sets()) <= set(LANES)
    caches = cache_sizes()
    assert len(caches) >= 2
    assert list(caches) == sorted(caches)
    assert [ceilings.level(n) for n in (1, caches[0], caches[0] + 1, caches[-1] + 1)] == ["L1", "L1", "L2", "DRAM"]


def test_shares_count_the_work_that_is_needed(ceilings, monkeypatch):
    monkeypatch.setattr(ceilings, "rate", lambda name, bytes=0: {"step_latency": 10.0, "step": 1e3}.get(name, 1e4))
    monkeypatch.setattr(ceilings, "lanes", 8)
    alone = ceilings.share("tables", (4, 16, 16, 2), 100, 1, [1, 1], 20.0)
    assert (alone.seconds, alone.share) == (10.0, 0.5)
    batch = ceilings.share("tables", (4, 16, 10, 2), 100, 7, [1, 1], 20.0)
    assert batch.needed == (700.0 * 32, 700.0)
    assert batch.seconds == pytest.approx(22.4 + 0.07)
    assert batch.name == "4 vector steps and 1 addition per step"
    looked_up = ceilings.share("tables", (4, 16, 10, 5), 100, 7, [1, 1], 20.0, first_looked_up=True)
    assert looked_up.needed == (700.0 * 16, 700.0 * 8)
    assert looked_up.name == "2 vector steps and 1 addition per step"
    network, stepped = ((8, 30, 20, 4), 100, 7, [1000.0, 500.0], 20.0), 700.0 * (32 + 24)
    events = ceilings.share("events", *network)
    assert events.needed == (24_000.0, 4000.0, stepped)
    assert events.share == events.in_place == pytest.approx((2.8 + 39.2) / 20)  # one rate for all memory here
    assert events.place == "L1, L1"
    assert events.exact is None
    counted = ceilings.share("events", *network, last_counted=True)
    assert counted.needed == (stepped, 24_000.0, 7.0 * 20 * 8)
    assert counted.name == "layer 2: additions of spikes' weights, layer 3: multiplications of counts; neuron steps"
    assert ceilings.share("something new", (8, 30, 4), 100, 7, [1000.0], 20.0) is None
    monkeypatch.setattr(ceilings, "isa", "avx2")
    runs = ceilings.share("prefix sums", *network, in_runs=300.0)
    assert runs.needed == (stepped, 7200.0, 4000.0)
    assert runs.name == "layer 2: additions of runs, layer 3: additions of spikes' weights; neuron steps"
    assert runs.exact is None
    certain = ceilings.share("prefix sums", *network, in_runs=300.0, exact=True)
    assert certain.share == runs.share
    assert certain.exact == events.share  # the way without runs


def test_products_are_made_beside_neuron_steps(ceilings, monkeypatch):
    rates = {"step": 1e4, "matrix": 1e7, "add_memory": 1e3}
    monkeypatch.setattr(ceilings, "rate", lambda name, bytes=0: rates[name])
    monkeypatch.setattr(ceilings, "lanes", 16)
    monkeypatch.setattr(ceilings, "isa", "amx")
    network = ((8, 64, 32, 4), 100, 7, [1000.0, 500.0], 20.0)
    stepped, products = 700.0 * (64 + 32) / 1e4, 3 * 700.0 * (64 * 32 + 64 * 16) / 1e7
    both = ceilings.share("slices", *network, exact=True)
    assert both.name == "layer 2: products of bytes, layer 3: products of bytes; neuron steps beside"
    assert both.seconds == pytest.approx(stepped)  # the longer
    assert both.exact == pytest.approx((1000 * 32 / 1e3 + 500 * 16 / 1e3 + stepped) / 20)
    rates["step"] = 1e9
    assert ceilings.share("slices", *network).seconds == pytest.approx(products)
    # Additions would be cheaper in layer 2, but they would wait for neuron steps where products do not.
    rates |= {"step": 1e9, "add_memory": 1e9, "matrix": 1e12}
    products = 3 * 1e4 * 256 * 256 / 1e12
    spikes = [0.95 * products * 1e9 / 256, 1000.0]
    side = ceilings.share("slices", (8, 256, 256, 16), 100, 100, spikes, 1.0)
    assert side.name == both.name
    assert side.seconds == pytest.approx(1e4 * 512 / 1e9)


def test_rows_in_runs_are_counted_per_sample():
    # Currents 0.5, 0.5, 0.25, -1: in four steps from 0 the first two fire together twice, the third once, in the last
    # of those steps. Sorted (-1, 0.25, 0.5, 0.5) there is one run in either step: 3 neurons and 4 ends, 5 spikes.
    first = torch.tensor([[0.5], [0.25], [-1.0], [0.5]])
    spiking = SpikingNetwork([first, torch.ones(2, 4)], None, NeuronSpec(), 4)
    assert rows_in_runs(spiking, torch.tensor([[1.0]])) == 5
    # 300 that fire alike in every step of 40: 300 neurons and 80 ends in place of 12,000 spikes.
    spiking = SpikingNetwork([torch.ones(300, 1), torch.ones(2, 300)], None, NeuronSpec(), 40)
    assert rows_in_runs(spiking, torch.tensor([[1.0], [-1.0]])) == (380 + 0) / 2


def test_a_run_that_ends_where_one_of_the_step_before_began_takes_one_row_less():
    # From 0, currents of 5/8 fire in steps 2, 4, 5 and 7 of 7, and currents of 7/16 in steps 3, 5 and 7. These come
    # first: steps 2 and 3 share the end between the two, and so do no others. 200 neurons, 5 steps of one run each.
    first = torch.tensor([[0.625]] * 100 + [[0.4375]] * 100)
    spiking = SpikingNetwork([first, torch.ones(2, 200)], None, NeuronSpec(), 7)
    spikes = spiking.simulate(torch.ones(1, 1), record="spikes").spikes
    assert spikes is not None
    assert [int(t) + 1 for t in spikes[0][:, 0, 0].nonzero()] == [2, 4, 5, 7]
    assert [int(t) + 1 for t in spikes[0][:, 0, 199].nonzero()] == [3, 5, 7]
    assert rows_in_runs(spiking, torch.ones(1, 1)) == 200 + 5 * 2 - 1


# The whole ----------------------------------------------------------------------------------------------------------


def test_paired_timing_takes_turns_and_gives_ratios():
    order = []
    timings = time_paired({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, round_seconds=0)
    assert order == [*"aaaa", *"bbbb", *"ababab"]
    assert timings["a"].calls == 1
    slow = Timing(3.0, 2.0, 0.0, (2.0, 3.0, 8.0), 1, 2.0)
    fast = Timing(1.0, 1.0, 0.0, (1.0, 1.0, 2.0), 1, 1.0)
    assert paired_ratio(slow, fast) == 3.0
    assert best_ratio(slow, fast) == 2.0


@pytest.mark.parametrize("disturbed", [1, 2, 3, 4])
def test_one_disturbed_call_does_not_make_rounds_of_a_single_call(disturbed):
    count = 0

    def call():
        nonlocal count
        count += 1
        if count == disturbed:
            time.sleep(0.05)

    assert time_paired({"quick": call}, rounds=1, round_seconds=0.001)["quick"].calls > 1


def test_the_quick_benchmark_from_end_to_end(tmp_path, capsys, two_torch_threads):
    figures, picture = tmp_path / "network.json", tmp_path / "network.svg"
    assert main(["bench", "network", "--quick", "--json", str(figures), "--plot", str(picture)]) == 0
    assert torch.get_num_threads() == two_torch_threads
    assert picture.stat().st_size > 1000
    out = capsys.readouterr().out
    assert "tiny 4-16-16-2, T=100, batch 256; tables with" in out
    found = json.loads(figures.read_text())
    assert {"benchmark", "quick", "measured", "machine", "load_average", "ceilings", "cases", "two_threads"} == set(
        found
    )
    assert [case["batch"] for case in found["cases"]] == [1, 256]
    for case in found["cases"]:
        assert all(USUAL_RATE.low <= r <= USUAL_RATE.high for r in case["rates"])
        assert {"naive torch", "careful torch", "relu network", "snnfast"} <= set(case["seconds"])
        assert ("snnfast act" in case["seconds"]) == (case["batch"] == 1)
        for timed in case["seconds"].values():
            assert 0 < timed["best"] <= timed["median"]
            assert {"spread", "calls", "times_faster_than_naive", "times_faster_than_naive_best"} <= set(timed)
        assert case["seconds"]["snnfast"]["ceiling"]["share"] > 0
        assert {p.name for p in peers.PEERS} == set(case["peers"])
        for name, peer in case["peers"].items():
            assert ("missing" in peer) != ("times_slower_than_snnfast" in peer), name


def test_two_threads_against_two_processes(monkeypatch):
    blocked = []

    def look(count):  # while they run
        for process in multiprocessing.active_children():
            status = Path(f"/proc/{process.pid}/status").read_text()
            blocked.append(int(status.split("SigBlk:")[1].split()[0], 16) >> (signal.SIGINT - 1) & 1)
        set_num_threads(count)

    monkeypatch.setattr(two_threads, "set_num_threads", look)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    found = two_threads.measure("tiny", 4096, rounds=2, seconds=0.05)
    assert len(blocked) >= 2
    assert all(blocked), "Ctrl-C is their parent's business"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert found["two_threads"] > 0
    assert found["two_processes"] > 0
    assert found["threads_over_processes"] > 0
    json.dumps(found)
    assert "two threads" in network.two_threads_line(found)


def test_processes_that_cannot_be_started_are_told(monkeypatch):
    def refuse(*arguments):
        raise OSError("no more processes")

    monkeypatch.setattr(multiprocessing.get_context("spawn").Process, "start", refuse)
    with pytest.raises(RuntimeError, match="does not answer") as raised:
        two_threads.measure("tiny", 4096, rounds=1, seconds=0.01)
    assert str(raised.value.__cause__) == "no more processes"


def test_cases_stand_where_two_threads_cannot_be_measured(monkeypatch):
    def refuse(*arguments):
        raise RuntimeError("no processes here")

    monkeypatch.setattr(network.two_threads, "measure", refuse)
    monkeypatch.setattr(network, "provenance", lambda: {"machine": {"cores": 2}})
    monkeypatch.setattr(network, "SHAPES", {"tiny": Shape((4, 16, 16, 2), 100, (4096,), 4096)})
    monkeypatch.setattr(network, "OTHER_RATES", ())
    monkeypatch.setattr(network, "ROUNDS", 1)
    said = []
    found = network.run(peers=False, say=said.append)
    assert [case["batch"] for case in found["cases"]] == [4096]
    assert found["two_threads"] == [{"workload": "tiny", "batch": 4096, "missing": "no processes here"}]
    assert "two threads were not measured: no processes here" in "\n".join(said)


@pytest.mark.parametrize("quick", [False, True])
def test_a_workload_that_a_run_does_not_have_is_refused(quick):
    name = "medium" if quick else "huge"
    with pytest.raises(ValueError, match=rf"workloads{' of a quick run' * quick} must be of .*, got \['{name}'\]"):
        network.run(quick=quick, workloads=["tiny", name], say=lambda text: None)


def test_threads_are_as_before_after_words_that_nobody_reads(monkeypatch, two_torch_threads):
    def say(text):
        raise BrokenPipeError

    monkeypatch.setattr(network.os, "getloadavg", lambda: (9.0, 9.0, 9.0))  # worth a word before anything is measured
    before = num_threads()
    with pytest.raises(BrokenPipeError):
        network.run(quick=True, peers=False, say=say)
    assert torch.get_num_threads() == two_torch_threads
    assert num_threads() == before


def test_the_legend_says_how_many_rounds_there_were():
    assert "31 rounds (9 where" in network.legend(quick=False)
    assert "31" not in network.legend(quick=True)
    assert "3 rounds, too few" in network.legend(quick=True)


def test_the_picture_needs_cases(tmp_path):
    with pytest.raises(ValueError, match="at least one measured case"):
        plots.benchmark_plot([], tmp_path / "x.png")

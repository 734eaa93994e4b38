# SPDX-License-Identifier: Apache-2.0
"""pytest-benchmark cases: every network and batch, ours and the rivals in plain torch. ``make bench-pytest``.

For comparisons between two versions of the code (``--benchmark-autosave``, ``--benchmark-compare``). Figures to quote
come from ``snnfast bench network``, whose rivals take turns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import pytest
import torch

from snnfast.backends import num_threads, set_num_threads
from snnfast.bench.network import check_case
from snnfast.bench.rivals import CarefulTorch, NaiveTorch
from snnfast.bench.workloads import SHAPES, Workload, make_workload

CELLS = [(name, batch) for name, shape in SHAPES.items() for batch in shape.batches]


@functools.cache
def workload_of(name: str) -> Workload:
    shape = SHAPES[name]
    return make_workload(name, shape.sizes, shape.timesteps)


@functools.cache
def checked(name: str, batch: int) -> Workload:
    """The workload, once its answers are known to be right."""
    check_case(workload_of(name), batch)
    return workload_of(name)


RIVALS: dict[str, Callable[[Workload], Callable[[torch.Tensor], object]]] = {
    "snnfast": lambda w: w.spiking,
    "fast": lambda w: w.fast or pytest.skip("same as exact"),
    "naive": lambda w: NaiveTorch(w.spiking),
    "careful": lambda w: CarefulTorch(w.spiking),
    "relu": lambda w: w.relu,
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads(), num_threads()
    torch.set_num_threads(1)
    set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    set_num_threads(before[1])


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize(("name", "batch"), CELLS)
def test_call(benchmark, name, batch, rival):
    benchmark.group = f"{name}, batch {batch}"
    workload = checked(name, batch)
    run, observations = RIVALS[rival](workload), workload.observations(batch)
    with torch.no_grad():
        benchmark(run, observations)


@pytest.mark.parametrize("name", SHAPES)
def test_act(benchmark, name):
    benchmark.group = f"{name}, batch 1"
    workload = checked(name, 1)
    benchmark(workload.spiking.act, workload.observations(1)[0].numpy())

# SPDX-License-Identifier: Apache-2.0
"""What this machine can do at best, measured, and how near a run of a network comes to it.

Every method has a ceiling that no better code of the same method passes:

* tables, batch 1: the first layer's potential waits for itself, step after step; other layers run in its shadow.
* tables, larger batches: every step of every neuron takes an addition, a comparison, a masked subtraction and a move of
  its bit; the last layer takes an addition. Table loads and addresses run beside them and count nothing, and neither
  does a first layer whose spikes are looked up.
* events: an addition with an operand from the first cache for every spike and every output that it reaches, padding
  included, and the steps of the hidden neurons, which the same units take. Beside it stands the share of what the same
  would take if each addition fetched its weight from the cache that holds the whole layer; using a weight many times
  while it is near passes that.
* prefix sums: the same, where the second layer has an addition for every input that fires at all and for every end of
  a run of neighbours that fire in the same step, but one for two where one begins and the next step's ends; if those
  are fewer than the spikes.
* slices: for every layer additions or the products of its matrix of bytes, padding included; so are prefix sums where
  there is a matrix unit. Products are made beside additions and neuron steps, so the longer of the two counts, for the
  choice that makes it shortest. Runs and products give exact bits on a grid only: off it some neurons run again. So
  beside it stands the share of what additions for every spike would take, the one way that is exact by itself; going
  the others passes that.
* a last layer that is computed from how often its inputs spiked: a multiplication and an addition for every weight. To
  count the spikes counts nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snnfast import backends
from snnfast.network import SpikingNetwork
from snnfast.reference import plain

#: floats in a vector
LANES = {"amx": 16, "avx512": 16, "avx2": 8, "baseline": 4}
#: Of random weights under the fast contract, which have 24 bits.
_SLICES = 3
#: Outputs that are added at once whatever the width of a vector.
_FEW = 4
#: Used where the system does not tell: bytes of a core's first, second and third cache.
_USUAL_CACHES = (32 << 10, 1 << 20, 16 << 20)


_PRODUCTS = "products of bytes"


def _seconds(terms: Sequence[tuple[float, float]]) -> float:
    """What work takes at best, on one unit: (how much, units per second) each."""
    return sum(needed / rate for needed, rate in terms)


def cache_sizes() -> tuple[int, ...]:
    """Bytes of the data caches of the first core, level by level."""
    found = {}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                found[int(level)] = int(size.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(size[-1], 0)
        except (OSError, ValueError):
            continue
    return tuple(found[level] for level in sorted(found)) if {1, 2} <= set(found) else _USUAL_CACHES


def rows_in_runs(network: SpikingNetwork, observations: Tensor) -> float:
    """Rows of weights that prefix sums add up for the second layer of a network, per sample.

    A sample has one for every neuron of the first layer that fires at all, and one for every end of a run of neighbours
    that fire in the same step, the neurons being sorted by their currents; but one for two where a run begins and one
    of the next step ends at the same place. Or it has one for every spike, if those are fewer.

    Args:
        network: of plain neurons under constant encoding.
        observations: (B, n_in).
    """
    spikes = network.simulate(observations, record="spikes").spikes
    assert spikes is not None
    spec = network.spec
    bias = None if spec.biases[0] is None else torch.tensor(spec.biases[0])
    current = plain.layer_current(plain.encode(spec, observations), torch.tensor(spec.encoded_weights), bias)
    order = current.argsort(dim=1).expand(len(spikes[0]), -1, -1)
    in_order = torch.nn.functional.pad(spikes[0].gather(2, order), (1, 1))
    ends = in_order.diff(dim=2)
    matched = ((ends[:-1] > 0) & (ends[1:] < 0)).sum(dim=(0, 2))
    loads = (ends != 0).sum(dim=(0, 2)) - matched
    fire = spikes[0].any(dim=0).sum(dim=1)
    return float(torch.minimum(fire + loads, spikes[0].sum(dim=(0, 2))).double().mean())


@dataclasses.dataclass(frozen=True)
class Share:
    """How near a run comes to its ceiling.

    Attributes:
        name: of the ceiling, in words.
        needed: units of work that the run cannot do without; per term, where there are several.
        rate: units per second at best, per term.
        seconds: at least: the sum over the terms, less what runs beside.
        share: ``seconds`` over what the run took at its best.
        in_place: of events, the same for weights that are fetched every time, else ``None``.
        place: the caches that the layers' weights lie in.
        exact: of runs and products that must give exact bits off a grid, the same for additions for every spike.
    """

    name: str
    needed: tuple[float, ...]
    rate: tuple[float, ...]
    seconds: float
    share: float
    in_place: float | None = None
    place: str = ""
    exact: float | None = None

    def json(self) -> dict[str, Any]:
        """As JSON types."""
        return dataclasses.asdict(self) | {"needed": list(self.needed), "rate": list(self.rate)}


class Ceilings:
    """The ceilings of this machine, each measured when it is first asked for.

    Args:
        isa: instruction set; the one in use unless given.
    """

    def __init__(self, isa: str | None = None) -> None:
        self.isa = isa or str(backends.core_info()["isa"])
        self.lanes = LANES[self.isa]
        self.caches = cache_sizes()
        self._rates: dict[tuple[str, int], float] = {}

    def rate(self, name: str, bytes: int = 0) -> float:
        """Units per second, see :func:`snnfast.backends.measure_ceiling`."""
        key = (name, bytes)
        if key not in self._rates:
            self._rates[key] = backends.measure_ceiling(name, bytes=bytes, isa=self.isa)
        return self._rates[key]

    def matrix(self) -> float:
        """Products of bytes per second."""
        return self.rate("matrix")

    def level(self, bytes: int) -> str:
        """The cache that this much memory lies in while it is read over and over."""
        return next((f"L{i}" for i, size in enumerate(self.caches, 1) if bytes <= size), "DRAM")

    def table(self) -> dict[str, float]:
        """The general ceilings, by name with the unit."""
        sizes = {f"L{i}": size // 2 for i, size in enumerate(self.caches, 1)}
        sizes["L3"] = min(sizes.get("L3", 8 << 20), 8 << 20)  # of a shared cache, a part that one core may hold
        sizes["DRAM"] = min(4 * self.caches[-1], 256 << 20)
        return {
            "adds/s": self.rate("add"),
            "adds of four at once/s": self.rate("add_few"),
            "multiply + add/s": self.rate("mul_add"),
            "neuron steps/s": self.rate("step"),
            "steps of one neuron/s": self.rate("step_latency"),
            **({"products of bytes/s": self.matrix()} if self.isa == "amx" else {}),
            **{f"adds/s from {level}": self.rate("add_memory", size) for level, size in sizes.items()},
            **{f"bytes/s from {level}": self.rate("read", size) for level, size in sizes.items()},
        }

    def padded(self, n: int) -> int:
        """Outputs including the padding to whole vectors."""
        return -(-n // self.lanes) * self.lanes

    def share(
        self,
        method: str,
        sizes: Sequence[int],
        timesteps: int,
        batch: int,
        spikes: Sequence[float],
        seconds: float,
        *,
        first_looked_up: bool = False,
        in_runs: float = 0.0,
        last_counted: bool = False,
        exact: bool = False,
    ) -> Share | None:
        """How near a run of a method came to its ceiling, or ``None`` for a method without a known one.

        Args:
            method: as in ``network.method()["method"]``.
            sizes, timesteps, batch: the network and the batch.
            spikes: number of spikes per spiking layer, over the batch and all steps.
            seconds: that the run took at its best, on one thread: its time on the processor, where others use it too.
            first_looked_up: whether the first layer's spikes came from a table of trains.
            in_runs: of prefix sums: rows that the second layer adds, over the batch (:func:`rows_in_runs`).
            last_counted: whether the last layer was computed from its inputs' counts of spikes.
            exact: whether it must give the exact contract's bits, of weights that lie on no grid.
        """
        in_place, place, exactly = None, "", None
        terms: list[tuple[float, float]]
        beside: list[tuple[float, float]] = []  # on another unit
        stepped = (float(timesteps * batch * sum(map(self.padded, sizes[1:-1]))), self.rate("step"))
        if method == "tables" and batch == 1:
            terms = [(float(timesteps), self.rate("step_latency"))]
            name = "latency of the neuron step"
        elif method == "tables":
            steps = float(timesteps * batch)
            hidden = sum(map(self.padded, sizes[2 if first_looked_up else 1 : -1]))
            few, last = sizes[-1] <= _FEW, self.padded(sizes[-1])
            additions = (steps, self.rate("add_few")) if few else (steps * last, self.rate("add"))
            terms = [(steps * hidden, self.rate("step")), additions]
            counted = [(hidden // self.lanes, "vector step"), (1 if few else last // self.lanes, "addition")]
            name = " and ".join(f"{n} {what}{'s' * (n > 1)}" for n, what in counted if n) + " per step"
        elif method == "events" and not last_counted:
            adds = [count * self.padded(n) for count, n in zip(spikes, sizes[2:], strict=True)]
            weights = [4 * n_in * self.padded(n) for n_in, n in itertools.pairwise(sizes[1:])]
            terms = [*((n, self.rate("add_memory", self.caches[0] // 2)) for n in adds), stepped]
            name = "additions of spikes' weights, and neuron steps"
            fetched = sum(n / self.rate("add_memory", bytes) for n, bytes in zip(adds, weights, strict=True))
            in_place = (fetched + stepped[0] / stepped[1]) / seconds
            place = ", ".join(map(self.level, weights))
        elif method in ("events", "slices", "prefix sums"):
            rows = self.rate("add_memory", self.caches[0] // 2)
            choices, every = [], 0.0
            for layer, (count, (n_in, n_out)) in enumerate(zip(spikes, itertools.pairwise(sizes[1:]), strict=True)):
                ways = {"additions of spikes' weights": (float(count * self.padded(n_out)), rows)}
                if method == "prefix sums" and layer == 0:
                    ways["additions of runs"] = (float(in_runs * self.padded(n_out)), rows)
                if method == "slices" or self.isa == "amx":
                    products = _SLICES * timesteps * batch * -(-n_in // 64) * 64.0 * -(-n_out // 16) * 16
                    ways[_PRODUCTS] = (products, self.matrix())
                if last_counted and layer == len(sizes) - 3:
                    multiplications = float(batch * n_in * self.padded(n_out))
                    ways = {"multiplications of counts": (multiplications, self.rate("mul_add"))}
                choices.append(ways.items())
                every += count * self.padded(n_out) / rows
            # A dearer product may be the better choice, since it is made beside the rest.
            least_of = {}
            for chosen in itertools.product(*choices):
                terms = [stepped, *(way for what, way in chosen if what != _PRODUCTS)]
                beside = [way for what, way in chosen if what == _PRODUCTS]
                least_of[max(map(_seconds, (terms, beside)))] = chosen, terms, beside
            chosen, terms, beside = least_of[min(least_of)]
            name = ", ".join(f"layer {i}: {what}" for i, (what, _) in enumerate(chosen, 2))
            name += "; neuron steps" + " beside" * bool(beside)
            if exact and method != "events":
                exactly = (every + stepped[0] / stepped[1]) / seconds
        else:
            return None
        least = max(map(_seconds, (terms, beside)))
        needed, rates = zip(*terms, *beside, strict=True)
        return Share(name, needed, rates, least, least / seconds, in_place, place, exactly)

# SPDX-License-Identifier: Apache-2.0
"""The dynamics in plain torch: slow, obvious, complete. Every other implementation is judged against this room."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from snnfast.reference import codes, plain
from snnfast.reference.plain import if_forward
from snnfast.reference.simulation import Simulation
from snnfast.spec import NetworkSpec

__all__ = ["Simulation", "if_forward", "simulate"]


def simulate(
    spec: NetworkSpec, observations: Tensor, *, seed: int = 0, first_sample: int = 0, record: Collection[str] = ()
) -> Simulation:
    """Run a network for all its time steps.

    Args:
        spec: the network.
        observations: (B, n_in), float32, finite.
        seed: of the random numbers of Poisson encoding, 0 <= seed < 2**64.
        first_sample: number of the first row, for the random numbers: a batch cut in two gives the same spikes.
        record: any of "spikes" and "potentials".
    """
    if spec.code is None:
        return plain.simulate(spec, observations, seed=seed, first_sample=first_sample, record=record)
    return codes.simulate(spec, observations, record=record)

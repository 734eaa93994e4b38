# SPDX-License-Identifier: Apache-2.0
"""Last layers of few outputs, summed with a time step in every lane where many of their inputs spike: exact bits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from conftest import implementations, random_observations, random_spec
from snnfast.backends import CpuExecutable
from snnfast.spec import NetworkSpec
from test_parity import RECORD_ALL, assert_same_bits, assert_same_simulation

ISAS = [implementation.isa for implementation in implementations()[1:]]
REFERENCE = implementations()[0]


def busy(seed: int, sizes: tuple[int, ...], **options: object) -> NetworkSpec:
    """A network of plain neurons of which about half fire in a step, some of them never."""
    plain = {"alpha": 0.0, "beta": 1.0, "order": "immediate", "encoding": "constant", "reset": "subtraction"}
    return random_spec(
        seed, sizes=sizes, **({**plain, "initial_potential": 0.5, "threshold": 1.0, "decoding": "potential"} | options)
    )


@pytest.mark.parametrize("decoding", ["potential", "mean_potential"])
@pytest.mark.parametrize("timesteps", [1, 15, 16, 17, 63, 64, 65, 100, 128, 129, 200])
def test_outputs_are_the_references(decoding: str, timesteps: int) -> None:
    for seed, n_in in enumerate((33, 63, 64, 65, 130, 300)):
        n_out = [1, 2, 3, 4, 5, 8, 9, 16, 17][(seed + timesteps) % 9]
        spec = busy(seed, (5, n_in, n_out), decoding=decoding, timesteps=timesteps)
        observations = random_observations(spec, [1, 2, 17][seed % 3], seed) * 2.0
        want = REFERENCE.compile(spec).simulate(observations, 0, ("spikes",))
        for isa in ISAS:
            executable = CpuExecutable(spec, isa)
            assert_same_simulation(executable.simulate(observations, 0, ("spikes",)), want)
            assert_same_bits(executable.run(observations, 0), want.output, f"{isa}, {n_in}, {n_out}")


@pytest.mark.parametrize("rate", [-1.0, 0.0, 0.05, 0.5, 0.999, 3.0])
def test_inputs_that_never_or_always_fire(rate: float) -> None:
    spec = busy(3, (2, 200, 6), timesteps=70, split_inputs=False, bias_input=False)
    drive = np.full((200, 2), rate / 2, dtype=np.float32)
    spec = dataclasses.replace(spec, weights=(drive, *spec.weights[1:]), biases=(None, spec.biases[1]))
    observations = torch.ones(3, 2)
    want = REFERENCE.compile(spec).simulate(observations, 0, RECORD_ALL)
    for isa in ISAS:
        assert_same_simulation(CpuExecutable(spec, isa).simulate(observations, 0, RECORD_ALL), want)
        assert_same_bits(CpuExecutable(spec, isa).run(observations, 0), want.output, isa)

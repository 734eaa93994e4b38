# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the methods' speed: it checks before it times, and counts neuron-steps as they are run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import snnfast as sf
from snnfast.bench import methods
from snnfast.cli import main
from snnfast.conversion import PRESETS, convert


@pytest.mark.parametrize(
    ("settings", "mean_steps", "wanted"),
    [
        ({"method": "rate", "timesteps": 10}, 10, 10 * (6 + 7 + 8)),
        ({"method": "rate", "timesteps": 10, "copies": 3}, 4.5, 3 * 4.5 * (6 + 7 + 8)),
        ({"method": "digits", "timesteps": 8}, 2.5, 2.5 * (6 + 7 + 8)),
        ({"method": "staged", "timesteps": 10, "copies": 2}, 30, 2 * 10 * (6 + 7 + 8)),
        ({"method": "radix", "timesteps": 10}, 23.5, 10 * (6 + 7) + 3.5 * 8),
    ],
)
def test_neuron_steps(settings: dict[str, object], mean_steps: float, wanted: float) -> None:
    policy = sf.make_policy([3, 6, 7, 8, 2], seed=1)
    network = convert(policy, torch.randn(200, 3), **settings)  # type: ignore[arg-type]
    assert methods.neuron_steps(network, mean_steps) == wanted


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = methods.cases
    monkeypatch.setattr(methods, "cases", lambda batch: real(96, 10_000))
    threads = sf.num_threads()
    assert main(["bench", "methods", "--quick", "--json", "-"]) == 0
    assert sf.num_threads() == threads
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert list(found["networks"]) == ["4-16-16-2"]
    assert found["decisions_per_call"] == {"4-16-16-2": 96}
    rows = found["networks"]["4-16-16-2"]
    assert list(rows) == list(PRESETS)
    assert rows["rate"]["neuron_steps"] == 3200
    assert rows["rate"]["method"] == "tables"
    assert rows["digits"]["method"] == "lanes"
    for row in rows.values():
        ratio = row["decision_over_plain"] * 3200 / row["neuron_steps"]
        assert row["neuron_step_over_plain"] == pytest.approx(ratio)
    assert rows["rate-early-exit"]["times_faster_than_without_exit"] > 0
    assert "times faster than rate-copies" in captured.err


def test_nothing_is_timed_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    case, *_ = methods.cases(96, 10_000)
    network = convert(case.policy, case.states, preset="radix")
    methods._check("radix", network, case.batch)
    wrong = network._executable.run
    monkeypatch.setattr(network, "_fast_run", None)
    monkeypatch.setattr(network, "_run", lambda batch, seed: torch.nextafter(wrong(batch, seed), torch.tensor(np.inf)))
    with pytest.raises(RuntimeError, match="preset 'radix': 96 of 96 outputs differ"):
        methods._check("radix", network, case.batch)

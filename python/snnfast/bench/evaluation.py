# SPDX-License-Identifier: Apache-2.0
"""How long a whole evaluation takes, against the way of the 2020 thesis system.

The thesis' way: one environment, one decision at a time, a Python loop over time steps and layers in torch for the
spiking network, and the original asked about the same state. It would take many minutes for 50,000 decisions, so it
is measured on the first 200 decisions of an episode and scaled. Before that, its decisions must be equal to ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snnfast.bench.machine import provenance
from snnfast.conversion import convert
from snnfast.evaluation import evaluate
from snnfast.learning import pretrained_policy, record_replay
from snnfast.learning.environments import make_environment

ENV_ID = "CartPole-v1"
EPISODES, MAX_STEPS = 100, 500
SLICE = 200
REPEATS = 5


class NotebookNetwork:
    """The thesis' dynamics (delayed order, potential decoding) as a notebook writes them: tensors and loops.

    It records nothing, which the notebook does as well, so it is rather faster than the original.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor | None], timesteps: int) -> None:
        self.weights = [w.T.contiguous() for w in weights]
        self.biases = list(biases)
        self.timesteps = timesteps

    def __call__(self, observation: Tensor) -> Tensor:
        """Final membrane potentials (1, n_out) for an observation (1, n_in)."""
        mem = [torch.zeros(1, w.shape[1]) for w in self.weights]
        syn = [torch.zeros(1, w.shape[1]) for w in self.weights]
        last = len(self.weights) - 1
        for _ in range(self.timesteps):
            inputs = observation
            for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
                h = torch.matmul(inputs, weight)
                if bias is not None:
                    h = h + bias
                out = torch.zeros_like(mem[layer]) if layer == last else (mem[layer] > 1.0).float()
                new_mem = mem[layer] + syn[layer] - out
                syn[layer] = h
                mem[layer] = new_mem
                inputs = out
        return mem[last]


def run(
    *, repeats: int = REPEATS, slice_size: int = SLICE, seed: int = 1, say: Callable[[str], None]
) -> dict[str, Any]:
    """Time both ways on the shipped CartPole policy and return the figures.

    Args:
        repeats: how often the whole evaluation is timed; the best counts.
        slice_size: decisions of the thesis' way that are timed.
        seed: of the replay memory and the episodes.
        say: prints a line.

    Raises:
        RuntimeError: if the two ways decide differently; then nothing was timed.
    """
    policy = pretrained_policy(ENV_ID)
    replay = record_replay(ENV_ID, policy, size=20_000, max_steps=MAX_STEPS, seed=seed)
    network = convert(policy, replay, preset="thesis")
    notebook = NotebookNetwork(network.weights, network.biases, network.timesteps)
    states = torch.as_tensor(replay.observations[:slice_size])
    ours = network(states).argmax(dim=1)
    theirs = torch.cat([notebook(states[i : i + 1]) for i in range(len(states))]).argmax(dim=1)
    if not torch.equal(ours, theirs):
        raise RuntimeError(
            f"{int((ours != theirs).sum())} of {len(states)} decisions differ: the times would mean nothing"
        )
    say(f"{len(states)} decisions of both ways are equal; now timing")

    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        report = evaluate(ENV_ID, network, compare_against=policy, episodes=EPISODES, max_steps=MAX_STEPS, seed=seed)
        seconds.append(time.perf_counter() - began)
    slice_seconds = min(_thesis_way(notebook, policy, slice_size, seed) for _ in range(3))
    per_decision = slice_seconds / slice_size
    scaled = per_decision * report.decisions
    result = {
        "benchmark": "evaluation",
        "seed": seed,
        "what": f"{EPISODES} episodes x {MAX_STEPS} steps, T={network.timesteps}, compared with the original",
        "seconds": min(seconds),
        "all_seconds": seconds,
        "decisions": report.decisions,
        "decisions_per_second": report.decisions / min(seconds),
        "similarity": report.similarity,
        "mean_return": report.mean_return,
        "thesis_way": {
            "measured_decisions": slice_size,
            "measured_seconds": slice_seconds,
            "seconds_per_decision": per_decision,
            "scaled_seconds": scaled,
            "note": f"measured on {slice_size} decisions (best of 3) and scaled to {report.decisions}",
            "equal_decisions_checked": len(states),
        },
        "ratio": scaled / min(seconds),
        **provenance(),
    }
    say(table(result))
    return result


def table(result: dict[str, Any]) -> str:
    """The figures for a terminal."""
    thesis = result["thesis_way"]
    return "\n".join(
        [
            f"evaluation: {result['what']}",
            f"  snnfast           {result['seconds']:10.3f} s   best of {len(result['all_seconds'])}, the whole call",
            f"  thesis' way       {thesis['scaled_seconds']:10.1f} s   {thesis['note']}",
            f"  ratio             {result['ratio']:10,.0f} x",
            f"  decisions         {result['decisions']:10,}     {result['decisions_per_second']:,.0f} per second",
        ]
    )


def _thesis_way(network: NotebookNetwork, policy: nn.Module, decisions: int, seed: int) -> float:
    """Seconds for a number of decisions, one at a time: environment, spiking network, original, comparison."""
    env = make_environment(ENV_ID, MAX_STEPS)
    correct = 0
    try:
        with torch.no_grad():
            observation, _ = env.reset(seed=seed)
            began = time.perf_counter()
            for _ in range(decisions):
                state = torch.from_numpy(np.asarray(observation, dtype=np.float32)).unsqueeze(0)
                action = int(network(state).argmax(dim=1))
                correct += int(policy(state).argmax(dim=1)) == action
                observation, _, terminated, truncated, _ = env.step(action)
                if terminated or truncated:
                    observation, _ = env.reset()
            return time.perf_counter() - began
    finally:
        env.close()

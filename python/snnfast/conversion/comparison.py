# SPDX-License-Identifier: Apache-2.0
"""A spiking network beside the policy it came from, on states that it was not made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from snnfast.conversion.reading import read_network
from snnfast.conversion.scaling import activations
from snnfast.evaluation.statistics import share_interval
from snnfast.learning import Replay
from snnfast.network import SpikingNetwork
from snnfast.spec import check_float

#: Share of a replay's states that are held out where no other states are given, about.
HELD_OUT = 0.25
_BATCH = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """How a spiking network decides on held-out states, and what that takes.

    Attributes:
        states: how many they are.
        similarity: share of them on which it decides like the policy.
        similarity_interval: 95 %, see :func:`similarity_interval`.
        mean_steps, most_steps: steps of a decision, all layers together, actually run, on average and at most.
        spikes_per_decision: of all neurons, spikes of either sign.
        output_error: the error that 50, 90, 99 and 100 % of the states stay below, in the policy's units; of a state it
            is the largest over the outputs.
        certified: share of decisions that were certified, or None without a certified exit.
        saturated: share of decisions in which a neuron was driven beyond its range, or None where that is not seen.
    """

    states: int
    similarity: float
    similarity_interval: tuple[float, float]
    mean_steps: float
    most_steps: int
    spikes_per_decision: float
    output_error: tuple[float, float, float, float]
    certified: float | None
    saturated: float | None


class HeldOut:
    """States that no conversion has seen, and what the policy answers on them.

    Args:
        policy: a trained ReLU network.
        replay: the states. The policy is asked anew: whose outputs the replay holds does not matter.
        seed: of intervals.

    Raises:
        ValueError: if the replay's ``episode_lengths`` do not add up to its states.
    """

    def __init__(self, policy: nn.Module, replay: Replay, seed: int = 1) -> None:
        layers = read_network(policy)
        self.sizes = (int(layers[0].weight.shape[1]), *(int(layer.weight.shape[0]) for layer in layers))
        self.observations = replay.observations
        self.outputs = activations(layers, replay.observations.numpy())[-1]
        self.decisions: npt.NDArray[np.int64] = self.outputs.argmax(axis=1)
        self.lengths: list[int] = replay.metadata.get("episode_lengths") or [len(replay)]
        # Metadata can be changed after the replay has checked them, and intervals divide by these.
        if sum(self.lengths) != len(replay):
            raise ValueError(
                f"replay must have episode_lengths that add up to its {len(replay)} states, got {sum(self.lengths)}"
            )
        self.seed = seed

    def ask(self, network: SpikingNetwork) -> Answers:
        """What the network answers on the same states."""
        outputs, steps, certified, saturated = [], [], [], []
        spikes = np.zeros(network.spec.spiking_layers)
        for batch in torch.split(self.observations, _BATCH):
            done = network.simulate(batch.to(network.device))
            outputs.append(done.output)
            spikes += [float(counts.sum(dtype=torch.float64)) for counts in done.spike_counts]
            ran = torch.full((len(batch),), float(network.spec.total_steps)) if done.steps is None else done.steps
            steps.append(ran)
            certified += [] if done.certified is None else [done.certified]
            saturated += [] if done.saturated is None else [done.saturated]
        return Answers(
            held_out=self,
            outputs=_joined(outputs) * network.output_scale,
            steps=_joined(steps),
            spikes_per_layer=tuple((spikes / len(self.observations)).tolist()),
            certified=_joined(certified) if certified else None,
            saturated=_joined(saturated) if saturated else None,
        )


def ask_about(net: SpikingNetwork, policy: nn.Module, replay: Replay, seed: int = 1) -> HeldOut:
    """What the policy that ``net`` was made from answers on the replay's states.

    Raises:
        TypeError, ValueError: if the three do not fit together.
    """
    check_replay("replay", replay)
    layers = read_network(policy)
    sizes = (int(layers[0].weight.shape[1]), *(len(layer.weight) for layer in layers))
    check_outputs(sizes)
    if sizes != net.sizes:
        raise ValueError(f"policy must be the network that net was made from, of sizes {net.sizes}, got {sizes}")
    if replay.observations.shape[1] != net.n_in:
        raise ValueError(
            f"replay must hold {net.n_in} features per state, as net takes, got {replay.observations.shape[1]}"
        )
    return HeldOut(policy, replay, seed)


def check_replay(name: str, value: object) -> None:
    """Raise a ``TypeError`` unless it is a replay: its episodes and outputs are needed, not only its states."""
    if not isinstance(value, Replay):
        raise TypeError(f"{name} must be a Replay, got {type(value).__name__}")


def check_outputs(sizes: Sequence[int]) -> None:
    """Raise a ``ValueError`` for a policy whose layers have these sizes, the outputs last, if it decides nothing."""
    if sizes[-1] < 2:
        raise ValueError(f"policy must have at least two outputs, between which it decides, got {sizes[-1]}")


def _joined(parts: list[torch.Tensor]) -> npt.NDArray[np.float64]:
    return torch.cat(parts).cpu().numpy().astype(np.float64)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What a spiking network did on held-out states, one row per state.

    Attributes:
        held_out: the states.
        outputs: (N, n_out), in the policy's units.
        steps: steps that were run, (N,).
        spikes_per_layer: of a decision, on average.
        certified, saturated: 1 where a decision was certified, or a neuron left its range, (N,); or None.
    """

    held_out: HeldOut
    outputs: npt.NDArray[np.float64]
    steps: npt.NDArray[np.float64]
    spikes_per_layer: tuple[float, ...]
    certified: npt.NDArray[np.float64] | None
    saturated: npt.NDArray[np.float64] | None

    @property
    def equal(self) -> npt.NDArray[np.bool_]:
        """Where the decision is the policy's, (N,)."""
        same: npt.NDArray[np.bool_] = self.outputs.argmax(axis=1) == self.held_out.decisions
        return same

    def comparison(self) -> Comparison:
        """The same in a few numbers."""
        equal, held_out = self.equal, self.held_out
        error = np.abs(self.outputs - held_out.outputs).max(axis=1)
        half, most, nearly, largest = (float(q) for q in np.quantile(error, (0.5, 0.9, 0.99, 1.0)))
        return Comparison(
            states=len(equal),
            similarity=float(equal.mean()),
            similarity_interval=similarity_interval(equal, held_out.lengths, held_out.seed),
            mean_steps=float(self.steps.mean()),
            most_steps=int(self.steps.max()),
            spikes_per_decision=sum(self.spikes_per_layer),
            output_error=(half, most, nearly, largest),
            certified=None if self.certified is None else float(self.certified.mean()),
            saturated=None if self.saturated is None else float(self.saturated.mean()),
        )


def split_replay(replay: Replay, share: float = HELD_OUT) -> tuple[Replay, Replay]:
    """A replay in two: its first episodes, and its last ones, which hold about ``share`` of the states.

    Whole episodes, because states of one are alike. A replay of a single episode, or one that does not say where its
    episodes end, is cut at that share.

    Raises:
        TypeError, ValueError: if it is no replay or holds fewer than two states, or the share is not between 0 and 1.
    """
    check_replay("replay", replay)
    if not 0 < check_float("share", share) < 1:
        raise ValueError(f"share must be above 0 and below 1, got {share!r}")
    if len(replay) < 2:
        raise ValueError(f"replay must hold at least two states to hold some out, got {len(replay)}")
    lengths = replay.metadata.get("episode_lengths") or []
    cut = max(1, min(len(replay) - 1, round(len(replay) * (1 - share))))
    first = 0
    if len(lengths) < 2:
        lengths = []  # the cut is within the episode, and neither part has its length
    else:
        ends = np.cumsum(lengths)[:-1]
        first = int(np.abs(ends - cut).argmin()) + 1
        cut = int(ends[first - 1])

    def part(start: int, stop: int, episodes: list[int]) -> Replay:
        about = {**replay.metadata, "size": stop - start, "episode_lengths": episodes or [stop - start]}
        return Replay(replay.observations[start:stop], replay.actions[start:stop], replay.outputs[start:stop], about)

    return part(0, cut, lengths[:first]), part(cut, len(replay), lengths[first:])


def similarity_interval(equal: npt.NDArray[np.bool_], lengths: Sequence[int], seed: int) -> tuple[float, float]:
    """95 % interval of a share of equal decisions: :func:`snnfast.evaluation.statistics.share_interval` of states.

    Args:
        equal: per state, whether the decisions are equal; episode after episode.
        lengths: of the episodes, which make up all the states.
        seed: of the resampling.
    """
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    agreed = np.add.reduceat(equal.astype(np.float64), starts)
    return share_interval(agreed, np.asarray(lengths, dtype=np.float64), seed)

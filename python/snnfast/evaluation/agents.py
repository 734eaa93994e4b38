# SPDX-License-Identifier: Apache-2.0
"""Asking an agent what to do, whatever it is made of, and counting what a spiking one spends on the answer."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from snnfast.input_width import width_taken
from snnfast.module_modes import evaluation_mode
from snnfast.network import SpikingNetwork
from snnfast.spec import FloatArray
from snnfast.torch_threads import one_thread

#: What can be evaluated: a spiking network, a torch module, or any function of (B, n_in) that gives (B, n_actions).
Agent = SpikingNetwork | torch.nn.Module | Callable[[FloatArray], Any]


@dataclasses.dataclass(frozen=True)
class Activity:
    """What a spiking network spends per decision, on average.

    Attributes:
        timesteps: steps T that a decision takes at most: those of one layer where layers take turns.
        steps: steps that were run, all layers' turns together.
        certified: share of the decisions that were certified; None without a certified exit.
        saturated: share of the decisions in which a neuron was driven beyond its range; None but for digits.
        spikes_per_layer: spikes that each spiking layer emits.
        input_spikes: spikes of the encoded input; 0 with constant encoding.
        synaptic_operations: spikes times fan-out, summed over the layers; input spikes included.
        input_macs: multiply-accumulates of a constant input current, computed once per decision; 0 if the input is
            encoded in spikes.
    """

    timesteps: int
    steps: float
    certified: float | None
    saturated: float | None
    spikes_per_layer: tuple[float, ...]
    input_spikes: float
    synaptic_operations: float
    input_macs: float


class Asker:
    """An agent with its output checked: observations (B, n) in, one action index per row out.

    Args:
        name: what errors call the agent.
        agent: what to ask.
        env_id, n_actions: the environment that it decides for.

    Attributes:
        certified: which of the last decisions were certified, (B,); None without a certified exit.

    Raises:
        TypeError: if the agent is none of the kinds that can be asked.
    """

    certified: npt.NDArray[np.bool_] | None = None

    def __init__(self, name: str, agent: Agent, env_id: str, n_actions: int) -> None:
        self._name, self._agent, self._env_id, self._n_actions = name, agent, env_id, n_actions
        self._rows = 0
        if isinstance(agent, SpikingNetwork):
            self._ask = self._ask_spiking
            self._spikes = np.zeros(agent.spec.spiking_layers)
            self._input_spikes = 0.0
            self._steps = self._certified = self._saturated = 0.0
            self._marks_saturated = False
        elif isinstance(agent, torch.nn.Module):
            self._ask = self._ask_module
            # The policy's own device and precision; a module without parameters gets float32 on the CPU.
            sample = next((p for p in agent.parameters() if p.is_floating_point()), torch.empty(0))
            self._device, self._dtype = sample.device, sample.dtype
        elif callable(agent):
            self._ask = self._ask_function
        else:
            raise TypeError(
                f"{name} must be a SpikingNetwork, a torch.nn.Module or a callable from (B, n_in) to (B, n_actions), "
                f"got {type(agent).__name__}"
            )

    @property
    def description(self) -> str:
        """The agent in a few words."""
        agent = self._agent
        if isinstance(agent, SpikingNetwork):
            return f"spiking network {'-'.join(map(str, agent.sizes))}, T={agent.timesteps}"
        if isinstance(agent, torch.nn.Module):
            linear = [m for m in agent.modules() if isinstance(m, torch.nn.Linear)]
            sizes = (
                "-".join(str(n) for n in (linear[0].in_features, *(m.out_features for m in linear))) if linear else ""
            )
            return f"{type(agent).__name__} {sizes}".strip()
        return getattr(agent, "__name__", type(agent).__name__)

    def __call__(self, observations: FloatArray, seed: int) -> npt.NDArray[np.int64]:
        """Index of the largest output per row, the first one at a tie.

        Raises:
            ValueError: if the observations do not fit the agent, or its output is not (B, n_actions) or not finite.
            TypeError: if its output is no array of real numbers.
        """
        self._rows += len(observations)
        output = self._as_array(self._ask(observations, seed))
        if output.shape != (len(observations), self._n_actions):
            raise ValueError(
                f"{self._name} must give one number per action of {self._env_id!r}, shape "
                f"{(len(observations), self._n_actions)}, got {output.shape}"
            )
        if output.dtype.kind not in "fiub":
            raise TypeError(f"{self._name} must give real numbers, got {output.dtype}")
        if output.dtype.kind == "f" and not np.isfinite(output).all():
            bad = int(np.flatnonzero(~np.isfinite(output).all(axis=1))[0])
            raise ValueError(
                f"{self._name} must give finite numbers, got {output[bad].tolist()} for {observations[bad].tolist()}"
            )
        decisions: npt.NDArray[np.int64] = output.argmax(axis=1)
        return decisions

    def activity(self) -> Activity | None:
        """Averages over all decisions so far; None for an agent without spikes, or if it was never asked."""
        if not isinstance(self._agent, SpikingNetwork) or self._rows == 0:
            return None
        spec = self._agent.spec
        neurons = spec.sizes[1:]
        # A layer's spikes go to every neuron of the next; those of the last layer go nowhere.
        fan_out = np.array([*neurons[1:], 0][: spec.spiking_layers])
        spiked_input = spec.encoding != "constant"
        return Activity(
            timesteps=spec.timesteps,
            steps=self._steps / self._rows,
            certified=None if self.certified is None else self._certified / self._rows,
            saturated=self._saturated / self._rows if self._marks_saturated else None,
            spikes_per_layer=tuple((self._spikes / self._rows).tolist()),
            input_spikes=self._input_spikes / self._rows,
            synaptic_operations=float(self._spikes @ fan_out + self._input_spikes * neurons[0]) / self._rows,
            input_macs=0.0 if spiked_input else float(spec.weights[0].size),
        )

    def _ask_spiking(self, observations: FloatArray, seed: int) -> object:
        network = self._agent
        assert isinstance(network, SpikingNetwork)
        if observations.shape[1] != network.n_in:
            raise self._wrong_width(observations, network.n_in)
        simulation = network.simulate(torch.from_numpy(observations).to(network.device), seed=seed)
        for layer, counts in enumerate(simulation.spike_counts):
            self._spikes[layer] += _sum(counts)
        if simulation.input_spike_counts is not None:
            self._input_spikes += _sum(simulation.input_spike_counts)
        self._steps += (
            network.spec.total_steps * len(observations) if simulation.steps is None else _sum(simulation.steps)
        )
        if simulation.certified is not None:
            self.certified = simulation.certified.cpu().numpy() != 0
            self._certified += _sum(simulation.certified)
        if simulation.saturated is not None:
            self._marks_saturated = True
            self._saturated += _sum(simulation.saturated)
        return simulation.output

    def _ask_module(self, observations: FloatArray, seed: int) -> object:
        # A copy, so that a module working in place cannot change what the other agent is asked about.
        batch = torch.from_numpy(observations.copy()).to(self._device, self._dtype)
        module = self._agent
        assert isinstance(module, torch.nn.Module)
        try:
            with torch.inference_mode():
                return module(batch)
        except RuntimeError as error:
            taken = width_taken(module, observations.shape[1])
            if taken is not None:
                raise self._wrong_width(observations, taken) from error
            raise ValueError(
                f"{self._name} could not be asked about observations of shape {observations.shape} "
                f"from {self._env_id!r}: {error}"
            ) from error

    def _ask_function(self, observations: FloatArray, seed: int) -> object:
        return self._agent(observations.copy())

    def _wrong_width(self, observations: FloatArray, n_in: int) -> ValueError:
        return ValueError(
            f"{self._name} takes observations of {n_in} numbers, got {observations.shape[1]} from "
            f"{self._env_id!r} (after preprocessing and history)"
        )

    def _as_array(self, output: object) -> npt.NDArray[Any]:
        if isinstance(output, torch.Tensor):
            output = output.detach().cpu()
            array: npt.NDArray[Any] = (output.float() if output.dtype == torch.bfloat16 else output).numpy()
            return array
        if isinstance(output, np.ndarray):
            return output
        raise TypeError(f"{self._name} must give a numpy array or a torch tensor, got {type(output).__name__}")


def _sum(values: torch.Tensor) -> float:
    return float(values.cpu().numpy().sum(dtype=np.float64))


@contextlib.contextmanager
def deciding(*agents: Agent | None) -> Iterator[None]:
    """Modules in evaluation mode for a while, and in one thread if that is enough."""
    with evaluation_mode(*(agent for agent in agents if isinstance(agent, torch.nn.Module))), _small_work(agents):
        yield


#: Parameters up to which a module is asked in one thread: see torch_threads.
_SMALL = 1 << 14


def _small_work(agents: tuple[Agent | None, ...]) -> contextlib.AbstractContextManager[None]:
    """One torch thread if that is enough for every module; what a user's own function does is left alone."""
    modules = [agent for agent in agents if isinstance(agent, torch.nn.Module)]
    ours = all(agent is None or isinstance(agent, (SpikingNetwork, torch.nn.Module)) for agent in agents)
    small = all(sum(p.numel() for p in module.parameters()) <= _SMALL for module in modules)
    return one_thread() if modules and ours and small else contextlib.nullcontext()

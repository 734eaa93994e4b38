# SPDX-License-Identifier: Apache-2.0
"""The same network in other libraries for spiking networks, as far as they are installed.

Each is written as that library's tutorials do it, and checked against the dynamics that it documents before anything is
timed: all integrate, fire and subtract within one step, some at the threshold and some only above it. The original
packages are never required: ``pip install ".[peers]"``.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any

import torch
from torch import Tensor, nn

from snnfast.bench.rivals import NaiveTorch
from snnfast.network import SpikingNetwork

Run = Callable[[Tensor], Tensor]
#: Of all samples, those whose potentials must be the reference's for a peer to count as doing the same.
SAME_SHARE = 0.9
#: Potentials are the same if they differ by less: it forces equal spike counts in the last hidden layer, nearly.
TOLERANCE = 1e-3


def _linears(network: SpikingNetwork, scale: float = 1.0) -> list[nn.Linear]:
    """The layers, with weights and biases of all but the last times ``scale``."""
    layers = []
    for i, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        factor = 1.0 if i == len(network.weights) - 1 else scale
        with torch.no_grad():
            layer.weight.copy_(weight * factor)
            if bias is not None:
                layer.bias.copy_(bias * factor)
        layers.append(layer)
    return layers


def _snntorch(network: SpikingNetwork, batch: int) -> Run:
    import snntorch

    linears = _linears(network)
    neurons = [snntorch.Leaky(beta=1.0, threshold=1.0, reset_mechanism="subtract") for _ in linears[:-1]]
    output = snntorch.Leaky(beta=1.0, threshold=1.0, reset_mechanism="none")

    def run(observations: Tensor) -> Tensor:
        potentials = [neuron.init_leaky() for neuron in neurons]
        final = output.init_leaky()
        for _ in range(network.timesteps):
            spikes = observations
            for i, neuron in enumerate(neurons):
                spikes, potentials[i] = neuron(linears[i](spikes), potentials[i])
            _, final = output(linears[-1](spikes), final)
        return torch.as_tensor(final)

    return run


def _spikingjelly(network: SpikingNetwork, batch: int) -> Run:
    from spikingjelly.activation_based import functional, layer, neuron

    linears, steps = _linears(network), network.timesteps
    first = linears[0]
    rest = nn.Sequential()
    for linear in linears[1:]:
        rest.append(neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode="m"))
        rest.append(layer.SeqToANNContainer(linear))
    rest.eval()

    def run(observations: Tensor) -> Tensor:
        functional.reset_net(rest)
        sequence: Tensor = rest(first(observations).unsqueeze(0).repeat(steps, 1, 1))
        return sequence.sum(0)

    return run


def _sinabs(network: SpikingNetwork, batch: int) -> Run:
    import sinabs.layers
    from sinabs.activation import MembraneSubtract, SingleSpike

    linears, steps = _linears(network), network.timesteps
    model = nn.Sequential()
    for linear in linears[:-1]:
        model.append(linear)
        model.append(
            sinabs.layers.IAFSqueeze(
                batch_size=batch, spike_fn=SingleSpike, reset_fn=MembraneSubtract(), min_v_mem=None
            )
        )
    model.append(linears[-1])
    model.eval()

    def run(observations: Tensor) -> Tensor:
        for module in model:
            if isinstance(module, sinabs.layers.IAFSqueeze):
                module.reset_states()
        repeated = observations.repeat_interleave(steps, dim=0)
        outputs: Tensor = model(repeated)
        return outputs.view(len(observations), steps, -1).sum(1)

    return run


def _norse(network: SpikingNetwork, batch: int) -> Run:
    from norse.torch.functional.lif_box import LIFBoxParameters
    from norse.torch.functional.reset import reset_subtract
    from norse.torch.module.lif_box import LIFBoxCell

    # dv = dt / tau (i - v): a leak of one in a million, with currents a million times larger.
    linears = _linears(network, 1e6)
    parameters = LIFBoxParameters(tau_mem_inv=torch.as_tensor(1e-3), reset_method=reset_subtract)
    cells = [LIFBoxCell(parameters, dt=1e-3) for _ in linears[:-1]]

    def run(observations: Tensor) -> Tensor:
        states: list[Any] = [None] * len(cells)
        final = torch.zeros(())
        for _ in range(network.timesteps):
            spikes = observations
            for i, cell in enumerate(cells):
                spikes, states[i] = cell(linears[i](spikes), states[i])
            final = final + linears[-1](spikes)
        return final

    return run


@dataclasses.dataclass(frozen=True)
class Peer:
    """A library.

    Attributes:
        strict: it fires above the threshold and not at it.
        build: makes a function from observations to final potentials, for one size of batch.
    """

    name: str
    package: str
    strict: bool
    how: str
    build: Callable[[SpikingNetwork, int], Run]

    def missing(self) -> str:
        """Why it cannot be used here, or ""."""
        try:
            metadata.version(self.name)
            with warnings.catch_warnings():  # of what they use that is out of date: not ours, and not the user's
                warnings.simplefilter("ignore")
                import_module(self.package)
        except metadata.PackageNotFoundError:
            return "not installed"
        except Exception as error:  # whatever a foreign package raises while it is imported
            return f"cannot be imported: {type(error).__name__}: {error}"
        return ""


PEERS = (
    Peer("snntorch", "snntorch", True, "Leaky(beta=1), a loop over time", _snntorch),
    Peer("spikingjelly", "spikingjelly.activation_based", False, "IFNode, layer by layer", _spikingjelly),
    Peer("sinabs", "sinabs.layers", False, "IAFSqueeze, one spike per step, layer by layer", _sinabs),
    Peer("norse", "norse.torch", True, "LIFBoxCell with a leak of 1e-6, a loop over time", _norse),
)


def check_peer(peer: Peer, run: Run, network: SpikingNetwork, observations: Tensor) -> dict[str, Any]:
    """Whether a peer computes the dynamics that it documents.

    Returns:
        The share of samples with the reference's potentials and with its decision, and whether that counts as the same.
    """
    with torch.no_grad():
        theirs, expected = run(observations), NaiveTorch(network, strict=peer.strict)(observations)
    equal = float(((theirs - expected).abs().amax(dim=1) < TOLERANCE).double().mean())
    return {
        "fires": "above the threshold" if peer.strict else "at the threshold",
        "how": peer.how,
        "version": metadata.version(peer.name),
        "samples_equal": equal,
        "decisions_equal": float((theirs.argmax(1) == expected.argmax(1)).double().mean()),
        "same": equal >= SAME_SHARE,
    }

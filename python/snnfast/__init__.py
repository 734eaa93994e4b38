# SPDX-License-Identifier: Apache-2.0
"""Trained ReLU policies as spiking networks that decide the same way, run at the machine's limit."""

from snnfast._version import __version__
from snnfast.backends import num_threads, set_num_threads
from snnfast.checkpoint import CheckpointError
from snnfast.info import info
from snnfast.layer import if_forward
from snnfast.network import SpikingNetwork
from snnfast.reference import Simulation
from snnfast.spec import NeuronSpec

__all__ = [
    "CheckpointError",
    "NeuronSpec",
    "Simulation",
    "SpikingNetwork",
    "__version__",
    "if_forward",
    "info",
    "num_threads",
    "set_num_threads",
]

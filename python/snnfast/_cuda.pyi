"""
CUDA backend of snnfast. Private: use snnfast.SpikingNetwork(..., backend="cuda").
"""
from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing
__all__: list[str] = ['Plan', 'info']
class Plan:
    """
    A network made ready to run on a CUDA device; owns nothing there.
    """
    def __init__(self, *, weights: collections.abc.Sequence[typing.Annotated[numpy.typing.ArrayLike, numpy.float32]], biases: collections.abc.Sequence[typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None], alpha: typing.SupportsFloat | typing.SupportsIndex, beta: typing.SupportsFloat | typing.SupportsIndex, threshold: typing.SupportsFloat | typing.SupportsIndex, initial_membrane: typing.SupportsFloat | typing.SupportsIndex, reset: str, order: str, timesteps: typing.SupportsInt | typing.SupportsIndex, encoding: str, decoding: str, split_inputs: bool, bias_input: bool, code: dict[str, typing.Any] | None = None, device: typing.SupportsInt | typing.SupportsIndex, exact: bool = True) -> None:
        ...
    def run(self, stream: typing.SupportsInt | typing.SupportsIndex, packed: typing.SupportsInt | typing.SupportsIndex, workspace: typing.SupportsInt | typing.SupportsIndex, observations: typing.SupportsInt | typing.SupportsIndex, batch: typing.SupportsInt | typing.SupportsIndex, output: typing.SupportsInt | typing.SupportsIndex, seed: typing.SupportsInt | typing.SupportsIndex = 0, first_sample: typing.SupportsInt | typing.SupportsIndex = 0, spike_counts: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] = [], input_counts: typing.SupportsInt | typing.SupportsIndex = 0, spikes: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] = [], potentials: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] = [], steps: typing.SupportsInt | typing.SupportsIndex = 0, certified: typing.SupportsInt | typing.SupportsIndex = 0, saturated: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
        """
        Queue a batch on a stream of the current device; empty lists and address 0 mean: not wanted.
        """
    def workspace_bytes(self, batch: typing.SupportsInt | typing.SupportsIndex, simulate: bool) -> int:
        ...
    @property
    def method(self) -> str:
        ...
    @property
    def packed(self) -> numpy.typing.NDArray[numpy.float32]:
        """
        Float32 array that run wants a copy of on the device.
        """
    @property
    def sliced_layers(self) -> int:
        """
        Layers that products of matrices serve.
        """
def info() -> dict[str, typing.Any]:
    """
    What this module was built for, and what the driver can run.
    """

"""
CPU backend of snnfast. Private: use snnfast.SpikingNetwork and snnfast.if_forward.
"""
from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing
__all__: list[str] = ['Plan', 'cap_isa', 'fast_act', 'fast_run', 'if_forward', 'info', 'measure_ceiling', 'num_threads', 'parallel_loops', 'set_num_threads', 'supported_isas']
class Plan:
    """
    A network made ready to run on this machine.
    """
    def __init__(self, *, weights: collections.abc.Sequence[typing.Annotated[numpy.typing.ArrayLike, numpy.float32]], biases: collections.abc.Sequence[typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None], alpha: typing.SupportsFloat | typing.SupportsIndex, beta: typing.SupportsFloat | typing.SupportsIndex, threshold: typing.SupportsFloat | typing.SupportsIndex, initial_membrane: typing.SupportsFloat | typing.SupportsIndex, reset: str, order: str, timesteps: typing.SupportsInt | typing.SupportsIndex, encoding: str, decoding: str, split_inputs: bool, bias_input: bool, code: dict[str, typing.Any] | None = None, isa: str | None = None, exact: bool = True, method: str = 'auto') -> None:
        ...
    def run(self, observations: typing.SupportsInt | typing.SupportsIndex, batch: typing.SupportsInt | typing.SupportsIndex, output: typing.SupportsInt | typing.SupportsIndex, seed: typing.SupportsInt | typing.SupportsIndex = 0, first_sample: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
        """
        Run a batch; addresses of float32 arrays (batch, n_in) and (batch, n_out).
        """
    def simulate(self, observations: typing.SupportsInt | typing.SupportsIndex, batch: typing.SupportsInt | typing.SupportsIndex, output: typing.SupportsInt | typing.SupportsIndex, seed: typing.SupportsInt | typing.SupportsIndex, first_sample: typing.SupportsInt | typing.SupportsIndex, spike_counts: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], input_counts: typing.SupportsInt | typing.SupportsIndex, spikes: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], potentials: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], steps: typing.SupportsInt | typing.SupportsIndex = 0, certified: typing.SupportsInt | typing.SupportsIndex = 0, saturated: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
        """
        Run a batch and record; empty lists and address 0 mean: not wanted.
        """
    @property
    def counts_last(self) -> bool:
        """
        Whether the last layer goes by counts of spikes.
        """
    @property
    def isa(self) -> str:
        ...
    @property
    def method(self) -> str:
        ...
    @property
    def n_in(self) -> int:
        ...
    @property
    def n_out(self) -> int:
        ...
    @property
    def trains(self) -> int:
        """
        Spike trains of the first layer in a table by now.
        """
    @property
    def why(self) -> str:
        ...
def cap_isa(name: str) -> None:
    ...
def fast_act(plan: typing.Any, fallback: typing.Any, tensor_type: typing.Any) -> typing.Any:
    """
    A function observation -> decision; anything but a plain array or tensor goes to `fallback`.
    """
def fast_run(plan: typing.Any, tensor_type: typing.Any, is_tracing: collections.abc.Callable[[], bool], quiet: collections.abc.Sequence[tuple[dict[str, typing.Any], str, typing.Any]]) -> typing.Any:
    """
    A function observations -> output; None for anything but a plain float32 tensor or a plain array, and for a tensor while is_tracing() says so or, of `quiet`, a name in a namespace has another value than the one there.
    """
def if_forward(current: typing.SupportsInt | typing.SupportsIndex, membrane: typing.SupportsInt | typing.SupportsIndex, spikes: typing.SupportsInt | typing.SupportsIndex, steps: typing.SupportsInt | typing.SupportsIndex, width: typing.SupportsInt | typing.SupportsIndex, threshold: typing.SupportsFloat | typing.SupportsIndex, order: str, isa: str | None = None) -> None:
    """
    One layer over time; addresses of current (steps, width), membrane (width, updated) and spikes.
    """
def info() -> dict[str, typing.Any]:
    ...
def measure_ceiling(name: str, bytes: typing.SupportsInt | typing.SupportsIndex = 0, isa: str | None = None) -> float:
    """
    Units per second of one core at best; csrc/cpu/measure_ceiling.h lists the names.
    """
def num_threads() -> int:
    ...
def parallel_loops() -> int:
    """
    How many loops have used more than one thread so far.
    """
def set_num_threads(n: typing.SupportsInt | typing.SupportsIndex) -> None:
    ...
def supported_isas() -> list[str]:
    ...

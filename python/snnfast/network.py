# SPDX-License-Identifier: Apache-2.0
"""The spiking network that a user holds: it checks what comes in, chooses a backend, and never computes itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from snnfast import backends, checkpoint, ops
from snnfast.backends import Record
from snnfast.reference import Simulation
from snnfast.spec import (
    Code,
    Decoding,
    EarlyExit,
    Encoding,
    FloatArray,
    NetworkSpec,
    NeuronSpec,
    check_choice,
    check_float,
    check_seed,
    code_from_json,
    code_to_json,
    is_masked,
)

_CPU = torch.device("cpu")


def _as_observations(value: object, n_in: int, device: torch.device = _CPU) -> Tensor:
    """Check observations and return them as a contiguous float32 tensor on ``device``, of their own rank.

    Tensors must be there already, as everywhere in torch; arrays, which have no device, are sent.
    """
    if isinstance(value, np.ndarray):
        if is_masked(value):
            raise TypeError("observations must be a plain array, got one with a mask: fill it first")
        if value.dtype.kind not in "iu" and not (value.dtype.kind == "f" and value.dtype.itemsize in (4, 8)):
            raise TypeError(f"observations must be float32, float64 or integers, got numpy {value.dtype}")
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused as such
            tensor = torch.from_numpy(np.array(value, dtype=np.float32, order="C")).to(device)
    elif isinstance(value, Tensor):
        if type(value) not in (Tensor, torch.nn.Parameter):  # their numbers may lie elsewhere, or nowhere
            raise TypeError(f"observations must be a plain torch tensor, got {type(value).__name__}")
        if value.layout != torch.strided or value.is_nested:
            kind = "a nested one" if value.is_nested else f"layout {value.layout}"
            raise TypeError(f"observations must be a dense tensor, got {kind}")
        if value.device != device:
            where = "the CPU" if device.type == "cpu" else f"device {device}"
            raise ValueError(f"observations must be on {where}, where this network runs, got device {value.device}")
        if value.dtype != torch.float32 and value.dtype not in ops.CONVERTED:
            raise TypeError(f"observations must be float32, float64 or integers, got {value.dtype}")
        ops.refuse_gradient("observations", value)
        ops.refuse_transformed("observations", value)
        tensor = value.detach().to(torch.float32).contiguous()
        if tensor.is_conj() or tensor.is_neg():
            tensor = tensor.resolve_conj().resolve_neg()
    else:
        raise TypeError(f"observations must be a torch tensor or a numpy array, got {type(value).__name__}")
    if tensor.ndim not in (1, 2) or tensor.shape[-1] != n_in:
        raise ValueError(f"observations must have shape (B, {n_in}) or ({n_in},), got {tuple(tensor.shape)}")
    return tensor


class SpikingNetwork:
    """Layers of integrate-and-fire neurons, run for T steps on a batch of observations in one call.

    The dynamics are those of :class:`snnfast.NeuronSpec`; within one step every layer sees the spikes that the layer
    before it emitted in that same step. The network holds no state between calls.

    Args:
        weights: per layer (n_out, n_in), as in ``torch.nn.Linear``; tensors or arrays, copied as float32.
        biases: per layer (n_out,) or ``None``; or ``None`` for no biases at all.
        neuron: constants and update order of the neurons.
        timesteps: steps T per decision.
        encoding: ``"constant"``, ``"equidistant"`` or ``"poisson"``.
        decoding: ``"potential"``, ``"mean_potential"``, ``"parabolic_potential"``, ``"spikes"`` or ``"first_spike"``.
        backend: ``"auto"`` (the CPU), ``"reference"``, ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``. With CUDA,
            tensors must be on that device and the output is there too; arrays go there and come back.
        exact: hold to the exact contract (bit-identical for every backend, instruction set and number of threads).
            ``False`` permits other orders of summation where they are faster (contract *fast*: a spike may differ
            where the membrane potential is within rounding of the threshold): weights as integers, for matrix units,
            of the processor or of a CUDA device, and for prefix sums; and a last layer from how often its inputs
            spiked. Where ``method()["why"]`` names none of the three, both give the same bits.
        split_inputs: encode ``[max(x, 0), max(-x, 0)]`` with weights ``[W, -W]``.
        bias_input: append a constant 1 to observations; the first weights carry a last column for it.
        code: how hidden neurons tell each other a number, if not by the firing rate of plain neurons: a ``RateCode``
            (copies, signed spikes), ``StagedCode``, ``RadixCode`` or ``DigitsCode``; see :mod:`snnfast.spec.codes`.
        early_exit: an ``EarlyExit``: when a decision may stop before its last step.
        output_scale: factor from decoded output to the unit of the network this one was converted from.
        conversion: how this network was made; kept in checkpoints. Must be JSON.

    Raises:
        TypeError, ValueError: naming the argument, what was required and what arrived.
        NotImplementedError: if the backend is not available here, saying why.

    The options of encoding and decoding are described in :class:`snnfast.spec.NetworkSpec`.
    """

    def __init__(
        self,
        weights: Sequence[Tensor | npt.NDArray[Any]],
        biases: Sequence[Tensor | npt.NDArray[Any] | None] | None = None,
        neuron: NeuronSpec | None = None,
        timesteps: int = 100,
        encoding: Encoding = "constant",
        decoding: Decoding = "potential",
        backend: str = "auto",
        exact: bool = True,
        *,
        split_inputs: bool = False,
        bias_input: bool = False,
        code: Code | None = None,
        early_exit: EarlyExit | None = None,
        output_scale: float = 1.0,
        conversion: Mapping[str, Any] | None = None,
    ) -> None:
        spec = NetworkSpec(
            weights=weights,  # type: ignore[arg-type]  # the spec copies and checks whatever arrives
            biases=biases,  # type: ignore[arg-type]
            neuron=NeuronSpec() if neuron is None else neuron,
            timesteps=timesteps,
            encoding=encoding,
            decoding=decoding,
            split_inputs=split_inputs,
            bias_input=bias_input,
            code=code,
            early_exit=early_exit,
        )
        if not isinstance(exact, bool):
            raise TypeError(f"exact must be True or False, got {exact!r}")
        if conversion is not None and not isinstance(conversion, Mapping):
            raise TypeError(f"conversion must be a mapping, got {type(conversion).__name__}")
        self._spec = spec
        self._exact = exact
        self._backend = backends.resolve(backend)
        self._n_in = spec.n_in
        self.output_scale = check_float("output_scale", output_scale)
        self.conversion: dict[str, Any] = dict(conversion or {})
        self._executable = backends.compile_network(spec, self._backend, exact)
        self._run = self._executable.run
        self._fast_run = self._executable.fast_run()
        arrays, description = self._described()
        named = ops.fingerprint(arrays, {**description, "backend": self._backend, "exact": exact})
        self._number = named  # what a compiler can see through
        self._name = ops.register(self, named, self._run)  # kept, so that the operator keeps on finding it
        # The lowest latency: a compiled function in the place of the method. What it falls back to must not hold this
        # object, or the two would keep each other alive for ever.
        if type(self).act is SpikingNetwork.act:
            general = _general_act(self._run, self._n_in, self.device)
            self.act = self._executable.act(general)  # type: ignore[method-assign]

    # What it is -----------------------------------------------------------------------------------------------------

    @property
    def spec(self) -> NetworkSpec:
        """The checked description of the network."""
        return self._spec

    @property
    def weights(self) -> list[Tensor]:
        """Copies of the weights, per layer (n_out, n_in)."""
        return [torch.from_numpy(w.copy()) for w in self._spec.weights]

    @property
    def biases(self) -> list[Tensor | None]:
        """Copies of the biases, per layer (n_out,) or None."""
        return [None if b is None else torch.from_numpy(b.copy()) for b in self._spec.biases]

    @property
    def neuron(self) -> NeuronSpec:
        """Constants and update order of the neurons."""
        return self._spec.neuron

    @property
    def timesteps(self) -> int:
        """Steps T per decision."""
        return self._spec.timesteps

    @property
    def sizes(self) -> tuple[int, ...]:
        """Features of an observation, then the neurons of every layer."""
        return self._spec.sizes

    @property
    def n_in(self) -> int:
        """Features of an observation."""
        return self._n_in

    @property
    def n_out(self) -> int:
        """Numbers that one observation gives."""
        return self._spec.n_out

    @property
    def backend(self) -> str:
        """Name of the backend that runs this network."""
        return self._backend.partition(":")[0]

    @property
    def device(self) -> torch.device:
        """Where the network runs; observations that are tensors must be there."""
        return self._executable.device

    @property
    def exact(self) -> bool:
        """Whether the exact contract was asked for."""
        return self._exact

    def method(self) -> dict[str, str]:
        """Which backend, instruction set and method run this network, and why ("backend", "isa", "method", "why")."""
        return self._executable.method()

    def __repr__(self) -> str:
        spec, method = self._spec, self.method()
        return (
            f"SpikingNetwork({'-'.join(map(str, self.sizes))}, timesteps={spec.timesteps}, "
            f"{spec.encoding} encoding, {spec.decoding} decoding, {spec.neuron.order} order, "
            f"backend={method['backend']!r}, {method['isa']}, {method['method']})"
        )

    # What it does ---------------------------------------------------------------------------------------------------

    @overload
    def __call__(self, observations: Tensor, *, seed: int = 0, original_units: bool = False) -> Tensor: ...
    @overload
    def __call__(
        self, observations: npt.NDArray[Any], *, seed: int = 0, original_units: bool = False
    ) -> FloatArray: ...
    def __call__(
        self, observations: Tensor | npt.NDArray[Any], *, seed: int = 0, original_units: bool = False
    ) -> Tensor | FloatArray:
        """Run all time steps and return the decoded output.

        Args:
            observations: (B, n_in) or (n_in,); torch or numpy; float32, or float64 or integers, which are converted.
            seed: of the random numbers of Poisson encoding. The same seed gives the same spikes.
            original_units: multiply by ``output_scale``, which turns the output of a converted network into an
                estimate of the original network's output (Q-values, logits).

        Returns:
            (B, n_out) or (n_out,), float32, of the same kind as the observations. A tensor may be changed in place, but
            not be resized.

        Raises:
            TypeError, ValueError: if the observations are of the wrong kind, dtype, shape or device, or not finite.
        """
        # Dynamo must not meet a compiled function.
        if is_dynamo_compiling() and isinstance(observations, Tensor):
            return self._as_operator(observations, seed, original_units)
        # The common case first, in the fewest steps: plain numbers, random ones (if any) from the default seed.
        if self._fast_run is not None and seed == 0 and type(seed) is int:
            plain: Tensor | FloatArray | None = self._fast_run(observations)  # it looks for itself
            if plain is not None:
                return plain * self.output_scale if original_units else plain
        # Others that look at operations must meet one, also where what they send is exactly a torch.Tensor.
        if isinstance(observations, Tensor) and (
            torch.compiler.is_compiling() or ops.is_transformed(observations) or ops.is_watched()
        ):
            return self._as_operator(observations, seed, original_units)
        batch = _as_observations(observations, self._n_in, self.device)
        output = self._run(batch if batch.ndim == 2 else batch.unsqueeze(0), check_seed(seed))
        if original_units:
            output = output * self.output_scale
        if batch.ndim == 1:
            output = output[0]
        return output.cpu().numpy() if isinstance(observations, np.ndarray) else output

    def _as_operator(self, observations: Tensor, seed: int, original_units: bool) -> Tensor:
        """The call as one operator of torch, for whatever looks at operations; see :mod:`snnfast.ops`."""
        if not is_dynamo_compiling():  # what the operator would drop, or torch would refuse in riddles
            refuse = ops.refuse_gradient if ops.is_transformed(observations) else ops.refuse_tangent
            refuse("observations", observations)
        output = ops.run(observations, self._number, self._spec.n_out, check_seed(seed))
        return output * self.output_scale if original_units else output

    def _run_checked(self, run: Callable[[Tensor, int], Tensor], observations: Tensor, seed: int) -> Tensor:
        """What the operator asks for, of a batch (B, n_in) of any strides: ``run`` is a network's like this one."""
        batch = _as_observations(observations.detach(), self._n_in, self.device)
        return run(batch, seed % 2**64)  # the operator's are from -2**63 on

    def simulate(
        self,
        observations: Tensor | npt.NDArray[Any],
        *,
        seed: int = 0,
        record: Collection[Record] | Record = (),
    ) -> Simulation:
        """Run all time steps and return what the network did, not only what it answered.

        Args:
            observations: (B, n_in) or (n_in,), as for calling the network; a single one counts as a batch of 1.
            seed: of the random numbers of Poisson encoding.
            record: any of ``"spikes"`` and ``"potentials"``: tensors (T, B, N) per layer.

        Returns:
            A :class:`~snnfast.reference.Simulation` of torch tensors; spike counts are always there.

        Raises:
            TypeError, ValueError: as for calling the network; or an unknown name in ``record``.
            NotImplementedError: in a program that torch writes down; that can only call the network.
        """
        ops.refuse_tracing("simulate")
        if not isinstance(record, (str, Collection)):
            raise TypeError(f"record must be a collection of names, got {type(record).__name__}")
        names = (record,) if isinstance(record, str) else record
        for name in names:
            check_choice("record", name, Record)
        wanted = frozenset(names)
        batch = _as_observations(observations, self._n_in, self.device)
        return self._executable.simulate(batch if batch.ndim == 2 else batch.unsqueeze(0), check_seed(seed), wanted)

    def act(self, observation: Tensor | npt.NDArray[Any], *, seed: int = 0) -> int:
        """The decision for one observation (n_in,): the index of the largest output, the first one at a tie."""
        return _general_act(self._run, self._n_in, self.device)(observation, seed=seed)

    def to(self, device: str | torch.device) -> SpikingNetwork:
        """This network on another device: ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.

        Unlike ``torch.nn.Module.to`` it changes nothing in place: it returns itself if it runs there already, and else
        a new network. ``"cuda"`` without an index is the current CUDA device.

        Raises:
            ValueError: if it names no such device.
            RuntimeError: if torch knows no device of that name.
            NotImplementedError: if CUDA is not available here, saying why.
        """
        wanted = torch.device(device)
        if wanted.type not in ("cpu", "cuda"):
            raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:<index>', got {str(device)!r}")
        backend = backends.resolve(str(wanted)) if wanted.type == "cuda" else "cpu"
        if self.device == torch.device(backend):
            return self
        rebuild, (*arguments, _, exact, options), _ = self.__reduce__()
        moved: SpikingNetwork = rebuild(*arguments, backend, exact, options)
        named, slots = self._more()
        moved.__dict__.update(named)
        for name, value in slots.items():
            setattr(moved, name, value)
        return moved

    def __reduce__(self) -> tuple[Any, ...]:
        """Copying, and sending to a worker process: by its description; the other side makes it ready anew."""
        spec = self._spec
        arguments = (list(spec.weights), list(spec.biases), spec.neuron, spec.timesteps, spec.encoding, spec.decoding)
        options = {
            "split_inputs": spec.split_inputs,
            "bias_input": spec.bias_input,
            "code": spec.code,
            "early_exit": spec.early_exit,
            "output_scale": self.output_scale,
            "conversion": self.conversion,
        }
        named, slots = self._more()
        state = (named, slots) if slots else named
        return _rebuild, (type(self), *arguments, self._backend, self._exact, options), state

    def _more(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a subclass has beside this: in its dictionary, and in slots."""
        slots: set[str] = set()
        for kind in type(self).__mro__:
            names = kind.__dict__.get("__slots__", ())
            for name in (names,) if isinstance(names, str) else names:
                private = name.startswith("__") and not name.endswith("__")
                slots.add(f"_{kind.__name__.lstrip('_')}{name}" if private else name)
        return (
            {name: value for name, value in self.__dict__.items() if name not in _MADE},
            {name: getattr(self, name) for name in sorted(slots - {"__dict__", "__weakref__"}) if hasattr(self, name)},
        )

    # How it is kept -------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a safetensors file, atomically.

        Raises:
            OSError: if the file cannot be written; whatever was there before is then untouched.
        """
        tensors, metadata = self._described()
        metadata |= {"output_scale": self.output_scale, "conversion": self.conversion}
        checkpoint.save(path, "spiking-network", tensors, metadata)

    def _described(self) -> tuple[dict[str, FloatArray], dict[str, Any]]:
        """All that outputs depend on: arrays, and what JSON can hold."""
        spec = self._spec
        tensors = {f"weights.{i}": w for i, w in enumerate(spec.weights)}
        tensors |= {f"biases.{i}": b for i, b in enumerate(spec.biases) if b is not None}
        neuron, leave = spec.neuron, spec.early_exit
        code, tables = code_to_json(spec.code)
        tensors |= tables
        if leave is not None and leave.bounds is not None:
            # What must go on is infinite, which a checkpoint does not hold: nothing is that far ahead either.
            tensors["early_exit.bounds"] = np.minimum(leave.bounds, np.finfo(np.float32).max)
        metadata = {
            "sizes": list(spec.sizes),
            "neuron": {name: getattr(neuron, name) for name in _NEURON_FIELDS},
            "timesteps": spec.timesteps,
            "encoding": spec.encoding,
            "decoding": spec.decoding,
            "split_inputs": spec.split_inputs,
            "bias_input": spec.bias_input,
            "code": code,
            "early_exit": None if leave is None else leave.kind,
        }
        return tensors, metadata

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, backend: str = "auto", exact: bool = True) -> SpikingNetwork:
        """Read a network that :meth:`save` has written.

        Raises:
            FileNotFoundError: if there is no such file.
            snnfast.CheckpointError: if the file is damaged, of another kind, or describes no valid network.
        """
        tensors, metadata = checkpoint.load(path, "spiking-network")
        try:
            layers = len(metadata["sizes"]) - 1
            # Networks without a code were written before there were any.
            code = code_from_json(metadata.get("code"), tensors)
            leave = metadata.get("early_exit")
            bounds = tensors.get("early_exit.bounds")
            names = {f"{kind}.{i}" for kind in ("weights", "biases") for i in range(layers)}
            names |= code_to_json(code)[1].keys() | ({"early_exit.bounds"} if leave is not None else set())
            if not set(tensors) <= names:
                raise ValueError(f"unexpected tensors {sorted(set(tensors) - names)}")
            network = cls(
                weights=[tensors[f"weights.{i}"] for i in range(layers)],
                biases=[tensors.get(f"biases.{i}") for i in range(layers)],
                neuron=NeuronSpec(**metadata["neuron"]),
                timesteps=metadata["timesteps"],
                encoding=metadata["encoding"],
                decoding=metadata["decoding"],
                split_inputs=metadata["split_inputs"],
                bias_input=metadata["bias_input"],
                code=code,
                early_exit=None if leave is None else EarlyExit(leave, None if bounds is None else bounds.numpy()),
                output_scale=metadata["output_scale"],
                conversion=metadata["conversion"],
                backend=backend,
                exact=exact,
            )
            if list(network.sizes) != metadata["sizes"]:
                raise ValueError(f"sizes {metadata['sizes']} do not match the weights, which are {network.sizes}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise checkpoint.CheckpointError(path, f"does not describe a spiking network: {reason}") from error
        return network


def _general_act(run: Callable[[Tensor, int], Tensor], n_in: int, device: torch.device) -> Callable[..., int]:
    """:meth:`SpikingNetwork.act` for every kind of observation."""

    def act(observation: Tensor | npt.NDArray[Any], *, seed: int = 0) -> int:
        batch = _as_observations(observation, n_in, device)
        if batch.ndim != 1:
            raise ValueError(f"observation must have shape ({n_in},), got {tuple(batch.shape)}")
        return int(run(batch.unsqueeze(0), check_seed(seed))[0].argmax())

    return act


def _rebuild(kind: type[SpikingNetwork], *arguments: Any) -> SpikingNetwork:
    *positional, options = arguments
    network = kind.__new__(kind)  # a subclass may be made from other arguments
    SpikingNetwork.__init__(network, *positional, **options)
    return network


#: What SpikingNetwork itself makes of its arguments.
_MADE = {
    *("_spec", "_exact", "_backend", "_n_in", "output_scale", "conversion"),
    *("_executable", "_run", "_fast_run", "_name", "_number", "act"),
}


_NEURON_FIELDS = ("alpha", "beta", "threshold", "reset", "order", "initial_potential")

# SPDX-License-Identifier: Apache-2.0
"""Reading the layers of a trained ReLU network, whatever Python code its ``forward`` is written in.

The network is run once on made-up observations while every torch operation that touches them is looked at. A chain of
Linear and ReLU is written down; any other operation is refused, before it runs, by the name of the layer that asked
for it. What was written down must then give the network's own outputs. So a network is either read correctly or not
at all, and nothing in it is changed: no hook is added to it, no flag set, no operation with side effects executed.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves

from snnfast.conversion.advice import AVAILABLE, BRANCH, advice_for
from snnfast.spec import FloatArray


class LinearLayer(NamedTuple):
    """Weight (n_out, n_in) and bias (n_out,) or ``None`` of one Linear layer, float32 copies."""

    weight: FloatArray
    bias: FloatArray | None


_LAYERS = (
    nn.Linear,
    nn.ReLU,
    nn.Identity,
    nn.Flatten,
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
)
_RELU = (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)
_DROPOUT = {"dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
#: May appear where the result equals the argument in shape, kind and every value; checked by running them.
_UNCHANGING = {
    *("flatten", "view", "view_as", "reshape", "contiguous", "clone", "detach", "as_tensor", "asarray"),
    *("to", "float", "double", "half", "bfloat16", "type", "type_as", "cpu", "cuda", "requires_grad_"),
}
#: Questions about a tensor that do not depend on its values.
_DESCRIBING = {
    *("size", "dim", "ndimension", "numel", "nelement", "stride", "is_floating_point", "is_complex", "is_contiguous"),
    *("__len__", "get_device", "element_size"),
    *("shape", "ndim", "dtype", "device", "layout", "requires_grad", "is_cuda", "is_cpu", "is_sparse", "is_nested"),
}


class _OtherFeatures(Exception):
    """The made-up observations have the wrong number of features; the first Linear layer takes ``n_in``."""

    def __init__(self, n_in: int) -> None:
        self.n_in = n_in


@dataclasses.dataclass
class _Linear:
    name: str
    weight: Tensor
    bias: Tensor | None
    copy: LinearLayer


class _Recorder(TorchFunctionMode):
    """Watches the torch operations on one tensor's way through a network.

    Attributes:
        steps: what was met: a ``_Linear``, or the name of the layer or function that applied a ReLU.
        current: the tensor as it stands after the last operation.
    """

    def __init__(self, module: nn.Module, observations: Tensor) -> None:
        super().__init__()
        self.steps: list[_Linear | str] = []
        self.current = observations
        self._on_the_way = [observations]  # kept alive, so that identities stay unique
        self._names = {id(m): name for name, m in module.named_modules()}
        self._stack: list[nn.Module] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follow which layer is being executed. The hooks are torch's global ones: the network gets none.

        They hear of every thread, and another may be running the same network.
        """
        thread = threading.get_ident()

        def enter(module: nn.Module, args: Any) -> None:
            if id(module) in self._names and threading.get_ident() == thread:
                self._stack.append(module)
                if _is_torch_layer(module) and not isinstance(module, _LAYERS) and self._tracked((args,)):
                    self._refuse(type(module).__name__)  # before it runs: BatchNorm, say, counts its batches

        def leave(module: nn.Module, args: Any, result: Any) -> None:
            if id(module) in self._names and threading.get_ident() == thread:
                self._stack.pop()

        before = nn.modules.module.register_module_forward_pre_hook(enter)
        after = nn.modules.module.register_module_forward_hook(leave)
        try:
            with torch.no_grad(), self:
                yield
        finally:
            before.remove()
            after.remove()

    def _where(self, function: str) -> str:
        """The name of the layer that is being executed, or of the function that it called."""
        module = self._stack[-1] if self._stack else None
        if module is None:
            return f"{function}()"
        if _is_torch_layer(module):
            return _described(self._names[id(module)], module)
        return f"{function}() in the forward of {_described(self._names[id(module)], module)}"

    def _refuse(self, function: str, advice: str | None = None) -> NoReturn:
        short = function.rsplit(".", 1)[-1]
        module_type = type(self._stack[-1]).__name__ if self._stack else ""
        raise NotImplementedError(
            f"cannot convert {self._where(function)}: {advice or advice_for(short, module_type)}. {AVAILABLE}"
        )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        used = self._tracked((args, kwargs))
        if not used:  # say, a weight being computed from its parametrisation
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "__get__":  # an attribute such as x.shape
            name = getattr(getattr(func, "__self__", None), "__name__", "")
        if name in _DESCRIBING:
            return func(*args, **kwargs)
        function = _function_name(func, name)
        if any(a is not self.current for a in used):
            self._refuse(function, f"it uses a value from before the last operation again, and {BRANCH}")
        if func is F.linear:
            return self._follow(self._linear(*args, **kwargs))
        if func in _RELU:
            self.steps.append(self._where(function))
            return self._follow(func(*args, **kwargs))
        if name in _DROPOUT:
            # Dropout that is switched on draws random numbers, so it is refused without being run.
            bound = dict(zip(("input", "p", "training"), args, strict=False)) | kwargs
            if bound.get("training", bound.get("train", True)) and bound.get("p", 0.5) != 0:
                self._refuse(function, "it is switched on: call .eval() on the network first")
        elif name not in _UNCHANGING:
            self._refuse(function)
        result = func(*args, **kwargs)
        if not _same(result, self.current):
            self._refuse(function, "it changes the shape or the kind of its input here")
        return self._follow(result)

    def _tracked(self, arguments: Any) -> list[Tensor]:
        """Which of the arguments are, or once were, the tensor on its way."""
        tracked = {id(t) for t in self._on_the_way}
        return [a for a in tree_leaves(arguments) if isinstance(a, Tensor) and id(a) in tracked]

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not self.steps and weight.ndim == 2 and weight.shape[1] != input.shape[-1]:
            raise _OtherFeatures(weight.shape[1])
        if weight.ndim != 2 or weight.shape[1] != input.shape[-1]:
            raise ValueError(
                f"{self._where('torch.nn.functional.linear')} takes {weight.shape[-1]} features, "
                f"but the layer before it gives {input.shape[-1]}"
            )
        name = self._where("torch.nn.functional.linear")
        copy = LinearLayer(
            _copy(name, "weights", weight), None if bias is None else _copy(name, "biases", bias.expand(len(weight)))
        )
        self.steps.append(_Linear(name, weight, bias, copy))
        return F.linear(input, weight, bias)

    def _follow(self, result: Tensor) -> Tensor:
        self.current = result
        self._on_the_way.append(result)
        return result


def _is_torch_layer(module: nn.Module) -> bool:
    """Whether the module is one of torch's own and not made of others."""
    return type(module).__module__.startswith("torch.nn.") and not any(True for _ in module.children())


def _described(name: str, module: nn.Module) -> str:
    kind = type(module).__name__
    return f"layer {name!r} ({kind})" if name else f"the network ({kind})"


def _function_name(func: Callable[..., Any], name: str) -> str:
    return str(resolve_name(func) or name or func)


def _same(result: object, expected: Tensor) -> bool:
    return (
        isinstance(result, Tensor)
        and result.shape == expected.shape
        and result.dtype == expected.dtype
        and result.device == expected.device
        and torch.equal(result, expected)
    )


def _probes(n_in: int, like: Tensor) -> Tensor:
    """Made-up observations (96, n_in) of several sizes, zeros among them, always the same ones."""
    here = torch.device("cpu")  # whatever the default is
    sizes = torch.tensor([0.0, 0.01, 0.1, 1.0, 10.0, 100.0], dtype=torch.float32, device=here).repeat(16).unsqueeze(1)
    generator = torch.Generator(here).manual_seed(0)
    return (torch.randn(96, n_in, generator=generator, dtype=torch.float32, device=here) * sizes).to(like)


def _parameter(module: nn.Module) -> Tensor:
    """The first floating-point parameter: where, and with which precision, the network computes."""
    for tensor in module.parameters():
        if is_lazy(tensor):
            raise ValueError("the policy has lazy layers without weights yet: call it once on an observation first")
        if tensor.is_meta:
            raise ValueError("the policy's weights are on the meta device: they have no values")
        if tensor.is_floating_point():
            return tensor.detach()
    raise ValueError(f"the policy must have trained Linear layers, {type(module).__name__} has no parameters")


def _record(module: nn.Module, n_in: int, like: Tensor) -> tuple[_Recorder, object]:
    recorder = _Recorder(module, _probes(n_in, like))
    with recorder.watching():
        try:
            output = module(recorder.current)
        except (TypeError, RuntimeError, AttributeError, LookupError) as error:
            if isinstance(error, NotImplementedError):  # a RuntimeError, too: our refusal
                raise
            raise ValueError(
                f"policy must take a batch of flat observations, but called with {tuple(recorder.current.shape)} it "
                f"raised {type(error).__name__}: {error}"
            ) from error
    return recorder, output


def _chain(recorder: _Recorder) -> list[_Linear]:
    """The Linear layers, once it is clear that exactly one ReLU (or more, which is the same) stands between two."""
    layers: list[_Linear] = []
    previous: _Linear | str | None = None
    for step in recorder.steps:
        if isinstance(step, _Linear):
            if isinstance(previous, _Linear):
                raise NotImplementedError(
                    f"cannot convert {step.name}: there is no ReLU between it and {previous.name}; add one, or "
                    f"multiply the two weight matrices into one Linear layer. {AVAILABLE}"
                )
            layers.append(step)
        elif previous is None:
            raise NotImplementedError(
                f"cannot convert {step}: it comes before the first Linear layer; apply it to the observations instead"
            )
        previous = step
    if not layers:
        raise NotImplementedError(f"the policy's forward has no Linear layer. {AVAILABLE}")
    if isinstance(previous, str):
        raise NotImplementedError(
            f"cannot convert {previous}: it comes after the last Linear layer, and the output of a spiking network "
            "is not rectified; remove it (the largest output stays the same unless all are negative)"
        )
    return layers


def _forward(layers: list[_Linear], x: Tensor) -> Tensor:
    for i, layer in enumerate(layers):
        x = F.linear(x if i == 0 else F.relu(x), layer.weight, layer.bias)
    return x


def _verify(module: nn.Module, layers: list[_Linear], x: Tensor) -> None:
    with torch.no_grad():
        got, read = module(x.clone()), _forward(layers, x)
    # The same operations on the same numbers: only a different kernel choice may round differently.
    tolerance = 64 * torch.finfo(read.dtype).eps * max(1.0, float(read.abs().max()))
    alike = isinstance(got, Tensor) and got.shape == read.shape and got.dtype == read.dtype
    if not alike or not torch.allclose(got, read, 1e-3, tolerance):
        raise NotImplementedError(
            "the policy's outputs differ from those of its own Linear and ReLU layers: its forward does something "
            f"else as well (or something random, or a hook changes it). {AVAILABLE}"
        )


@contextmanager
def _buffers_kept(policy: nn.Module) -> Iterator[None]:
    """Put back what calling the network has changed in it, and refuse such a network: its weights may change too."""
    before = [(n, b, b.clone()) for n, b in policy.named_buffers() if b.layout == torch.strided and not b.is_meta]
    try:
        yield
    finally:
        changed = []
        for name, buffer, kept in before:
            if ((buffer != kept) & ((buffer == buffer) | (kept == kept))).any():  # no two NaNs are equal
                with torch.no_grad():
                    buffer.copy_(kept)
                changed.append(name)
        if changed:
            raise NotImplementedError(
                f"the policy changes its buffer {changed[0]!r} whenever it is called, as layers in training mode do: "
                "call .eval() on it first"
            )


def _copy(name: str, what: str, tensor: Tensor) -> FloatArray:
    array = tensor.detach().to("cpu", torch.float32, copy=True).numpy()
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise ValueError(f"the {what} of {name} must be finite in float32, {bad} of {array.size} values are not")
    return array


def _read(policy: nn.Module) -> list[LinearLayer]:
    like = _parameter(policy)
    linear = next((m for m in policy.modules() if isinstance(m, nn.Linear)), None)
    try:
        recorder, output = _record(policy, linear.in_features if linear else 1, like)
    except _OtherFeatures as other:
        recorder, output = _record(policy, other.n_in, like)
    layers = _chain(recorder)
    if not isinstance(output, Tensor):
        raise NotImplementedError(
            f"the policy must return one tensor of outputs, got {type(output).__name__}: pass the actor by itself"
        )
    if output is not recorder.current:
        raise NotImplementedError(f"the policy's output is not that of its last layer, {layers[-1].name}: {BRANCH}")
    # Other numbers of observations than the one recorded, so that a forward that looks at the batch size is noticed.
    probes = _probes(layers[0].weight.shape[1], like)
    for x in (probes[1:], probes[5:6], -probes):
        _verify(policy, layers, x)
    return [layer.copy for layer in layers]


def read_network(policy: nn.Module) -> list[LinearLayer]:
    """Read the Linear layers of a ReLU network.

    Accepted is any module whose ``forward`` is a chain of Linear layers with a ReLU between each two: an
    ``nn.Sequential``, nested ones, or Python code with modules or functions (``F.relu``, ``torch.relu``, ``.relu()``).
    Layers that leave a flat input exactly as it is (Identity, Flatten, Dropout in evaluation mode) may stand anywhere.

    Args:
        policy: the network. It is called, in the mode it is in, on made-up observations, and not modified.

    Returns:
        Per layer the weight (n_out, n_in) and the bias (n_out,) or ``None``, float32 copies.

    Raises:
        TypeError: if ``policy`` is not a module, or a TorchScript one.
        ValueError: if weights are missing or not finite, layers do not fit together, or the policy raises.
        NotImplementedError: naming the first layer or function that has no spiking equivalent, and what to do.
    """
    if not isinstance(policy, nn.Module):
        raise TypeError(f"policy must be a torch.nn.Module, got {type(policy).__name__}")
    compiled = getattr(policy, "_orig_mod", None)  # torch.compile keeps the module it was given here
    if isinstance(compiled, nn.Module):
        policy = compiled
    if isinstance(policy, torch.jit.ScriptModule):
        raise TypeError("policy must be a plain torch.nn.Module, got a TorchScript module: pass the one it came from")
    with _buffers_kept(policy):
        return _read(policy)

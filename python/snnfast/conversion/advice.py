# SPDX-License-Identifier: Apache-2.0
"""What to do about a layer that cannot be converted."""

from __future__ import annotations

import re

AVAILABLE = "What converts: Linear, ReLU, and what changes nothing (Identity, Flatten, Dropout in evaluation mode)."
BRANCH = "only a plain chain of layers converts: residual connections and branches are not supported"
_NOTHING = "it has no spiking equivalent here"

#: Advice, and the torch functions and layer types that it is for, by their plain names: see ``_plain``.
_TABLE: tuple[tuple[str, str], ...] = (
    (
        "train with ReLU instead; for Stable-Baselines3 pass policy_kwargs={'activation_fn': torch.nn.ReLU}",
        "tanh sigmoid gelu elu leakyrelu silu softplus relu6 hardtanh selu celu mish prelu rrelu hardswish hardsigmoid "
        "softsign logsigmoid tanhshrink softshrink hardshrink glu threshold clamp clampmin clip",
    ),
    (
        "convert the network without it: the largest output is the same one with and without",
        "softmax logsoftmax softmin argmax",
    ),
    (
        "convolution and pooling are not supported, only fully connected networks",
        "conv convtranspose maxpool avgpool lppool adaptiveavgpool adaptivemaxpool",
    ),
    (
        "fold it into the Linear layer before it: torch.nn.utils.fusion.fuse_linear_bn_eval(linear, batch_norm)",
        "batchnorm",
    ),
    (
        "its factor depends on the input, so it cannot be folded away: train without it",
        "layernorm groupnorm instancenorm rmsnorm normalize",
    ),
    (BRANCH, "add radd iadd sub rsub isub cat concat stack"),
    (
        "fold the factor into the weights and biases of the Linear layer beside it",
        "mul rmul imul div truedivide rtruediv itruediv neg",
    ),
    ("write it as a torch.nn.Linear layer", "matmul rmatmul mm addmm bmm einsum bilinear"),
    ("recurrent layers are not supported", "lstm gru rnn lstmcell grucell rnncell"),
    ("only flat observations (batch, features) convert", "unflatten unsqueeze squeeze permute transpose"),
)
_ADVICE = {name: advice for advice, names in _TABLE for name in names.split()}


def _plain(name: str) -> str:
    """``leaky_relu``, ``LeakyReLU`` and ``leaky_relu_`` are all "leakyrelu"; ``BatchNorm1d`` is "batchnorm"."""
    return re.sub(r"\dd$", "", name.lower().replace("_", ""))


def advice_for(function: str, layer_type: str) -> str:
    """What to do about a torch function, called by a layer of this type."""
    return _ADVICE.get(_plain(layer_type)) or _ADVICE.get(_plain(function)) or _NOTHING

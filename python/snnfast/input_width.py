# SPDX-License-Identifier: Apache-2.0
"""Whether a module failed because it takes observations of another width: torch's own error does not say so."""

from __future__ import annotations

import torch
from torch import nn


def width_taken(module: nn.Module, given: int) -> int | None:
    """The width of the observations that a module takes which has refused some of width ``given``.

    ``None`` if the width is not the reason, or cannot be found out. Its first Linear layer says what to try.
    """
    first = next((m for m in module.modules() if isinstance(m, nn.Linear)), None)
    if first is None or first.in_features == given:
        return None
    zeros = torch.zeros(2, first.in_features, device=first.weight.device, dtype=first.weight.dtype)
    try:
        with torch.inference_mode():
            module(zeros)
    except Exception:  # whatever it is, it fails for another reason
        return None
    return int(first.in_features)

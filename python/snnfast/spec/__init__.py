# SPDX-License-Identifier: Apache-2.0
"""Plain descriptions of a spiking network: what it is, not how it runs. And the checks that make them safe."""

from snnfast.spec.checks import (
    FloatArray,
    as_array,
    check_choice,
    check_count,
    check_float,
    check_seed,
    is_masked,
    plain_array,
)
from snnfast.spec.codes import (
    MAX_BITS,
    Code,
    DigitsCode,
    EarlyExit,
    RadixCode,
    RateCode,
    StagedCode,
    code_from_json,
    code_name,
    code_to_json,
)
from snnfast.spec.network import MAX_TIMESTEPS, Decoding, Encoding, NetworkSpec, NeuronSpec, Order, Reset

__all__ = [
    "MAX_BITS",
    "MAX_TIMESTEPS",
    "Code",
    "Decoding",
    "DigitsCode",
    "EarlyExit",
    "Encoding",
    "FloatArray",
    "NetworkSpec",
    "NeuronSpec",
    "Order",
    "RadixCode",
    "RateCode",
    "Reset",
    "StagedCode",
    "as_array",
    "check_choice",
    "check_count",
    "check_float",
    "check_seed",
    "code_from_json",
    "code_name",
    "code_to_json",
    "is_masked",
    "plain_array",
]

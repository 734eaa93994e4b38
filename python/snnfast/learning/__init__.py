# SPDX-License-Identifier: Apache-2.0
"""Policies, how they learn, and what they saw."""

from snnfast.learning.policy import load_policy, make_policy, pretrained_policy, save_policy
from snnfast.learning.policy_gradient import TrainingResult, train_policy_gradient
from snnfast.learning.replay import Replay, record_replay

__all__ = [
    "Replay",
    "TrainingResult",
    "load_policy",
    "make_policy",
    "pretrained_policy",
    "record_replay",
    "save_policy",
    "train_policy_gradient",
]

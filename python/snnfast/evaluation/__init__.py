# SPDX-License-Identifier: Apache-2.0
"""Agents in Gymnasium: returns, similarity, spikes; fair and seeded."""

from snnfast.evaluation.environments import episode_seeds
from snnfast.evaluation.evaluator import evaluate
from snnfast.evaluation.report import EvaluationReport

__all__ = ["EvaluationReport", "episode_seeds", "evaluate"]

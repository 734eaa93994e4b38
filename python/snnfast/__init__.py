# SPDX-License-Identifier: Apache-2.0
"""Trained ReLU policies as spiking networks that decide the same way, run at the machine's limit."""

from snnfast._version import __version__
from snnfast.backends import num_threads, set_num_threads
from snnfast.checkpoint import CheckpointError
from snnfast.conversion import PRESETS, convert
from snnfast.conversion.choice import Choice, TargetNotReached
from snnfast.conversion.comparison import split_replay
from snnfast.conversion.diagnosis import Diagnosis, diagnose
from snnfast.conversion.prediction import SimilarityPrediction, predict_similarity
from snnfast.evaluation import EvaluationReport, evaluate
from snnfast.info import info
from snnfast.layer import if_forward
from snnfast.learning import (
    Replay,
    TrainingResult,
    load_policy,
    make_policy,
    pretrained_policy,
    record_replay,
    save_policy,
    train_policy_gradient,
)
from snnfast.network import SpikingNetwork
from snnfast.reference import Simulation
from snnfast.report import write_report, write_sweep_report
from snnfast.spec import DigitsCode, EarlyExit, NeuronSpec, RadixCode, RateCode, StagedCode
from snnfast.sweep import SweepResult, SweepRow, sweep

__all__ = [
    "PRESETS",
    "CheckpointError",
    "Choice",
    "Diagnosis",
    "DigitsCode",
    "EarlyExit",
    "EvaluationReport",
    "NeuronSpec",
    "RadixCode",
    "RateCode",
    "Replay",
    "SimilarityPrediction",
    "Simulation",
    "SpikingNetwork",
    "StagedCode",
    "SweepResult",
    "SweepRow",
    "TargetNotReached",
    "TrainingResult",
    "__version__",
    "convert",
    "diagnose",
    "evaluate",
    "if_forward",
    "info",
    "load_policy",
    "make_policy",
    "num_threads",
    "predict_similarity",
    "pretrained_policy",
    "record_replay",
    "save_policy",
    "set_num_threads",
    "split_replay",
    "sweep",
    "train_policy_gradient",
    "write_report",
    "write_sweep_report",
]

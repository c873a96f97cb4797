"""Typed schemas of every JSON file that lorachain writes, with readers and writers. No other module reads raw dicts.

JSON Schemas are exported to docs/schemas with `python -m lorachain.artifacts docs/schemas`.
"""

from lorachain.artifacts.ablation import Ablation, ArmScore
from lorachain.artifacts.evaluation import Comparison, EvalResult
from lorachain.artifacts.merging import ComposeReport, GgufReport, LogitDiff, MergeReport, MergeWeights, TargetReport
from lorachain.artifacts.reasoning import ReasoningReport
from lorachain.artifacts.runs import CheckpointManifest, LockHolder, TokenCacheManifest, TrainingProgress
from lorachain.artifacts.schema import Artifact, Record
from lorachain.artifacts.stages import (
    InitInfo,
    MergeInfo,
    StageInfo,
    TrainingInfo,
    read_stage_info,
    read_training_info,
)
from lorachain.artifacts.validation import EpochScore, Measure, RunState, ValidationHistory, ValidationResult

__all__ = [
    "Ablation",
    "ArmScore",
    "Artifact",
    "CheckpointManifest",
    "Comparison",
    "ComposeReport",
    "EpochScore",
    "EvalResult",
    "GgufReport",
    "InitInfo",
    "LockHolder",
    "LogitDiff",
    "Measure",
    "MergeInfo",
    "MergeReport",
    "MergeWeights",
    "ReasoningReport",
    "Record",
    "RunState",
    "StageInfo",
    "TargetReport",
    "TokenCacheManifest",
    "TrainingInfo",
    "TrainingProgress",
    "ValidationHistory",
    "ValidationResult",
    "read_stage_info",
    "read_training_info",
]

"""Typed schemas of every JSON file that lorachain writes, with readers and writers. No other module reads raw dicts.

JSON Schemas are exported to docs/schemas with `python -m lorachain.artifacts docs/schemas`.
"""

from lorachain.artifacts.ablation import Ablation, ArmScore
from lorachain.artifacts.data_summary import DataSummary, SourceSummary
from lorachain.artifacts.evaluation import Comparison, EvalResult
from lorachain.artifacts.ledger import (
    Cell,
    Change,
    DialPoint,
    DialReport,
    GateResult,
    Ledger,
    LedgerStep,
    Noise,
    StepModel,
)
from lorachain.artifacts.merging import ComposeReport, GgufReport, LogitDiff, MergeReport, MergeWeights, TargetReport
from lorachain.artifacts.reasoning import ReasoningReport
from lorachain.artifacts.runs import (
    CheckpointManifest,
    ConversionRecord,
    LockHolder,
    TokenCacheManifest,
    TrainingProgress,
    TransformersState,
)
from lorachain.artifacts.schema import Artifact, Record
from lorachain.artifacts.stages import (
    DialRecord,
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
    "Cell",
    "Change",
    "CheckpointManifest",
    "Comparison",
    "ComposeReport",
    "ConversionRecord",
    "DataSummary",
    "DialPoint",
    "DialRecord",
    "DialReport",
    "EpochScore",
    "EvalResult",
    "GateResult",
    "GgufReport",
    "InitInfo",
    "Ledger",
    "LedgerStep",
    "LockHolder",
    "LogitDiff",
    "Measure",
    "MergeInfo",
    "MergeReport",
    "MergeWeights",
    "Noise",
    "ReasoningReport",
    "Record",
    "RunState",
    "SourceSummary",
    "StageInfo",
    "StepModel",
    "TargetReport",
    "TokenCacheManifest",
    "TrainingInfo",
    "TrainingProgress",
    "TransformersState",
    "ValidationHistory",
    "ValidationResult",
    "read_stage_info",
    "read_training_info",
]

"""Typed schemas of every JSON file that lorachain writes, with readers and writers. No other module reads raw dicts.

JSON Schemas are exported to docs/schemas with `python -m lorachain.artifacts docs/schemas`.
"""

from lorachain.artifacts.ablation import Ablation, ArmScore
from lorachain.artifacts.data_gates import DataReport, HashedExam
from lorachain.artifacts.data_summary import DataSummary, SourceSummary
from lorachain.artifacts.doctor import Check, DoctorReport, ShownExample, ShownToken
from lorachain.artifacts.evaluation import Comparison, EvalResult
from lorachain.artifacts.fit import CardSettings, DiskNeed, FitReport, Measured, Rejected, StageMemory
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
from lorachain.artifacts.loss_log import LossRow, read_loss_log
from lorachain.artifacts.merging import ComposeReport, GgufReport, LogitDiff, MergeReport, MergeWeights, TargetReport
from lorachain.artifacts.pushing import PushManifest
from lorachain.artifacts.reasoning import ReasoningReport
from lorachain.artifacts.runs import (
    CheckpointManifest,
    ConversionRecord,
    LockHolder,
    MemoryChange,
    TokenCacheManifest,
    TrainingProgress,
    TransformersState,
)
from lorachain.artifacts.schema import Artifact, Record
from lorachain.artifacts.stages import (
    DialRecord,
    InitInfo,
    LayerKind,
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
    "CardSettings",
    "Cell",
    "Change",
    "Check",
    "CheckpointManifest",
    "Comparison",
    "ComposeReport",
    "ConversionRecord",
    "DataReport",
    "DataSummary",
    "DialPoint",
    "DialRecord",
    "DialReport",
    "DiskNeed",
    "DoctorReport",
    "EpochScore",
    "EvalResult",
    "FitReport",
    "GateResult",
    "GgufReport",
    "HashedExam",
    "InitInfo",
    "LayerKind",
    "Ledger",
    "LedgerStep",
    "LockHolder",
    "LogitDiff",
    "LossRow",
    "Measure",
    "Measured",
    "MemoryChange",
    "MergeInfo",
    "MergeReport",
    "MergeWeights",
    "Noise",
    "PushManifest",
    "ReasoningReport",
    "Record",
    "Rejected",
    "RunState",
    "ShownExample",
    "ShownToken",
    "SourceSummary",
    "StageInfo",
    "StageMemory",
    "StepModel",
    "TargetReport",
    "TokenCacheManifest",
    "TrainingInfo",
    "TrainingProgress",
    "TransformersState",
    "ValidationHistory",
    "ValidationResult",
    "read_loss_log",
    "read_stage_info",
    "read_training_info",
]

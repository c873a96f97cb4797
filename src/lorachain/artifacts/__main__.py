"""`python -m lorachain.artifacts DIRECTORY`: exports the JSON Schema of every artifact."""

import json
import sys
from pathlib import Path

from lorachain.artifacts import (
    Ablation,
    ArmScore,
    Artifact,
    CheckpointManifest,
    ComposeReport,
    ConversionRecord,
    DataReport,
    DataSummary,
    DialReport,
    DoctorReport,
    EvalResult,
    FitReport,
    GgufReport,
    HashedExam,
    InitInfo,
    Ledger,
    MergeInfo,
    MergeReport,
    PushManifest,
    ReasoningReport,
    RunState,
    TokenCacheManifest,
    TrainingInfo,
    TrainingProgress,
    ValidationHistory,
)

EXPORTED: dict[str, type[Artifact]] = {
    "training_info.training": TrainingInfo,
    "training_info.init": InitInfo,
    "training_info.merge": MergeInfo,
    "kormedmcqa_validation_results": ValidationHistory,
    "run": RunState,
    "merge_report": MergeReport,
    "compose_report": ComposeReport,
    "fit": FitReport,
    "gguf_report": GgufReport,
    "eval_result": EvalResult,
    "ledger": Ledger,
    "data_summary": DataSummary,
    "dial": DialReport,
    "doctor": DoctorReport,
    "ablation": Ablation,
    "ablation_score": ArmScore,
    "checkpoint_manifest": CheckpointManifest,
    "checkpoint_progress": TrainingProgress,
    "token_cache": TokenCacheManifest,
    "push": PushManifest,
    "reasoning_report": ReasoningReport,
    "conversion_record": ConversionRecord,
    "data_report": DataReport,
    "hashed_exam": HashedExam,
}


def schema_text(artifact: type[Artifact]) -> str:
    """The JSON Schema as it is stored: sorted keys, two spaces."""
    return json.dumps(artifact.model_json_schema(), ensure_ascii=False, indent=2, sort_keys=True) + "\n"


def export_schemas(directory: Path) -> None:
    """Writes one `NAME.schema.json` per artifact."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, artifact in EXPORTED.items():
        (directory / f"{name}.schema.json").write_text(schema_text(artifact), encoding="utf-8")


if __name__ == "__main__":
    export_schemas(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/schemas"))

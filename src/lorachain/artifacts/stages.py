"""`training_info.json` of every output directory: what it was made from, its settings and its scores."""

from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from lorachain.artifacts.merging import LogitDiff
from lorachain.artifacts.runs import MemoryChange
from lorachain.artifacts.schema import Artifact, PromptedInputs, Record, renamed
from lorachain.artifacts.validation import Measure, ProtocolScore, measures_from_1, summary_from_1
from lorachain.errors import WorkspaceError
from lorachain.workspace import TRAINING_INFO


class ModelIdentity(Record):
    """Which public model: an entry of model_paths.json."""

    huggingface_id: str | None
    revision: str | None
    local_path: str | None
    pypi_package: str | None


class LoraIdentity(Record):
    """The settings of a new LoRA, all of them resolved."""

    rank: int
    alpha: int
    dropout: float
    use_rslora: bool
    target_modules: tuple[str, ...]


class ParentIdentity(Record):
    """The adapter that a stage started from, by its directory below model/ and its content."""

    folder: str
    adapter_sha256: str
    base_sha256: str | None = None


class DataIdentity(Record):
    sources: str
    dev: str
    """Both: SHA-256 over what was read."""
    samples: str | None = None
    """Of written reasoning, where its wrong samples are trained against (`stages.02.preference`)."""

    @model_serializer(mode="wrap")
    def _as_before_there_were_preferences(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `samples` where there are none: a stage that was trained before they were used is equal."""
        values: dict[str, Any] = serialize(self)
        return {key: value for key, value in values.items() if key != "samples" or value is not None}


class InitInputs(Record):
    model: ModelIdentity
    lora: LoraIdentity
    seed: int


class MergeInputs(Record):
    parent: ParentIdentity
    lora: LoraIdentity
    seed: int


class StageSettings(Record):
    """The settings that decide a training stage's result."""

    stage: dict[str, Any]
    training: dict[str, Any]
    validation: dict[str, Any]
    dtype: str
    quantization: Literal["none", "nf4", "int8"]
    answer_style: str
    data: dict[str, Any] = Field(default_factory=dict)
    """Of the data gates, those that differ from the defaults (`DataConfig.deciding`)."""

    @model_serializer(mode="wrap")
    def _as_before_there_were_gates(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `data` where it is empty: a stage that was trained before the gates existed is equal."""
        values: dict[str, Any] = serialize(self)
        return {key: value for key, value in values.items() if key != "data" or value}


class TrainingInputs(PromptedInputs):
    parent: ParentIdentity
    data: DataIdentity
    settings: StageSettings
    seed: int
    normalization: int = 0
    """Version of the text normalization of the readers; 0 before there was one."""


class SourceRecord(Record):
    """Where records came from (`data.sources.SourceInfo`)."""

    name: str
    kind: Literal["sample", "local", "hub"]
    files: dict[str, str]
    sha256: str
    short_name: str
    rows: int
    bad_rows: int
    revision: str | None = None
    revision_files: str | None = None
    read_to_end: bool = False
    reasoning_writers: dict[str, int] = Field(default_factory=dict)
    """Of an exam: who wrote the reasoning that came with it, and of how many questions."""


class ReplayedData(Record):
    """Data of an earlier stage, or instructions, in a stage's batches, over all its epochs."""

    kind: Literal["plain_text", "dictionary", "exam", "instruct", "known"]
    share_wanted: float
    """Both shares: of all supervised tokens that were trained."""
    share: float
    supervised_tokens: int
    tokens: int
    examples_per_epoch: int
    pool: int
    """Examples that there are."""
    most_uses: int
    """How often one of them was trained at most."""
    sources: tuple[SourceRecord, ...]


LayerKind = Literal["recomputed", "fused", "compiled"]
"""How decoder layers are computed in training: norms and MLPs that keep less; fused for CUDA; those, compiled."""


class TrainingFacts(Record):
    """What training did."""

    optimizer_steps: int
    tokens: int
    supervised_tokens: int
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
    loss_first: float
    loss_last_tenth: float
    losses: tuple[float, ...]
    """Mean negative log-likelihood of a supervised token in nats, one an optimizer step; plus the preference loss where
    one is trained."""
    device: str
    layers: LayerKind = "recomputed"
    """Which implementation of the decoder layers was trained with (docs/decisions/0013-fused-layers-on-cuda.md)."""
    memory_changes: tuple[MemoryChange, ...] = ()
    """Where a step did not fit in memory; empty where all did."""


class StageValidation(Record):
    """Headline scores; the history has them in full."""

    selected_by: str
    before: dict[str, ProtocolScore] | None
    after: dict[str, ProtocolScore]
    epoch_kept: int


class Measures(Record):
    before: dict[str, Measure]
    after: dict[str, Measure]


class _StageInfo(Artifact):
    title: ClassVar[str] = "training_info.json"

    schema_version: int = 2
    stage: str
    model: str
    depends_on_sha256: str
    """SHA-256 of `depends_on`: the fingerprint of the stage."""
    base: str
    """Where the base's weights are: a hub id or a path."""
    base_sha256: str
    adapter_sha256: str
    versions: dict[str, str]
    git_commit: str | None


class InitInfo(_StageInfo):
    """The public base with a new LoRA."""

    kind: Literal["init"] = "init"
    depends_on: InitInputs


class MergeInfo(_StageInfo):
    """A trained LoRA merged into its base, and a new LoRA on the result."""

    kind: Literal["merge"] = "merge"
    depends_on: MergeInputs
    probe: LogitDiff | None
    """base + adapter against the merged model."""
    quantized_base: dict[str, LogitDiff] | None


class DialRecord(Record):
    """How an adapter was scaled after its training."""

    scale: float
    variant: Literal["uniform", "lines"]
    original_adapter_sha256: str
    """Of the adapter as it was trained."""


class TrainingInfo(_StageInfo):
    """A trained stage."""

    kind: Literal["training"] = "training"
    finished: str
    depends_on: TrainingInputs
    sources: tuple[SourceRecord, ...]
    exam_sources: tuple[SourceRecord, ...]
    counts: dict[str, int]
    replay: tuple[ReplayedData, ...] = ()
    training: TrainingFacts
    validation: StageValidation
    measures: Measures
    configuration: dict[str, Any]
    """The settings that were used, resolved."""
    dial: DialRecord | None = None
    """None: the adapter is as it was trained."""


StageInfo = InitInfo | MergeInfo | TrainingInfo


class _AnyStageInfo(_StageInfo):
    """Reads a file of any of the three kinds."""

    @classmethod
    def parse(cls, stored: dict[str, Any]) -> Any:
        if stored.get("schema_version") == 1:
            stored = _from_1(stored)
        kinds: dict[str, type[_StageInfo]] = {"init": InitInfo, "merge": MergeInfo, "training": TrainingInfo}
        kind = stored.get("kind")
        if not isinstance(kind, str) or kind not in kinds:
            raise ValueError(f"kind is {kind!r}; allowed: {', '.join(kinds)}")
        return kinds[kind].parse(stored)


def read_stage_info(folder: Path) -> StageInfo:
    """The training_info.json of an output directory of the chain.

    Raises:
        WorkspaceError: it is missing or not valid.
    """
    return cast(StageInfo, _AnyStageInfo.read(folder / TRAINING_INFO))


def read_training_info(folder: Path) -> TrainingInfo:
    """The training_info.json of a trained directory.

    Raises:
        WorkspaceError: it is missing, not valid, or not a trained stage's.
    """
    info = read_stage_info(folder)
    if not isinstance(info, TrainingInfo):
        raise WorkspaceError(f"{folder / TRAINING_INFO} is of stage {info.stage}, which is not trained")
    return info


def _from_1(stored: dict[str, Any]) -> dict[str, Any]:
    """Schema version 1 as version 2."""
    try:
        return _upgraded(stored)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it does not match schema version 1 ({type(error).__name__}: {error})") from error


def _upgraded(stored: dict[str, Any]) -> dict[str, Any]:
    stage = {"01_merge": "merge"}.get(stored["stage"], stored["stage"])
    kind = stage if stage in ("init", "merge") else "training"
    info = {**stored, "schema_version": 2, "stage": stage, "kind": kind}
    if kind == "merge":
        info["quantized_base"] = renamed(info.pop("quantised_base", None), {"dequantised": "dequantized"})
    if kind != "training":
        return info
    settings = info["depends_on"]["settings"]
    for validation in (settings["validation"], info["configuration"]["validation"]):
        validation["exact_match_entries"] = validation.pop("recall_entries")
    validation = info["validation"]
    for side in ("before", "after"):
        for score in (validation[side] or {}).values():
            score["protocol_version"] = str(score.pop("version"))
            score["summary"] = summary_from_1(score.pop("words"))
    info["measures"] = {side: measures_from_1(info["measures"][side]) for side in ("before", "after")}
    return info

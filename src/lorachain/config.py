"""The chain's settings as they are checked; unknown keys are refused. `config_reading` reads them."""

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from lorachain.data_settings import DataConfig

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Quantization = Literal["none", "nf4", "int8"]
"""What the base's linear layers are held in while a LoRA is trained on them."""
Kernels = Literal["auto", "off"]
"""Whether training uses Triton kernels where it can: on CUDA, where triton is installed."""
MAX_SEED = 2**32 - 1
"""numpy's generators take no larger seed."""


class _Strict(BaseModel):
    # Strict: `true` is not the number 1, and "8" is not 8.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class LoraSettings(_Strict):
    rank: Annotated[int, Field(ge=1, le=1024)]
    alpha: Positive | None = None
    """None: twice the rank."""
    dropout: Fraction
    use_rslora: bool
    target_modules: Annotated[list[str], Field(min_length=1)]

    def resolved(self) -> dict[str, Any]:
        """The settings with alpha filled in."""
        return self.model_dump() | {"alpha": self.resolved_alpha}

    @property
    def resolved_alpha(self) -> int:
        return self.alpha if self.alpha is not None else 2 * self.rank


class TrainingConfig(_Strict):
    """What all stages share."""

    warmup_ratio: Fraction
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"]
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    micro_batch_tokens: Positive
    gradient_checkpointing: bool | Literal["auto"]
    kernels: Kernels
    compile: bool
    deterministic: bool
    """Whether a run on CUDA has the same bits each time (training/determinism.py)."""
    save_every_minutes: Annotated[float, Field(gt=0)]
    save_every_steps: Annotated[int, Field(ge=0)]
    keep_checkpoints: Positive

    def deciding(self) -> dict[str, Any]:
        """The settings that change the result; how often a checkpoint is saved does not. Without those that came later
        where they have their defaults: a stage that was trained before is equal."""
        values = self.model_dump(exclude={"save_every_minutes", "save_every_steps", "keep_checkpoints"})
        later: dict[str, Any] = {"kernels": "auto", "compile": False, "deterministic": False}
        return {key: value for key, value in values.items() if key not in later or value != later[key]}


class ValidationConfig(_Strict):
    token_budget: Positive
    max_questions: Annotated[int, Field(ge=0)]
    heldout_documents: Positive
    exact_match_entries: Positive
    explained_questions: Positive
    explained_tokens: Annotated[int, Field(ge=16, le=4096)]
    """Of an explanation, at most."""

    def deciding(self) -> dict[str, Any]:
        """The settings that a stage's result depends on; what is explained before and after it only measures."""
        return self.model_dump(exclude={"explained_questions", "explained_tokens"})


class ReplayConfig(_Strict):
    """Shares of earlier data in a stage's training, of the supervised tokens of the final mixture."""

    plain_text: Fraction = 0.0
    dictionary: Fraction = 0.0
    exam: Fraction = 0.0
    instruct: Fraction = 0.0
    known: Fraction = 0.0
    """Dictionary entries that the model knew before (Pletenev et al. 2025, arXiv 2502.14502)."""
    repeat: bool = False
    """Whether a pool that is too small for its share is used more than once in an epoch."""

    @property
    def shares(self) -> dict["SourceKind", float]:
        """The shares that are not zero."""
        kinds: tuple[SourceKind, ...] = ("plain_text", "dictionary", "exam", "instruct", "known")
        return {kind: getattr(self, kind) for kind in kinds if getattr(self, kind)}

    def only(self, kinds: Collection["SourceKind"]) -> "ReplayConfig | None":
        """The same without other kinds of data; None where nothing is left."""
        kept: dict[str, Any] = {kind: share for kind, share in self.shares.items() if kind in kinds}
        return ReplayConfig(**kept, repeat=self.repeat) if kept else None

    @model_validator(mode="after")
    def _leaves_the_stage_its_own(self) -> "ReplayConfig":
        if (total := sum(self.shares.values())) >= 1:
            raise ValueError(f"the shares sum to {total:g}, which leaves nothing for the stage's own data")
        return self


_OPTIONAL = (
    *("supervised_tokens", "forms", "json_share", "replay", "keep"),
    *("preference", "preference_beta", "preference_weight"),
)


class LedgerConfig(_Strict):
    """How much each step of the chain is measured for the ledger (docs/ledger.md)."""

    measure: bool
    """Whether stages measure themselves before they are published."""
    documents: Positive
    """Of each text: held out from stage 00, general Korean, English, and the user's own."""
    document_tokens: Annotated[int, Field(ge=8)]
    """Of each document, its first ones."""
    entries: Positive
    """Of the dictionary, asked in each direction."""
    dictionary_questions: Positive
    prompts: Positive
    """Of each task, for forms; half of them for KL divergence."""
    noise_items: Annotated[int, Field(ge=2)]
    """Of each measure, scored twice."""
    intruder_layers: Annotated[int, Field(ge=0)]
    text: list[str]
    """Texts of the user's, each a source of plain text."""


GATED = (
    *("exam", "dictionary_exam", "exact_match", "form", "plain_text", "korean", "english", "text"),
    *("form_plain_text", "form_dictionary", "form_exam"),
)
"""What a gate may be for: a measure of the ledger, or the beginning of the names of several."""


class GateConfig(_Strict):
    """What a step may lose of one measure before it is not published."""

    max_loss: Annotated[float, Field(ge=0)]
    unit: Literal["points", "percent"] = "points"
    against: Literal["base", "parent"] = "base"
    on_fail: Literal["stop", "warn", "dial"] = "stop"


Tracker = Literal["tensorboard", "trackio", "wandb", "mlflow"]


class TrackingConfig(_Strict):
    """Where each step's metrics go besides losses.csv; it changes no result."""

    to: list[Tracker]


_PREFERENCE = {"preference_beta": 0.1, "preference_weight": 1.0}


class StageConfig(_Strict):
    epochs: Annotated[int, Field(ge=1, le=10_000)]
    learning_rate: Annotated[float, Field(gt=0, lt=1)]
    batch_size: Annotated[int, Field(ge=1, le=65_536)]
    max_length: Annotated[int, Field(ge=16, le=131_072)]
    max_samples: Positive | None = None
    supervised_tokens: Positive | None = None
    """Where it is set, the stage ends with the step that has trained so many, instead of after `epochs`."""
    forms: Annotated[int, Field(ge=0, le=16)] | None = None
    """Of a dictionary: forms in which each entry is trained per epoch, 0 for its own only. None: not a dictionary."""
    json_share: Annotated[float, Field(ge=0, le=1)] | None = None
    """Of an exam: the share of its questions that an epoch also asks for as a JSON object, the form that the protocol
    `kormedeval` reads. None: not an exam."""
    preference: Literal["rpo"] | None = None
    """Of an exam with written reasoning: train accepted samples against wrong ones. None (`off`): not."""
    preference_beta: Annotated[float, Field(gt=0)] | None = None
    preference_weight: Annotated[float, Field(gt=0)] | None = None
    """Both: with `preference` only, see `training.progress.PreferenceSettings`."""
    replay: ReplayConfig | None = None
    """None: nothing is replayed, as where every share is zero."""

    def replaying_only(self, kinds: Collection["SourceKind"]) -> "StageConfig":
        """The same without replay of other kinds of data."""
        return self if self.replay is None else self.model_copy(update={"replay": self.replay.only(kinds)})

    @model_validator(mode="before")
    @classmethod
    def _preference(cls, values: Any) -> Any:
        """`off` as None, and the defaults of what belongs to a preference."""
        if not isinstance(values, dict):
            return values
        if values.get("preference") == "off":
            values = {**values, "preference": None}
        if values.get("preference") is not None:
            return {**values, **{key: value for key, value in _PREFERENCE.items() if values.get(key) is None}}
        if values.get("preference_beta") is not None or values.get("preference_weight") is not None:
            raise ValueError('preference_beta and preference_weight need preference = "rpo"')
        return values

    @field_validator("replay")
    @classmethod
    def _without_shares_there_is_none(cls, replay: ReplayConfig | None) -> ReplayConfig | None:
        return replay if replay is not None and replay.shares else None

    keep: Literal["best", "last"] | None = None
    """Which epoch becomes the output: the one with the best dev accuracy, or the last. None: the stage table's."""

    @model_serializer(mode="wrap")
    def _only_what_applies(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the settings that the stage does not have: a stage that was trained before they existed is equal."""
        values: dict[str, Any] = serialize(self)
        return {key: value for key, value in values.items() if value is not None or key not in _OPTIONAL}

    def without_preference(self) -> "StageConfig":
        return self.model_copy(update=dict.fromkeys(("preference", *_PREFERENCE)))


OF_SOME_STAGES = (
    ("forms", "forms", "dictionary"),
    ("json_share", "json_share", "exam"),
    ("preference", "json_share", "exam"),
)
"""(setting, the default that only the stages which may have it have, what these train)."""


class ReasoningConfig(_Strict):
    """How reasoning is written for stage 02 (`lorachain.reasoning`)."""

    enabled: bool | Literal["auto"]
    """`auto`: for models from the hub; the embedded one cannot reason."""
    samples: Annotated[int, Field(ge=1, le=1024)]
    temperature: Annotated[float, Field(gt=0, le=2)]
    orders: Annotated[int, Field(ge=1, le=4)]
    shots: Annotated[int, Field(ge=0, le=32)] | Literal["auto"]
    max_new_tokens: Annotated[int, Field(ge=16, le=16_384)]
    max_prompt_tokens: Annotated[int, Field(ge=64, le=65_536)]
    per_question: Annotated[int, Field(ge=1, le=16)]
    easy_share: Annotated[float, Field(ge=0, le=1)]
    min_hangul: Annotated[float, Field(ge=0, le=1)]
    rationalize: bool
    max_questions: Annotated[int, Field(ge=0)]

    def deciding(self) -> dict[str, Any]:
        """The settings that change what is written and kept, apart from the number of samples: more only add."""
        return self.model_dump(exclude={"enabled", "samples"})


class Sources(_Strict):
    plain_text: Annotated[list[str], Field(min_length=1)]
    dictionary: Annotated[list[str], Field(min_length=1)]
    exam: Annotated[list[str], Field(min_length=1)]
    instruct: Annotated[list[str], Field(min_length=1)]
    """Read only where instructions are replayed."""
    known: list[str] = Field(default_factory=list)
    """Dictionaries of entries that the model knows, read only where they are replayed (`lorachain known`)."""


class ReadingConfig(_Strict):
    """How the sources of one kind are read where their files do not say it (docs/data.md)."""

    encoding: str | None = None
    delimiter: str | None = None
    sheet: str | None = None
    header: Positive | None = None
    writer: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    """Field to column."""

    def options(self) -> dict[str, str]:
        """Those that are set, as texts."""
        own = self.model_dump(exclude={"columns"}, exclude_none=True)
        return {**{key: str(value) for key, value in own.items()}, **self.columns}


SourceSet = Literal["embedded", "hub"]
SourceKind = Literal["plain_text", "dictionary", "exam", "instruct", "known"]
GENERAL_KINDS: tuple[SourceKind, ...] = ("instruct", "known")
"""Those that no stage trains on, which every stage can replay."""


class ChainConfig(_Strict):
    """The whole chain. `sources` holds one set per kind of model; a model's registry entry says which one it reads."""

    name: str
    note: str
    """Said when a run starts, such as how long it takes."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    device: str
    dtype: Literal["bfloat16", "float32"]
    quantization: Quantization
    lora: LoraSettings
    training: TrainingConfig
    validation: ValidationConfig
    reasoning: ReasoningConfig
    tracking: TrackingConfig
    ledger: LedgerConfig
    data: DataConfig = DataConfig()
    gates: dict[Literal[GATED], GateConfig]  # type: ignore[valid-type]
    stages: dict[str, StageConfig]
    sources: dict[SourceSet, Sources]
    reading: dict[SourceKind, ReadingConfig] = Field(default_factory=dict)

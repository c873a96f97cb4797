"""Files beside the results: checkpoints, token caches, converted weights, the lock."""

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lorachain.artifacts.schema import Artifact, Record, first_problem
from lorachain.errors import WorkspaceError
from lorachain.provenance import load_json


class CheckpointManifest(Artifact):
    """`manifest.json` of a checkpoint, written last: a checkpoint is complete where every hash matches."""

    title: ClassVar[str] = "checkpoint manifest"
    remedy: ClassVar[str] = "the checkpoint is skipped"

    step: int
    fingerprint: str
    files: dict[str, str]
    """Relative path to SHA-256."""

    @classmethod
    def parse(cls, stored: dict[str, Any]) -> "CheckpointManifest":
        return super().parse({"schema_version": 1, **stored})  # lorachain 0.1 wrote none


class MemoryChange(Record):
    """A step of a run did not fit in memory and was repeated with these; all steps after it have them too."""

    step: Annotated[int, Field(ge=1)]
    gradient_checkpointing: bool
    micro_batch_tokens: Annotated[int, Field(ge=1)]


class TrainingProgress(Artifact):
    """`progress.json` of a checkpoint: what the run has done so far, over all interruptions."""

    title: ClassVar[str] = "training progress"
    remedy: ClassVar[str] = "the checkpoint is skipped"

    step: int
    tokens: int
    supervised_tokens: int
    seconds: float
    losses: tuple[float, ...]
    memory_changes: tuple[MemoryChange, ...] = ()

    @classmethod
    def parse(cls, stored: dict[str, Any]) -> "TrainingProgress":
        return super().parse({"schema_version": 1, **stored})  # lorachain 0.1 wrote none


class _CallbackState(Record):
    args: dict[str, bool]
    attributes: Annotated[dict[str, Any], Field(max_length=0)]


class TransformersState(BaseModel):
    """`trainer_state.json` of a checkpoint, which transformers writes and reads.

    transformers sets attributes of its objects from this file, so only what a run of ours leaves in it is accepted. The
    stage is continued from `global_step`. Fields of other versions of transformers are not read here.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    global_step: int
    epoch: Annotated[float, Field(ge=0)]
    max_steps: Annotated[int, Field(ge=0)]
    num_train_epochs: Annotated[int, Field(ge=0)]
    eval_steps: Annotated[float, Field(gt=0)]
    logging_steps: Annotated[float, Field(gt=0)]
    save_steps: Annotated[float, Field(gt=0)]
    train_batch_size: Annotated[int, Field(ge=1)] | None
    num_input_tokens_seen: Annotated[int, Field(ge=0)]
    total_flos: Annotated[float, Field(ge=0)]
    log_history: Annotated[list[Any], Field(max_length=0)]
    best_metric: None = None
    best_global_step: None = None
    best_model_checkpoint: None = None
    is_local_process_zero: bool
    is_world_process_zero: bool
    is_hyper_param_search: Literal[False]
    trial_name: None = None
    trial_params: None = None
    stateful_callbacks: dict[Literal["TrainerControl"], _CallbackState]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises WorkspaceError unless the file is one that a run of ours left."""
        try:
            return cls.model_validate_json(json.dumps(load_json(path)))
        except ValidationError as error:
            raise WorkspaceError(f"{path} is not a state that lorachain left: {first_problem(error)}") from error
        except (OSError, ValueError, RecursionError) as error:
            raise WorkspaceError(f"{path} cannot be read: {error}") from error


class TokenCacheManifest(Artifact):
    """`made_from.json` beside cached token rows."""

    title: ClassVar[str] = "token cache manifest"
    remedy: ClassVar[str] = "the tokens are created again"

    schema_version: int = 2
    identity: str
    """SHA-256 of everything that decides the rows."""
    facts: dict[str, Any]
    rows_sha256: str
    signature: str
    """HMAC-SHA-256 of the store's name and the fields above, with a key of the user's account (`user_key`). Empty where
    there was none: the tokens are then created again at the next start."""

    @classmethod
    def migrate(cls, stored: dict[str, Any]) -> dict[str, Any]:
        return stored | {"signature": ""}  # nothing was signed


class ConversionRecord(Artifact):
    """`converted.json` beside weights that were converted once for all workspaces."""

    title: ClassVar[str] = "record of converted weights"
    remedy: ClassVar[str] = "the weights are converted again"

    source_sha256: str
    """Of the file that they were converted from."""
    owner: int
    """The operating system's number of the user who converted them."""
    files: dict[str, str]
    """Name to SHA-256, of every other file."""
    signature: str
    """HMAC-SHA-256 of the fields above, with a key of the user's account (`user_key`); empty where there was none."""


class LockHolder(Record):
    """The lock file's content: which process works on a model."""

    pid: int
    host: str
    start: str
    command: str = ""
    """What to type to resume it."""
    stage: str = ""
    """What it is working on."""

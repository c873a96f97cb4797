"""What a training stage needs of its task, and what a task is loaded from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from lorachain.artifacts import Measure
from lorachain.chain.tasks.token_cache import TokenCache
from lorachain.config import StageConfig, ValidationConfig
from lorachain.data.sources import SourceInfo
from lorachain.data_settings import DataConfig
from lorachain.errors import DataError
from lorachain.prompts import AnswerStyle
from lorachain.records import ExamQuestion
from lorachain.token_store import StoredPacks, TokenStore
from lorachain.tokens import TokenEncoder
from lorachain.training.batch_schedule import Pack

Measures = dict[str, Measure]


class StageTask(Protocol):
    """One stage's data, loaded and tokenized."""

    @property
    def sources(self) -> list[SourceInfo]: ...

    @property
    def counts(self) -> dict[str, int]:
        """What was read, used and left out, for people."""
        ...

    def packs_of_epoch(self, epoch: int) -> Sequence[Pack]:
        """The packs (rows of a batch) of an epoch, counted from 0. Their number is the same for every epoch."""
        ...

    def measure(self, model: nn.Module) -> Measures:
        """What the stage should improve beyond the exam, by name; empty where there is nothing."""
        ...


@dataclass(frozen=True, slots=True)
class TaskInputs:
    """Everything that a task may need to load itself."""

    encoder: TokenEncoder
    stage: StageConfig
    validation: ValidationConfig
    seed: int
    sources: list[str]
    dev: list[ExamQuestion]
    """The questions that the stage is validated on."""
    held_out: list[ExamQuestion]
    """Dev and few-shot questions, which nothing may be trained on."""
    answer_style: AnswerStyle
    cache: Path
    """Where tokens are cached."""
    tokenizer_sha256: str
    skip_bad_rows: bool
    on_message: Callable[[str], None]
    command: Callable[[str], str] = str
    """What to type to run a command on the chain, for messages."""
    data: DataConfig = field(default_factory=DataConfig)
    """The gates that the data pass."""

    def token_cache(self, decided_by: dict[str, Any]) -> TokenCache:
        """The tokens of earlier starts; `decided_by` is what decides the tokens besides the tokenizer."""
        return TokenCache(self.cache, {"tokenizer": self.tokenizer_sha256, **decided_by}, self.on_message)


LoadTask = Callable[[TaskInputs], StageTask]


def single_row_packs(store: TokenStore, rows: Sequence[int]) -> StoredPacks:
    """A pack for each of these rows."""
    return StoredPacks([[row] for row in rows], store.lengths.tolist(), store.row)


def require_fitting(read: int, fitting: int, inputs: TaskInputs, option: str) -> int:
    """How many of `read` records `max_length` leaves out: a truncated completion would teach to stop early.

    Raises:
        DataError: no record is left.
    """
    if not fitting:
        raise DataError(
            f"none of {read} training records is left: each is longer than {inputs.stage.max_length} tokens or "
            f"also in the dev split. Raise --max-length or name another source with {option}"
        )
    if fitting < read:
        inputs.on_message(f"{read - fitting} records longer than {inputs.stage.max_length} tokens are left out")
    return read - fitting

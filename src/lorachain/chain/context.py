"""What every stage of a run needs to know, and how it speaks to the person watching."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from lorachain.config import ChainConfig, Sources, StageConfig
from lorachain.registry import ModelEntry
from lorachain.training.distributed import Processes
from lorachain.workspace import StageName, Workspace

STAGE_TITLES: dict[StageName, str] = {
    "00": "plain Korean text",
    "01": "medical dictionary",
    "02": "KorMedMCQA with reasoning",
}


class Bar(Protocol):
    """A progress bar: `done` of its total, with a few words beside it."""

    def __call__(self, done: int, words: str = "") -> None: ...


class Reporter(Protocol):
    """The screen, as the chain sees it."""

    def message(self, text: str) -> None: ...
    def bar(self, title: str, total: int) -> AbstractContextManager[Bar]: ...


@dataclass(frozen=True, slots=True)
class ChainContext:
    """One model's chain in one workspace."""

    workspace: Workspace
    model: str
    entry: ModelEntry
    config: ChainConfig
    device: torch.device
    reporter: Reporter
    skip_bad_rows: bool = False
    processes: Processes = field(default_factory=Processes)
    confirm: Callable[[str], bool] = lambda question: False
    """Asked before finished work is replaced."""

    @property
    def sources(self) -> Sources:
        return self.config.sources[self.entry.sources]

    @property
    def dtype(self) -> torch.dtype:
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[self.config.dtype]

    def stage(self, name: StageName) -> StageConfig:
        return self.config.stages[name]

    def deciding_settings(self, name: StageName) -> dict[str, Any]:
        """The settings that a stage's result depends on, as its training_info.json records them."""
        return {
            "stage": self.config.stages[name].model_dump(),
            "training": self.config.training.deciding(),
            "validation": self.config.validation.model_dump(),
            "dtype": self.config.dtype,
            "quantization": self.config.quantization,
            "answer_style": self.entry.answer_style,
        }

    def stage_sources(self, name: StageName) -> list[str]:
        """What the stage trains on."""
        return {"00": self.sources.plain_text, "01": self.sources.dictionary, "02": self.sources.exam}[name]

    def command(self, step: str) -> str:
        """What to type for a step of this model."""
        place = "" if str(self.workspace.root) == "." else f" --workspace {self.workspace.root}"
        return f"lorachain {step} --model {self.model}{place}"

"""The model that answered last, kept for the next question: never two in memory."""

from pathlib import Path

import torch
from torch import nn

from lorachain.chain.scored_model import ScoredModel
from lorachain.memory import release
from lorachain.tokens import TokenEncoder

_Identity = tuple[ScoredModel, tuple[tuple[str, int, int], ...]]


class HeldModel:
    """At most one loaded model. It is loaded again when its adapter on disk was replaced, as by a training."""

    def __init__(self) -> None:
        self._identity: _Identity | None = None
        self._loaded: tuple[nn.Module, TokenEncoder] | None = None

    def holds(self, model: ScoredModel) -> bool:
        return self._loaded is not None and self._identity == _identity(model)

    def load(self, model: ScoredModel, device: torch.device, dtype: torch.dtype) -> tuple[nn.Module, TokenEncoder]:
        """The model and its tokenizer; another one that is held is released first.

        Raises:
            LorachainError: it cannot be loaded.
        """
        self.release_other_than(model)
        if self._loaded is None:
            self._identity = _identity(model)
            self._loaded = model.load(device, dtype)
        return self._loaded

    def release_other_than(self, model: ScoredModel) -> None:
        if not self.holds(model):
            self.release()

    def release(self) -> None:
        self._identity = self._loaded = None
        release()


def _identity(model: ScoredModel) -> _Identity:
    """The directories, and the files of the adapter with their size and time."""
    files: list[Path] = sorted(model.adapter.glob("adapter_*")) if model.adapter else []
    return model, tuple((path.name, (found := path.stat()).st_size, found.st_mtime_ns) for path in files)

"""What `lorachain doctor` checks: a model of the workspace, a stage, a directory, or a hub id."""

from dataclasses import dataclass
from pathlib import Path

from lorachain.chain.context import ChainContext
from lorachain.chain.scored_model import ScoredModel, find_scored_model
from lorachain.registry import cached_hub_folder, is_hub_id, weights_folder


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to check."""

    name: str
    hub_id: str | None
    """Where its base is downloaded from; None where it is on this machine by another way."""
    model: ScoredModel | None
    """None where its weights are not on this machine."""
    is_chain: bool
    """Whether it is a model of the workspace, whose sources are checked too."""


def find_subject(context: ChainContext, what: str | None) -> Subject:
    """The model to check; nothing is downloaded.

    Args:
        what: a stage, a directory or a hub id; None: the base of `context.model`.

    Raises:
        ModelError, AdapterError, WorkspaceError: it is none of these, or its base is missing.
    """
    if what is None:
        hub_id = context.entry.huggingface_id
        if hub_id is not None:
            cached = cached_hub_folder(hub_id, context.entry.revision)
            return _of_hub(context.model, hub_id, cached, is_chain=True)
        base = weights_folder(context.entry, context.reporter.message)
        return Subject(context.model, None, ScoredModel(context.model, base, None), is_chain=True)
    if is_hub_id(what) and not Path(what).expanduser().is_dir():
        return _of_hub(what, what, cached_hub_folder(what), is_chain=False)
    model = find_scored_model(context, what)
    return Subject(model.name, None, model, is_chain=False)


def _of_hub(name: str, hub_id: str, cached: Path | None, *, is_chain: bool) -> Subject:
    model = ScoredModel(name, cached, None) if cached is not None else None
    return Subject(name, hub_id, model, is_chain=is_chain)

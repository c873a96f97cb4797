"""The config.json of a model that may not be on this machine."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from lorachain.chain.context import ChainContext
from lorachain.errors import ModelError
from lorachain.registry import cached_hub_folder, has_weights, is_hub_id, weights_folder


@dataclass(frozen=True, slots=True)
class ModelConfigFolder:
    """A directory with a config.json."""

    name: str
    folder: Path
    weights: bool
    """Whether the weights are there too."""


def find_config(context: ChainContext, what: str | None) -> ModelConfigFolder:
    """The configuration of a model; of one on the hub only config.json is downloaded.

    Args:
        what: a directory or a hub id; None: `context.model`.

    Raises:
        ModelError: there is none, or it cannot be had.
    """
    if what is not None and Path(what).expanduser().is_dir():
        folder = Path(what).expanduser().resolve()
        return ModelConfigFolder(folder.name, folder, any(folder.glob("*.safetensors")))
    hub_id, revision = (context.entry.huggingface_id, context.entry.revision) if what is None else (what, None)
    if hub_id is None:
        here = has_weights(context.entry)
        return ModelConfigFolder(context.model, weights_folder(context.entry, context.reporter.message), here)
    if not is_hub_id(hub_id):
        raise ModelError(
            f"{hub_id!r} is neither a model of the workspace, nor a directory, nor a hub id (owner/name); name the "
            "directory of a model, or one that contains only its config.json"
        )
    cached = cached_hub_folder(hub_id, revision)
    name = context.model if what is None else hub_id
    if cached is not None:
        return ModelConfigFolder(name, cached, True)
    return ModelConfigFolder(name, _download_config(hub_id, revision), False)


def _download_config(hub_id: str, revision: str | None) -> Path:
    try:
        return Path(hf_hub_download(hub_id, "config.json", revision=revision)).parent
    except GatedRepoError as error:
        raise ModelError(
            f"{hub_id} is gated: accept its licence at https://huggingface.co/{hub_id}, log in with `hf auth login`, "
            "and run the same command again"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(f"{hub_id} is not on the hub, or private; log in with `hf auth login`") from error
    except Exception as error:  # the errors of the HTTP client differ between versions of huggingface_hub
        raise ModelError(
            f"the config.json of {hub_id} is not in the local cache and the hub cannot be reached "
            f"({type(error).__name__}); name a directory with its config.json instead"
        ) from error

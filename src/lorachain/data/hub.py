"""Data sets on the Hugging Face hub, read through the `datasets` library at a pinned revision."""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from lorachain.data.rows import Row
from lorachain.errors import DataError

T = TypeVar("T")
_PROBE_SECONDS = 20.0
_PAGE = ("README.md", ".gitattributes")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_UNREACHABLE = {"ConnectionError", "ConnectError", "TimeoutException", "ConnectTimeout", "ReadTimeout"}


@dataclass(frozen=True, slots=True)
class Commit:
    """The state of a data set; both None where HF_HUB_OFFLINE is set and only the cache is read."""

    revision: str | None
    files_sha256: str | None
    """Of the names and content hashes of its files: a commit that only edits the data set's page does not change it."""


def commit_of(repo: str) -> Commit:
    """The data set's newest commit.

    Queried first, since it fails at once where `datasets` would retry for half a minute on an unreachable hub.

    Raises:
        DataError: the hub is unreachable, or the data set is missing, private or gated.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    def query() -> Commit:
        try:
            info = HfApi().dataset_info(repo, timeout=_PROBE_SECONDS, files_metadata=True)
        except OfflineModeIsEnabled:
            return Commit(None, None)
        files = sorted((f.rfilename, f.blob_id or "") for f in info.siblings or [] if f.rfilename not in _PAGE)
        return Commit(info.sha, hashlib.sha256(repr(files).encode()).hexdigest())

    return _through_hub(repo, query)


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to query the hub."""
    from huggingface_hub import is_offline_mode

    return is_offline_mode()


def cached_revision(repo: str, config: str | None) -> str | None:
    """The commit of the copy in the cache, which is read offline; None where there is no copy or it is unknown."""
    import datasets

    try:
        commit = _through_hub(repo, lambda: datasets.load_dataset_builder(repo, config).hash)
    except DataError:
        return None
    return commit if isinstance(commit, str) and _COMMIT.fullmatch(commit) else None


def configs(repo: str, revision: str | None) -> list[str]:
    """Raises DataError as `commit_of` does."""
    import datasets

    return _through_hub(repo, lambda: list(datasets.get_dataset_config_names(repo, revision=revision)))


def splits(repo: str, config: str | None, revision: str | None) -> list[str]:
    """Raises DataError as `commit_of` does."""
    import datasets

    return _through_hub(repo, lambda: list(datasets.get_dataset_split_names(repo, config, revision=revision)))


def row_counts(repo: str, config: str | None, revision: str | None) -> dict[str, int]:
    """The number of rows by split, as the data set's page states it; empty where it does not. Downloads no data.

    Raises:
        DataError: as `commit_of`; also for a data set of several configurations where `config` is None.
    """
    import datasets

    info = _through_hub(repo, lambda: datasets.load_dataset_builder(repo, config, revision=revision).info)
    return {name: split.num_examples for name, split in (info.splits or {}).items()}


def rows(repo: str, config: str | None, split: str, revision: str | None, *, streaming: bool) -> Iterator[Row]:
    """The rows of one split in order; `streaming` reads over the network without storing the data set on disk.

    Raises:
        DataError: as `commit_of`, also in the middle of a stream.
    """
    import datasets

    data = _through_hub(
        repo, lambda: datasets.load_dataset(repo, config, split=split, revision=revision, streaming=streaming)
    )
    stream = iter(data)
    while (row := _through_hub(repo, lambda: next(stream, None))) is not None:
        yield dict(row)


def _through_hub(repo: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except Exception as error:  # httpx, fsspec, aiohttp, pyarrow and datasets raise below here, without a common base
        raise _explained(repo, error) from error


def _explained(repo: str, error: BaseException) -> DataError:
    """The next step for each way in which the hub fails. The library's own text is left out: it may quote headers."""
    kinds = _kinds(error)
    page = f"https://huggingface.co/datasets/{repo}"
    if "GatedRepoError" in kinds or "gated dataset" in str(error):
        return DataError(
            f"{repo}: this data set is gated. Accept its terms at {page}, log in with `hf auth login` "
            "(or set HF_TOKEN), and run again; or name a local copy."
        )
    if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError", "HFValidationError"}:
        return DataError(
            f"{repo}: neither a local path nor a data set on the hub that you may read. See {page}; if it is private, "
            "log in with `hf auth login`; otherwise name a local file or directory."
        )
    if offline() and (kinds & _UNREACHABLE or "find cache" in str(error) or "FileNotFoundError" in kinds):
        return DataError(
            f"{repo}: the Hugging Face hub cannot be reached (HF_HUB_OFFLINE is set), and the cache has no complete "
            f"copy. Unset HF_HUB_OFFLINE and run again to complete it, or download {page} elsewhere and name the local "
            "path."
        )
    if kinds & _UNREACHABLE:
        return DataError(
            f"{repo}: the Hugging Face hub cannot be reached. Go online and run again, or download {page} elsewhere "
            "and name the local path; with a copy in the cache, set HF_HUB_OFFLINE=1 to use it."
        )
    return DataError(
        f"{repo}: the data set could not be read through the hub ({type(error).__name__}). See {page} for its "
        "configurations (owner/name:config) and files, or download it and name the local path."
    )


def _kinds(error: BaseException) -> set[str]:
    """The names of the classes of an error and of its causes."""
    names: set[str] = set()
    current: BaseException | None = error
    while current is not None:
        names |= {kind.__name__ for kind in type(current).__mro__}
        current = current.__cause__ or current.__context__
    return names

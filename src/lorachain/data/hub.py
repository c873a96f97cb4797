"""Data sets on the Hugging Face hub, read through the `datasets` library at a pinned revision."""

import os
from collections.abc import Callable, Iterator
from typing import TypeVar

from lorachain.data.rows import Row
from lorachain.errors import DataError

T = TypeVar("T")
_PROBE_SECONDS = 20.0


def revision_of(repo: str) -> str | None:
    """The commit that the data set stands at now; None where HF_HUB_OFFLINE is set and only the cache is asked.

    Asked first, since it answers at once where `datasets` would retry for half a minute on an unreachable hub.

    Raises:
        DataError: the hub is unreachable, or the data set is missing, private or gated.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    def ask() -> str | None:
        try:
            return HfApi().dataset_info(repo, timeout=_PROBE_SECONDS).sha
        except OfflineModeIsEnabled:
            return None

    return _through_hub(repo, ask)


def configs(repo: str, revision: str | None) -> list[str]:
    """Raises DataError as `revision_of` does."""
    import datasets

    return _through_hub(repo, lambda: list(datasets.get_dataset_config_names(repo, revision=revision)))


def splits(repo: str, config: str | None, revision: str | None) -> list[str]:
    """Raises DataError as `revision_of` does."""
    import datasets

    return _through_hub(repo, lambda: list(datasets.get_dataset_split_names(repo, config, revision=revision)))


def rows(repo: str, config: str | None, split: str, revision: str | None, *, streaming: bool) -> Iterator[Row]:
    """The rows of one split in order; `streaming` reads over the network without keeping the whole on disk.

    Raises:
        DataError: as `revision_of`, also in the middle of a stream.
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
    """The next step for each way in which the hub fails; the library's own text is left out, it may quote headers."""
    kinds = _kinds(error)
    page = f"https://huggingface.co/datasets/{repo}"
    if "GatedRepoError" in kinds or "gated dataset" in str(error):
        return DataError(
            f"{repo}: this data set is gated. Accept its terms at {page}, log in with `hf auth login` "
            "(or set HF_TOKEN), and run again; or name a local path to a copy."
        )
    if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError", "HFValidationError"}:
        return DataError(
            f"{repo}: neither a path here nor a data set on the hub that you may read. Look at {page}; "
            "if it is private, log in with `hf auth login`; otherwise name a local file or folder."
        )
    if kinds & {"ConnectionError", "ConnectError", "TimeoutException", "ConnectTimeout", "ReadTimeout"}:
        offline = " HF_HUB_OFFLINE is set, and the cache does not hold it." if os.environ.get("HF_HUB_OFFLINE") else ""
        return DataError(
            f"{repo}: the Hugging Face hub cannot be reached.{offline} Go online and run again, or download {page} "
            "elsewhere and name the local path; with a copy in the cache, set HF_HUB_OFFLINE=1 to use it."
        )
    return DataError(
        f"{repo}: the data set could not be read through the hub ({type(error).__name__}). Look at {page} for its "
        "configurations (owner/name:config) and files, or download it and name the local path."
    )


def _kinds(error: BaseException) -> set[str]:
    """The names of the classes of an error and of all that caused it."""
    names: set[str] = set()
    current: BaseException | None = error
    while current is not None:
        names |= {kind.__name__ for kind in type(current).__mro__}
        current = current.__cause__ or current.__context__
    return names

"""Sends a directory to a model repository on the Hugging Face hub: private unless told, in one commit, resumable.

The protocol is that of `huggingface_hub`. Large files go to content-addressed storage before the commit, so what an
interrupted push has stored is not sent again, and a repository never shows half of a model.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, HfApi, is_offline_mode
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from lorachain.errors import ConfigError, HubError
from lorachain.registry import is_hub_id

T = TypeVar("T")
WAITS = (1.0, 4.0, 16.0)
"""Seconds before each repetition of a request that failed for no lasting reason."""
_READ_ONLY = "read"
_TOKENS_PAGE = "https://huggingface.co/settings/tokens"
_RESUME = "Nothing is lost: run the same command again, and what the hub has is not sent again"


@dataclass(frozen=True, slots=True)
class Target:
    """A model repository, as far as the hub lets this account see it."""

    repository: str
    exists: bool
    private: bool
    """Where it exists: whether it is private now."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push ended with."""

    commit: str
    url: str


def check_repository_name(name: str) -> str:
    """Raises ConfigError unless `name` is owner/name by the hub's rules."""
    if not is_hub_id(name):
        raise ConfigError(f"--to is {name!r}; give a repository on the hub as OWNER/NAME, such as kim/kormed-4b")
    return name


def find_target(repository: str, *, public: bool) -> Target:
    """Checks, before any work, that this account may push to the repository and that it has the wanted visibility.

    Raises:
        HubError: not logged in, a token that may only read, an owner that is not this account or one of its
            organizations, a repository that is public though it should not be, a hub that cannot be reached.
    """
    if is_offline_mode():
        raise HubError("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it, or list the files with --dry-run")
    api = HfApi()
    account = _explained(repository, lambda: api.whoami())
    _check_account(repository, account)
    target = _target(api, repository)
    if target.exists and not target.private and not public:
        raise HubError(
            f"{repository} exists and is public; what is pushed there can be read by everyone. "
            "Push to it all the same with --public, or name another repository"
        )
    return target


def push_files(
    target: Target, files: Sequence[tuple[str, Path]], *, public: bool, message: str, waits: Sequence[float] = WAITS
) -> Pushed:
    """Creates the repository where there is none, and commits `files` (name in the repository, local file) to it.

    Files that the repository has already are not sent again; files that only the repository has are left alone.

    Raises:
        HubError: as `find_target`; also where the hub made a repository public that should be private, or refuses a
            file.
    """
    repository = target.repository
    disable_progress_bars()
    api = HfApi()
    if not target.exists:
        _retried(repository, lambda: api.create_repo(repository, private=not public, exist_ok=True), waits)
    now = _retried(repository, lambda: _target(api, repository), waits)
    if not now.exists:
        raise HubError(f"{repository} was created, and the hub does not show it to this account. {_RESUME}")
    if not now.private and not public:
        raise HubError(
            f"the hub says that {repository} is public; nothing was sent. Make it private on its settings page, or "
            "push it publicly with --public"
        )

    def commit() -> Pushed:
        operations = [CommitOperationAdd(name, file) for name, file in files]  # used up by an attempt
        done = api.create_commit(repository, operations, commit_message=message)
        return Pushed(done.oid, f"{api.endpoint}/{repository}")

    return _retried(repository, commit, waits)


def _check_account(repository: str, account: dict[str, object]) -> None:
    owner = repository.partition("/")[0]
    organizations = account.get("orgs")
    members = organizations if isinstance(organizations, list) else []
    names = [str(one.get("name")) for one in (account, *members) if isinstance(one, dict)]
    if owner.casefold() not in {name.casefold() for name in names}:
        raise HubError(
            f"--to {repository}: you are logged in as {names[0]}, who may push to {', '.join(names)}; name a "
            "repository of one of these, or log in as another account with `hf auth login`"
        )
    auth = account.get("auth")
    token = auth.get("accessToken") if isinstance(auth, dict) else None
    if isinstance(token, dict) and token.get("role") == _READ_ONLY:
        raise HubError(
            f"the token may only read; create one that may write to {repository} at {_TOKENS_PAGE}, and log in with it "
            "(`hf auth login`, or HF_TOKEN)"
        )


def _target(api: HfApi, repository: str) -> Target:
    try:
        info = _explained(repository, lambda: api.model_info(repository), passing=RepositoryNotFoundError)
    except GatedRepoError:
        return Target(repository, exists=True, private=False)
    except RepositoryNotFoundError:
        return Target(repository, exists=False, private=False)
    return Target(repository, exists=True, private=bool(info.private))


class _TransientError(HubError):
    """Worth another attempt."""


def _retried(repository: str, call: Callable[[], T], waits: Sequence[float]) -> T:
    for wait in waits:
        try:
            return _explained(repository, call)
        except _TransientError:
            time.sleep(wait)
    return _explained(repository, call)


def _explained(repository: str, call: Callable[[], T], passing: type[Exception] = HubError) -> T:
    """Calls the hub; what the library raises becomes one message.

    The library's own text is left out: it may quote headers and addresses with signatures.
    """
    try:
        return call()
    except (HubError, passing):
        raise
    except Exception as error:  # httpx, hf_xet and the hub's own exceptions have no common base
        raise _hub_error(repository, error) from None


def _hub_error(repository: str, error: Exception) -> HubError:
    causes = list(_causes(error))
    if any(isinstance(cause, LocalTokenNotFoundError) for cause in causes):
        return HubError(
            f"not logged in to the hub: create a token that may write at {_TOKENS_PAGE}, then `hf auth login` (or set "
            "HF_TOKEN)"
        )
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in causes):
        return HubError("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it")
    status = next((c.response.status_code for c in causes if isinstance(c, HfHubHTTPError)), None)
    if status == 401:
        return HubError(
            f"the hub does not accept the token (401); create one at {_TOKENS_PAGE}, and log in with it "
            "(`hf auth login`; HF_TOKEN comes first where it is set)"
        )
    if status == 403:
        return HubError(
            f"this account may not write to {repository} (403): check the token's permissions at {_TOKENS_PAGE}, your "
            f"role in the organization, and its storage. {_RESUME}"
        )
    if status == 404:
        return HubError(f"{repository} is not on the hub, or this account may not see it (404)")
    if status in (400, 409, 413, 422) or isinstance(error, ValueError):
        return HubError(
            f"the hub refuses the files for {repository} ({status or 'malformed answer'}); look at the README.md that "
            "--dry-run shows, and at the repository's page"
        )
    what = f"({status})" if status else f"({type(causes[-1]).__name__})"
    return _TransientError(f"{repository}: the hub cannot be reached or did not answer {what}. {_RESUME}")


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found:
        found.append(current)
        current = current.__cause__ or current.__context__
    return found

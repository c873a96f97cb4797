"""Checks of the hub: whether a model that is not here can be downloaded."""

from collections.abc import Iterator

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from lorachain.artifacts import Check
from lorachain.doctor.findings import failure, ok, warning


def check_hub(repository: str, *, cached: bool, endpoint: str | None = None) -> Iterator[Check]:
    """Whether this account may download `repository`.

    Args:
        cached: whether its files are in the local cache, so that nothing has to be downloaded.
        endpoint: of the hub; None: the configured one.
    """
    problem = warning if cached else failure
    here = "; the weights are in the local cache" if cached else ""
    page = f"https://huggingface.co/{repository}"
    login = "logged in" if get_token() else "not logged in"
    if constants.HF_HUB_OFFLINE:
        if cached:
            yield ok("hub", f"offline (HF_HUB_OFFLINE){here}")
        else:
            yield failure(
                "hub",
                f"offline (HF_HUB_OFFLINE), and {repository} is not in the local cache",
                "unset HF_HUB_OFFLINE, or copy the model here and name it as local_path in model_paths.json",
            )
        return
    try:
        HfApi(endpoint=endpoint).auth_check(repository)
    except GatedRepoError:
        yield problem(
            "hub",
            f"{repository} is gated and this account has no access ({login}){here}",
            f"accept its licence at {page}, then hf auth login",
        )
    except RepositoryNotFoundError:
        yield problem(
            "hub",
            f"{repository} is not on the hub, or private ({login}){here}",
            f"check the name at {page}, then hf auth login",
        )
    except Exception as error:  # the errors of the HTTP client differ between versions of huggingface_hub
        yield problem(
            "hub",
            f"the hub cannot be reached ({type(error).__name__}){here}",
            "check the connection and the proxy; or copy the model here and name it as local_path in model_paths.json",
        )
    else:
        yield ok("hub", f"{repository} can be downloaded ({login}){here}")

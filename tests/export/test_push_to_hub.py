"""A push against a stand-in of the hub: nothing twice, nothing public by accident, every fault one message."""

from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub_constants
import pytest

from hub_server import COMMIT, TOKEN, Fault, Hub, Repository
from lorachain.errors import ConfigError, HubError
from lorachain.export.hub import Pushed, Target, check_repository_name, find_target, push_files

NAME = "kim/model"
NEW = Target(NAME, exists=False, private=False)
COMMIT_PATH = r"/commit/main$"


@pytest.fixture
def files(tmp_path: Path) -> list[tuple[str, Path]]:
    contents = {
        "README.md": "---\nlicense: gemma\n---\n# card\n",
        "NOTICE": "Gemma is provided under …\n",
        "a.safetensors": "weights a" * 1000,
        "b.safetensors": "weights b" * 1000,
    }
    for name, text in contents.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return [(name, tmp_path / name) for name in contents]


def send(files: Any, *, target: Target = NEW, public: bool = False) -> Pushed:
    return push_files(target, files, public=public, message="a step", waits=(0, 0))


def test_a_new_repository_is_private_and_has_every_file_once(hub: Hub, files: list[tuple[str, Path]]) -> None:
    target = find_target(NAME, public=False)
    assert target == NEW
    pushed = send(files, target=target)
    assert pushed == Pushed(COMMIT, f"{hub.url}/{NAME}")
    repository = hub.repositories[NAME]
    assert repository.private
    assert repository.commits == 1
    assert repository.files.keys() == {name for name, _ in files}
    assert repository.contents["README.md"] == files[0][1].read_bytes()
    assert sorted(hub.uploads.values()) == [1, 1]
    assert find_target(NAME, public=False) == Target(NAME, exists=True, private=True)


def test_the_same_push_again_sends_and_commits_nothing(hub: Hub, files: list[tuple[str, Path]]) -> None:
    first = send(files)
    assert send(files, target=find_target(NAME, public=False)) == first
    assert hub.repositories[NAME].commits == 1
    assert sorted(hub.uploads.values()) == [1, 1]


def test_only_what_changed_is_sent(hub: Hub, files: list[tuple[str, Path]]) -> None:
    send(files)
    files[0][1].write_text("---\nlicense: gemma\n---\n# a newer card\n")
    send(files, target=find_target(NAME, public=False))
    assert hub.repositories[NAME].commits == 2
    assert sorted(hub.uploads.values()) == [1, 1]


def test_an_upload_that_failed_resumes_without_sending_again(hub: Hub, files: list[tuple[str, Path]]) -> None:
    hub.faults = [Fault("PUT", "/lfs/objects/", 403, skip=1)]
    with pytest.raises(HubError, match=r"may not write to kim/model \(403\).*Nothing is lost"):
        send(files)
    repository = hub.repositories[NAME]
    assert repository.files == {}  # nothing of half a model is visible
    assert repository.private
    assert sum(hub.uploads.values()) == 1
    send(files, target=find_target(NAME, public=False))
    assert sorted(hub.uploads.values()) == [1, 1]
    assert repository.commits == 1


@pytest.mark.parametrize("what", [500, 503, "cut", "cut after"])
def test_a_commit_that_failed_for_no_lasting_reason_is_repeated(
    hub: Hub, files: list[tuple[str, Path]], what: Any
) -> None:
    hub.faults = [Fault("POST", COMMIT_PATH, what, times=2 if what == 500 else 1)]
    assert send(files).commit == COMMIT
    assert hub.repositories[NAME].commits == 1  # also where only the answer was lost
    assert sorted(hub.uploads.values()) == [1, 1]


@pytest.mark.parametrize("path", ["/lfs/objects/", "/lfs/objects/batch$", "/preupload/"])
def test_a_cut_connection_is_repeated(hub: Hub, files: list[tuple[str, Path]], path: str) -> None:
    method = "PUT" if path == "/lfs/objects/" else "POST"
    hub.faults = [Fault(method, path, "cut")]
    send(files)
    assert hub.repositories[NAME].files.keys() == {name for name, _ in files}
    assert sorted(hub.uploads.values()) == [1, 1]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault("POST", COMMIT_PATH, 500, times=9), ("cannot be reached or did not answer (500)", "Nothing is lost")),
        (Fault("POST", COMMIT_PATH, "cut", times=9), ("cannot be reached or did not answer", "run the same command")),
        (Fault("POST", COMMIT_PATH, 401, times=9), ("does not accept the token (401)", "hf auth login")),
        (Fault("POST", COMMIT_PATH, 403, times=9), ("may not write to kim/model (403)", "permissions")),
        (Fault("POST", COMMIT_PATH, 413, times=9), ("refuses the files for kim/model (413)",)),
        (Fault("POST", "/repos/create$", 403, times=9), ("may not write to kim/model (403)",)),
        (Fault("POST", "/validate-yaml$", 400, times=9), ("refuses the files for kim/model (400)", "README.md")),
    ],
)
def test_a_lasting_fault_is_one_message_without_the_token(
    hub: Hub, files: list[tuple[str, Path]], fault: Fault, says: tuple[str, ...]
) -> None:
    hub.faults = [fault]
    with pytest.raises(HubError) as raised:
        send(files)
    assert all(text in str(raised.value) for text in says), str(raised.value)
    assert TOKEN not in str(raised.value)
    assert "injected" not in str(raised.value)
    assert not any(repository.files for repository in hub.repositories.values())


def test_a_public_repository_is_refused_before_anything_is_sent(hub: Hub, files: list[tuple[str, Path]]) -> None:
    hub.repositories[NAME] = Repository(private=False)
    with pytest.raises(HubError, match="exists and is public"):
        find_target(NAME, public=False)
    with pytest.raises(HubError, match="is public; nothing was sent"):
        send(files, target=Target(NAME, exists=True, private=True))  # it was private when it was looked at
    assert not hub.uploads
    send(files, target=find_target(NAME, public=True), public=True)
    assert hub.repositories[NAME].commits == 1


def test_a_repository_that_the_hub_makes_public_gets_nothing(hub: Hub, files: list[tuple[str, Path]]) -> None:
    hub.default_private = False
    with pytest.raises(HubError, match="is public; nothing was sent"):
        send(files)
    assert not hub.uploads
    assert hub.repositories[NAME].files == {}


def test_public_is_only_what_was_asked_for(hub: Hub, files: list[tuple[str, Path]]) -> None:
    send(files, public=True)
    assert not hub.repositories[NAME].private


def test_a_private_repository_stays_private_with_public(hub: Hub, files: list[tuple[str, Path]]) -> None:
    send(files)
    send(files, target=find_target(NAME, public=True), public=True)
    assert hub.repositories[NAME].private


def test_who_may_push(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not find_target("lab/model", public=False).exists
    with pytest.raises(HubError, match="logged in as kim, who may push to kim, lab"):
        find_target("somebody/model", public=False)
    hub.role = "read"
    with pytest.raises(HubError, match="the token may only read"):
        find_target(NAME, public=False)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "wrong" * 7)
    with pytest.raises(HubError, match=r"does not accept the token \(401\)") as raised:
        find_target(NAME, public=False)
    assert "wrong" not in str(raised.value)
    assert not hub.repositories


def test_without_a_token(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(hub_constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    with pytest.raises(HubError, match="not logged in to the hub"):
        find_target(NAME, public=False)
    assert hub.requests == []


def test_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"HF_HUB_OFFLINE is set.*--dry-run"):
        find_target(NAME, public=False)
    assert hub.requests == []


def test_nobody_answers(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="the hub cannot be reached"):
        find_target(NAME, public=False)


@pytest.mark.parametrize("name", ["model", "a/b/c", "https://huggingface.co/kim/model", "kim/..", ""])
def test_a_name_that_is_no_repository(name: str) -> None:
    with pytest.raises(ConfigError, match="OWNER/NAME"):
        check_repository_name(name)

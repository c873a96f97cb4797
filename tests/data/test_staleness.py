"""A source that contains what was read from it is unchanged, however its path is spelled."""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from lorachain.data import hub
from lorachain.data.dictionary import load_dictionary
from lorachain.data.exam import load_exam
from lorachain.data.plain_text import stream_plain_text
from lorachain.data.sources import SourceInfo
from lorachain.data.staleness import Reading, changed_since, reads_the_same

ROW = '{"term": "콜레라", "english": "Cholera", "text": "콜레라는 병이다."}\n'
QUESTION = '{"question": "다음 중 옳은 것은?", "A": "a", "B": "b", "C": "c", "D": "d", "E": "e", "answer": 1}\n'


def read_plain_text(name: str, max_samples: int | None = None) -> dict[str, Any]:
    stream = stream_plain_text([name], max_samples=max_samples)
    list(stream)
    return asdict(stream.sources[0])


def read_dictionary(name: str, max_samples: int | None = None) -> dict[str, Any]:
    return asdict(load_dictionary([name], max_samples=max_samples).sources[0])


READERS: dict[Reading, Callable[..., dict[str, Any]]] = {"plain text": read_plain_text, "dictionary": read_dictionary}
both = pytest.mark.parametrize("reading", ["plain text", "dictionary"])


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source directory of three files with one row each; the current directory is above it."""
    monkeypatch.chdir(tmp_path)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in ("b", "d", "f"):
        (corpus / f"{name}.jsonl").write_text(ROW.replace("Cholera", name).replace("병", name), encoding="utf-8")
    return corpus


@both
def test_every_spelling_of_the_same_content_is_the_same(
    directory: Path, tmp_path: Path, reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(directory, target_is_directory=True)
    (tmp_path / "renamed.jsonl").symlink_to(directory / "b.jsonl")
    of_directory, of_file = READERS[reading]("corpus"), READERS[reading]("corpus/b.jsonl")
    for name in ("corpus", "./corpus", "~/corpus", str(directory), "link", "corpus/../corpus/"):
        assert changed_since(of_directory, name, reading) == ""
        assert READERS[reading](name)["sha256"] == of_directory["sha256"]
    for name in ("corpus/b.jsonl", "~/corpus/b.jsonl", "link/b.jsonl", "renamed.jsonl"):
        assert changed_since(of_file, name, reading) == ""
        assert READERS[reading](name)["sha256"] == of_file["sha256"]


@both
def test_other_options_of_reading_are_a_change(directory: Path, reading: Reading) -> None:
    name = "corpus/b.jsonl"
    read = READERS[reading](name)
    assert "is now corpus/b.jsonl#encoding=utf-8" in changed_since(read, f"{name}#encoding=utf-8", reading)
    again = READERS[reading](f"{name}#encoding=utf-8")
    assert changed_since(again, f"./{name}#encoding=utf-8", reading) == ""
    assert changed_since(again, name, reading) != ""
    assert again["sha256"] != read["sha256"]
    assert reads_the_same(SourceInfo(**again), reading)


@both
def test_files_changed_added_and_removed_are_named(directory: Path, reading: Reading) -> None:
    read = READERS[reading]("corpus")
    (directory / "notes.md").write_text("no data", encoding="utf-8")
    assert changed_since(read, "corpus", reading) == ""
    (directory / "g.jsonl").write_text(ROW, encoding="utf-8")
    assert changed_since(read, "corpus", reading) == "g.jsonl was added to corpus"
    (directory / "g.jsonl").rename(directory / "a.jsonl")
    assert changed_since(read, "corpus", reading) == "a.jsonl was added to corpus"
    (directory / "a.jsonl").unlink()
    (directory / "d.jsonl").write_text(ROW + ROW, encoding="utf-8")
    assert changed_since(read, "corpus", reading) == "d.jsonl changed"
    (directory / "d.jsonl").unlink()
    assert changed_since(read, "corpus", reading) == "d.jsonl of corpus is gone"


def test_a_text_file_is_data_for_plain_text_alone(directory: Path) -> None:
    of_text, of_dictionary = read_plain_text("corpus"), read_dictionary("corpus")
    (directory / "new.txt").write_text("새 문서", encoding="utf-8")
    assert changed_since(of_text, "corpus", "plain text") == "new.txt was added to corpus"
    assert changed_since(of_dictionary, "corpus", "dictionary") == ""


@both
def test_files_beyond_the_limit_have_no_influence(directory: Path, reading: Reading) -> None:
    read = READERS[reading]("corpus", max_samples=2)
    (directory / "f.jsonl").write_text(ROW + ROW, encoding="utf-8")
    (directory / "e.jsonl").write_text(ROW, encoding="utf-8")
    assert changed_since(read, "corpus", reading) == ""
    assert READERS[reading]("corpus", max_samples=2)["sha256"] == read["sha256"]
    (directory / "c.jsonl").write_text(ROW, encoding="utf-8")
    assert changed_since(read, "corpus", reading) == "c.jsonl was added to corpus"


@both
def test_other_content_under_another_name_is_another_source(directory: Path, tmp_path: Path, reading: Reading) -> None:
    read = READERS[reading]("corpus/b.jsonl")
    assert changed_since(read, "corpus/d.jsonl", reading) == (
        "the source was corpus/b.jsonl (local), is corpus/d.jsonl (local)"
    )
    (tmp_path / "b.txt").write_bytes((directory / "b.jsonl").read_bytes())  # the same bytes, read in another way
    assert changed_since(read, str(tmp_path / "b.txt"), reading).startswith("the source was")


def test_an_exam_follows_its_split_and_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exam = tmp_path / "exam"
    exam.mkdir()
    for split in ("train", "dev", "test"):
        (exam / f"{split}.jsonl").write_text(QUESTION.replace("다음", split), encoding="utf-8")
    trained, validated = (asdict(load_exam(["exam"], split).sources[0]) for split in ("train", "dev"))
    (exam / "test.jsonl").write_text(QUESTION, encoding="utf-8")
    (exam / "more_train.jsonl").write_text(QUESTION, encoding="utf-8")
    assert changed_since(validated, "./exam", "exam for validation") == ""
    assert changed_since(trained, "exam", "exam for training") == "more_train.jsonl was added to exam"
    (exam / "fewshot.jsonl").write_text(QUESTION, encoding="utf-8")
    assert changed_since(validated, "exam", "exam for validation") == "fewshot.jsonl was added to exam"
    os.remove(exam / "fewshot.jsonl")
    (tmp_path / "other").symlink_to(exam, target_is_directory=True)
    assert changed_since(validated, "other", "exam for validation").startswith("the source was exam")


# ---- the hub ---------------------------------------------------------------------------------------------------------

OLD, NEW = "a" * 40, "b" * 40


class Hub:
    """A hub of one data set with its newest `commit` and `blobs`."""

    def __init__(self) -> None:
        self.commit = OLD
        self.blobs = {"README.md": "1", "train.csv": "2"}
        self.queries = 0

    def info(self, api: object, repo: str, **how: object) -> SimpleNamespace:
        self.queries += 1
        files = [SimpleNamespace(rfilename=name, blob_id=blob) for name, blob in self.blobs.items()]
        return SimpleNamespace(sha=self.commit, siblings=files)


@pytest.fixture
def owner(monkeypatch: pytest.MonkeyPatch) -> Hub:
    fake = Hub()
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda api, repo, **how: fake.info(api, repo, **how))
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: [{"term": "콜레라", "english": "Cholera"}])
    monkeypatch.setattr(hub, "offline", lambda: False)
    return fake


def moved(read: dict[str, Any], **how: Any) -> str:
    return changed_since(read, "owner/terms", "dictionary", **how)


def test_a_commit_with_other_files_is_a_change_and_an_edited_page_is_not(owner: Hub) -> None:
    read = read_dictionary("owner/terms")
    assert read["revision"] == OLD
    owner.commit, owner.blobs["README.md"] = NEW, "3"
    assert moved(read, ask_hub=True) == ""
    owner.blobs["train.csv"] = "4"
    queries = owner.queries
    assert moved(read) == ""
    assert owner.queries == queries  # status stays off the network
    assert moved(read, ask_hub=True) == (
        "owner/terms changed on the hub: commit aaaaaaaa was read, it is now at bbbbbbbb"
    )
    assert changed_since(read, "owner/others", "dictionary").startswith("the source was owner/terms (hub), is")


def test_an_unreachable_hub_changes_nothing_and_is_reported(owner: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    read = read_dictionary("owner/terms")

    def fail(*arguments: object, **how: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", fail)
    messages: list[str] = []
    assert moved(read, ask_hub=True, on_message=messages.append) == ""
    assert "it counts as unchanged" in messages[0]


def test_offline_the_commit_comes_from_the_cache(owner: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` keeps what it downloaded in a directory named after the commit, and its builder finds the newest."""

    def refuse(*arguments: object, **how: object) -> None:
        raise OfflineModeIsEnabled("offline")

    cached = SimpleNamespace(hash=OLD)
    monkeypatch.setattr(hub, "offline", lambda: True)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda repo, config: cached)
    read = read_dictionary("owner/terms")
    assert read["revision"] == OLD
    assert moved(read) == ""
    cached.hash = NEW
    assert moved(read) == "owner/terms was read at commit aaaaaaaa, the cache has commit bbbbbbbb"
    cached.hash = "default-1234"  # no commit: nothing to compare
    assert moved(read) == ""
    assert not reads_the_same(SourceInfo(**read), "dictionary")


def test_only_a_known_commit_is_certain_to_read_the_same(owner: Hub) -> None:
    read = SourceInfo(**read_dictionary("owner/terms"))
    assert reads_the_same(read, "dictionary")
    owner.commit = NEW
    assert not reads_the_same(read, "dictionary")


@both
def test_the_same_files_read_the_same(directory: Path, reading: Reading) -> None:
    read = SourceInfo(**READERS[reading]("corpus"))
    assert reads_the_same(read, reading)
    (directory / "g.jsonl").write_text(ROW, encoding="utf-8")
    assert not reads_the_same(read, reading)

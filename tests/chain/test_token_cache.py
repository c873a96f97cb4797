"""Cached tokens equal freshly made ones, and are recreated whenever anything that decides them changed."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import make_tokenizer
from lorachain.chain.context import load_config
from lorachain.chain.stages import find_stage
from lorachain.chain.tasks import token_cache
from lorachain.chain.tasks.base import TaskInputs
from lorachain.data import hub
from lorachain.data.exam import load_exam
from lorachain.tokens import TokenEncoder, TokenRow

STAGES = ("00", "01", "02")


class Counting(TokenEncoder):
    """Counts the examples that it encodes."""

    encoded = 0

    def encode(self, example: Any, record: int = 0) -> TokenRow:
        self.encoded += 1
        return super().encode(example, record)


@pytest.fixture
def plain_text(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02}.txt").write_text(f"{number}번째 글은 간을 다룬다. " * (number + 1), encoding="utf-8")
    return folder


@pytest.fixture
def start(tmp_path: Path, plain_text: Path) -> Callable[..., Any]:
    """Loads a stage's task: (task, packs of two epochs as plain data, number of examples encoded, messages)."""
    config = load_config()
    held_out = load_exam(["sample"], "dev").questions

    def load(stage: Any, **changes: Any) -> tuple[Any, list[Any], int, list[str]]:
        encoder = Counting(make_tokenizer())
        messages: list[str] = []
        settings = {"max_length": 96, "max_samples": None} if stage == "00" else {"max_length": 3000, "max_samples": 12}
        settings |= {key: changes.pop(key) for key in settings if key in changes}
        inputs = TaskInputs(
            encoder=encoder,
            stage=config.stages[stage].model_copy(update=settings),
            validation=config.validation,
            seed=0,
            sources=[str(plain_text)] if stage == "00" else ["sample"],
            dev=[],
            held_out=held_out,
            answer_style="options",
            cache=tmp_path / "tokens",
            tokenizer_sha256="of the tokenizer",
            skip_bad_rows=False,
            on_message=messages.append,
        )
        load_task = find_stage(stage).task
        assert load_task is not None
        task = load_task()(dataclasses.replace(inputs, **changes))
        epochs = [task.packs_of_epoch(epoch) for epoch in (0, 1)]
        packs = [[[(r.ids, r.supervised_from) for r in packs[i]] for i in range(len(packs))] for packs in epochs]
        return task, packs, encoder.encoded, messages

    return load


@pytest.mark.parametrize("stage", STAGES)
def test_a_second_start_encodes_nothing_and_gets_the_same_packs(stage: str, start: Callable[..., Any]) -> None:
    first, packs, encoded, _ = start(stage)
    second, packs_again, encoded_again, messages = start(stage)
    assert encoded > 10
    assert encoded_again == 0
    assert packs_again == packs
    assert (second.counts, second.sources) == (first.counts, first.sources)
    assert messages == []


def test_each_epoch_has_its_own_rows_of_exam_questions(start: Callable[..., Any]) -> None:
    _, (first, second), _, _ = start("02")
    assert len(first) == len(second)
    assert first != second  # options in another order


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        ("00", {"max_samples": 5}),
        ("00", {"skip_bad_rows": True}),
        ("00", {"held_out": []}),
        *((stage, {"tokenizer_sha256": "of another"}) for stage in STAGES),
        ("01", {"max_samples": 5}),
        ("02", {"max_samples": 5}),
        ("02", {"seed": 1}),
        ("02", {"max_length": 2500}),
        ("02", {"answer_style": "letters"}),
    ],
)
def test_another_setting_makes_other_tokens(stage: str, change: dict[str, Any], start: Callable[..., Any]) -> None:
    start(stage)
    task, packs, encoded, _ = start(stage, **change)
    assert encoded > 0
    cached, packs_again, encoded_again, _ = start(stage, **change)
    assert encoded_again == 0
    assert (cached.counts, packs_again) == (task.counts, packs)


@pytest.mark.parametrize("of", ["_LIBRARIES", "_CODE"])
def test_another_library_or_other_code_makes_other_tokens(
    of: str, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    start("01")
    monkeypatch.setattr(token_cache, of, getattr(token_cache, of)[:-1])
    assert start("01")[2] > 0


def edit(folder: Path) -> None:
    (folder / "03.txt").write_text("다른 글이다. " * 9, encoding="utf-8")


def add_first(folder: Path) -> None:
    (folder / "00a.txt").write_text("끼어든 글이다. " * 9, encoding="utf-8")


def remove(folder: Path) -> None:
    (folder / "04.txt").unlink()


@pytest.mark.parametrize("change", [edit, add_first, remove])
def test_changed_files_make_other_tokens(
    change: Callable[[Path], None], start: Callable[..., Any], plain_text: Path
) -> None:
    _, before, _, _ = start("00")
    change(plain_text)
    task, packs, encoded, _ = start("00")
    assert encoded > 0
    assert packs != before
    assert task.counts["documents"] == len(list(plain_text.iterdir()))
    assert start("00")[1] == packs


def test_a_file_beyond_max_samples_changes_nothing(start: Callable[..., Any], plain_text: Path) -> None:
    start("00", max_samples=6)
    (plain_text / "10.txt").write_text("nobody reads this", encoding="utf-8")
    assert start("00", max_samples=6)[2] == 0


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("file", "content"),
    [("rows.arrow", None), ("made_from.json", b"{"), ("made_from.json", b"[]"), ("made_from.json", b'{"identity": 1}')],
)
def test_damaged_tokens_are_created_again_with_a_message(
    stage: str, file: str, content: bytes | None, start: Callable[..., Any], tmp_path: Path
) -> None:
    """`content` replaces the file; None: one byte of it is changed."""
    _, packs, _, _ = start(stage)
    for folder in (tmp_path / "tokens").iterdir():
        path = folder / file
        stored = path.read_bytes()
        middle = len(stored) // 2
        path.write_bytes(stored[:middle] + b"x" + stored[middle + 1 :] if content is None else content)
    _, packs_again, encoded, messages = start(stage)
    assert "are damaged" in messages[0]
    assert "they are created again" in messages[0]
    assert encoded > 0
    assert packs_again == packs
    assert start(stage)[2:] == (0, [])


@pytest.mark.parametrize("stage", STAGES)
def test_tokens_made_from_something_else_are_replaced_without_a_message(
    stage: str, start: Callable[..., Any], tmp_path: Path
) -> None:
    _, packs, _, _ = start(stage)
    for folder in (tmp_path / "tokens").iterdir():
        path = folder / "made_from.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"identity": "0" * 64}))
    _, packs_again, encoded, messages = start(stage)
    assert messages == []
    assert encoded > 0
    assert packs_again == packs
    assert start(stage)[2:] == (0, [])


def test_facts_that_were_edited_are_not_read(start: Callable[..., Any], tmp_path: Path) -> None:
    _, packs, _, _ = start("00")
    path = tmp_path / "tokens" / "documents" / "made_from.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"facts": {"sources": [{"name": 1}]}}))
    _, packs_again, encoded, messages = start("00")
    assert "were not made by your account" in messages[0]
    assert encoded > 0
    assert packs_again == packs


def test_only_stores_of_the_current_identity_are_kept(start: Callable[..., Any], tmp_path: Path) -> None:
    """Stores of other settings are removed; what lorachain did not write is left alone."""
    tokens = tmp_path / "tokens"
    (tokens / "mine").mkdir(parents=True)
    (tokens / "mine" / "notes.txt").write_text("a user's own", encoding="utf-8")
    (tokens / "stray").write_bytes(b"")
    for style in ("options", "letters"):
        start("02", answer_style=style)
        assert sorted(path.name for path in tokens.iterdir()) == ["epoch-0", "epoch-1", "mine", "questions", "stray"]
        assert (tokens / "mine" / "notes.txt").read_text(encoding="utf-8") == "a user's own"
    identities = {
        json.loads((tokens / name / "made_from.json").read_text())["identity"] for name in ("epoch-0", "questions")
    }
    assert len(identities) == 1


@pytest.mark.parametrize(("later", "read_again"), [("c1", False), ("c2", True), (None, True)])
def test_a_hub_source_is_identified_by_its_commit(
    later: str | None, read_again: bool, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit: str | None = "c1"
    read: list[str | None] = []

    def rows(repo: str, config: str | None, split: str, revision: str | None, *, streaming: bool) -> Iterator[Any]:
        read.append(revision)
        yield from ({"text": f"{number}번째 문서는 폐를 다룬다."} for number in range(12))

    monkeypatch.setattr(hub, "commit_of", lambda repo: hub.Commit(commit, None))
    monkeypatch.setattr(hub, "rows", rows)
    sources = ["owner/corpus"]
    first, packs, _, _ = start("00", sources=sources)
    commit = later
    second, packs_again, encoded, _ = start("00", sources=sources)
    assert read == (["c1", later] if read_again else ["c1"])
    assert (encoded > 0) == read_again
    assert packs_again == packs
    assert second.counts == first.counts
    assert [source.revision for source in second.sources] == [later]


def test_a_hub_source_without_a_commit_is_read_at_each_start(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "commit_of", lambda repo: hub.Commit(None, None))
    monkeypatch.setattr(hub, "rows", lambda *a, **k: iter([{"text": f"{n}번째 문서."} for n in range(12)]))
    start("00", sources=["owner/corpus"])
    assert start("00", sources=["owner/corpus"])[2] == 12

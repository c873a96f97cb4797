"""An interrupted pass over data resumes, and gives what an uninterrupted one gives."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from lorachain.data.gates import chunk, screen
from lorachain.data.gates.screen import DataGates, open_data_gates
from lorachain.data.gates.views import PLAIN_TEXT
from lorachain.data_settings import DataConfig
from lorachain.errors import DataError, WorkspaceError
from lorachain.records import ExamQuestion, Instruction, PlainText

QUESTION = ExamQuestion(
    "q",
    "s",
    "52세 남자가 발열과 옆구리 통증으로 왔다. 알맞은 진단은 무엇인가?",
    ("가", "나", "다", "라", "마"),
    0,
)
TEXTS = [f"{number}번째 문서. {'간은 담즙을 만든다. ' * (number + 3)}" for number in range(9)]
TEXTS += [f"{QUESTION.question} 신우신염", "전화 010-1234-5678", TEXTS[3]]


@pytest.fixture
def screened_chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Small chunks; receives the number of records of each chunk that is screened."""
    seen: list[int] = []
    original = chunk.ChunkScreen.screen

    def counted(self: chunk.ChunkScreen, part: chunk.Chunk) -> chunk.ChunkResult:
        seen.append(len(part.fields))
        return original(self, part)

    monkeypatch.setattr(screen, "CHUNK_RECORDS", 2)
    monkeypatch.setattr(chunk.ChunkScreen, "screen", counted)
    return seen


def gates(journal: Path, **settings: object) -> DataGates[PlainText | Instruction]:
    values = {"processes": 1, "personal": {"action": "mask"}, **settings}
    return open_data_gates(PLAIN_TEXT, DataConfig.model_validate(values), {"dev": [QUESTION]}, journal=journal)


def documents(end: int = len(TEXTS)) -> Iterator[PlainText]:
    for number, text in enumerate(TEXTS, start=1):
        if number > end:
            raise KeyboardInterrupt
        yield PlainText(text, f"a:{number}")


def kept(gate: DataGates[PlainText | Instruction], records: Iterable[PlainText]) -> list[str]:
    return [document.text for document in gate.kept(records)]


def interrupted(journal: Path, end: int = 7) -> None:
    with pytest.raises(KeyboardInterrupt):
        kept(gates(journal), documents(end))


def test_a_pass_that_was_interrupted_gives_the_same(tmp_path: Path, screened_chunks: list[int]) -> None:
    whole = gates(tmp_path / "a")
    expected = kept(whole, documents())
    interrupted(tmp_path / "b")
    screened_chunks.clear()
    again = gates(tmp_path / "b")
    assert kept(again, documents()) == expected
    assert len(screened_chunks) == 3  # of six chunks, three were done
    a, b = whole.report([]), again.report([])
    assert a.model_copy(update={"personal": b.personal}) == b  # its hashes have a salt of their own
    assert a.personal.kinds == b.personal.kinds == {"phone": 1}
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("damage", ["cut", "signature", "record", "empty"])
def test_what_is_damaged_is_screened_again(tmp_path: Path, screened_chunks: list[int], damage: str) -> None:
    journal = tmp_path / "journal"
    expected = kept(gates(tmp_path / "a"), documents())
    interrupted(journal)
    header, first, *others = journal.read_bytes().splitlines(keepends=True)
    changed = {
        "cut": [header, first, *others[:-1], others[-1][:-20]],
        "signature": [header, first, others[0].replace(b'"signature":"', b'"signature":"0'), *others[1:]],
        "record": [header, first, others[0].replace(b'"exact":[', b'"exact":[1,'), *others[1:]],
        "empty": [header, first, b"\n", *others],
    }[damage]
    journal.write_bytes(b"".join(changed))
    screened_chunks.clear()
    assert kept(gates(journal), documents()) == expected
    assert len(screened_chunks) == (4 if damage == "cut" else 5)


def test_a_header_that_was_cut_off_is_no_journal(tmp_path: Path, screened_chunks: list[int]) -> None:
    (tmp_path / "journal").write_text('{"jour', encoding="utf-8")
    interrupted(tmp_path / "journal")
    assert (tmp_path / "journal").read_text(encoding="utf-8").startswith('{"journal":')


def test_other_settings_or_records_begin_at_the_first_chunk(tmp_path: Path, screened_chunks: list[int]) -> None:
    interrupted(tmp_path / "journal")
    screened_chunks.clear()
    kept(gates(tmp_path / "journal", contamination={"threshold": 0.9}), documents())
    assert len(screened_chunks) == 6
    interrupted(tmp_path / "journal")
    screened_chunks.clear()
    kept(gates(tmp_path / "journal"), [PlainText("다른 문서", "b:1"), *documents()])
    assert len(screened_chunks) == 7


def test_a_file_of_somebody_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("my notes\n", encoding="utf-8")
    with pytest.raises(WorkspaceError, match="not a journal"):
        kept(gates(tmp_path / "journal"), documents())
    assert (tmp_path / "journal").read_text(encoding="utf-8") == "my notes\n"


def test_after_a_refusal_the_pass_resumes_with_another_action(tmp_path: Path, screened_chunks: list[int]) -> None:
    with pytest.raises(DataError, match="personal data"):
        kept(gates(tmp_path / "journal", personal={"action": "refuse"}), documents())
    screened_chunks.clear()
    assert "전화 [전화번호]" in kept(gates(tmp_path / "journal"), documents())
    assert screened_chunks == []

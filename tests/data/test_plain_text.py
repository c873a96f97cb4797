import json
from pathlib import Path

import pytest

from lorachain.data import plain_text
from lorachain.data.plain_text import stream_plain_text
from lorachain.errors import DataError
from lorachain.records import PlainText


def texts(*sources: Path, **options: object) -> list[str]:
    return [document.text for document in stream_plain_text([str(s) for s in sources], **options)]  # type: ignore[arg-type]


def test_all_formats_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeff첫 줄\n\n둘째 줄\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "셋"}\n{"text": " "}\n{"content": "넷"}\n', encoding="utf-8")
    (tmp_path / "c.csv").write_text("id,Document\n1,다섯\n", encoding="utf-8")
    stream = stream_plain_text([str(tmp_path)])
    assert [(d.text, d.source) for d in stream if isinstance(d, PlainText)] == [
        ("첫 줄\n\n둘째 줄", f"{tmp_path / 'a.txt'}:1"),
        ("셋", f"{tmp_path / 'b.jsonl'}:1"),
        ("넷", f"{tmp_path / 'b.jsonl'}:3"),
        ("다섯", f"{tmp_path / 'c.csv'}:2"),
    ]
    assert stream.sources[0].rows == 4
    assert set(stream.sources[0].files) == {"a.txt", "b.jsonl", "c.csv"}


def test_a_large_txt_is_split_at_blank_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("하나\n하나\n\n \n둘\n\n" + "긴 줄이다\n" * 9, encoding="utf-8")
    assert len(texts(path)) == 1
    monkeypatch.setattr(plain_text, "MAX_DOCUMENT_BYTES", 20)
    documents = list(stream_plain_text([str(path)]))
    assert [d.text for d in documents[:2]] == ["하나\n하나", "둘"]
    assert [d.source for d in documents[:3] if isinstance(d, PlainText)] == [f"{path}:{n}" for n in (1, 5, 7)]
    assert max(len(d.text) for d in documents) <= 20 + 6
    assert "".join(d.text for d in documents[2:]).count("긴 줄이다") == 9


def test_max_samples_stops_reading(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "하나"}\n{"text": "둘"}\n', encoding="utf-8")
    (tmp_path / "b.jsonl").write_text("broken", encoding="utf-8")
    stream = stream_plain_text([str(tmp_path)], max_samples=2)
    assert [d.text for d in stream] == ["하나", "둘"]
    assert list(stream.sources[0].files) == ["a.jsonl"]
    with pytest.raises(DataError, match=r"b\.jsonl:1"):
        texts(tmp_path)


def test_rows_without_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"text": "하나"}, {"body": "x"}, {"text": ["x"]}, {"text": "\ud800"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl:2: expected a field named text, content, .*, found .*body"):
        texts(path)
    stream = stream_plain_text([str(path)], skip_bad_rows=True)
    assert len(list(stream)) == 1
    assert stream.sources[0].bad_rows == 3


def test_wrong_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("영어\n".encode() + "한글\n".encode("cp949"))
    with pytest.raises(DataError, match=r"a\.txt:2: .*save the file as UTF-8"):
        texts(path)
    assert texts(path, skip_bad_rows=True) == ["영어"]
    path.write_bytes("한글\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"no document with text found\. 2 bad rows .* UTF-16"):
        texts(path, skip_bad_rows=True)


def test_empty_and_absent_sources(tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text(" \n\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"blank\.txt: no document with text found"):
        texts(tmp_path / "blank.txt")
    with pytest.raises(DataError, match="no source given"):
        stream_plain_text([])
    with pytest.raises(DataError, match="neither a path"):  # at once, before anything is read
        stream_plain_text([str(tmp_path / "blank.txt"), "nowhere"])


def test_real_corpus(real_data: Path) -> None:
    stream = stream_plain_text([str(real_data / "plain")])
    documents = list(stream)
    assert len(documents) == stream.sources[0].rows == 1988 + 621
    assert sum(len(d.text) for d in documents) == pytest.approx(5.0e6, rel=0.05)

"""Equal words are equal strings after reading, in every reader, however a file writes them."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorachain.data.dictionary import load_dictionary
from lorachain.data.exam import load_exam
from lorachain.data.normalization import (
    MAX_MARKS,
    NULL_MARKERS,
    ZERO_WIDTH,
    limit_marks,
    normalize_row,
    normalize_text,
    whole_number,
)
from lorachain.data.plain_text import stream_plain_text
from lorachain.records import Term


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def plain(path: Path) -> list[str]:
    return [document.text for document in stream_plain_text([str(path)])]


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (nfd("간염"), "간염"),
        ("첫\r\n둘\r셋\n", "첫\n둘\n셋\n"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("\ufeff간\u200b\u2060염\ufeff", "간염"),
        ("\u1100\u200b\u1161", "가"),  # what a zero-width character kept apart composes
        ("\u200b", ""),
        ("신\u200d생\u200c아", "신\u200d생\u200c아"),  # joiners have a meaning
        ("\uf914", "\u6a02"),  # 樂 as old Korean encodings write it
        ("①Ｂ", "①Ｂ"),  # NFC, not NFKC: what is read is what was printed
    ],
)
def test_normalize_text(text: str, normal: str) -> None:
    assert normalize_text(text) == normal


marks = st.text(st.sampled_from("\u0301\u0316\u0345\u1161\u11a8\u200b"), min_size=25, max_size=70)


@given(st.text(max_size=30) | marks | st.tuples(st.text(max_size=4), marks, st.text(max_size=4)).map("".join))
def test_normalizing_twice_is_normalizing_once(text: str) -> None:
    normal = normalize_text(text)
    assert normalize_text(normal) == normal
    assert not set(normal) & {"\r", *ZERO_WIDTH}
    if limit_marks(text) == text:
        assert unicodedata.is_normalized("NFC", normal)


def test_a_run_of_marks_that_no_language_has_is_never_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorting it takes time quadratic in its length: a megabyte of marks would take hours."""
    longest = 0
    normalize = unicodedata.normalize

    def counting(form: Any, text: str) -> str:
        nonlocal longest
        run = 0
        for character in text:
            run = run + 1 if unicodedata.combining(character) else 0
            longest = max(longest, run)
        return normalize(form, text)

    monkeypatch.setattr(unicodedata, "normalize", counting)
    text = nfd("간") + "a" + "\u0301\u0316" * 500
    assert normalize_text(text) == "간a" + "\u0301\u0316" * 500
    counting("NFKC", limit_marks(text))
    assert 0 < longest <= MAX_MARKS


@pytest.mark.parametrize(
    ("text", "number"),
    [("3.0", "3"), ("2022.00", "2022"), ("-1.0", "-1"), ("3", "3"), ("3.5", "3.5"), ("3.", "3."), ("1.0.0", "1.0.0")],
)
def test_whole_number(text: str, number: str) -> None:
    assert whole_number(text) == number


def test_rows() -> None:
    row = {"": 0, "Unnamed: 0": 1, "\ufeff" + nfd("뜻") + " ": nfd("피"), "options": [nfd("가"), {nfd("나"): "x\r\n"}]}
    assert normalize_row(row) == {"뜻": "피", "options": ["가", {"나": "x\n"}]}
    assert normalize_row({nfd("뜻"): None, "뜻": "피", " 뜻": "물"}) == {"뜻": "피"}
    assert normalize_row({"a": float("inf"), "b": b"\xff", "c": True}) == {"a": float("inf"), "b": b"\xff", "c": True}


# ---- through the readers ---------------------------------------------------------------------------------------------


def save(path: Path, header: list[str], *rows: list[str]) -> Path:
    """A table in the format of the path's suffix."""
    cells = [dict(zip(header, row, strict=True)) for row in rows]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(cells), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(cells), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in cells), encoding="utf-8")
    else:
        mark = "," if path.suffix == ".csv" else "\t"
        path.write_text("".join(mark.join(row) + "\n" for row in [header, *rows]), encoding="utf-8", newline="")
    return path


FORMATS = pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])


@FORMATS
def test_decomposed_hangul_and_zero_width_characters(tmp_path: Path, suffix: str) -> None:
    path = save(
        tmp_path / f"d{suffix}",
        [nfd("표제어"), "\u200b뜻"],
        ["심장", "피를 내보낸다"],
        [nfd("심장"), nfd("피를 \u200b내보낸다")],
    )
    loaded = load_dictionary([str(path)])
    assert loaded.entries == [Term("심장", "피를 내보낸다")]
    assert loaded.duplicates == 1


@FORMATS
@pytest.mark.parametrize("marker", sorted(NULL_MARKERS))
def test_null_markers_are_absent_values(tmp_path: Path, suffix: str, marker: str) -> None:
    path = save(tmp_path / f"d{suffix}", ["term", "definition", "english"], ["심장", marker, "heart"])
    assert load_dictionary([str(path)]).entries == [Term("심장", None, "heart")]


@pytest.mark.parametrize("word", ["NA", "Na", "NAN", "nano", "none", "Null", "nil", "없음", "None of these", "N", "-"])
def test_words_are_not_null_markers(tmp_path: Path, word: str) -> None:
    path = save(tmp_path / "d.csv", ["term", "english"], ["용어", word])
    assert load_dictionary([str(path)]).entries == [Term("용어", None, word)]


@FORMATS
def test_an_unnamed_index_column_is_ignored(tmp_path: Path, suffix: str) -> None:
    for number, name in enumerate(["Unnamed: 0", "" if suffix != ".parquet" else "__index_level_0__"]):
        path = save(tmp_path / f"{number}{suffix}", [name, "term", "english"], ["7", "심장", "heart"])
        assert load_dictionary([str(path)]).entries == [Term("심장", None, "heart")]


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
def test_line_ends(tmp_path: Path, end: str) -> None:
    text = tmp_path / "a.txt"
    text.write_text(f"첫째{end}{end}둘째{end}", encoding="utf-8", newline="")
    assert plain(text) == ["첫째\n\n둘째"]
    table = tmp_path / "a.csv"
    table.write_text(f'id,text{end}1,"첫째{end}둘째"{end}2,셋째{end}', encoding="utf-8", newline="")
    assert plain(table) == ["첫째\n둘째", "셋째"]
    lines = tmp_path / "a.jsonl"
    lines.write_text(
        f'{{"text": "첫째"}}{end}{{"text": {json.dumps(f"둘{end}째")}}}{end}', encoding="utf-8", newline=""
    )
    assert plain(lines) == ["첫째", "둘\n째"]


def test_line_ends_across_the_blocks_in_which_a_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("하나\r\n둘\r셋\n\r\n넷\r".encode())
    for size in range(1, 12):
        monkeypatch.setattr("lorachain.data.text_io._CHUNK_BYTES", size)
        assert plain(path) == ["하나\n둘\n셋\n\n넷"]


def test_byte_order_marks_at_the_start_of_any_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\ufeff{"text": "하나"}\n\ufeff{"text": "둘"}\n\u200b{"text": "셋"}\n')
    (tmp_path / "b.csv").write_text('\ufeff\ufeff"text"\n\ufeff"넷"\n')
    (tmp_path / "c.json").write_text('\ufeff[\n\ufeff{"text": "다섯"}]')
    (tmp_path / "d.txt").write_text("여\ufeff섯\n\ufeff일곱\n")
    assert plain(tmp_path) == ["하나", "둘", "셋", "넷", "다섯", "여섯\n일곱"]


def test_names_of_files_directories_and_exams(tmp_path: Path) -> None:
    directory = tmp_path / nfd("시험") / nfd("의사")
    directory.mkdir(parents=True)
    row = {"question": "문제?", **dict.fromkeys("ABCDE", "가"), "answer": 1, "year": 2022, "period": 1, "q_number": 3}
    (directory / "dev.jsonl").write_text(json.dumps(row))
    for name in (tmp_path / "시험", tmp_path / nfd("시험")):  # typed in the other form, the path is found too
        loaded = load_exam([str(name)], "dev", subjects=[nfd("의사")])
        (question,) = loaded.questions
        assert (question.exam, question.subject, question.id) == ("시험", "의사", "의사-2022-1-3")
        assert loaded.sources[0].short_name == "시험"

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from lorachain.data.dictionary import load_dictionary
from lorachain.errors import DataError
from lorachain.records import Term


def save(path: Path, *rows: Mapping[str, object]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("row", "entry"),
    [
        ({"term": " 간염 ", "definition": "간의 염증"}, Term("간염", "간의 염증")),
        ({"korean": "콜레라", "english": "Cholera", "code": "A00.1"}, Term("콜레라", None, "Cholera", "A00")),
        ({"표제어": "간염", "뜻": "간의 염증", "영문": "hepatitis", "분류": "소화기"},
         Term("간염", "간의 염증", "hepatitis", "소화기")),
        ({"용어": "간염", "정의": "", "영어": "hepatitis", "category": "", "code": "K75"},
         Term("간염", None, "hepatitis", "K75")),
        ({"Ko": "간염", "EN": "hepatitis", "group": "a", "code": "K75.9"}, Term("간염", None, "hepatitis", "a")),
    ],
)  # fmt: skip
def test_column_names(tmp_path: Path, row: dict[str, object], entry: Term) -> None:
    assert load_dictionary([save(tmp_path / "a.jsonl", row)]).entries == [entry]


def test_tsv(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('한글\t설명\n간염\t"간의\t염증"\n', encoding="utf-8")
    assert load_dictionary([str(path)]).entries == [Term("간염", "간의\t염증")]


def test_exact_duplicates_are_dropped_and_homonyms_kept(tmp_path: Path) -> None:
    first = save(tmp_path / "a.jsonl", {"term": "배", "definition": "복부"}, {"term": "배 ", "definition": "복부"})
    second = save(tmp_path / "b.jsonl", {"term": "배", "definition": "과일"}, {"term": "배", "definition": "복부"})
    loaded = load_dictionary([first, second])
    assert [entry.definition for entry in loaded.entries] == ["복부", "과일"]
    assert loaded.duplicates == 2
    assert [info.rows for info in loaded.sources] == [2, 2]


@pytest.mark.parametrize("row", [{"definition": "x"}, {"term": "x"}, {"term": ["x"], "definition": "y"}, {"a": 1}])
def test_rows_that_are_not_entries(tmp_path: Path, row: dict[str, object]) -> None:
    path = save(tmp_path / "a.jsonl", {"term": "간염", "en": "hepatitis"}, row)
    with pytest.raises(DataError, match=r"a\.jsonl:2: expected a term with a definition or an English name, found "):
        load_dictionary([path])
    loaded = load_dictionary([path], skip_bad_rows=True)
    assert (len(loaded.entries), loaded.sources[0].bad_rows) == (1, 1)


def test_max_samples_counts_entries_not_rows(tmp_path: Path) -> None:
    same = {"term": "배", "definition": "복부"}
    path = save(tmp_path / "a.jsonl", same, same, {"term": "간", "definition": "장기"}, {"term": "broken"})
    assert [entry.term for entry in load_dictionary([path], max_samples=2).entries] == ["배", "간"]


def test_nothing_found(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jsonl", {"term": "x"})
    with pytest.raises(DataError, match=r"no entry found\. 1 bad row was skipped; the first: .*a\.jsonl:1"):
        load_dictionary([path], skip_bad_rows=True)
    with pytest.raises(DataError, match="no source given"):
        load_dictionary([])


def test_real_dictionaries(real_data: Path) -> None:
    kcd = load_dictionary([str(real_data / "kcd")])
    assert kcd.sources[0].rows == 22551
    assert len(kcd.entries) + kcd.duplicates == 22551
    assert kcd.entries[0] == Term("콜레라", None, "Cholera", "A00")
    wiki = load_dictionary([str(real_data / "dictionary" / "kowiki_terms.jsonl")])
    assert len(wiki.entries) == 1781
    assert sum(entry.english is not None for entry in wiki.entries) == 800

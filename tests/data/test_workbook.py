"""Workbooks: what people's spreadsheets contain is read as they see it, or refused with the cell and the remedy."""

import datetime
import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorachain.data import workbook_scan
from lorachain.data.dictionary import load_dictionary
from lorachain.data.exam import load_exam
from lorachain.data.plain_text import stream_plain_text
from lorachain.data.rows import Tally
from lorachain.data.tables import read_rows
from lorachain.errors import DataError
from lorachain.records import Term
from workbook_making import write_workbook

TERMS: list[list[Any]] = [
    ["용어명", "영문용어", "정의"],
    ["위염", "gastritis", "위 점막의 염증"],
    ["혈압", "blood pressure", None],
]
QUESTION = ["다음 중 옳은 것은?", "하나", 2, 3.0, 0.1 + 0.2, "다섯", 3.0, "셋째가 옳다.", 2024]
EXAM_HEADER = ["문제", "보기1", "보기2", "보기3", "보기4", "보기5", "정답", "해설", "연도"]
SUFFIXES = [".xlsx", ".ods"]


def edited(path: Path, edit: Callable[[Any], object]) -> Path:
    """A workbook of two rows of terms, changed by `edit(sheet)`."""
    workbook = openpyxl.Workbook()
    sheet = workbook.active
    for row in TERMS:
        sheet.append(row)
    edit(sheet)
    workbook.save(path)
    return path


def with_part(path: Path, part: str, content: bytes, of: Path | None = None) -> Path:
    """A good workbook, or the one at `of`, in which one part has other content."""
    if of is None:
        write_workbook(path, {"표": TERMS})
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, content if info.filename == part else old.read(info.filename))
    path.write_bytes(buffer.getvalue())
    return path


def message(path: Path) -> str:
    with pytest.raises(DataError) as error:
        list(read_rows(path, Tally()))
    assert path.name in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_dictionary_with_korean_headers(tmp_path: Path, suffix: str) -> None:
    path = write_workbook(tmp_path / f"a{suffix}", {"용어": TERMS, "빈 시트": []})
    assert load_dictionary([str(path)]).entries == [
        Term("위염", "위 점막의 염증", "gastritis"),
        Term("혈압", None, "blood pressure"),
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_exam_with_numbers_as_spreadsheets_store_them(tmp_path: Path, suffix: str) -> None:
    path = write_workbook(tmp_path / f"train{suffix}", {"표": [EXAM_HEADER, QUESTION]})
    (question,) = load_exam([str(path)], "train").questions
    assert question.options == ("하나", "2", "3", "0.3", "다섯")
    assert (question.answer, question.reasoning) == (2, "셋째가 옳다.")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_plain_text(tmp_path: Path, suffix: str) -> None:
    path = write_workbook(tmp_path / f"a{suffix}", {"표": [["본문"], ["첫째 줄\n둘째 줄"]]})
    assert [document.text for document in stream_plain_text([str(path)])] == ["첫째 줄\n둘째 줄"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_of_several_sheets_one_is_named(tmp_path: Path, suffix: str) -> None:
    other = [["표제어", "뜻"], ["맥박", "심장 박동"]]
    path = write_workbook(tmp_path / f"a{suffix}", {"하나": TERMS, "둘": other})
    assert "2 sheets have values (하나, 둘)" in message(path)
    assert "--sheet 하나" in message(path)
    for sheet in ("둘", "2"):
        assert load_dictionary([f"{path}#sheet={sheet}"]).entries == [Term("맥박", "심장 박동")]
    with pytest.raises(DataError, match="no sheet '셋'; its sheets are 하나, 둘"):
        load_dictionary([f"{path}#sheet=셋"])


def test_no_sheet_has_a_value(tmp_path: Path) -> None:
    assert "no sheet has a cell with a value" in message(write_workbook(tmp_path / "a.xlsx", {"표": []}))


def test_a_header_below_a_title(tmp_path: Path) -> None:
    rows = [["용어 목록"], [], *TERMS]
    path = write_workbook(tmp_path / "a.xlsx", {"표": rows})
    assert len(load_dictionary([f"{path}#header=3"]).entries) == 2
    with pytest.raises(DataError, match=r"row 3: more values .*'용어 목록' only.*Give the row .* a\.xlsx#header=3"):
        load_dictionary([str(path)])


def test_an_index_beside_one_column_is_no_table_below_a_title(tmp_path: Path) -> None:
    path = write_workbook(tmp_path / "a.xlsx", {"표": [[None, "text"], [0, "글"], [1, "둘째 글"]]})
    assert [document.text for document in stream_plain_text([str(path)])] == ["글", "둘째 글"]


def test_a_table_that_does_not_begin_in_the_corner(tmp_path: Path) -> None:
    rows = [[], [], *([None, None, *row] for row in TERMS)]
    path = write_workbook(tmp_path / "a.xlsx", {"표": rows})
    assert [located.number for located in read_rows(path, Tally())] == [4, 5]
    assert len(load_dictionary([str(path)]).entries) == 2


def test_a_date_is_no_answer(tmp_path: Path) -> None:
    row = [*QUESTION[:6], datetime.date(2024, 3, 1)]
    path = write_workbook(tmp_path / "train.xlsx", {"표": [EXAM_HEADER[:7], row]})
    with pytest.raises(DataError, match=r"train\.xlsx:row 2: .*정답: date .*2024, 3, 1"):
        load_exam([str(path)], "train")


def test_a_formula_counts_with_its_result_only(tmp_path: Path) -> None:
    path = edited(tmp_path / "a.xlsx", lambda sheet: sheet.__setitem__("C3", '=A2&"!"'))
    assert "row 3: expected values, found a formula in C3 without its result" in message(path)
    tally = Tally(skip_bad_rows=True)
    assert len(list(read_rows(path, tally))) == tally.bad_rows == 1


def test_an_error_is_no_value(tmp_path: Path) -> None:
    path = edited(tmp_path / "a.xlsx", lambda sheet: sheet.__setitem__("C3", "#REF!"))
    assert "row 3: expected values, found an error in C3" in message(path)


@pytest.mark.parametrize("merged", ["A2:A3", "A3:B3", "A2:B3"])
def test_merged_cells_are_not_filled_in_silently(tmp_path: Path, merged: str) -> None:
    path = edited(tmp_path / "a.xlsx", lambda sheet: sheet.merge_cells(merged))
    assert f"the merged cells {merged}: split them" in message(path)


def test_a_merged_header_is_refused(tmp_path: Path) -> None:
    path = edited(tmp_path / "a.xlsx", lambda sheet: sheet.merge_cells("A1:B1"))
    assert "the merged cells A1:B1" in message(path)
    assert "#header=2" in message(path)


@pytest.mark.parametrize("header", [["용어", "용어"], ["용어", " 용어"]])
def test_a_header_with_one_name_twice(tmp_path: Path, header: list[str]) -> None:
    path = write_workbook(tmp_path / "a.xlsx", {"표": [header, ["가", "나"]]})
    assert "found '용어' twice" in message(path)


def test_styled_cells_far_away_do_no_harm(tmp_path: Path) -> None:
    def style(sheet: Any) -> None:
        sheet["XFD1048576"].number_format = "0.0"

    assert len(load_dictionary([str(edited(tmp_path / "a.xlsx", style))]).entries) == 2


def test_a_value_in_the_last_cell_is_refused_before_a_table_is_built(tmp_path: Path) -> None:
    path = edited(tmp_path / "a.xlsx", lambda sheet: sheet.__setitem__("XFD1048576", "x"))
    assert "reaches to XFD1048576, which are 17,179,869,184 cells" in message(path)


def test_16384_columns_are_read(tmp_path: Path) -> None:
    header = [*TERMS[0], *(f"열{n}" for n in range(16_381))]
    path = write_workbook(tmp_path / "a.xlsx", {"표": [header, ["위염", "gastritis", "염증"]]})
    assert load_dictionary([str(path)]).entries == [Term("위염", "염증", "gastritis")]


def test_an_ods_of_repeated_cells_is_refused(tmp_path: Path) -> None:
    path = write_workbook(tmp_path / "a.ods", {"표": TERMS})
    with zipfile.ZipFile(path) as archive:
        content = archive.read("content.xml").decode()
    repeated = content.replace("<table:table-row>", '<table:table-row table:number-rows-repeated="1000000">')
    assert "cells; at most" in message(with_part(path, "content.xml", repeated.encode()))
    trailing = content.replace(
        "</table:table>",
        '<table:table-row table:number-rows-repeated="1048573">'
        '<table:table-cell table:number-columns-repeated="16384"/></table:table-row></table:table>',
    )
    assert len(load_dictionary([str(with_part(path, "content.xml", trailing.encode()))]).entries) == 2


def test_zip_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = with_part(tmp_path / "a.xlsx", "docProps/core.xml", b"<a>" + b" " * 2**20 + b"</a>")
    assert len(load_dictionary([str(path)]).entries) == 2
    monkeypatch.setattr(workbook_scan, "MAX_UNCOMPRESSED_BYTES", 2**20)
    assert "MiB uncompressed; at most 1 MiB are read" in message(path)


def test_a_part_that_is_larger_than_the_file_says(tmp_path: Path) -> None:
    path = with_part(tmp_path / "a.xlsx", "docProps/core.xml", b"<a>" + b" " * 100_000 + b"</a>")
    data = path.read_bytes()
    real = (100_007).to_bytes(4, "little")
    assert data.count(real) == 2
    path.write_bytes(data.replace(real, (10).to_bytes(4, "little")))
    assert "not a workbook that can be read" in message(path)


def test_a_long_shared_text_in_many_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = b'<sst xmlns="x"><si><t>' + b"a" * 1000 + b"</t></si></sst>"
    cells = b"".join(b'<c r="A%d" t="s"><v>0</v></c>' % n for n in range(1, 200))
    sheet = b'<worksheet xmlns="x"><sheetData><row>' + cells + b"</row></sheetData></worksheet>"
    path = with_part(tmp_path / "a.xlsx", "xl/worksheets/sheet1.xml", sheet)
    buffer = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("xl/sharedStrings.xml", shared)
    path.write_bytes(buffer.getvalue())
    monkeypatch.setattr(workbook_scan, "MAX_CHARACTERS", 100_000)
    assert "the texts of its cells have more than" in message(path)


def test_entities_and_broken_xml(tmp_path: Path) -> None:
    lol = b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + b"".join(
        b'<!ENTITY %c "&%c;&%c;&%c;&%c;&%c;&%c;&%c;&%c;">' % (n + 1, *[n] * 8) for n in range(97, 110)
    )
    path = with_part(tmp_path / "a.xlsx", "xl/worksheets/sheet1.xml", lol + b"]><a>&n;</a>")
    assert "not valid XML" in message(path)
    assert "not valid XML" in message(with_part(tmp_path / "b.xlsx", "xl/worksheets/sheet1.xml", b"x<worksheet>"))


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, b"a,b\n1,2\n"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_no_workbook(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    assert "Open it and save it as .xlsx without a password" in message(path)


@pytest.mark.parametrize("value", ["-5", "1e300", "60", "2958466", "NaN", "x", "", "0.5", "99999999999999999999"])
@pytest.mark.parametrize("kind", ["n", "d", "b", "e", "s", "str", "inlineStr", "unknown"])
def test_any_value_under_the_style_of_a_date(tmp_path: Path, value: str, kind: str) -> None:
    path = edited(tmp_path / "a.xlsx", lambda sheet: sheet.__setitem__("C3", datetime.date(2024, 3, 1)))
    with zipfile.ZipFile(path) as archive:
        sheet = archive.read("xl/worksheets/sheet1.xml").decode()
    changed = re.sub(r'(<c r="C3" s="\d+") t="n"><v>\d+</v>', rf'\1 t="{kind}"><v>{value}</v>', sheet)
    assert changed != sheet
    with_part(path, "xl/worksheets/sheet1.xml", changed.encode(), of=path)
    message = ""
    try:
        entries = load_dictionary([str(path)], skip_bad_rows=True).entries
        assert entries[0] == Term("위염", "위 점막의 염증", "gastritis")
    except DataError as error:
        message = str(error)
    assert not message or path.name in message


def test_an_old_xls_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.xls"
    path.write_bytes(b"x")
    with pytest.raises(DataError, match=r"found \.xls\. Save it as \.xlsx"):
        read_rows(path, Tally())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_a_file(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes of the archive, or of one part of it."""
    suffix = data.draw(st.sampled_from(SUFFIXES))
    good = tmp_path / f"good{suffix}"
    if not good.exists():
        write_workbook(good, {"표": [*TERMS, *[["가", "나", n] for n in range(5)]], "둘": [["a"]]})
    path = tmp_path / f"fuzz{suffix}"
    part = "content.xml" if suffix == ".ods" else data.draw(st.sampled_from(PARTS))
    inside = data.draw(st.booleans())
    with zipfile.ZipFile(good) as archive:
        content = bytearray(archive.read(part) if inside else good.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        length = data.draw(st.integers(0, 6))
        content[position : position + length] = data.draw(st.sampled_from(PIECES) | st.binary(max_size=6))
    if inside:
        with_part(path, part, bytes(content))
    else:
        path.write_bytes(bytes(content))
    for sheet in ("", "#sheet=1"):
        message = ""
        try:
            repr(load_dictionary([f"{path}{sheet}"], skip_bad_rows=True).entries).encode()
        except DataError as error:
            message = str(error)
        assert not message or path.name in message


PARTS = ["xl/worksheets/sheet1.xml", "xl/workbook.xml", "xl/_rels/workbook.xml.rels", "xl/styles.xml"]
PIECES = [
    *(b"&#0;", b"99999999999", b'"', b""),
    *(b"<c>", b"</c>", b"<v>", b' t="s"', b' t="e"', b' r="XFD9"', b"<f>", b' r="A0"'),
]

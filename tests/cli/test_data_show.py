"""`lorachain data show`, the options of reading, and what `--dry-run` says of each source."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chain_making import options_of, run_command_line
from lorachain.artifacts import DataSummary
from lorachain.cli.options import Common, build_context
from workbook_making import write_workbook

ROWS = [
    ["표준용어", "영문", "풀이"],
    ["위염", "gastritis", "위 점막의 염증"],
    ["혈압", "blood pressure", "혈액의 압력"],
]


def run(*arguments: object) -> str:
    code, out, err = run_command_line(*arguments)
    assert code == 0, err
    return out


@pytest.fixture
def terms(tmp_path: Path) -> Path:
    path = tmp_path / "terms.csv"
    path.write_text("".join(";".join(row) + "\n" for row in ROWS), encoding="cp949")
    return path


def test_show_a_table_in_another_encoding(terms: Path) -> None:
    options = ("--encoding", "cp949", "--columns", "term=표준용어,english=영문,definition=풀이")
    out = run("data", "show", terms, *options)
    assert "read as dictionary" in out
    assert "2 in 1 file; 0 duplicates; 0 rows refused" in out
    assert "| 용어: 위염" in out
    stored = json.loads(run("data", "show", terms, *options, "--json"))
    assert DataSummary.parse(stored).sources[0].records == 2


def test_show_with_the_tokens_of_a_model(tiny_workspace: Callable[..., Path], tmp_path: Path) -> None:
    root = tiny_workspace(chat=True)
    path = write_workbook(tmp_path / "terms.xlsx", {"하나": [["용어", "뜻"], ["가", "나"]], "둘": ROWS})
    options = ("--sheet", "하나", "--as", "dictionary", "--model", "tiny", "--workspace", root)
    out = run("data", "show", path, *options)
    assert "tokens      min " in out
    assert "<start_of_turn>" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("data", "show", "absent.csv"), "neither a path that exists"),
        (("data", "show", "sample"), "say which with --as"),
        (("data", "show", "sample", "--columns", "term"), "give FIELD=COLUMN"),
        (("data", "show", "sample", "--columns", "nonsense=a"), "--columns names the field 'nonsense'"),
        (("data", "show", "sample", "--encoding", "latin-1"), "allowed: utf-8, cp949, euc-kr, utf-16"),
    ],
)
def test_refusals_of_show(arguments: tuple[str, ...], says: str) -> None:
    code, _, err = run_command_line(*arguments)
    assert code == 2
    assert says in err


def planned(root: Path, *arguments: object) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads(run("run", "--dry-run", *options_of(root), *arguments))
    return plan


def test_a_plan_summarizes_each_source(tiny_workspace: Callable[..., Path], terms: Path) -> None:
    columns = "term=표준용어,english=영문,definition=풀이"
    options = ("--dictionary", terms, "--encoding", "cp949", "--columns", columns)
    plan = planned(tiny_workspace(), *options)
    assert plan["configuration"]["reading"]["dictionary"] == {
        "encoding": "cp949", "delimiter": None, "sheet": None, "header": None, "writer": None,
        "columns": {"term": "표준용어", "english": "영문", "definition": "풀이"},
    }  # fmt: skip
    name = f"{terms}#encoding=cp949,{columns}"
    assert name in [source["name"] for source in plan["sources"]]
    summaries = {summary["name"]: summary for summary in plan["summaries"] if summary["name"] != "sample"}
    assert summaries[name]["records"] == 2
    assert summaries[name]["tokens"]["n"] == 2
    assert len(plan["summaries"]) == 3  # the sample's text and exam too


def test_the_chain_file_sets_how_a_kind_is_read(tiny_workspace: Callable[..., Path], terms: Path) -> None:
    root = tiny_workspace()
    reading = '[reading.dictionary]\nencoding = "cp949"\n[reading.dictionary.columns]\nterm = "표준용어"\n'
    reading += 'definition = "풀이"\n[sources.embedded]\n'
    config = root / "chain.toml"
    config.write_text(
        f"{config.read_text(encoding='utf-8')}\n{reading}dictionary = [{json.dumps(str(terms))}]\n", "utf-8"
    )
    assert f"{terms}#encoding=cp949,term=표준용어,definition=풀이" in [s["name"] for s in planned(root)["sources"]]


def test_a_proposed_command_reads_the_sources_as_this_one(tiny_workspace: Callable[..., Path], terms: Path) -> None:
    common = Common("tiny", tiny_workspace(), dictionary=[str(terms)], encoding="cp949", columns="term=표준용어")
    context = build_context(common, "run")
    read = f"{terms}#encoding=cp949,term=표준용어"
    assert context.options_for("train 01") == ("--dictionary", read)
    assert context.options_for("train 00") == ()
    assert context.options_for("run") == (
        *("--dictionary", str(terms), "--encoding", "cp949", "--columns", "term=표준용어"),
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--encoding", "cp949"), "--encoding is for sources that are named with it"),
        (("--dictionary", "sample", "--columns", "question=문제"), "names the field 'question', which no source"),
        (("--columns", "term=용어"), "allowed: nothing without --plain-text"),
        (("--dictionary", "sample", "--encoding", "x"), "allowed: utf-8"),
        (("--set", "reading.dictionary.enc=x"), "unknown setting 'reading.dictionary.enc'"),
        (("--set", "reading.nothing.encoding=x"), "reading.nothing"),
    ],
)
def test_refusals_of_reading(tiny_workspace: Callable[..., Path], arguments: tuple[str, ...], says: str) -> None:
    code, _, err = run_command_line("run", "--dry-run", *options_of(tiny_workspace()), *arguments)
    assert code == 2
    assert says in err


def test_reading_of_a_kind_that_no_stage_reads_is_refused(tiny_workspace: Callable[..., Path]) -> None:
    options = options_of(tiny_workspace())
    code, _, err = run_command_line("train", "00", "--dry-run", *options, "--set", "reading.dictionary.header=2")
    assert code == 2
    assert "no stage of this command reads dictionary" in err

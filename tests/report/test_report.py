"""`lorachain report`: its numbers are those of the files, nothing from a file becomes markup, nothing is required."""

import json
import re
import shutil
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from chain_making import FinishedChain, run_command_line
from lorachain.artifacts import read_loss_log
from lorachain.artifacts.reasoning import ReasoningReport
from refusals import refused
from report_making import MODEL, QUESTIONS, SCRIPT, make_report_workspace, read_info

VOID = {"meta", "input", "img", "line", "rect", "circle", "polyline", "wbr"}


class Page(HTMLParser):
    """Elements of a page, the numbers of each section, and what is shown in each language."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: dict[str, list[tuple[float, str]]] = {}
        self.sections: dict[str, str] = {}
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop()[0] == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        section = next((str(attrs["id"]) for tag, attrs in self._open if tag == "section"), "head")
        self.sections[section] = self.sections.get(section, "") + data
        tag, attrs = self._open[-1] if self._open else ("", {})
        if tag == "data":
            self.numbers.setdefault(section, []).append((float(str(attrs["value"])), data))


def report(root: Path, *options: object, name: str = "report.html") -> str:
    out = root / name
    code, _, err = run_command_line("report", "--model", MODEL, "--workspace", root, "--out", out, *options)
    assert code == 0, err
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_report_workspace(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(made: Path) -> Page:
    return Page(report(made))


def numbers_in(value: Any) -> set[float]:
    if isinstance(value, dict):
        return {number for inner in value.values() for number in numbers_in(inner)}
    if isinstance(value, list):
        return {number for inner in value for number in numbers_in(inner)}
    return {float(value)} if isinstance(value, int | float) and not isinstance(value, bool) else set()


def numbers_of_files(root: Path) -> set[float]:
    return {
        number
        for path in (root / "model").rglob("*.json")
        for number in numbers_in(json.loads(path.read_text(encoding="utf-8")))
    }


def check_numbers(page: Page, root: Path, derived: set[float]) -> None:
    """Every number is one of a JSON file, unrounded, or of `derived`, and is shown rounded correctly."""
    allowed = numbers_of_files(root) | derived
    shown = [pair for section in page.numbers.values() for pair in section]
    assert len(shown) > 100
    for value, text in shown:
        assert value in allowed, text
        digits = re.search(r"[-+]?[\d,]+(\.\d+)?(e[-+]\d+)?", text)
        assert digits is not None
        number = float(digits[0].replace(",", ""))
        decimals = len(digits[1] or ".") - 1
        scales = (1.0, 100.0, 1e-9)
        exponent = 10.0 ** int(digits[2][1:]) if digits[2] else 1.0
        below = text.startswith("p <") and value < number
        assert below or any(abs(number - scale * value) <= 0.501 * 10**-decimals * exponent for scale in scales), text


def test_every_number_is_that_of_a_json_file(made: Path, page: Page) -> None:
    info = read_info(made, "02")
    total = ReasoningReport.read(made / "model/02_training" / MODEL / "reasoning/reasoning_report.json").total
    left = {float(total.drawn), float(total.drawn - total.rejected["right"])}
    rate = {row.learning_rate for row in read_loss_log(made / "model/02_training" / MODEL / "losses.csv")}
    worse = {0.0, 1.0}  # measures by which the last step is worse than the base, of those that were tested
    check_numbers(page, made, left | rate | worse)
    letters = info.validation.after["letters"]
    for section in ("glance", "changes", "exam"):
        values = [value for value, _ in page.numbers[section]]
        assert {letters.accuracy, *letters.wilson95, float(letters.n)} <= set(values), section
    assert (42.125, "42.12") in page.numbers["changes"]
    assert (info.training.loss_last_tenth, "1.000") in page.numbers["curves"]
    assert (431 / 4096, "10.5 %") in page.numbers["merge"]


def test_the_report_of_a_real_chain_has_the_numbers_of_its_files(
    finished_chain: Callable[..., FinishedChain], tmp_path: Path
) -> None:
    chain = finished_chain("text")
    out = tmp_path / "report.html"
    assert run_command_line("report", *chain.options, "--out", out)[0] == 0
    rates = {
        row.learning_rate
        for stage in ("00", "01", "02")
        for row in read_loss_log(chain.model / f"{stage}_training" / "tiny" / "losses.csv")
    }
    page = Page(out.read_text(encoding="utf-8"))
    check_numbers(page, chain.root, rates | {float(count) for count in range(30)})
    assert "not shown" not in page.sections["flips"]
    assert "not shown" not in page.sections["curves"]


def test_nothing_from_a_file_becomes_markup(page: Page) -> None:
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "img", "iframe", "object", "embed", "link", "base", "form", "a"} - {"a"}
    assert all(str(attrs["href"]).startswith("#") for tag, attrs in page.tags if tag == "a")
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on") or name == "style"]
    for section in ("flips", "ledger", "reasoning", "sources"):
        assert SCRIPT in page.sections[section], section
    (policy,) = (attrs["content"] for tag, attrs in page.tags if "http-equiv" in attrs)
    assert str(policy).startswith("default-src 'none'; style-src 'sha256-")


def test_nothing_is_loaded(made: Path) -> None:
    text = report(made)
    assert not re.search(r"(src|url|@import|xlink:href)\s*[=(]", unescape(text).replace(SCRIPT, ""))
    assert "http-equiv" in text


def test_tables_have_headers_and_names(page: Page) -> None:
    ids = {str(attrs["id"]) for _, attrs in page.tags if "id" in attrs}
    labelled = [str(attrs["aria-labelledby"]) for _, attrs in page.tags if "aria-labelledby" in attrs]
    assert labelled
    assert set(labelled) <= ids
    assert len(ids) == sum("id" in attrs for _, attrs in page.tags)
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in page.tags if tag == "th")
    assert all(attrs.get("tabindex") == "0" for tag, attrs in page.tags if attrs.get("class") == "scroll")


def test_every_flip_can_be_browsed(page: Page) -> None:
    """00 starts with a quarter right or so, 02 ends with half: questions were gained, and their texts are shown."""
    text = page.sections["flips"]
    gained, lost = re.search(r"Gained새로 맞힘: (\d+)", text), re.search(r"Lost틀리게 됨: (\d+)", text)
    assert gained is not None
    assert lost is not None
    assert int(gained[1]) > 0
    opened = re.findall(r"exam (\S+) “[^”]*”: right : 정답 ([A-E])", text)
    assert len(opened) == int(gained[1]) + int(lost[1]) < QUESTIONS
    assert text.count("가장 알맞은 것은?") == 2 * len(opened)  # how it begins, and in full


def test_both_languages_say_the_same(page: Page) -> None:
    languages = [attrs["lang"] for tag, attrs in page.tags if tag in ("span", "text") and "lang" in attrs]
    assert languages.count("ko") > 200
    assert abs(languages.count("en") - languages.count("ko")) < 60  # "Step 02" is "02단계": one side may be empty
    assert set(languages) == {"en", "ko"}


def test_the_same_workspace_gives_the_same_report(made: Path) -> None:
    assert report(made) == report(made)
    assert report(made, "--lang", "ko") != report(made)


def test_markdown(made: Path) -> None:
    english, korean = (report(made, "--lang", language, name=f"{language}.md") for language in ("en", "ko"))
    assert english.startswith("<!-- lorachain report -->\n\n# tiny: report of the chain\n")
    assert "# tiny: 체인 보고서" in korean
    assert "<script" not in english.replace("\\<", "")
    assert r"\<script\>" in english
    assert r"\[링크\](javascript" in english
    assert "\n## 제목" not in english
    assert english.count("\n## ") == korean.count("\n## ") == 12
    assert "hollow" in report(made)
    for markdown, of_pictures in ((english, ("hollow", "Dashed", "picture")), (korean, ("빈 원", "점선", "그림:"))):
        assert not [word for word in of_pictures if word in markdown]
    rows = [line for line in english.splitlines() if line.startswith("|")]
    assert len(rows) > 60
    score = read_info(made, "02").validation.after["letters"]
    low, high = (f"{100 * bound:.1f}" for bound in score.wilson95)
    assert rf"{100 * score.accuracy:.1f} % \[{low}, {high}\] n={score.n}" in english


# ---- what is missing or damaged ----


def test_an_empty_workspace(tmp_path: Path) -> None:
    page = Page(report(make_report_workspace(tmp_path / "w", finished=False)))
    assert "The chain is not finished. Next: " in page.sections["chain"]
    shutil.rmtree(tmp_path / "w" / "model" / "00_trained")
    shutil.rmtree(tmp_path / "w" / "model" / "00_training")
    page = Page(report(tmp_path / "w"))
    for section, said in {
        "glance": "No step has been trained yet.",
        "changes": "No step has been trained yet.",
        "exam": "Nothing has been validated yet.",
        "flips": "Nothing has been validated yet.",
        "ledger": "The ledger has not been measured:",
        "curves": "No step has been trained yet.",
        "reasoning": "No reasoning was written for this chain.",
        "merge": "There is no merge yet.",
        "sources": "No step has read data yet.",
        "environment": "No step has been trained yet.",
    }.items():
        assert said in page.sections[section], section


def test_an_unfinished_step_shows_its_losses_so_far(tmp_path: Path) -> None:
    root = make_report_workspace(tmp_path / "w", finished=False)
    shutil.rmtree(root / "model" / "00_trained")
    assert "the step is not finished" in Page(report(root)).sections["curves"]


@pytest.mark.parametrize(
    ("file", "section", "said"),
    [
        ("02_trained/tiny/training_info.json", "chain", "Step 02 cannot be read:"),
        ("02_trained/tiny/kormedmcqa_validation_results.json", "exam", "Nothing has been validated yet."),
        ("ledger/tiny/ledger.json", "ledger", "is not a valid ledger"),
        ("02_training/tiny/losses.csv", "curves", "losses 02 cannot be shown:"),
        ("02_training/tiny/reasoning/reasoning_report.json", "reasoning", "is not a valid reasoning report"),
        ("02_training/tiny/reasoning/samples.parquet", "reasoning", "is not the file that its report was written with"),
        ("01_another_lora_added/tiny/base/merge_report.json", "merge", "is not a valid merge report"),
    ],
)
def test_a_damaged_file_costs_its_part_only(made: Path, tmp_path: Path, file: str, section: str, said: str) -> None:
    root = shutil.copytree(made, tmp_path / "copy")
    (root / "model" / file).write_text("a,b\n{")
    page = Page(report(root))
    assert said in page.sections[section]
    assert "42.12" in page.sections["changes"]


def test_a_changed_exam_hides_the_texts(made: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made, tmp_path / "copy")
    for stage in ("00", "01", "02"):
        path = root / "model" / f"{stage}_trained" / MODEL / "training_info.json"
        path.write_text(path.read_text().replace(str(made / "exam"), str(root / "exam")))
    (dev,) = (root / "exam" / "nurse").glob("dev.jsonl")
    dev.write_text(dev.read_text(encoding="utf-8").replace("가장 알맞은", "가장 틀린"), encoding="utf-8")
    text = Page(report(root)).sections["flips"]
    assert "they are not those that were validated" in text.replace("the exam's questions", "they")
    assert "알맞은" not in text


# ---- where it is written ----


def test_only_a_report_is_replaced(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    options = ("report", "--model", MODEL, "--workspace", made, "--out", out)
    assert run_command_line(*options)[0] == 0
    assert run_command_line(*options)[0] == 0
    out.write_text("<p>mine</p>")
    refused(tmp_path, *options, says=("exists and is not a report of lorachain", "choose another name or remove it"))
    assert out.read_text() == "<p>mine</p>"
    missing = tmp_path / "none" / "report.html"
    refused(tmp_path, *options[:-1], missing, says=("the directory", "is missing; create it"))


def test_results_that_cannot_be_read(made: Path, tmp_path: Path) -> None:
    options = ("report", "--model", MODEL, "--workspace", made, "--out", tmp_path / "r.html")
    refused(tmp_path, *options, "--results", tmp_path / "no.json", says=("no.json cannot be read",))

"""`lorachain app` in a real browser: it asks, compares, opens a flip, sees a training, and loads nothing from afar."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app_making import make_app_workspace, session_of
from browser_finding import running_browser, watched_pages
from chain_making import run_command_line
from lorachain.app.server import served
from lorachain.artifacts import LossRow
from lorachain.chain.lock import model_lock
from lorachain.errors import ConfigError
from lorachain.training.loss_log import LossLog
from report_making import MODEL

pytest.importorskip("gradio", minversion="6", reason="Gradio is not installed: pip install 'lorachain[app]'")
SCRIPT = "급성심근경색 ${document.title='stolen'} <img src=x onerror=\"document.title='stolen'\">"
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_app_workspace(tmp_path_factory.mktemp("app"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def address(root: Path, browser: Any) -> Iterator[str]:
    with served(session_of(root), host="127.0.0.1", port=None, language="en") as address:
        yield address


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Open]:
    """Opens the page; when the test ends, there were no errors, and nothing was requested from elsewhere."""
    with watched_pages(browser, address, allowed=(address, "data:", "blob:"), only_errors=True) as opened:

        def ready(**options: Any) -> Any:
            page = opened(**options)
            page.set_default_timeout(60_000)
            page.locator("#ask").wait_for()
            return page

        yield ready


def ask(page: Any, text: str) -> Any:
    page.locator("#question textarea").fill(text)
    page.locator("#ask").click()
    return page.locator("#answers .answer")


def test_two_models_are_asked_and_nothing_typed_runs(open_page: Open) -> None:
    page = open_page()
    answers = ask(page, SCRIPT)
    answers.locator("text=tokens/s").nth(1).wait_for()
    assert [text.splitlines()[0] for text in answers.all_inner_texts()] == ["tiny", "tiny:02"]
    assert "first token after" in answers.first.inner_text()
    assert page.locator("#answers h3").first.inner_text() == SCRIPT
    assert page.locator("#answers img").count() == 0
    assert page.title() == "lorachain: tiny"
    ask(page, "고혈압").locator("text=tokens/s").nth(1).wait_for()
    page.locator("#answers summary", has_text="급성심근경색").wait_for()


def test_an_answer_is_stopped(open_page: Open) -> None:
    page = open_page()
    page.locator("button", has_text="Settings").click()
    page.locator("label", has_text="At most so many tokens").locator("input").fill("4000")
    answers = ask(page, "고혈압")
    answers.locator("text=answering").wait_for()
    page.locator("#stop").click()
    answers.locator("text=stopped").first.wait_for()
    assert "tokens/s" not in answers.first.inner_text()


def test_a_flip_is_opened_and_asked_again(open_page: Open) -> None:
    page = open_page()
    page.locator("#exam-tab-button").click()
    heading = page.locator("#exam-shown h3")
    heading.wait_for()
    first = heading.inner_text()
    assert "right " in first
    assert "; base " in first
    assert page.locator("#exam-shown td", has_text="right answer").count() == 1
    page.locator("#next").click()
    page.wait_for_function("before => document.querySelector('#exam-shown h3').innerText !== before", arg=first)
    page.locator("#ask-exam").click()
    page.locator("#exam-answers table").wait_for()
    assert page.locator("#exam-answers td", has_text="%").count() == 10
    assert page.title() == "lorachain: tiny"


def test_a_training_is_seen_while_it_runs(open_page: Open, root: Path) -> None:
    page = open_page()
    page.locator("#training-tab-button").click()
    page.locator("#progress", has_text="Nothing is being trained now.").wait_for()
    assert page.locator("#progress svg.chart").count() >= 2
    context = session_of(root).context
    with model_lock(context.workspace, MODEL, "lorachain train 01") as lock:
        lock.working_on("01")
        log = LossLog(context.workspace.loss_log("01", MODEL))
        for step in (31, 32):
            log.append(
                LossRow(step=step, epoch=1.25, loss=0.75, learning_rate=1e-4, grad_norm=1.0, num_tokens=100 * step)
            )
            page.locator(f"#progress data[value='{step}']").wait_for()
    page.locator("#progress", has_text="Nothing is being trained now.").wait_for()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1180), ("dark", 390)])
def test_languages_and_widths(open_page: Open, scheme: str, width: int) -> None:
    page = open_page(color_scheme=scheme, viewport={"width": width, "height": 844})
    page.locator("#language label", has_text="한국어").click()
    page.locator("#ask", has_text="질문하기").wait_for()
    notice = page.locator(".warning").first
    assert "의학적 조언을 하지 않습니다" in notice.inner_text()
    assert "no medical advice" not in notice.inner_text()
    for tab in ("ask-tab", "exam-tab", "training-tab"):
        page.locator(f"#{tab}-button").click()
        page.locator(f"#{tab}").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
    page.locator("#language label", has_text="English").click()
    page.locator("#refresh-training", has_text="Refresh").wait_for()
    assert page.locator(".blocks [lang=ko] >> visible=true").count() == 0


def test_the_command_serves_until_it_is_interrupted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.error import HTTPError
    from urllib.request import ProxyHandler, build_opener

    from lorachain.app.policy import POLICY
    from lorachain.cli import app_commands

    fetched: dict[str, Any] = {}

    def fetch_and_end(address: str) -> None:
        opener = build_opener(ProxyHandler({}))
        with opener.open(address) as response:
            fetched["policy"] = response.headers["content-security-policy"]
        with pytest.raises(HTTPError, match="404"):  # FastAPI's page of its interface is loaded from elsewhere
            opener.open(f"{address}docs")

    monkeypatch.setattr(app_commands, "wait_for_interrupt", fetch_and_end)
    code, _, err = run_command_line("app", "--model", MODEL, "--workspace", root)
    assert code == 0, err
    assert err.startswith("the page of tiny is http://127.0.0.1:")
    assert err.endswith("the page is closed\n")
    assert fetched == {"policy": POLICY}


def test_a_port_in_use_is_one_message(address: str, root: Path) -> None:
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    with (
        pytest.raises(ConfigError, match=f"port {port} is in use at 127.0.0.1"),
        served(session_of(root), host="127.0.0.1", port=port, language="en"),
    ):
        pass

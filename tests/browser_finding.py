"""The Chromium of the tests that need a real browser: found, never downloaded (`install_browser.py` does that)."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

VARIABLE = "LORACHAIN_BROWSER"
"""The path of a Chromium or Chrome to use instead of those that are found."""
_COMMANDS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def system_browser() -> str | None:
    """The browser that the variable names, or the first one on PATH that runs.

    Raises:
        ValueError: the variable names something that does not run.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if not _runs(named):
            raise ValueError(f"{VARIABLE} is {named!r}, which does not run; name a Chromium or Chrome, or unset it")
        return named
    return next(filter(_runs, filter(None, map(shutil.which, _COMMANDS))), None)


def _runs(path: str) -> bool:
    """Whether it says its version; Ubuntu's `chromium-browser` is a script that asks for a snap."""
    try:
        return subprocess.run((path, "--version"), capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def launch(playwright: Any) -> Any:
    """A headless Chromium: `system_browser`, or else playwright's own; None where there is neither."""
    # Chromium refuses to run as root with its sandbox, as in a container; the pages are ours.
    options: dict[str, Any] = {"args": ["--no-sandbox"]}
    if path := system_browser():
        return playwright.chromium.launch(executable_path=path, **options)
    try:
        return playwright.chromium.launch(**options)
    except Exception as error:  # playwright's Error, whose class is not imported where it is not installed
        if "Executable doesn't exist" in str(error):
            return None
        raise


@contextmanager
def watched_pages(
    browser: Any, address: str, *, allowed: tuple[str, ...], only_errors: bool = False
) -> Iterator[Callable[..., Any]]:
    """A function that opens the address in a new context of the browser, with that context's options.

    At the end no page has written to the console, raised an error, or requested anything but addresses that begin with
    one of `allowed`.

    Args:
        only_errors: whether other messages may be written to the console.
    """
    problems: list[str] = []
    contexts = []

    def opened(**options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: None if only_errors and m.type != "error" else problems.append(m.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(allowed) else problems.append(request.url))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


@contextmanager
def running_browser() -> Iterator[Any]:
    """A browser for tests, which are skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = launch(playwright)
        if browser is None:
            pytest.skip("no Chromium is installed: run `make browser`, or name one in LORACHAIN_BROWSER")
        yield browser
        browser.close()

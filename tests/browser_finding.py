"""The Chromium of the tests that need a real browser: found, never downloaded (`install_browser.py` does that)."""

import os
import shutil
import subprocess
from collections.abc import Iterator
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
def running_browser() -> Iterator[Any]:
    """A browser for tests, which are skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = launch(playwright)
        if browser is None:
            pytest.skip("no Chromium is installed: run `make browser`, or name one in LORACHAIN_BROWSER")
        yield browser
        browser.close()

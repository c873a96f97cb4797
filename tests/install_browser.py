"""Tries to install a Chromium for the browser tests, which are skipped without one. Downloads for at most a minute, and
always ends with success: a machine without a network or without rights still runs all other tests.

Nothing is done where a browser is found. Otherwise playwright downloads its own, or, for root on Debian, apt installs
the distribution's.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from browser_finding import launch, system_browser

_SECONDS = 60
_APT = ("apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=5", "--no-install-recommends", "install", "chromium")


def main() -> None:
    deadline = time.monotonic() + _SECONDS
    if says := _works():
        print(f"browser tests: {says}")
        return
    tried = [_download(deadline)]
    if not _works() and os.geteuid() == 0 and shutil.which("apt-get"):
        tried.append(_install(deadline))
    says = _works()
    print(f"browser tests: {says}" if says else f"browser tests are skipped, no Chromium: {'; '.join(tried)}")


def _works() -> str:
    """Which browser starts; empty where none does."""
    try:
        if path := system_browser():
            return path
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            browser = launch(playwright)
            if browser is None:
                return ""
            version = browser.version
            browser.close()
            return f"playwright's Chromium {version}"
    except Exception as error:  # such as a system library that it lacks
        print(f"browser tests: {str(error).strip().splitlines()[0]}", file=sys.stderr)
        return ""


def _download(deadline: float) -> str:
    command = (sys.executable, "-m", "playwright", "install", "--only-shell", "chromium")
    return f"playwright's download {_run(command, deadline - time.monotonic())}"


def _install(deadline: float) -> str:
    """apt in two steps: the download may be stopped at any time, the installation may not."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    _run(("apt-get", "-q", "update"), deadline - time.monotonic(), environment)
    got = _run((*_APT, "--download-only"), deadline - time.monotonic(), environment)
    if got != "succeeded":
        return f"apt's download {got}"
    return f"apt's installation {_run((*_APT, '--no-download'), None, environment)}"


def _run(command: Sequence[str], seconds: float | None, environment: dict[str, str] | None = None) -> str:
    """How it ended."""
    if seconds is not None and seconds <= 0:
        return "was not tried: no time left"
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    except OSError as error:
        return f"failed ({error.strerror})"
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with what it has started, which would go on downloading
        process.wait()
        return f"took more than {seconds:.0f} s"
    if process.returncode == 0:
        return "succeeded"
    lines = [line for line in (err or out).splitlines() if line.strip()]
    reason = next((line for line in lines if "rror" in line or line.startswith("E:")), lines[-1] if lines else "")
    return f"failed ({reason.strip()[:120] or process.returncode})"


if __name__ == "__main__":
    main()

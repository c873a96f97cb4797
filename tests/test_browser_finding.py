"""Which browser the tests use, and an installation that is bounded and never fails."""

import sys
import time
from pathlib import Path

import pytest

import install_browser
from browser_finding import VARIABLE, system_browser


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "chromium"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_variable_comes_before_the_path(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert system_browser() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert system_browser() == str(program)
    other = tmp_path / "other"
    other.symlink_to(program)
    stub = tmp_path / "chromium-browser"
    stub.write_text("#!/bin/sh\nexit 1\n")
    stub.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(other))
    assert system_browser() == str(other)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match="which does not run"):
        system_browser()


def test_nothing_is_installed_where_a_browser_is_found(
    program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, str(program))
    monkeypatch.setattr(install_browser, "_run", lambda *_: pytest.fail("something was run"))
    install_browser.main()
    assert capsys.readouterr().out == f"browser tests: {program}\n"


def test_a_failed_installation_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(install_browser, "_works", lambda: "")
    monkeypatch.setattr(install_browser, "_run", lambda *_: "failed (no network)")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    install_browser.main()
    assert capsys.readouterr().out == (
        "browser tests are skipped, no Chromium: playwright's download failed (no network)\n"
    )


def test_what_takes_too_long_ends_with_all_that_it_started(tmp_path: Path) -> None:
    started = tmp_path / "started"
    shell = f"sleep 60 & echo $! > {started}.new; mv {started}.new {started}; wait"
    assert install_browser._run(("sh", "-c", shell), 5) == "took more than 5 s"
    status = Path("/proc") / started.read_text().strip() / "stat"
    for _ in range(100):  # a signal takes a moment where many processes run
        if not status.exists() or status.read_text().split()[2] == "Z":
            return  # ended, perhaps not yet collected
        time.sleep(0.1)
    pytest.fail("what the command started still runs")


def test_how_a_command_ended() -> None:
    run = install_browser._run
    assert run((sys.executable, "-c", ""), 20) == "succeeded"
    assert run((sys.executable, "-c", "import sys; sys.exit('Error: no network')"), 20) == "failed (Error: no network)"
    assert run((sys.executable, "-c", "import time; time.sleep(60)"), 0.2) == "took more than 0 s"
    assert run(("no-such-program",), 20) == "failed (No such file or directory)"
    assert run((sys.executable,), -1) == "was not tried: no time left"
